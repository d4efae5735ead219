"""The Transformer layers of encoder, decoder and vocoder: pre-norm, rotary positions, exact windowed attention.

Frames are (B, T, D).  `valid` (B, T) marks the frames of rows that are padded; a valid frame never attends to one that is not.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.tokenizers.audio.layers import rotate
from solfa.tokenizers.audio.third_party.mimo.config import ACTIVATIONS, NORMS, MiMoAudioTokenizerConfig


def attend(q: Tensor, k: Tensor, v: Tensor, back: int, ahead: int, valid: Tensor | None = None) -> Tensor:
    """Softmax attention of each frame over `back` frames before it, itself and `ahead` after; -1 is all.

    q, k, v: (B, heads, T, head) -> (B, heads, T, head).  Where the window is narrower than the clip,
    memory and time are O(T * window).
    """
    steps = q.shape[2]
    back, ahead = (n if 0 <= n < steps else steps for n in (back, ahead))
    if back + ahead < steps:
        return _in_blocks(q, k, v, back, ahead, valid)
    if back == ahead == steps:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if valid is None else valid[:, None, None])
    at = torch.arange(steps, device=q.device)
    mask = _within(at[:, None], at[None], back, ahead)
    if valid is not None:
        # Frames past the end attend to themselves: with nothing to attend to, the softmax would give NaN.
        mask = ((mask & valid[:, None]) | (at[:, None] == at))[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _within(q_at: Tensor, k_at: Tensor, back: int, ahead: int) -> Tensor:
    return (k_at >= q_at - back) & (k_at <= q_at + ahead)


def _in_blocks(q: Tensor, k: Tensor, v: Tensor, back: int, ahead: int, valid: Tensor | None) -> Tensor:
    """A block of `size` queries attends to its own keys, `back` before them and `ahead` after."""
    steps = q.shape[2]
    size = max(back + ahead, 16)
    span, padding = back + size + ahead, -steps % size
    q = rearrange(F.pad(q, (0, 0, 0, padding)), "b h (n w) d -> b h n w d", w=size)
    k, v = (F.pad(s, (0, 0, back, padding + ahead)).unfold(2, span, size).transpose(-1, -2) for s in (k, v))
    q_at = torch.arange(steps + padding, device=q.device).view(-1, size, 1)
    k_at = torch.arange(-back, steps + padding + ahead, device=q.device).unfold(0, span, size)[:, None]
    mask = _within(q_at, k_at, back, ahead) & (k_at >= 0) & (k_at < steps)
    if valid is not None:
        mask = mask & F.pad(valid, (back, padding + ahead)).unfold(1, span, size)[:, None, :, None]
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    # As above, frames past the end attend to themselves.
    scores = scores.masked_fill(~(mask | (q_at == k_at)), -torch.inf)
    y = scores.softmax(-1).to(v.dtype) @ v
    return rearrange(y, "b h n w d -> b h (n w) d")[:, :, :steps]


class Attention(nn.Module):
    """Multi-head self-attention in a window of (frames back, frames ahead).  (B, T, D) -> (B, T, D)."""

    def __init__(self, dim: int, heads: int, window: tuple[int, ...], theta: float):
        super().__init__()
        self.heads, self.theta = heads, theta
        self.back, self.ahead = window
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj, self.q_proj, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        projected = (project(x) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (rearrange(y, "b t (h d) -> b h t d", h=self.heads) for y in projected)
        at = torch.arange(x.shape[1], device=x.device)
        frequency = self.theta ** -(torch.arange(0, q.shape[-1], 2, device=x.device) / q.shape[-1])
        y = attend(rotate(q, at, frequency), rotate(k, at, frequency), v, self.back, self.ahead, valid)
        return self.out_proj(rearrange(y, "b h t d -> b t (h d)"))


class TransformerLayer(nn.Module):
    """(B, T, D) -> (B, T, D)."""

    def __init__(self, c: MiMoAudioTokenizerConfig, dim: int, heads: int, ffn_dim: int, window: tuple[int, ...]):
        super().__init__()
        self.self_attn_layer_norm = NORMS[c.ln_type](dim)
        self.self_attn = Attention(dim, heads, window, c.rope_theta)
        self.final_layer_norm = NORMS[c.ln_type](dim)
        self.fc1, self.fc2 = nn.Linear(dim, ffn_dim), nn.Linear(ffn_dim, dim)
        self.activation = ACTIVATIONS[c.activation_function]()

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x), valid)
        return x + self.fc2(self.activation(self.fc1(self.final_layer_norm(x))))
