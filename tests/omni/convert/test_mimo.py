"""MiMo-V2-Flash as it is released: its dialect of config.json, float8 blocks, and the file of its MTP blocks."""

import dataclasses
import json
import shutil

import torch
from safetensors.torch import load_file, save_file

from solfa.omni.convert.convert import convert
from solfa.omni.model.text_model import TextModel


def test_the_dialect_of_the_release_means_the_same(small_hf_folder, tmp_path):
    """config.json as MiMo-V2-Flash's own, which vLLM and SGLang read, and as `transformers` writes it."""
    convert(small_hf_folder, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back")
    values = json.loads((tmp_path / "back" / "config.json").read_text())
    assert values["sliding_window"] == 16 and values["sliding_window_size"] == 15
    assert values["hybrid_layer_pattern"] == [0, 1] and values["moe_layer_freq"] == [0, 1]
    for key in ("layer_types", "mlp_layer_types", "rope_parameters", "sliding_window", "rms_norm_eps"):
        del values[key]
    (tmp_path / "back" / "config.json").write_text(json.dumps(values))
    convert(tmp_path / "back", tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "ours" / "config.json").read_text()


def test_blocks_of_float8_are_read(small_hf_folder, tmp_path, read_tensors):
    """As DeepSeek-V3 and MiMo-V2-Flash are released: a float8 weight, and a scale for each block of it."""
    shutil.copytree(small_hf_folder, tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    packing = {"quant_method": "fp8", "weight_block_size": [32, 16]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": packing}))
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
    got = read_tensors(tmp_path / "ours")["decoder.layers.1.attention.qkv.weight"][:192]
    assert seen == 1 and torch.equal(got, want.flatten(2).flatten(0, 1).bfloat16())


def test_multi_token_prediction_has_the_release_s_names(tmp_path, save_hf_model):
    """Blocks travel in a file that the index does not list, and transformers loads the rest."""
    dense = {"num_hidden_layers": 4, "mlp_layer_types": ["dense"] * 4, "attention_value_scale": None}
    theirs = save_hf_model(tmp_path / "theirs", "mimo", dense)
    convert(tmp_path / "theirs", tmp_path / "ours")
    plain = TextModel.from_pretrained(tmp_path / "ours")
    model = TextModel(dataclasses.replace(plain.config, mtp=2))
    model.load_state_dict(plain.state_dict(), strict=False)
    model.save_pretrained(tmp_path / "with")
    convert(tmp_path / "with", tmp_path / "back")
    ids = torch.randint(0, 60, (1, 20))
    found = type(theirs).from_pretrained(tmp_path / "back", attn_implementation="eager")
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
