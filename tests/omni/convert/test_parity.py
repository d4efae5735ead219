"""Parity with `transformers`, through files: their checkpoint, converted, gives their logits, and goes back bit by bit."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from solfa.omni.convert.convert import convert
from solfa.omni.model.text_model import TextModel

LENGTH = 75  # more than four windows


def rope(base: float, part: float, **more) -> dict:
    return {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": part, **more}


FULL, SLIDING = "full_attention", "sliding_attention"
DESIGNS: dict[str, tuple[str, dict[str, Any]]] = {
    "as released": ("mimo", {}),
    "7:1, window 8, one KV head, tied": (
        "mimo",
        dict(
            num_hidden_layers=8,
            layer_types=[FULL] + [SLIDING] * 6 + [FULL],
            sliding_window=8,
            num_key_value_heads=1,
            num_attention_heads=2,
            tie_word_embeddings=True,
        ),
    ),
    "dense": ("mimo", dict(num_hidden_layers=4, mlp_layer_types=["dense"] * 4, attention_value_scale=None)),
    "sliding first, biases, wide values": (
        "mimo",
        dict(
            num_hidden_layers=3,
            layer_types=[SLIDING, FULL, SLIDING],
            mlp_layer_types=["sparse", "dense", "sparse"],
            attention_bias=True,
            head_dim=16,
            v_head_dim=32,
            attention_value_scale=0.5,
            rope_parameters={FULL: rope(1e6, 1.0), SLIDING: rope(500.0, 0.5)},
        ),
    ),
    "groups of experts": (
        "mimo",
        dict(
            num_hidden_layers=3,
            n_routed_experts=12,
            n_group=4,
            topk_group=2,
            norm_topk_prob=False,
            routed_scaling_factor=2.5,
        ),
    ),
    "one expert, no full layers, yarn": (
        "mimo",
        dict(
            num_hidden_layers=3,
            layer_types=[SLIDING] * 3,
            mlp_layer_types=["sparse"] * 3,
            num_experts_per_tok=1,
            rope_parameters={
                FULL: rope(1e4, 0.334),
                SLIDING: rope(1e4, 0.5) | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            },
        ),
    ),
    "gpt-oss": ("gpt_oss", {}),
    "gpt-oss, plain rope, no attention biases": (
        "gpt_oss",
        dict(
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            attention_bias=False,
            tie_word_embeddings=True,
            num_experts_per_tok=5,
        ),
    ),
    "gemma 3": ("gemma3", {}),
    "gemma 3, stretched, biases, untied": (
        "gemma3",
        dict(
            layer_types=[FULL, SLIDING] * 3,
            attention_bias=True,
            tie_word_embeddings=False,
            rope_parameters={
                FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                SLIDING: {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
    ),
}


@pytest.fixture(scope="module", params=DESIGNS)
def pair(request, tmp_path_factory, save_hf_model) -> tuple[torch.nn.Module, TextModel, Path]:
    folder = tmp_path_factory.mktemp("pair")
    theirs = save_hf_model(folder / "theirs", *DESIGNS[request.param])
    convert(folder / "theirs", folder / "ours")
    return theirs, TextModel.from_pretrained(folder / "ours"), folder


@torch.no_grad()
def check_parity(theirs: torch.nn.Module, ours: TextModel, length: int = LENGTH) -> None:
    ids = torch.randint(0, 60, (2, length), generator=torch.Generator().manual_seed(1))
    want = theirs(input_ids=ids, use_cache=False).logits
    assert want.std() > 0.3
    torch.testing.assert_close(ours(ids), want, atol=1e-4, rtol=0)


def test_prefill(pair):
    check_parity(*pair[:2])


@pytest.mark.parametrize("chunks", [[40, 1, 20, 14], [1] * LENGTH], ids=["chunks", "steps"])
@torch.no_grad()
def test_cached_decoding(pair, chunks):
    theirs, ours, _ = pair
    ids = torch.randint(0, 60, (1, LENGTH))
    cache = ours.decoder.new_cache()
    got = torch.cat([ours(part, cache=cache) for part in ids.split(chunks, dim=1)], dim=1)
    torch.testing.assert_close(got, theirs(input_ids=ids, use_cache=False).logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_round_trip_is_bitwise_and_loads_there(pair, read_tensors, same_tensors):
    theirs, ours, folder = pair
    convert(folder / "ours", folder / "back")
    convert(folder / "back", folder / "again")
    expected = read_tensors(folder / "theirs")
    if ours.config.tied:
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    assert same_tensors(read_tensors(folder / "back"), expected)
    assert same_tensors(read_tensors(folder / "again"), read_tensors(folder / "ours"))
    assert (folder / "again/config.json").read_text() == (folder / "ours/config.json").read_text()
    config = type(theirs.config).from_pretrained(folder / "back", attn_implementation="eager")
    reloaded = type(theirs).from_pretrained(folder / "back", config=config)
    check_parity(reloaded, ours)
    assert config.eos_token_id == theirs.config.eos_token_id


@pytest.fixture(scope="module")
def wide(tmp_path_factory, save_hf_model) -> tuple[torch.nn.Module, TextModel]:
    """A window of 128, as released."""
    folder = tmp_path_factory.mktemp("wide")
    theirs = save_hf_model(folder / "theirs", "mimo", {"num_hidden_layers": 3, "sliding_window": 128})
    convert(folder / "theirs", folder / "ours")
    return theirs, TextModel.from_pretrained(folder / "ours")


def altered(model: TextModel, kind: str = "sliding", tensor: str = "", value: float = 0.0, **changes) -> TextModel:
    """The model with settings of one layer type changed, or all tensors of a name filled."""
    decoder = model.config.decoder
    decoder = dataclasses.replace(decoder, **{kind: dataclasses.replace(getattr(decoder, kind), **changes)})
    changed = TextModel(dataclasses.replace(model.config, decoder=decoder)).eval()
    state = model.state_dict()
    filled = {k: torch.full_like(v, value) for k, v in state.items() if tensor and k.endswith(tensor)}
    assert bool(filled) == bool(tensor)
    changed.load_state_dict(state | filled)
    return changed


@pytest.mark.parametrize("mistake", [
    {"window": None}, {"window": 129}, {"window": 127}, {"tensor": "attention.sink", "value": -1e4}, {"value_scale": 1.0},
    {"tensor": "balance"}, {"rotary_base": 5e6}, {"kind": "full", "rotary_base": 1e4}, {"rotary_dim": 10},
], ids=str)  # fmt: skip
def test_a_mistake_breaks_parity_at_300_steps(wide, mistake):
    theirs, ours = wide
    check_parity(theirs, ours, 300)
    with pytest.raises(AssertionError, match="not close"):
        check_parity(theirs, altered(ours, **mistake), 300)


def test_a_missing_window_does_not_break_parity_within_the_window(wide):
    """How such mistakes live on, and why the test above has 300 steps."""
    check_parity(wide[0], altered(wide[1], window=None), 128)
