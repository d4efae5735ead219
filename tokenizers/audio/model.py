"""The audio tokenizer: 24 kHz mono waveform <-> residual-VQ codes at 25 frames per second.

waveform -> acoustic features at 100 Hz (`features.py`) -> Encoder, 25 Hz latents -> residual VQ -> Decoder -> features
-> Vocoder: a harmonic-plus-noise source shaped in the STFT (`source.py`) -> waveform.

Every layer is causal, except that encoder and decoder each look one code frame ahead, the vocoder one feature frame, and what
their STFT windows reach.  With the default hops a code hears 1232 samples past the end of its frame, and changes no sample
earlier than 1575 before its start.  The first `lm_books` books are what language models speak; all of them sound best.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from solfa import checkpoints, recipe
from solfa.tokenizers.audio.blocks import ConvBlock, Correction, TransformerBlock
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.features import (
    MEAN_F0,
    PITCH_SCALE,
    VOICING_SCALE,
    AcousticFeatures,
    from_loudness,
    loudness,
)
from solfa.tokenizers.audio.quantizer import ResidualQuantizer
from solfa.tokenizers.audio.source import SourceFilterHead

KIND = "audio_tokenizer"


@dataclass(frozen=True)
class AudioTokenizerConfig:
    """The default is the bundled checkpoint `codec-24khz`."""

    sample_rate: int = 24_000
    feature_hop: int = 240  # samples per feature frame: 100 Hz
    stride: int = 4  # feature frames per code frame: 25 Hz
    books: int = 16
    lm_books: int = 8  # 8 books x 10 bits x 25 Hz = 2 kbps
    codebook_size: int = 1024
    codebook_dim: int = 128
    beam: int = 3  # partial sums that the search for codes keeps
    dim: int = 256  # width at 100 Hz
    frame_dim: int = 384  # width at 25 Hz
    heads: int = 6
    window: int = 50  # frames: 2 s
    encoder_blocks: int = 3
    encoder_layers: int = 1
    decoder_layers: int = 2
    decoder_blocks: int = 3
    vocoder_blocks: int = 4
    mels: int = 100  # of the coarse spectrogram (1024-sample window)
    fine_mels: int = 60  # of the fine one (512-sample window, twice per feature frame)
    pitch_bins: int = 96
    bands: int = 80  # of the filters that shape pulses and noise
    subframes: int = 2  # filters per feature frame: 200 Hz
    head_n_fft: int = 512

    @property
    def hop(self) -> int:  # samples per code frame
        return self.feature_hop * self.stride

    @property
    def frame_rate(self) -> float:  # code frames per second
        return self.sample_rate / self.hop


class Features(NamedTuple):
    """What codes stand for, one row per feature frame (100 Hz)."""

    spectra: Tensor  # (B, T, mels) log-mel, see `features.py`
    log_f0: Tensor  # (B, T), relative to MEAN_F0; a guess where unvoiced
    voicing: Tensor  # (B, T), 0 to 1

    def stacked(self) -> Tensor:
        """(B, T, mels + 2), all in one tensor."""
        return torch.cat([self.spectra, self.log_f0[..., None], self.voicing[..., None]], dim=-1)

    def audible(self) -> Tensor:
        """(B, T, mels + 2), scaled so that equal errors are about equally audible."""
        return Features(loudness(self.spectra), PITCH_SCALE * self.log_f0, VOICING_SCALE * self.voicing).stacked()

    @classmethod
    def from_audible(cls, x: Tensor) -> "Features":
        return cls(from_loudness(x[..., :-2]), x[..., -2] / PITCH_SCALE, x[..., -1] / VOICING_SCALE)


def with_next(x: Tensor) -> Tensor:
    """Each frame beside the one after it, the only look-ahead there is: (B, T + 1, D) -> (B, T, 2 D)."""
    return torch.cat([x[:, :-1], x[:, 1:]], dim=-1)


class Encoder(nn.Module):
    """Waveform -> latents: a linear transform of the features, and a network's correction to it.

    The transform starts as the features' principal components (`learning.fit_transforms`), so that the codec works before it
    has learned anything; the network learns what is better.
    """

    def __init__(self, c: AudioTokenizerConfig):
        super().__init__()
        self.hop, self.stride = c.hop, c.stride
        self.features = AcousticFeatures(c.sample_rate, c.feature_hop, c.mels, c.fine_mels, c.pitch_bins)
        self.enter = nn.Linear(self.features.mels + c.pitch_bins, c.dim)
        self.conv = nn.Sequential(*(ConvBlock(c.dim, 2**i) for i in range(c.encoder_blocks)))
        self.pitch = nn.Linear(c.dim + c.pitch_bins, c.pitch_bins + 1)  # logits of F0, and of voicing
        self.down = nn.Linear(2 * c.stride * c.dim, c.frame_dim)
        self.attention = nn.Sequential(*(TransformerBlock(c.frame_dim, c.heads, c.window) for _ in range(c.encoder_layers)))
        self.transform = nn.Linear(c.stride * (self.features.mels + 2), c.codebook_dim)
        self.leave = Correction(c.frame_dim, c.codebook_dim)

    def forward(self, x: Tensor, known: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Features, Tensor]:
        """x: (B, frames * hop) -> latents (B, frames, codebook_dim), features heard, logits of F0 and voicing.

        `known`: measured log F0 and voicing, (B, T) each, to use in place of the estimate.
        """
        spectra, correlation = self.features(F.pad(x, (0, self.hop)))  # a frame of silence for the last one to look at
        h = self.conv(self.enter(torch.cat([spectra, correlation], dim=-1)))
        logits = self.pitch(torch.cat([h, correlation.to(h.dtype)], dim=-1)).float()
        steps = spectra.shape[1] - self.stride
        heard = Features(spectra, self.features.pitch(logits[..., :-1]).detach(), logits[..., -1].sigmoid().detach())
        heard = Features(*(s[:, :steps] for s in heard))
        if known is not None:
            heard = Features(heard.spectra, *known)
        h = self.down(with_next(rearrange(h, "b (t s) d -> b t (s d)", s=self.stride)))
        with torch.autocast(x.device.type, enabled=False):
            z = self.transform(rearrange(heard.audible(), "b (t s) d -> b t (s d)", s=self.stride))
        return z + self.leave(self.attention(h)).float(), heard, logits[:, :steps]


class Decoder(nn.Module):
    """Latents -> features: the transform back, and a network's correction.  (B, frames, codebook_dim) -> Features."""

    def __init__(self, c: AudioTokenizerConfig):
        super().__init__()
        self.stride, size = c.stride, c.mels + 2 * c.fine_mels + 2
        self.transform = nn.Linear(c.codebook_dim, c.stride * size)
        self.enter = nn.Linear(2 * c.codebook_dim, c.frame_dim)
        self.attention = nn.Sequential(*(TransformerBlock(c.frame_dim, c.heads, c.window) for _ in range(c.decoder_layers)))
        self.up = nn.Linear(c.frame_dim, c.stride * c.dim)
        self.conv = nn.Sequential(*(ConvBlock(c.dim, 2**i) for i in range(c.decoder_blocks)))
        self.leave = Correction(c.dim, size)

    def forward(self, z: Tensor) -> Features:
        h = self.up(self.attention(self.enter(with_next(F.pad(z, (0, 0, 0, 1))))))
        h = self.leave(self.conv(rearrange(h, "b t (s d) -> b (t s) d", s=self.stride)))
        with torch.autocast(z.device.type, enabled=False):
            base = rearrange(self.transform(z), "b t (s d) -> b (t s) d", s=self.stride)
        return Features.from_audible(base + h.float())


