"""The quantizer while it learns: codebooks as moving averages of what they code (VQ-VAE, arXiv 1711.00937, appendix A).

Same search as vector-quantize-pytorch's ResidualVQ and the same update; written out because on a CPU that library's
sixteen books took a third of a training step.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Quantized(NamedTuple):
    per_book: Tensor  # (books, B, T, dim); their sum over the first k books is the reconstruction with k books
    commitment: Tensor  # scalar: mean squared distance of each book's input to its code, summed over books


class LearningQuantizer(nn.Module):
    """Residual VQ whose codebooks follow the data.  Codes that fall out of use restart at random inputs."""

    codebooks: Tensor
    counts: Tensor
    ready: Tensor

    def __init__(self, books: int, size: int, dim: int, decay: float = 0.98, dead_below: float = 0.1):
        super().__init__()
        self.decay, self.dead_below = decay, dead_below
        self.register_buffer("codebooks", torch.zeros(books, size, dim))
        self.register_buffer("counts", torch.ones(books, size))  # moving average of uses per step
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def forward(self, z: Tensor) -> Quantized:
        """z: (B, T, dim) float32; gradients reach it through the commitment only."""
        residual, vectors, commitment = z.flatten(0, 1), [], z.new_zeros(())
        if not self.ready:
            self._place(residual.detach())
        for book, counts in zip(self.codebooks, self.counts, strict=True):
            x = residual.detach()
            index = (book.square().sum(-1) - 2 * x @ book.T).argmin(-1)
            quantized = book[index]
            commitment = commitment + (residual - quantized).square().mean()
            if self.training:
                self._follow(book, counts, x, index)
            vectors.append(quantized)
            residual = residual - quantized
        return Quantized(torch.stack(vectors).unflatten(1, z.shape[:2]), commitment)

    @torch.no_grad()
    def _follow(self, book: Tensor, counts: Tensor, x: Tensor, index: Tensor) -> None:
        uses = torch.bincount(index, minlength=len(book)).to(counts)
        sums = torch.zeros_like(book).index_add_(0, index, x)
        blended = counts * self.decay + uses * (1 - self.decay)
        book.copy_((book * (counts * self.decay)[:, None] + sums * (1 - self.decay)) / blended.clamp_min(1e-6)[:, None])
        counts.copy_(blended)
        dead = counts < self.dead_below * len(x) / len(book)
        if dead.any():
            book[dead] = x[torch.randint(len(x), (int(dead.sum()),), device=x.device)]
            counts[dead] = len(x) / len(book)

    @torch.no_grad()
    def _place(self, x: Tensor) -> None:
        """First codes: random inputs, jittered; the moving averages and restarts do the rest."""
        for book, counts in zip(self.codebooks, self.counts, strict=True):
            picks = x[torch.randint(len(x), (len(book),), device=x.device)]
            book.copy_(picks + 0.1 * x.std() * torch.randn_like(picks))
            counts.fill_(len(x) / len(book))
            index = (book.square().sum(-1) - 2 * x @ book.T).argmin(-1)
            x = x - book[index]
        self.ready.fill_(True)
