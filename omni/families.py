"""Designs that `transformers` knows and `TextModel` holds: how their configurations and tensors correspond to ours.

A family reads and writes the mapping of `config.json`, and lists `Rule`s, one for each of our tensors.  Pure functions;
files belong to `solfa.omni.convert`.

MiMo-V2-Flash has two dialects of `config.json`: that of `transformers` (layer_types, rope_parameters) and that of its
release, which vLLM and SGLang read (hybrid_layer_pattern, swa_...).  Both are read, and both are written at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from solfa.errors import UserError
from solfa.omni.attention import Yarn
from solfa.omni.decoder import AttentionConfig, DecoderConfig, hybrid
from solfa.omni.moe import MoEConfig
from solfa.omni.text import TextConfig

Values = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """Our tensor `ours` is `join` of their tensors `theirs`, and `split` is its inverse."""

    ours: str
    theirs: tuple[str, ...]
    join: Callable[[list[Tensor]], Tensor] = lambda parts: parts[0]
    split: Callable[[Tensor], list[Tensor]] = lambda whole: [whole]


@dataclass(frozen=True)
class Family:
    """architecture: the class in `transformers`; read and write: configurations; rules: tensors of a configuration.

    warn: sentences on readers of a configuration written here that would not compute what we do.
    """

    architecture: str
    read: Callable[[Values], TextConfig]
    write: Callable[[TextConfig], Values]
    rules: Callable[[TextConfig], Iterator[Rule]]
    warn: Callable[[TextConfig], list[str]] = lambda config: []


def family_of(config: TextConfig) -> str:
    """The family of which a model of ours may be a member; its `write` says whether it is one."""
    d = config.decoder
    if d.post_norms:
        return "gemma3_text"
    return "gpt_oss" if d.moe is not None and d.moe.score == "softmax" else "mimo_v2_flash"


def demand(family: str, facts: dict[str, bool]) -> None:
    """Raise a UserError with the first statement that is not so."""
    for statement, holds in facts.items():
        if not holds:
            raise UserError(f"this does not fit {family}: {statement}")


# --- tensors


def _rows(*sizes: int) -> dict[str, Callable]:
    return {"join": torch.cat, "split": lambda whole: list(whole.split(sizes))}


def _common(config: TextConfig, ffn_norm: str) -> Iterator[Rule]:
    """What all families name alike: embeddings, norms, attention but for sinks."""
    yield Rule("embed.weight", ("model.embed_tokens.weight",))
    yield Rule("decoder.norm.weight", ("model.norm.weight",))
    if not config.tied:
        yield Rule("head.weight", ("lm_head.weight",))
    for i in range(config.decoder.layers):
        yield from _layer(config.decoder.attention_of(i), f"decoder.layers.{i}", f"model.layers.{i}", ffn_norm)


def _layer(c: AttentionConfig, ours: str, theirs: str, ffn_norm: str) -> Iterator[Rule]:
    """Norms and attention of a layer, but for sinks."""
    yield Rule(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",))
    yield Rule(f"{ours}.ffn_norm.weight", (f"{theirs}.{ffn_norm}.weight",))
    sizes = (c.heads * c.qk_dim, c.kv_heads * c.qk_dim, c.kv_heads * c.v_dim)
    for kind in ("weight", "bias") if c.qkv_bias else ("weight",):
        projections = tuple(f"{theirs}.self_attn.{x}_proj.{kind}" for x in "qkv")
        yield Rule(f"{ours}.attention.qkv.{kind}", projections, **_rows(*sizes))
    for kind in ("weight", "bias") if c.out_bias else ("weight",):
        yield Rule(f"{ours}.attention.out.{kind}", (f"{theirs}.self_attn.o_proj.{kind}",))


def _dense(ours: str, theirs: str, width: int) -> Iterator[Rule]:
    names = (f"{theirs}.mlp.gate_proj.weight", f"{theirs}.mlp.up_proj.weight")
    yield Rule(f"{ours}.ffn.gate_up.weight", names, **_rows(width, width))
    yield Rule(f"{ours}.ffn.down.weight", (f"{theirs}.mlp.down_proj.weight",))


# --- configurations


def _pattern(c: Values, full: tuple[int, ...]) -> tuple[int, ...]:
    types = c.get("layer_types")
    return full if types is None else tuple(i for i, t in enumerate(types) if t == "full_attention")


def _layer_types(d: DecoderConfig) -> list[str]:
    return ["full_attention" if i in d.full_layers else "sliding_attention" for i in range(d.layers)]


def _text(c: Values, decoder: DecoderConfig, tied: bool, embed_scale: float = 1.0) -> TextConfig:
    eos = c.get("eos_token_id")
    return TextConfig(
        c["vocab_size"], decoder, c.get("tie_word_embeddings", tied), embed_scale, c.get("max_position_embeddings", 32_768),
        c.get("bos_token_id"), tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,), c.get("pad_token_id"),
    )  # fmt: skip


def _shared(config: TextConfig) -> Values:
    d = config.decoder
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": d.dim,
        "intermediate_size": d.ffn_dim,
        "num_hidden_layers": d.layers,
        "num_attention_heads": d.full.heads,
        "num_key_value_heads": d.full.kv_heads,
        "head_dim": d.full.qk_dim,
        "sliding_window": d.sliding.window,
        "layer_types": _layer_types(d),
        "rms_norm_eps": d.norm_eps,
        "max_position_embeddings": config.max_length,
        "tie_word_embeddings": config.tied,
        "bos_token_id": config.bos,
        "eos_token_id": list(config.eos) if len(config.eos) > 1 else next(iter(config.eos), None),
        "pad_token_id": config.pad,
    }


def _rope(family: str, rope: Values, head_dim: int, part: float = 1.0) -> Values:
    """Their rope parameters of one layer type -> our settings."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    ours = {
        "rotary_dim": int(head_dim * rope.get("partial_rotary_factor", part)),
        "rotary_base": float(rope["rope_theta"]),
    }
    if kind == "linear":
        return ours | {"rotary_factor": float(rope["factor"])}
    if kind == "yarn":
        size = rope.get("attention_factor") or rope.get("mscale")
        demand(family, {"only YaRN's own size of queries and keys is known here": not size})
        trained = rope["original_max_position_embeddings"]
        fast, slow = float(rope.get("beta_fast") or 32), float(rope.get("beta_slow") or 1)
        return ours | {"yarn": Yarn(float(rope["factor"]), trained, fast, slow, rope.get("truncate", True))}
    demand(family, {f"rope_type {kind!r} is not known here, only default, linear and yarn": kind == "default"})
    return ours


