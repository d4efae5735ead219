"""The hybrid decoder: a pre-norm Transformer of sliding-window layers with sinks and a few full-attention layers.

Vectors in, vectors out: embeddings and heads belong to `solfa.omni.model.omni_model` and `solfa.omni.model.text_model`.  The configuration space
holds MiMo-V2-Flash (arXiv 2601.02780: first layer and every 6th full; KV heads, head sizes, partial rotary base and sinks
per layer type; mixture of experts but for the first layer), gpt-oss and the text models of Gemma 3.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from solfa.omni.decoder.attention import View, Yarn, as_bias, rotary, rotate, spans_of, visible
from solfa.omni.decoder.cache import DecoderCache, GrowingCache, RingCache, Turn
from solfa.omni.decoder.moe import ACTIVATIONS, MoE, MoEConfig


@dataclass(frozen=True)
class AttentionConfig:
    """Attention of one layer type.  `window` None means full; `rotary_dim` of the `qk_dim` dims are turned.

    sink: whether each head has a learned logit for nothing at all.
    value_scale: what values are multiplied by.
    scale: what logits are multiplied by; None is qk_dim ** -0.5.
    qk_norm: whether queries and keys are normalised, head by head, before they are turned.
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
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly")
        if self.rotary_dim % 2 or self.rotary_dim > self.qk_dim:
            raise ValueError(f"rotary_dim {self.rotary_dim} is odd or more than qk_dim {self.qk_dim}")


def hybrid(layers: int, every: int) -> tuple[int, ...]:
    """MiMo-V2-Flash's pattern of full layers: the first one, and the last of each `every`."""
    return tuple(i for i in range(layers) if i == 0 or (i + 1) % every == 0)


@dataclass(frozen=True)
class DecoderConfig:
    """A decoder of `layers` layers of width `dim`; `full_layers` use `full`, the others `sliding`.

    moe: experts in place of the dense feed-forward network of width `ffn_dim`, but in `dense_layers`.
    activation: a name of `solfa.omni.decoder.moe.ACTIVATIONS`.
    post_norms: whether the output of each branch is normalised too, as in Gemma.
    centred_norms: whether norms store their weights less 1, as in Gemma.
    """

    dim: int = 256
    layers: int = 6
    ffn_dim: int = 768
    full_layers: tuple[int, ...] = hybrid(6, 6)
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
            if not set(getattr(self, name)) <= set(range(self.layers)):
                raise ValueError(f"{name} {getattr(self, name)} are not all within 0..{self.layers - 1}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}")

    def attention_of(self, layer: int) -> AttentionConfig:
        return self.full if layer in self.full_layers else self.sliding

    def norm(self, dim: int) -> nn.RMSNorm:
        return (CentredRMSNorm if self.centred_norms else nn.RMSNorm)(dim, self.norm_eps)


