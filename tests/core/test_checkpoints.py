"""Checkpoint folders: the same weights back, the same fingerprint, and a sentence for every way to be wrong."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

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


def states(folder: Path) -> tuple[int, float]:
    """What a loader finds: the width in config.json and the first weight."""
    config, tensors = checkpoints.load(folder, "thing")
    return config["width"], tensors["a"][0, 0].item()


OLD, NEW = (3, 0.0), (4, 1.0)


def save_new(folder: Path) -> None:
    tensors = {**TENSORS, "a": TENSORS["a"] + 1}
    checkpoints.save(folder, "thing", {"width": 4}, tensors, side_files={"side.bin": b"new"})


@pytest.mark.parametrize("killed", [False, True], ids=["error", "killed"])
def test_saving_that_ends_anywhere_leaves_all_old_or_all_new(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """`error`: an exception after which things are cleared up; `killed`: nothing at all happens after that step."""
    (folder / "README.md").write_text("card")
    (folder / "side.bin").write_bytes(b"old")
    found = []
    for last_step in range(30):
        copy = shutil.copytree(folder, tmp_path / f"copy{last_step}")
        if not run_until(last_step, lambda copy=copy: save_new(copy), killed, monkeypatch):  # type: ignore[misc]
            break
        assert not ((copy / "config.json").is_file() and mixed(copy)), (
            "not even for a reader that knows nothing of this"
        )
        found.append(states(copy))
        assert (copy / "side.bin").read_bytes() == (b"new" if found[-1] == NEW else b"old")
        save_new(copy)  # and the next one is not in the way of what was left
        assert states(copy) == NEW
        assert sorted(path.name for path in copy.iterdir()) == [
            "README.md",
            "config.json",
            "model.safetensors",
            "side.bin",
        ]
    assert set(found) == {OLD, NEW}
    assert found == sorted(found), "old before one step, new after it"


def mixed(folder: Path) -> bool:
    """Whether config.json and model.safetensors are not of the same save."""
    width = json.loads((folder / "config.json").read_text())["config"]["width"]
    return (width, load_file(folder / "model.safetensors")["a"][0, 0].item()) not in (OLD, NEW)


def run_until(step: int, run: Callable[[], None], killed: bool, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run up to the given one of all calls that change the folder; -> whether there were so many."""
    left, dead = [step], [False]

    def counted(call: Callable[..., None]) -> Callable[..., None]:
        def instead(*args: object, **kwargs: object) -> None:
            if dead[0]:
                return  # a killed process does nothing more
            if left[0] == 0:
                dead[0] = killed
                left[0] = -1
                raise KeyboardInterrupt
            left[0] -= 1
            call(*args, **kwargs)

        return instead

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        for method in ("unlink", "rmdir", "mkdir", "write_text", "write_bytes"):
            patch.setattr(Path, method, counted(getattr(Path, method)))
        try:
            run()
        except KeyboardInterrupt:
            return True
    return False


def test_a_reader_waits_for_the_save_that_is_at_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved, go_on, found = threading.Event(), threading.Event(), []
    replace = os.replace

    def slow(source: Path, target: Path) -> None:
        replace(source, target)
        if Path(target).name == "model.safetensors":
            moved.set()
            go_on.wait(10)

    monkeypatch.setattr(os, "replace", slow)
    saving = threading.Thread(target=save_new, args=(folder,))
    saving.start()
    assert moved.wait(10)  # new weights are there, their config is not
    reading = threading.Thread(target=lambda: found.append(states(folder)))
    reading.start()
    reading.join(0.2)
    assert reading.is_alive()
    go_on.set()
    saving.join(10)
    reading.join(10)
    assert found == [NEW]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file is in the way"):
        checkpoints.save(tmp_path / "file", "thing", {}, TENSORS)


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
    for text in ("{", "[" * 100_000, "\0", "1" * 10_000):
        (folder / "config.json").write_text(text)
        refused("not readable JSON")
    (folder / "config.json").write_bytes(b" " * (checkpoints.LARGEST_CONFIG + 1))
    refused("too large for a configuration")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    refused("not written by solfa")
    header = json.loads(config)
    for changed, words in (
        ({"kind": "other"}, "kind 'other', but 'thing' is needed"),
        ({"format_version": 99}, "format 99"),
        ({"config": None}, "config should be a mapping, not None"),
        ({"config": {"a": [1, {"width": -3}]}}, "width cannot be negative, and is -3"),
        ({"config": {"scale": float("inf")}}, "scale should be a finite number, not inf"),
        ({"config": {"scale": float("nan")}}, "scale should be a finite number, not nan"),
    ):
        (folder / "config.json").write_text(json.dumps({**header, **changed}))
        refused(words)
    del header["config"]
    (folder / "config.json").write_text(json.dumps(header))
    refused("config should be a mapping")
    for damaged in (
        b"",
        b"pickle?",
        weights[:-8],
        weights + b"x",
        b"\xff" * 8 + weights[8:],
        weights[:20] + b"?" + weights[21:],
    ):
        (folder / "model.safetensors").write_bytes(damaged)
        refused("damaged or not a safetensors file")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float, dtype: torch.dtype) -> None:
    weights = TENSORS["a"].clone()
    weights[1, 1] = value
    save_file({**TENSORS, "a": weights.to(dtype)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="NaN or infinite weights, first in 'a'"):
        checkpoints.load(folder, "thing")


def test_weights_of_another_model_are_refused(tmp_path: Path, tiny_codec_folder: Path) -> None:
    folder = shutil.copytree(tiny_codec_folder, tmp_path / "ck")
    config, whole = (folder / "config.json").read_text(), load_file(folder / "model.safetensors")
    name = "quantizer.codebooks"

    def refused(words: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(UserError, match=f"does not fit its config.json: .*{words}") as caught:
            AudioTokenizer.from_pretrained(folder)
        assert "\n" not in str(caught.value)

    refused("", TENSORS)
    refused(f"1 tensors differ, first '{name}' is missing", {k: v for k, v in whole.items() if k != name})
    refused("1 tensors differ, first 'more' is not of this model", {**whole, "more": torch.zeros(3)})
    refused(
        rf"'{name}' is bfloat16 \(4, 32, 7\) instead of float32 \(4, 32, 8\)",
        {**whole, name: whole[name][..., :-1].contiguous()},
    )
    refused(f"'{name}' is int8 .* instead of float32", {**whole, name: whole[name].to(torch.int8)})
    save_file({**whole, name: whole[name].to(torch.float8_e4m3fn)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="has type F8_E4M3, which is not read"):
        AudioTokenizer.from_pretrained(folder)
    header = json.loads(config)
    header["config"]["nonsense"] = 1
    (folder / "config.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match="nonsense"):
        AudioTokenizer.from_pretrained(folder)


def test_resolve_takes_folders_and_refuses_the_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoints.resolve(folder, "thing") == checkpoints.resolve(str(folder), "thing") == folder
    for name in ("no-such-name", "/no/such/folder", "../..//x", "a\0b"):
        with pytest.raises(UserError, match="no checkpoint"):
            checkpoints.resolve(name, "thing")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="there is no folder 'runs/codek' here.*write hf:runs/codek"):
        checkpoints.resolve("runs/codek", "thing")  # a mistyped path


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
    assert checkpoints.same_codes(one, other) is checkpoints.same_codes(other, one) is same
