"""What the range coder expects of the next code, as integer frequencies: bit for bit the same on every machine.

`AdaptivePrior` knows nothing and learns from the file itself; any codec can use it.  `LearnedPrior` predicts each book from
the coarser books of the same frame and from the frame before: a log-bilinear model (Mnih and Hinton 2007) over the codec's own
codebooks, fitted by `solfa train prior`.  Floats carry it, because their matrix products are fast, yet every number in it is an
integer that its type holds exactly, so nothing depends on the order of a sum.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from solfa.core import checkpoints
from solfa.core.atomic import write_bytes
from solfa.core.errors import UserError
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.container.range_coder import RangeDecoder, Span
from solfa.tokenizers.audio.model.audio_tokenizer import KIND, AudioTokenizer

FILE = "prior.safetensors"  # in the codec's checkpoint folder
LARGEST_SHIFT = 64  # powers of two, in either direction, that tables are scaled by
RARE = 256  # one part in so many is left to all codes but the likeliest, so each code costs more than 1 / 256 bit

Codes = NDArray[np.int64]
Tables = dict[str, NDArray[Any]]


class Prior(ABC):
    """Codes (books, frames) <-> spans of the range coder: frame by frame, coarse books first."""

    digest = bytes(4)  # of the numbers that a reader has to have; zeros where there are none

    @abstractmethod
    def spans(self, codes: Codes) -> Iterator[Span]:
        """Each code as a span of all that it could have been."""

    @abstractmethod
    def decode_blocks(self, decoder: RangeDecoder, books: int, sizes: Iterable[int]) -> Iterator[Codes]:
        """The codes whose spans were encoded, int64 (books, n) for each n of `sizes`, one after another."""

    def decode(self, decoder: RangeDecoder, books: int, frames: int) -> Codes:
        """All of them at once, int64 (books, frames)."""
        return next(iter(self.decode_blocks(decoder, books, [frames])))


# ---- for any codec ----------------------------------------------------------------------------------------------------


class AdaptivePrior(Prior):
    """Each book by itself: how often its codes came so far, and how often the same one twice in a row."""

    def __init__(self, codebook_sizes: Sequence[int]):
        self.codebook_sizes = codebook_sizes

    def spans(self, codes: Codes) -> Iterator[Span]:
        counts = [Counts(size) for size in self.codebook_sizes[: len(codes)]]
        for frame in codes.T.tolist():
            for seen, code in zip(counts, frame, strict=True):
                yield seen.see(code)

    def decode_blocks(self, decoder: RangeDecoder, books: int, sizes: Iterable[int]) -> Iterator[Codes]:
        counts = [Counts(size) for size in self.codebook_sizes[:books]]
        for frames in sizes:
            codes = np.empty((books, frames), np.int64)
            for frame in range(frames):
                for book, seen in enumerate(counts):
                    codes[book, frame] = seen.take(decoder)
            yield codes


class Counts:
    """Frequencies of one book's codes: a Pitman-Yor process (Teh 2006) over equal chances, and a chance of repetition."""

    DISCOUNT = 3  # quarters of a code's first occurrence that go to codes not seen yet
    STRENGTH = 512  # quarters of occurrences that equal chances weigh
    MEMORY = 1 << 14  # frames; then all counts are halved, so what is recent weighs more

    def __init__(self, size: int):
        self.ramp = np.arange(1, size + 1, dtype=np.int64)
        self.seen = np.zeros(size, np.int64)
        self.ends = self.ramp * self.STRENGTH  # where the codes' spans end, but for repetition
        self.frames = 0
        self.last, self.bonus = size - 1, 0  # the last code, and what its span has more
        self.repeats, self.steps = 1, 50  # fiftieths: two in a hundred, until the file says otherwise

    def see(self, code: int) -> Span:
        """Count the next code -> its span among all that it could have been."""
        found = span(self.ends, code)
        start, size, total = found.start, found.size, found.total + self.bonus
        if code == self.last:
            size += self.bonus
        elif code > self.last:
            start += self.bonus
        self._count(code)
        return Span(start, size, total)

    def take(self, decoder: RangeDecoder) -> int:
        """The next code, from the decoder."""
        point = decoder.point(int(self.ends[-1]) + self.bonus)
        start, size, _ = span(self.ends, self.last)
        if start <= point < start + size + self.bonus:
            code = self.last
        else:
            code = find(self.ends, point if point < start else point - self.bonus)
        decoder.take(*self.see(code)[:2])
        return code

    def _count(self, code: int) -> None:
        if self.frames:
            self.steps += 50
            self.repeats += 50 * (code == self.last)
        if not self.seen[code]:
            self.ends += self.ramp * self.DISCOUNT
        self.ends[code:] += len(self.ends) * (4 if self.seen[code] else 4 - self.DISCOUNT)
        self.seen[code] += 1
        self.frames += 1
        if self.frames == self.MEMORY:
            self.seen = (self.seen + 1) // 2
            self.frames = int(self.seen.sum())
            shares = np.maximum(4 * self.seen - self.DISCOUNT, 0) * len(self.seen)
            kinds = np.count_nonzero(self.seen)
            self.ends = np.cumsum(shares) + self.ramp * (self.STRENGTH + self.DISCOUNT * kinds)
        self.last = code
        _, size, total = span(self.ends, code)
        self.bonus = max(0, min(total * self.repeats // (self.steps - self.repeats), RARE * (total - size) - total))


# ---- for a codec that it was fitted to --------------------------------------------------------------------------------


class LearnedPrior(Prior):
    """Logits of book b = (E_b P_b) (W_b x) + bias_b over its codebook E_b, in 1/64 bit.

    x holds the sum of the frame's coarser codewords, the sum of the codewords of the frame before, and a 1 where there is none
    before.  Integers throughout: codebooks in units of 2^-unit, products divided by powers of two (`..._shift`), rounded, clipped.
    Books beyond those of the residual VQ are left to `Counts`.

    Args:
        codebooks: (books, size, D), the residual VQ's.
        codebook_sizes: of these and of all further books of the codec.
        tables: `project` int8 (books, D, R) is P; `weight` int8 (books, R, 2 D + 1) is W; `bias` int16 (books, size);
            `unit` int32 (1,); `project_shift` and `weight_shift` int32 (books, R); `logit_shift` int32 (books,).
    """

    # Limits of |E P|, of |W x| and of R: their products sum to less than 2^24, which float32 holds exactly.
    OUTPUT, HIDDEN, RANK = 255, 1023, 64
    STEPS = 64  # of a logit in one bit
    BLOCK = 512  # frames worked on at a time

    def __init__(self, codebooks: NDArray[np.float32], codebook_sizes: Sequence[int], tables: Tables):
        self.codebook_sizes = codebook_sizes
        self.tables = tables
        self.digest = digest(tables)
        unit = 2.0 ** tables["unit"][0]
        self.vectors = np.rint(codebooks.astype(np.float64) * unit)  # (books, size, D)
        self.first = unit
        self.weight = tables["weight"].astype(np.float64)
        self.weight_scale = 2.0 ** -tables["weight_shift"].astype(np.float64)
        outputs = self.vectors @ tables["project"].astype(np.float64)
        outputs = np.rint(outputs * 2.0 ** -tables["project_shift"].astype(np.float64)[:, None])
        self.outputs = np.clip(outputs, -self.OUTPUT, self.OUTPUT).astype(np.float32)  # (books, size, R)
        self.logit_scale = 2.0 ** -tables["logit_shift"].astype(np.float32)
        self.bias = tables["bias"].astype(np.float32)
        self.ramp = np.arange(1, codebooks.shape[1] + 1, dtype=np.int64)

    def ends(self, book: int, x: NDArray[np.float64]) -> NDArray[np.int64]:
        """x: (..., 2 D + 1) -> (..., size) where the codes' spans end."""
        hidden = np.clip(np.rint((x @ self.weight[book].T) * self.weight_scale[book]), -self.HIDDEN, self.HIDDEN)
        logits = np.rint((hidden.astype(np.float32) @ self.outputs[book].T) * self.logit_scale[book]) + self.bias[book]
        below = (logits.max(-1, keepdims=True) - logits).astype(np.int64)
        ends = np.cumsum(POWERS[np.minimum(below, len(POWERS) - 1)], axis=-1)
        return ends + self.ramp * (ends[..., -1:] // (len(self.ramp) * (RARE - 1)) + 1)

    def spans(self, codes: Codes) -> Iterator[Span]:
        learned = codes[: len(self.vectors)]
        further = [Counts(size) for size in self.codebook_sizes[len(learned) : len(codes)]]
        before = np.zeros((1, self.vectors.shape[2]))
        for begin in range(0, codes.shape[1], self.BLOCK):
            block = learned[:, begin : begin + self.BLOCK, None]
            words = self.vectors[np.arange(len(learned))[:, None], block[..., 0]]  # (books, n, D)
            sums = words.sum(0)
            first = np.zeros((len(sums), 1))
            first[0] = self.first if begin == 0 else 0
            coarser, previous = np.zeros_like(sums), np.concatenate([before, sums[:-1]])
            before = sums[-1:]
            spans = np.empty((len(sums), len(learned), 3), np.int64)
            for book, code in enumerate(block):
                ends = self.ends(book, np.concatenate([coarser, previous, first], axis=1))
                end = np.take_along_axis(ends, code, axis=1)
                start = np.where(code > 0, np.take_along_axis(ends, code - 1, axis=1), 0)
                spans[:, book] = np.concatenate([start, end - start, ends[:, -1:]], axis=1)
                coarser = coarser + words[book]
            for frame, learned_spans in enumerate(spans.tolist(), begin):
                yield from (Span(*numbers) for numbers in learned_spans)
                for seen, code in zip(further, codes[len(learned) :, frame].tolist(), strict=True):
                    yield seen.see(code)

    def decode_blocks(self, decoder: RangeDecoder, books: int, sizes: Iterable[int]) -> Iterator[Codes]:
        learned, dim = min(books, len(self.vectors)), self.vectors.shape[2]
        further = [Counts(size) for size in self.codebook_sizes[learned:books]]
        x = np.zeros(2 * dim + 1)
        coarser, previous = x[:dim], x[dim : 2 * dim]  # views
        x[-1] = self.first
        for frames in sizes:
            codes = np.empty((books, frames), np.int64)
            for frame in range(frames):
                coarser[:] = 0
                for book in range(learned):
                    ends = self.ends(book, x)
                    codes[book, frame] = code = find(ends, decoder.point(int(ends[-1])))
                    decoder.take(*span(ends, code)[:2])
                    coarser += self.vectors[book, code]
                previous[:] = coarser
                x[-1] = 0
                for book, seen in enumerate(further, learned):
                    codes[book, frame] = seen.take(decoder)
            yield codes


# 2^16 downwards in 1/64 bit, then nothing; none is so near to a half that a machine could round it differently
POWERS = np.array([round(2.0 ** (16 - k / LearnedPrior.STEPS)) for k in range(17 * LearnedPrior.STEPS)] + [0], np.int64)


def span(ends: NDArray[np.int64], code: int) -> Span:
    start = int(ends[code - 1]) if code else 0
    return Span(start, int(ends[code]) - start, int(ends[-1]))


def find(ends: NDArray[np.int64], point: int) -> int:
    """The code whose span holds the point."""
    return int(np.searchsorted(ends, point, side="right"))


# ---- files ------------------------------------------------------------------------------------------------------------


def digest(tables: Tables) -> bytes:
    """4 bytes over names and values."""
    state = hashlib.sha256()
    for name in sorted(tables):
        state.update(f"{name} {tables[name].dtype} {tables[name].shape}".encode() + tables[name].tobytes())
    return state.digest()[:4]


def save_prior(folder: Path, codec: AudioTokenizer, tables: Tables) -> LearnedPrior:
    """Write `prior.safetensors` into the codec's folder."""
    # safetensors writes memory as it lies
    tables = {name: np.ascontiguousarray(table) for name, table in tables.items()}
    prior = LearnedPrior(codebooks_of(codec), codec.codebook_sizes, tables)
    metadata = {"format_version": "1", "codebooks": digest({"codebooks": codebooks_of(codec)}).hex()}
    write_bytes(folder / FILE, save(tables, metadata))
    return prior


def load_prior(codec: Codec, name: str | Path | None = None) -> LearnedPrior | None:
    """The prior that lies in the codec's folder and was fitted to its codebooks, if there is one.

    name: what the codec was loaded by, as in `from_pretrained`; None is the bundled default.
    Raises: UserError for a damaged file.
    """
    if not isinstance(codec, AudioTokenizer) or not (path := checkpoints.resolve(name, KIND) / FILE).is_file():
        return None
    codebooks = codebooks_of(codec)
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get("codebooks") != digest({"codebooks": codebooks}).hex():
                return None  # left from before the codec was trained anew
            tables = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError):  # TypeError: a type that numpy does not have
        raise UserError(f"{path} is damaged or not a safetensors file") from None
    if wrong := misfit(tables, codebooks):
        raise UserError(f"{path} is no prior for this codec: {wrong}")
    return LearnedPrior(codebooks, codec.codebook_sizes, tables)


def misfit(tables: Tables, codebooks: NDArray[np.float32]) -> str | None:
    """What keeps `tables` from being those of a `LearnedPrior` over `codebooks` (books, size, D), in words."""
    books, size, dim = codebooks.shape
    width = tables["project"].shape[-1] if "project" in tables and tables["project"].ndim else 0
    kinds: dict[str, tuple[tuple[int, ...], type]] = {
        "project": ((books, dim, width), np.int8),
        "project_shift": ((books, width), np.int32),
        "weight": ((books, width, 2 * dim + 1), np.int8),
        "weight_shift": ((books, width), np.int32),
        "logit_shift": ((books,), np.int32),
        "bias": ((books, size), np.int16),
        "unit": ((1,), np.int32),
    }
    if other := sorted(tables.keys() ^ kinds.keys()):
        return f"{other[0]!r} is {'missing' if other[0] in kinds else 'not one of its tables'}"
    for name, (shape, kind) in kinds.items():
        table = tables[name]
        if table.shape != shape or table.dtype != kind:
            return f"{name!r} is {table.dtype} {table.shape} instead of {np.dtype(kind)} {shape}"
        if kind is np.int32 and np.abs(table.astype(np.int64)).max(initial=0) > LARGEST_SHIFT:
            return f"{name!r} holds a power of two beyond {LARGEST_SHIFT}"
    return None


def codebooks_of(codec: AudioTokenizer) -> NDArray[np.float32]:
    """(books, size, D) of the residual VQ, float32."""
    return codec.quantizer.codebooks.float().cpu().numpy()