def _rope_out(a: AttentionConfig, partial: bool = False) -> Values:
    rope: Values = {"rope_type": "default", "rope_theta": a.rotary_base}
    if partial:
        rope["partial_rotary_factor"] = _part(a)
    if a.rotary_factor != 1.0:
        rope |= {"rope_type": "linear", "factor": a.rotary_factor}
    if a.yarn is not None:
        y = a.yarn
        rope |= {"rope_type": "yarn", "factor": y.factor, "original_max_position_embeddings": y.trained}
        rope |= {"beta_fast": y.fast, "beta_slow": y.slow, "truncate": y.truncate}
    return rope


def _part(a: AttentionConfig) -> float:
    """The share of the head that is turned, of which a reader's int(share * qk_dim) is `rotary_dim` again."""
    share = a.rotary_dim / a.qk_dim
    return share if int(share * a.qk_dim) == a.rotary_dim else (a.rotary_dim + 0.5) / a.qk_dim


PLAIN = AttentionConfig()


def _demand_attention(family: str, d: DecoderConfig, *may_differ: str, **fixed: Any) -> None:
    """Both layer types must have these settings, and be alike but for `may_differ` and the window."""
    for name, value in fixed.items():
        for kind, a in (("full", d.full), ("sliding", d.sliding)):
            demand(family, {f"{kind}.{name} must be {value!r}, not {getattr(a, name)!r}": getattr(a, name) == value})
    alike = {name: getattr(d.full, name) for name in may_differ} | {"window": d.full.window}
    demand(family, {
        "full.window must be None": d.full.window is None,
        "sliding.window must be set": d.sliding.window is not None,
        f"full and sliding attention must be alike but for {', '.join(('window', *may_differ))}": replace(d.sliding, **alike) == d.full,
    })  # fmt: skip


# --- MiMo-V2-Flash

MIMO_MTP = "model.mtp.layers"


