"""Token shards: a folder of Parquet files, each whole or absent, every one naming the codec that its codes belong to.

The finished shards are the journal of a run: what they hold is done, anything else is done again, so that a killed run
continues with nothing lost and nothing doubled.  `manifest.json` and `rejects.jsonl` are summaries for people.
"""

import bisect
import dataclasses
import json
import os
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from solfa.atomic import ASIDE, make_folder, remove_folders, write_bytes
from solfa.checkpoints import agree
from solfa.errors import UserError

if sys.platform != "win32":
    import fcntl

FORMAT_VERSION = 1
PATTERN = "tokens-*.parquet"
GROUP_ROWS = 128  # rows that are read together
OWN = {
    "id": pa.string(),
    "audio": pa.string(),  # where the source was
    "duration": pa.float64(),  # seconds
    "samples": pa.int64(),  # at the source's rate
    "sample_rate": pa.int32(),  # of the source
    "speaker": pa.string(),
    "text": pa.string(),
    "codes": pa.list_(pa.int16()),  # (books, frames), flattened
    "frames": pa.int32(),
}


@dataclass(frozen=True)
class Header:
    """Whose codes these are; the same in every shard of a folder."""

    codec: str
    fingerprint: str
    sample_rate: int
    frame_rate: float
    books: int
    codebook_size: int
    format_version: int = FORMAT_VERSION


class ShardWriter:
    """Appends shards to a folder that it locks; `done` holds the ids that finished shards have already.

    Rows: the columns in `OWN`, codes as an integer array (books, frames), and any others that JSON could hold.
    Raises: UserError for a folder with another codec's tokens, one that is in use, or one that cannot be written.
    """

    def __init__(self, folder: Path, header: Header, overwrite: bool = False):
        self.folder, self.header = folder, header
        self.done: set[str] = set()
        self._seconds = 0.0
        self._rows: list[dict[str, Any]] = []
        self._schema: pa.Schema | None = None
        self._made = make_folder(folder)
        self._lock = os.open(folder, os.O_RDONLY)
        try:
            self._claim()
            self._recover(overwrite)
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    @property
    def rows(self) -> int:
        """Rows in finished shards."""
        return len(self.done)

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)

    def flush(self) -> None:
        """Write the rows added since the last flush as one shard, and the manifest."""
        if not self._rows:
            return
        assert not self.done & {row["id"] for row in self._rows}
        table = to_table(self._rows, self.header, self._schema)
        last = max(self.folder.glob(PATTERN), default=None)
        index = int(last.stem.removeprefix("tokens-")) + 1 if last else 0
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, row_group_size=GROUP_ROWS, compression="zstd")
        write_bytes(self.folder / f"tokens-{index:05}.parquet", memoryview(buffer.getvalue()))
        self._schema = self._schema or table.schema
        self.done.update(row["id"] for row in self._rows)
        self._seconds += sum(row["duration"] for row in self._rows)
        self._rows = []
        self.write_manifest(complete=False)

    def write_manifest(self, complete: bool) -> None:
        """`manifest.json`; complete: whether the run reached the end of its corpus."""
        shards = len(list(self.folder.glob(PATTERN)))
        totals = {"shards": shards, "rows": self.rows, "hours": round(self._seconds / 3600, 4), "complete": complete}
        text = json.dumps({**dataclasses.asdict(self.header), **totals}, indent=2) + "\n"
        write_bytes(self.folder / "manifest.json", text.encode())

    def write_rejects(self, rejects: list[dict[str, str]]) -> None:
        """`rejects.jsonl`: one line for each clip that could not be tokenized; no file when all could."""
        path = self.folder / "rejects.jsonl"
        if rejects:
            write_bytes(path, "".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in rejects).encode())
        else:
            path.unlink(missing_ok=True)

    def _claim(self) -> None:
        if sys.platform != "win32":
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another run is writing to {self.folder}") from None
        if not os.access(self.folder, os.W_OK):
            raise UserError(f"folder {self.folder} cannot be written: it is read-only")

    def _recover(self, overwrite: bool) -> None:
        for leftover in self.folder.glob(f"{ASIDE}*"):
            leftover.unlink()
        if overwrite:
            for name in (PATTERN, "manifest.json", "rejects.jsonl"):
                for old in self.folder.glob(name):
                    old.unlink()
        for shard in sorted(self.folder.glob(PATTERN)):
            found = read_header(shard)
            if found != self.header:
                raise UserError(
                    f"{self.folder} already holds tokens of codec {found.codec} ({found.fingerprint}, {found.books} books), "
                    f"not {self.header.codec} ({self.header.fingerprint}, {self.header.books} books): use another folder or --overwrite"
                )
            table = pq.read_table(shard, columns=["id", "duration"])
            self.done.update(table["id"].to_pylist())
            self._seconds += sum(table["duration"].to_pylist())
            self._schema = self._schema or pq.read_schema(shard)

    def _release(self) -> None:
        os.close(self._lock)
        remove_folders(self._made)  # a run that wrote nothing leaves nothing


