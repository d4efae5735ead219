"""`manifest.json` of a folder of tokens: the codec, what there is, and with which settings it was made from which corpora."""

import json
from pathlib import Path
from typing import Any

from solfa.core.errors import UserError

MANIFEST = "manifest.json"
OWN_KEYS = {"codec", "fingerprint", "books", "format_version", "rows"}

Settings = dict[str, Any]


def read_manifest(folder: Path) -> dict[str, Any]:
    """What it holds; nothing where there is none.  Raises: UserError for a file of that name that solfa did not write."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, OSError):
        values = None
    if not isinstance(values, dict) or not values.keys() >= OWN_KEYS:
        raise UserError(f"{path} was not written by solfa tokenize, and is left alone: give another output folder")
    return values


def check_settings(folder: Path, manifest: dict[str, Any], wanted: Settings) -> None:
    """Raises: UserError where the rows there were made with other settings; older folders do not say with which."""
    made = manifest.get("settings")
    if not isinstance(made, dict):
        return
    for name, value in wanted.items():
        if name in made and made[name] != value:
            raise UserError(
                f"{folder} was made with --{name} {_shown(made[name])}, not {_shown(value)}: "
                "use the same, another folder, or --overwrite"
            )


def _shown(value: Any) -> str:
    return "left out" if value in (None, False) else "given" if value is True else f"{value}"


def read_rejects(path: Path) -> dict[str, dict[str, str]]:
    """The clips of a `rejects.jsonl`, by id; nothing where there is none.  Raises: UserError for one that solfa did not write."""
    if not path.exists():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {row["id"]: {key: row[key] for key in ("id", "audio", "kind", "reason")} for row in rows}
    except (ValueError, KeyError, TypeError, OSError):
        raise UserError(
            f"{path} was not written by solfa tokenize, and is left alone: give another output folder"
        ) from None
