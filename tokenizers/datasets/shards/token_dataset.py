"""Reading tokens for training: random access to the rows of Parquet shards, batches of like length, padding.

dataset = TokenDataset("tokens")
batches = LengthBuckets(dataset.frames(), batch_frames=4000)
loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=4)
"""

import bisect
import json
import math
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from solfa.core.checkpoints import same_codes
from solfa.core.errors import UserError
from solfa.tokenizers.audio.resample import RATES
from solfa.tokenizers.datasets.shards.shard_formats import DATA, EXTRA, is_json, read_header


def find_shards(folder: Path) -> list[Path]:
    """The Parquet shards of a folder of tokens, in the order of their rows."""
    return sorted((folder / DATA).glob("tokens-*.parquet"))


class TokenDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Random access to the rows of a folder of shards: dicts with codes as an int64 tensor (books, frames).

    Args:
        fingerprint: of the codec that will read the codes; None takes any.
        books: how many of the first books to give (default all).
        cache_bytes: how much of what was read is kept in memory, by each worker of a DataLoader.
        shards: those of the folder to read; default all.

    Raises: UserError for a folder without shards, damaged shards, or another codec's tokens.
    """

    def __init__(
        self, folder: str | Path, fingerprint: str | None = None, books: int | None = None, cache_bytes: int = 256 << 20,
        shards: list[Path] | None = None,
    ):  # fmt: skip
        self.folder = Path(folder)
        self.shards = find_shards(self.folder) if shards is None else shards
        if not self.shards:
            if next((self.folder / DATA).glob("*.tar"), None) or next((self.folder / DATA).rglob("*.npz"), None):
                raise UserError(f"{folder} holds tokens, but not as Parquet, which is what solfa itself reads")
            raise UserError(f"{folder} holds no token shards: make them with solfa tokenize")
        self.header = read_header(self.shards[0])
        if fingerprint is not None and not same_codes(self.header.fingerprint, fingerprint):
            raise UserError(
                f"{folder} holds tokens of codec {self.header.codec!r} (fingerprint {self.header.fingerprint}), "
                f"which this codec (fingerprint {fingerprint}) cannot read: give that codec, or tokenize again"
            )
        self.books = books or self.header.books
        if not 1 <= self.books <= self.header.books:
            raise UserError(f"{folder} holds {self.header.books} books, so {self.books} cannot be read from it")
        self._groups: list[tuple[Path, int]] = []  # (shard, row group)
        self._starts: list[int] = []  # first row of each group
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._cache_bytes, self._cached = cache_bytes, 0
        self._length = 0
        for shard in self.shards:
            if read_header(shard) != self.header:
                raise UserError(
                    f"{folder} mixes tokens of different codecs: {shard.name} differs from {self.shards[0].name}"
                )
            metadata = pq.read_metadata(shard)
            for group in range(metadata.num_row_groups):
                self._groups.append((shard, group))
                self._starts.append(self._length)
                self._length += metadata.row_group(group).num_rows

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row `index`, from the end where it is negative.  Raises: IndexError; UserError for a row without whole codes."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        group = bisect.bisect_right(self._starts, index) - 1
        table = self._read(group)
        at = index - self._starts[group]
        row: dict[str, Any] = {}
        for field, column in zip(table.schema, table.columns, strict=True):
            if field.name == "codes":
                row["codes"] = _codes(column[at].values, self.header.books)[: self.books]
            else:
                row[field.name] = _decoded(field, column[at].as_py())
        return row | json.loads(row.pop(EXTRA) or "{}")

    def column(self, name: str) -> list[Any]:
        """One column over all rows, without reading the codes; None where a row lacks it."""
        values: list[Any] = []
        for shard in self.shards:
            try:
                with pq.ParquetFile(shard) as file:
                    table = file.read([c for c in (name, EXTRA) if c in file.schema_arrow.names])
            except (pa.ArrowException, OSError):
                raise UserError(f"token shard {shard} is damaged") from None
            plain = [None] * len(table)
            if name in table.schema.names:
                field = table.schema.field(name)
                plain = [_decoded(field, value) for value in table[name].to_pylist()]
            extras = table[EXTRA].to_pylist()
            values += [json.loads(e).get(name, v) if e is not None else v for v, e in zip(plain, extras, strict=True)]
        return values

    def frames(self) -> NDArray[np.int64]:
        """(rows,) frames of each row, to batch by length."""
        return np.array(self.column("frames"), np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": OrderedDict(), "_cached": 0}  # a worker fills its own

    def _read(self, group: int) -> pa.Table:
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        shard, number = self._groups[group]
        try:
            with pq.ParquetFile(shard) as file:
                table = file.read_row_group(number, use_threads=False).combine_chunks()
        except (pa.ArrowException, OSError):
            raise UserError(f"token shard {shard} is damaged") from None
        self._cache[group] = table
        self._cached += table.nbytes
        while len(self._cache) > 1 and self._cached > self._cache_bytes:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        return table


def check_row(row: dict[str, Any]) -> None:
    """Raises: UserError for a row whose id, duration, samples or sample rate is missing or impossible."""
    if not isinstance(row.get("id"), str):
        raise UserError("it has no id")
    duration, samples, rate = row.get("duration"), row.get("samples"), row.get("sample_rate")
    if not isinstance(duration, (int, float)) or not math.isfinite(duration) or duration < 0:
        raise UserError(f"its duration is {duration}, which is no length in seconds")
    if not isinstance(samples, int) or samples < 1:
        raise UserError(f"its number of samples is {samples}")
    if not isinstance(rate, int) or rate not in RATES:
        raise UserError(f"its sample rate is {rate}; {RATES.start} to {RATES.stop - 1} Hz can be")


def _codes(lists: pa.Array | None, books: int) -> torch.Tensor:
    """A list for each book -> int64 (books, frames).  Raises: UserError where one is missing, or shorter than another."""
    if lists is None:
        raise UserError("it has no codes")
    if len(lists) != books or lists.null_count:
        raise UserError(f"it has codes of {len(lists) - lists.null_count} books, not of {books}")
    lengths = set(lists.value_lengths().to_pylist())
    if len(lengths) > 1:
        raise UserError(f"its books hold {min(lengths)} to {max(lengths)} codes, where all should hold as many")
    flat = lists.flatten()
    if flat.null_count:
        raise UserError(f"{flat.null_count} of its codes are missing")
    if not pa.types.is_integer(flat.type):
        raise UserError(f"its codes are {flat.type}, not integers")
    return torch.from_numpy(flat.to_numpy().astype(np.int64)).view(books, -1)


def _decoded(field: pa.Field, value: Any) -> Any:
    return json.loads(value) if is_json(field) and value is not None else value