def _read_mimo(c: Values) -> TextConfig:
    family, layers, heads = "mimo_v2_flash", c["num_hidden_layers"], c["num_attention_heads"]
    demand(family, {
        f"activation {c.get('hidden_act')!r} is not silu": c.get("hidden_act", "silu") == "silu",
        "shared experts are not known here": not c.get("n_shared_experts"),
        "only sigmoid routers are known here": c.get("scoring_func", "sigmoid") == "sigmoid",
        "sinks on full layers are not known to all its readers": not c.get("add_full_attention_sink_bias"),
    })  # fmt: skip
    released = c.get("hybrid_layer_pattern")
    full_layers = hybrid(layers, 6) if released is None else tuple(i for i, x in enumerate(released) if x == 0)
    dense: tuple[int, ...] = (0,)
    if isinstance(c.get("moe_layer_freq"), list):
        dense = tuple(i for i, x in enumerate(c["moe_layer_freq"]) if not x)
    if c.get("mlp_layer_types") is not None:
        dense = tuple(i for i, x in enumerate(c["mlp_layer_types"]) if x == "dense")
    moe = None
    if len(dense) < layers:
        moe = MoEConfig(
            c["n_routed_experts"], c["num_experts_per_tok"], c["moe_intermediate_size"], "sigmoid", c.get("n_group") or 1,
            c.get("topk_group") or 1, c.get("norm_topk_prob", True), c.get("routed_scaling_factor") or 1.0,
        )  # fmt: skip
    ropes = c.get("rope_parameters") or {
        "full_attention": {"rope_theta": c.get("rope_theta", 5e6)},
        "sliding_attention": {"rope_theta": c.get("swa_rope_theta", 1e4)},
    }
    part, scale = c.get("partial_rotary_factor", 0.334), c.get("attention_value_scale")
    # the release counts the steps before a query's own, `transformers` counts that as well
    window = c["sliding_window_size"] + 1 if c.get("sliding_window_size") is not None else c["sliding_window"]

    def attention(kind: str, head_dim: int, **settings: Any) -> AttentionConfig:
        rope = _rope(family, ropes[kind], head_dim, part)
        value_scale = 1.0 if scale is None else scale
        return AttentionConfig(
            qk_dim=head_dim, qkv_bias=c.get("attention_bias", False), value_scale=value_scale, **rope, **settings
        )

    full = attention(
        "full_attention", c["head_dim"], heads=heads, kv_heads=c["num_key_value_heads"], v_dim=c["v_head_dim"]
    )
    sliding = attention(
        "sliding_attention",
        c.get("swa_head_dim") or c["head_dim"],
        heads=c.get("swa_num_attention_heads") or heads,
        kv_heads=c.get("swa_num_key_value_heads") or 2 * c["num_key_value_heads"],
        v_dim=c.get("swa_v_head_dim") or c["v_head_dim"],
        window=window,
        sink=c.get("add_swa_attention_sink_bias", True),
    )
    decoder = DecoderConfig(
        c["hidden_size"], layers, c["intermediate_size"], _pattern(c, full_layers), full, sliding,
        c.get("rms_norm_eps") or c.get("layernorm_epsilon") or 1e-5, moe, dense if moe is not None else (0,),
    )  # fmt: skip
    return _text(c, decoder, tied=False)


