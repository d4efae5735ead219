"""What every trainer of solfa shares: schedule, moving average of weights, and state that survives a crash.

State is a folder of safetensors and JSON (no pickle), written aside and renamed.
"""

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from solfa.core.atomic import sync_folder
from solfa.core.errors import UserError


def cosine_rate(progress: float, warmup: float = 0.02, floor: float = 0.03) -> float:
    """Learning-rate factor at `progress` in 0..1: linear warm-up, then half a cosine down to `floor`."""
    if progress < warmup:
        return max(progress / warmup, 0.01)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


def wsd_rate(progress: float, warmup: float = 0.02, decay: float = 0.2, floor: float = 0.0) -> float:
    """Learning-rate factor at `progress` in 0..1: warm-up, stable, and over the last `decay` of the run 1 - sqrt down to `floor`.

    A run can go on from any point of its stable part (arXiv 2404.06395; the shape of the end is that of arXiv 2405.18392).
    """
    if progress < warmup:
        return max(progress / warmup, 0.01)
    left = min(1.0, max(0.0, 1 - progress) / decay) if decay else 1.0
    return floor + (1 - floor) * (1 - math.sqrt(1 - left))


class Clock:
    """How much of a run is done, counted in steps, or in minutes where those are given: the same in all processes.

    elapsed: seconds that earlier sittings of the run took.
    """

    def __init__(self, steps: int, minutes: float | None, elapsed: float = 0.0):
        self.steps, self.minutes, self.began = steps, minutes, time.monotonic() - elapsed

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def progress(self, step: int, device: torch.device) -> float:
        """-> 0..1 before step number `step`, as the first process sees it, so that all of them stop together."""
        if self.minutes is None:
            return step / self.steps
        share = torch.tensor(self.elapsed() / (60 * self.minutes), device=device)
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(share, 0)
        return float(share)

    def left(self, step: int, seconds_a_step: float) -> float:
        """Seconds that the rest of the run will take."""
        return max(
            0.0, seconds_a_step * (self.steps - step) if self.minutes is None else 60 * self.minutes - self.elapsed()
        )


class WeightAverage:
    """Exponential moving average of a model's floating-point state; buffers that are learned elsewhere are copied."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))  # early on, forget the initial weights fast
        names, values = zip(*((n, p.detach()) for n, p in model.named_parameters()), strict=True)
        torch._foreach_lerp_([self.state[n] for n in names], list(values), 1 - decay)
        for name, value in model.named_buffers():
            if name in self.state:
                self.state[name].copy_(value)


def save_state(
    folder: Path,
    facts: dict[str, Any],
    modules: dict[str, dict[str, Tensor]],
    optimizers: dict[str, torch.optim.Optimizer],
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
    (aside / "facts.json").write_text(json.dumps(facts))
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
        if (candidate / "facts.json").is_file():
            return candidate
    return None


def load_state(
    folder: Path, optimizers: dict[str, torch.optim.Optimizer]
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """-> (facts, tensors by module); the optimizers are filled in place."""
    facts = json.loads((folder / "facts.json").read_text())
    modules = {}
    for path in sorted(folder.glob("*.safetensors")):
        flat = load_file(path)
        if path.stem not in optimizers:
            modules[path.stem] = flat
            continue
        optimizer = optimizers[path.stem]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in flat.items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        own = optimizer.state_dict()
        if state and len(state) > sum(len(g["params"]) for g in own["param_groups"]):
            raise UserError(f"the saved state in {folder} belongs to another model; choose another output folder")
        optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})
    return facts, modules
