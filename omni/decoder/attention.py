"""Attention, exact and readable: grouped queries, windows, packed sequences, and a learned sink per head.

The sink is one more logit in the softmax's denominator that carries no value (gpt-oss; MiMo-V2-Flash, arXiv 2601.02780):

    w_ij = exp(a_ij) / (exp(sink_h) + sum_j' exp(a_ij'))

so a head of a sliding-window layer can attend to nothing.  `attention` is the reference; `sliding_attention` and
`packed_attention` compute the same without the pairs that the mask rules out, and `AttentionMask.attend` picks the cheapest.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FEW_QUERIES, MANY_KEYS = 16, 2048  # a decoding step: below and above these the fused CPU kernel is slower
LOGITS_PER_BLOCK = 1 << 23  # of a pass in blocks: 32 MiB in float32


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    sink: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Softmax attention over the keys that the mask allows, with an optional sink in the denominator.

    Args:
        q: (B, H, Tq, d); query head h uses the keys and values of head h // (H / Hkv).
        k: (B, Hkv, Tk, d).
        v: (B, Hkv, Tk, dv); dv may differ from d.
        mask: bool, broadcastable to (B, 1, Tq, Tk); True where a query attends to a key; or its `mask_to_bias`.
            None: all pairs.
        causal: instead of a mask, when Tq == Tk: query i attends to keys 0..i.
        sink: (H,) logits, or None.
        scale: factor of q . k; None is d ** -0.5.

    Returns: (B, H, Tq, dv).
    """
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    # PyTorch's fused kernels have no sink, and on CPUs they read long keys again for each head of a group
    few_queries = q.device.type == "cpu" and q.shape[2] <= FEW_QUERIES and k.shape[2] >= MANY_KEYS
    if sink is None and not few_queries:
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
        logits = logits + (mask_to_bias(mask, q.dtype) if mask.dtype == torch.bool else mask)
    if sink is not None:
        logits = torch.cat([logits, sink.to(logits.dtype).view(1, heads, 1, 1).expand(batch, heads, n, 1)], dim=-1)
    weights = logits.softmax(-1)[..., :m]
    return (weights.reshape(batch, kv_heads, -1, m) @ v).view(batch, heads, n, -1)


