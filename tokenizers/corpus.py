"""Corpora: a folder, a glob, one file, or a CSV/TSV/JSONL manifest, read lazily as clips with stable ids.

Nothing here opens audio: a clip that is missing or damaged shows when it is decoded.
"""

import csv
import glob
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from solfa.errors import UserError
from solfa.tokenizers.audio_io import AUDIO_SUFFIXES

MANIFESTS = {".csv", ".tsv", ".jsonl", ".ndjson"}
AUDIO_COLUMNS = ("audio", "file", "path")  # the first that a manifest has names its audio


@dataclass(frozen=True)
class Clip:
    """id: relative path without suffix, or the manifest's `id`; row: the manifest's other columns."""

    id: str
    path: Path
    row: dict[str, Any] = field(default_factory=dict)


class Corpus:
    """Iterable over `Clip`s in a fixed order, as often as wanted, with a length."""

    def __init__(self, length: int, clips: Callable[[], Iterator[Clip]]):
        self._length, self._clips = length, clips

    def __iter__(self) -> Iterator[Clip]:
        return self._clips()

    def __len__(self) -> int:
        return self._length


def read_corpus(source: str | Path, exclude: Path | None = None) -> Corpus:
    """The clips that `source` names; a folder or glob leaves out what lies in its subfolder `exclude` (the output).

    Raises: UserError for a source that does not exist, holds no audio, or a manifest that cannot be understood.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _manifest(path) if path.suffix.lower() in MANIFESTS else _files(path.parent, [path])
    if source != "" and path.is_dir():
        root = path
        found = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    elif glob.has_magic(str(path)):
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        found = (p for p in map(Path, glob.iglob(str(path), recursive=True)) if p.is_file())
    else:
        raise UserError(f"corpus {str(source)!r} does not exist: give a folder, a file, a glob or a manifest")
    files = [p for p in found if p.suffix.lower() in AUDIO_SUFFIXES and not p.name.startswith(".")]
    if exclude is not None and not root.resolve().is_relative_to(output := exclude.resolve()):
        files = [p for p in files if not p.resolve().is_relative_to(output)]
    if not files:
        raise UserError(f"no audio files under {str(source)!r}")
    return _files(root, sorted(files))


def _files(root: Path, files: list[Path]) -> Corpus:
    """Ids are paths below `root`; where two differ in their suffix alone, both keep it."""
    stems = Counter(p.with_suffix("") for p in files)

    def clips() -> Iterator[Clip]:
        for p in files:
            stem = p.with_suffix("")
            yield Clip(safe_id((stem if stems[stem] == 1 else p).relative_to(root).as_posix()), p)

    return Corpus(len(files), clips)


def _manifest(path: Path) -> Corpus:
    """Reads the whole manifest once, to count it and to find its mistakes before any work is done."""
    column = None
    count = 0
    for line, row in _rows(path):
        count += 1
        column = column or next((name for name in AUDIO_COLUMNS if name in row), None)
        if column is None:
            raise UserError(f"{path} has no column {' or '.join(AUDIO_COLUMNS)}; its columns are {', '.join(row)}")
        if not isinstance(row.get(column), str) or not row[column].strip():
            raise UserError(f"{path}, line {line}: column {column!r} names no audio file")
    if not count:
        raise UserError(f"manifest {path} holds no rows")
    return Corpus(count, lambda: _manifest_clips(path, str(column)))


def _manifest_clips(path: Path, column: str) -> Iterator[Clip]:
    seen: Counter[str] = Counter()
    for _, row in _rows(path):
        audio = row.pop(column).strip()
        name = row.pop("id", None)
        clip_id = safe_id(PurePosixPath(audio).with_suffix("").as_posix() if name in (None, "") else str(name))
        seen[clip_id] += 1
        while seen[clip_id] > 1:  # a#2 may itself be taken
            clip_id = f"{clip_id}#{seen[clip_id]}"
            seen[clip_id] += 1
        yield Clip(clip_id, path.parent / Path(audio).expanduser(), row)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """-> (line number, row) of a manifest; CSV values stay strings."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in (".csv", ".tsv"):
                csv.field_size_limit(1 << 24)
                reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
                for row in reader:
                    if None in row or None in row.values():
                        fields = len(reader.fieldnames or [])
                        raise UserError(
                            f"{path}, line {reader.line_num}: the header has {fields} fields, the row has not"
                        )
                    yield reader.line_num, row
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _json_row(path, number, line)
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"manifest {path} is not readable UTF-8 text with one clip a row ({e})") from None
    except OSError as e:
        raise UserError(f"manifest {path} cannot be read: {e.strerror}") from None


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{path}, line {number}: not a JSON object")
    return row


def safe_id(name: str) -> str:
    """An id that is a relative path inside any folder: no leading slash, no `..`, never empty; valid Unicode."""
    name = name.encode("utf-8", "replace").decode()
    parts = PurePosixPath(name.replace("\\", "/").replace("\0", "")).parts
    return "/".join(part for part in parts if part not in ("/", "//", "..")) or "clip"
