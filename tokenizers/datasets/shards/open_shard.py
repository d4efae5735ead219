"""A shard that a run has left open: when it is stopped, what it has finished is written, and noted as the beginning of a shard.

The next run reads that shard back and goes on in it, so that in the end the files are those of a run that nobody stopped.  The
note is `.open-PART.json` in the folder of tokens; where it does not fit the files any more, the shard just is a small one.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solfa.core.atomic import write_bytes
from solfa.core.errors import UserError
from solfa.tokenizers.datasets.shards.shard_formats import Format


@dataclass(frozen=True)
class OpenShard:
    """file: the name of the shard's file, "" for a format that writes one for each clip; rows in it; files in the folder.

    state: what the engine needs to go on.
    """

    file: str
    rows: int
    files: int
    state: dict[str, float]

    def write(self, path: Path) -> None:
        """Note it at `path`."""
        write_bytes(path, json.dumps(dataclasses.asdict(self)).encode())


def reopen(note: Path, files: Format) -> tuple[OpenShard | None, list[dict[str, Any]]]:
    """The shard that `note` tells of, and its rows with their codes; nothing where it is gone, or was written since."""
    try:
        found = OpenShard(**json.loads(note.read_bytes()))
        there = files.files()
        if not found.file:
            return (found, []) if found.files == len(there) else (None, [])
        path = next(path for path in there if path.name == found.file)
        rows = files.read_all(path)
    except (
        OSError,
        ValueError,
        TypeError,
        StopIteration,
        UserError,
    ):  # UserError: damaged, which is reported elsewhere
        return None, []
    return (found, rows) if len(rows) == found.rows else (None, [])
