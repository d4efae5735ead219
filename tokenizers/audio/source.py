"""The decoder's last step: an excitation whose phase is known (pulses at F0, and noise), shaped in the STFT; then the
inverse STFT.

A network trained for minutes learns magnitudes but not phase.  A harmonic-plus-noise source (as in NSF, arXiv 1810.11946, and
DDSP, arXiv 2001.04643) brings the phase of speech along; what is not a single voice goes through the noise.  All is a function of absolute sample position, so pieces computed apart join exactly.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

NOISE_PERIOD = 1 << 18  # samples until the fixed noise repeats: 11 s at 24 kHz
NOISE_LEVEL = 0.3  # standard deviation; the pulses' is 1
SILENCE = -14.0  # log gain below which a band is inaudible
TYPICAL, SPREAD = -4.0, 4.0  # log gain of speech and its range: what the network's zero and one stand for


def pulse_train(f0: Tensor, hop: int, sample_rate: int) -> Tensor:
    """Band-limited unit-variance pulses (a Dirichlet kernel along the running phase).

    f0: (B, T) Hz, one per `hop` samples -> (B, T * hop).
    """
    hz = F.interpolate(f0[:, None], scale_factor=hop, mode="linear", align_corners=False)[:, 0]
    half = torch.cumsum(math.pi / sample_rate * hz.double(), 1) % (2 * math.pi)  # float32 would drift within seconds
    harmonics = torch.floor(0.475 * sample_rate / hz.clamp_min(50.0))
    bottom = torch.sin(half)
    near_zero = bottom.abs() < 1e-4
    ratio = torch.sin((2 * harmonics + 1) * half) / torch.where(near_zero, 1.0, bottom)
    # At whole multiples of pi the kernel's limit is 2N + 1 (both signs agree, because 2N + 1 is odd).
    kernel = torch.where(near_zero, (2 * harmonics + 1).double(), ratio) - 1
    return (kernel / torch.sqrt(2 * harmonics)).float()


def fixed_noise() -> Tensor:
    """(NOISE_PERIOD,) white noise that is the same on every machine."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64(0)).standard_normal(NOISE_PERIOD, dtype=np.float32) * NOISE_LEVEL)


def band_matrix(bands: int, n_fft: int, sample_rate: int) -> Tensor:
    """(bins, bands) linear interpolation from mel-spaced band centres to STFT bins."""
    mel = np.linspace(0, 2595 * np.log10(1 + sample_rate / 2 / 700), bands)
    centres = 700 * (10 ** (mel / 2595) - 1)
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    return torch.from_numpy(np.stack([np.interp(bins, centres, row) for row in np.eye(bands)], 1).astype(np.float32))


class SourceFilterHead(nn.Module):
    """Gains -> waveform through shaped pulses and shaped noise.

    forward: gains (B, T, subframes * 2 * bands), f0 (B, T) Hz, both one per `hop` samples -> (B, T * hop) samples.
    A gain of g is a log amplitude of TYPICAL + SPREAD * g; pulses before noise.
    """

    to_bins: Tensor
    window: Tensor
    noise: Tensor

    def __init__(self, sample_rate: int, hop: int, n_fft: int, bands: int, subframes: int):
        super().__init__()
        assert hop % subframes == 0
        self.sample_rate, self.hop, self.n_fft, self.bands, self.subframes = sample_rate, hop, n_fft, bands, subframes
        self.gains = subframes * 2 * bands  # per frame
        self.register_buffer("to_bins", band_matrix(bands, n_fft, sample_rate), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("noise", fixed_noise(), persistent=False)

    def excitation(self, f0: Tensor, start: int = 0) -> tuple[Tensor, Tensor]:
        """Pulses and noise, (B, T * hop) each; in training the noise starts at a random place."""
        pulses = pulse_train(f0, self.hop, self.sample_rate)
        at = (start + torch.arange(pulses.shape[1], device=f0.device)) % NOISE_PERIOD
        return pulses, self.noise[at].expand_as(pulses)

    def forward(self, gains: Tensor, f0: Tensor) -> Tensor:
        start = int(torch.randint(NOISE_PERIOD, ())) if self.training else 0
        with torch.autocast(gains.device.type, enabled=False):
            pulses, noise = (self._stft(s) for s in self.excitation(f0, start))  # (B, bins, T * subframes + 1)
            gains = gains.unflatten(-1, (self.subframes, 2, self.bands)).flatten(1, 2)
            gains = (TYPICAL + SPREAD * gains).clamp(SILENCE, 6.0)
            gains = self._hold_last(gains @ self.to_bins.T).exp()  # (B, frames, 2, bins)
            voiced, unvoiced = gains.permute(2, 0, 3, 1)
            spectrum = pulses * voiced + noise * unvoiced
            return torch.istft(spectrum, self.n_fft, self.hop // self.subframes, window=self.window, length=f0.shape[1] * self.hop)

    @torch.no_grad()
    def levels(self, x: Tensor) -> Tensor:
        """The gains at which pulses alone, or noise alone, have the spectral envelope of `x`: (B, n) -> (B, n / hop, gains)."""
        bands = self._stft(x).abs().transpose(1, 2)[:, :-1] @ (self.to_bins / self.to_bins.sum(0))  # (B, frames, bands)
        flat = self.window.square().sum().sqrt() * torch.tensor([1.0, NOISE_LEVEL], device=x.device)  # of each source
        levels = (bands[:, :, None] / flat[:, None] + math.exp(SILENCE + 3)).log()
        return ((levels - TYPICAL) / SPREAD).unflatten(1, (-1, self.subframes)).flatten(2)

    def _stft(self, x: Tensor) -> Tensor:
        return torch.stft(x, self.n_fft, self.hop // self.subframes, window=self.window, return_complex=True, pad_mode="constant")

    @staticmethod
    def _hold_last(x: Tensor) -> Tensor:
        """A centred STFT of n hops has n + 1 frames: repeat the last one.  (B, n, ...) -> (B, n + 1, ...)."""
        return torch.cat([x, x[:, -1:]], dim=1)
