"""Parity with `transformers`, through files: their checkpoint, converted, gives their logits."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from solfa.core.errors import UserError
from solfa.omni.convert.convert import convert
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.decoder.moe import MoEConfig
from solfa.omni.model.text_model import TextConfig, TextModel

hf = pytest.importorskip("transformers", reason="transformers is not installed")
if not hasattr(hf, "MiMoV2FlashConfig"):
    pytest.skip(f"transformers {hf.__version__} has no mimo_v2_flash", allow_module_level=True)

LENGTH = 75  # more than four windows


def rope(base: float, part: float, **more) -> dict:
    return {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": part, **more}


def mimo(**changes) -> tuple:
    config = {
        "vocab_size": 60, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 7, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 24, "v_head_dim": 16, "sliding_window": 16, "n_routed_experts": 8,
        "num_experts_per_tok": 3, "moe_intermediate_size": 20, "eos_token_id": [3, 5],
    }  # fmt: skip
    return hf.MiMoV2FlashForCausalLM, hf.MiMoV2FlashConfig(**config | changes)


def gpt_oss(**changes) -> tuple:
    config = {
        "vocab_size": 60, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 16, "num_local_experts": 6, "num_experts_per_tok": 2,
    }  # fmt: skip
    return hf.GptOssForCausalLM, hf.GptOssConfig(**config | changes)


def gemma3(**changes) -> tuple:
    config = {
        "vocab_size": 60, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 20,
    }  # fmt: skip
    return hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(**config | changes)


FULL, SLIDING = "full_attention", "sliding_attention"
DESIGNS = {
    "as released": mimo,
    "7:1, window 8, one KV head, tied": partial(
        mimo, num_hidden_layers=8, layer_types=[FULL] + [SLIDING] * 6 + [FULL], sliding_window=8, num_key_value_heads=1,
        num_attention_heads=2, tie_word_embeddings=True,
    ),
    "dense": partial(mimo, num_hidden_layers=4, mlp_layer_types=["dense"] * 4, attention_value_scale=None),
    "sliding first, biases, wide values": partial(
        mimo, num_hidden_layers=3, layer_types=[SLIDING, FULL, SLIDING], mlp_layer_types=["sparse", "dense", "sparse"],
        attention_bias=True, head_dim=16, v_head_dim=32, attention_value_scale=0.5,
        rope_parameters={FULL: rope(1e6, 1.0), SLIDING: rope(500.0, 0.5)},
    ),
    "groups of experts": partial(
        mimo, num_hidden_layers=3, n_routed_experts=12, n_group=4, topk_group=2, norm_topk_prob=False,
        routed_scaling_factor=2.5,
    ),
    "one expert, no full layers, yarn": partial(
        mimo, num_hidden_layers=3, layer_types=[SLIDING] * 3, mlp_layer_types=["sparse"] * 3, num_experts_per_tok=1,
        rope_parameters={
            FULL: rope(1e4, 0.334),
            SLIDING: rope(1e4, 0.5) | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        },
    ),
    "gpt-oss": gpt_oss,
    "gpt-oss, plain rope, no attention biases": partial(
        gpt_oss, rope_parameters={"rope_type": "default", "rope_theta": 1e4}, attention_bias=False, tie_word_embeddings=True,
        num_experts_per_tok=5,
    ),
    "gemma 3": gemma3,
    "gemma 3, stretched, biases, untied": partial(
        gemma3, layer_types=[FULL, SLIDING] * 3, attention_bias=True, tie_word_embeddings=False,
        rope_parameters={
            FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            SLIDING: {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
}  # fmt: skip


def build(design, folder: Path, half: bool = False, **save) -> torch.nn.Module:
    """A random model of theirs, saved: every parameter matters, and sinks and balances are large enough to be missed."""
    torch.manual_seed(0)
    architecture, config = design()
    config._attn_implementation = "eager"
    model = architecture(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.5 if p.dim() == 1 else p.shape[-1] ** -0.5)
        for name, b in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                b.normal_(std=0.2)
        model.get_input_embeddings().weight.normal_(std=1.0 if not config.tie_word_embeddings else 0.3)
    if half:
        model.bfloat16()
        for name, b in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                b.data = b.float()
    model.save_pretrained(folder, **save)
    return model


@pytest.fixture(scope="module", params=DESIGNS)
def pair(request, tmp_path_factory) -> tuple[torch.nn.Module, TextModel, Path]:
    folder = tmp_path_factory.mktemp("pair")
    theirs = build(DESIGNS[request.param], folder / "theirs")
    convert(folder / "theirs", folder / "ours")
    return theirs, TextModel.from_pretrained(folder / "ours"), folder


@torch.no_grad()
def check(theirs: torch.nn.Module, ours: TextModel, length: int = LENGTH) -> None:
    ids = torch.randint(0, 60, (2, length), generator=torch.Generator().manual_seed(1))
    want = theirs(input_ids=ids, use_cache=False).logits
    assert want.std() > 0.3
    torch.testing.assert_close(ours(ids), want, atol=1e-4, rtol=0)


def test_prefill(pair):
    check(*pair[:2])


@pytest.mark.parametrize("chunks", [[40, 1, 20, 14], [1] * LENGTH], ids=["chunks", "steps"])
@torch.no_grad()
def test_cached_decoding(pair, chunks):
    theirs, ours, _ = pair
    ids = torch.randint(0, 60, (1, LENGTH))
    cache = ours.decoder.new_cache()
    got = torch.cat([ours(part, cache=cache) for part in ids.split(chunks, dim=1)], dim=1)
    torch.testing.assert_close(got, theirs(input_ids=ids, use_cache=False).logits, atol=1e-4, rtol=0)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        v.dtype == other[k].dtype and torch.equal(v, other[k]) for k, v in one.items()
    )


@torch.no_grad()
def test_round_trip_is_bitwise_and_loads_there(pair):
    theirs, ours, folder = pair
    convert(folder / "ours", folder / "back")
    convert(folder / "back", folder / "again")
    expected = tensors(folder / "theirs")
    if ours.config.tied:
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    assert same(tensors(folder / "back"), expected)
    assert same(tensors(folder / "again"), tensors(folder / "ours"))
    assert (folder / "again/config.json").read_text() == (folder / "ours/config.json").read_text()
    config = type(theirs.config).from_pretrained(folder / "back", attn_implementation="eager")
    reloaded = type(theirs).from_pretrained(folder / "back", config=config)
    check(reloaded, ours)
    assert config.eos_token_id == theirs.config.eos_token_id


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> tuple[torch.nn.Module, TextModel]:
    """A window of 128, as released."""
    folder = tmp_path_factory.mktemp("wide")
    theirs = build(partial(mimo, num_hidden_layers=3, sliding_window=128), folder / "theirs")
    convert(folder / "theirs", folder / "ours")
    return theirs, TextModel.from_pretrained(folder / "ours")


def mutant(model: TextModel, kind: str = "sliding", tensor: str = "", value: float = 0.0, **changes) -> TextModel:
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
def test_parity_at_300_steps_tells_a_mistake(wide, mistake):
    theirs, ours = wide
    check(theirs, ours, 300)
    with pytest.raises(AssertionError, match="not close"):
        check(theirs, mutant(ours, **mistake), 300)


def test_parity_within_the_window_does_not_tell_that_it_is_missing(wide):
    """How such mistakes live on, and why the test above has 300 steps."""
    check(wide[0], mutant(wide[1], window=None), 128)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A checkpoint of theirs in bfloat16 and in shards, with tokenizer files."""
    folder = tmp_path_factory.mktemp("small") / "theirs"
    build(partial(mimo, num_hidden_layers=2), folder, half=True, max_shard_size="30KB")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "modeling_other.py").write_text("raise SystemExit")
    return folder


