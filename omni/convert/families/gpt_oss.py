"""gpt-oss (OpenAI, 2025): a sliding window in every other layer, sinks and biases everywhere, experts."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from solfa.omni.convert.families.family import (
    Family,
    Rule,
    Values,
    common_rules,
    read_pattern,
    read_rope,
    require,
    require_attention,
    shared_values,
    text_config,
    write_rope,
)
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.decoder.moe import MoEConfig
from solfa.omni.model.text_model import TextConfig


def _read(c: Values) -> TextConfig:
    family, head_dim = "gpt_oss", c["head_dim"]
    limits = (c.get("swiglu_alpha", 1.702), c.get("swiglu_limit", 7.0))
    require(family, {f"swiglu_alpha and swiglu_limit {limits} are not 1.702 and 7": limits == (1.702, 7.0)})
    rope = c.get("rope_parameters") or {"rope_theta": c["rope_theta"]} | (c.get("rope_scaling") or {})
    full = AttentionConfig(
        heads=c["num_attention_heads"], kv_heads=c["num_key_value_heads"], qk_dim=head_dim, v_dim=head_dim, sink=True,
        qkv_bias=c.get("attention_bias", True), out_bias=c.get("attention_bias", True), **read_rope(family, rope, head_dim),
    )  # fmt: skip
    layers, moe = c["num_hidden_layers"], (c["num_local_experts"], c["num_experts_per_tok"], c["intermediate_size"])
    decoder = DecoderConfig(
        c["hidden_size"], layers, c["intermediate_size"], read_pattern(c, tuple(range(1, layers, 2))), full,
        replace(full, window=c["sliding_window"]), c.get("rms_norm_eps", 1e-5), MoEConfig(*moe, score="softmax", bias=True),
        dense_layers=(), activation="clamped",
    )  # fmt: skip
    return text_config(c, decoder, tied=False)


def _write(config: TextConfig) -> Values:
    d, family = config.decoder, "gpt_oss"
    f, moe = d.full, d.moe
    assert moe is not None
    fixed = {"sink": True, "qk_norm": False, "value_scale": 1.0, "scale": None}
    require_attention(family, d, **fixed, v_dim=f.qk_dim, rotary_dim=f.qk_dim, out_bias=f.qkv_bias)
    require(family, {
        "the activation must be clamped": d.activation == "clamped",
        "norms must be plain": not d.centred_norms,
        "all layers must have experts": not d.dense_layers,
        "experts must have biases, no groups and scale 1": moe == MoEConfig(moe.experts, moe.top_k, moe.ffn_dim, "softmax", bias=True),
        "embed_scale must be 1": config.embed_scale == 1.0,
    })  # fmt: skip
    return shared_values(config) | {
        "intermediate_size": moe.ffn_dim,
        "attention_bias": f.qkv_bias,
        "hidden_act": "silu",
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
        "rope_parameters": write_rope(f),
        "num_local_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
    }


def _rules(config: TextConfig) -> Iterator[Rule]:
    yield from common_rules(config, "post_attention_layernorm")
    moe = config.decoder.moe
    assert moe is not None

    def deinterleave(parts: list[Tensor]) -> Tensor:  # gate and up are interleaved there, and side by side here
        return torch.cat([parts[0][..., ::2], parts[0][..., 1::2]], dim=-1)

    def interleave(whole: Tensor) -> list[Tensor]:
        return [torch.stack(whole.chunk(2, dim=-1), dim=-1).flatten(-2)]

    def no_balance(whole: Tensor) -> list[Tensor]:
        require("gpt_oss", {"the balance of its experts must be zero": not whole.any()})
        return []

    for i in range(config.decoder.layers):
        ours, theirs = f"decoder.layers.{i}.ffn", f"model.layers.{i}.mlp"
        yield Rule(f"decoder.layers.{i}.attention.sink", (f"model.layers.{i}.self_attn.sinks",))
        for kind in ("weight", "bias"):
            yield Rule(f"{ours}.router.{kind}", (f"{theirs}.router.{kind}",))
        yield Rule(f"{ours}.balance", (), lambda _: torch.zeros(moe.experts), no_balance)
        yield Rule(
            f"{ours}.gate_up",
            (f"{theirs}.experts.gate_up_proj",),
            lambda p: deinterleave(p).mT,
            lambda w: interleave(w.mT),
        )
        yield Rule(f"{ours}.gate_up_bias", (f"{theirs}.experts.gate_up_proj_bias",), deinterleave, interleave)
        yield Rule(f"{ours}.down", (f"{theirs}.experts.down_proj",), lambda p: p[0].mT, lambda w: [w.mT])
        yield Rule(f"{ours}.down_bias", (f"{theirs}.experts.down_proj_bias",))


GPT_OSS = Family("GptOssForCausalLM", _read, _write, _rules)
