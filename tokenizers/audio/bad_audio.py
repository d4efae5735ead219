"""Audio that cannot be used: the one error of all readers, and the checks that come before a file is decoded."""

import stat
from pathlib import Path
from typing import Literal

from solfa.core.errors import UserError

Kind = Literal[
    "missing", "unreadable", "empty", "corrupt", "nan", "short", "long", "silent", "clipped", "duplicate", "other"
]  # fmt: skip


class BadAudio(UserError):
    """Audio that cannot be used: the reason in one sentence, and as a word."""

    def __init__(self, kind: Kind, sentence: str):
        super().__init__(sentence)
        self.kind = kind


def check_file(path: Path, data: bytes | None) -> None:
    """Raises: BadAudio for a file that is missing, unreadable, empty, or no regular file; with `data`, where that is empty."""
    if data is not None:
        if not data:
            raise BadAudio("empty", f"audio file {path} is empty")
        return
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise BadAudio("unreadable", f"{path} is a folder, not an audio file")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for somebody to write to it
            raise BadAudio("unreadable", f"{path} is not a regular file")
        with path.open("rb") as file:
            empty = not file.read(1)
    except BadAudio:  # which is a ValueError
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise BadAudio("missing", f"audio file {path} does not exist") from None
    except OSError as e:
        raise BadAudio("unreadable", f"audio file {path} cannot be read: {e.strerror}") from None
    except ValueError:  # a NUL in its name
        raise BadAudio("missing", f"audio file {str(path)!r} cannot exist: its name holds a NUL") from None
    if empty:
        raise BadAudio("empty", f"audio file {path} is empty")