def mask_to_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask (...) as a term to add to logits: 0 where it is True, else -inf; `dtype` (...)."""
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
    """`attention` in which a query attends to the last `window` steps, its own included: O(T * window) time and memory.

    Queries are cut into blocks, and each block is multiplied with the keys of its own steps and the window - 1 before them.

    Args:
        q: (B, H, Tq, d).
        k, v: (B, Hkv, Tk, ...) in order of time, Tk >= Tq, the last Tq being the queries' own steps.
        segments: int (B, Tk) or None; steps attend to steps of the same number only.
        sink, scale: as for `attention`.

    Returns: (B, H, Tq, dv).
    """
    (batch, heads, n, d), kv_heads = q.shape, k.shape[1]
    past = min(k.shape[2] - n, window - 1)
    k, v = k[:, :, k.shape[2] - n - past :], v[:, :, v.shape[2] - n - past :]
    block = max(window // 2, 32)  # long blocks waste pairs, short ones calls
    width, blocks = window - 1 + block, -(-n // block)
    front, back = window - 1 - past, blocks * block - n  # steps of padding
    q = F.pad(q, (0, 0, 0, back)).unflatten(2, (blocks, block))
    q = q.unflatten(1, (kv_heads, -1)).transpose(2, 3)  # (B, Hkv, blocks, H / Hkv, block, d)
    k = F.pad(k, (0, 0, front, back)).unfold(2, width, block)  # (B, Hkv, blocks, d, width)
    v = F.pad(v, (0, 0, front, back)).unfold(2, width, block)
    age = torch.arange(block, device=q.device)[:, None] + window - 1 - torch.arange(width, device=q.device)
    mask = ((age >= 0) & (age < window))[None, None]
    step = torch.arange(width, device=q.device) + block * torch.arange(blocks, device=q.device)[:, None]
    mask = mask & (step >= front)[None, :, None]  # (1, blocks, block, width)
    if segments is not None:
        # padding at the end attends to itself: a softmax over no key is NaN
        ids = F.pad(segments[:, segments.shape[1] - n - past :], (front, back), value=-2).unfold(1, width, block)
        mask = mask & (ids[:, :, window - 1 :, None] == ids[:, :, None])
    sinks = None if sink is None else sink.to(q.dtype).view(kv_heads, 1, heads // kv_heads, 1, 1)
    q = q * (d**-0.5 if scale is None else scale)
    group = max(1, LOGITS_PER_BLOCK // (batch * heads * block * width))
    outputs = []
    for i in range(0, blocks, group):
        at = slice(i, i + group)
        logits = (q[:, :, at].flatten(3, 4) @ k[:, :, at]).unflatten(3, (-1, block))
        logits = logits + mask_to_bias(mask[:, at], q.dtype)[:, None, :, None]
        if sinks is not None:
            logits = torch.cat([logits, sinks.expand(*logits.shape[:-1], 1)], dim=-1)
        weights = logits.softmax(-1)[..., :width]
        outputs.append((weights.flatten(3, 4) @ v[:, :, at].transpose(-1, -2)).unflatten(3, (-1, block)))
    y = torch.cat(outputs, dim=2).transpose(2, 3)  # (B, Hkv, H / Hkv, blocks, block, dv)
    return y.flatten(1, 2).flatten(2, 3)[:, :, :n]


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: list[list[tuple[int, bool]]],
    sink: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Causal `attention` inside each span and nowhere else.

    The cost is the sum of the squares of the spans' lengths instead of the square of the row's.

    Args:
        q, k, v: as for `attention`, with Tq == Tk.
        spans: of each row, as `segment_spans` returns them.
        sink, scale: as for `attention`.

    Returns: (B, H, Tq, dv), zeros where a span is padding.
    """
    rows = []
    for i, row in enumerate(spans):
        lengths, outputs = [n for n, _ in row], []
        parts = zip(*(x[i : i + 1].split(lengths, dim=2) for x in (q, k, v)), strict=True)
        for (q_part, k_part, v_part), (_, is_data) in zip(parts, row, strict=True):
            if is_data:
                outputs.append(attention(q_part, k_part, v_part, causal=True, sink=sink, scale=scale))
            else:
                outputs.append(q_part.new_zeros(*q_part.shape[:3], v_part.shape[-1]))
        rows.append(torch.cat(outputs, dim=2))
    return torch.cat(rows)


def segment_spans(segments: Tensor) -> list[list[tuple[int, bool]]]:
    """Runs of equal numbers in each row: int (B, T) -> per run (length, False where it is padding, which is negative)."""
    rows = []
    for row in segments:
        ids, lengths = row.unique_consecutive(return_counts=True)
        rows.append([(n, i >= 0) for i, n in zip(ids.tolist(), lengths.tolist(), strict=True)])
    return rows


def causal_mask(query_steps: Tensor, key_steps: Tensor, window: int | None) -> Tensor:
    """The causal mask of steps: step numbers (..., Tq) and (..., Tk) -> bool (..., Tq, Tk).

    A window counts the query's own step.  Keys with a negative step number are never attended to.
    """
    age = query_steps[..., :, None] - key_steps[..., None, :]
    mask = (age >= 0) & (key_steps >= 0)[..., None, :]
    return mask if window is None else mask & (age < window)


