"""The hybrid decoder: a pre-norm Transformer of sliding-window layers with sinks and a few full-attention layers.

Vectors in, vectors out: embeddings and heads belong to `solfa.omni.model`.  The configuration space holds the dense part of
MiMo-V2-Flash (arXiv 2601.02780): first layer and every 6th full, KV heads, head sizes, partial rotary base and sinks per
layer type.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solfa.omni.attention import attention, rotary, rotate, visible
from solfa.omni.cache import DecoderCache, GrowingCache, RingCache


@dataclass(frozen=True)
class AttentionConfig:
    """Attention of one layer type.  `window` None means full; `rotary_dim` of the `qk_dim` dims are turned."""

    window: int | None = None
    heads: int = 4
    kv_heads: int = 2
    qk_dim: int = 64
    v_dim: int = 64
    rotary_dim: int = 32
    rotary_base: float = 10_000.0
    sink: bool = False
    value_scale: float = 1.0


def hybrid(layers: int, every: int) -> tuple[int, ...]:
    """MiMo-V2-Flash's pattern of full layers: the first one, and the last of each `every`."""
    return tuple(i for i in range(layers) if i == 0 or (i + 1) % every == 0)


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder of `layers` layers of width `dim`; `full_layers` use `full`, the others `sliding`."""

    dim: int = 256
    layers: int = 6
    ffn_dim: int = 768
    full_layers: tuple[int, ...] = hybrid(6, 6)
    full: AttentionConfig = field(default_factory=lambda: AttentionConfig(rotary_base=640_000.0))
    sliding: AttentionConfig = field(default_factory=lambda: AttentionConfig(window=128, sink=True))
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if not set(self.full_layers) <= set(range(self.layers)):
            raise ValueError(f"full_layers {self.full_layers} are not all within 0..{self.layers - 1}")

    def attention_of(self, layer: int) -> AttentionConfig:
        return self.full if layer in self.full_layers else self.sliding


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)); gate and up are one matrix."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class SelfAttention(nn.Module):
    def __init__(self, dim: int, config: AttentionConfig):
        super().__init__()
        self.config = c = config
        self.sizes = [(c.heads + c.kv_heads) * c.qk_dim, c.kv_heads * c.v_dim]
        self.qkv = nn.Linear(dim, sum(self.sizes), bias=False)
        self.out = nn.Linear(c.heads * c.v_dim, dim, bias=False)
        self.sink = nn.Parameter(torch.zeros(c.heads)) if c.sink else None

    def forward(self, x: Tensor, view: "View", cache: RingCache | GrowingCache | None, past: int) -> Tensor:
        c, (batch, n, _) = self.config, x.shape
        qk, v = self.qkv(x).split(self.sizes, dim=-1)
        qk = rotate(qk.view(batch, n, c.heads + c.kv_heads, c.qk_dim).transpose(1, 2), view.cos, view.sin)
        q, k = qk.split([c.heads, c.kv_heads], dim=1)
        v = v.view(batch, n, c.kv_heads, c.v_dim).transpose(1, 2)
        if c.value_scale != 1.0:
            v = v * c.value_scale
        if cache is not None:
            k, v = cache.append(k, v, past)
        y = attention(q, k, v, view.mask, view.causal, self.sink)
        return self.out(y.transpose(1, 2).reshape(batch, n, -1))


class DecoderLayer(nn.Module):
    def __init__(self, config: DecoderConfig, index: int):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim, config.norm_eps)
        self.attention = SelfAttention(config.dim, config.attention_of(index))
        self.ffn_norm = nn.RMSNorm(config.dim, config.norm_eps)
        self.ffn = SwiGLU(config.dim, config.ffn_dim)

    def forward(self, x: Tensor, view: "View", cache: RingCache | GrowingCache | None, past: int) -> Tensor:
        x = x + self.attention(self.attention_norm(x), view, cache, past)
        return x + self.ffn(self.ffn_norm(x))


@dataclass(frozen=True)
class View:
    """What all layers of one type share in a forward pass: rotary angles and who sees whom."""

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    causal: bool


class HybridDecoder(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, config.norm_eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:  # residual branches start small, as deep as the stack is
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=p.shape[1] ** -0.5 * ((2 * config.layers) ** -0.5 if last else 1.0))

    def new_cache(self) -> DecoderCache:
        """An empty cache; it takes batch size, type and device from the first steps."""
        return DecoderCache([self.config.attention_of(i).window for i in range(self.config.layers)])

    def forward(
        self, x: Tensor, positions: Tensor | None = None, cache: DecoderCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Run T more steps.

        Args:
            x: (B, T, D).
            positions: rotary positions (T,) or (B, T); the step numbers by default.
            cache: earlier steps, to which these are added; without it the steps are a whole sequence.
            mask: bool (B, T), False at padding, which no real step sees.  Padding on the right of whole sequences needs
                no mask, since no step sees what follows it.

        Returns: (B, T, D), normalised; what it holds at padding means nothing.
        """
        past, n = cache.length if cache else 0, x.shape[1]
        real = cache.advance(n, mask) if cache else mask
        views: dict[bool, View] = {}
        for i, layer in enumerate(self.layers):
            full, store = i in self.config.full_layers, cache.layers[i] if cache else None
            if full not in views:
                views[full] = self._view(self.config.attention_of(i), x, positions, store, past, real)
            x = layer(x, views[full], store, past)
        return self.norm(x)

    @staticmethod
    def _view(
        config: AttentionConfig,
        x: Tensor,
        positions: Tensor | None,
        store: RingCache | GrowingCache | None,
        past: int,
        real: Tensor | None,
    ) -> View:
        n = x.shape[1]
        queries = torch.arange(past, past + n, device=x.device)
        at = queries if positions is None else positions
        cos, sin = rotary(at if at.dim() == 1 else at[:, None], config.rotary_dim, config.rotary_base)
        if real is None and (n == 1 or past == 0 and (config.window is None or n <= config.window)):
            return View(cos, sin, None, causal=n > 1)
        keys = store.steps(past, n).to(x.device) if store is not None else queries
        mask = visible(queries, keys, config.window)
        if real is not None:  # padding sees itself, for a softmax over nothing is not a number
            mask = (mask & real[:, None, keys] | (queries[:, None] == keys))[:, None]
        return View(cos, sin, mask, causal=False)
