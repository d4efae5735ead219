"""The state of a training run on disk: a folder of safetensors and JSON (no pickle) that survives a crash at any moment.

A new state is written aside and renamed.  `facts.json` holds numbers and the run's settings; every other file the tensors of
a part, an optimizer's moments as `INDEX.NAME`.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from solfa.core.atomic import sync_folder
from solfa.core.errors import UserError

FACTS = "facts.json"
MAY_CHANGE = frozenset(  # settings that a run may be continued with: they decide when it ends, what it shows, and how fast it is
    "out steps minutes save_every evaluate_every evaluate_clips evaluate_rows log_every threads workers rows_at_once checkpointing".split()
)


def save_state(
    folder: Path,
    facts: dict[str, Any],
    modules: dict[str, dict[str, Tensor]],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Replace `folder` with the run's state: JSON facts, named tensors, optimizer moments."""
    aside, old = folder.with_name(folder.name + ".writing"), folder.with_name(folder.name + ".old")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name, tensors in modules.items():
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, aside / f"{name}.safetensors")
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()["state"]
        flat = {f"{i}.{k}": v.detach().cpu().clone() for i, values in state.items() for k, v in values.items()}
        save_file(flat, aside / f"{name}.safetensors")
    (aside / FACTS).write_text(json.dumps(facts))
    for path in aside.iterdir():  # a rename may otherwise outlive the loss of power that its content does not
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    sync_folder(aside)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(aside, folder)
    shutil.rmtree(old, ignore_errors=True)


def find_state(folder: Path) -> Path | None:
    """The newest whole state, also when the last run died between two renames."""
    for candidate in (folder, folder.with_name(folder.name + ".writing"), folder.with_name(folder.name + ".old")):
        if (candidate / FACTS).is_file():
            return candidate
    return None


def read_facts(folder: Path) -> dict[str, Any]:
    """Raises: UserError for a state whose `facts.json` is damaged."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise damaged(folder, FACTS) from None
    if not isinstance(facts, dict):
        raise damaged(folder, FACTS)
    return facts


def load_state(
    folder: Path, optimizers: Mapping[str, torch.optim.Optimizer]
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """-> (facts, tensors by part); the optimizers are filled in place.

    Raises: UserError for a file that is damaged, or an optimizer's of other parameters.
    """
    facts, parts = read_facts(folder), {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            parts[path.stem] = load_file(path)
        except (OSError, SafetensorError):
            raise damaged(folder, path.name) from None
    for name, optimizer in optimizers.items():
        if name not in parts:
            raise damaged(folder, f"{name}.safetensors")
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in parts.pop(name).items():
            index, _, what = key.partition(".")
            state.setdefault(int(index), {})[what] = value
        own = optimizer.state_dict()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        fits = all(
            i < len(parameters) and (v.dim() == 0 or v.shape == parameters[i].shape)
            for i, values in state.items()
            for v in values.values()
        )
        if not fits:
            raise another_model(folder)
        optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})
    return facts, parts


def damaged(folder: Path, file: str) -> UserError:
    return UserError(
        f"{folder / file} is missing or damaged, so the run cannot be continued: remove {folder} to begin it again, "
        f"or give another out= and init={folder.parent / 'checkpoint'} to go on from its weights"
    )


def another_model(folder: Path) -> UserError:
    return UserError(f"the saved state in {folder} belongs to another model; choose another output folder")


def settings_of(recipe: Any) -> dict[str, Any]:
    """The settings of a recipe (a dataclass) that must stay as they are while a run goes on: JSON values by dotted names."""
    flat: dict[str, Any] = {}

    def add(prefix: str, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                add(f"{prefix}{key}.", value)
            else:
                flat[f"{prefix}{key}"] = value

    add("", json.loads(json.dumps(dataclasses.asdict(cast(Any, recipe)))))
    return {key: value for key, value in flat.items() if key not in MAY_CHANGE}


def check_settings(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises: UserError where a run would be continued with other settings than it was begun with."""
    for key in [*now, *(key for key in before if key not in now)]:
        if before.get(key) != now.get(key):
            raise UserError(
                f"the run in {out} was begun with {key}={before.get(key)}, not {now.get(key)}: continue it with that, "
                f"or give another out= (and init={out / 'checkpoint'} to go on from its weights)"
            )
