"""What the audio tokenizer fits rather than trains: linear transforms from statistics, codebooks from the latents.

Codebooks are moving averages of what they code (VQ-VAE, arXiv 1711.00937, appendix A).  Same search as vector-quantize-pytorch's
ResidualVQ and the same update; written out because on a CPU that library's sixteen books took a third of a training step.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer, Features
from solfa.tokenizers.audio.model.quantizer import BLOCK
from solfa.tokenizers.audio.model.waveform import LATENT_UNIT, SHIFT, UNIT, WaveformBooks, fall


class Quantized(NamedTuple):
    per_book: Tensor  # (books, B, T, dim); their sum over the first k books is the reconstruction with k books
    commitment: Tensor  # scalar: mean squared distance of each book's input to its code, summed over books


class LearningQuantizer(nn.Module):
    """Residual VQ whose codebooks follow the data.  Codes that fall out of use restart at random inputs."""

    codebooks: Tensor
    counts: Tensor
    ready: Tensor

    def __init__(self, books: int, size: int, dim: int, decay: float = 0.998, dead_below: float = 0.1):
        super().__init__()
        self.decay, self.dead_below = decay, dead_below
        self.register_buffer("codebooks", torch.zeros(books, size, dim))
        self.register_buffer("counts", torch.ones(books, size))  # moving average of uses per step
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def forward(self, z: Tensor) -> Quantized:
        """z: (B, T, dim) float32; gradients reach it through the commitment only."""
        residual, vectors, commitment = z.flatten(0, 1), [], z.new_zeros(())
        if not self.ready:
            self.place(residual.detach())
        for book, counts in zip(self.codebooks, self.counts, strict=True):
            x = residual.detach()
            index = nearest(x, book)
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
    def place(self, x: Tensor, per_step: int | None = None, iterations: int = 12) -> None:
        """First codes: k-means of what the books before left over.

        x: (N, dim).  per_step: vectors that a training step will bring; default N.
        """
        for book, counts in zip(self.codebooks, self.counts, strict=True):
            counts.copy_(cluster(x, book, iterations))
            x = x - book[nearest(x, book)]
        self.counts *= (per_step or len(x)) / len(x)
        self.ready.fill_(True)


def nearest(x: Tensor, book: Tensor) -> Tensor:
    """Index of each vector's nearest code: x (N, dim), book (size, dim) -> (N,)."""
    # |x - c|^2 up to |x|^2, which does not change the nearest neighbour
    return (book.square().sum(-1) - 2 * x @ book.T).argmin(-1)


def cluster(x: Tensor, book: Tensor, iterations: int = 12) -> Tensor:
    """k-means of x (N, dim), from random ones of them, into `book` (size, dim).  -> (size,) uses of each code."""
    picks = torch.randperm(len(x), device=x.device).repeat(-(-len(book) // len(x)))
    book.copy_(x[picks[: len(book)]])
    for _ in range(iterations + 1):
        index = torch.cat([nearest(some, book) for some in x.split(BLOCK)])
        uses = torch.bincount(index, minlength=len(book))
        means = torch.zeros_like(book).index_add_(0, index, x) / uses.clamp_min(1)[:, None]
        book.copy_(torch.where(uses[:, None] > 0, means, x[torch.randint(len(x), (len(book),), device=x.device)]))
    return uses


@torch.no_grad()
def fit_transforms(model: AudioTokenizer, wav: Tensor, log_f0: Tensor, voicing: Tensor) -> None:
    """Set the linear parts from statistics of `wav` (B, n) with its measured F0 and voicing (B, T).

    Encoder and decoder: principal components of stacked features, the best linear code (Karhunen-Loeve transform).
    Vocoder: the least-squares map from features to the spectral envelope.
    """
    encoder, decoder, vocoder = model.encoder, model.decoder, model.vocoder
    spectra, _ = encoder.features(wav)
    x = Features(spectra, log_f0, voicing).audible()
    stacked = rearrange(x, "b (t s) d -> (b t) (s d)", s=encoder.stride).double()
    mean = stacked.mean(0)
    basis = torch.linalg.eigh((stacked - mean).T @ (stacked - mean)).eigenvectors.flip(1)[
        :, : model.config.codebook_dim
    ]
    encoder.transform.weight.copy_(basis.T)
    encoder.transform.bias.copy_(-mean @ basis)
    decoder.transform.weight.copy_(basis)
    decoder.transform.bias.copy_(mean)
    # Spectra alone: F0 and voicing would explain what is a matter of pulses or noise, which the network decides.
    a = torch.cat([spectra, torch.ones_like(spectra[..., :1])], dim=-1).flatten(0, 1).double()
    b = vocoder.head.levels(wav).flatten(0, 1).double()
    solution = torch.linalg.solve(a.T @ a + 1e-2 * len(a) * torch.eye(a.shape[1]).to(a), a.T @ b)
    vocoder.transform.weight.zero_()
    vocoder.transform.weight[:, : spectra.shape[-1]].copy_(solution[:-1].T)
    vocoder.transform.bias.copy_(solution[-1])


@torch.no_grad()
def fit_waveform(books: WaveformBooks, coefficients: Tensor, vectors: Tensor) -> None:
    """Prior by least squares, codebooks by k-means of what the books before left over.

    coefficients: (B, T, hop); vectors: (k, B, T, dim), what each book of the residual VQ adds to the latents.
    """
    context = books.context(vectors).flatten(0, 1)
    target = coefficients.flatten(0, 1).double().abs().pow(1 / 3) * UNIT
    ridge = 1e-4 * len(context) * LATENT_UNIT**2 * torch.eye(context.shape[1]).to(context)
    weights = torch.linalg.solve(context.T @ context + ridge, context.T @ target) * SHIFT
    books.prior.copy_(weights.round().clamp(-(1 << 15), (1 << 15) - 1))
    left, due = coefficients.flatten(0, 1).clone(), books.expect(vectors).flatten(0, 1)
    for book in books.codebooks:
        chosen, scale = books.choose(due)
        x = left.gather(1, chosen) / scale
        cluster(x, book)
        book.copy_(book.bfloat16())  # as checkpoints hold it
        index = torch.cat([nearest(some, book) for some in x.split(BLOCK)])
        left.scatter_add_(1, chosen, -book[index] * scale)
        fall(due, chosen)
