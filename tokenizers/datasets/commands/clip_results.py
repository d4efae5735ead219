"""How a corpus is gone through, and what comes of each of its clips: the types that engines and commands share."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solfa.core.errors import UserError
from solfa.core.progress import clock
from solfa.tokenizers.audio.audio_file import AudioReader, BadAudio, Kind
from solfa.tokenizers.datasets.readers.clip import Clip
from solfa.tokenizers.datasets.readers.source_stamp import STAMP

SHARD_SECONDS = 3600.0
SHARD_ROWS = 4096
DIGEST = "audio_sha1"  # the column that `dedupe` adds


@dataclass(frozen=True)
class Limits:
    """What a clip must be like; by default anything that can be decoded will do.  Seconds are the source's."""

    min_seconds: float = 0.0
    max_seconds: float = math.inf
    min_peak: float = 0.0  # full scale is 1
    max_clipped: float = 1.0  # share of samples at full scale

    def check(self, reader: AudioReader) -> None:
        """Raises: BadAudio for a clip that was read to its end."""
        self.check_long(reader)
        path = reader.path
        if reader.source_seconds < self.min_seconds:
            raise BadAudio(
                "short", f"{path} lasts {reader.source_seconds:.3f} s, and the least is {self.min_seconds:g} s"
            )
        if reader.peak < self.min_peak:
            peak = f"its peak is {20 * math.log10(reader.peak):.0f} dBFS" if reader.peak else "all samples are zero"
            raise BadAudio("silent", f"{path} is silent: {peak}")
        if (share := reader.at_full_scale / reader.source_samples) > self.max_clipped:
            raise BadAudio("clipped", f"{path} is clipped: {100 * share:.1f} % of its samples are at full scale")

    def check_long(self, reader: AudioReader) -> None:
        """Raises: BadAudio when more was read than a clip may have."""
        if reader.source_seconds > self.max_seconds:
            raise BadAudio("long", f"{reader.path} lasts longer than {clock(self.max_seconds)}")


@dataclass(frozen=True)
class Plan:
    """How a corpus is gone through."""

    batch_seconds: float | None = None  # None: what suits the device
    workers: int = 2  # threads that decode
    shard_seconds: float = SHARD_SECONDS  # a shard ends with the clip that fills it
    shard_rows: int = SHARD_ROWS
    limits: Limits = Limits()
    dedupe: bool = False  # refuse clips whose decoded samples came before
    stamp: bool = False  # note what each clip was made from, by `source_stamp`


@dataclass(frozen=True)
class Reject:
    """A clip that could not be tokenized, and the reason in one sentence and as a word."""

    clip: Clip
    reason: str
    kind: Kind = "other"


class Source(NamedTuple):
    """What was read of a clip, at its own rate; `digest` as in `AudioReader`, `stamp` as in `source_stamp`: "" unless asked for."""

    source_samples: int
    source_rate: int
    digest: str = ""
    stamp: str = ""


@dataclass(frozen=True)
class Encoded:
    """A clip with its codes: int64 (books, frames)."""

    clip: Clip
    audio: Source
    codes: NDArray[np.int64]

    @property
    def seconds(self) -> float:
        """Length of the source."""
        return self.audio.source_samples / self.audio.source_rate

    def row(self) -> dict[str, Any]:
        """The row of a token shard: what the manifest said, and over it what was measured."""
        row = {
            **self.clip.row,
            "id": self.clip.id,
            "audio": str(self.clip.path),
            "duration": self.seconds,
            "samples": self.audio.source_samples,
            "sample_rate": self.audio.source_rate,
            "codes": self.codes,
            "frames": self.codes.shape[1],
        }
        marks = {DIGEST: self.audio.digest, STAMP: self.audio.stamp}
        return row | {name: mark for name, mark in marks.items() if mark}


@dataclass(frozen=True)
class ShardState:
    """How far an open shard is: what a later run needs to go on in it as this one would have."""

    windows: int = 0
    rows: int = 0
    seconds: float = 0.0


class Window(NamedTuple):
    """What came of the clips of a window, in their order; shard: how far the open shard is behind it, None where it ends."""

    items: list[Encoded | Reject]
    shard: ShardState | None

    @property
    def ends_shard(self) -> bool:
        """Whether the shard is to be written."""
        return self.shard is None


def source_of(reader: AudioReader, stamp: str = "") -> Source:
    """What a reader has read, to its end."""
    return Source(reader.source_samples, reader.source_rate, reader.digest, stamp)


def rejected(clip: Clip, error: UserError) -> Reject:
    """A clip that could not be used, for the reason that the error gives."""
    return Reject(clip, str(error), error.kind if isinstance(error, BadAudio) else "corrupt")
