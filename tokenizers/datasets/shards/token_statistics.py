"""What a folder of token shards holds, counted in one pass: rows, hours, speakers, and how often each code of each book occurs.

A shard is in memory while it is read; what stays is four bytes for each row, and the counts.
"""

from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from solfa.core.errors import UserError
from solfa.core.progress import Progress
from solfa.tokenizers.datasets.shards.shard_by_shard import Damaged, shard_by_shard
from solfa.tokenizers.datasets.shards.shard_formats import EXTRA, Header, is_json
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset, check_row, find_shards

COUNT_AT_ONCE = 1 << 20  # codes
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class Column(NamedTuple):
    """type: of Arrow, or json; example: its value in the first row."""

    name: str
    type: str
    example: Any


@dataclass
class Share:
    """Of one speaker."""

    clips: int = 0
    seconds: float = 0.0


@dataclass
class TokenStatistics:
    """Entropies are those of the codes one by one: what follows from the codes before them is not counted."""

    header: Header
    shards: int
    columns: list[Column]
    counts: NDArray[np.int64]  # (books, codebook_size)
    durations: NDArray[np.float32]  # (rows,) seconds, in order
    speakers: dict[str, Share]  # most seconds first; rows without a speaker are in none
    problems: list[str] = field(default_factory=list)  # damaged shards and rows, in a sentence each

    @property
    def rows(self) -> int:
        """Those that could be read."""
        return len(self.durations)

    @property
    def seconds(self) -> float:
        """Of all of them."""
        return float(self.durations.sum(dtype=np.float64))

    @property
    def frames(self) -> int:
        """Of all of them."""
        return int(self.counts[0].sum())

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """(books, codebook_size)."""
        return self.counts / max(1, self.frames)

    @property
    def used(self) -> NDArray[np.float64]:
        """(books,) share of the codes that occur at all."""
        return (self.counts > 0).mean(axis=1)

    @property
    def entropy(self) -> NDArray[np.float64]:
        """(books,) bits per code."""
        p = self.probabilities
        return -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).sum(axis=1) + 0.0

    @property
    def perplexity(self) -> NDArray[np.float64]:
        """(books,) so many codes used equally often would have this entropy."""
        return 2**self.entropy

    @property
    def most_frequent(self) -> NDArray[np.float64]:
        """(books,) share of the most frequent code."""
        return self.probabilities.max(axis=1)

    @property
    def entropy_kbps(self) -> float:
        """What the codes would cost if each were coded by its book's frequencies."""
        return self.header.frame_rate * float(self.entropy.sum()) / 1000

    def quantiles(self) -> dict[float, float]:
        """Durations in seconds; by `QUANTILES`."""
        return dict(zip(QUANTILES, np.quantile(self.durations, QUANTILES).tolist(), strict=True)) if self.rows else {}


def gather(folder: Path) -> TokenStatistics:
    """Read all that can be read of a folder of shards; the rest is listed in `problems`.

    Raises: UserError for a folder without shards, or when none can be read.
    """
    durations = array("f")
    speakers: defaultdict[str, Share] = defaultdict(Share)
    problems: list[str] = []
    counter: _Counter | None = None
    columns: list[Column] = []
    shards = find_shards(folder)
    with Progress("reading", len(shards), "shards") as bar:
        for part in shard_by_shard(folder):
            if isinstance(part, Damaged):
                problems.append(part.reason)
            else:
                counter = counter or _Counter(part.header)
                for i in range(len(part)):
                    try:
                        row = part[i]
                        check_row(row)
                        counter.add(row["codes"].numpy())
                    except UserError as e:
                        problems.append(f"row {i} of {part.shards[0].name}: {e}")
                        continue
                    columns = columns or describe(part, row)
                    durations.append(row["duration"])
                    if row.get("speaker") is not None:
                        share = speakers[row["speaker"]]
                        share.clips, share.seconds = share.clips + 1, share.seconds + row["duration"]
            bar.advance(note=f"{len(durations)} rows")
    assert counter is not None  # `shard_by_shard` has raised otherwise
    counter.flush()
    in_order = dict(sorted(speakers.items(), key=lambda item: (-item[1].seconds, item[0])))
    seconds = np.frombuffer(durations, np.float32) if durations else np.zeros(0, np.float32)
    return TokenStatistics(counter.header, len(shards), columns, counter.counts, seconds, in_order, problems)


def describe(tokens: TokenDataset, row: dict[str, Any]) -> list[Column]:
    """The columns of a shard, and what its row has beyond them."""
    schema = pq.read_schema(tokens.shards[0])
    known = [Column(f.name, "json" if is_json(f) else str(f.type), row.get(f.name)) for f in schema if f.name != EXTRA]
    return known + [Column(name, f"in {EXTRA}", value) for name, value in row.items() if name not in schema.names]


class _Counter:
    """Counts codes, many rows at a time."""

    def __init__(self, header: Header):
        self.header = header
        self.counts = np.zeros((header.books, header.codebook_size), np.int64)
        self._waiting: list[NDArray[np.int64]] = []
        self._size = 0
        self._offsets = np.arange(header.books)[:, None] * header.codebook_size

    def add(self, codes: NDArray[np.int64]) -> None:
        """codes: (books, frames).  Raises: UserError for one outside its book."""
        if codes.size and not 0 <= codes.min() <= codes.max() < self.header.codebook_size:
            raise UserError(
                f"codes should lie in 0..{self.header.codebook_size - 1}; found {codes.min()}..{codes.max()}"
            )
        self._waiting.append((codes + self._offsets).ravel())
        self._size += codes.size
        if self._size >= COUNT_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Count what waits."""
        if self._waiting:
            self.counts += np.bincount(np.concatenate(self._waiting), minlength=self.counts.size).reshape(
                self.counts.shape
            )
        self._waiting, self._size = [], 0
