"""An estimate of each coefficient of the waveform from all that was coded around it: the last step of decoding.

A small convolutional network along frequency, over one step of the transform and a few before it.  It decides nothing about codes,
so that a better one leaves tokens valid.  Without training it changes nothing.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.tokenizers.audio.stream_state import WHOLE, Past, Stream

CLUES = 5  # input channels: numbers about a coefficient


@dataclass
class RefinementState:
    """clues: (B, past, CLUES, step) of the steps before this piece."""

    clues: Past = field(default_factory=Past)


class Refinement(nn.Module):
    """width: channels; step: coefficients in a step of the transform; past: steps before it that are inputs too."""

    def __init__(self, width: int, step: int, past: int, layers: int = 3, kernel: int = 5):
        super().__init__()
        self.step, self.past = step, past
        self.place = nn.Parameter(torch.zeros(width, step))  # what is usual at this frequency
        self.enter = nn.Conv1d((past + 1) * CLUES, width, kernel, padding=kernel // 2)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, kernel, padding=kernel // 2) for _ in range(layers))
        self.leave = nn.Conv1d(width, 3, 1)
        for p in self.leave.parameters():
            nn.init.zeros_(p)

    def forward(
        self,
        guess: Tensor,
        made: Tensor,
        known: Tensor,
        coarse: Tensor,
        usual: Tensor,
        left: Tensor,
        stream: Stream = WHOLE,
    ) -> Tensor:
        """All (B, T, hop), whole steps one after the other -> better coefficients (B, T, hop).

        guess: what to begin with; made: what codes give, 0 where nothing is coded; known: where something is; coarse: of the
        sound without these codes; usual: the expected magnitude; left: the expected magnitude of what is not coded.
        """
        clues = torch.stack(
            [
                (made / usual).asinh(),
                (coarse / usual).asinh(),
                known.float(),
                (usual + 1e-6).log() / 4,
                (left + 1e-6).log() / 4,
            ],
            dim=-1,
        )
        clues = clues.unflatten(2, (-1, self.step)).flatten(1, 2).mT  # (B, steps, CLUES, step)
        state = stream.state(self, RefinementState)
        steps = stream.recall(state.clues, clues, self.past)
        stream.keep(state.clues, steps[:, -self.past :])
        shifted = [steps[:, self.past - ago :][:, : clues.shape[1]] for ago in range(self.past + 1)]
        x = self.enter(torch.cat(shifted, dim=2).flatten(0, 1)) + self.place
        for layer in self.layers:
            x = x + layer(F.gelu(x))
        of_made, of_coarse, of_usual = (
            self.leave(F.gelu(x)).unflatten(0, clues.shape[:2]).unbind(2)
        )  # (B, steps, step) each
        parts = zip((of_made, of_coarse, of_usual), (made, coarse, usual), strict=True)
        return guess + sum(share.reshape(guess.shape) * part for share, part in parts)
