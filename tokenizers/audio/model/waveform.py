"""Codebooks for the waveform itself, beyond those of the residual VQ: from speech tokens towards near-lossless.

The residual VQ gives the magnitude of each frequency, and with it which coefficients of a lapped transform (MDCT, Princen &
Bradley 1986) matter most.  Each of these books codes the `values` coefficients of a frame that matter most by then, divided by
the magnitude that is expected of them; a coefficient that was coded matters less from then on, and may be coded again.  That is
the greedy allocation of bits by expected error, with nothing to send but codes.

Which coefficients those are must be the same wherever codes are made and read, so expectations are integers throughout: sums of
products below 2^53 are exact in float64 in any order.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.tokenizers.audio.layers import linear
from solfa.tokenizers.audio.model.refinement import Refinement
from solfa.tokenizers.audio.stream_state import WHOLE, Past, Stream

UNIT = 1 << 12  # the integer that stands for a cube-rooted magnitude of 1
LATENT_UNIT, SHIFT = 1 << 8, 1 << 10  # of latents; prior weights are multiples of UNIT / LATENT_UNIT / SHIFT
LEAST = UNIT // 40  # what is expected at least
FALL = round(0.5 ** (1 / 3) * UNIT)  # factor on what is expected of a coefficient that was just coded
# Of the coarse sound where nothing was coded this share is taken, less beside louder coefficients, up to so many away.
FILL, VALLEY, NEAR = 0.7, 0.4, 3


@dataclass
class WaveState:
    """samples: (B, step), the last ones; tail: (B, 1, step), the second half of the last step; latents: (B, 1, dim), the last."""

    samples: Past = field(default_factory=Past)
    tail: Past = field(default_factory=Past)
    latents: Past = field(default_factory=Past)


class WaveformBooks(nn.Module):
    """`books` codebooks of `size` vectors of `values` coefficients each.

    A frame of `hop` samples is some steps of the transform, `step` samples each; `dim`: of the latents that expectations are
    made from; `refine`: width of the network that does the last step of decoding, 0 for none; `past`: steps before each that
    are its inputs.
    """

    prior: Tensor
    codebooks: Tensor
    basis: Tensor

    def __init__(
        self, books: int, size: int, values: int, dim: int, hop: int, step: int, refine: int = 0, past: int = 1
    ):
        super().__init__()
        assert hop % step == 0
        self.hop, self.step, self.values = hop, step, values
        self.register_buffer("prior", torch.zeros(2 * dim + 1, hop, dtype=torch.int16))
        self.register_buffer("codebooks", torch.randn(books, size, values))
        self.refinement = Refinement(refine, step, past) if refine else None
        n, k = torch.arange(2 * self.step)[:, None].double(), torch.arange(self.step).double()
        window = torch.sin(math.pi / (2 * self.step) * (n + 0.5))
        basis = window * torch.cos(math.pi / self.step * (n + 0.5 + self.step / 2) * (k + 0.5)) * (2 / self.step) ** 0.5
        self.register_buffer("basis", basis.float(), persistent=False)  # (2 step, step)

    # ---- the transform ----------------------------------------------------------------------------------------------

    def analyse(self, x: Tensor, stream: Stream = WHOLE) -> Tensor:
        """Samples (B, T * hop) -> coefficients (B, T, hop); a step begins `step` samples before its own."""
        state = stream.state(self, WaveState)
        x = stream.recall(state.samples, x, self.step)
        stream.keep(state.samples, x[:, -self.step :])
        return linear(x.unfold(1, 2 * self.step, self.step), self.basis.T).flatten(1).unflatten(1, (-1, self.hop))

    def synthesise(self, coefficients: Tensor, stream: Stream = WHOLE) -> Tensor:
        """Coefficients (B, T, hop) -> samples (B, T * hop), `step` samples late: overlapped and added."""
        pieces = coefficients.flatten(1).unflatten(1, (-1, self.step)) @ self.basis.T  # (B, T * parts, 2 step)
        first, second = pieces.chunk(2, dim=-1)
        state = stream.state(self, WaveState)
        second = stream.recall(state.tail, second, 1)
        stream.keep(state.tail, second[:, -1:])
        return (first + second[:, :-1]).flatten(1)

    # ---- expectations -----------------------------------------------------------------------------------------------

    def context(self, vectors: Tensor, stream: Stream = WHOLE) -> Tensor:
        """What each book adds to the latents, (k, B, T, dim) -> (B, T, 2 dim + 1) whole numbers: this frame's latent, the one
        before it, and one.
        """
        now = (vectors.double() * LATENT_UNIT).round().sum(0)
        state = stream.state(self, WaveState)
        both = stream.recall(state.latents, now, 1)
        stream.keep(state.latents, now[:, -1:])
        return torch.cat([now, both[:, :-1], torch.full_like(now[..., :1], LATENT_UNIT)], dim=-1)

    def expect(self, vectors: Tensor, stream: Stream = WHOLE) -> Tensor:
        """vectors: (k, B, T, dim) -> int64 (B, T, hop): the expected cube-rooted magnitude of each coefficient, in UNITs."""
        scaled = self.context(vectors, stream) @ self.prior.double()
        return (scaled / SHIFT).floor().long().clamp_min(LEAST)

    def choose(self, expected: Tensor) -> tuple[Tensor, Tensor]:
        """expected: int64 (N, hop) -> which coefficients the next book codes (N, values), and their scale."""
        unique = expected * self.hop + torch.arange(self.hop, device=expected.device)  # no ties, which would be open
        chosen = unique.topk(self.values).indices
        return chosen, (expected.gather(1, chosen).float() / UNIT).pow(3)

    # ---- codes ------------------------------------------------------------------------------------------------------

    def encode(self, coefficients: Tensor, expected: Tensor, books: int) -> Tensor:
        """(B, T, hop) and what `expect` gave -> int64 (B, books, T)."""
        left, due = coefficients.flatten(0, 1).clone(), expected.flatten(0, 1).clone()
        codes = []
        for book in self.codebooks[:books]:
            chosen, scale = self.choose(due)
            # |u - c|^2 up to |u|^2
            codes.append((book.square().sum(-1) - 2 * linear(left.gather(1, chosen) / scale, book)).argmin(-1))
            left.scatter_add_(1, chosen, -book[codes[-1]] * scale)
            fall(due, chosen)
        return torch.stack(codes).unflatten(1, coefficients.shape[:2]).transpose(0, 1)

    def decode(self, codes: Tensor, expected: Tensor, coarse: Tensor, stream: Stream = WHOLE) -> Tensor:
        """int64 (B, k, T) of the first k books -> coefficients (B, T, hop); `coarse`: what to take where none was coded."""
        due = expected.flatten(0, 1).clone()
        made, known = torch.zeros_like(due, dtype=torch.float32), torch.zeros_like(due, dtype=torch.bool)
        for book, index in zip(self.codebooks, codes.transpose(0, 1).flatten(1), strict=False):
            chosen, scale = self.choose(due)
            made.scatter_add_(1, chosen, book[index] * scale)
            known.scatter_(1, chosen, True)
            fall(due, chosen)
        loudest = F.max_pool1d(made.unflatten(1, (-1, self.step)).abs(), 2 * NEAR + 1, 1, NEAR).view_as(coarse)
        made, known, due = made.view_as(coarse), known.view_as(coarse), due.view_as(coarse)
        usual, left = (expected.float() / UNIT).pow(3), (due.float() / UNIT).pow(3)
        guess = torch.where(known, made, FILL * (usual / (usual + loudest)).pow(VALLEY) * coarse)
        return guess if self.refinement is None else self.refinement(guess, made, known, coarse, usual, left, stream)


def fall(expected: Tensor, chosen: Tensor) -> None:
    """Expect less of the coefficients (N, values) that were just coded."""
    expected.scatter_(1, chosen, expected.gather(1, chosen) * FALL // UNIT)
