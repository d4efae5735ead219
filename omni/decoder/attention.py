"""Attention, exact and readable: grouped queries, windows, packed sequences, and a learned sink per head.

The sink is one more logit in the softmax's denominator that carries no value (gpt-oss; MiMo-V2-Flash, arXiv 2601.02780):

    w_ij = exp(a_ij) / (exp(sink_h) + sum_j' exp(a_ij'))

so a head of a sliding-window layer can attend to nothing.  `attention` is the reference; `sliding_attention` and
`packed_attention` are the same sums without the pairs that nobody sees.  Faster kernels belong to `solfa.kernels`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FEW_QUERIES, MANY_KEYS = 16, 2048
LOGITS_AT_ONCE = 1 << 23  # of a blocked pass: 32 MiB in float32


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    sink: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attend.

    Args:
        q: (B, H, Tq, d); head h reads the keys of head h // (H / Hkv).
        k: (B, Hkv, Tk, d).
        v: (B, Hkv, Tk, dv); dv may differ from d.
        mask: bool, broadcastable to (B, 1, Tq, Tk); True where a query may look; or its `as_bias`.  None: everywhere.
        causal: instead of a mask, when Tq == Tk and query i sees keys 0..i.
        sink: (H,) or None.
        scale: what q . k is multiplied by; None is d ** -0.5.

    Returns: (B, H, Tq, dv).
    """
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    # the library's fused kernels know no sink, and on CPUs they read long keys again for each head of a group
    few = q.device.type == "cpu" and q.shape[2] <= FEW_QUERIES and k.shape[2] >= MANY_KEYS
    if sink is None and not few:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
    batch, heads, n, d = q.shape
    kv_heads, m = k.shape[1:3]
    logits = (q * (d**-0.5 if scale is None else scale)).reshape(batch, kv_heads, -1, d) @ k.transpose(-1, -2)
    logits = logits.view(batch, heads, n, m)
    if causal:
        mask = torch.ones(n, m, dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        # the mask is small, being shared by all heads, so it is filled and added instead of filling the logits
        logits = logits + (as_bias(mask, q.dtype) if mask.dtype == torch.bool else mask)
    if sink is not None:
        logits = torch.cat([logits, sink.to(logits.dtype).view(1, heads, 1, 1).expand(batch, heads, n, 1)], dim=-1)
    weights = logits.softmax(-1)[..., :m]
    return (weights.reshape(batch, kv_heads, -1, m) @ v).view(batch, heads, n, -1)


def as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to logits: 0 where a bool mask is True, else -inf."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


def sliding_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    sink: Tensor | None = None,
    scale: float | None = None,
    segments: Tensor | None = None,
) -> Tensor:
    """`attention` in which a query sees the last `window` steps, its own included: O(T * window) time and memory.

    Args:
        q: (B, H, Tq, d).
        k, v: (B, Hkv, Tk, ...) in order of time, Tk >= Tq, the last Tq being the queries' own steps.
        segments: int (B, Tk) or None; only steps of one number see each other.
        sink, scale: as for `attention`.

    Returns: (B, H, Tq, dv).
    """
    (batch, heads, n, d), kv_heads = q.shape, k.shape[1]
    held = min(k.shape[2] - n, window - 1)
    k, v = k[:, :, k.shape[2] - n - held :], v[:, :, v.shape[2] - n - held :]
    block = max(window // 2, 32)  # long blocks waste pairs, short ones calls
    width, blocks = window - 1 + block, -(-n // block)
    front, back = window - 1 - held, blocks * block - n
    q = F.pad(q, (0, 0, 0, back)).unflatten(2, (blocks, block))
    q = q.unflatten(1, (kv_heads, -1)).transpose(2, 3)  # (B, Hkv, blocks, group, block, d)
    k = F.pad(k, (0, 0, front, back)).unfold(2, width, block)  # (B, Hkv, blocks, d, width)
    v = F.pad(v, (0, 0, front, back)).unfold(2, width, block)
    age = torch.arange(block, device=q.device)[:, None] + window - 1 - torch.arange(width, device=q.device)
    mask = ((age >= 0) & (age < window))[None, None]
    step = torch.arange(width, device=q.device) + block * torch.arange(blocks, device=q.device)[:, None]
    mask = mask & (step >= front)[None, :, None]  # (1, blocks, block, width)
    if segments is not None:
        # what pads the end sees itself, for a softmax over nothing is not a number
        ids = F.pad(segments[:, segments.shape[1] - n - held :], (front, back), value=-2).unfold(1, width, block)
        mask = mask & (ids[:, :, window - 1 :, None] == ids[:, :, None])
    sinks = None if sink is None else sink.to(q.dtype).view(kv_heads, 1, heads // kv_heads, 1, 1)
    q = q * (d**-0.5 if scale is None else scale)
    some = max(1, LOGITS_AT_ONCE // (batch * heads * block * width))
    parts = []
    for i in range(0, blocks, some):
        at = slice(i, i + some)
        seen = mask[:, at]
        logits = (q[:, :, at].flatten(3, 4) @ k[:, :, at]).unflatten(3, (-1, block))
        bias = as_bias(seen, q.dtype)
        logits = logits + bias[:, None, :, None]
        if sinks is not None:
            logits = torch.cat([logits, sinks.expand(*logits.shape[:-1], 1)], dim=-1)
        weights = logits.softmax(-1)[..., :width]
        parts.append((weights.flatten(3, 4) @ v[:, :, at].transpose(-1, -2)).unflatten(3, (-1, block)))
    y = torch.cat(parts, dim=2).transpose(2, 3)  # (B, Hkv, group, blocks, block, dv)
    return y.flatten(1, 2).flatten(2, 3)[:, :, :n]


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: list[list[tuple[int, bool]]],
    sink: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Causal `attention` inside each span and nowhere else, as in `spans_of`; zeros where a span is padding.

    Costs the sum of the squares of the spans' lengths instead of the square of the row's.
    """
    rows = []
    for i, row in enumerate(spans):
        lengths, parts = [n for n, _ in row], []
        pieces = zip(*(x[i : i + 1].split(lengths, dim=2) for x in (q, k, v)), strict=True)
        for (a, b, c), (_, real) in zip(pieces, row, strict=True):
            if real:
                parts.append(attention(a, b, c, causal=True, sink=sink, scale=scale))
            else:
                parts.append(a.new_zeros(*a.shape[:3], c.shape[-1]))
        rows.append(torch.cat(parts, dim=2))
    return torch.cat(rows)


def spans_of(segments: Tensor) -> list[list[tuple[int, bool]]]:
    """Runs of equal numbers, row by row: int (B, T) -> (length, whether it is no padding, which is negative)."""
    rows = []
    for row in segments:
        ids, lengths = row.unique_consecutive(return_counts=True)
        rows.append([(n, i >= 0) for i, n in zip(ids.tolist(), lengths.tolist(), strict=True)])
    return rows


def visible(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Which steps see which: (..., Tq), (..., Tk) step numbers -> bool (..., Tq, Tk).

    A window counts the query's own step; no step is negative.
    """
    age = queries[..., :, None] - keys[..., None, :]
    return (
        (age >= 0) & (keys >= 0)[..., None, :]
        if window is None
        else (age >= 0) & (age < window) & (keys >= 0)[..., None, :]
    )


@dataclass(frozen=True)
class View:
    """Who sees whom in the layers of one type: the keys are in order of time unless there is a `mask`.

    window: what a query sees of the keys before its own; None is all of them.
    mask: bool (Tq, Tk) or (B, 1, Tq, Tk), or its `as_bias`, which says it all.
    segments: int (B, Tk); only steps of one number see each other.
    spans: the same, where it is all that limits what a query sees of the past.
    """

    window: int | None = None
    mask: Tensor | None = None
    segments: Tensor | None = None
    spans: list[list[tuple[int, bool]]] | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, scale: float | None) -> Tensor:
        """By the cheapest of the functions above that is exact here.  Shapes are those of `attention`."""
        if self.mask is not None or q.shape[2] == 1:
            return attention(q, k, v, self.mask, sink=sink, scale=scale)
        if self.window is not None and (k.shape[2] > self.window or self.segments is not None):
            return sliding_attention(q, k, v, self.window, sink, scale, self.segments)
        if self.spans is not None:
            return packed_attention(q, k, v, self.spans, sink, scale)
        n = q.shape[2]
        some = max(1, LOGITS_AT_ONCE // (q.shape[0] * q.shape[1] * n))
        if sink is None or n <= some:
            return attention(q, k, v, causal=True, sink=sink, scale=scale)
        steps = torch.arange(n, device=q.device)
        parts = []
        for a, b in ((a, min(a + some, n)) for a in range(0, n, some)):
            mask = visible(steps[a:b], steps[:b], None)
            parts.append(attention(q[:, :, a:b], k[:, :, :b], v[:, :, :b], mask, sink=sink, scale=scale))
        return torch.cat(parts, dim=2)

    @torch.no_grad()
    def max_logits(self, q: Tensor, k: Tensor, scale: float | None) -> Tensor:
        """The largest logit of each head over all pairs that are seen, sinks apart: float32 (H,)."""
        heads, n, d = q.shape[1:]
        offset = k.shape[2] - n
        keys = torch.arange(k.shape[2], device=q.device)
        best = torch.full((heads,), -math.inf, device=q.device)
        for a in range(0, n, 256):
            b, first = min(a + 256, n), 0
            if self.mask is not None:
                mask = self.mask[..., a:b, :]
            else:
                first = 0 if self.window is None else max(0, offset + a - self.window + 1)
                mask = visible(keys[offset + a : offset + b], keys[first:], self.window)
                if self.segments is not None:
                    own = self.segments[:, offset + a : offset + b, None]
                    mask = (mask & (own == self.segments[:, None, first:]) & (own >= 0))[:, None]
            logits = q[:, :, a:b].unflatten(1, (k.shape[1], -1)).flatten(2, 3).float() @ k[:, :, first:].float().mT
            logits = logits.view(len(q), heads, b - a, -1).masked_fill(~mask, -math.inf)
            best = torch.maximum(best, logits.amax(dim=(0, 2, 3)))
        return best * (d**-0.5 if scale is None else scale)


@dataclass(frozen=True)
class Yarn:
    """Rotary embedding stretched to `factor` times the `trained` length (YaRN, arXiv 2309.00071, sections 3.2 to 3.4).

    Dims that turn more than `fast` times within the trained length stay, those that turn less than `slow` times are
    slowed down by `factor`, and a ramp joins them, with ends at whole dims if `truncate`.  Queries and keys are
    multiplied by 0.1 ln(factor) + 1 each.
    """

    factor: float
    trained: int
    fast: float = 32.0
    slow: float = 1.0
    truncate: bool = True


def rotary(positions: Tensor, dim: int, base: float, yarn: Yarn | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embedding: positions (..., T) -> two float32 (..., T, dim / 2)."""
    frequencies = base ** (torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / -dim)
    if yarn is None:
        angles = positions[..., None].float() * frequencies
        return angles.cos(), angles.sin()
    # the dim, counted from 0, whose wave turns `turns` times within the trained length
    low, high = (
        dim * math.log(yarn.trained / (2 * math.pi * turns)) / (2 * math.log(base)) for turns in (yarn.fast, yarn.slow)
    )
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (torch.arange(dim // 2, device=positions.device) - low) / max(high - low, 1e-3)
    slowed = ramp.clamp(0, 1)
    angles = positions[..., None].float() * (frequencies * (1 - slowed) + frequencies / yarn.factor * slowed)
    size = 0.1 * math.log(yarn.factor) + 1 if yarn.factor > 1 else 1.0
    return angles.cos() * size, angles.sin() * size


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first dims of each head: x (B, H, T, d), cos and sin (T, r / 2) or (B, 1, T, r / 2); dims beyond r pass."""
    half = cos.shape[-1]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)
