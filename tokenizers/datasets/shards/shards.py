"""Writing tokens: a folder whose files are each whole or absent, and which several processes may fill together.

The finished files are the journal of a run: what they hold is done, anything else is done again, so that a killed run
continues with nothing lost and nothing doubled.  `rejects*.jsonl` is a list for people, `manifest.json` a summary that also keeps the settings.

    tokens/data/tokens-00000.parquet ...            finished files and nothing else (`shard_formats.py`)
    tokens/manifest.json, rejects.jsonl, README.md
    tokens/.writing-*, .lock*, .merging             half a file, and who writes here; gone after an orderly end
    tokens/.open-*                                  what a run that was stopped has left for the next (`open_shard.py`)
"""

import dataclasses
import json
import math
import re
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from solfa.core.atomic import ASIDE, make_folder, remove_folders, write_bytes
from solfa.core.errors import UserError
from solfa.tokenizers.datasets.shards.folder_locks import FolderLock
from solfa.tokenizers.datasets.shards.manifest_file import (
    MANIFEST,
    Settings,
    check_settings,
    read_manifest,
    read_rejects,
)
from solfa.tokenizers.datasets.shards.open_shard import OpenShard, reopen
from solfa.tokenizers.datasets.shards.shard_formats import DATA, FORMATS, MERGING, Format, Header

STALE_SECONDS = 3600.0  # nobody takes as long to write one file


def check_overwrite(folder: Path, overwrite: bool, part: str) -> None:
    """Raises: UserError for one of several runs that would delete what the others write."""
    if overwrite and part:
        raise UserError(f"--overwrite would delete what other parts write to {folder}: delete that folder yourself")


def check_format(folder: Path, header: Header, format: str) -> None:
    """Raises: UserError where tokens lie in another format than this."""
    for name, layout in FORMATS.items():
        if name != format and layout(folder, header).files():
            raise UserError(
                f"{folder} already holds tokens as {name}: use another folder, --format {name} or --overwrite"
            )


def check_header(folder: Path, found: Header, wanted: Header) -> None:
    """Raises: UserError where tokens are another codec's than this."""
    if found != wanted:
        raise UserError(
            f"{folder} already holds tokens of codec {found.codec} ({found.fingerprint}, {found.books} books), "
            f"not {wanted.codec} ({wanted.fingerprint}, {wanted.books} books): use another folder or --overwrite"
        )


def read_whole(files: Format, path: Path, columns: list[str]) -> tuple[Header, list[dict[str, Any]]]:
    """`files.read`, of rows that all have an id and a duration.  Raises: UserError, with the remedy, for a file that is damaged."""
    try:
        header, rows = files.read(path, columns)
        for row in rows:
            if not isinstance(row["id"], str):
                raise UserError(f"{path} is damaged: it has a row without an id")
            if not isinstance(row["duration"], (int, float)) or not math.isfinite(row["duration"]):
                raise UserError(f"{path} is damaged: clip {row['id']!r} has a duration of {row['duration']}")
    except UserError as e:
        raise UserError(f"{e}; delete that file, and its clips are tokenized again") from None
    return header, rows


