"""Files that one process holds at a time, on one machine or several with a shared disk; a dead process lets go by itself."""

import os
import sys
import time
from pathlib import Path

from solfa.core.errors import UserError

if sys.platform != "win32":
    import fcntl


class FileLock:
    """`path`, made by whoever takes it and removed by whoever gives it back (a killed process leaves it, which does no harm).

    Windows has no such locks: there every taker succeeds.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = -1

    def take(self, wait: bool = False) -> bool:
        """Whether the lock is ours now; with `wait` it comes in the end.  Raises: UserError where the folder cannot hold locks."""
        if sys.platform == "win32":
            return True
        while True:
            try:
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._file)
                if not wait:
                    return False
                time.sleep(0.01)
            except OSError as e:
                raise UserError(f"folder {self.path.parent} cannot be written: {e.strerror}") from None
            else:
                if self._is_current():
                    return True
                os.close(self._file)  # its last holder removed it between our two calls

    def give_back(self) -> None:
        if sys.platform != "win32":
            self.path.unlink(missing_ok=True)  # while it is ours: nobody can have taken it
            os.close(self._file)

    def __enter__(self) -> "FileLock":
        self.take(wait=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self.path))
        except FileNotFoundError:
            return False