@dataclass(frozen=True)
class AttentionMask:
    """The attention mask of the layers of one type, as facts from which no table of all pairs need be made.

    All masks are causal, and keys are in order of time unless there is a `dense` mask.

    window: how many keys a query attends to, its own included; None is all of the past.
    dense: bool (Tq, Tk) or (B, 1, Tq, Tk), or its `mask_to_bias`; if given, it is the whole mask.
    segments: int (B, Tk); steps attend to steps of the same number only.
    spans: `segment_spans(segments)`, for layers without a window.
    """

    window: int | None = None
    dense: Tensor | None = None
    segments: Tensor | None = None
    spans: list[list[tuple[int, bool]]] | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None, scale: float | None) -> Tensor:
        """`attention` under this mask, by the cheapest function above that is exact here; shapes as for `attention`."""
        if self.dense is not None or q.shape[2] == 1:
            return attention(q, k, v, self.dense, sink=sink, scale=scale)
        if self.window is not None and (k.shape[2] > self.window or self.segments is not None):
            return sliding_attention(q, k, v, self.window, sink, scale, self.segments)
        if self.spans is not None:
            return packed_attention(q, k, v, self.spans, sink, scale)
        n = q.shape[2]
        block = max(1, LOGITS_PER_BLOCK // (q.shape[0] * q.shape[1] * n))
        if sink is None or n <= block:
            return attention(q, k, v, causal=True, sink=sink, scale=scale)
        steps = torch.arange(n, device=q.device)
        outputs = []
        for start in range(0, n, block):
            end = min(start + block, n)
            mask = causal_mask(steps[start:end], steps[:end], None)
            outputs.append(attention(q[:, :, start:end], k[:, :, :end], v[:, :, :end], mask, sink=sink, scale=scale))
        return torch.cat(outputs, dim=2)

    @torch.no_grad()
    def max_logits(self, q: Tensor, k: Tensor, scale: float | None) -> Tensor:
        """The largest attention logit of each head over all unmasked pairs, without sinks: q (B, H, Tq, d), k -> float32 (H,)."""
        heads, n, d = q.shape[1:]
        offset = k.shape[2] - n
        keys = torch.arange(k.shape[2], device=q.device)
        largest = torch.full((heads,), -math.inf, device=q.device)
        for start in range(0, n, 256):
            end, first = min(start + 256, n), 0
            if self.dense is not None:
                mask = self.dense[..., start:end, :]
            else:
                first = 0 if self.window is None else max(0, offset + start - self.window + 1)
                mask = causal_mask(keys[offset + start : offset + end], keys[first:], self.window)
                if self.segments is not None:
                    query_segments = self.segments[:, offset + start : offset + end, None]
                    mask = (mask & (query_segments == self.segments[:, None, first:]) & (query_segments >= 0))[:, None]
            logits = (
                q[:, :, start:end].unflatten(1, (k.shape[1], -1)).flatten(2, 3).float() @ k[:, :, first:].float().mT
            )
            logits = logits.view(len(q), heads, end - start, -1).masked_fill(~mask, -math.inf)
            largest = torch.maximum(largest, logits.amax(dim=(0, 2, 3)))
        return largest * (d**-0.5 if scale is None else scale)


@dataclass(frozen=True)
class Yarn:
    """Rotary embedding stretched to `factor` times the `trained` length (YaRN, arXiv 2309.00071, sections 3.2 to 3.4).

    Dims that turn more than `fast` times within the trained length stay, those that turn less than `slow` times are
    slowed down by `factor`, and a ramp lies between them, with ends at whole dims if `truncate`.  Queries and keys are
    multiplied by 0.1 ln(factor) + 1 each.
    """

    factor: float
    trained: int
    fast: float = 32.0
    slow: float = 1.0
    truncate: bool = True


def rotary_cos_sin(positions: Tensor, dim: int, base: float, yarn: Yarn | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embedding of `dim` dims: positions (..., T) -> two float32 (..., T, dim / 2)."""
    frequencies = base ** (torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / -dim)
    if yarn is None:
        angles = positions[..., None].float() * frequencies
        return angles.cos(), angles.sin()
    # the dim, counted from 0, whose wave makes `turns` turns within the trained length
    low, high = (
        dim * math.log(yarn.trained / (2 * math.pi * turns)) / (2 * math.log(base)) for turns in (yarn.fast, yarn.slow)
    )
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (torch.arange(dim // 2, device=positions.device) - low) / max(high - low, 1e-3)
    blend = ramp.clamp(0, 1)
    angles = positions[..., None].float() * (frequencies * (1 - blend) + frequencies / yarn.factor * blend)
    gain = 0.1 * math.log(yarn.factor) + 1 if yarn.factor > 1 else 1.0
    return angles.cos() * gain, angles.sin() * gain


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first r dims of each head: x (B, H, T, d), cos and sin (T, r / 2) or (B, 1, T, r / 2) -> (B, H, T, d)."""
    half = cos.shape[-1]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)
