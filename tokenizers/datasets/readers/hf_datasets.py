"""Hugging Face datasets as clips: Arrow and Parquet files with a column of audio, on disk or from the hub.

The columns are read batch by batch and the audio only when a clip is opened.  The library `datasets` is not needed: its
files name their features in the schema.
"""

import datetime
import decimal
import functools
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from solfa.core.errors import UserError
from solfa.tokenizers.datasets.readers.clip import Clip, FileSlice, standard
from solfa.tokenizers.datasets.readers.manifests import AUDIO_COLUMNS, name_of, span_of

BATCH = 1024  # rows read at once, without their audio
SPLIT = re.compile(r"(?:.*-)?([\w.]+)-\d{5}-of-\d{5}")
HUB_ID = re.compile(r"(hf:)?([\w.-]+/[\w.-]+)(?:/(.+))?")


class Columns(NamedTuple):
    """audio: the column that holds it, embedded or as the path of a file; others: those that JSON can carry."""

    audio: str
    embedded: bool
    others: list[str]
    labels: dict[str, list[str]]  # names of the classes, by column

    @classmethod
    def of(cls, schema: pa.Schema) -> "Columns | None":
        """None for a table without audio."""
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info") or {}
        features = {name: f for name, f in (info.get("features") or {}).items() if isinstance(f, dict)}
        marked = [name for name, feature in features.items() if feature.get("_type") == "Audio"]
        kinds = {field.name: field.type for field in schema}
        likely = [name for name in (*AUDIO_COLUMNS, *marked) if name in kinds]
        audio = next((name for name in (*marked, *likely) if name in kinds and _binary(kinds[name])), None)
        embedded = audio is not None
        if audio is None:
            audio = next((name for name in likely if _text(kinds[name])), None)
        if audio is None:
            return None
        others = [name for name, kind in kinds.items() if name != audio and not _binary(kind)]
        labels = {name: feature["names"] for name, feature in features.items() if feature.get("names")}
        return cls(audio, embedded, others, labels)

    def rows(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        """What rows hold beside their audio, as JSON values; classes by their names."""
        rows = batch.select([name for name in self.others if name in batch.schema.names]).to_pylist()
        odd = [field.name for field in batch.schema if field.name in self.others and not _plain(field.type)]
        for row in rows:
            for name in odd:
                row[name] = _jsonable(row[name])
            for name, classes in self.labels.items():
                if isinstance(number := row.get(name), int) and 0 <= number < len(classes):
                    row[name] = classes[number]
        return rows


class AudioTable:
    """What Arrow and Parquet files have in common: `prefix` and `split` for all rows, and how a row becomes a clip."""

    def __init__(self, path: Path, columns: Columns, prefix: str = "", split: str | None = None):
        self._path, self._columns, self._prefix, self._split = path, columns, prefix, split

    def names(self) -> Iterator[str]:
        """Ids, in the order of `clips`."""
        return (clip.id for clip in self.clips())

    def clips(self) -> Iterator[Clip]:
        """A clip for each row."""
        raise NotImplementedError

    def _clip(self, row: dict[str, Any], number: int, audio: str | None, data: Any) -> Clip:
        """`audio`: the path that the row holds; `data`: of an embedded one, gives its bytes."""
        name, path = f"{self._path.stem}/{number:08}", self._path / f"{number:08}"
        if audio and data is not None:
            name, path = PurePosixPath(audio).stem, self._path / PurePosixPath(audio).name
        elif audio:
            name, path = audio, self._path.parent / Path(audio).expanduser()
        if data is None and audio:
            name = name_of(row, audio)
        elif row.get("id") not in (None, ""):
            name = str(row["id"])
        row.pop("id", None)
        span = span_of(row) if data is None else None
        if span is not None:
            row["offset"] = span[0]
        if self._split is not None:
            row.setdefault("split", self._split)
        return Clip(self._prefix + name, path, standard(row), data, span)


class ArrowTable(AudioTable):
    """A file of `save_to_disk` or of the cache: an Arrow stream, whose audio lies uncompressed at known places."""

    @classmethod
    def of(cls, path: Path, prefix: str = "") -> "ArrowTable | None":
        """None for a table without audio.  Raises: UserError for a file that is damaged."""
        with reading(path), pa.memory_map(str(path)) as file:
            columns = Columns.of(pa.ipc.open_stream(file).schema)
        return None if columns is None else cls(path, columns, prefix, _split_of(path))

    def clips(self) -> Iterator[Clip]:
        """A clip for each row, in the order of the file."""
        number = 0
        with reading(self._path), pa.memory_map(str(self._path)) as file:
            whole = file.read_buffer()
            for batch in pa.ipc.open_stream(pa.BufferReader(whole)):
                paths, slices = self._audio(batch.column(self._columns.audio), whole)
                for row, audio, data in zip(self._columns.rows(batch), paths, slices, strict=True):
                    yield self._clip(row, number, audio, data)
                    number += 1

    def _audio(self, column: pa.Array, whole: pa.Buffer) -> tuple[list[str | None], list[FileSlice | None]]:
        nothing: list[Any] = [None] * len(column)
        if not self._columns.embedded:
            return column.to_pylist(), nothing
        paths = nothing
        if pa.types.is_struct(column.type):
            if column.type.get_field_index("path") >= 0:
                paths = column.field("path").to_pylist()
            column = column.field("bytes")
        _, offsets, data = column.buffers()
        if data is None:
            return paths, nothing
        kind = np.int64 if pa.types.is_large_binary(column.type) else np.int32
        ends = np.frombuffer(offsets, kind)[column.offset : column.offset + len(column) + 1]
        start = data.address - whole.address if data.size else 0
        if not 0 <= start <= whole.size - data.size:
            raise UserError(f"{self._path} is compressed Arrow, which is not read: save it with datasets' save_to_disk")
        return paths, [
            FileSlice(self._path, start + int(a), int(b - a)) if valid else None
            for a, b, valid in zip(ends[:-1], ends[1:], column.is_valid().to_pylist(), strict=True)
        ]


class ParquetTable(AudioTable):
    """A Parquet file with its audio inside, or one that names audio files relative to itself."""

    @classmethod
    def of(cls, path: Path, prefix: str = "") -> "ParquetTable | None":
        """None for a table without audio, and for solfa's own token shards.  Raises: UserError for a damaged file."""
        with reading(path):
            schema = pq.read_schema(path)
        columns = None if b"solfa" in (schema.metadata or {}) else Columns.of(schema)
        return None if columns is None else cls(path, columns, prefix, _split_of(path))

    @property
    def embedded(self) -> bool:
        """Whether the audio is in the file, not only its name."""
        return self._columns.embedded

    def clips(self) -> Iterator[Clip]:
        """A clip for each row, in the order of the file."""
        columns, number = self._columns, 0
        with reading(self._path), pq.ParquetFile(self._path) as file:
            leaves = {file.schema.column(i).path for i in range(len(file.schema.names))}
            path = f"{columns.audio}.path" if columns.embedded else columns.audio
            wanted = [*columns.others, *({path} & leaves)]
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                inside = self._inside(file.metadata.row_group(group))
                batches = file.iter_batches(BATCH, [group], wanted) if wanted else [_bare(size)]
                at = 0
                for batch in batches:
                    audio: list[Any] = [None] * batch.num_rows
                    if path in leaves:
                        column = batch.column(columns.audio)
                        audio = (column.field("path") if columns.embedded else column).to_pylist()
                    for row, name in zip(columns.rows(batch), audio, strict=True):
                        cell = ParquetCell(self._path, group, at, columns.audio) if inside else None
                        yield self._clip(row, number, name, cell)
                        at, number = at + 1, number + 1

    def _inside(self, group: pq.RowGroupMetaData) -> bool:
        """Whether a row group holds audio, which Hugging Face leaves out where it only knows a path."""
        if not self._columns.embedded:
            return False
        chunks = map(group.column, range(group.num_columns))
        where = (f"{self._columns.audio}.bytes", self._columns.audio)
        counts = [c.statistics for c in chunks if c.path_in_schema in where]
        return not all(s is not None and s.has_null_count and s.null_count == group.num_rows for s in counts)


@dataclass(frozen=True)
class ParquetCell:
    """The audio of one row of a Parquet file; row groups are decoded whole, and the last two are kept."""

    path: Path
    group: int
    row: int  # in the group
    column: str

    def __call__(self) -> bytes:
        with _one_reader, reading(self.path):
            data = _column(self.path, self.group, self.column)[self.row].as_py()
        data = data.get("bytes") if isinstance(data, dict) else data
        if data is None:
            raise UserError(f"{self.path} has no audio in row {self.row} of row group {self.group}")
        return data


_one_reader = threading.Lock()  # or threads would all decode the same row group


@functools.lru_cache(maxsize=2)
def _column(path: Path, group: int, column: str) -> pa.ChunkedArray:
    with pq.ParquetFile(path) as file:
        leaves = {file.schema.column(i).path for i in range(len(file.schema.names))}
        return file.read_row_group(group, [f"{column}.bytes" if f"{column}.bytes" in leaves else column]).column(0)


class reading:
    """Turns what Arrow says of a damaged or missing file into a UserError."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (pa.ArrowException, OSError, json.JSONDecodeError)):
            raise UserError(f"{self._path} is damaged or cannot be read ({type(error).__name__})") from None


def _bare(rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))


def _split_of(path: Path) -> str | None:
    """As `save_to_disk`, the hub and the cache name the files of a split."""
    if (path.parent.parent / "dataset_dict.json").is_file():
        return path.parent.name
    state = path.parent / "state.json"
    if state.is_file():
        return json.loads(state.read_text(encoding="utf-8")).get("_split")
    match = SPLIT.fullmatch(path.stem)
    return match[1] if match else None


def _text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _binary(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_binary(kind.field(i).type) for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _plain(kind: pa.DataType) -> bool:
    """Whether Python's values of this type are JSON's."""
    if pa.types.is_nested(kind) and not pa.types.is_map(kind):
        return all(_plain(kind.field(i).type) for i in range(kind.num_fields))
    types = pa.types
    known = (_text, types.is_integer, types.is_float32, types.is_float64, types.is_boolean, types.is_null)
    return any(test(kind) for test in known)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (decimal.Decimal, np.floating)):
        return float(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def download(source: str) -> Path:
    """`hf:owner/name` or `hf:owner/name/FOLDER` of the hub -> the folder here, kept in the hub's cache.

    Raises: UserError when it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    match = HUB_ID.fullmatch(source)
    if match is None:
        raise UserError(f"{source!r} is no hub id: hf:owner/name, or hf:owner/name/folder for a part of it")
    _, name, folder = match.groups()
    try:
        patterns = f"{folder.rstrip('/')}/*" if folder else None
        root = snapshot_download(name, repo_type="dataset", allow_patterns=patterns)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as e:
        raise UserError(
            f"corpus {source!r} does not exist here, and no data set of that name could be had "
            f"from the Hugging Face hub ({type(e).__name__})"
        ) from e
    return Path(root, folder) if folder else Path(root)
