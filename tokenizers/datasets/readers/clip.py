"""A clip, and a corpus: its parts read lazily, in a fixed order, with ids that are unique and safe as file names.

Memory does not grow with the rows: of each clip only eight bytes stay, a digest of its id.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import Audio, read_audio

LONGEST_NAME = 200  # bytes of a path component; file systems allow 255, and a suffix and `.writing-...` come on top
LONGEST_ID = 1000  # bytes
SYNONYMS = {  # columns of well-known corpora -> our names
    "sentence": "text",
    "transcript": "text",
    "transcription": "text",
    "speaker_id": "speaker",
    "client_id": "speaker",
    "locale": "language",
    "lang": "language",
}


@dataclass(frozen=True)
class Clip:
    """A recording, not yet opened.

    id: relative path without suffix, or the manifest's `id`.
    path: the audio file; for a member of a shard or a row of a dataset only a name to show (`shard.tar/name.wav`).
    row: what else is known, JSON-able; `speaker`, `text` and `language` where the source tells them.
    data: gives the encoded bytes where `path` is no file of its own; picklable, and raises UserError.
    span: the part of the recording that is meant: where it begins and how long it is, in seconds; None for all of it.
    """

    id: str
    path: Path
    row: dict[str, Any] = field(default_factory=dict)
    data: Callable[[], bytes] | None = None
    span: tuple[float, float] | None = None

    def read(self, sample_rate: int | None = None) -> Audio:
        """Its sound, mono, at `sample_rate` in Hz (None: its own).

        Raises: BadAudio, a UserError with the reason in one sentence, for a clip that is missing, unreadable, damaged, cut off or
        empty, or that holds NaN.
        """
        return read_audio(self.path, sample_rate, self.data() if self.data else None, self.span)

    @property
    def speaker(self) -> str | None:
        """Who speaks, where the source tells it."""
        return _word(self.row.get("speaker"))

    @property
    def text(self) -> str | None:
        """What is said, where the source tells it."""
        return _word(self.row.get("text"))

    @property
    def seconds(self) -> float | None:
        """Length by the source's metadata, which may be wrong; None where they do not tell it."""
        if self.span is not None:
            return self.span[1]
        try:
            seconds = float(self.row["duration"])
        except (KeyError, TypeError, ValueError):
            return None
        return seconds if 0 < seconds < math.inf else None


def _word(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


class Part(Protocol):
    """Something that holds clips; their ids need be neither unique nor safe yet."""

    def names(self) -> Iterator[str]:
        """The ids in the order of `clips`, by the cheapest way to have them."""

    def clips(self) -> Iterator[Clip]:
        """The clips, always in the same order."""


class Corpus:
    """Iterable over `Clip`s in a fixed order, as often as wanted, with a length."""

    def __init__(self, parts: Sequence[Part]):
        self._parts = parts
        self._ids = Names(safe_id(name) for part in parts for name in part.names())

    def __iter__(self) -> Iterator[Clip]:
        used: Counter[str] = Counter()
        for part in self._parts:
            for clip in part.clips():
                clip_id = safe_id(clip.id)
                if self._ids.repeats(clip_id):
                    clip_id = self._numbered(clip_id, used)
                yield clip if clip_id == clip.id else replace(clip, id=clip_id)

    def __len__(self) -> int:
        return len(self._ids)

    def _numbered(self, clip_id: str, used: Counter[str]) -> str:
        """`a`, `a#2`, `a#3`, ..., leaving out what another clip is called."""
        name = clip_id
        used[clip_id] += 1
        while used[clip_id] > 1 and (name := safe_id(f"{clip_id}#{used[clip_id]}")) in self._ids:
            used[clip_id] += 1
        return name


class Numbered:
    """Names that are given one after another: of two equal ones the second becomes `a#2`, the third `a#3`."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._last: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        """`name`, or with a number what none before it was given."""
        found = name
        while found in self._given:
            self._last[name] += 1
            found = safe_id(f"{name}#{self._last[name] + 1}")
        self._given.add(found)
        return found


class Names:
    """Which of many strings occur, and which more than once."""

    def __init__(self, names: Iterable[str]):
        self._digests = np.fromiter(map(digest, names), np.uint64)
        self._digests.sort()
        self._repeated = set(self._digests[1:][self._digests[1:] == self._digests[:-1]].tolist())

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, name: str) -> bool:
        wanted = np.uint64(digest(name))
        at = int(self._digests.searchsorted(wanted))
        return at < len(self) and bool(self._digests[at] == wanted)

    def repeats(self, name: str) -> bool:
        """Whether it occurs more than once."""
        return bool(self._repeated) and digest(name) in self._repeated


def digest(name: str) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class FileSlice:
    """Bytes `offset` to `offset + size` of a file."""

    path: Path
    offset: int
    size: int

    def __call__(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as e:
            raise UserError(f"{self.path} cannot be read: {e.strerror}") from None
        if len(data) < self.size:
            raise UserError(f"{self.path} became shorter while it was read")
        return data


def standard(row: dict[str, Any]) -> dict[str, Any]:
    """The row with `speaker`, `text` and `language` under these names, where it has them under well-known others."""
    for other, name in SYNONYMS.items():
        if other in row and name not in row:
            row[name] = row.pop(other)
    return row


def safe_id(name: str) -> str:
    """An id that is a relative path inside any folder: no leading slash, no `..`, never empty; valid Unicode.

    A component too long for a file name is cut, and ends in a hash of all of it.
    """
    name = name.encode("utf-8", "replace").decode()
    parts = [_short(p) for p in name.replace("\\", "/").replace("\0", "").split("/") if p not in ("", ".", "..")]
    safe = "/".join(parts) or "clip"
    return safe if len(safe.encode()) <= LONGEST_ID else f"{_hash(safe)}/{parts[-1]}"


def _short(part: str) -> str:
    data = part.encode()
    if len(data) <= LONGEST_NAME:
        return part
    return f"{data[: LONGEST_NAME - 17].decode('utf-8', 'ignore')}~{_hash(part)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
