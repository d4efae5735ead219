"""Locks on a folder of tokens: filelock's, whose files go away with the lock.  A process that dies lets go by itself.

They hold on one machine, and on several that share a disk where that supports locks.
"""

import sys
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from solfa.core.errors import UserError

POLL = 0.02  # seconds between two tries


class FolderLock:
    """`path` exists while somebody holds the lock; a killed process leaves the file, which does no harm."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = FileLock(path, poll_interval=POLL)

    def take(self, wait: bool = False) -> bool:
        """Whether the lock is ours now; with `wait` it comes in the end.  Raises: UserError where the folder cannot hold locks."""
        try:
            self._lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return False
        except OSError as e:
            raise UserError(f"folder {self.path.parent} cannot be written: {e.strerror or e}") from None
        return True

    def give_back(self) -> None:
        """Remove the file and let go; its descriptor is closed."""
        if sys.platform == "win32":  # an open file cannot be removed there, nor can one that another has opened
            self._lock.release()
        with suppress(OSError):
            self.path.unlink()  # elsewhere while it is ours: nobody can have taken it, and who waits for it looks again
        self._lock.release()

    def __enter__(self) -> "FolderLock":
        self.take(wait=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