def _write_mimo(config: TextConfig) -> Values:
    d, family = config.decoder, "mimo_v2_flash"
    f, s, moe = d.full, d.sliding, d.moe or MoEConfig()
    plain = ("scale", "qk_norm", "out_bias")
    own = ("heads", "kv_heads", "qk_dim", "v_dim", "rotary_dim", "rotary_base", "rotary_factor", "yarn", "sink")
    _demand_attention(family, d, *own, **{name: getattr(PLAIN, name) for name in plain})
    demand(family, {
        "the activation must be silu": d.activation == "silu",
        "norms must be plain": not d.post_norms and not d.centred_norms,
        "sliding layers must have sinks and full ones none": s.sink and not f.sink,
        "experts must have a sigmoid router and no biases": moe.score == "sigmoid" and not moe.bias,
        "embed_scale must be 1": config.embed_scale == 1.0,
    })  # fmt: skip
    dense = d.dense_layers if d.moe is not None else tuple(range(d.layers))
    assert s.window is not None
    ropes = {"full_attention": _rope_out(f, partial=True), "sliding_attention": _rope_out(s, partial=True)}
    return _shared(config) | {
        "v_head_dim": f.v_dim,
        "attention_value_scale": f.value_scale,
        "attention_bias": f.qkv_bias,
        "hidden_act": "silu",
        "mlp_layer_types": ["dense" if i in dense else "sparse" for i in range(d.layers)],
        "rope_parameters": ropes,
        "moe_intermediate_size": moe.ffn_dim,
        "n_routed_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
        "n_group": moe.groups,
        "topk_group": moe.top_groups,
        "norm_topk_prob": moe.normalise,
        "routed_scaling_factor": moe.scale,
        # what follows is the release's dialect
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "n_shared_experts": None,
        "layernorm_epsilon": d.norm_eps,
        "hybrid_layer_pattern": [0 if i in d.full_layers else 1 for i in range(d.layers)],
        "moe_layer_freq": [0 if i in dense else 1 for i in range(d.layers)],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "sliding_window_size": s.window - 1,
        "partial_rotary_factor": _part(f),
        "rope_theta": f.rotary_base,
        "swa_rope_theta": s.rotary_base,
        "swa_num_attention_heads": s.heads,
        "swa_num_key_value_heads": s.kv_heads,
        "swa_head_dim": s.qk_dim,
        "swa_v_head_dim": s.v_dim,
    }


def _warn_mimo(config: TextConfig) -> list[str]:
    d = config.decoder
    f, s, scale = d.full, d.sliding, d.moe.scale if d.moe is not None else 1.0
    stretched = any(a.yarn is not None or a.rotary_factor != 1.0 for a in (f, s))
    facts = {
        "transformers cannot load this: there, both layer types have the same heads and head sizes, and sliding layers twice "
        "the key-value heads; vLLM and SGLang can": (s.heads, s.kv_heads, s.qk_dim, s.v_dim)
        != (f.heads, 2 * f.kv_heads, f.qk_dim, f.v_dim),
        f"vLLM and SGLang take the experts' scale as 1, and here it is {scale}": scale != 1.0,
        "vLLM and SGLang turn the same share of the head in both layer types, and here the shares differ": _part(f)
        != _part(s),
        "vLLM and SGLang know plain rotary embedding only, and here it is stretched": stretched,
    }
    return [sentence for sentence, holds in facts.items() if holds]


def _mimo_rules(config: TextConfig) -> Iterator[Rule]:
    d = config.decoder
    yield from _common(config, "post_attention_layernorm")
    for i in range(d.layers):
        ours, theirs = f"decoder.layers.{i}", f"model.layers.{i}"
        if d.attention_of(i).sink:
            yield Rule(f"{ours}.attention.sink", (f"{theirs}.self_attn.attention_sink_bias",))
        if d.moe is None or i in d.dense_layers:
            yield from _dense(ours, theirs, d.ffn_dim)
            continue
        yield Rule(f"{ours}.ffn.router.weight", (f"{theirs}.mlp.gate.weight",))
        yield Rule(f"{ours}.ffn.balance", (f"{theirs}.mlp.gate.e_score_correction_bias",))
        experts = [f"{theirs}.mlp.experts.{e}" for e in range(d.moe.experts)]
        gate_up = tuple(f"{e}.{name}_proj.weight" for e in experts for name in ("gate", "up"))
        yield Rule(
            f"{ours}.ffn.gate_up",
            gate_up,
            lambda parts: torch.stack(parts).unflatten(0, (-1, 2)).flatten(1, 2),
            lambda whole: list(whole.unflatten(1, (2, -1)).flatten(0, 1)),
        )
        yield Rule(f"{ours}.ffn.down", tuple(f"{e}.down_proj.weight" for e in experts), torch.stack, list)
    for k in range(config.mtp):  # as in the file model_mtp.safetensors of their release, which transformers passes over
        ours, theirs = f"mtp.{k}", f"{MIMO_MTP}.{k}"
        names = {"input_norm": "enorm", "state_norm": "hnorm", "join": "eh_proj", "decoder.norm": "final_layernorm"}
        for own, other in names.items():
            yield Rule(f"{ours}.{own}.weight", (f"{theirs}.{other}.weight",))
        ours = f"{ours}.decoder.layers.0"
        yield from _layer(d.sliding, ours, theirs, "pre_mlp_layernorm")
        yield from _dense(ours, theirs, d.ffn_dim)
        if d.sliding.sink:
            yield Rule(f"{ours}.attention.sink", (f"{theirs}.self_attn.attention_sink_bias",))


