"""The hybrid decoder: a pre-norm Transformer of sliding-window layers with sinks and a few full-attention layers.

Vectors in, vectors out: embeddings and heads belong to `solfa.omni.model.omni_model` and `solfa.omni.model.text_model`.  The configuration space
holds MiMo-V2-Flash (arXiv 2601.02780: first layer and every 6th full; KV heads, head sizes, partial rotary base and sinks
per layer type; mixture of experts but for the first layer), gpt-oss and the text models of Gemma 3.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from solfa.omni.decoder.attention import (
    AttentionMask,
    Yarn,
    apply_rotary,
    causal_mask,
    mask_to_bias,
    rotary_cos_sin,
    segment_spans,
)
from solfa.omni.decoder.cache import Chunk, DecoderCache, GrowingCache, RingCache
from solfa.omni.decoder.moe import ACTIVATIONS, MoE, MoEConfig


@dataclass(frozen=True)
class AttentionConfig:
    """Attention of one layer type.  `window` None means full; `rotary_dim` of the `qk_dim` dims are rotated.

    Raises: ValueError for heads or a rotary_dim that do not fit.

    sink: whether each head has a learned logit in the softmax's denominator that carries no value.
    value_scale: factor of the values.
    scale: factor of q . k; None is qk_dim ** -0.5.
    qk_norm: whether queries and keys are normalised, head by head, before the rotary embedding.
    qkv_bias, out_bias: whether the projections in and out have biases.
    rotary_factor: positions are divided by it; `yarn` stretches them by wavelength.
    """

    window: int | None = None
    heads: int = 4
    kv_heads: int = 2
    qk_dim: int = 64
    v_dim: int = 64
    rotary_dim: int = 32
    rotary_base: float = 10_000.0
    sink: bool = False
    value_scale: float = 1.0
    scale: float | None = None
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    rotary_factor: float = 1.0
    yarn: Yarn | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"window should be at least 1, or None for full attention, not {self.window}")
        if self.heads < 1 or self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly")
        if self.rotary_dim % 2 or self.rotary_dim > self.qk_dim:
            raise ValueError(f"rotary_dim {self.rotary_dim} is odd or more than qk_dim {self.qk_dim}")


def hybrid_pattern(layers: int, every: int) -> tuple[int, ...]:
    """MiMo-V2-Flash's pattern of full layers, as indices: the first one, and the last of each `every`."""
    return tuple(i for i in range(layers) if i == 0 or (i + 1) % every == 0)


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder of `layers` layers of width `dim`; `full_layers` use `full`, the others `sliding`.

    moe: experts in place of the dense feed-forward network of width `ffn_dim`, but in `dense_layers`.
    activation: a name of `solfa.omni.decoder.moe.ACTIVATIONS`.
    post_norms: whether the output of each branch is normalised too, as in Gemma.
    centred_norms: whether norms store their weights less 1, as in Gemma.

    Raises: ValueError for layers that do not exist, or an unknown activation.
    """

    dim: int = 256
    layers: int = 6
    ffn_dim: int = 768
    full_layers: tuple[int, ...] = hybrid_pattern(6, 6)
    full: AttentionConfig = field(default_factory=lambda: AttentionConfig(rotary_base=640_000.0))
    sliding: AttentionConfig = field(default_factory=lambda: AttentionConfig(window=128, sink=True))
    norm_eps: float = 1e-5
    moe: MoEConfig | None = None
    dense_layers: tuple[int, ...] = (0,)
    activation: str = "silu"
    post_norms: bool = False
    centred_norms: bool = False

    def __post_init__(self) -> None:
        for name in ("full_layers",) if self.moe is None else ("full_layers", "dense_layers"):
            if not all(0 <= layer < self.layers for layer in getattr(self, name)):
                raise ValueError(f"{name} {getattr(self, name)} are not all within 0..{self.layers - 1}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}")

    def attention_of(self, layer: int) -> AttentionConfig:
        """The attention of layer `layer`, counted from 0."""
        return self.full if layer in self.full_layers else self.sliding

    def norm(self, dim: int) -> nn.RMSNorm:
        """A new norm over the last dim, of size `dim`, of the kind that this decoder uses."""
        return (CentredRMSNorm if self.centred_norms else nn.RMSNorm)(dim, self.norm_eps)


class CentredRMSNorm(nn.RMSNorm):
    """Gemma's: the weight is stored less 1.  (..., dim) -> (..., dim)."""

    def reset_parameters(self) -> None:
        """Start at a weight of 1, which is stored as 0."""
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim) -> (..., dim)."""
        return nn.functional.rms_norm(x, self.normalized_shape, 1 + self.weight, self.eps)


class GatedFFN(nn.Module):
    """down(silu(gate(x)) * up(x)), or another activation; gate and up are one matrix."""

    def __init__(self, dim: int, hidden: int, activation: str):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim) -> (..., dim)."""
        return self.down(self.activation(*self.gate_up(x).chunk(2, dim=-1)))


