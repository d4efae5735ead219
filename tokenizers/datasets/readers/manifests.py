"""Manifests: CSV, TSV and JSON-lines tables with one clip a row, read row by row, or one row at a known place.

A manifest names its audio in one of `AUDIO_COLUMNS`, relative to itself; every other column is carried along.
"""

import csv
import json
import math
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from solfa.core.errors import UserError
from solfa.tokenizers.datasets.readers.clip import Clip, standard

MANIFESTS = frozenset({".csv", ".tsv", ".jsonl", ".ndjson"})
AUDIO_COLUMNS = ("audio", "file", "path", "file_name", "audio_filepath")  # the first that a table has names its audio
DELIMITERS = ",;|\t"


class Table:
    """The rows of a CSV, TSV or JSON-lines file as dicts; CSV values stay strings.

    Raises: UserError, when it is iterated, for a row that cannot be understood.
    """

    def __init__(self, path: Path, delimiter: str | None = None):
        """`delimiter`: of the columns, instead of the one that suffix and header tell."""
        self.path = path
        self._delimiter = delimiter or {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())  # None: JSON lines
        self.columns: list[str] = []  # of the header; none for JSON lines
        self._body = 0  # where the header ends
        self._quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
        with self._opened() as file:
            self._read_header(file)

    @property
    def common_voice(self) -> bool:
        """Whether it has the columns of Common Voice."""
        return {"client_id", "path", "sentence"} <= set(self.columns)

    def rows(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """-> (line number, place in bytes, row)."""
        with self._opened() as file:
            file.seek(self._body)
            lines = _Lines(file, self._body)
            first = 2 if self.columns else 1
            records = self._records(lines)
            while True:
                place = lines.place
                try:
                    row = next(records)
                except StopIteration:
                    return
                except UserError as e:
                    raise UserError(f"{self.path}, line {first + lines.count - 1}: {e}") from None
                except (UnicodeDecodeError, csv.Error) as e:
                    raise self._unreadable(e) from None
                if row is not None:
                    yield first + lines.count - 1, place, row

    def row_at(self, place: int) -> dict[str, Any]:
        """The row at a place that `rows` told."""
        with self._opened() as file:
            file.seek(place)
            try:
                row = next(self._records(_Lines(file, place)), None)
            except (UserError, UnicodeDecodeError, csv.Error):
                row = None
        if row is None:
            raise UserError(f"{self.path} changed while it was read")
        return row

    def _opened(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as e:
            raise UserError(f"manifest {self.path} cannot be read: {e.strerror}") from None

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"manifest {self.path} is not readable UTF-8 text with one clip a row ({error})")

    def _read_header(self, file: BinaryIO) -> None:
        self._skip_mark(file)
        if self._delimiter is None:
            return
        csv.field_size_limit(1 << 24)
        if self._delimiter == ",":  # spreadsheets in half the world put semicolons
            self._delimiter = delimiter_of(file.readline(1 << 16).decode(errors="replace")) or ","
            file.seek(self._body)
        lines = _Lines(file, self._body)
        try:
            self.columns = next(csv.reader(lines, delimiter=self._delimiter, strict=True), [])
        except (UnicodeDecodeError, csv.Error) as e:
            raise self._unreadable(e) from None
        self._body = lines.place
        if self.common_voice:  # its sentences hold quotes as they are
            self._quoting = csv.QUOTE_NONE

    def _skip_mark(self, file: BinaryIO) -> None:
        if file.read(3) != b"\xef\xbb\xbf":  # which Windows programs put before UTF-8
            file.seek(0)
        self._body = file.tell()

    def _records(self, lines: Iterator[str]) -> Iterator[dict[str, Any] | None]:
        """None: an empty line."""
        if self._delimiter is None:
            for line in lines:
                yield _json_row(line) if line.strip() else None
            return
        for values in csv.reader(lines, delimiter=self._delimiter, quoting=self._quoting, strict=True):
            if values and len(values) != len(self.columns):
                raise UserError(f"the header has {len(self.columns)} fields, the row has {len(values)}")
            yield dict(zip(self.columns, values, strict=True)) if values else None


class _Lines:
    """Decoded lines, and how far they reach: csv pulls as many as a row needs."""

    def __init__(self, file: BinaryIO, place: int):
        self._file, self.place, self.count = file, place, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.place += len(line)
        self.count += 1
        return line.decode()


def delimiter_of(header: str) -> str | None:
    """The one by which a header names a column of audio."""
    return next(
        (d for d in DELIMITERS if {field.strip('" \r\n') for field in header.split(d)} & set(AUDIO_COLUMNS)), None
    )


def _json_row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise UserError("not a JSON object")
    return row


class Manifest:
    """The clips that a manifest names; the whole of it is read once for `names`, which finds its mistakes."""

    def __init__(self, path: Path):
        self._table = Table(path)
        self._folder = path.parent
        if self._table.common_voice and (path.parent / "clips").is_dir():
            self._folder = path.parent / "clips"
        self._column = ""

    def names(self) -> Iterator[str]:
        """Ids, in the order of `clips`.  Raises: UserError for a row that names no audio, or no part of it that can be."""
        path = self._table.path
        for line, _, row in self._table.rows():
            self._column = self._column or next((name for name in AUDIO_COLUMNS if name in row), "")
            if not self._column:
                raise UserError(
                    f"{path} has no column {', '.join(AUDIO_COLUMNS[:-1])} or {AUDIO_COLUMNS[-1]}; "
                    f"its columns are {', '.join(row)}"
                )
            audio = row.get(self._column)
            if not isinstance(audio, str) or not audio.strip():
                raise UserError(f"{path}, line {line}: column {self._column!r} names no audio file")
            try:
                span_of(row)
            except UserError as e:
                raise UserError(f"{path}, line {line}: {e}") from None
            yield name_of(row, audio)
        if not self._column:
            raise UserError(f"manifest {path} holds no rows")

    def clips(self) -> Iterator[Clip]:
        """A clip for each row."""
        for _, _, row in self._table.rows():
            yield listed(row, self._column, self._folder)


def listed(row: dict[str, Any], column: str, folder: Path) -> Clip:
    """The clip of a manifest's row, whose `column` names a file relative to `folder`."""
    audio = row.pop(column)
    name = name_of(row, audio)
    row.pop("id", None)
    span = span_of(row)
    if span is not None:
        row["offset"] = span[0]
    return Clip(name, folder / Path(audio.strip()).expanduser(), standard(row), span=span)


def span_of(row: dict[str, Any]) -> tuple[float, float] | None:
    """`offset` and `duration`, in seconds, as NeMo's manifests name a part of a file; None where a row has not both.

    Raises: UserError for values that are no part of any file.
    """
    given = row.get("offset"), row.get("duration")
    if None in given or "" in given:
        return None
    try:
        begin, seconds = float(row["offset"]), float(row["duration"])
    except (TypeError, ValueError):
        begin = seconds = math.nan
    if not (0 <= begin < math.inf and 0 < seconds < math.inf):
        raise UserError(f"offset {given[0]!r} and duration {given[1]!r} are not seconds of a recording")
    return begin, seconds


def name_of(row: dict[str, Any], audio: str) -> str:
    """The row's `id`, else the path of its audio without the suffix."""
    name = row.get("id")
    return posixpath.splitext(audio.strip())[0] if name in (None, "") else str(name)
