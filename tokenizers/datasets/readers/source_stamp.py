"""What a clip was made from, as one line of text that lies beside its codes: file, metadata and content.

    PLACE.SIZE.MTIME ROW CONTENT

PLACE is a digest of the file's absolute path, and of the part of it that is the clip; MTIME is in nanoseconds; ROW a digest of what
the corpus gives beside the audio (text, speaker and more); CONTENT one of the encoded bytes.  While place, size and time are the
same, nothing has to be read; a corpus that was moved or copied is compared by its content.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from solfa.core.errors import UserError
from solfa.tokenizers.datasets.readers.clip import Clip, digest

STAMP = "source_stamp"  # the column
READ = 1 << 22  # bytes at once


class Stamp(NamedTuple):
    """state: place, size and time of the file; row: of the metadata."""

    state: str
    row: str

    def recorded(self, clip: Clip, data: bytes | None = None, pause: Callable[[], None] = lambda: None) -> str:
        """The line for the codes of the clip.  Arguments and errors as `content_of`."""
        return f"{self.state} {self.row} {content_of(clip, data, pause)}"


def stamp_of(clip: Clip) -> Stamp:
    """From the file system alone; a file that is not there has a stamp that no other has."""
    part = clip.data
    path = getattr(part, "path", None) or clip.path
    where = [os.path.abspath(path), clip.span]
    where += [getattr(part, name, None) for name in ("offset", "size", "group", "row", "column")]
    try:
        found = os.stat(path)
        size, time = found.st_size, found.st_mtime_ns
    except (OSError, ValueError):
        size, time = -1, 0
    row = json.dumps(clip.row, sort_keys=True, default=str)
    return Stamp(f"{digest(json.dumps(where)):016x}.{size}.{time}", f"{digest(row):016x}")


def content_of(clip: Clip, data: bytes | None = None, pause: Callable[[], None] = lambda: None) -> str:
    """A digest of the clip's encoded bytes, and of which part of them it is.

    data: the bytes, where they were read already.  pause: called now and then; it may raise to end the work.
    Raises: UserError where they cannot be read.
    """
    state = hashlib.sha256(json.dumps(clip.span).encode())
    if data is None and clip.data is not None:
        data = clip.data()
    if data is not None:
        state.update(data)
        return state.hexdigest()[:24]
    try:
        if not Path(clip.path).is_file():  # a pipe would wait for somebody to write to it
            raise UserError(f"{clip.path} is no file that could be compared")
        with clip.path.open("rb") as file:
            while block := file.read(READ):
                pause()
                state.update(block)
    except (OSError, ValueError) as e:
        if isinstance(e, UserError):
            raise
        raise UserError(f"{clip.path} cannot be read: {getattr(e, 'strerror', None) or e}") from None
    return state.hexdigest()[:24]


def changed(clip: Clip, recorded: str) -> str:
    """In which way a clip is another than the one that was recorded: "", "metadata", "file" (by its place) or "content".

    Reads the content only where place, size or time differ.
    """
    state, row, content = recorded.split(" ")
    now = stamp_of(clip)
    if now.state != state:
        try:
            same = content_of(clip) == content
        except UserError:
            same = False
        if not same:
            return "content" if now.state.partition(".")[0] == state.partition(".")[0] else "file"
    return "" if now.row == row else "metadata"