def test_shards_types_and_tokenizers_go_both_ways(small, tmp_path, monkeypatch, capsys):
    assert len(list(small.glob("*.safetensors"))) > 2
    convert(small, tmp_path / "ours")
    monkeypatch.setattr("solfa.omni.convert.convert.SHARD_BYTES", 30_000)
    convert(tmp_path / "ours", tmp_path / "new" / "back")
    files = sorted(p.name for p in (tmp_path / "new" / "back").iterdir())
    shards = [name for name in files if name.endswith(".safetensors")]
    assert (
        shards == [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))] and len(shards) > 2
    )
    assert sorted(set(files) - set(shards)) == [
        "config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json",
    ]  # fmt: skip
    index = json.loads((tmp_path / "new" / "back" / "model.safetensors.index.json").read_text())
    for key, name in index["weight_map"].items():
        with safe_open(tmp_path / "new" / "back" / name, "pt") as file:
            assert key in file.keys()  # noqa: SIM118
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors(small).values())
    assert same(tensors(tmp_path / "new" / "back"), tensors(small))
    kinds = {t.dtype for t in tensors(tmp_path / "ours").values()}
    assert kinds == {torch.bfloat16, torch.float32}  # the balance of the experts
    assert json.loads((tmp_path / "new" / "back" / "config.json").read_text())["dtype"] == "bfloat16"
    assert "mimo_v2_flash as a solfa checkpoint" in capsys.readouterr().out


