"""The TTS network: a prosody planner, and an omni decoder that writes the audio codes frame by frame along the plan.

Prompt: `<|style|> <|voice|> <|sostm|>`; to the first two, the slots, vectors of this module are added.  The text reaches the
decoder at the time when it is spoken: each frame carries the planner's vectors of the phones within its 40 ms.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from solfa.omni.decoder.decoder import DecoderConfig
from solfa.omni.model.grid import Grid, TokenGrid
from solfa.omni.model.omni_model import OmniConfig, OmniModel
from solfa.omni.model.patches import LocalConfig
from solfa.tts.planner import REFERENCE_PITCH, PlannerConfig, Prediction, Prosody, ProsodyPlanner, slot_phones
from solfa.tts.style.style_encoder import Style

STYLES = (
    "rate",
    "pitch",
    "pitch_range",
    "brightness",
    "breathiness",
    "pauses",
)  # loudness is a gain, see synthesizer.py
SLOTS_PER_FRAME = 4  # 25 Hz frames, 10 ms slots


@dataclass(frozen=True)
class Voice:
    """A person who can be chosen to speak.

    The first voice of a model, `described`, is no particular person: its sound follows from gender, age and pitch alone.
    """

    name: str
    gender: float = 0.0  # -1 male .. +1 female
    age: float = 0.0  # -1 child, 0 adult, +1 old
    pitch: float = REFERENCE_PITCH  # median F0 in Hz
    about: str = ""


@dataclass(frozen=True)
class TTSConfig:
    """Sizes of the network, its voices, and the audio tokenizer whose codes it writes."""

    voices: tuple[Voice, ...] = (Voice("described"),)
    codec: str = "codec-24khz"
    codec_fingerprint: str = ""
    books: int = 8
    codebook_size: int = 1024
    patch_size: int = 4
    slot_dim: int = 96
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    patch_encoder: LocalConfig = field(default_factory=lambda: LocalConfig(layers=1))
    patch_decoder: LocalConfig = field(default_factory=lambda: LocalConfig(code_dim=128))

    @property
    def grid(self) -> TokenGrid:
        """The layout of a sequence: special tokens only in the text row, `books` rows of codes."""
        return TokenGrid(0, (self.codebook_size,) * self.books, self.patch_size)

    @property
    def omni(self) -> OmniConfig:
        """The part of the network that writes codes."""
        return OmniConfig(
            self.grid, self.decoder, self.patch_encoder, self.patch_decoder, SLOTS_PER_FRAME * self.slot_dim
        )


class Conditions(NamedTuple):
    """Who speaks and how, one row per utterance."""

    voice: Tensor  # (B,) index into the config's voices
    person: Tensor  # (B, 3): octaves of the voice's median pitch from REFERENCE_PITCH, gender, age
    style: Tensor  # (B, len(STYLES)) relative to the voice's ordinary reading
    resynthesised: Tensor  # (B,) 1 for training clips that went through a vocoder; 0 to speak


class TTSModel(nn.Module):
    """Planner and code writer with the embeddings of voices and styles that both are conditioned on."""

    def __init__(self, config: TTSConfig):
        super().__init__()
        self.config = config
        width, dim = config.planner.voice_dim, config.decoder.dim
        self.voice_embed = nn.Embedding(len(config.voices), width)
        self.person = nn.Linear(3, width)
        self.style = nn.Sequential(nn.Linear(len(STYLES) + 1, width), nn.GELU(), nn.Linear(width, width))
        self.planner = ProsodyPlanner(config.planner)
        self.slot = nn.Linear(config.planner.dim + 5, config.slot_dim)
        self.to_voice_step, self.to_style_step = nn.Linear(width, dim), nn.Linear(width, dim)
        self.omni = OmniModel(config.omni)
        nn.init.normal_(self.voice_embed.weight, std=0.3)

    def adopt_codebooks(self, codebooks: Tensor, counts: Tensor) -> None:
        """Before training: start the embeddings and heads of the codes from the audio tokenizer's own vectors.

        codebooks: the audio tokenizer's, (books, codebook_size, D); counts: (books, codebook_size).
        """
        patches = self.omni.patch_decoder
        self.omni.patch_encoder.embed.init_from_codebooks(codebooks)
        patches.embed.init_from_codebooks(codebooks)
        if self.config.patch_decoder.code_dim == codebooks.shape[-1]:
            patches.heads.init_from_codebooks(codebooks, counts)

    def embed_conditions(self, c: Conditions) -> tuple[Tensor, Tensor]:
        """-> vectors of voice and style, (B, voice_dim) each."""
        style = torch.cat([c.style, c.resynthesised[:, None]], dim=1)
        return self.voice_embed(c.voice) + self.person(c.person), self.style(style)

    def plan(self, phones: Tensor, conditions: Conditions, mask: Tensor) -> Prediction:
        """phones: (B, N) ids; mask: bool (B, N), False on padding -> distribution of the prosody of each phone."""
        voice, style = self.embed_conditions(conditions)
        return self.planner(phones, voice + style, mask)

    def frames(self, context: Tensor, prosody: Prosody, conditions: Conditions, n_frames: int) -> Tensor:
        """Each frame's conditioning along a plan: (B, n_frames, SLOTS_PER_FRAME * slot_dim)."""
        index, into = slot_phones(prosody.slots, n_frames * SLOTS_PER_FRAME)
        known = torch.isfinite(prosody.pitch)
        octaves = torch.where(known, prosody.pitch / 12, 0.0) + known * conditions.person[:, :1]
        per_phone = torch.stack([octaves, known.float(), prosody.energy / 10], dim=-1)
        features = [
            context.gather(1, index[..., None].expand(-1, -1, context.shape[-1])),
            per_phone.gather(1, index[..., None].expand(-1, -1, 3)).to(context.dtype),
            into[..., None].to(context.dtype),
            (prosody.slots.gather(1, index)[..., None] / 20).to(context.dtype),
        ]
        return rearrange(self.slot(torch.cat(features, dim=-1)), "b (f s) d -> b f (s d)", s=SLOTS_PER_FRAME)

    def prompt(self) -> Grid:
        """The steps before the audio: style, voice, start of speech to write."""
        grid = self.config.grid
        return grid.build([[grid.id(name) for name in ("<|style|>", "<|voice|>", "<|sostm|>")]], loss_from=1)

    def slot_embeds(self, conditions: Conditions, steps: int) -> Tensor:
        """(B, steps, dim) vectors to add to the slots of the prompt, zeros on the steps after."""
        voice, style = self.embed_conditions(conditions)
        slots = torch.stack([self.to_style_step(style), self.to_voice_step(voice)], dim=1)
        return torch.cat([slots, slots.new_zeros(len(slots), steps - 2, slots.shape[-1])], dim=1)


def style_vector(style: Style) -> list[float]:
    """The attributes of a style that are inputs of the network, in the order of STYLES."""
    return [getattr(style, name) for name in STYLES]
