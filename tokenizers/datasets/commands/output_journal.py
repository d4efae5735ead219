"""What each file of an output folder was made from, and with which settings: `.solfa.json` in that folder.

It is written before the first file appears, so that a run which was killed continues: a file that is there and planned in the
same way is done.  One that was made otherwise, or that no run has noted, is refused, never taken for the new one.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from solfa.core.atomic import make_folder, remove_folders, write_bytes
from solfa.core.errors import UserError

JOURNAL, LOCK = ".solfa.json", ".solfa.lock"
VERSION = 1

Settings = dict[str, Any]


class Planned(NamedTuple):
    """A file to write; source: a digest of what it is made from."""

    path: Path
    source: str


class Journal:
    """The notes of one folder.

    Args:
        settings: of this run: what decides about the files beside their sources; by names that the user knows.
        overwrite: whether files that are there are to be made again.

    Raises: UserError for a journal that is damaged.
    """

    def __init__(self, folder: Path, settings: Settings, overwrite: bool = False):
        self.folder, self.settings, self.overwrite = folder, settings, overwrite
        self._planned: list[Planned] = []
        self._made: list[Path] = []  # folders that were not there before
        self._notes = self._read()

    def done(self, planned: Planned) -> bool:
        """Whether a file is there and was made from this source with these settings; one that is not is to be made.

        Raises: UserError for a file that is there and was made otherwise, unless it is to be overwritten.
        """
        self._planned.append(planned)
        if self.overwrite or not planned.path.exists():
            return False
        remedy = "use another output folder, or --overwrite to make it again"
        note = self._notes.get(self._name(planned.path))
        if note is None:
            raise UserError(f"{planned.path} is there already, and what it was made from is not known: {remedy}")
        settings, source = note
        for name, value in self.settings.items():
            if settings.get(name) != value:
                raise UserError(f"{planned.path} was made with {name} {settings.get(name)}, not {value}: {remedy}")
        if source != planned.source:
            raise UserError(f"{planned.path} was made from other input than there is now: {remedy}")
        return True

    def begin(self) -> None:
        """Note all that is planned, before any of it is written; to be called after the last `done`."""
        again = {self._name(planned.path) for planned in self._planned if self.overwrite and planned.path.exists()}
        self._note((planned for planned in self._planned if self._name(planned.path) not in again), again)

    def end(self) -> None:
        """Note what came of it: the files that are there.  A run that wrote nothing leaves nothing."""
        self._note((planned for planned in self._planned if planned.path.exists()), set())
        if not self._notes:
            (self.folder / JOURNAL).unlink(missing_ok=True)
            remove_folders(self._made)

    def _note(self, planned: Iterable[Planned], forget: set[str]) -> None:
        new = {self._name(one.path): (self.settings, one.source) for one in planned}
        self._made = self._made or make_folder(self.folder)
        with FileLock(self.folder / LOCK):
            self._notes = {name: note for name, note in self._read().items() if name not in forget} | new
            self._notes = {n: note for n, note in self._notes.items() if n in new or (self.folder / n).exists()}
            self._write()
            with suppress(OSError):  # Windows removes no open file
                (self.folder / LOCK).unlink()

    def _write(self) -> None:
        """Runs with equal settings share one entry; sorted, so that the bytes do not depend on the order of the work."""
        runs = sorted({json.dumps(settings, sort_keys=True) for settings, _ in self._notes.values()})
        files = {
            name: [runs.index(json.dumps(settings, sort_keys=True)), source]
            for name, (settings, source) in sorted(self._notes.items())
        }
        text = json.dumps({"version": VERSION, "runs": [json.loads(run) for run in runs], "files": files}, indent=0)
        write_bytes(self.folder / JOURNAL, text.encode())

    def _read(self) -> dict[str, tuple[Settings, str]]:
        path = self.folder / JOURNAL
        if not path.is_file():
            return {}
        try:
            values = json.loads(path.read_bytes())
            if values["version"] != VERSION:
                raise ValueError
            return {name: (values["runs"][run], source) for name, (run, source) in values["files"].items()}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise UserError(f"{path} is damaged: remove it, and use --overwrite where files are there") from None

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


class SingleFile:
    """In place of a `Journal`, for an output that is one file: nothing is noted, and what is there is never taken for done."""

    def __init__(self, path: Path, overwrite: bool = False):
        self.path, self.overwrite = path, overwrite

    def done(self, planned: Planned) -> bool:
        """False.  Raises: UserError where the file is there and not to be overwritten."""
        if planned.path.exists() and not self.overwrite:
            raise UserError(f"{planned.path} is there already: give another name, or --overwrite")
        return False

    def begin(self) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""
