"""What token files look like inside: Parquet shards, WebDataset shards (tar) and .npz files, one per clip.

All hold the same rows, each with the header of the codec that its codes belong to.  When which file is written, and
how a stopped run goes on, is not known here (`shards.py`).
"""

import dataclasses
import io
import json
import re
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import DTypeLike, NDArray

from solfa.core.atomic import write_bytes
from solfa.core.errors import UserError
from solfa.tokenizers.datasets.shards.folder_locks import FolderLock

FORMAT_VERSION = 2
DATA = "data"  # the folder in a folder of tokens that holds the finished files and nothing else
MERGING = ".merging"  # the lock on what all writers to a folder share
WAITING = 16  # files that are flushed to disk at once
GROUP_ROWS = 128  # rows of a Parquet shard that are read together
OWN: dict[str, pa.DataType | None] = {
    "id": pa.string(),
    "audio": pa.string(),  # where the source was
    "duration": pa.float64(),  # seconds
    "samples": pa.int64(),  # at the source's rate
    "sample_rate": pa.int32(),  # of the source
    "speaker": pa.string(),
    "text": pa.string(),
    "frames": pa.int32(),
    "codes": None,  # one list of `frames` integers for each book: see `codes_type`
}
EXTRA = "extra"  # JSON object: what came with a row and fits no column of the first shard


