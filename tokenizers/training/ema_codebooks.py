"""Residual vector quantization that trains: codebooks are exponential moving averages (VQ-VAE, arXiv 1711.00937, appendix A).

The same search and the same update as `ResidualVQ` of vector-quantize-pytorch, to which tests hold it equal; it is written
out because it takes a fraction of that library's time (`bench_codebooks.py`, docs/decisions.md).  With several processes,
counts and sums are of the vectors of all of them, so that their codebooks are those that one process would learn.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from solfa.tokenizers.audio.model.quantizer import BLOCK


class Quantized(NamedTuple):
    per_book: Tensor  # (books, B, T, dim); their sum over the first k books is the reconstruction with k books
    commitment: Tensor  # scalar: mean squared distance of each book's input to its code, summed over books


class EMAResidualVQ(nn.Module):
    """Residual VQ with codebooks learned by moving averages; codes that fall out of use are replaced by random inputs.

    Args:
        books, size, dim: codebooks, codes in each, numbers in a code.
        decay: of the moving averages, per step.
        dead_below: a code is dead that is used less than this share of the mean use.
    """

    codebooks: Tensor  # (books, size, dim)
    counts: Tensor  # (books, size): moving average of the uses of each code per step, in all processes together
    initialized: Tensor  # bool

    def __init__(self, books: int, size: int, dim: int, decay: float = 0.998, dead_below: float = 0.1):
        super().__init__()
        self.decay, self.dead_below = decay, dead_below
        self.register_buffer("codebooks", torch.zeros(books, size, dim))
        self.register_buffer("counts", torch.ones(books, size))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))

    def forward(self, z: Tensor) -> Quantized:
        """z: (B, T, dim) float32; gradients reach it through the commitment only.  In training mode the codebooks learn."""
        residual, vectors, commitment = z.flatten(0, 1), [], z.new_zeros(())
        if not self.initialized:
            self.kmeans_init(all_gather(residual.detach()))
        indices, inputs = [], []
        for book in self.codebooks:
            x = residual.detach()
            index = nearest(x, book)
            quantized = book[index]
            commitment = commitment + (residual - quantized).square().mean()
            indices.append(index)
            inputs.append(x)
            vectors.append(quantized)
            residual = residual - quantized
        if self.training:
            self.ema_update(inputs, indices)
        return Quantized(torch.stack(vectors).unflatten(1, z.shape[:2]), commitment)

    @torch.no_grad()
    def ema_update(self, inputs: list[Tensor], indices: list[Tensor]) -> None:
        """Move each code towards the mean of the vectors that it codes.

        inputs: of each book, (N, dim) of this process; indices: their codes, (N,).
        """
        books, size, dim = self.codebooks.shape
        statistics = self.codebooks.new_zeros(books, size, dim + 1)  # sums of vectors, and their number
        for total, x, index in zip(statistics, inputs, indices, strict=True):
            total[:, :dim] = torch.zeros_like(total[:, :dim]).index_add_(0, index, x)
            total[:, dim] = torch.bincount(index, minlength=size)
        all_reduce(statistics)
        for book, counts, total, x in zip(self.codebooks, self.counts, statistics, inputs, strict=True):
            sums, uses = total[:, :dim], total[:, dim]
            blended = counts * self.decay + uses * (1 - self.decay)
            moved = book * (counts * self.decay)[:, None] + sums * (1 - self.decay)
            book.copy_(moved / blended.clamp_min(1e-6)[:, None])
            counts.copy_(blended)
            self.replace_dead_codes(book, counts, x)

    def replace_dead_codes(self, book: Tensor, counts: Tensor, x: Tensor) -> None:
        """Codes with too few uses become random ones of this step's vectors: x (N, dim) of this process.

        They get the fewest uses that a living code has, so that one that is not used at once is replaced again.
        """
        fewest = self.dead_below * processes() * len(x) / len(book)
        dead = counts < fewest
        if dead.any():  # in every process or in none, since the counts are equal
            everything = all_gather(x)
            picks = torch.randint(len(everything), (int(dead.sum()),), device=x.device)
            book[dead] = everything[broadcast(picks)]
            counts[dead] = fewest

    @torch.no_grad()
    def kmeans_init(self, x: Tensor, per_step: int | None = None, iterations: int = 12) -> None:
        """First codebooks: k-means of what the books before left over.

        x: (N, dim), the same in all processes.  per_step: vectors that a step of all processes will bring; default N.
        """
        for book, counts in zip(self.codebooks, self.counts, strict=True):
            counts.copy_(kmeans(x, book, iterations))
            x = x - book[nearest(x, book)]
        self.counts *= (per_step or len(x)) / len(x)
        self.initialized.fill_(True)
        broadcast(self.codebooks)  # the processes' random numbers differ
        broadcast(self.counts)


def processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce(x: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if processes() > 1:
        dist.all_reduce(x)
    return x


def all_gather(x: Tensor) -> Tensor:
    """(N, ...) of each process -> (processes * N, ...), in the order of their ranks."""
    if processes() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(processes())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def broadcast(x: Tensor) -> Tensor:
    """The first process's, in place."""
    if processes() > 1:
        dist.broadcast(x, 0)
    return x


def nearest(x: Tensor, book: Tensor) -> Tensor:
    """Index of each vector's nearest code: x (N, dim), book (size, dim) -> (N,)."""
    # |x - c|^2 up to |x|^2, which does not change the nearest neighbour
    return (book.square().sum(-1) - 2 * x @ book.T).argmin(-1)


def kmeans(x: Tensor, book: Tensor, iterations: int = 12) -> Tensor:
    """k-means of x (N, dim), from random ones of them, into `book` (size, dim).  -> (size,) uses of each code."""
    picks = torch.randperm(len(x), device=x.device).repeat(-(-len(book) // len(x)))
    book.copy_(x[picks[: len(book)]])
    for _ in range(iterations + 1):
        index = torch.cat([nearest(some, book) for some in x.split(BLOCK)])
        uses = torch.bincount(index, minlength=len(book))
        means = torch.zeros_like(book).index_add_(0, index, x) / uses.clamp_min(1)[:, None]
        book.copy_(torch.where(uses[:, None] > 0, means, x[torch.randint(len(x), (len(book),), device=x.device)]))
    return uses
