"""Gemma 3, text (arXiv 2503.19786): five sliding layers to a full one, norms after each branch, no sinks."""

from collections.abc import Iterator

from solfa.omni.convert.families.family import (
    Family,
    Rule,
    Values,
    common_rules,
    dense_rules,
    read_pattern,
    read_rope,
    require,
    require_attention,
    shared_values,
    text_config,
    write_rope,
)
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.model.text_model import TextConfig


def _read(c: Values) -> TextConfig:
    family, head_dim, layers = "gemma3_text", c["head_dim"], c["num_hidden_layers"]
    require(family, {
        f"activation {c.get('hidden_activation')!r} is not gelu_pytorch_tanh":
            c.get("hidden_activation", "gelu_pytorch_tanh") == "gelu_pytorch_tanh",
        "logits with a soft cap are not supported":
            c.get("attn_logit_softcapping") is None and c.get("final_logit_softcapping") is None,
        "bidirectional attention is not supported": not c.get("use_bidirectional_attention"),
    })  # fmt: skip
    ropes = c.get("rope_parameters") or {
        "full_attention": {"rope_theta": c.get("rope_theta", 1e6)} | (c.get("rope_scaling") or {}),
        "sliding_attention": {"rope_theta": c.get("rope_local_base_freq", 1e4)},
    }

    def attention(kind: str, window: int | None) -> AttentionConfig:
        bias = c.get("attention_bias", False)
        return AttentionConfig(
            window, c["num_attention_heads"], c["num_key_value_heads"], head_dim, head_dim, qk_norm=True, qkv_bias=bias,
            out_bias=bias, scale=c["query_pre_attn_scalar"] ** -0.5, **read_rope(family, ropes[kind], head_dim),
        )  # fmt: skip

    decoder = DecoderConfig(
        c["hidden_size"], layers, c["intermediate_size"], read_pattern(c, tuple(range(5, layers, 6))),
        attention("full_attention", None), attention("sliding_attention", c["sliding_window"]), c.get("rms_norm_eps", 1e-6),
        activation="gelu_tanh", post_norms=True, centred_norms=True,
    )  # fmt: skip
    return text_config(c, decoder, tied=True, embed_scale=c["hidden_size"] ** 0.5)


def _write(config: TextConfig) -> Values:
    d, family = config.decoder, "gemma3_text"
    f = d.full
    fixed = {"sink": False, "qk_norm": True, "value_scale": 1.0, "v_dim": f.qk_dim, "rotary_dim": f.qk_dim}
    require_attention(family, d, "rotary_base", "rotary_factor", "yarn", **fixed, out_bias=f.qkv_bias)
    scalar = round((f.qk_dim**-0.5 if f.scale is None else f.scale) ** -2)
    require(family, {
        "the activation must be gelu_tanh": d.activation == "gelu_tanh",
        "norms must be centred": d.centred_norms,
        "it has no experts": d.moe is None,
        "embed_scale must be the root of dim": config.embed_scale == d.dim**0.5,
        "scale must be one by the root of an integer": f.scale in (None, scalar**-0.5),
    })  # fmt: skip
    return shared_values(config) | {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": f.qkv_bias,
        "query_pre_attn_scalar": scalar,
        "rope_parameters": {"full_attention": write_rope(f), "sliding_attention": write_rope(d.sliding)},
    }


def _rules(config: TextConfig) -> Iterator[Rule]:
    yield from common_rules(config, "pre_feedforward_layernorm")
    for i in range(config.decoder.layers):
        ours, theirs = f"decoder.layers.{i}", f"model.layers.{i}"
        yield from dense_rules(ours, theirs, config.decoder.ffn_dim)
        yield Rule(f"{ours}.attention_post_norm.weight", (f"{theirs}.post_attention_layernorm.weight",))
        yield Rule(f"{ours}.ffn_post_norm.weight", (f"{theirs}.post_feedforward_layernorm.weight",))
        for x in "qk":
            yield Rule(f"{ours}.attention.{x}_norm.weight", (f"{theirs}.self_attn.{x}_norm.weight",))


GEMMA3 = Family("Gemma3ForCausalLM", _read, _write, _rules)