class Vocoder(nn.Module):
    """Features -> waveform (B, T * feature_hop): gains of pulses and noise, linear in the features plus a network's correction."""

    def __init__(self, c: AudioTokenizerConfig):
        super().__init__()
        size = c.mels + 2 * c.fine_mels + 2
        self.head = SourceFilterHead(c.sample_rate, c.feature_hop, c.head_n_fft, c.bands, c.subframes)
        self.transform = nn.Linear(size, self.head.gains)
        self.enter = nn.Linear(2 * size, c.dim)
        self.conv = nn.Sequential(*(ConvBlock(c.dim, 2 ** (i % 3)) for i in range(c.vocoder_blocks)))
        self.leave = Correction(c.dim, self.head.gains)

    def forward(self, features: Features) -> Tensor:
        x = features.stacked()
        h = self.leave(self.conv(self.enter(with_next(torch.cat([x, x[:, -1:]], dim=1)))))
        with torch.autocast(x.device.type, enabled=False):
            gains = self.transform(x) + h.float()
        return self.head(gains, MEAN_F0 * features.log_f0.clamp(-1.0, 1.4).exp())  # 50 to 570 Hz


class AudioTokenizer(Codec):
    """Waveform <-> codes.  `encode` and `decode` are the public pair; the parts serve training."""

    def __init__(self, config: AudioTokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = ResidualQuantizer(config.books, config.codebook_size, config.codebook_dim, config.beam, (config.lm_books,))
        self.decoder = Decoder(config)
        self.vocoder = Vocoder(config)

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def hop(self) -> int:
        return self.config.hop

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.config.codebook_size,) * self.config.books

    @property
    def lm_books(self) -> int:
        return self.config.lm_books

    def _encode(self, x: Tensor, books: int) -> Tensor:
        return self.quantizer.encode(self.encoder(x)[0], books)

    def _decode(self, codes: Tensor) -> Tensor:
        return self.vocoder(self.decoder(self.quantizer.decode(codes)))

    # ---- files ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None) -> "AudioTokenizer":
        """A bundled name, a folder or a hub id; None is the bundled default.  Returned in evaluation mode."""
        folder = checkpoints.resolve(name, KIND)
        values, tensors = checkpoints.load(folder, KIND)
        model = cls(recipe.build(AudioTokenizerConfig, values, str(folder / "config.json")))
        checkpoints.load_into(model, tensors, folder)
        model.name = folder.name
        # What decides codes; so a better decoder keeps the tokens that exist.
        model.fingerprint = checkpoints.fingerprint({k: v for k, v in tensors.items() if k.startswith(("encoder.", "quantizer."))})
        return model.eval()

    def save_pretrained(self, folder: Path) -> None:
        checkpoints.save(folder, KIND, dataclasses.asdict(self.config), self.state_dict())