class CentredRMSNorm(nn.RMSNorm):
    """Gemma's: the weight is stored less 1."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.normalized_shape, 1 + self.weight, self.eps)


class GatedFFN(nn.Module):
    """down(silu(gate(x)) * up(x)), or another activation; gate and up are one matrix."""

    def __init__(self, dim: int, hidden: int, activation: str):
        super().__init__()
        self.join = ACTIVATIONS[activation]
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.join(*self.gate_up(x).chunk(2, dim=-1)))


class SelfAttention(nn.Module):
    """Set `watch` to have `max_logit` (H,) follow the largest attention logit of each head, until it is set to None."""

    def __init__(self, config: DecoderConfig, index: int):
        super().__init__()
        self.config = c = config.attention_of(index)
        self.sizes = [(c.heads + c.kv_heads) * c.qk_dim, c.kv_heads * c.v_dim]
        self.qkv = nn.Linear(config.dim, sum(self.sizes), bias=c.qkv_bias)
        self.out = nn.Linear(c.heads * c.v_dim, config.dim, bias=c.out_bias)
        self.sink = nn.Parameter(torch.zeros(c.heads)) if c.sink else None
        self.q_norm = config.norm(c.qk_dim) if c.qk_norm else None
        self.k_norm = config.norm(c.qk_dim) if c.qk_norm else None
        self.watch = False
        self.max_logit: Tensor | None = None

    def forward(self, x: Tensor, shared: "Shared", cache: RingCache | GrowingCache | None, turn: Turn) -> Tensor:
        c, (batch, n, _) = self.config, x.shape
        qk, v = self.qkv(x).split(self.sizes, dim=-1)
        qk = qk.view(batch, n, c.heads + c.kv_heads, c.qk_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split([c.heads, c.kv_heads], dim=2)
            qk = torch.cat([self.q_norm(q), self.k_norm(k)], dim=2)
        qk = rotate(qk.transpose(1, 2), shared.cos, shared.sin)
        q, k = qk.split([c.heads, c.kv_heads], dim=1)
        v = v.view(batch, n, c.kv_heads, c.v_dim).transpose(1, 2)
        if c.value_scale != 1.0:
            v = v * c.value_scale
        if cache is not None:
            k, v = cache.append(k, v, turn)
            if shared.order is not None:
                k, v = k[:, :, shared.order], v[:, :, shared.order]
        if self.watch:
            now = shared.view.max_logits(q, k, c.scale)
            self.max_logit = now if self.max_logit is None else torch.maximum(self.max_logit, now)
        y = shared.view.attend(q, k, v, self.sink, c.scale)
        return self.out(y.transpose(1, 2).reshape(batch, n, -1))


class DecoderLayer(nn.Module):
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

    def forward(self, x: Tensor, shared: "Shared", cache: RingCache | GrowingCache | None, turn: Turn) -> Tensor:
        y = self.attention(self.attention_norm(x), shared, cache, turn)
        x = x + (y if self.attention_post_norm is None else self.attention_post_norm(y))
        y = self.ffn_norm(x)
        y = self.ffn(y, shared.real) if isinstance(self.ffn, MoE) else self.ffn(y)
        return x + (y if self.ffn_post_norm is None else self.ffn_post_norm(y))


@dataclass(frozen=True)
class Shared:
    """What all layers of one type share in a forward pass: rotary angles, who sees whom, and which steps are real.

    order: where the cache's keys are to be taken from, if `view` wants them in order of time and they are not.
    """

    cos: Tensor
    sin: Tensor
    view: View
    real: Tensor | None
    order: Tensor | None


class HybridDecoder(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.layers))
        self.norm = config.norm(config.dim)
        for name, p in self.named_parameters():
            if p.dim() >= 2 and "bias" not in name:  # residual branches start small, as deep as the stack is
                last = name.endswith(("out.weight", "down.weight", "down"))
                nn.init.normal_(p, std=p.shape[-1] ** -0.5 * ((2 * config.layers) ** -0.5 if last else 1.0))

    def new_cache(self, slack: int = 0) -> DecoderCache:
        """An empty cache, of which `slack` steps can be taken back; it takes batch size, type and device from the first steps."""
        return DecoderCache([self.config.attention_of(i).window for i in range(self.config.layers)], slack)

    def mixtures(self) -> list[MoE]:
        """The mixtures of experts, from the first layer on; none in a dense decoder."""
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
            cache: earlier steps, to which these are added; without it the steps are a whole sequence.
            mask: bool (B, T), False at padding, which no real step sees.  Padding on the right of whole sequences needs
                no mask, since no step sees what follows it (only experts would be busy with it).
            segments: int (B, T), sequences packed into a row: steps see their own run of equal numbers only, as if it
                were alone.  -1 is padding.  Whole sequences only, so not with a cache.

        Returns: (B, T, D), normalised; what it holds at padding means nothing.
        """
        n = x.shape[1]
        if segments is not None:
            if cache is not None:
                raise ValueError("packed sequences are whole: they cannot go on from a cache")
            segments, starts = _runs(segments if mask is None else segments.masked_fill(~mask, -1))
            mask = segments >= 0
            positions = starts if positions is None else positions
        turn = cache.advance(len(x), n, mask) if cache else Turn(0, n)
        positions = turn.at if positions is None else positions
        views: dict[bool, Shared] = {}
        for i, layer in enumerate(self.layers):
            full, store = i in self.config.full_layers, cache.layers[i] if cache else None
            if full not in views:
                window = self.config.attention_of(i).window
                view, order = _view(window, turn, store, mask, segments, x)
                cos, sin = self._angles(self.config.attention_of(i), turn, positions, x.device)
                views[full] = Shared(cos, sin, view, mask, order)
            x = layer(x, views[full], store, turn)
        return self.norm(x)

    @staticmethod
    def _angles(
        config: AttentionConfig, turn: Turn, positions: Tensor | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        at = torch.arange(turn.past, turn.past + turn.n, device=device) if positions is None else positions
        at = at if at.dim() == 1 else at[:, None]
        return rotary(at / config.rotary_factor, config.rotary_dim, config.rotary_base, config.yarn)


def _runs(segments: Tensor) -> tuple[Tensor, Tensor]:
    """Number the runs of equal ids: int (B, T) -> the same with no number twice in a row, and steps since each run's start."""
    step = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    first = torch.ones_like(segments, dtype=torch.bool)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start = step.masked_fill(~first, 0).cummax(1).values
    return start.masked_fill(segments < 0, -1), step - start


def _view(
    window: int | None,
    turn: Turn,
    store: RingCache | GrowingCache | None,
    real: Tensor | None,
    segments: Tensor | None,
    x: Tensor,
) -> tuple[View, Tensor | None]:
    """Who sees whom in a turn, and the order in which to take the keys; real: bool (B, n), False at padding; x: what is read."""
    past, n, device = turn.past, turn.n, x.device
    queries = torch.arange(past, past + n, device=device)
    keys = store.steps(turn).to(device) if store is not None else queries
    if segments is not None:
        return View(window, segments=segments, spans=spans_of(segments) if window is None else None), None
    if turn.at is not None and turn.real is not None and past:  # rows of different lengths; padding sees everything
        return View(window, (visible(turn.at, keys, window) | ~turn.real[..., None])[:, None]), None
    real = None if past else real
    if window is not None and n > window:
        order = keys.argsort() if past > window else None
        return View(window, segments=None if real is None else real.int() - 1), order
    if real is None and (past == 0 or n == 1 and (window is None or len(keys) <= window)):
        return View(window), None
    mask = visible(queries, keys, window)
    if real is not None:  # padding sees itself, for a softmax over nothing is not a number
        mask = (mask & real[:, None] | (queries[:, None] == keys))[:, None]
    return View(window, mask if store is None else as_bias(mask, x.dtype)), None  # once for all layers of the type