class SelfAttention(nn.Module):
    """Grouped-query attention of one layer.

    While `track_max_logit` is True, `max_logit` (H,) is the largest attention logit of each head since it was set to None.
    """

    def __init__(self, config: DecoderConfig, index: int):
        super().__init__()
        self.config = c = config.attention_of(index)
        self.sizes = [(c.heads + c.kv_heads) * c.qk_dim, c.kv_heads * c.v_dim]
        self.qkv = nn.Linear(config.dim, sum(self.sizes), bias=c.qkv_bias)
        self.out = nn.Linear(c.heads * c.v_dim, config.dim, bias=c.out_bias)
        self.sink = nn.Parameter(torch.zeros(c.heads)) if c.sink else None
        self.q_norm = config.norm(c.qk_dim) if c.qk_norm else None
        self.k_norm = config.norm(c.qk_dim) if c.qk_norm else None
        self.track_max_logit = False
        self.max_logit: Tensor | None = None

    def forward(
        self, x: Tensor, context: "LayerContext", cache: RingCache | GrowingCache | None, chunk: Chunk
    ) -> Tensor:
        """x: (B, n, D), the steps of `chunk` -> (B, n, D); `cache` holds earlier steps and gets these."""
        c, (batch, n, _) = self.config, x.shape
        qk, v = self.qkv(x).split(self.sizes, dim=-1)
        qk = qk.view(batch, n, c.heads + c.kv_heads, c.qk_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split([c.heads, c.kv_heads], dim=2)
            qk = torch.cat([self.q_norm(q), self.k_norm(k)], dim=2)
        qk = apply_rotary(qk.transpose(1, 2), context.cos, context.sin)
        q, k = qk.split([c.heads, c.kv_heads], dim=1)
        v = v.view(batch, n, c.kv_heads, c.v_dim).transpose(1, 2)
        if c.value_scale != 1.0:
            v = v * c.value_scale
        if cache is not None:
            k, v = cache.append(k, v, chunk)
            if context.key_order is not None:
                k, v = k[:, :, context.key_order], v[:, :, context.key_order]
        if self.track_max_logit:
            largest = context.attention_mask.max_logits(q, k, c.scale)
            self.max_logit = largest if self.max_logit is None else torch.maximum(self.max_logit, largest)
        y = context.attention_mask.attend(q, k, v, self.sink, c.scale)
        return self.out(y.transpose(1, 2).reshape(batch, n, -1))


class DecoderLayer(nn.Module):
    """Pre-norm attention and feed-forward network, each on a residual branch."""

    def __init__(self, config: DecoderConfig, index: int):
        super().__init__()
        self.attention_norm = config.norm(config.dim)
        self.attention = SelfAttention(config, index)
        self.ffn_norm = config.norm(config.dim)
        self.ffn: GatedFFN | MoE
        if config.moe is None or index in config.dense_layers:
            self.ffn = GatedFFN(config.dim, config.ffn_dim, config.activation)
        else:
            self.ffn = MoE(config.dim, config.moe, config.activation)
        self.attention_post_norm = config.norm(config.dim) if config.post_norms else None
        self.ffn_post_norm = config.norm(config.dim) if config.post_norms else None

    def forward(
        self, x: Tensor, context: "LayerContext", cache: RingCache | GrowingCache | None, chunk: Chunk
    ) -> Tensor:
        """As for `SelfAttention.forward`."""
        y = self.attention(self.attention_norm(x), context, cache, chunk)
        x = x + (y if self.attention_post_norm is None else self.attention_post_norm(y))
        y = self.ffn_norm(x)
        y = self.ffn(y, context.padding_mask) if isinstance(self.ffn, MoE) else self.ffn(y)
        return x + (y if self.ffn_post_norm is None else self.ffn_post_norm(y))


@dataclass(frozen=True)
class LayerContext:
    """What all layers of one type share in a forward pass.

    cos, sin: rotary angles, (n, rotary_dim / 2) or (B, 1, n, rotary_dim / 2).
    attention_mask: which keys each query attends to.
    padding_mask: bool (B, n), False at padding; None where there is none.
    key_order: int (m,), indices that put the cache's keys in order of time, where `attention_mask` needs that.
    """

    cos: Tensor
    sin: Tensor
    attention_mask: AttentionMask
    padding_mask: Tensor | None
    key_order: Tensor | None


class HybridDecoder(nn.Module):
    """The stack of layers and the norm after the last: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.layers))
        self.norm = config.norm(config.dim)
        for name, p in self.named_parameters():
            if p.dim() >= 2 and "bias" not in name:  # residual branches start smaller in deeper stacks
                ends_branch = name.endswith(("out.weight", "down.weight", "down"))
                nn.init.normal_(p, std=p.shape[-1] ** -0.5 * ((2 * config.layers) ** -0.5 if ends_branch else 1.0))

    def new_cache(self, slack: int = 0) -> DecoderCache:
        """An empty cache with `slack` for `rollback`; batch size, type and device are those of the first steps."""
        return DecoderCache([self.config.attention_of(i).window for i in range(self.config.layers)], slack)

    def moe_layers(self) -> list[MoE]:
        """The mixtures of experts in order of layers; none in a dense decoder."""
        return [m for m in self.modules() if isinstance(m, MoE)]

    def forward(
        self,
        x: Tensor,
        positions: Tensor | None = None,
        cache: DecoderCache | None = None,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Run T more steps.

        Args:
            x: (B, T, D).
            positions: rotary positions (T,) or (B, T); by default the step numbers, within their segments.
            cache: earlier steps, to which these are added; without it x is a whole sequence.
            mask: bool (B, T), False at padding, which no other step attends to.  Padding on the right of whole sequences
                needs no mask, since attention is causal (but without a mask it goes through the experts).
            segments: int (B, T), sequences packed into a row: steps attend to their own run of equal numbers only.  -1 is
                padding.  Whole sequences only, so not with a cache.

        Returns: (B, T, D), normalised; undefined at padding.

        Raises: ValueError for segments together with a cache.
        """
        n = x.shape[1]
        if segments is not None:
            if cache is not None:
                raise ValueError("packed sequences are whole: they cannot go on from a cache")
            segments, starts = _number_segments(segments if mask is None else segments.masked_fill(~mask, -1))
            mask = segments >= 0
            positions = starts if positions is None else positions
        chunk = cache.advance(len(x), n, mask) if cache else Chunk(0, n)
        positions = chunk.steps if positions is None else positions
        contexts: dict[bool, LayerContext] = {}
        for i, layer in enumerate(self.layers):
            full, layer_cache = i in self.config.full_layers, cache.layers[i] if cache else None
            if full not in contexts:
                window = self.config.attention_of(i).window
                attention_mask, key_order = _attention_mask(window, chunk, layer_cache, mask, segments, x)
                cos, sin = self._cos_sin(self.config.attention_of(i), chunk, positions, x.device)
                contexts[full] = LayerContext(cos, sin, attention_mask, mask, key_order)
            x = layer(x, contexts[full], layer_cache, chunk)
        return self.norm(x)

    @staticmethod
    def _cos_sin(
        config: AttentionConfig, chunk: Chunk, positions: Tensor | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        at = torch.arange(chunk.past, chunk.past + chunk.n, device=device) if positions is None else positions
        at = at if at.dim() == 1 else at[:, None]
        return rotary_cos_sin(at / config.rotary_factor, config.rotary_dim, config.rotary_base, config.yarn)


def _number_segments(segments: Tensor) -> tuple[Tensor, Tensor]:
    """int (B, T) -> each run of equal ids under a number of its own (padding -1), and steps since the run's start, (B, T)."""
    step = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    first = torch.ones_like(segments, dtype=torch.bool)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start = step.masked_fill(~first, 0).cummax(1).values
    return start.masked_fill(segments < 0, -1), step - start


def _attention_mask(
    window: int | None,
    chunk: Chunk,
    cache: RingCache | GrowingCache | None,
    padding_mask: Tensor | None,
    segments: Tensor | None,
    x: Tensor,
) -> tuple[AttentionMask, Tensor | None]:
    """The attention mask of one layer type for a chunk x (B, n, D), and the `key_order` that it needs.

    Padding attends to itself, or to everything: a softmax over no key is NaN.
    """
    past, n, device = chunk.past, chunk.n, x.device
    queries = torch.arange(past, past + n, device=device)
    keys = cache.key_steps(chunk).to(device) if cache is not None else queries
    if segments is not None:
        return AttentionMask(window, segments=segments, spans=segment_spans(segments) if window is None else None), None
    if chunk.steps is not None and chunk.mask is not None and past:  # rows of different lengths
        mask = causal_mask(chunk.steps, keys, window) | ~chunk.mask[..., None]
        return AttentionMask(window, mask[:, None]), None
    padding_mask = None if past else padding_mask
    if window is not None and n > window:
        key_order = keys.argsort() if past > window else None
        return AttentionMask(window, segments=None if padding_mask is None else padding_mask.int() - 1), key_order
    if padding_mask is None and (past == 0 or n == 1 and (window is None or len(keys) <= window)):
        return AttentionMask(window), None
    mask = causal_mask(queries, keys, window)
    if padding_mask is not None:
        mask = (mask & padding_mask[:, None] | (queries[:, None] == keys))[:, None]
    # as a bias once, for all layers of the type
    return AttentionMask(window, mask if cache is None else mask_to_bias(mask, x.dtype)), None
