"""`solfa train prior`: fit the log-bilinear prior of `prior.py` to token shards, so that .sfa files become smaller.

Each book is a softmax regression by itself, fitted in floats and then rounded to the small integers that the file holds.
"""

import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from solfa.core import checkpoints
from solfa.core.errors import UserError
from solfa.core.progress import clock, track
from solfa.tokenizers.audio.container.prior import FILE, LearnedPrior, Tables, load_prior, save_prior
from solfa.tokenizers.audio.model.audio_tokenizer import KIND, AudioTokenizer
from solfa.tokenizers.datasets.commands.tokenize_corpus import CodecOption
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset

HELDOUT = 20  # one clip in so many is measured, not learned
BATCH = 256  # frames
RATE = 1e-2  # of Adam, at the first step
TYPES: dict[str, type[np.integer[Any]]] = {
    "project": np.int8, "project_shift": np.int32, "weight": np.int8, "weight_shift": np.int32, "logit_shift": np.int32, "bias": np.int16,
}  # fmt: skip


class Clips(NamedTuple):
    """Clips end to end.  codes: int64 (books, N); before: (N,) the frame before, -1 for none."""

    codes: Tensor
    before: Tensor

    @classmethod
    def joined(cls, clips: list[Tensor]) -> "Clips":
        codes = torch.cat(clips, dim=1)
        before = torch.arange(codes.shape[1]) - 1
        before[np.cumsum([0, *(clip.shape[1] for clip in clips[:-1])])] = -1
        return cls(codes, before)


class Book(NamedTuple):
    """One book's regression, of codewords and contexts as they are: logits = (E P) (W x) + b."""

    project: Tensor  # P: (D, R)
    weight: Tensor  # W: (R, 2 D + 1)
    bias: Tensor  # (size,)


def contexts(codebooks: Tensor, clips: Clips, at: Tensor, book: int, books: int) -> Tensor:
    """x of `LearnedPrior` in floats: (len(at), 2 D + 1), of files with `books` books."""
    before = clips.before[at]
    coarser = codebooks[torch.arange(book)[:, None], clips.codes[:book, at]].sum(0)
    previous = codebooks[torch.arange(books)[:, None], clips.codes[:books, before]].sum(0) * (before >= 0)[:, None]
    return torch.cat([coarser, previous, (before < 0)[:, None].float()], dim=1)


