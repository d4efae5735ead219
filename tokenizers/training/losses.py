"""Reconstruction losses of the audio tokenizer."""

import math

import torch
from torch import Tensor, nn

from solfa.core.torchaudio_functional import functional as AF
from solfa.tokenizers.audio.model.features import FLOOR

RESOLUTIONS = ((512, 64), (1024, 96), (2048, 160))  # (window, mel bands); hop = window / 4


class MultiResolutionMelLoss(nn.Module):
    """L1 between mel spectrograms at several window lengths, in two scales, down to FLOOR.

    log: quiet sounds count as much as loud ones.  power 0.3: as the ear's loudness (Zwicker), which PESQ measures.
    """

    def __init__(self, sample_rate: int):
        super().__init__()
        for window, mels in RESOLUTIONS:
            self.register_buffer(f"window{window}", torch.hann_window(window), persistent=False)
            bank = AF.melscale_fbanks(window // 2 + 1, 0.0, sample_rate / 2, mels, sample_rate)
            self.register_buffer(f"bank{window}", bank, persistent=False)

    def forward(self, guess: Tensor, truth: Tensor) -> Tensor:
        """guess, truth: (B, n) -> scalar."""
        total = guess.new_zeros(())
        both = torch.cat([guess, truth])
        for n, _ in RESOLUTIONS:
            spectrum = torch.stft(both, n, n // 4, window=getattr(self, f"window{n}"), return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()
            mel = (power.transpose(1, 2) + 1e-10).sqrt() @ getattr(self, f"bank{n}")
            a, b = (mel + FLOOR).log().chunk(2)
            total = total + (a - b).abs().mean()
            a, b = (mel + FLOOR).pow(0.3).chunk(2)
            total = total + 2 * (a - b).abs().mean() / b.mean().clamp_min(0.1)
        return total / len(RESOLUTIONS)


class AuditoryLoss(nn.Module):
    """A difference as PESQ (ITU-T P.862) rates it: of loudness in Bark bands, masked, additions weighing more than omissions.

    A difference of loudness below a quarter of the quieter of the two is masked.  What is added to the sound counts up to twelve
    times, since what is missing disturbs less.  Level alignment and equalisation of the standard are left out: a tokenizer
    should keep both.  A codec that learned from this scores better in PESQ than it sounds: judge it by other metrics as well.
    """

    BANDS, TOP = 49, 8000.0  # 0.4 Bark each, up to Hz: those of wide-band PESQ
    LEVEL = 79.0  # dB SPL at which speech is played
    window: Tensor
    bank: Tensor
    threshold: Tensor

    def __init__(self, sample_rate: int):
        super().__init__()
        self.size = round(0.016 * sample_rate) * 2  # samples of a window: 32 ms
        half = sample_rate / self.size / 2
        f = torch.arange(self.size // 2 + 1) * 2 * half
        low, high = bark((f - half).clamp_min(0)), bark(f + half)
        edges = torch.linspace(0, bark(torch.tensor(self.TOP)).item(), self.BANDS + 1)
        shared = (torch.minimum(high[:, None], edges[1:]) - torch.maximum(low[:, None], edges[:-1])).clamp_min(0)
        khz = 0.6 * torch.sinh((edges[1:] + edges[:-1]) / 12)
        silence = (
            3.64 * khz.pow(-0.8) - 6.5 * (-0.6 * (khz - 3.3).square()).exp() + 1e-3 * khz.pow(4)
        )  # dB SPL (Terhardt 1979)
        self.width = (edges[1] - edges[0]).item()  # Bark
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)
        self.register_buffer("bank", shared / (high - low)[:, None], persistent=False)
        self.register_buffer("threshold", 10 ** (silence.clamp_max(60) / 10), persistent=False)

    def forward(self, guess: Tensor, truth: Tensor) -> Tensor:
        """guess, truth: (B, n) -> scalar, about what PESQ takes off its best score."""
        spectrum = torch.stft(
            torch.cat([guess, truth]), self.size, self.size // 2, window=self.window, return_complex=True
        )
        power = (spectrum.real.square() + spectrum.imag.square()).mT @ self.bank  # (2B, T, bands)
        energy = power.chunk(2)[1].sum(-1)
        active = energy > 1e-4 * energy.amax(1, keepdim=True)
        speech = (energy * active).sum(1) / active.sum(1).clamp_min(1)
        power = power * (10 ** (self.LEVEL / 10) / speech.clamp_min(1e-6)).repeat(2)[:, None, None]
        guess_power, true_power = power.chunk(2)
        guess_loudness, true_loudness = self.loudness(power).chunk(2)
        difference = (
            (guess_loudness - true_loudness).abs() - 0.25 * torch.minimum(guess_loudness, true_loudness)
        ).clamp_min(0) * self.width
        added = ((guess_power + 50) / (true_power + 50)).pow(1.2)
        added = torch.where(added < 3, 0, added.clamp_max(12))
        tolerance = ((true_power.sum(-1) + 1e5) / 1e7).pow(0.04)  # loud stretches hide more
        both = (difference.square().sum(-1) + 1e-8).sqrt() * math.sqrt(self.BANDS) / tolerance
        more = (difference * added).sum(-1) / tolerance
        return 0.1 * self._over_time(both) + 0.0309 * self._over_time(more)

    def loudness(self, power: Tensor) -> Tensor:
        """(..., bands), 1 where a tone of 0 dB SPL would be -> sone per Bark (Zwicker & Feldtkeller 1967)."""
        above = (0.5 + 0.5 * power / self.threshold).clamp_min(1e-3).pow(0.23) - 1
        return 0.187 * (self.threshold / 0.5).pow(0.23) * above.clamp_min(0)

    @staticmethod
    def _over_time(disturbance: Tensor) -> Tensor:
        """(B, T) -> scalar; squared, so that the largest disturbances count most."""
        return (disturbance.clamp_max(45).square().mean(1) + 1e-8).sqrt().mean()


def bark(hz: Tensor) -> Tensor:
    """Frequency on the Bark scale."""
    return 6 * torch.asinh(hz / 600)
