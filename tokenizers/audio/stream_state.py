"""What layers remember of a sound that comes in pieces.

Each layer is written once, for a piece of sound and a `Stream`, and keeps its state for that sound in a small dataclass of its
own: one model serves any number of sounds at once.  A whole sound is a stream of one piece (`WHOLE`).
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

S = TypeVar("S")


@dataclass
class Past:
    """The last frames of what a layer was given, (B, frames, ...); None at the beginning of the sound."""

    frames: Tensor | None = None


class Stream:
    """One sound.  Time is dimension 1 of all tensors.

    A layer that looks back calls `recall` where it would pad with zeros, and `keep`s what the next piece will need.  A layer
    that looks ahead keeps what it cannot finish yet; once the sound has `ended` it adds what is taken to lie beyond the end.
    """

    def __init__(self, ended: bool = False):
        self.ended = ended  # the present piece is the last
        self._states: dict[nn.Module, Any] = {}

    def state(self, layer: nn.Module, kind: type[S]) -> S:
        """What `layer` remembers of this sound; a new `kind()` at its beginning."""
        state = self._states.get(layer)
        if state is None:
            state = kind()
            if not self.ended:  # otherwise nothing will follow
                self._states[layer] = state
        return state

    def keep(self, past: Past, x: Tensor) -> None:
        """Remember `x` (B, T, ...) for the next piece."""
        if not self.ended:
            past.frames = x.clone()  # a view would hold the whole piece in memory

    def recall(self, past: Past, x: Tensor, zeros: int = 0) -> Tensor:
        """What was kept and then `x` (B, T, ...); before the first piece lie `zeros` frames of silence."""
        before = x.new_zeros(len(x), zeros, *x.shape[2:]) if past.frames is None else past.frames
        return torch.cat([before, x], dim=1) if before.shape[1] else x

    def hold(self, past: Past, x: Tensor, frames: int) -> Tensor:
        """`x` (B, T, ...) without its last `frames`, which come first the next time."""
        x = self.recall(past, x)
        self.keep(past, x[:, -frames:])
        return x[:, :-frames]

    def tensors(self) -> Iterator[Tensor]:
        """All that is remembered."""
        waiting = list(self._states.values())
        while waiting:
            value = waiting.pop()
            if isinstance(value, Tensor):
                yield value
            elif dataclasses.is_dataclass(value):
                waiting += [getattr(value, field.name) for field in dataclasses.fields(value)]
            elif isinstance(value, tuple):
                waiting += value


WHOLE = Stream(ended=True)
"""The stream of a sound that comes as one piece.  It never remembers anything."""
