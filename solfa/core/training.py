"""What the trainers compute beside their losses: the learning rate's schedule, how much of a run is done, averages of weights."""

import math
import time

import torch
from torch import Tensor, nn


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
    """How much of a run is done, in steps, in minutes, or in both: then whichever comes first ends the run.

    Args:
        steps, minutes: the length of the run; at least one of them is given.
        elapsed: seconds that the run took before it was continued now.
    """

    def __init__(self, steps: int | None, minutes: float | None, elapsed: float = 0.0):
        assert steps is not None or minutes is not None
        self.steps, self.minutes, self.began = steps, minutes, time.monotonic() - elapsed

    def elapsed(self) -> float:
        """Seconds."""
        return time.monotonic() - self.began

    def progress(self, step: int) -> float:
        """The share of the run that is done before step number `step`: 0..1, or more."""
        in_steps = step / self.steps if self.steps is not None else 0.0
        return max(in_steps, self.elapsed() / (60 * self.minutes) if self.minutes is not None else 0.0)


class WeightAverage:
    """Exponential moving average of a model's floating-point state; buffers that are learned elsewhere are copied."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.state: dict[str, Tensor] = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))  # early on, forget the initial weights fast
        names, values = zip(*((n, p.detach()) for n, p in model.named_parameters()), strict=True)
        torch._foreach_lerp_([self.state[n] for n in names], list(values), 1 - decay)
        for name, value in model.named_buffers():
            if name in self.state:
                self.state[name].copy_(value)

    @torch.no_grad()
    def load(self, state: dict[str, Tensor], updates: int) -> None:
        """Go on from a saved average.  Raises: KeyError or RuntimeError where it is of another model."""
        for name, value in self.state.items():
            value.copy_(state[name])
        self.updates = updates
