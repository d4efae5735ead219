"""Every kind of checkpoint goes through the same checks: sizes that the weights do not have, and weights that are no numbers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from solfa.core import checkpoints
from solfa.core.errors import UserError
from solfa.omni.decoder.decoder import DecoderConfig
from solfa.omni.model.grid import TokenGrid
from solfa.omni.model.omni_model import OmniConfig, OmniModel
from solfa.omni.model.text_model import TextConfig, TextModel
from solfa.tokenizers.text.g2p import Speller
from solfa.tokenizers.text.tokenizer import TextTokenizer
from solfa.tts.model import TTSConfig, TTSModel
from solfa.tts.style.style_encoder import StyleEncoder

HUGE, LARGE = 1_000_000_000, 1 << 22  # the second one is not refused for itself


def load_tts(folder: Path) -> object:
    return checkpoints.restore(TTSModel, TTSConfig, folder, "tts")


def load_text(folder: Path) -> object:
    return Speller.from_folder(TextTokenizer.from_pretrained(folder).folder)


LOADERS: dict[str, Callable[[Path], object]] = {
    "tts": load_tts,
    "text": load_text,
    "style": StyleEncoder.from_pretrained,
    "text_lm": TextModel.from_pretrained,
    "omni": OmniModel.from_pretrained,
}
SETTINGS = {
    "tts": ["decoder.layers", "decoder.dim", "decoder.full.heads", "decoder.sliding.kv_heads", "planner.layers", "planner.heads",
            "patch_decoder.layers", "patch_encoder.heads", "patch_size", "books", "codebook_size", "planner.symbols"],
    "text": ["g2p.layers", "g2p.dim", "g2p.heads"],
    "style": ["layers", "width", "heads", "vocab_size", "hidden", "pools"],
    "text_lm": ["vocab_size", "decoder.layers", "decoder.dim", "decoder.ffn_dim", "mtp"],
    "omni": ["decoder.layers", "patch_decoder.layers", "patch_encoder.dim", "grid.patch_size", "cond_dim", "mtp"],
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each kind: the bundled ones, and two of small models."""
    place = tmp_path_factory.mktemp("checkpoints")
    found = {}
    for kind in ("tts", "text", "style"):
        found[kind] = place / kind
        found[kind].mkdir()
        for path in checkpoints.resolve(None, kind).iterdir():
            shutil.copyfile(path, found[kind] / path.name)
    decoder = DecoderConfig(dim=16, layers=2, ffn_dim=16, full_layers=(0,))
    TextModel(TextConfig(20, decoder)).save_pretrained(place / "text_lm")
    OmniModel(OmniConfig(TokenGrid(20, (8, 8), 2), decoder)).save_pretrained(place / "omni")
    return {**found, "text_lm": place / "text_lm", "omni": place / "omni"}


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the checkpoint of a kind, weights by hard links."""
    return lambda kind: shutil.copytree(
        folders[kind], tmp_path / kind, copy_function=lambda a, b: Path(b).hardlink_to(a)
    )


def replaced(path: Path, data: bytes | str) -> None:
    path.unlink()
    path.write_bytes(data.encode() if isinstance(data, str) else data)


@pytest.mark.parametrize("kind", LOADERS)
def test_untouched_ones_load(kind: str, folders: dict[str, Path]) -> None:
    LOADERS[kind](folders[kind])


@pytest.mark.parametrize("value", [HUGE, LARGE, -1, 0, None, "many"], ids=str)
@pytest.mark.parametrize(
    ("kind", "setting"), [(kind, setting) for kind, names in SETTINGS.items() for setting in names]
)
def test_sizes_that_the_weights_do_not_have(kind: str, setting: str, value: Any, copied: Callable[[str], Path]) -> None:
    if (value, setting) in ((0, "mtp"), (0, "cond_dim")):
        pytest.skip("as it is")
    folder = copied(kind)
    header = json.loads((folder / "config.json").read_text())
    place = header["config"]
    *parents, last = setting.split(".")
    for parent in parents:
        place = place[parent]
    assert last in place
    place[last] = value
    replaced(folder / "config.json", json.dumps(header))
    with pytest.raises(UserError) as caught:
        LOADERS[kind](folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("kind", LOADERS)
def test_weights_that_are_no_numbers(kind: str, copied: Callable[[str], Path]) -> None:
    folder = copied(kind)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if tensors[name].is_floating_point())
    tensors[name].view(-1)[-1] = torch.nan
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match="NaN or infinite weights"):
        LOADERS[kind](folder)


@pytest.mark.parametrize("kind", LOADERS)
def test_damaged_headers(kind: str, copied: Callable[[str], Path]) -> None:
    folder = copied(kind)
    weights = (folder / "model.safetensors").read_bytes()
    for damaged in (weights[:-1], b"\xff" * 8 + weights[8:], weights[:9] + b"#" + weights[10:]):
        replaced(folder / "model.safetensors", damaged)
        with pytest.raises(UserError, match="damaged or not a safetensors file"):
            LOADERS[kind](folder)
    header = json.loads((folder / "config.json").read_text())
    for broken in ({**header, "config": None}, {**header, "config": {}}, {**header, "config": []}):
        replaced(folder / "config.json", json.dumps(broken))
        with pytest.raises(UserError) as caught:
            LOADERS[kind](folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "setting"), [("tts", "decoder.sliding.window"), ("style", "window")])
def test_windows_of_no_steps(kind: str, setting: str, copied: Callable[[str], Path]) -> None:
    test_sizes_that_the_weights_do_not_have(kind, setting, 0, copied)
