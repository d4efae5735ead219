"""Loose audio files, and what the well-known layouts of corpora say about each: text, speaker, language and more.

The layout is told folder by folder from the files that lie there, so it may begin in any subfolder:

    LJSpeech        wavs/ID.wav             metadata.csv beside wavs/: ID|text|normalized text
    Common Voice    clips/NAME.mp3          train, dev, test, validated, other and invalidated.tsv beside clips/
    a header        any/where.opus          metadata.csv, .tsv or .jsonl above, with a column `file` (or `audio`, ...)
    LibriSpeech     S/C/S-C-0001.flac       S-C.trans.txt: ID TEXT
    LibriTTS        S/C/S_C_1_0.wav         S_C_1_0.normalized.txt, S_C_1_0.original.txt
    VCTK            wav48*/S/S_001*.flac    txt/S/S_001.txt, speaker-info.txt
    plain           any/where.wav           where.txt or where.lab

A table over many clips that is damaged is an error before any work is done.  A broken character in the text of one
clip shows as U+FFFD, and a clip without an entry just has no text.
"""

import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import AUDIO_SUFFIXES
from solfa.tokenizers.datasets.readers.clip import Clip, Names, digest, standard
from solfa.tokenizers.datasets.readers.manifests import AUDIO_COLUMNS, Table, delimiter_of

COMMON_VOICE = tuple(f"{split}.tsv" for split in ("train", "dev", "test", "validated", "other", "invalidated"))
TABLES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", *COMMON_VOICE)
LONGEST_TEXT = 1 << 20  # bytes; a larger .txt is no transcript
VCTK_NAME = re.compile(r"([ps]\d+)_(\d+)(?:_(mic\d+))?")
LIBRITTS_NAME = re.compile(r"(\d+)_(\d+)_\d+_\d+")
ALIGNED = re.compile(r"\s*[\d.]+\s+[\d.]+\s+\S")  # a line of labels with times: HTK, Audacity


class LooseFiles:
    """Audio files by their paths below `root`, sorted; ids are these paths without suffix.

    Where two differ in their suffix alone, both keep it.
    """

    def __init__(self, root: Path, files: list[str]):
        self._root, self._files = root, files
        self._stems = Names(os.path.splitext(name)[0] for name in files)
        self._notes = Notes(root)
        for folder in dict.fromkeys(map(os.path.dirname, files)):
            self._notes.tables(folder)

    def names(self) -> Iterator[str]:
        """Ids, in the order of `clips`."""
        return map(self._name, self._files)

    def clips(self) -> Iterator[Clip]:
        """The files, each with what lies beside it."""
        for name in self._files:
            yield Clip(self._name(name), self._root / name, self._notes.row(name))

    def _name(self, name: str) -> str:
        stem = os.path.splitext(name)[0]
        return name if self._stems.repeats(stem) else stem


class Notes:
    """What the files around an audio file say about it.

    Raises: UserError from `tables` for a damaged table.
    """

    def __init__(self, root: Path):
        self._root = root
        self._tables: dict[Path, list[Index]] = {}
        self._speakers: dict[Path, dict[str, dict[str, str]]] = {}
        self._folder: str | None = None  # the one that the next two are about
        self._texts: frozenset[str] = frozenset()  # names of the text files in it
        self._chapters: dict[str, dict[str, str]] = {}  # LibriSpeech: by file, text by id

    def row(self, name: str) -> dict[str, Any]:
        """`name`: path below the root."""
        folder, file = os.path.split(name)
        for index in self.tables(folder):
            if (row := index.find(self._root / name)) is not None:
                return row
        if folder != self._folder:
            self._enter(folder)
        stem = os.path.splitext(file)[0]
        place = self._root / folder
        chapter = f"{stem.rpartition('-')[0]}.trans.txt"
        if chapter in self._texts:
            return self._librispeech(place, chapter, stem)
        if {f"{stem}.normalized.txt", f"{stem}.original.txt"} & self._texts:
            return self._libritts(place, stem)
        if (match := VCTK_NAME.fullmatch(stem)) and match[1] == place.name:
            return self._vctk(place, *match.groups())
        for suffix in (".txt", ".lab"):
            if stem + suffix in self._texts and (text := read_text(place / (stem + suffix))):
                return {"text": text}
        return {}

    def tables(self, folder: str) -> "list[Index]":
        """The tables in a folder and above it up to the root, nearest first; those of `wavs` or `clips` lie beside it."""
        place = self._root / folder
        if place not in self._tables:
            here = [index for name in TABLES if (index := Index.of(place / name)) is not None]
            if folder:
                above = self.tables(os.path.dirname(folder))
            elif (absolute := place.absolute()).name in ("wavs", "clips"):
                above = [i for name in TABLES if (i := Index.of(absolute.parent / name)) is not None]
            else:
                above = []
            self._tables[place] = here + above
        return self._tables[place]

    def _enter(self, folder: str) -> None:
        self._folder, self._chapters = folder, {}
        names = os.listdir(self._root / folder)
        self._texts = frozenset(name for name in names if name.endswith((".txt", ".lab")))

    def _librispeech(self, place: Path, chapter: str, stem: str) -> dict[str, Any]:
        if chapter not in self._chapters:
            lines = (line.partition(" ") for line in read_text(place / chapter).splitlines())
            self._chapters[chapter] = {name: text.strip() for name, _, text in lines}
        row: dict[str, Any] = {"speaker": stem.split("-")[0]}
        if text := self._chapters[chapter].get(stem):
            row["text"] = text
        return row

    def _libritts(self, place: Path, stem: str) -> dict[str, Any]:
        row: dict[str, Any] = {}
        if match := LIBRITTS_NAME.fullmatch(stem):
            row["speaker"] = match[1]
        for key, kind in (("text", "normalized"), ("original_text", "original")):
            if f"{stem}.{kind}.txt" in self._texts and (text := read_text(place / f"{stem}.{kind}.txt")):
                row[key] = text
        return row

    def _vctk(self, place: Path, speaker: str, utterance: str, microphone: str | None) -> dict[str, Any]:
        corpus = place.absolute().parent.parent
        row: dict[str, Any] = {"speaker": speaker}
        if microphone:
            row["microphone"] = microphone
        if corpus not in self._speakers:
            self._speakers[corpus] = _vctk_speakers(corpus / "speaker-info.txt")
        row.update(self._speakers[corpus].get(speaker, {}))
        text = corpus / "txt" / speaker / f"{speaker}_{utterance}.txt"
        if text.is_file() and (words := read_text(text)):
            row["text"] = words
        return row


