"""Packed rows: documents of text, of audio tokens or of both, end to end in rows of a fixed number of steps.

Which documents share a row is settled once, so that little of a row is padding; every epoch shuffles the rows of each
source, and sources alternate by weight.  So row i of a run follows from the seed and i alone: a run that resumes, or is
spread over more processes, reads the same rows.  Text is UTF-8, one id a byte.
"""

import bisect
import glob
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from solfa.core.errors import UserError
from solfa.omni.model.grid import Grid, TokenGrid
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset

BYTES = 256  # text ids
OPEN_ROWS = 64  # that a document may still be put into
BLOCK = 1024  # rows in which the sources have their exact shares

TEXT_KINDS = ("lines", "files")
AUDIO_KINDS = ("audio", "speak", "transcribe")


@dataclass(frozen=True)
class SourceConfig:
    """Where documents come from.

    kind: `lines` or `files`: a document is a line, or a whole file, of the text files in `path` (a file, a folder, a glob).
        `audio`, `speak` or `transcribe`: `path` holds token shards, and a document is a clip's codes, its text and then its
        codes, or its codes and then its text; of the last two only what comes second is learned.
    weight: this source's share of the rows, relative to the others'.
    """

    path: str
    kind: str = "lines"
    weight: float = 1.0


@dataclass(frozen=True)
class Packed:
    """Rows of documents.  grid: (B, T); segments: (B, T) int64, which of its row's documents a step is of, -1 padding."""

    grid: Grid
    segments: Tensor

    def to(self, device: torch.device | str) -> "Packed":
        return Packed(self.grid.to(device), self.segments.to(device))

    def rows(self, first: int, last: int) -> "Packed":
        g = self.grid
        return Packed(Grid(g.text[first:last], g.audio[first:last], g.loss_mask[first:last]), self.segments[first:last])

    def lengths(self) -> list[int]:
        """Steps of each document."""
        return [n for row in self.segments for n in (row + 1).bincount()[1:].tolist()]


class Documents(Protocol):
    """What can be packed.  lengths: (documents,) steps of each; too_long: how many were left out as they fit no row."""

    lengths: NDArray[np.int64]
    too_long: int

    def write(self, index: int, row: Grid, start: int) -> None:
        """Put a document into a row from step `start` on; its first step predicts nothing and stays unlearned."""


