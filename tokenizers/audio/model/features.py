"""What the audio tokenizer codes: log-mel spectra at two window lengths, F0 and voicing, 100 times a second.

The spectra are measured here; F0 and voicing are estimated by the encoder from the autocorrelation measured here.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.core.torchaudio_functional import functional as AF
from solfa.tokenizers.audio.layers import linear
from solfa.tokenizers.audio.stream_state import WHOLE, Past, Stream

FLOOR = 3e-3  # mel magnitude below which nothing is audible: about one step of 16-bit audio
COARSE, FINE = 1024, 512  # window lengths in samples: long for harmonics, short for onsets
LOWEST_F0, HIGHEST_F0 = 55.0, 560.0  # Hz
MEAN_F0 = 140.0  # Hz; log F0 is relative to it
# 1 % of F0 counts like 6 dB in a band 20 dB below the loudest
LOUDNESS_SCALE, PITCH_SCALE, VOICING_SCALE = 0.35, 20.0, 0.3


def log_mel(mel: Tensor) -> Tensor:
    """Mel magnitudes (...) on a log scale, near unit scale for speech."""
    return (mel + FLOOR).log() * 0.25 + 0.5


def loudness(log_mel: Tensor) -> Tensor:
    """Cube root of magnitude, close to perceived loudness (PLP, Hermansky 1990): what codes are to be spent on.  (...) -> (...)."""
    return LOUDNESS_SCALE * ((log_mel - 0.5) * (4 / 3)).exp()


def from_loudness(x: Tensor) -> Tensor:
    """The inverse of `loudness`, down to FLOOR."""
    return (x / LOUDNESS_SCALE).clamp_min(FLOOR ** (1 / 3)).log() * 0.75 + 0.5


class Features(NamedTuple):
    """What codes stand for, one row per feature frame (100 Hz)."""

    spectra: Tensor  # (B, T, mels) log-mel, as `AcousticFeatures` gives them
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
        """The inverse of `audible`."""
        return cls(from_loudness(x[..., :-2]), x[..., -2] / PITCH_SCALE, x[..., -1] / VOICING_SCALE)


@dataclass
class FeatureState:
    """samples: (B, n) those that later frames begin with."""

    samples: Past = field(default_factory=Past)


class AcousticFeatures(nn.Module):
    """Waveform (B, n) -> spectra (B, n / hop, coarse + 2 fine mels) and autocorrelation (B, n / hop, lags).

    A frame is centred on its first sample and depends on `delay` samples past its last; in a stream it waits for them.
    """

    coarse_bank: Tensor
    coarse_window: Tensor
    fine_bank: Tensor
    fine_window: Tensor
    lags: Tensor
    log_f0: Tensor

    def __init__(self, sample_rate: int, hop: int, coarse_mels: int, fine_mels: int, pitch_bins: int):
        super().__init__()
        self.hop, self.mels = hop, coarse_mels + 2 * fine_mels
        self.delay = COARSE // 2 - hop
        for name, bins, mels in (("coarse", COARSE + 1, coarse_mels), ("fine", FINE // 2 + 1, fine_mels)):
            bank = AF.melscale_fbanks(bins, 0.0, sample_rate / 2, mels, sample_rate)
            self.register_buffer(f"{name}_bank", bank, persistent=False)
        self.register_buffer("coarse_window", torch.hann_window(COARSE), persistent=False)
        self.register_buffer("fine_window", torch.hann_window(FINE), persistent=False)
        hz = np.geomspace(LOWEST_F0, HIGHEST_F0, pitch_bins)
        at = np.arange(COARSE)
        reader = np.stack([np.interp(sample_rate / hz, at, row) for row in np.eye(COARSE)])  # lags -> log-spaced F0
        self.register_buffer("lags", torch.from_numpy(reader.astype(np.float32)), persistent=False)
        self.register_buffer("log_f0", torch.from_numpy(np.log(hz / MEAN_F0).astype(np.float32)), persistent=False)

    def forward(self, x: Tensor, stream: Stream = WHOLE) -> tuple[Tensor, Tensor]:
        if stream.ended:
            x = F.pad(x, (0, self.delay))
        state = stream.state(self, FeatureState)
        x = stream.recall(state.samples, x, zeros=COARSE // 2)
        frames = (x.shape[1] - COARSE) // self.hop + 1
        stream.keep(state.samples, x[:, frames * self.hop :])
        with torch.autocast(x.device.type, enabled=False):  # log magnitudes need more than 8 bits
            long = x.unfold(1, COARSE, self.hop) * self.coarse_window
            short = x[:, (COARSE - FINE) // 2 :].unfold(1, FINE, self.hop // 2)[:, : 2 * frames] * self.fine_window
            # Zero-padded to twice the window, so that the autocorrelation does not wrap.
            long, short = torch.fft.rfft(F.pad(long, (COARSE // 2, COARSE // 2))).abs(), torch.fft.rfft(short).abs()
            # Magnitude instead of power: formants weigh less, peaks are sharper (generalized autocorrelation, Tolonen 2000).
            correlation = torch.fft.irfft(long)[..., :COARSE]
            correlation = linear(correlation, self.lags.T) / (correlation[..., :1] + FLOOR)
            coarse, fine = log_mel(linear(long, self.coarse_bank.T)), log_mel(linear(short, self.fine_bank.T))
        return torch.cat([coarse, rearrange(fine, "b (t s) m -> b t (s m)", s=2)], -1), correlation

    def pitch(self, logits: Tensor) -> Tensor:
        """Log F0 as the mean of the bins around the likeliest (CREPE, arXiv 1802.06182).  (..., bins) -> (...)."""
        near = (torch.arange(logits.shape[-1], device=logits.device) - logits.argmax(-1, keepdim=True)).abs() <= 3
        return (logits.masked_fill(~near, -torch.inf).softmax(-1) * self.log_f0).sum(-1)