class ShardWriter:
    """Adds files of rows to a folder; `done` holds the ids that finished files had at the start, and those written since.

    Rows: the columns in `shard_formats.OWN`, codes as an integer array (books, frames), and any others that JSON could hold.

    Args:
        overwrite: delete the tokens there first.
        part: "003of008-" where eight runs fill the folder together, each with its own clips; "" for a run on its own.
        format: "parquet", "webdataset" or "npz".
        settings: by which clips are taken or rejected; kept in the manifest, and the same for all runs that fill the folder.
        corpus: name of what is tokenized, for the manifest.

    Raises: UserError for a folder with another codec's tokens or made with other settings, with damaged shards, with a file in
    the way that solfa did not write, one that is in use, or one that cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        header: Header,
        overwrite: bool = False,
        part: str = "",
        format: str = "parquet",
        settings: Settings | None = None,
        corpus: str = "",
    ):
        assert re.fullmatch(r"(\d+of\d+-)?", part), part
        check_overwrite(folder, overwrite, part)
        self.folder, self.header, self.part = folder, header, part
        self.format_name, self.format = format, FORMATS[format](folder, header)
        self.settings, self.corpus = settings or {}, corpus
        self.done: set[str] = set()
        self.open_state: dict[str, float] | None = None  # of the shard that an earlier run has left open
        self._reopened: list[dict[str, Any]] = []  # its rows
        self._reopened_file: Path | None = None
        self._claimed = False  # whether the manifest holds the settings
        self._manifest_is_new = False
        self._marked: tuple[int, dict[str, float] | None] = (0, None)
        self._seconds = 0.0
        self._files: set[Path] = set()  # those that `done` counts
        self._rows: list[dict[str, Any]] = []
        self._rejects: dict[str, dict[str, str]] = {}
        self._earlier_rejects: dict[str, dict[str, str]] = {}
        self._made = list(dict.fromkeys([folder / DATA, *make_folder(folder / DATA)]))
        self._lock = FolderLock(folder / f".lock-{part.rstrip('-') or 'whole'}")
        self._note = folder / f".open-{part.rstrip('-') or 'whole'}.json"
        self._claim()
        try:
            self._recover(overwrite)
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    @property
    def rows(self) -> int:
        """Rows in finished files, of other parts as well."""
        return len(self.done)

    def add(self, row: dict[str, Any]) -> None:
        """Visible, and done, after the next `flush`."""
        self._rows.append(row)

    def reject(self, clip_id: str, audio: str, reason: str, kind: str = "other") -> None:
        """A clip that could not be tokenized, to be listed by the next `flush`; another run tries it again."""
        self._rejects[clip_id] = {"id": clip_id, "audio": audio, "kind": kind, "reason": reason}

    def mark(self, state: dict[str, float] | None) -> None:
        """All rows so far belong together: what `leave_open` keeps.  state: for the next run; None where they fill the shard."""
        self._marked = (len(self._rows), state)

    def flush(self) -> None:
        """Write what came since the last flush.  Raises: UserError when it cannot be written; what is there stays whole."""
        if self._rows:
            ids = {row["id"] for row in self._rows}
            assert len(ids) == len(self._rows) and not self.done & ids
            self.claim_folder()
            rows = self._reopened + self._rows
            self._files.update(self.format.write(rows, self.part, self._reopened_file))
            self.done.update(ids)
            self._seconds += sum(row["duration"] for row in self._rows)
            self._rows = []
            if not self.part:
                self.write_manifest(complete=False)
        self._reopened, self._reopened_file = [], None
        self._note.unlink(missing_ok=True)
        self._marked = (0, None)
        self._write_rejects({**self._earlier_rejects, **self._rejects})

    def leave_open(self) -> None:
        """Write the rows up to the last `mark`, as the beginning of a shard that the next run goes on with."""
        rows, state = self._marked
        if not rows:
            return
        self._rows = self._rows[:rows]
        if state is None:
            return self.flush()
        rows = len(self._reopened) + len(self._rows)
        file = self._reopened_file
        before = set(self._files)
        self.flush()
        written = sorted(self._files - before) or ([file] if file else [])
        name = written[0].name if self.format_name != "npz" else ""
        OpenShard(name, rows if name else 0, len(self.format.files()), state).write(self._note)

    def write_manifest(self, complete: bool) -> None:
        """`manifest.json`; complete: whether this run, or part, reached the end of its corpus, so that older rejects are history."""
        path = self.folder / MANIFEST
        totals: dict[str, Any] = {}
        with FolderLock(self.folder / MERGING):
            earlier_manifest = read_manifest(self.folder)
            if complete:
                self._count_new_files()  # of other processes
            if self.part:
                this, count = self.part.rstrip("-"), int(self.part.rstrip("-").split("of")[1])
                earlier = earlier_manifest.get("parts", [])
                parts = sorted(
                    {p for p in earlier if p.split("of")[1] == this.split("of")[1]} | ({this} if complete else set())
                )
                totals["parts"], complete_all = parts, len(parts) == count
            else:
                complete_all = complete
            totals |= {
                "files": len(self._files),
                "rows": self.rows,
                "hours": round(self._seconds / 3600, 4),
                "complete": complete_all,
            }
            totals |= self._origin(earlier_manifest)
            text = (
                json.dumps({**dataclasses.asdict(self.header), "format": self.format_name, **totals}, indent=2) + "\n"
            )
            write_bytes(path, text.encode())
        if complete:
            self._earlier_rejects = {}
            self._write_rejects(self._rejects)

    def claim_folder(self) -> None:
        """Note the settings, before anything else is written: a run that was killed is not to be continued with others.

        Raises: UserError where another run has just begun with other settings.
        """
        if self._claimed:
            return
        if self.settings or self.corpus:
            with FolderLock(self.folder / MERGING):
                manifest = read_manifest(self.folder)
                others = any(path != self._lock.path for path in self.folder.glob(".lock-*"))
                if self._files or others:
                    check_settings(self.folder, manifest, self.settings)
            self._manifest_is_new = not manifest
            self.write_manifest(complete=False)
        self._claimed = True

    def _origin(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """What the manifest keeps of how the rows came about."""
        corpora = set(manifest.get("corpora", [])) if self._files else set()
        known = "corpora" in manifest or not self._files  # an older folder does not tell where its rows came from
        found = {
            "settings": self.settings or manifest.get("settings"),
            "corpora": sorted(corpora | {self.corpus} - {""}) if known else [],
        }
        return {name: value for name, value in found.items() if value}

    def _write_rejects(self, rejects: dict[str, dict[str, str]]) -> None:
        """`rejects.jsonl`, or that of this part: one line a clip; no file when there are none, or nothing else either."""
        path = self._rejects_path()
        lines = [
            json.dumps(reject, ensure_ascii=False) + "\n" for name, reject in rejects.items() if name not in self.done
        ]
        if not lines:
            path.unlink(missing_ok=True)
        elif self.rows:
            write_bytes(path, "".join(lines).encode("utf-8", "replace"))

    def _rejects_path(self) -> Path:
        return self.folder / (f"rejects-{self.part.rstrip('-')}.jsonl" if self.part else "rejects.jsonl")

    def _claim(self) -> None:
        """Ours alone, and no living writer divides the corpus in another way, which would do clips twice."""
        if not self._lock.take():
            raise UserError(
                f"another run is writing to {self.folder}" + f" (part {self.part.rstrip('-')})" * bool(self.part)
            )
        division = self.part.partition("of")[2].rstrip("-")
        for path in self.folder.glob(".lock-*"):
            if path.name.partition("of")[2] != division:
                other = FolderLock(path)
                if not other.take():
                    self._release()
                    raise UserError(
                        f"another run is writing to {self.folder}, and it divides the corpus in another way ({path.name[6:]})"
                    )
                other.give_back()

    def _recover(self, overwrite: bool) -> None:
        manifest = read_manifest(self.folder)
        self._earlier_rejects = read_rejects(self._rejects_path())
        layouts = {name: layout(self.folder, self.header) for name, layout in FORMATS.items()}
        for leftover in self.folder.glob(f"{ASIDE}*"):
            if (
                not self.part
                or f"-tokens-{self.part}" in leftover.name
                or time.time() - leftover.stat().st_mtime > STALE_SECONDS
            ):
                leftover.unlink(missing_ok=True)
        if overwrite:
            tokens = [path for layout in layouts.values() for path in layout.files()]
            for pattern in (MANIFEST, "rejects*.jsonl", ".open-*.json"):
                tokens += self.folder.glob(pattern)
            for old in tokens:
                old.unlink()
            self._earlier_rejects = {}
            remove_folders(sorted((path for path in (self.folder / DATA).rglob("*") if path.is_dir()), reverse=True))
        check_format(self.folder, self.header, self.format_name)
        self._count_new_files()
        if self._files:
            check_settings(self.folder, manifest, self.settings)
        self._reopen()

    def _reopen(self) -> None:
        found, rows = reopen(self._note, self.format)
        if found is None:
            self._note.unlink(missing_ok=True)
            return
        self.open_state, self._reopened = found.state, rows
        self._reopened_file = self.folder / DATA / found.file if found.file else None

    def _count_new_files(self) -> None:
        for path in self.format.files():
            if path in self._files:
                continue
            found, rows = read_whole(self.format, path, ["id", "duration"])
            check_header(self.folder, found, self.header)
            self._files.add(path)
            self.done.update(row["id"] for row in rows)
            self._seconds += sum(row["duration"] for row in rows)

    def _release(self) -> None:
        if self._manifest_is_new and not self._files:
            with suppress(OSError):
                (self.folder / MANIFEST).unlink()
        self._lock.give_back()
        if not any(self.folder.glob(".lock-*")):
            remove_folders(self._made)  # a run that wrote nothing leaves nothing