def fit_book(codebooks: Tensor, clips: Clips, book: int, lm_books: int, steps: int) -> Book:
    """Softmax regression on frames of files with `lm_books`, with all or with any other number of books in turn."""
    books, _, dim = codebooks.shape
    generator = torch.Generator().manual_seed(book)
    size = codebooks.square().mean((1, 2)).sqrt()  # of a number in each book, by which everything is scaled to about 1
    words, scale = codebooks[book] / size[book], codebooks.square().mean((1, 2)).sum().sqrt()
    # To start with, the nearer a codeword lies to half of what is expected the likelier it is, whatever its direction.
    directions = torch.linalg.eigh(words.T @ words).eigenvectors[:, -LearnedPrior.RANK :]
    near = 2.5 / words.square().sum(1).mean()
    expected = torch.cat([-0.5 * torch.eye(dim), 0.6 * torch.eye(dim), torch.zeros(dim, 1)], dim=1)
    project = directions.clone().requires_grad_()
    weight = (2 * near * scale / size[book] * directions.T @ expected).requires_grad_()
    bias = (-near * words.square().sum(1)).requires_grad_()
    optimizer = torch.optim.Adam([project, weight, bias], RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for step in range(steps):
        at = torch.randint(clips.codes.shape[1], (BATCH,), generator=generator)
        any_other = int(torch.randint(1, books + 1, (), generator=generator))
        coded_books = max(book + 1, (lm_books, books, any_other)[step % 3])
        x = contexts(codebooks, clips, at, book, coded_books)
        x[:, :-1] /= scale
        loss = F.cross_entropy((x @ weight.T) @ (words @ project).T + bias, clips.codes[book, at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    weight = weight.detach().clone()
    weight[:, :-1] /= scale
    return Book(project.detach() / size[book], weight, bias.detach())


def to_integers(codebooks: Tensor, fits: list[Book], clips: Clips) -> Tables:
    """The tables of `LearnedPrior`: each row of a matrix fills the range of its type, and contexts of `clips` that of W x."""
    unit = int(np.floor(np.log2(32767 / codebooks.abs().max().item())))
    at = torch.arange(0, clips.codes.shape[1], max(1, clips.codes.shape[1] // 4096))
    columns = []
    for book, fit in enumerate(fits):
        gain = 127 / fit.project.double().abs().amax(0)  # from E P to its integers, below
        project = (fit.project * gain).round()
        outputs = (codebooks[book].double() * 2.0**unit).round() @ project
        project_shift = (outputs.abs().amax(0) / LearnedPrior.OUTPUT).log2().ceil()
        gain *= 2.0 ** (unit - project_shift)
        hidden = (contexts(codebooks, clips, at, book, len(codebooks)) @ fit.weight.T).abs() / gain
        steps = LearnedPrior.STEPS / np.log(2)  # in a nat
        logit_shift = (LearnedPrior.HIDDEN / hidden.max() / steps).log2().floor()
        weight = fit.weight * (steps * 2.0 ** (logit_shift - unit) / gain)[:, None]
        weight_shift = (127 / weight.abs().amax(1)).log2().floor()
        bias = ((fit.bias - fit.bias.max()) * steps).round().clamp(min=-32768)
        weight = (weight * 2.0 ** weight_shift[:, None]).round()
        columns.append((project, project_shift, weight, weight_shift, logit_shift, bias))
    tables = {
        name: np.stack([value.numpy() for value in column]).astype(kind)
        for (name, kind), column in zip(TYPES.items(), zip(*columns, strict=True), strict=True)
    }
    return {**tables, "unit": np.array([unit], np.int32)}


def kbps(prior: LearnedPrior, codec: AudioTokenizer, clips: list[Tensor], books: int) -> float:
    """What the first `books` books of the clips cost, without headers."""
    bits = sum(np.log2(s.total / s.size) for clip in clips for s in prior.spans(clip[:books].numpy()))
    return float(bits / sum(clip.shape[1] for clip in clips) * codec.frame_rate / 1000)


def train(
    tokens: Annotated[Path, typer.Argument(help="A folder of token shards of this codec, with all its books.")],
    codec: CodecOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Of 256 frames, for each book.")] = 2000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the prior that the codec has.")] = False,
) -> None:
    """Learn which codes follow which, so that `solfa compress` makes smaller files.

    The prior lies in the codec's folder, as prior.safetensors.  Files that were compressed with it need it from then on.

    Examples:

        solfa train prior tokens/ --codec runs/codec/checkpoint
    """
    model = AudioTokenizer.own(codec)
    folder = checkpoints.resolve(codec, KIND)
    if not overwrite and load_prior(model, codec) is not None:
        raise UserError(
            f"{folder / FILE} fits this codec, and files may need it: give --overwrite to replace it all the same"
        )
    codebooks = model.quantizer.codebooks
    dataset = TokenDataset(tokens, fingerprint=model.fingerprint_of(len(codebooks)))
    if dataset.books < len(codebooks):
        raise UserError(
            f"{tokens} holds {dataset.books} books, but the prior needs {len(codebooks)}: tokenize without --books"
        )
    codes = [row["codes"][: len(codebooks)] for row in dataset]
    if len(codes) < 2:
        raise UserError(f"{tokens} holds {len(codes)} clip, but one to learn from and one to measure are needed")
    heldout, learned = codes[::HELDOUT], [clip for i, clip in enumerate(codes) if i % HELDOUT]
    clips = Clips.joined(learned)
    began = time.monotonic()
    fits = [
        fit_book(codebooks, clips, book, model.lm_books, steps)
        for book in track(range(len(codebooks)), "fitting", unit="books")
    ]
    prior = save_prior(folder, model, to_integers(codebooks, fits, clips))
    for books in sorted({model.lm_books, len(codebooks)}):
        coded, raw = kbps(prior, model, heldout, books), model.bitrate(books) / 1000
        print(f"{books} books: {coded:.2f} kbps of {raw:g}, on {len(heldout)} clips that were not learned from")
    print(f"{len(learned)} clips, {clock(time.monotonic() - began)} -> {folder / FILE}")
