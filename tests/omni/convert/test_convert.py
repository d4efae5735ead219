"""`solfa convert`: shards and side files, models of ours that go there, and what is refused in a sentence."""

import dataclasses
import json
import shutil
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


def test_shards_types_and_tokenizers_go_both_ways(
    small_hf_folder, tmp_path, monkeypatch, capsys, read_tensors, same_tensors
):
    assert len(list(small_hf_folder.glob("*.safetensors"))) > 2
    convert(small_hf_folder, tmp_path / "ours")
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
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in read_tensors(small_hf_folder).values())
    assert same_tensors(read_tensors(tmp_path / "new" / "back"), read_tensors(small_hf_folder))
    kinds = {t.dtype for t in read_tensors(tmp_path / "ours").values()}
    assert kinds == {torch.bfloat16, torch.float32}  # the balance of the experts
    assert json.loads((tmp_path / "new" / "back" / "config.json").read_text())["dtype"] == "bfloat16"
    assert "mimo_v2_flash as a solfa checkpoint" in capsys.readouterr().out


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


def test_a_model_of_ours_runs_in_transformers(tmp_path):
    hf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = TextModel(OWN).eval()
    torch.nn.init.normal_(ours.head.weight, std=0.3)
    for mixture in ours.decoder.moe_layers():
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
    (edit(rope_parameters={"full_attention": {"rope_type": "longrope", "rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e4}}),
     "'longrope' is not supported"),
    (edit(intermediate_size=96), "do not fit its config.json: 'decoder.layers.0.ffn"),
    (add_tensor, "1 tensors that mimo_v2_flash does not have here"),
    (drop_tensor, "has no tensor 'model.norm.weight'"),
    (lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"no"), "missing, damaged"),
    (lambda folder: (folder / "config.json").unlink(), "there is no"),
    (lambda folder: (folder / "config.json").write_text("{"), "not readable JSON"),
    (lambda folder: (folder / "model.safetensors.index.json").unlink(), "neither model.safetensors nor its index"),
])  # fmt: skip
def test_what_is_wrong_with_theirs_is_said_in_a_sentence(small_hf_folder, tmp_path, break_it, words):
    shutil.copytree(small_hf_folder, tmp_path / "theirs")
    break_it(tmp_path / "theirs")
    with pytest.raises(UserError) as error:
        convert(tmp_path / "theirs", tmp_path / "ours")
    assert words in str(error.value) and "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["theirs"]


def test_nothing_is_overwritten(small_hf_folder, tmp_path):
    (tmp_path / "ours").mkdir()
    convert(small_hf_folder, tmp_path / "ours")  # an empty folder is as good as none
    with pytest.raises(UserError, match="exists already"):
        convert(small_hf_folder, tmp_path / "ours")
    with pytest.raises(UserError, match="exists already"):
        convert(small_hf_folder, small_hf_folder)
