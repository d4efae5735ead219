"""MiMo-V2-Flash (arXiv 2601.02780).

`config.json` has two dialects: that of `transformers` (layer_types, rope_parameters) and that of the release, which vLLM and
SGLang read (hybrid_layer_pattern, swa_...).  Both are read, and both are written at once.
"""

from collections.abc import Iterator
from typing import Any

import torch

from solfa.omni.convert.families.family import (
    PLAIN,
    Family,
    Rule,
    Values,
    common_rules,
    dense_rules,
    layer_rules,
    read_pattern,
    read_rope,
    require,
    require_attention,
    rotary_share,
    shared_values,
    text_config,
    write_rope,
)
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig, hybrid_pattern
from solfa.omni.decoder.moe import MoEConfig
from solfa.omni.model.text_model import TextConfig

MIMO_MTP = "model.mtp.layers"


def _read(c: Values) -> TextConfig:
    family, layers, heads = "mimo_v2_flash", c["num_hidden_layers"], c["num_attention_heads"]
    require(family, {
        f"activation {c.get('hidden_act')!r} is not silu": c.get("hidden_act", "silu") == "silu",
        "shared experts are not supported": not c.get("n_shared_experts"),
        "only sigmoid routers are supported": c.get("scoring_func", "sigmoid") == "sigmoid",
        "sinks on full layers are not supported by all programs that read it": not c.get("add_full_attention_sink_bias"),
    })  # fmt: skip
    released = c.get("hybrid_layer_pattern")
    full_layers = hybrid_pattern(layers, 6) if released is None else tuple(i for i, x in enumerate(released) if x == 0)
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
    # the release does not count the query's own step, `transformers` does
    window = c["sliding_window_size"] + 1 if c.get("sliding_window_size") is not None else c["sliding_window"]

    def attention(kind: str, head_dim: int, **settings: Any) -> AttentionConfig:
        rope = read_rope(family, ropes[kind], head_dim, part)
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
        c["hidden_size"], layers, c["intermediate_size"], read_pattern(c, full_layers), full, sliding,
        c.get("rms_norm_eps") or c.get("layernorm_epsilon") or 1e-5, moe, dense if moe is not None else (0,),
    )  # fmt: skip
    return text_config(c, decoder, tied=False)


def _write(config: TextConfig) -> Values:
    d, family = config.decoder, "mimo_v2_flash"
    f, s, moe = d.full, d.sliding, d.moe or MoEConfig()
    plain = ("scale", "qk_norm", "out_bias")
    own = ("heads", "kv_heads", "qk_dim", "v_dim", "rotary_dim", "rotary_base", "rotary_factor", "yarn", "sink")
    require_attention(family, d, *own, **{name: getattr(PLAIN, name) for name in plain})
    require(family, {
        "the activation must be silu": d.activation == "silu",
        "norms must be plain": not d.post_norms and not d.centred_norms,
        "sliding layers must have sinks and full ones none": s.sink and not f.sink,
        "experts must have a sigmoid router and no biases": moe.score == "sigmoid" and not moe.bias,
        "embed_scale must be 1": config.embed_scale == 1.0,
    })  # fmt: skip
    dense = d.dense_layers if d.moe is not None else tuple(range(d.layers))
    assert s.window is not None
    ropes = {"full_attention": write_rope(f, partial=True), "sliding_attention": write_rope(s, partial=True)}
    return shared_values(config) | {
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
        # from here on: the names of the release
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "n_shared_experts": None,
        "layernorm_epsilon": d.norm_eps,
        "hybrid_layer_pattern": [0 if i in d.full_layers else 1 for i in range(d.layers)],
        "moe_layer_freq": [0 if i in dense else 1 for i in range(d.layers)],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "sliding_window_size": s.window - 1,
        "partial_rotary_factor": rotary_share(f),
        "rope_theta": f.rotary_base,
        "swa_rope_theta": s.rotary_base,
        "swa_num_attention_heads": s.heads,
        "swa_num_key_value_heads": s.kv_heads,
        "swa_head_dim": s.qk_dim,
        "swa_v_head_dim": s.v_dim,
    }


def _warn(config: TextConfig) -> list[str]:
    d = config.decoder
    f, s, scale = d.full, d.sliding, d.moe.scale if d.moe is not None else 1.0
    stretched = any(a.yarn is not None or a.rotary_factor != 1.0 for a in (f, s))
    facts = {
        "transformers cannot load this: there, both layer types have the same heads and head sizes, and sliding layers twice "
        "the key-value heads; vLLM and SGLang can": (s.heads, s.kv_heads, s.qk_dim, s.v_dim)
        != (f.heads, 2 * f.kv_heads, f.qk_dim, f.v_dim),
        f"vLLM and SGLang take the experts' scale as 1, and here it is {scale}": scale != 1.0,
        "vLLM and SGLang rotate the same share of the head in both layer types, and here the shares differ": rotary_share(
            f
        )
        != rotary_share(s),
        "vLLM and SGLang support plain rotary embedding only, and here it is stretched": stretched,
    }
    return [sentence for sentence, holds in facts.items() if holds]


def _rules(config: TextConfig) -> Iterator[Rule]:
    d = config.decoder
    yield from common_rules(config, "post_attention_layernorm")
    for i in range(d.layers):
        ours, theirs = f"decoder.layers.{i}", f"model.layers.{i}"
        if d.attention_of(i).sink:
            yield Rule(f"{ours}.attention.sink", (f"{theirs}.self_attn.attention_sink_bias",))
        if d.moe is None or i in d.dense_layers:
            yield from dense_rules(ours, theirs, d.ffn_dim)
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
    for k in range(config.mtp):  # as in the file model_mtp.safetensors of their release, which transformers ignores
        ours, theirs = f"mtp.{k}", f"{MIMO_MTP}.{k}"
        names = {"input_norm": "enorm", "state_norm": "hnorm", "join": "eh_proj", "decoder.norm": "final_layernorm"}
        for own, other in names.items():
            yield Rule(f"{ours}.{own}.weight", (f"{theirs}.{other}.weight",))
        ours = f"{ours}.decoder.layers.0"
        yield from layer_rules(d.sliding, ours, theirs, "pre_mlp_layernorm")
        yield from dense_rules(ours, theirs, d.ffn_dim)
        if d.sliding.sink:
            yield Rule(f"{ours}.attention.sink", (f"{theirs}.self_attn.attention_sink_bias",))


MIMO = Family("MiMoV2FlashForCausalLM", _read, _write, _rules, _warn)