def test_the_dialect_of_the_release_means_the_same(small, tmp_path):
    """config.json as MiMo-V2-Flash's own, which vLLM and SGLang read, and as `transformers` writes it."""
    convert(small, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back")
    values = json.loads((tmp_path / "back" / "config.json").read_text())
    assert values["sliding_window"] == 16 and values["sliding_window_size"] == 15
    assert values["hybrid_layer_pattern"] == [0, 1] and values["moe_layer_freq"] == [0, 1]
    for key in ("layer_types", "mlp_layer_types", "rope_parameters", "sliding_window", "rms_norm_eps"):
        del values[key]
    (tmp_path / "back" / "config.json").write_text(json.dumps(values))
    convert(tmp_path / "back", tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "ours" / "config.json").read_text()


def test_blocks_of_float8_are_read(small, tmp_path):
    """As DeepSeek-V3 and MiMo-V2-Flash are released: a float8 weight, and a scale for each block of it."""
    shutil.copytree(small, tmp_path / "theirs")
    edit(quantization_config={"quant_method": "fp8", "weight_block_size": [32, 16]})(tmp_path / "theirs")
    key, seen = "model.layers.1.self_attn.q_proj.weight", 0
    for file in (tmp_path / "theirs").glob("*.safetensors"):
        stored = load_file(file)
        if key in stored:
            scale = torch.rand(6, 3) + 0.5  # of 192 x 48
            stored[key] = stored[key].to(torch.float8_e4m3fn)
            want = stored[key].float().unflatten(0, (6, 32)).unflatten(2, (3, 16)) * scale[:, None, :, None]
            save_file(stored | {key + "_scale_inv": scale}, file)
            seen += 1
    convert(tmp_path / "theirs", tmp_path / "ours")
    got = tensors(tmp_path / "ours")["decoder.layers.1.attention.qkv.weight"][:192]
    assert seen == 1 and torch.equal(got, want.flatten(2).flatten(0, 1).bfloat16())


OWN = TextConfig(
    40,
    DecoderConfig(
        dim=32, layers=4, ffn_dim=48, full_layers=(0, 3), moe=MoEConfig(6, 2, 16),
        full=AttentionConfig(heads=4, kv_heads=1, qk_dim=16, v_dim=8, rotary_dim=6, rotary_base=1e5),
        sliding=AttentionConfig(window=8, heads=4, kv_heads=2, qk_dim=16, v_dim=8, rotary_dim=6, sink=True),
    ),
    eos=(2,),
)  # fmt: skip


def changed(kind: str = "", **changes) -> TextConfig:
    """OWN with other settings, of the decoder or of one layer type."""
    d = OWN.decoder
    if kind:
        changes = {kind: dataclasses.replace(getattr(d, kind), **changes)}
    return dataclasses.replace(OWN, decoder=dataclasses.replace(d, **changes))


def test_a_model_of_ours_speaks_there(tmp_path):
    torch.manual_seed(0)
    ours = TextModel(OWN).eval()
    torch.nn.init.normal_(ours.head.weight, std=0.3)
    for mixture in ours.decoder.mixtures():
        mixture.balance.normal_(std=0.2)
    ours.save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "theirs")
    theirs = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", attn_implementation="eager")
    ids = torch.randint(0, 40, (2, 50))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(input_ids=ids, use_cache=False).logits, atol=1e-4, rtol=0)


def test_readers_that_would_compute_something_else_are_named(tmp_path, capsys):
    config = changed("sliding", kv_heads=4, rotary_dim=8, rotary_factor=2.0)
    moe = dataclasses.replace(config.decoder.moe, scale=2.0)
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, moe=moe))
    TextModel(config).save_pretrained(tmp_path / "ours")
    file = tmp_path / "ours" / "model.safetensors"
    save_file(load_file(file) | {"mtp.0.join.weight": torch.ones(2)}, file)
    convert(tmp_path / "ours", tmp_path / "theirs")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 5 and "'mtp.0.join.weight'" in said[4]
    for sentence, words in zip(
        said[:4], ("transformers cannot load", "scale", "share of the head", "stretched"), strict=True
    ):
        assert words in sentence


@pytest.mark.parametrize(("config", "words"), [
    (changed("full", sink=True), "sinks"),
    (changed("sliding", value_scale=0.5), "alike but for"),
    (changed("sliding", qk_norm=True), "sliding.qk_norm must be False"),
    (changed("full", window=4), "full.window must be None"),
    (changed(centred_norms=True), "norms must be plain"),
    (changed(activation="gelu_tanh"), "must be silu"),
    (dataclasses.replace(OWN, embed_scale=2.0), "embed_scale"),
    (changed(post_norms=True), "fit gemma3_text"),
    (changed(moe=MoEConfig(6, 2, 16, score="softmax")), "fit gpt_oss"),
])  # fmt: skip
def test_what_fits_no_design_is_refused_in_a_sentence(config, words, tmp_path):
    TextModel(config).save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match=words) as error:
        convert(tmp_path / "ours", tmp_path / "theirs")
    assert "\n" not in str(error.value) and sorted(p.name for p in tmp_path.iterdir()) == ["ours"]