@dataclass(frozen=True)
class Header:
    """Whose codes these are; the same in every file of a folder.  codebook_size: of the largest book."""

    codec: str
    fingerprint: str
    sample_rate: int
    frame_rate: float
    books: int
    codebook_size: int
    format_version: int = FORMAT_VERSION

    @property
    def kbps(self) -> float:
        """Of the plain codes."""
        return self.frame_rate * self.books * np.log2(self.codebook_size).item() / 1000

    def dumps(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def loads(text: str | bytes, path: Path) -> "Header":
        """Raises: UserError when solfa did not write it, or an older or newer one did."""
        try:
            values = json.loads(text)
            version = values["format_version"]
            if version != FORMAT_VERSION:
                raise UserError(
                    f"{path} has format {version}; this solfa reads format {FORMAT_VERSION}: tokenize again"
                )
            return Header(**values)
        except (KeyError, TypeError, json.JSONDecodeError):
            raise UserError(f"{path} was not written by solfa tokenize") from None


class Format(Protocol):
    """One way to lay out the rows.  `folder` is that of the tokens; finished files lie in its subfolder `data`.

    Any number of processes may write, each with a `part` of its own, which stands in the names of its shards.
    """

    header: Header

    def files(self) -> list[Path]:
        """The finished files."""

    def write(self, rows: list[dict[str, Any]], part: str, instead: Path | None = None) -> list[Path]:
        """Add rows; -> the new files, each of which appears whole or not at all.  Raises: UserError when that fails.

        instead: the file that begins with these rows, which the new one replaces.
        """

    def read_all(self, path: Path) -> list[dict[str, Any]]:
        """The rows of a file as they were written, with their codes.  Raises: UserError if it is damaged."""

    def read(self, path: Path, columns: list[str]) -> tuple[Header, list[dict[str, Any]]]:
        """The header and the named columns (None where a row lacks one) of a file.  Raises: UserError if it is damaged."""


class ParquetShards:
    """`data/tokens-00000.parquet`, ...: all of one schema, which the first shard of a folder sets."""

    def __init__(self, folder: Path, header: Header):
        self.folder, self.header = folder, header
        self._schema: pa.Schema | None = None

    def files(self) -> list[Path]:
        """As in `Format`."""
        return sorted((self.folder / DATA).glob("tokens-*.parquet"))

    def write(self, rows: list[dict[str, Any]], part: str, instead: Path | None = None) -> list[Path]:
        """As in `Format`."""
        if self._schema is None or instead is not None:
            with FolderLock(self.folder / MERGING):  # of several processes that begin together, one sets the schema
                others = [path for path in self.files() if path != instead]
                if not others:
                    return self._write(rows, part, infer_schema(rows, self.header), instead)
                self._schema = pq.read_schema(others[0])
        return self._write(rows, part, self._schema, instead)

    def _write(self, rows: list[dict[str, Any]], part: str, schema: pa.Schema, instead: Path | None) -> list[Path]:
        buffer = pa.BufferOutputStream()
        pq.write_table(to_table(rows, schema), buffer, row_group_size=GROUP_ROWS, compression="zstd")
        path = instead or next_shard(self.folder, part, ".parquet")
        write_bytes(path, memoryview(buffer.getvalue()), self.folder)
        self._schema = schema
        return [path]

    def read(self, path: Path, columns: list[str]) -> tuple[Header, list[dict[str, Any]]]:
        """As in `Format`."""
        header = read_header(path)
        try:
            there = pq.read_schema(path).names
            extra = [EXTRA] if EXTRA in there and not set(columns) <= set(there) else []
            table = pq.read_table(path, columns=[n for n in columns if n in there] + extra, partitioning=None)
            rows = [row | json.loads(row.get(EXTRA) or "{}") for row in table.to_pylist()]
        except (pa.ArrowException, OSError, ValueError, TypeError):
            raise UserError(f"token shard {path} is damaged") from None
        return header, [{name: row.get(name) for name in columns} for row in rows]

    def read_all(self, path: Path) -> list[dict[str, Any]]:
        """As in `Format`."""
        from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset  # which reads what this module writes

        return [{**row, "codes": row["codes"].numpy()} for row in TokenDataset(self.folder, shards=[path])]


class WebDatasetShards:
    """`data/tokens-00000.tar`, ...: for each clip KEY.npy (books, frames) and KEY.json (the rest of the row).

    KEY is the id with the dots and percent signs of its last part as %2E and %25, because readers cut at the first dot.
    """

    def __init__(self, folder: Path, header: Header):
        self.folder, self.header = folder, header

    def files(self) -> list[Path]:
        """As in `Format`."""
        return sorted((self.folder / DATA).glob("tokens-*.tar"))

    def write(self, rows: list[dict[str, Any]], part: str, instead: Path | None = None) -> list[Path]:
        """As in `Format`."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for row in rows:
                parent, slash, name = str(row["id"]).rpartition("/")
                key = parent + slash + name.replace("%", "%25").replace(".", "%2E")
                codes = io.BytesIO()
                np.save(codes, narrow(row["codes"], self.header))
                for suffix, data in (("npy", codes.getvalue()), ("json", metadata(row, self.header).encode())):
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        path = instead or next_shard(self.folder, part, ".tar")
        write_bytes(path, buffer.getbuffer(), self.folder)
        return [path]

    def read(self, path: Path, columns: list[str]) -> tuple[Header, list[dict[str, Any]]]:
        """As in `Format`."""
        found = self._rows(path)
        header = Header.loads(json.dumps(found[0].get("solfa")), path)
        return header, [{name: row.get(name) for name in columns} for row in found]

    def read_all(self, path: Path) -> list[dict[str, Any]]:
        """As in `Format`."""
        rows = self._rows(path)
        try:
            with tarfile.open(path, "r:") as tar:
                arrays = [tar.extractfile(member) for member in tar if member.name.endswith(".npy")]
                codes = [np.load(io.BytesIO(file.read())).astype(np.int64) for file in arrays if file]
        except (tarfile.TarError, OSError, ValueError, EOFError):
            raise UserError(f"token shard {path} is damaged") from None
        whole = zip(rows, codes, strict=True)
        return [{**{k: v for k, v in row.items() if k != "solfa"}, "codes": array} for row, array in whole]

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        """All of its rows but the codes, at least one.  Raises: UserError if it is damaged."""
        rows = []
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if member.name.endswith(".json"):
                        file = tar.extractfile(member)
                        rows.append(dict(json.loads(file.read())) if file else {})
        except (tarfile.TarError, OSError, ValueError, TypeError):
            raise UserError(f"token shard {path} is damaged") from None
        if not rows:
            raise UserError(f"{path} was not written by solfa tokenize")
        return rows


class NpzClips:
    """`data/ID.npz` for each clip: `codes` (books, frames), and `metadata`, the rest of the row as JSON text."""

    def __init__(self, folder: Path, header: Header):
        self.folder, self.header = folder, header

    def files(self) -> list[Path]:
        """As in `Format`."""
        return sorted((self.folder / DATA).rglob("*.npz"))

    def write(self, rows: list[dict[str, Any]], part: str, instead: Path | None = None) -> list[Path]:
        """As in `Format`."""

        def write(row: dict[str, Any]) -> Path:
            path = self.folder / DATA / f"{row['id']}.npz"
            buffer = io.BytesIO()
            np.savez(buffer, codes=narrow(row["codes"], self.header), metadata=np.array(metadata(row, self.header)))
            write_bytes(path, buffer.getbuffer(), self.folder)
            return path

        with ThreadPoolExecutor(WAITING) as pool:  # nearly all the time goes to waiting for the disk
            return list(pool.map(write, rows))

    def read(self, path: Path, columns: list[str]) -> tuple[Header, list[dict[str, Any]]]:
        """As in `Format`."""
        try:
            with np.load(path) as arrays:
                row = dict(json.loads(str(arrays["metadata"])))
        except KeyError:
            raise UserError(f"{path} was not written by solfa tokenize") from None
        except (zipfile.BadZipFile, OSError, ValueError, TypeError, EOFError):
            raise UserError(f"{path} is damaged") from None
        return Header.loads(json.dumps(row.get("solfa")), path), [{name: row.get(name) for name in columns}]

    def read_all(self, path: Path) -> list[dict[str, Any]]:
        """As in `Format`."""
        return []  # a file is a clip, and never grows


FORMATS: dict[str, type[ParquetShards] | type[WebDatasetShards] | type[NpzClips]] = {
    "parquet": ParquetShards,
    "webdataset": WebDatasetShards,
    "npz": NpzClips,
}


def next_shard(folder: Path, part: str, suffix: str) -> Path:
    """The first free number: that of the last shard of this part, plus one."""
    pattern = re.compile(rf"tokens-{re.escape(part)}(\d+){re.escape(suffix)}")
    found = (pattern.fullmatch(path.name) for path in (folder / DATA).glob(f"tokens-*{suffix}"))
    index = 1 + max((int(match[1]) for match in found if match), default=-1)
    return folder / DATA / f"tokens-{part}{index:05}{suffix}"


def codes_dtype(codebook_size: int) -> DTypeLike:
    """The smallest integers that hold the codes and that every reader of Parquet knows."""
    return np.int16 if codebook_size <= 2**15 else np.uint16 if codebook_size <= 2**16 else np.int32


def codes_type(header: Header) -> pa.DataType:
    """As many lists as the codec has books, each of as many codes as the clip has frames."""
    return pa.list_(pa.list_(pa.from_numpy_dtype(codes_dtype(header.codebook_size))), header.books)


def narrow(codes: NDArray[np.int64], header: Header) -> NDArray[Any]:
    """The codes (books, frames) in the integers that files hold."""
    assert codes.ndim == 2 and len(codes) == header.books
    assert codes.size == 0 or (0 <= codes.min() and codes.max() < header.codebook_size)
    return codes.astype(codes_dtype(header.codebook_size))


def metadata(row: dict[str, Any], header: Header) -> str:
    """All of a row but its codes, and the header as `solfa`, as JSON."""
    rest = {name: value for name, value in row.items() if name != "codes"}
    return json.dumps({**rest, "solfa": dataclasses.asdict(header)})


def infer_schema(rows: list[dict[str, Any]], header: Header) -> pa.Schema:
    """solfa's own columns, those that the rows carry with the types of their values, and `extra`."""
    fields = [pa.field(name, kind or codes_type(header)) for name, kind in OWN.items()]
    for name in dict.fromkeys(name for row in rows for name in row if name not in OWN and name != EXTRA):
        fields.append(_infer(name, [row.get(name) for row in rows]))
    return pa.schema([*fields, pa.field(EXTRA, pa.string())], metadata={"solfa": header.dumps()})


def _infer(name: str, values: list[Any]) -> pa.Field:
    """A type that gives the very same values back: JSON text where Arrow has no one type for them."""
    if all(value is None for value in values):
        return pa.field(name, pa.string())
    array = _exact(values, None)
    if array is not None and _storable(array.type):
        return pa.field(name, array.type)
    return pa.field(name, pa.string(), metadata={"solfa": "json"})


def _exact(values: list[Any], kind: pa.DataType | None) -> pa.Array | None:
    """None where the values do not fit: mixed types, integers beyond 64 bits, broken Unicode, other keys."""
    try:
        array = pa.array(values, kind)
        return array if array.to_pylist() == values else None
    except (pa.ArrowException, OverflowError, UnicodeError):
        return None


def _storable(kind: pa.DataType) -> bool:
    """Parquet has no empty structs, and a list of nothing but nulls has no type that the next shard could share."""
    if pa.types.is_null(kind):
        return False
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_storable(child.type) for child in kind)
    return _storable(kind.value_type) if pa.types.is_list(kind) else True


