"""Layers of the audio tokenizer that never look ahead, each a function of the present and a bounded past.

Look-ahead is given once, by the model, as the next frame beside each; so chunk-by-chunk can equal whole-file.
Tensors are (B, T, D) with time in the middle.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBlock(nn.Module):
    """Residual block: norm, dilated causal convolution over `kernel` frames, GELU, projection.  (B, T, D) -> (B, T, D).

    The convolution is written as one matrix product over shifted copies: on CPUs with bf16 matrix units that trains
    several times as fast as ConvNeXt's depthwise convolution with the same number of weights.
    """

    def __init__(self, dim: int, dilation: int, kernel: int = 3, expansion: int = 2):
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.norm = nn.LayerNorm(dim)
        self.conv, self.out = nn.Linear(kernel * dim, expansion * dim), nn.Linear(expansion * dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        steps, reach = x.shape[1], (self.kernel - 1) * self.dilation
        past = F.pad(self.norm(x).to(x.dtype), (0, 0, reach, 0))
        shifted = torch.cat([past[:, k * self.dilation :][:, :steps] for k in range(self.kernel)], dim=-1)
        return x + self.out(F.gelu(self.conv(shifted)))


class WindowedAttention(nn.Module):
    """Causal self-attention over the last `window` frames, rotary positions.  (B, T, D) -> (B, T, D), O(T * window)."""

    frequency: Tensor

    def __init__(self, dim: int, heads: int, window: int):
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.out.weight)
        half = dim // heads // 2
        self.register_buffer("frequency", 10_000.0 ** (-torch.arange(half) / half), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        steps, w = x.shape[1], min(self.window, x.shape[1])
        at = torch.arange(-w, steps + -steps % w, device=x.device)
        qkv = F.pad(self.qkv(x), (0, 0, 0, -steps % w))
        q, k, v = rearrange(qkv, "b t (three h d) -> three b h t d", three=3, h=self.heads)
        q, k = rotate(q, at[w:], self.frequency), rotate(k, at[w:], self.frequency)
        # A block of `w` queries sees its own block of keys and the one before.
        q = rearrange(q, "b h (n w) d -> b h n w d", w=w)
        k, v = (F.pad(s, (0, 0, w, 0)).unfold(2, 2 * w, w).transpose(-1, -2) for s in (k, v))
        q_at, k_at = at[w:].view(-1, w, 1), at.unfold(0, 2 * w, w)[:, None]
        seen = (k_at <= q_at) & (k_at > q_at - self.window) & (k_at >= 0)
        scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
        y = scores.masked_fill(~seen, -torch.inf).softmax(-1).to(v.dtype) @ v
        return self.out(rearrange(y, "b h n w d -> b (n w) (h d)")[:, :steps])


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
        self.norm2, self.up, self.down = nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Correction(nn.Sequential):
    """What a network adds to a linear transform: nothing at first.  (..., dim) -> (..., out)."""

    def __init__(self, dim: int, out: int):
        last = nn.Linear(dim, out)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(nn.LayerNorm(dim), last)