class TextDocuments:
    """Lines or files as bytes, `<|bos|>` first and `<|eot|>` last; one that is longer than a row becomes several."""

    too_long = 0

    def __init__(self, config: SourceConfig, grid: TokenGrid, most_steps: int, heldout: bool = False, every: int = 0):
        self.bos, self.eot = grid.id("<|bos|>"), grid.id("<|eot|>")
        self.files = [np.memmap(p, np.uint8, "r") for p in text_files(config.path) if p.stat().st_size]
        spans = [
            np.insert(documents, 0, i, axis=1)
            for i, data in enumerate(self.files)
            for documents in (lines(data) if config.kind == "lines" else np.array([[0, len(data)]]),)
        ]
        documents = np.concatenate(spans or [np.zeros((0, 3), np.int64)])
        documents = documents[documents[:, 2] > documents[:, 1]]
        documents = documents[in_split(len(documents), heldout, every)]
        # (file, first byte, last byte, begins a document, ends one); the two marks take a step each
        n_pieces = -(-(documents[:, 2] - documents[:, 1] + 2) // most_steps)
        piece = np.arange(n_pieces.sum()) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
        file, start, end = np.repeat(documents, n_pieces, axis=0).T
        self.first, self.last = piece == 0, piece == np.repeat(n_pieces, n_pieces) - 1
        self.file = file
        self.start = np.where(self.first, start, start + piece * most_steps - 1)
        self.end = np.minimum(start + (piece + 1) * most_steps - 1, end)
        self.lengths = self.end - self.start + self.first + self.last

    def write(self, index: int, row: Grid, start: int) -> None:
        data = torch.from_numpy(np.array(self.files[self.file[index]][self.start[index] : self.end[index]], np.int64))
        end = start + int(self.lengths[index])
        row.text[start] = self.bos
        row.text[end - 1] = self.eot
        at = start + int(self.first[index])
        row.text[at : at + len(data)] = data
        row.loss_mask[start + 1 : end] = True


class AudioDocuments:
    """Clips of token shards, with or without their text; those that do not fit a row are left out."""

    MARKS = 4  # steps of a document that are neither text nor audio

    def __init__(self, config: SourceConfig, grid: TokenGrid, most_steps: int, heldout: bool = False, every: int = 0):
        self.kind, self.grid = config.kind, grid
        self.data = TokenDataset(config.path, books=grid.n_books)
        if set(grid.books) != {self.data.header.codebook_size}:
            raise UserError(
                f"{config.path} has codebooks of {self.data.header.codebook_size} codes, the model {grid.books}"
            )
        lengths = -(-self.data.frames() // grid.patch_size) + self.MARKS
        index = np.arange(len(self.data))
        if self.kind != "audio":
            texts = [text or "" for text in self.data.column("text")]
            lengths = lengths + np.array([len(text.encode()) for text in texts], np.int64)
            index = index[np.array([bool(text) for text in texts], bool)]
        fits = index[lengths[index] <= most_steps]
        self.too_long = len(index) - len(fits)
        self.index = fits[in_split(len(fits), heldout, every)]
        self.lengths = lengths[self.index]

    def write(self, index: int, row: Grid, start: int) -> None:
        clip, name = self.data[int(self.index[index])], self.grid.id
        codes, text = clip["codes"], list((clip["text"] or "").encode())
        parts, loss_from = {
            "audio": ([[name("<|bos|>"), name("<|sostm|>")], codes, [name("<|eostm|>"), name("<|eot|>")]], 0),
            "speak": ([[name("<|bos|>")], text, [name("<|sostm|>")], codes, [name("<|eostm|>"), name("<|eot|>")]], 3),
            "transcribe": (
                [[name("<|bos|>"), name("<|sosp|>")], codes, [name("<|eosp|>")], text, [name("<|eot|>")]],
                3,
            ),
        }[self.kind]
        document = self.grid.build(parts, loss_from)
        place = slice(start, start + len(document.text))
        row.text[place], row.audio[place], row.loss_mask[place] = document.text, document.audio, document.loss_mask
        row.loss_mask[start] = False


def open_source(
    config: SourceConfig, grid: TokenGrid, most_steps: int, heldout: bool = False, every: int = 0
) -> Documents:
    """Documents of at most `most_steps` steps.

    Args:
        every: one document in so many is kept to measure on; 0 keeps none.
        heldout: whether those are meant, or all the others.

    Raises: UserError for an unknown kind, an unreadable path, or audio where the model has no books.
    """
    if config.kind in TEXT_KINDS:
        return TextDocuments(config, grid, most_steps, heldout, every)
    if config.kind not in AUDIO_KINDS:
        raise UserError(f"{config.kind!r} is no kind of documents: use {', '.join(TEXT_KINDS + AUDIO_KINDS)}")
    if not grid.books:
        raise UserError(f"{config.path} holds audio tokens, but the model has no books: set books")
    return AudioDocuments(config, grid, most_steps, heldout, every)


def in_split(n: int, heldout: bool, every: int) -> NDArray[np.bool_]:
    """Which of `n` documents are held out (one in `every`), or which are not: (n,)."""
    kept = np.zeros(n, bool)
    if every:
        kept[::every] = True
    return kept == heldout


def text_files(path: str) -> list[Path]:
    """The files that `path` names: itself, the .txt files below it, or what it matches."""
    place = Path(path)
    found = (
        sorted(place.rglob("*.txt")) if place.is_dir() else [Path(p) for p in sorted(glob.glob(path, recursive=True))]
    )
    if place.is_file():
        found = [place]
    if not found:
        raise UserError(f"no text files at {path}")
    return found


def lines(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(lines, 2) first and last byte of each line, the line end not included."""
    ends = np.append(np.flatnonzero(data == 10), len(data))
    starts = np.insert(ends[:-1] + 1, 0, 0)
    ends = ends - ((ends > starts) & (data[np.maximum(ends - 1, 0)] == 13))
    return np.stack([starts, ends], 1)


def pack(lengths: NDArray[np.int64], row_steps: int, seed: int) -> list[NDArray[np.int64]]:
    """Documents -> rows of at most `row_steps` steps: in random order, each into the fullest open row that it fits."""
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (steps left, row), sorted
    for index in np.random.default_rng(seed).permutation(len(lengths)).tolist():
        n = int(lengths[index])
        at = bisect.bisect_left(open_rows, (n, -1))
        if at < len(open_rows):
            left, row = open_rows.pop(at)
            rows[row].append(index)
        else:
            left, row = row_steps, len(rows)
            rows.append([index])
            if len(open_rows) >= OPEN_ROWS:
                open_rows.pop(0)
        if left > n:
            bisect.insort(open_rows, (left - n, row))
    return [np.array(row) for row in rows]


class PackedRows:
    """The endless sequence of rows that a run reads; see the head of the file."""

    def __init__(self, grid: TokenGrid, sources: list[Documents], weights: list[float], row_steps: int, seed: int):
        """Raises: UserError for a source without documents, or weights that are not positive."""
        self.grid, self.sources, self.row_steps, self.seed = grid, sources, row_steps, seed
        if not sources or any(len(s.lengths) == 0 for s in sources):
            raise UserError(f"a source has no document of at most {row_steps} steps")
        if min(weights) <= 0:
            raise UserError(f"the weights of the sources are {weights}; each must be above 0")
        self.packed = [pack(s.lengths, row_steps, seed) for s in sources]
        shares = np.array(weights) / sum(weights) * BLOCK
        counts = np.maximum(np.floor(shares), 1).astype(int)
        while (short := BLOCK - counts.sum()) != 0:  # largest remainders
            counts[np.argmax((shares - counts) * np.sign(short))] += np.sign(short)
        self.counts = counts
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def locate(self, i: int) -> tuple[int, int]:
        """Row i of the run -> (source, row of that source)."""
        block, place = divmod(i, BLOCK)
        turns = np.repeat(np.arange(len(self.counts)), self.counts)
        turns = np.random.default_rng((self.seed, block)).permutation(turns)
        source = int(turns[place])
        number = block * int(self.counts[source]) + int((turns[:place] == source).sum())
        epoch, at = divmod(number, len(self.packed[source]))
        if self._orders.get(source, (-1,))[0] != epoch:
            order = np.random.default_rng((self.seed, source, epoch)).permutation(len(self.packed[source]))
            self._orders[source] = epoch, order
        return source, int(self._orders[source][1][at])

    def digest(self) -> str:
        """Of the lengths of all documents: another digest means other data."""
        found = hashlib.sha256()
        for source in self.sources:
            found.update(np.ascontiguousarray(source.lengths, np.int64).tobytes())
        return found.hexdigest()

    def rows(self, first: int, count: int) -> Packed:
        """Rows first..first+count-1 of the run."""
        shape, g = (count, self.row_steps), self.grid
        audio = g.empty_ids().long().expand(*shape, g.patch_size, -1).clone()
        grid = Grid(torch.full(shape, g.id("<|pad|>")), audio, torch.zeros(shape, dtype=torch.bool))
        segments = torch.full(shape, -1)
        for b in range(count):
            source, row = self.locate(first + b)
            start, documents = 0, self.sources[source]
            for number, index in enumerate(self.packed[source][row].tolist()):
                end = start + int(documents.lengths[index])
                documents.write(index, Grid(grid.text[b], grid.audio[b], grid.loss_mask[b]), start)
                segments[b, start:end] = number
                start = end
        return Packed(grid, segments)

    def filled(self) -> float:
        """The share of all steps that is not padding."""
        steps = sum(int(s.lengths.sum()) for s in self.sources)
        return steps / (self.row_steps * sum(map(len, self.packed)))
