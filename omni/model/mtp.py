"""Multi-token prediction: light blocks that predict the steps after the next one (MiMo-V2-Flash, arXiv 2601.02780, 2.3).

Block k joins the state of block k - 1 at step t (the decoder's state for k = 1) with the input of step t + k and runs one
sliding-window layer over them; its state at t predicts step t + k + 1.  Embeddings and heads are the model's.  In training
the blocks are an auxiliary loss; at inference `Drafter` runs them, and `solfa.omni.generation.speculative` verifies.
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
    """One block: two norms, a linear layer, one sliding-window layer of the decoder's configuration."""

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
        """states, inputs: (B, T, D), the inputs being those of later steps -> (B, T, D), normalised.

        The others as for `HybridDecoder.forward`.
        """
        x = self.join(torch.cat([self.input_norm(inputs), self.state_norm(states)], dim=-1))
        return self.decoder(x, cache=cache, mask=mask, segments=segments)


class MTP(nn.ModuleList):
    """`blocks` blocks, each on the states of the one before."""

    def __init__(self, config: DecoderConfig, blocks: int):
        super().__init__(MTPBlock(config) for _ in range(blocks))

    def forward(self, states: Tensor, inputs: Tensor, segments: Tensor | None = None) -> list[Tensor]:
        """The states of all blocks by teacher forcing.

        states, inputs: (B, T, D), the decoder's outputs and inputs; segments as for `HybridDecoder.forward`.
        Returns: (B, T, D) for each block; row t of the k-th predicts step t + k + 1, and is undefined where that step is
            past the end or in another segment.
        """
        outputs = []
        for block in self:
            inputs = next_step(inputs, 0)
            states = block(states, inputs, segments=segments)
            outputs.append(states)
        return outputs


def repeat_mtp_block(tensors: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """The state dict of a model with one block -> that of a model with `blocks` blocks, each a copy of the one."""
    copies = {
        f"mtp.{k}.{name.removeprefix('mtp.0.')}": value
        for name, value in tensors.items()
        if name.startswith("mtp.0.")
        for k in range(1, blocks)
    }
    return {**tensors, **copies}


class Drafter:
    """The blocks at inference: given the accepted steps, they draft those that follow.

    At step t the k-th block needs the input of step t + k, so it lags k - 1 steps behind the first.  Steps whose inputs were
    only drafted are rolled back in its cache at the end of a round, and run again once the accepted inputs are known.

    Raises: ValueError for more drafts than blocks, or none.
    """

    def __init__(self, mtp: MTP, drafts: int):
        if not 0 < drafts <= len(mtp):
            raise ValueError(f"{drafts} drafts are to be made by {len(mtp)} blocks of multi-token prediction")
        self.blocks = [cast(MTPBlock, block) for block in mtp][:drafts]
        self.caches = [block.decoder.new_cache(slack=2 * drafts) for block in self.blocks]
        self.last_states: list[Tensor] = []  # (B, 1, D) of each block: its state at its last accepted step
        self.past: Tensor | None = None  # (B,) accepted steps before this round

    def draft(
        self, states: Tensor, inputs: Tensor, counts: Tensor, propose: Callable[[Tensor], tuple[Draft, Tensor]]
    ) -> list[Draft]:
        """Draft as many steps as there are blocks.

        Args:
            states: (B, n, D), the decoder's at the steps accepted since the last call.
            inputs: (B, n, D), the decoder's inputs at the steps after those.
            counts: int (B,), how many of the n steps each row has; the others are padding.  0 leaves a row as it is.
            propose: states (B, D) -> the draft of the step that they predict, and its decoder input (B, D).

        Returns: the drafts, in order of steps.
        """
        batch, n, dim = states.shape
        past = torch.zeros_like(counts) if self.past is None else self.past
        if not self.last_states:
            self.last_states = [states.new_zeros(batch, 1, dim) for _ in self.blocks]
        inputs = torch.cat([inputs, inputs.new_zeros(batch, len(self.blocks), dim)], dim=1)
        rows, active, last = torch.arange(batch, device=states.device), counts > 0, (counts - 1).clamp(min=0)
        no_padding = bool((counts == n).all() & (past >= len(self.blocks)).all())  # then there is a faster way
        last_states, drafts = [], []
        for k, (block, cache) in enumerate(zip(self.blocks, self.caches, strict=True)):
            if k:
                states = torch.cat([self.last_states[k - 1], states], dim=1)
            mask = None
            if not no_padding:
                column = torch.arange(n + k, device=states.device)
                step = past[:, None] - k + column  # negative before the sequence's first step
                mask = (step >= 0) & (column < counts[:, None] + k) & active[:, None]
            states = block(states, inputs[:, : n + k], cache, mask)
            if no_padding:
                cache.rollback(cache.row_lengths - k)
                last_states.append(states[:, n - 1 : n])
                draft, inputs[:, n + k] = propose(states[:, n - 1 + k])
            else:
                cache.rollback((past + counts - k).clamp(min=0))
                last_states.append(torch.where(active[:, None, None], states[rows, last][:, None], self.last_states[k]))
                draft, inputs[rows, last + 1 + k] = propose(states[rows, last + k])
            drafts.append(draft)
        self.last_states = last_states
        self.past = past + counts
        return drafts