def edit(**values):
    def change(folder: Path) -> None:
        path = folder / "config.json"
        old = json.loads(path.read_text()) | values
        path.write_text(json.dumps({k: v for k, v in old.items() if v != "gone"}))

    return change


def add_tensor(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    save_file(load_file(file) | {"model.layers.0.self_attn.q_norm.weight": torch.ones(2)}, file)


def drop_tensor(folder: Path) -> None:
    file = next(f for f in folder.glob("*.safetensors") if "model.norm.weight" in load_file(f))
    save_file({k: v for k, v in load_file(file).items() if k != "model.norm.weight"}, file)


@pytest.mark.parametrize(("break_it", "words"), [
    (edit(model_type="llama"), "'llama'; solfa reads mimo_v2_flash, gpt_oss, gemma3_text"),
    (edit(model_type="gone"), "neither of transformers"),
    (edit(quantization_config={"quant_method": "mxfp4"}), "packed as mxfp4"),
    (edit(hidden_act="relu"), "'relu' is not silu"),
    (edit(n_shared_experts=1), "shared experts"),
    (edit(vocab_size="gone"), "has no vocab_size"),
    (edit(num_attention_heads=7), "7 heads cannot share"),
    (edit(rope_parameters={"full_attention": rope(1e4, 0.5, rope_type="longrope"), "sliding_attention": rope(1e4, 0.5)}),
     "'longrope' is not known"),
    (edit(intermediate_size=96), "do not fit its config.json: 'decoder.layers.0.ffn"),
    (add_tensor, "1 tensors that mimo_v2_flash does not have here"),
    (drop_tensor, "has no tensor 'model.norm.weight'"),
    (lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"no"), "missing, damaged"),
    (lambda folder: (folder / "config.json").unlink(), "there is no"),
    (lambda folder: (folder / "config.json").write_text("{"), "not readable JSON"),
    (lambda folder: (folder / "model.safetensors.index.json").unlink(), "neither model.safetensors nor its index"),
])  # fmt: skip
def test_what_is_wrong_with_theirs_is_said_in_a_sentence(small, tmp_path, break_it, words):
    shutil.copytree(small, tmp_path / "theirs")
    break_it(tmp_path / "theirs")
    with pytest.raises(UserError) as error:
        convert(tmp_path / "theirs", tmp_path / "ours")
    assert words in str(error.value) and "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["theirs"]


def test_nothing_is_overwritten(small, tmp_path):
    (tmp_path / "ours").mkdir()
    convert(small, tmp_path / "ours")  # an empty folder is as good as none
    with pytest.raises(UserError, match="exists already"):
        convert(small, tmp_path / "ours")
    with pytest.raises(UserError, match="exists already"):
        convert(small, small)


def test_multi_token_prediction_has_the_release_s_names(tmp_path):
    """Blocks travel in a file that the index does not list, and transformers loads the rest."""
    build(DESIGNS["dense"], tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    plain = TextModel.from_pretrained(tmp_path / "ours")
    model = TextModel(dataclasses.replace(plain.config, mtp=2))
    model.load_state_dict(plain.state_dict(), strict=False)
    model.save_pretrained(tmp_path / "with")
    convert(tmp_path / "with", tmp_path / "back")
    ids = torch.randint(0, 60, (1, 20))
    found = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "back", attn_implementation="eager")
    torch.testing.assert_close(found(ids, use_cache=False).logits, model(ids), atol=1e-4, rtol=0)
    file = tmp_path / "back" / "model.safetensors"
    everything = load_file(file)
    blocks = {k: v for k, v in everything.items() if k.startswith("model.mtp.layers.")}
    names = {k.removeprefix("model.mtp.layers.1.") for k in blocks if ".layers.1." in k}
    assert {
        "enorm.weight",
        "hnorm.weight",
        "eh_proj.weight",
        "final_layernorm.weight",
        "pre_mlp_layernorm.weight",
    } < names
    save_file({k: v for k, v in everything.items() if k not in blocks}, file)
    save_file(blocks, tmp_path / "back" / "model_mtp.safetensors")
    convert(tmp_path / "back", tmp_path / "again")
    again = TextModel.from_pretrained(tmp_path / "again")
    assert again.config.mtp == 2
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
