"""Files that appear whole or not at all: written aside on the same disk, flushed, renamed, and the rename flushed as well."""

import errno
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from solfa.core.errors import UserError

ASIDE = ".writing-"  # names that start so are leftovers of a killed run


def make_folder(folder: Path) -> list[Path]:
    """Create a folder with its parents; -> those that did not exist, innermost first.

    Raises: UserError when a file is in the way or the place cannot be written.
    """
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in new:
            sync_folder(place.parent)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder} cannot be a folder: a file is in the way") from None
    except OSError as e:
        remove_folders(new)
        raise UserError(f"folder {folder} cannot be made: {e.strerror}") from None
    return new


def remove_folders(folders: list[Path]) -> None:
    """Remove those that are empty, in the order that `make_folder` gave."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def sync_folder(folder: Path) -> None:
    """Names that were made or changed in it outlive a loss of power, where the system can promise that."""
    if sys.platform == "win32":
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as e:
        if e.errno != errno.EINVAL:  # a file system without this promise
            raise
    finally:
        os.close(file)


@contextmanager
def replacing(path: Path, aside_in: Path | None = None) -> Iterator[Path]:
    """Yields a name to write to, in the folder `aside_in` (default: beside `path`), and renames it to `path` at the end.

    After an error `path` is untouched, and neither that file nor a folder that was made for it stays.
    Raises: UserError when it cannot be written (read-only folder, full disk).
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file")
    made = make_folder(path.parent)
    aside = (aside_in or path.parent) / f"{ASIDE}{uuid.uuid4().hex[:12]}-{path.name}"
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except BaseException as e:
        aside.unlink(missing_ok=True)
        remove_folders(made)
        if isinstance(e, OSError):
            raise UserError(f"{path} cannot be written: {e.strerror or e}") from e
        raise


def write_bytes(path: Path, data: bytes | memoryview, aside_in: Path | None = None) -> None:
    """`path` holds exactly `data` afterwards, or is untouched; arguments and errors as in `replacing`."""
    with replacing(path, aside_in) as aside:
        aside.write_bytes(data)
