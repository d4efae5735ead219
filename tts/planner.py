"""The prosody planner: phones, voice and style -> duration, pitch and energy of each phone, and a vector of it in context.

A plan fixes the length of the speech and the time of each word before any sound is written (FastSpeech 2, arXiv
2006.04558), so that nothing is skipped, repeated or read aloud that is not text, and rate, pitch and liveliness are numbers.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOTS_PER_SECOND = 100  # durations are counted in slots of 10 ms
MAX_SLOTS = 150  # longest phone or pause
REFERENCE_PITCH = 140.0  # Hz; absolute pitch is in octaves from it


@dataclass(frozen=True)
class PlannerConfig:
    """Sizes of the planner's Transformer."""

    symbols: int = 80  # size of the phone vocabulary
    dim: int = 192
    layers: int = 4
    heads: int = 4
    ffn_dim: int = 640
    voice_dim: int = 192  # of the vector that describes voice and style


class Prosody(NamedTuple):
    """One value per phone, (B, N) each."""

    slots: Tensor  # duration in 10 ms
    pitch: Tensor  # semitones from the voice's median; NaN where unvoiced or unknown
    energy: Tensor  # dB relative to -23 dB full scale


class Prediction(NamedTuple):
    """A Gaussian per phone and kind of prosody, and the vectors that it was predicted from."""

    context: Tensor  # (B, N, dim)
    mean: Tensor  # (B, N, 3): log(1 + slots), pitch / 6, energy / 10
    log_sigma: Tensor  # (B, N, 3)


class ProsodyPlanner(nn.Module):
    """A bidirectional Transformer over phones that predicts a Gaussian for each kind of prosody."""

    def __init__(self, config: PlannerConfig):
        super().__init__()
        self.config = c = config
        self.embed = nn.Embedding(c.symbols, c.dim)
        self.near = nn.Conv1d(c.dim, c.dim, 5, padding=2)
        self.condition = nn.Linear(c.voice_dim, c.dim)
        layer = nn.TransformerEncoderLayer(
            c.dim, c.heads, c.ffn_dim, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, c.layers, nn.LayerNorm(c.dim), enable_nested_tensor=False)
        self.predict = nn.Sequential(nn.Linear(c.dim, c.dim), nn.GELU(), nn.Linear(c.dim, 6))
        nn.init.normal_(self.embed.weight, std=0.3)

    def forward(self, phones: Tensor, voice: Tensor, mask: Tensor) -> Prediction:
        """phones: (B, N) ids; voice: (B, voice_dim); mask: bool (B, N), False on padding."""
        x = self.embed(phones)
        x = x + F.gelu(self.near((x * mask[..., None]).transpose(1, 2)).transpose(1, 2)) * mask[..., None]
        x = x + self.condition(voice)[:, None] + sinusoids(x.shape[1], x.shape[2], x.device)
        context = self.encoder(x, src_key_padding_mask=~mask)
        mean, log_sigma = self.predict(context).float().chunk(2, dim=-1)
        return Prediction(context, mean, log_sigma.clamp(-3.0, 1.0))


def scaled(prosody: Prosody) -> Tensor:
    """(B, N, 3) in the scale that the planner predicts; the inverse of `unscaled`."""
    return torch.stack([(1 + prosody.slots.float()).log(), prosody.pitch / 6, prosody.energy / 10], dim=-1)


def unscaled(values: Tensor) -> Prosody:
    """Predicted values (B, N, 3) -> prosody with whole, bounded durations."""
    slots = (values[..., 0].exp() - 1).round().clamp(0, MAX_SLOTS).long()
    return Prosody(slots, 6 * values[..., 1].clamp(-4, 4), 10 * values[..., 2].clamp(-5, 2))


def loss(prediction: Prediction, truth: Prosody, mask: Tensor) -> Tensor:
    """Gaussian negative log-likelihood, mean over the values that were measured (finite, and not padding)."""
    target = scaled(truth)
    known = mask[..., None] & torch.isfinite(target)
    off = (torch.where(known, target, 0.0) - prediction.mean) * (-prediction.log_sigma).exp()
    terms = 0.5 * off.square() + prediction.log_sigma
    return (terms * known).sum() / known.sum().clamp_min(1)


def sinusoids(steps: int, dim: int, device: torch.device) -> Tensor:
    """(steps, dim) fixed positions (Attention Is All You Need, 3.5), at a tenth of their size beside the embeddings."""
    angle = torch.arange(steps, device=device)[:, None] * torch.exp(
        torch.arange(0, dim, 2, device=device) * (-math.log(10_000.0) / dim)
    )
    return 0.3 * torch.cat([angle.sin(), angle.cos()], dim=-1)


def slot_phones(slots: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """The phone that each 10 ms slot belongs to, and how far into it the slot lies.

    slots: int (B, N) -> (B, total) phone index (past the end the last one that lasts), (B, total) 0..1.
    """
    ends = slots.cumsum(1)
    at = torch.arange(total, device=slots.device).expand(len(slots), -1).contiguous()
    last = (ends < ends[:, -1:]).sum(1, keepdim=True)
    index = torch.minimum(torch.searchsorted(ends, at, right=True), last)
    length = slots.gather(1, index).clamp_min(1)
    into = (at - (ends.gather(1, index) - length) + 0.5) / length
    return index, into.clamp(0, 1)