def _vctk_speakers(path: Path) -> dict[str, dict[str, str]]:
    """ID AGE GENDER ACCENT REGION..., one speaker a line; the ids have a `p` in later versions only."""
    if not path.is_file():
        return {}
    fields = [line.split() for line in read_text(path).splitlines()[1:]]
    return {
        f[0] if f[0][0] in "ps" else f"p{f[0]}": {"age": f[1], "gender": f[2], "accent": f[3]}
        for f in fields
        if len(f) > 3
    }


def read_text(path: Path) -> str:
    """A transcript, stripped; empty for labels with times and for what is too large to be a transcript."""
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST_TEXT + 1)
    except OSError as e:
        raise UserError(f"transcript {path} cannot be read: {e.strerror}") from None
    lines = data.decode("utf-8-sig", "replace").strip().splitlines()
    if len(data) > LONGEST_TEXT or (len(lines) > 1 and all(map(ALIGNED.match, lines))):
        return ""
    return "\n".join(lines)


class Index:
    """A table of transcripts, and where in it the row of a file stands: 16 bytes a row."""

    def __init__(self, table: Table, audio: str, folder: Path):
        """`audio`: the column that names a file below `folder`, with its suffix or without."""
        self._table, self._audio = table, audio
        digests, places = array("Q"), array("q")
        for line, place, row in table.rows():
            file = row.get(audio)
            if not isinstance(file, str) or not file.strip():
                raise UserError(f"{table.path}, line {line}: column {audio!r} names no audio file")
            digests.append(digest(os.path.abspath(folder / file.strip())))
            places.append(place)
        keys = np.frombuffer(digests, np.uint64) if digests else np.zeros(0, np.uint64)
        order = np.argsort(keys, kind="stable")  # of two rows for one file, the first counts
        self._keys: NDArray[np.uint64] = keys[order]
        self._places: NDArray[np.int64] = np.array(places, np.int64)[order]

    @classmethod
    def of(cls, path: Path) -> "Index | None":
        """None where there is no such file, or where it is no table of audio files."""
        if not path.is_file():
            return None
        if path.name in COMMON_VOICE:
            table = Table(path)
            return cls(table, "path", path.parent / "clips") if table.common_voice else None
        if path.suffix == ".jsonl":
            table = Table(path)
            columns = next((list(row) for _, _, row in table.rows()), [])
        else:
            line = first_line(path)
            delimiter = delimiter_of(line)
            if delimiter is None:
                return cls(LJSpeech(path), "file", path.parent / "wavs") if line.count("|") in (1, 2) else None
            table = Table(path, delimiter)
            columns = table.columns
        audio = next((name for name in AUDIO_COLUMNS if name in columns), None)
        return None if audio is None else cls(table, audio, path.parent)

    def find(self, path: Path) -> dict[str, Any] | None:
        """The row of an audio file, without the column that names it."""
        absolute = os.path.abspath(path)
        for key in (absolute, os.path.splitext(absolute)[0]):
            wanted = np.uint64(digest(key))
            at = int(self._keys.searchsorted(wanted))
            if at < len(self._keys) and self._keys[at] == wanted:
                row = self._table.row_at(int(self._places[at]))
                del row[self._audio]
                if self._table.common_voice:
                    row["split"] = self._table.path.stem
                    if row["split"] == "invalidated":  # its voters found that audio and sentence differ
                        row["rejected_text"] = row.pop("sentence")
                return standard(row)
        return None


class LJSpeech(Table):
    """metadata.csv without a header: ID|text or ID|text|normalized text, quotes as they are."""

    def _read_header(self, file: BinaryIO) -> None:
        self._skip_mark(file)

    def _records(self, lines: Iterator[str]) -> Iterator[dict[str, Any] | None]:
        for line in lines:
            name, *texts = line.strip("\r\n").split("|")
            if not line.strip():
                yield None
                continue
            if not texts:
                raise UserError("no | between the id and the text")
            stem, suffix = os.path.splitext(name.strip().removeprefix("wavs/"))
            row = {"file": stem if suffix.lower() in AUDIO_SUFFIXES else stem + suffix}
            text = texts[1].strip() if len(texts) > 1 else ""
            row["text"] = text or texts[0].strip()
            if row["text"] != texts[0].strip():
                row["original_text"] = texts[0].strip()
            yield row


def first_line(path: Path) -> str:
    """Of a table, without its end.  Raises: UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.readline(1 << 16).decode("utf-8-sig", "replace").rstrip("\r\n")
    except OSError as e:
        raise UserError(f"table {path} cannot be read: {e.strerror}") from None
