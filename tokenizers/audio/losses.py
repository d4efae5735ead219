"""Reconstruction losses of the audio tokenizer."""

import torch
import torchaudio.functional as AF
from torch import Tensor, nn

from solfa.tokenizers.audio.features import FLOOR

RESOLUTIONS = ((512, 64), (1024, 96), (2048, 160))  # (window, mel bands); hop = window / 4


class MultiResolutionMelLoss(nn.Module):
    """L1 between mel spectrograms at several window lengths, in two scales, down to FLOOR.

    log: quiet sounds count as much as loud ones.  power 0.3: as the ear's loudness (Zwicker), what PESQ listens to.
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