# --- gpt-oss


def _read_gpt_oss(c: Values) -> TextConfig:
    family, head_dim = "gpt_oss", c["head_dim"]
    limits = (c.get("swiglu_alpha", 1.702), c.get("swiglu_limit", 7.0))
    demand(family, {f"swiglu_alpha and swiglu_limit {limits} are not 1.702 and 7": limits == (1.702, 7.0)})
    rope = c.get("rope_parameters") or {"rope_theta": c["rope_theta"]} | (c.get("rope_scaling") or {})
    full = AttentionConfig(
        heads=c["num_attention_heads"], kv_heads=c["num_key_value_heads"], qk_dim=head_dim, v_dim=head_dim, sink=True,
        qkv_bias=c.get("attention_bias", True), out_bias=c.get("attention_bias", True), **_rope(family, rope, head_dim),
    )  # fmt: skip
    layers, moe = c["num_hidden_layers"], (c["num_local_experts"], c["num_experts_per_tok"], c["intermediate_size"])
    decoder = DecoderConfig(
        c["hidden_size"], layers, c["intermediate_size"], _pattern(c, tuple(range(1, layers, 2))), full,
        replace(full, window=c["sliding_window"]), c.get("rms_norm_eps", 1e-5), MoEConfig(*moe, score="softmax", bias=True),
        dense_layers=(), activation="clamped",
    )  # fmt: skip
    return _text(c, decoder, tied=False)


def _write_gpt_oss(config: TextConfig) -> Values:
    d, family = config.decoder, "gpt_oss"
    f, moe = d.full, d.moe
    assert moe is not None
    fixed = {"sink": True, "qk_norm": False, "value_scale": 1.0, "scale": None}
    _demand_attention(family, d, **fixed, v_dim=f.qk_dim, rotary_dim=f.qk_dim, out_bias=f.qkv_bias)
    demand(family, {
        "the activation must be clamped": d.activation == "clamped",
        "norms must be plain": not d.centred_norms,
        "all layers must have experts": not d.dense_layers,
        "experts must have biases, no groups and scale 1": moe == MoEConfig(moe.experts, moe.top_k, moe.ffn_dim, "softmax", bias=True),
        "embed_scale must be 1": config.embed_scale == 1.0,
    })  # fmt: skip
    return _shared(config) | {
        "intermediate_size": moe.ffn_dim,
        "attention_bias": f.qkv_bias,
        "hidden_act": "silu",
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
        "rope_parameters": _rope_out(f),
        "num_local_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
    }


def _gpt_oss_rules(config: TextConfig) -> Iterator[Rule]:
    yield from _common(config, "post_attention_layernorm")
    moe = config.decoder.moe
    assert moe is not None

    def unweave(parts: list[Tensor]) -> Tensor:  # gate and up take turns there, and lie side by side here
        return torch.cat([parts[0][..., ::2], parts[0][..., 1::2]], dim=-1)

    def weave(whole: Tensor) -> list[Tensor]:
        return [torch.stack(whole.chunk(2, dim=-1), dim=-1).flatten(-2)]

    def no_balance(whole: Tensor) -> list[Tensor]:
        demand("gpt_oss", {"the balance of its experts must be zero": not whole.any()})
        return []

    for i in range(config.decoder.layers):
        ours, theirs = f"decoder.layers.{i}.ffn", f"model.layers.{i}.mlp"
        yield Rule(f"decoder.layers.{i}.attention.sink", (f"model.layers.{i}.self_attn.sinks",))
        for kind in ("weight", "bias"):
            yield Rule(f"{ours}.router.{kind}", (f"{theirs}.router.{kind}",))
        yield Rule(f"{ours}.balance", (), lambda _: torch.zeros(moe.experts), no_balance)
        yield Rule(
            f"{ours}.gate_up", (f"{theirs}.experts.gate_up_proj",), lambda p: unweave(p).mT, lambda w: weave(w.mT)
        )
        yield Rule(f"{ours}.gate_up_bias", (f"{theirs}.experts.gate_up_proj_bias",), unweave, weave)
        yield Rule(f"{ours}.down", (f"{theirs}.experts.down_proj",), lambda p: p[0].mT, lambda w: [w.mT])
        yield Rule(f"{ours}.down_bias", (f"{theirs}.experts.down_proj_bias",))


