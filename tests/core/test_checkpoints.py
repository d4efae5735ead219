"""Checkpoint folders: the same weights back, the same fingerprint, and a sentence for every way to be wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from solfa.core import checkpoints
from solfa.core.errors import UserError
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer

TENSORS = {"a": torch.arange(6.0).view(2, 3), "ids": torch.arange(3)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoints.save(tmp_path / "ck", "thing", {"width": 3}, TENSORS)
    return tmp_path / "ck"


def test_round_trip_and_fingerprint(folder: Path, tmp_path: Path) -> None:
    config, tensors = checkpoints.load(folder, "thing")
    assert config == {"width": 3}
    assert tensors["a"].dtype == torch.float32
    assert all(torch.equal(tensors[k], TENSORS[k]) for k in TENSORS)
    again = shutil.copytree(folder, tmp_path / "elsewhere")
    assert checkpoints.fingerprint(checkpoints.load(again, "thing")[1]) == checkpoints.fingerprint(tensors)
    for other in ({**TENSORS, "a": TENSORS["a"] + 1}, {"b" + k: v for k, v in TENSORS.items()}):
        assert checkpoints.fingerprint(other) != checkpoints.fingerprint(tensors)


def test_saving_again_keeps_other_files(folder: Path) -> None:
    (folder / "README.md").write_text("card")
    checkpoints.save(folder, "thing", {"width": 4}, TENSORS)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert checkpoints.read_config(folder, "thing") == {"width": 4}


def test_files_that_are_missing_foreign_or_damaged(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    weights = (folder / "model.safetensors").read_bytes()

    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words) as caught:
            checkpoints.load(folder, "thing")
        assert "\n" not in str(caught.value)
        (folder / "config.json").write_text(config)
        (folder / "model.safetensors").write_bytes(weights)

    (folder / "config.json").unlink()
    refused("has no config.json")
    (folder / "model.safetensors").unlink()
    refused("has no model.safetensors")
    (folder / "config.json").write_text("{")
    refused("not readable JSON")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    refused("not written by solfa")
    (folder / "config.json").write_text(json.dumps({**json.loads(config), "kind": "other"}))
    refused("kind 'other', but 'thing' is needed")
    (folder / "config.json").write_text(json.dumps({**json.loads(config), "format_version": 99}))
    refused("format 99")
    (folder / "model.safetensors").write_bytes(b"pickle?")
    refused("damaged or not a safetensors file")
    (folder / "model.safetensors").write_bytes(weights[:-8])
    refused("damaged or not a safetensors file")


def test_weights_of_another_model_are_refused(tmp_path: Path, tiny_codec_folder: Path) -> None:
    shutil.copytree(tiny_codec_folder, tmp_path / "ck")
    checkpoints.save(tmp_path / "other", "thing", {}, TENSORS)
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "ck")
    with pytest.raises(UserError, match="does not fit its config.json"):
        AudioTokenizer.from_pretrained(tmp_path / "ck")
    header = json.loads((tmp_path / "ck" / "config.json").read_text())
    header["config"]["nonsense"] = 1
    (tmp_path / "ck" / "config.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match="nonsense"):
        AudioTokenizer.from_pretrained(tmp_path / "ck")


def test_resolve_takes_folders_and_refuses_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoints.resolve(folder, "thing") == checkpoints.resolve(str(folder), "thing") == folder
    for name in ("no-such-name", "/no/such/folder", "../..//x", "a\0b"):
        with pytest.raises(UserError, match="no checkpoint"):
            checkpoints.resolve(name, "thing")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="neither a folder here nor reachable"):
        checkpoints.resolve("nobody/nothing", "thing")


def test_codec_round_trip_gives_the_same_codes(
    tiny_codec: AudioTokenizer, tiny_codec_folder: Path, tmp_path: Path
) -> None:
    tiny_codec.save_pretrained(tmp_path / "again")
    again = AudioTokenizer.from_pretrained(tmp_path / "again")
    assert again.fingerprint == tiny_codec.fingerprint
    wav = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 0.1
    assert torch.equal(again.encode(wav, 24_000), tiny_codec.encode(wav, 24_000))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("a", "a", True), ("a", "b", False), ("a+w", "a", True), ("a+w", "a+w", True), ("a+w", "a+v", False)],
)
def test_fingerprints_agree_on_the_books_that_both_cover(one, other, same):
    assert checkpoints.agree(one, other) is checkpoints.agree(other, one) is same
