"""A model family of `transformers` that `TextModel` can represent: how its configuration and tensors correspond to ours.

A family reads and writes the mapping of `config.json`, and lists `Rule`s, one for each of our tensors.  Here are the classes
and the functions that several families share; `solfa.omni.convert.convert` reads and writes the files.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from solfa.core.errors import UserError
from solfa.omni.decoder.attention import Yarn
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.model.text_model import TextConfig

Values = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """Our tensor named `ours` is `join` of the tensors named `theirs` in `transformers`; `split` is the inverse of `join`."""

    ours: str
    theirs: tuple[str, ...]
    join: Callable[[list[Tensor]], Tensor] = lambda parts: parts[0]
    split: Callable[[Tensor], list[Tensor]] = lambda whole: [whole]


@dataclass(frozen=True)
class Family:
    """One family.

    architecture: the class in `transformers`.
    read, write: their config.json -> our configuration, and back; both raise a UserError for what is not supported.
    rules: the tensors of a configuration.
    warn: sentences for the user about programs that would compute something else from a configuration written here.
    """

    architecture: str
    read: Callable[[Values], TextConfig]
    write: Callable[[TextConfig], Values]
    rules: Callable[[TextConfig], Iterator[Rule]]
    warn: Callable[[TextConfig], list[str]] = lambda config: []


def require(family: str, facts: dict[str, bool]) -> None:
    """facts: statement -> whether it holds.  Raises: UserError with the first statement that does not."""
    for statement, holds in facts.items():
        if not holds:
            raise UserError(f"this does not fit {family}: {statement}")


def joined_rows(*sizes: int) -> dict[str, Callable]:
    """`join` and `split` of a `Rule` that stacks matrices of so many rows."""
    return {"join": torch.cat, "split": lambda whole: list(whole.split(sizes))}


def common_rules(config: TextConfig, ffn_norm: str) -> Iterator[Rule]:
    """Tensors with the same names in all families: embeddings, norms, attention without sinks."""
    yield Rule("embed.weight", ("model.embed_tokens.weight",))
    yield Rule("decoder.norm.weight", ("model.norm.weight",))
    if not config.tied:
        yield Rule("head.weight", ("lm_head.weight",))
    for i in range(config.decoder.layers):
        yield from layer_rules(config.decoder.attention_of(i), f"decoder.layers.{i}", f"model.layers.{i}", ffn_norm)


def layer_rules(c: AttentionConfig, ours: str, theirs: str, ffn_norm: str) -> Iterator[Rule]:
    """Norms and attention of a layer, without sinks; `ours` and `theirs` are the prefixes of its tensors."""
    yield Rule(f"{ours}.attention_norm.weight", (f"{theirs}.input_layernorm.weight",))
    yield Rule(f"{ours}.ffn_norm.weight", (f"{theirs}.{ffn_norm}.weight",))
    sizes = (c.heads * c.qk_dim, c.kv_heads * c.qk_dim, c.kv_heads * c.v_dim)
    for kind in ("weight", "bias") if c.qkv_bias else ("weight",):
        projections = tuple(f"{theirs}.self_attn.{x}_proj.{kind}" for x in "qkv")
        yield Rule(f"{ours}.attention.qkv.{kind}", projections, **joined_rows(*sizes))
    for kind in ("weight", "bias") if c.out_bias else ("weight",):
        yield Rule(f"{ours}.attention.out.{kind}", (f"{theirs}.self_attn.o_proj.{kind}",))


def dense_rules(ours: str, theirs: str, width: int) -> Iterator[Rule]:
    """The dense feed-forward network of a layer; `width` is its hidden size."""
    names = (f"{theirs}.mlp.gate_proj.weight", f"{theirs}.mlp.up_proj.weight")
    yield Rule(f"{ours}.ffn.gate_up.weight", names, **joined_rows(width, width))
    yield Rule(f"{ours}.ffn.down.weight", (f"{theirs}.mlp.down_proj.weight",))


def read_pattern(c: Values, full: tuple[int, ...]) -> tuple[int, ...]:
    """Indices of the full-attention layers: those of `layer_types`, or the default `full`."""
    types = c.get("layer_types")
    return full if types is None else tuple(i for i, t in enumerate(types) if t == "full_attention")


def layer_types(d: DecoderConfig) -> list[str]:
    """`layer_types` of config.json."""
    return ["full_attention" if i in d.full_layers else "sliding_attention" for i in range(d.layers)]


def text_config(c: Values, decoder: DecoderConfig, tied: bool, embed_scale: float = 1.0) -> TextConfig:
    """A `TextConfig` from the settings that all families name alike; `tied` is the family's default."""
    eos = c.get("eos_token_id")
    return TextConfig(
        c["vocab_size"], decoder, c.get("tie_word_embeddings", tied), embed_scale, c.get("max_position_embeddings", 32_768),
        c.get("bos_token_id"), tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,), c.get("pad_token_id"),
    )  # fmt: skip


