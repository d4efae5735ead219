"""Attention, exact and readable: grouped queries, any visibility mask, and a learned sink per head.

The sink is one more logit in the softmax's denominator that carries no value (gpt-oss; MiMo-V2-Flash, arXiv 2601.02780):

    w_ij = exp(a_ij) / (exp(sink_h) + sum_j' exp(a_ij'))

so a head of a sliding-window layer can attend to nothing.  Faster kernels belong to `solfa.kernels`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, sink: Tensor | None = None
) -> Tensor:
    """Attend.

    Args:
        q: (B, H, Tq, d); head h reads the keys of head h // (H / Hkv).
        k: (B, Hkv, Tk, d).
        v: (B, Hkv, Tk, dv); dv may differ from d.
        mask: bool, broadcastable to (B, 1, Tq, Tk); True where a query may look.  None: everywhere.
        causal: instead of a mask, when Tq == Tk and query i sees keys 0..i.
        sink: (H,) or None.

    Returns: (B, H, Tq, dv).
    """
    if sink is None:  # the library's fused kernels know no sink
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
        )
    batch, heads, n, d = q.shape
    kv_heads, m = k.shape[1:3]
    logits = (q * d**-0.5).reshape(batch, kv_heads, -1, d) @ k.transpose(-1, -2)
    logits = logits.view(batch, heads, n, m)
    if causal:
        mask = torch.ones(n, m, dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        # the mask is small, being shared by all heads, so it is filled and added instead of filling the logits
        logits = logits + torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, float("-inf"))
    logits = torch.cat([logits, sink.to(logits.dtype).view(1, heads, 1, 1).expand(batch, heads, n, 1)], dim=-1)
    weights = logits.softmax(-1)[..., :-1]
    return (weights.reshape(batch, kv_heads, -1, m) @ v).view(batch, heads, n, -1)


def visible(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Which steps see which: (Tq,), (Tk,) step numbers -> bool (Tq, Tk).  A window counts the query's own step."""
    age = queries[:, None] - keys
    return age >= 0 if window is None else (age >= 0) & (age < window)


def rotary(positions: Tensor, dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embedding: positions (..., T) -> two float32 (..., T, dim / 2)."""
    frequencies = base ** (torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / -dim)
    angles = positions[..., None].float() * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first dims of each head: x (B, H, T, d), cos and sin (T, r / 2) or (B, 1, T, r / 2); dims beyond r pass."""
    half = cos.shape[-1]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)
