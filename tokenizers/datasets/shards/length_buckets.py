"""Batches of like length for training on tokens: which row is in which batch, and how a batch is padded.

Nothing here reads tokens; `TokenDataset.frames()` gives the lengths.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

SPREAD = 0.05  # lengths are multiplied by 1 plus or minus so much before they are sorted, so that batches differ between epochs


class LengthBuckets(Sampler[list[int]]):
    """A batch sampler: each row once per epoch, in batches of at most `batch_frames` frames when padded to the longest.

    A row longer than `batch_frames` is a batch of its own.  The batches follow from (seed, epoch) alone, so a run that
    was stopped after n of them goes on with `set_epoch(epoch, skip=n)`.  With `world` processes each gets as many
    batches, and batches of like length at the same step; only when all batches are of one row do some come twice for it.

    Args:
        frames: (rows,) length of each row.
        rank, world: which of how many processes this is.

    Raises: ValueError for fewer rows than processes.
    """

    def __init__(
        self, frames: Sequence[int] | NDArray[np.int64], batch_frames: int, seed: int = 0, rank: int = 0, world: int = 1
    ):
        self.frames = np.asarray(frames, np.int64)
        if not 0 <= rank < world <= max(1, len(self.frames)):
            raise ValueError(f"rank {rank} of {world} processes cannot share {len(self.frames)} rows")
        self.batch_frames, self.seed, self.rank, self.world = batch_frames, seed, rank, world
        self.set_epoch(0)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Go to another epoch; the next iteration leaves out the first `skip` of this process's batches."""
        rng = np.random.default_rng((self.seed, epoch))
        blurred = (self.frames + 1) * rng.uniform(1 - SPREAD, 1 + SPREAD, len(self.frames))
        batches = self._divisible(self._cut(np.lexsort((rng.random(len(self.frames)), blurred))))
        steps = rng.permutation(len(batches) // self.world)
        self._batches = [batches[step * self.world + self.rank] for step in steps]
        self._skip = skip

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._batches[self._skip :]

    def _cut(self, order: NDArray[np.int64]) -> list[list[int]]:
        batches: list[list[int]] = []
        longest = 0
        for row in order.tolist():
            longest = max(longest, int(self.frames[row]))
            if batches and (len(batches[-1]) + 1) * longest <= self.batch_frames:
                batches[-1].append(row)
            else:
                batches.append([row])
                longest = int(self.frames[row])
        return batches

    def _divisible(self, batches: list[list[int]]) -> list[list[int]]:
        """Halve the largest batches until every process has as many."""
        while len(batches) % self.world:
            at = max(range(len(batches)), key=lambda i: len(batches[i]))
            if len(batches[at]) == 1:
                return batches + batches[: -len(batches) % self.world]
            half = len(batches[at]) // 2
            batches[at : at + 1] = [batches[at][:half], batches[at][half:]]
        return batches


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of a `TokenDataset` as a batch: codes (B, books, T), zero after each row's end; frames (B,); the rest in lists."""
    batch: dict[str, Any] = {
        name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)
    }
    batch["frames"] = torch.tensor([row["codes"].shape[1] for row in rows])
    batch["codes"] = torch.stack(
        [torch.nn.functional.pad(row["codes"], (0, int(batch["frames"].max()) - row["codes"].shape[1])) for row in rows]
    )
    return batch
