"""Corpora: what a source names (folder, glob, file, manifest, tar shards, Hugging Face data set), as clips.

A folder is all that it holds: loose audio (audio_folders.py), .tar shards (webdataset.py), and Arrow or Parquet files with
audio inside (hf_datasets.py).  Nothing here opens audio: a clip that is missing or damaged shows when it is decoded.

`read_corpus` is the one reader, of every layout in `docs/datasets.md`, for `tokenize`, the trainers and evaluations alike.  It yields
`Clip`s: `id`, `read()` for the sound, and where they are known `speaker`, `text` and `seconds`.
"""

import glob
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import AUDIO_SUFFIXES
from solfa.tokenizers.datasets.readers.audio_folders import LooseFiles
from solfa.tokenizers.datasets.readers.clip import Clip as Clip
from solfa.tokenizers.datasets.readers.clip import Corpus, Part
from solfa.tokenizers.datasets.readers.clip import safe_id as safe_id
from solfa.tokenizers.datasets.readers.hf_datasets import HUB_ID, ArrowTable, ParquetTable, download
from solfa.tokenizers.datasets.readers.manifests import MANIFESTS, Manifest
from solfa.tokenizers.datasets.readers.webdataset import PACKED, TarShard, packed

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


def read_corpus(source: str | Path, exclude: Path | None = None) -> Corpus:
    """The clips that `source` names; a folder or glob leaves out what lies in its subfolder `exclude` (the output).

    Raises: UserError for a source that does not exist, holds no audio, or a manifest, transcript table or shard that
    cannot be understood.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        return read_corpus(download(source), exclude)
    path = Path(source).expanduser()
    if os.path.lexists(path) and not path.is_dir():
        return _file(path)
    if source != "" and path.is_dir():
        output = exclude.resolve() if exclude is not None else None
        return _files(source, path, _walk(path, "", None if output == path.resolve() else output))
    if glob.has_magic(str(path)) or BRACES.search(str(path)):
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part) and not BRACES.search(part), path.parts))
        return _files(source, root, _matching(str(path), root, exclude))
    hub = isinstance(source, str) and HUB_ID.fullmatch(source) and source.count("/") == 1 and source[0] != "."
    raise UserError(
        f"corpus {str(source)!r} does not exist: give a folder, a file, a glob, a manifest or a hub id "
        f"({f'write hf:{source} for the data set of that name' if hub else 'hf:owner/name'})"
    )


def _file(path: Path) -> Corpus:
    suffix = path.suffix.lower()
    if PACKED.fullmatch(path.name):
        raise packed(path)
    if suffix == ".tar":
        return _some(path, [TarShard(path)])
    if suffix in MANIFESTS:
        return Corpus([Manifest(path)])
    if suffix in (".parquet", ".arrow"):
        table = ParquetTable.of(path) if suffix == ".parquet" else ArrowTable.of(path)
        return _some(path, [] if table is None else [table])
    return Corpus([LooseFiles(path.parent, [path.name])])


def _files(source: str | Path, root: Path, names: Iterable[str]) -> Corpus:
    """`names`: files below `root`, in order."""
    audio: list[str] = []
    tables: list[ParquetTable] = []
    parts: list[Part] = []
    compressed = None
    for name in names:
        suffix, path = os.path.splitext(name)[1].lower(), root / name
        stem = os.path.splitext(name)[0]
        folder = name[: len(name) - len(path.name)]
        if suffix in AUDIO_SUFFIXES:
            audio.append(name)
        elif suffix == ".tar":
            parts.append(TarShard(path, f"{stem}/"))
        elif suffix == ".arrow" and not path.name.startswith("cache-"):  # these are what a map() has left
            parts += filter(None, [ArrowTable.of(path, folder)])
        elif suffix == ".parquet":
            tables += filter(None, [ParquetTable.of(path, folder)])
        elif PACKED.fullmatch(path.name):
            compressed = compressed or path
    # Beside loose audio, a table that only names files is a manifest of it, and would double it.
    parts += [table for table in tables if table.embedded or not audio]
    if audio:
        parts.insert(0, LooseFiles(root, audio))
    if not parts and compressed:
        raise packed(compressed)
    return _some(source, parts)


def _some(source: str | Path, parts: list[Part]) -> Corpus:
    corpus = Corpus(parts)
    if not len(corpus):
        raise UserError(f"no audio files under {str(source)!r}")
    return corpus


def _walk(root: Path, folder: str, exclude: Path | None, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of files below `root`, sorted by their parts; links to folders are followed, but not around in a circle."""
    real = os.path.realpath(root / folder)
    if real in above or real == str(exclude):
        return
    try:
        entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
    except OSError as e:
        raise UserError(f"folder {root / folder} cannot be read: {e.strerror}") from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "lost+found":
            continue
        linked = entry.is_symlink()
        if os.path.isdir(entry.path) if linked else entry.is_dir():
            yield from _walk(root, f"{folder}{entry.name}/", exclude, (*above, real))
        elif linked or entry.is_file() or os.path.splitext(entry.name)[1].lower() in AUDIO_SUFFIXES:
            yield folder + entry.name  # broken links and pipes as well: opening them shows what is wrong


def _matching(pattern: str, root: Path, exclude: Path | None) -> list[str]:
    """Files that a glob names, with braces as in `shard-{000..123}.tar` and `{a,b}`, sorted by their parts."""
    found: set[str] = set()
    for one in _expand(pattern):
        if not glob.has_magic(one) and not os.path.isfile(one):
            raise UserError(f"{one}, which {pattern} names, does not exist")
        found.update(glob.iglob(one, recursive=True) if glob.has_magic(one) else [one])
    files = (Path(name) for name in found)
    files = (p for p in files if not p.is_dir() and not p.name.startswith("."))
    if exclude is not None and not root.resolve().is_relative_to(output := exclude.resolve()):
        files = (p for p in files if not Path(os.path.realpath(p)).is_relative_to(output))
    return [p.relative_to(root).as_posix() for p in sorted(files)]


def _expand(pattern: str) -> Iterator[str]:
    match = BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    first, last, listed = match.groups()
    if listed is not None:
        middles = listed.split(",")
    else:
        step = 1 if int(first) <= int(last) else -1
        middles = [str(n).zfill(len(first)) for n in range(int(first), int(last) + step, step)]
    for middle in middles:
        yield from _expand(pattern[: match.start()] + middle + pattern[match.end() :])