def shared_values(config: TextConfig) -> Values:
    """The settings of config.json that all families name alike."""
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
        "layer_types": layer_types(d),
        "rms_norm_eps": d.norm_eps,
        "max_position_embeddings": config.max_length,
        "tie_word_embeddings": config.tied,
        "bos_token_id": config.bos,
        "eos_token_id": list(config.eos) if len(config.eos) > 1 else next(iter(config.eos), None),
        "pad_token_id": config.pad,
    }


def read_rope(family: str, rope: Values, head_dim: int, part: float = 1.0) -> Values:
    """Their rope parameters of one layer type -> fields of our `AttentionConfig`.

    part: the default share of the head that is rotated.  Raises: UserError for a rope type that is not supported.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    ours = {
        "rotary_dim": int(head_dim * rope.get("partial_rotary_factor", part)),
        "rotary_base": float(rope["rope_theta"]),
    }
    if kind == "linear":
        return ours | {"rotary_factor": float(rope["factor"])}
    if kind == "yarn":
        factor = rope.get("attention_factor") or rope.get("mscale")
        require(family, {"YaRN is supported only with its own factor of queries and keys": not factor})
        trained = rope["original_max_position_embeddings"]
        fast, slow = float(rope.get("beta_fast") or 32), float(rope.get("beta_slow") or 1)
        return ours | {"yarn": Yarn(float(rope["factor"]), trained, fast, slow, rope.get("truncate", True))}
    require(family, {f"rope_type {kind!r} is not supported, only default, linear and yarn": kind == "default"})
    return ours


def write_rope(a: AttentionConfig, partial: bool = False) -> Values:
    """Our settings -> their rope parameters of one layer type, with the rotated share of the head if `partial`."""
    rope: Values = {"rope_type": "default", "rope_theta": a.rotary_base}
    if partial:
        rope["partial_rotary_factor"] = rotary_share(a)
    if a.rotary_factor != 1.0:
        rope |= {"rope_type": "linear", "factor": a.rotary_factor}
    if a.yarn is not None:
        y = a.yarn
        rope |= {"rope_type": "yarn", "factor": y.factor, "original_max_position_embeddings": y.trained}
        rope |= {"beta_fast": y.fast, "beta_slow": y.slow, "truncate": y.truncate}
    return rope


def rotary_share(a: AttentionConfig) -> float:
    """The rotated share of the head, such that int(share * qk_dim) is `rotary_dim` again."""
    share = a.rotary_dim / a.qk_dim
    return share if int(share * a.qk_dim) == a.rotary_dim else (a.rotary_dim + 0.5) / a.qk_dim


PLAIN = AttentionConfig()


def require_attention(family: str, d: DecoderConfig, *may_differ: str, **fixed: Any) -> None:
    """Raise a UserError unless both layer types have the `fixed` settings, and differ in `may_differ` and the window only."""
    for name, value in fixed.items():
        for kind, a in (("full", d.full), ("sliding", d.sliding)):
            require(family, {f"{kind}.{name} must be {value!r}, not {getattr(a, name)!r}": getattr(a, name) == value})
    alike = {name: getattr(d.full, name) for name in may_differ} | {"window": d.full.window}
    require(family, {
        "full.window must be None": d.full.window is None,
        "sliding.window must be set": d.sliding.window is not None,
        f"full and sliding attention must be alike but for {', '.join(('window', *may_differ))}": replace(d.sliding, **alike) == d.full,
    })  # fmt: skip