def to_table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as one Arrow table; what does not fit the schema goes to the column `extra`."""
    header = Header(**json.loads(schema.metadata[b"solfa"]))
    extras: list[dict[str, Any]] = [
        {name: row[name] for name in row if name not in schema.names or name == EXTRA} for row in rows
    ]
    arrays = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        if field.name == "codes":
            arrays.append(_codes_array([narrow(row["codes"], header) for row in rows], header))
        elif field.name == EXTRA:
            continue
        elif field.name in OWN:
            if field.type == pa.string():  # a manifest may number its speakers, and file names need not be Unicode
                values = [None if v is None else str(v).encode("utf-8", "replace").decode() for v in values]
            arrays.append(pa.array(values, field.type))
        elif is_json(field):
            arrays.append(pa.array([None if v is None else json.dumps(v) for v in values], pa.string()))
        else:
            arrays.append(_fitted(field, values, extras))
    arrays.append(pa.array([json.dumps(extra) if extra else None for extra in extras], pa.string()))
    return pa.Table.from_arrays(arrays, schema=schema)


def _fitted(field: pa.Field, values: list[Any], extras: list[dict[str, Any]]) -> pa.Array:
    array = _exact(values, field.type)
    if array is not None:
        return array
    kept = []
    for value, extra in zip(values, extras, strict=True):
        fits = value is None or _exact([value], field.type) is not None
        kept.append(value if fits else None)
        if not fits:
            extra[field.name] = value
    return pa.array(kept, field.type)


def _codes_array(codes: list[NDArray[Any]], header: Header) -> pa.Array:
    frames = np.repeat([c.shape[1] for c in codes], header.books)
    offsets = np.concatenate([[0], np.cumsum(frames)]).astype(np.int32)
    books = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate([c.ravel() for c in codes])))
    return pa.FixedSizeListArray.from_arrays(books, type=codes_type(header))


def is_json(field: pa.Field) -> bool:
    """Whether a column holds JSON text."""
    return (field.metadata or {}).get(b"solfa") == b"json"


def read_header(shard: Path) -> Header:
    """Of a Parquet shard.  Raises: UserError for a file that is damaged or was not written by solfa."""
    try:
        found = (pq.read_schema(shard).metadata or {}).get(b"solfa")
    except (pa.ArrowException, OSError):
        raise UserError(f"token shard {shard} is damaged") from None
    return Header.loads(found or b"null", shard)
