"""Whether a file can be written, checked before minutes of work are spent on it."""

import tempfile
from pathlib import Path

from solfa.core.errors import UserError


def check_output(path: Path) -> None:
    """Nothing, where a file can be written at `path`; missing folders on the way to it can be made later.

    Raises: UserError for a folder, a file in place of a folder, or a place without permission.
    """
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; give the name of a file")
        folder = next(place for place in path.absolute().parents if place.exists())
        with tempfile.TemporaryFile(dir=folder):  # permissions alone do not say whether the disk is read-only or full
            pass
    except NotADirectoryError:
        raise UserError(f"{path} cannot be written: {folder} is not a folder") from None
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror}") from None