def to_table(rows: list[dict[str, Any]], header: Header, base: pa.Schema | None) -> pa.Table:
    """Rows as one Arrow table.  Columns keep the type they have in `base` (an earlier shard) where their values fit it."""
    known = {field.name: field for field in base} if base is not None else {}
    carried = dict.fromkeys([*known, *(name for row in rows for name in row)])
    columns = [_to_array(name, [row.get(name) for row in rows], known.get(name)) for name in {**OWN, **carried}]
    schema = pa.schema([field for _, field in columns], metadata={"solfa": json.dumps(dataclasses.asdict(header))})
    return pa.Table.from_arrays([array for array, _ in columns], schema=schema)


def _to_array(name: str, values: list[Any], known: pa.Field | None) -> tuple[pa.Array, pa.Field]:
    """An array that gives the very same values back: as JSON text where Arrow has no one type for them."""
    if name in OWN:
        if name == "codes":
            values = [np.ascontiguousarray(codes, np.int16).ravel() for codes in values]
        elif OWN[name] == pa.string():  # a manifest may number its speakers, and file names need not be Unicode
            values = [None if v is None else str(v).encode("utf-8", "replace").decode() for v in values]
        return pa.array(values, OWN[name]), pa.field(name, OWN[name])
    if known is None or not is_json(known):
        try:
            array = pa.array(values, known.type if known is not None else None)
            if pa.types.is_null(array.type):
                array = array.cast(pa.string())
            if _storable(array.type) and array.to_pylist() == values:
                return array, pa.field(name, array.type)
        except (pa.ArrowException, OverflowError, UnicodeError):
            pass  # mixed types, integers beyond 64 bits, broken Unicode: JSON holds them all
    texts = [None if value is None else json.dumps(value) for value in values]
    return pa.array(texts, pa.string()), pa.field(name, pa.string(), metadata={"solfa": "json"})


def _storable(kind: pa.DataType) -> bool:
    """Parquet has no empty structs, and a list of nothing but nulls has no type that the next shard could share."""
    if pa.types.is_null(kind):
        return False
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_storable(child.type) for child in kind)
    return _storable(kind.value_type) if pa.types.is_list(kind) else True


def is_json(field: pa.Field) -> bool:
    return (field.metadata or {}).get(b"solfa") == b"json"


def read_header(shard: Path) -> Header:
    """Raises: UserError for a file that is damaged or was not written by solfa."""
    try:
        metadata = pq.read_schema(shard).metadata or {}
        header = Header(**json.loads(metadata[b"solfa"]))
    except (pa.ArrowException, OSError):
        raise UserError(f"token shard {shard} is damaged") from None
    except (KeyError, TypeError, json.JSONDecodeError):
        raise UserError(f"{shard} was not written by solfa tokenize") from None
    if header.format_version != FORMAT_VERSION:
        raise UserError(f"{shard} has format {header.format_version}; this solfa reads format {FORMAT_VERSION}")
    return header


class TokenDataset:
    """Random access to the rows of a folder of shards: dicts with codes as an int64 tensor (books, frames).

    Args:
        fingerprint: of the codec that will read the codes; None takes any.
        books: how many of the first books to give (default all).
        cache_groups: row groups (128 rows, about 1 MB) kept in memory.

    Raises: UserError for a folder without shards, damaged shards, or another codec's tokens.
    """

    def __init__(
        self, folder: str | Path, fingerprint: str | None = None, books: int | None = None, cache_groups: int = 1024
    ):
        self.folder = Path(folder)
        self.shards = sorted(self.folder.glob(PATTERN))
        if not self.shards:
            raise UserError(f"{folder} holds no token shards: make them with solfa tokenize")
        self.header = read_header(self.shards[0])
        if fingerprint is not None and not agree(self.header.fingerprint, fingerprint):
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
        self._cache_groups = cache_groups
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
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        group = bisect.bisect_right(self._starts, index) - 1
        table = self._read(group)
        at = index - self._starts[group]
        row: dict[str, Any] = {}
        for field, column in zip(table.schema, table.columns, strict=True):
            if field.name == "codes":
                codes = torch.from_numpy(column[at].values.to_numpy().astype(np.int64))
                row["codes"] = codes.view(self.header.books, -1)[: self.books]
            else:
                value = column[at].as_py()
                row[field.name] = json.loads(value) if is_json(field) and value is not None else value
        return row

    def column(self, name: str) -> list[Any]:
        """One column over all rows, without reading the codes."""
        return [value for shard in self.shards for value in _decoded(pq.read_table(shard, columns=[name]))]

    def frames(self) -> NDArray[np.int64]:
        """(rows,) frames of each row, to batch by length."""
        return np.array(self.column("frames"), np.int64)

    def _read(self, group: int) -> pa.Table:
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        shard, number = self._groups[group]
        try:
            with pq.ParquetFile(shard) as file:
                table = file.read_row_group(number).combine_chunks()
        except (pa.ArrowException, OSError):
            raise UserError(f"token shard {shard} is damaged") from None
        self._cache[group] = table
        if len(self._cache) > self._cache_groups:
            self._cache.popitem(last=False)
        return table


def _decoded(table: pa.Table) -> list[Any]:
    values = table.column(0).to_pylist()
    if is_json(table.schema.field(0)):
        return [None if value is None else json.loads(value) for value in values]
    return values
