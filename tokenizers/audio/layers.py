"""Layers of the audio tokenizer that never look ahead: functions of the present piece and a bounded past (`stream_state.py`).

Look-ahead is given once, by the model, as the next frame beside each.  Tensors are (B, T, D) with time in the middle.
"""

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.tokenizers.audio.stream_state import WHOLE, Past, Stream

LONGEST_SUM = 768  # products added up at a time
FEWEST_ROWS = 32  # in a thread's share


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` in which a row's result does not depend on how many rows there are.  x: (..., in) -> (..., out).

    BLAS adds up in another order where rows are few (below 8 to 16 a thread, as the CPU may be), and shares long sums among threads
    where rows are not many; a last bit can decide between two codes.
    """
    rows = x.reshape(-1, x.shape[-1])
    missing = FEWEST_ROWS * torch.get_num_threads() - len(rows)
    if missing > 0:
        rows = F.pad(rows, (0, 0, 0, missing))
    y = F.linear(rows[:, :LONGEST_SUM], weight[:, :LONGEST_SUM], bias)
    for part in range(LONGEST_SUM, rows.shape[1], LONGEST_SUM):
        y = torch.addmm(y, rows[:, part : part + LONGEST_SUM], weight[:, part : part + LONGEST_SUM].T)
    return y[: x.shape[:-1].numel()].view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """The layer of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Chain(nn.Sequential):
    """Layers one after the other, in one stream."""

    def forward(self, x: Tensor, stream: Stream = WHOLE) -> Tensor:
        for layer in self:
            x = layer(x, stream)
        return x


def with_next(x: Tensor, stream: Stream, last: Past) -> Tensor:
    """Each frame beside the one after it, the only look-ahead there is: (B, T + 1, D) -> (B, T, 2 D).

    In a stream the last frame waits for the next piece.
    """
    x = stream.recall(last, x)
    stream.keep(last, x[:, -1:])
    return torch.cat([x[:, :-1], x[:, 1:]], dim=-1)


@dataclass
class ConvState:
    """normed: (B, (kernel - 1) * dilation, D), the frames before this piece."""

    normed: Past = field(default_factory=Past)


class ConvBlock(nn.Module):
    """Residual block: norm, dilated causal convolution over `kernel` frames, GELU, projection.  (B, T, D) -> (B, T, D).

    The convolution is written as one matrix product over shifted copies: on CPUs with bf16 matrix units that trains
    several times as fast as ConvNeXt's depthwise convolution with the same number of weights.
    """

    def __init__(self, dim: int, dilation: int, kernel: int = 3, expansion: int = 2):
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.norm = nn.LayerNorm(dim)
        self.conv, self.out = Linear(kernel * dim, expansion * dim), Linear(expansion * dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, stream: Stream = WHOLE) -> Tensor:
        steps, reach = x.shape[1], (self.kernel - 1) * self.dilation
        state = stream.state(self, ConvState)
        normed = stream.recall(state.normed, self.norm(x).to(x.dtype), zeros=reach)
        stream.keep(state.normed, normed[:, steps:])
        shifted = torch.cat([normed[:, k * self.dilation :][:, :steps] for k in range(self.kernel)], dim=-1)
        return x + self.out(F.gelu(self.conv(shifted)))


@dataclass
class AttentionState:
    """time: frames before this piece; qkv: (B, window to 2 window - 1, 3 D), those that later blocks attend to."""

    time: int = 0
    qkv: Past = field(default_factory=Past)


class WindowedAttention(nn.Module):
    """Causal self-attention over the last `window` frames, rotary positions.  (B, T, D) -> (B, T, D), O(T * window)."""

    frequency: Tensor

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.out = Linear(dim, 3 * dim, bias=False), Linear(dim, dim, bias=False)
        nn.init.zeros_(self.out.weight)
        half = dim // heads // 2
        self.register_buffer("frequency", 10_000.0 ** (-torch.arange(half) / half), persistent=False)

    def forward(self, x: Tensor, stream: Stream = WHOLE) -> Tensor:
        # A block of `w` queries attends to its own block of keys and the one before.  Blocks lie at absolute times and are
        # computed whole, so that pieces add up the same numbers in the same order.  Crops to train on are shorter.
        steps, w = x.shape[1], min(self.window, x.shape[1]) if self.training else self.window
        state = stream.state(self, AttentionState)
        start = state.time
        begun, missing = (
            start % w,
            -(start + steps) % w,
        )  # frames of the first block before this piece, of the last after
        qkv = stream.recall(state.qkv, self.qkv(x), zeros=w)
        state.time = start + steps
        stream.keep(state.qkv, qkv[:, (begun + steps) // w * w :])
        at = torch.arange(start - begun - w, start + steps + missing, device=x.device)
        qkv = F.pad(qkv, (0, 0, 0, missing))
        q, k, v = rearrange(qkv, "b t (three h d) -> three b h t d", three=3, h=self.heads)
        q, k = rotate(q[:, :, w:], at[w:], self.frequency), rotate(k, at, self.frequency)
        q = rearrange(q, "b h (n w) d -> b h n w d", w=w)
        k, v = (s.unfold(2, 2 * w, w).transpose(-1, -2) for s in (k, v))
        q_at, k_at = at[w:].view(-1, w, 1), at.unfold(0, 2 * w, w)[:, None]
        mask = (k_at <= q_at) & (k_at > q_at - self.window) & (k_at >= 0)
        scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
        y = scores.masked_fill(~mask, -torch.inf).softmax(-1).to(v.dtype) @ v
        return self.out(rearrange(y, "b h n w d -> b (n w) (h d)")[:, begun : begun + steps])


def rotate(x: Tensor, at: Tensor, frequency: Tensor) -> Tensor:
    """Rotary position embedding (RoFormer, eq. 34), pairs split in halves.  x: (..., T, head), at: (T,), frequency: (head / 2,)."""
    a, b = x.chunk(2, dim=-1)
    angle = at[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class TransformerBlock(nn.Module):
    """Pre-norm Transformer layer over a causal window.  (B, T, D) -> (B, T, D)."""

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), WindowedAttention(dim, heads, window)
        self.norm2, self.up, self.down = nn.LayerNorm(dim), Linear(dim, 4 * dim), Linear(4 * dim, dim)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor, stream: Stream = WHOLE) -> Tensor:
        x = x + self.attention(self.norm1(x), stream)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Correction(nn.Sequential):
    """What a network adds to a linear transform: nothing at first.  (..., dim) -> (..., out)."""

    def __init__(self, dim: int, out: int):
        last = Linear(dim, out)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(nn.LayerNorm(dim), last)
