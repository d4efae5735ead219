"""Multi-token prediction: light blocks that guess the steps after the next one (MiMo-V2-Flash, arXiv 2601.02780, 2.3).

Block k joins what block k - 1 holds at step t (the decoder's own state for k = 1) with the input of step t + k, runs one
sliding-window layer over them, and its state at t is about step t + k + 1.  Embeddings and heads are the model's.  In
training the blocks are an auxiliary loss; at inference `Drafter` runs them, and `solfa.omni.generation.speculative` verifies.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from solfa.omni.decoder.cache import DecoderCache
from solfa.omni.decoder.decoder import DecoderConfig, HybridDecoder
from solfa.omni.model.grid import next_step

Draft = TypeVar("Draft")


class MTPBlock(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.input_norm, self.state_norm = config.norm(config.dim), config.norm(config.dim)
        self.join = nn.Linear(2 * config.dim, config.dim, bias=False)
        self.decoder = HybridDecoder(dataclasses.replace(config, layers=1, full_layers=(), moe=None))

    def forward(
        self,
        states: Tensor,
        inputs: Tensor,
        cache: DecoderCache | None = None,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """states, inputs: (B, T, D), the inputs being those of later steps -> (B, T, D), normalised."""
        x = self.join(torch.cat([self.input_norm(inputs), self.state_norm(states)], dim=-1))
        return self.decoder(x, cache=cache, mask=mask, segments=segments)


class MTP(nn.ModuleList):
    """`blocks` blocks, chained."""

    def __init__(self, config: DecoderConfig, blocks: int):
        super().__init__(MTPBlock(config) for _ in range(blocks))

    def forward(self, states: Tensor, inputs: Tensor, segments: Tensor | None = None) -> list[Tensor]:
        """What each block predicts, the true sequence being known.

        states, inputs: (B, T, D), the decoder's outputs and inputs; segments as for `HybridDecoder.forward`.
        Returns: (B, T, D) for each block; row t of the k-th is about step t + k + 1, and means nothing where that step is
            past the end or in another segment.
        """
        found = []
        for block in self:
            inputs = next_step(inputs, 0)
            states = block(states, inputs, segments=segments)
            found.append(states)
        return found


def copied(tensors: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """The tensors of a model with one block -> those of one with several, each a copy of it."""
    copies = {
        f"mtp.{k}.{name.removeprefix('mtp.0.')}": value
        for name, value in tensors.items()
        if name.startswith("mtp.0.")
        for k in range(1, blocks)
    }
    return {**tensors, **copies}


class Drafter:
    """The blocks at inference: told which steps are certain, they draft those that follow.

    At step t the k-th block needs the input of step t + k, so it lags k - 1 steps behind the first.  What it holds of steps
    whose inputs were only drafted is taken back at the end of a round, and read again when the true inputs are known.
    """

    def __init__(self, mtp: MTP, drafts: int):
        if not 0 < drafts <= len(mtp):
            raise ValueError(f"{drafts} drafts are to be made by {len(mtp)} blocks of multi-token prediction")
        self.blocks = [cast(MTPBlock, block) for block in mtp][:drafts]
        self.caches = [block.decoder.new_cache(slack=2 * drafts) for block in self.blocks]
        self.tails: list[Tensor] = []  # (B, 1, D) of each block: what it holds at its last certain step
        self.past: Tensor | None = None  # (B,) certain steps before this round

    def draft(
        self, states: Tensor, inputs: Tensor, counts: Tensor, write: Callable[[Tensor], tuple[Draft, Tensor]]
    ) -> list[Draft]:
        """Draft as many steps as there are blocks.

        Args:
            states: (B, n, D), the decoder's at the steps that have become certain since the last call.
            inputs: (B, n, D), the decoder's inputs at the steps after those.
            counts: (B,), how many of the n steps of each row there are; the others are padding.  0 leaves a row alone.
            write: states (B, D) about a step -> what is drafted there, and its decoder input (B, D).
        """
        batch, n, dim = states.shape
        past = torch.zeros_like(counts) if self.past is None else self.past
        if not self.tails:
            self.tails = [states.new_zeros(batch, 1, dim) for _ in self.blocks]
        inputs = torch.cat([inputs, inputs.new_zeros(batch, len(self.blocks), dim)], dim=1)
        rows, alive, last = torch.arange(batch, device=states.device), counts > 0, (counts - 1).clamp(min=0)
        whole = bool((counts == n).all() & (past >= len(self.blocks)).all())  # no padding: that is worth a quicker way
        tails, found = [], []
        for k, (block, cache) in enumerate(zip(self.blocks, self.caches, strict=True)):
            if k:
                states = torch.cat([self.tails[k - 1], states], dim=1)
            mask = None
            if not whole:
                place = torch.arange(n + k, device=states.device)
                step = past[:, None] - k + place  # before the first certain step there is nothing
                mask = (step >= 0) & (place < counts[:, None] + k) & alive[:, None]
            states = block(states, inputs[:, : n + k], cache, mask)
            if whole:
                cache.rollback((cache.length if cache.lengths is None else cache.lengths) - k)
                tails.append(states[:, n - 1 : n])
                draft, inputs[:, n + k] = write(states[:, n - 1 + k])
            else:
                cache.rollback((past + counts - k).clamp(min=0))
                tails.append(torch.where(alive[:, None, None], states[rows, last][:, None], self.tails[k]))
                draft, inputs[rows, last + 1 + k] = write(states[rows, last + k])
            found.append(draft)
        self.tails = tails
        self.past = past + counts
        return found
