"""WebDataset shards: plain .tar files whose members are grouped into samples by their names up to the first dot.

A shard is read by its headers alone; the audio stays where it is until a clip is opened.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import AUDIO_SUFFIXES
from solfa.tokenizers.datasets.readers.clip import Clip, FileSlice, standard

PACKED = re.compile(r".*\.(tgz|tbz2|txz|tar\.\w+)", re.IGNORECASE)
SAMPLE = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")  # key, extensions
LONGEST_NOTE = 1 << 24  # bytes; a larger .json or .txt is data, not a note about a clip


class Member(NamedTuple):
    """A file in a tar: its sample's key, its extensions in lower case, and where its bytes are."""

    key: str
    kind: str
    where: FileSlice

    @property
    def is_audio(self) -> bool:
        """By its extension."""
        return f".{self.kind.rpartition('.')[2]}" in AUDIO_SUFFIXES


class TarShard:
    """The clips of one shard; `prefix` (of the shard's name in a folder) keeps ids of different shards apart.

    A `.json` object and `.txt`, `.cls` beside the audio become the row: its keys, `text` and `cls`.
    Raises: UserError, when it is iterated, for a shard or a note in it that is damaged.
    """

    def __init__(self, path: Path, prefix: str = ""):
        self._path, self._prefix = path, prefix

    def names(self) -> Iterator[str]:
        """Ids, in the order of `clips`."""
        return (clip.id for clip in self.clips())

    def clips(self) -> Iterator[Clip]:
        """A clip for each audio file; of samples with several, the extension is in the id."""
        for key, group in groupby(members(self._path), lambda member: member.key):
            sample = list(group)
            audio = [member for member in sample if member.is_audio]
            if not audio:
                continue
            row = self._row(key, sample)
            for member in audio:
                name = f"{key}.{member.kind}"
                yield Clip(
                    self._prefix + (key if len(audio) == 1 else name), self._path / name, dict(row), member.where
                )

    def _row(self, key: str, sample: list[Member]) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for _, kind, where in sample:
            if kind not in ("json", "txt", "cls", "normalized.txt", "original.txt") or where.size > LONGEST_NOTE:
                continue
            try:
                text = where().decode("utf-8-sig").strip()
                if kind == "json":
                    row.update(json.loads(text))
                elif kind == "cls":
                    row["cls"] = int(text) if text.isdecimal() else text
                else:
                    row[{"original.txt": "original_text"}.get(kind, "text")] = text
            except (ValueError, TypeError, RecursionError):
                what = "a JSON object" if kind == "json" else "UTF-8 text"
                raise UserError(f"{self._path}: {key}.{kind} is damaged: it is not {what}") from None
        return standard(row)


def members(path: Path) -> Iterator[Member]:
    """The files of a tar, in order.  Raises: UserError for one that is damaged, compressed or no tar."""
    try:
        with tarfile.open(path, "r:") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # a long list of what is not needed again
                match = SAMPLE.fullmatch(info.name)
                if info.isreg() and match and not info.issparse():
                    yield Member(match[1], match[2].lower(), FileSlice(path, info.offset_data, info.size))
            tar.fileobj.seek(tar.offset)  # type: ignore[union-attr]
            # tarfile takes a damaged header for the end.
            if any(tar.fileobj.read(tarfile.BLOCKSIZE)):  # type: ignore[union-attr]
                raise tarfile.ReadError("a damaged header")
    except (tarfile.TarError, EOFError) as e:
        raise UserError(f"shard {path} is damaged, cut off or not a plain .tar ({e})") from None
    except OSError as e:
        raise UserError(f"shard {path} cannot be read: {e.strerror or e}") from None


def packed(path: Path) -> UserError:
    """What to say of a compressed archive: one cannot jump in it from clip to clip."""
    return UserError(f"{path} is compressed: unpack it, or make it a plain .tar, as clips are read from its middle")