# --- Gemma 3, text


def _read_gemma3(c: Values) -> TextConfig:
    family, head_dim, layers = "gemma3_text", c["head_dim"], c["num_hidden_layers"]
    demand(family, {
        f"activation {c.get('hidden_activation')!r} is not gelu_pytorch_tanh":
            c.get("hidden_activation", "gelu_pytorch_tanh") == "gelu_pytorch_tanh",
        "logits with a soft cap are not known here":
            c.get("attn_logit_softcapping") is None and c.get("final_logit_softcapping") is None,
        "bidirectional attention is not known here": not c.get("use_bidirectional_attention"),
    })  # fmt: skip
    ropes = c.get("rope_parameters") or {
        "full_attention": {"rope_theta": c.get("rope_theta", 1e6)} | (c.get("rope_scaling") or {}),
        "sliding_attention": {"rope_theta": c.get("rope_local_base_freq", 1e4)},
    }

    def attention(kind: str, window: int | None) -> AttentionConfig:
        bias = c.get("attention_bias", False)
        return AttentionConfig(
            window, c["num_attention_heads"], c["num_key_value_heads"], head_dim, head_dim, qk_norm=True, qkv_bias=bias,
            out_bias=bias, scale=c["query_pre_attn_scalar"] ** -0.5, **_rope(family, ropes[kind], head_dim),
        )  # fmt: skip

    decoder = DecoderConfig(
        c["hidden_size"], layers, c["intermediate_size"], _pattern(c, tuple(range(5, layers, 6))),
        attention("full_attention", None), attention("sliding_attention", c["sliding_window"]), c.get("rms_norm_eps", 1e-6),
        activation="gelu_tanh", post_norms=True, centred_norms=True,
    )  # fmt: skip
    return _text(c, decoder, tied=True, embed_scale=c["hidden_size"] ** 0.5)


def _write_gemma3(config: TextConfig) -> Values:
    d, family = config.decoder, "gemma3_text"
    f = d.full
    fixed = {"sink": False, "qk_norm": True, "value_scale": 1.0, "v_dim": f.qk_dim, "rotary_dim": f.qk_dim}
    _demand_attention(family, d, "rotary_base", "rotary_factor", "yarn", **fixed, out_bias=f.qkv_bias)
    scalar = round((f.qk_dim**-0.5 if f.scale is None else f.scale) ** -2)
    demand(family, {
        "the activation must be gelu_tanh": d.activation == "gelu_tanh",
        "norms must be centred": d.centred_norms,
        "it has no experts": d.moe is None,
        "embed_scale must be the root of dim": config.embed_scale == d.dim**0.5,
        "scale must be one by the root of an integer": f.scale in (None, scalar**-0.5),
    })  # fmt: skip
    return _shared(config) | {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": f.qkv_bias,
        "query_pre_attn_scalar": scalar,
        "rope_parameters": {"full_attention": _rope_out(f), "sliding_attention": _rope_out(d.sliding)},
    }


def _gemma3_rules(config: TextConfig) -> Iterator[Rule]:
    yield from _common(config, "pre_feedforward_layernorm")
    for i in range(config.decoder.layers):
        ours, theirs = f"decoder.layers.{i}", f"model.layers.{i}"
        yield from _dense(ours, theirs, config.decoder.ffn_dim)
        yield Rule(f"{ours}.attention_post_norm.weight", (f"{theirs}.post_attention_layernorm.weight",))
        yield Rule(f"{ours}.ffn_post_norm.weight", (f"{theirs}.post_feedforward_layernorm.weight",))
        for x in "qk":
            yield Rule(f"{ours}.attention.{x}_norm.weight", (f"{theirs}.self_attn.{x}_norm.weight",))


FAMILIES = {
    "mimo_v2_flash": Family("MiMoV2FlashForCausalLM", _read_mimo, _write_mimo, _mimo_rules, _warn_mimo),
    "gpt_oss": Family("GptOssForCausalLM", _read_gpt_oss, _write_gpt_oss, _gpt_oss_rules),
    "gemma3_text": Family("Gemma3ForCausalLM", _read_gemma3, _write_gemma3, _gemma3_rules),
}
