"""Files that appear whole or not at all: written aside on the same disk, flushed, renamed, and the rename flushed as well.

`replacing` does that for one file, `replacing_files` for several files of a folder that belong together.
"""

import errno
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from solfa.core.errors import UserError

ASIDE = ".writing-"  # names that start so are leftovers of a killed run
FILES_ASIDE = f"{ASIDE}files-"  # a folder of files that do not count yet
COMMITTED = ".committed"  # a folder of files that count from now on, and wait to be moved to where they belong
LOCK = ".lock"


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


@contextmanager
def replacing_files(folder: Path, last: str) -> Iterator[Path]:
    """Yields an empty folder to write files to; at the end they replace those of the same names in `folder`, all or none.

    One rename decides.  Before it everything is as it was; after it the new files count, and whoever comes next
    (`finish_replacing`) moves those that a killed process left.  Other files in the folder stay.  Raises: UserError when
    the folder cannot be written.

    Args:
        last: the file that describes the others.  The old one goes first and the new one comes last, so that even readers
            that do not call `finish_replacing` never find it beside files that it does not describe.
    """
    made = make_folder(folder)
    try:
        with _locked(folder):
            _move_committed(folder, last)
            for leftover in folder.glob(f"{FILES_ASIDE}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            aside = Path(tempfile.mkdtemp(dir=folder, prefix=FILES_ASIDE))
            try:
                yield aside
                for path in aside.iterdir():
                    path.chmod(0o644)  # some libraries write for the owner alone
                    with path.open("rb+") as file:
                        os.fsync(file.fileno())
                aside.chmod(0o755)
                sync_folder(aside)
                os.replace(aside, folder / COMMITTED)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
            sync_folder(folder)
            _move_committed(folder, last)
    except BaseException as e:
        remove_folders(made)
        if isinstance(e, OSError):
            raise UserError(f"{folder} cannot be written: {e.strerror or e}") from e
        raise


def finish_replacing(folder: Path, last: str) -> None:
    """Move what a killed `replacing_files` had committed; wait for one that is at it now.  Raises: UserError where that cannot be."""
    if not (folder / COMMITTED).is_dir():
        return
    try:
        with _locked(folder):
            _move_committed(folder, last)
    except OSError as e:
        raise UserError(
            f"{folder} was being saved when that was cut off, and finishing it failed: {e.strerror or e}"
        ) from e


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK)
    with lock:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no file that is open
                (folder / LOCK).unlink()


def _move_committed(folder: Path, last: str) -> None:
    """Every step may be the last one before the process is killed, and all of it may be done again."""
    committed = folder / COMMITTED
    if not committed.is_dir():
        return
    names = sorted((path.name for path in committed.iterdir()), key=lambda name: (name == last, name))
    if last in names and len(names) > 1:
        (folder / last).unlink(missing_ok=True)
    for name in names:
        os.replace(committed / name, folder / name)
    sync_folder(folder)
    committed.rmdir()
