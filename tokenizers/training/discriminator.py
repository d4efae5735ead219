"""Discriminators on the complex STFT at several window lengths (EnCodec, arXiv 2210.13438, sec. 3.3), kept narrow:
on short crops they cost less than the generator's own step on a CPU.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOWS = (2048, 1024, 512)


class StftDiscriminator(nn.Module):
    """(B, n) -> list of feature maps, the last one the score."""

    window: Tensor

    def __init__(self, n_fft: int, width: int = 24):
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        norm = nn.utils.parametrizations.weight_norm
        self.layers = nn.ModuleList(
            [norm(nn.Conv2d(2, width, (3, 9), padding=(1, 4), stride=(1, 2)))]
            + [norm(nn.Conv2d(width, width, (3, 9), (1, 2), (d, 4), (d, 1))) for d in (1, 2, 4)]
            + [norm(nn.Conv2d(width, width, 3, padding=1))]
        )
        self.score = norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        spectrum = torch.stft(x, self.n_fft, self.n_fft // 4, window=self.window, return_complex=True).transpose(1, 2)
        size = spectrum.abs().clamp_min(1e-6)
        # Magnitudes compressed to the power 0.3, as loudness; phases kept.
        h = torch.view_as_real(spectrum / size * size.pow(0.3)).permute(0, 3, 1, 2)
        maps = []
        for layer in self.layers:
            h = F.leaky_relu(layer(h), 0.2)
            maps.append(h)
        return [*maps, self.score(h)]


class Discriminators(nn.Module):
    """One StftDiscriminator per window length.  (B, n) -> list over windows of lists of feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(StftDiscriminator(n) for n in WINDOWS)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        return [part(x) for part in self.parts]


def discriminator_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """Hinge loss, mean over discriminators, of their feature maps of real and made sound: -> scalar."""
    terms = [
        F.relu(1 - r[-1].float()).mean() + F.relu(1 + f[-1].float()).mean() for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def generator_losses(real: list[list[Tensor]], fake: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """-> (hinge loss of the generator, relative L1 between feature maps), means over discriminators."""
    adversarial = torch.stack([-f[-1].float().mean() for f in fake]).mean()
    features = [
        (a.detach() - b).float().abs().mean() / a.detach().float().abs().mean().clamp_min(1e-3)
        for r, f in zip(real, fake, strict=True)
        for a, b in zip(r[:-1], f[:-1], strict=True)
    ]
    return adversarial, torch.stack(features).mean()
