"""Configurations that ask for what their weights do not hold: one sentence, no memory and no time."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from solfa.core.errors import UserError
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.model.config import LIMITS, AudioTokenizerConfig

HOSTILE = [  # (setting, value, words)
    ("encoder_layers", 100_000_000, "encoder_layers should be at most 16777216"),
    ("encoder_layers", 10_000_000, "encoder_layers should be from 0 to 1024"),
    ("vocoder_blocks", 1_000_000, "vocoder_blocks should be from 0 to 1024"),
    ("vocoder_blocks", 1_000, "asks for more than the .* tensors of the file"),
    ("dim", -1, "dim cannot be negative"),
    ("dim", 0, "dim should be from 1"),
    ("dim", 1_000_000, "at once|no tensor of shape"),
    ("heads", 0, "heads should be from 1"),
    ("heads", 5, "frame_dim 16 should be a multiple of twice the 5 heads"),
    ("sample_rate", 0, "sample_rate should be from 1000"),
    ("window", -3, "window cannot be negative"),
    ("window", 10**7, "window should be from 1 to 2048"),
    ("beam", 0, "beam should be from 1"),
    ("beam", 33, "beam 33 should be at most codebook_size 32"),
    ("bands", 10**7, "bands should be from 2 to 1024"),
    ("head_n_fft", 511, "head_n_fft 511 should be even"),
    ("feature_hop", 239, "feature_hop 239 should be even"),
    ("books", 10**7, "books should be from 1 to 1024"),
    ("books", 1000, "at once|differ|more memory"),
    ("lm_books", 5, "lm_books 5 should be among the 4 books"),
    ("codebook_size", 1_000_000, "at once"),
    ("wave_books", 4_000, "no tensor of shape"),
    ("stride", 10**400, "stride should be at most 16777216"),
    ("stride", 65, "stride should be from 1 to 64"),
    ("stride", 2.5, "stride should be int, not 2.5"),
    ("stride", "4", "stride should be int, not '4'"),
    ("stride", None, "stride should be int, not None"),
    ("stride", True, "stride should be int, not True"),
]


def with_setting(folder: Path, setting: str, value: Any) -> Path:
    header = json.loads((folder / "config.json").read_text())
    header["config"][setting] = value
    (folder / "config.json").write_text(json.dumps(header))
    return folder


@pytest.mark.parametrize(
    ("setting", "value", "words"), HOSTILE, ids=[f"{name}={str(v)[:12]}" for name, v, _ in HOSTILE]
)
def test_one_sentence(setting: str, value: Any, words: str, tiny_codec_folder: Path, tmp_path: Path) -> None:
    folder = with_setting(shutil.copytree(tiny_codec_folder, tmp_path / "ck"), setting, value)
    with pytest.raises(UserError, match=words) as caught:
        AudioTokenizer.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


LIMITED = """
import json, resource, sys, time
from pathlib import Path
from solfa.core.errors import UserError
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
folder, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
header = json.loads((folder / "config.json").read_text())
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
AudioTokenizer.own(folder)
begin = peak()
for name, value in cases:
    (folder / "config.json").write_text(json.dumps({**header, "config": {**header["config"], name: value}}))
    began = time.process_time()
    try:
        AudioTokenizer.own(folder)
        sys.exit(f"{name}={value} was loaded")
    except UserError as e:
        pass
    assert time.process_time() - began < 3, (name, value, time.process_time() - began)
    assert peak() - begin < 400, (name, value, peak() - begin)
"""


def test_no_memory_and_no_time(tmp_path: Path) -> None:
    """The bundled codec, whose real sizes leave most room for others."""
    bundled = Path(AudioTokenizer.own().folder or "")
    folder = tmp_path / "ck"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(bundled / name, folder / name)
    cases = [("encoder_layers", 10**8), ("vocoder_blocks", 1024), ("dim", 1 << 20), ("dim", 10**12), ("books", 1024),
             ("codebook_size", 1 << 20), ("wave_books", 4096), ("wave_refine", 1 << 20), ("pitch_bins", 1024)]  # fmt: skip
    assert all(value <= most for name, value in cases for limit, _, most in LIMITS if name == limit and value < 10**8)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIMITED, str(folder), json.dumps(cases)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_smallest_and_largest_sizes_are_those_of_every_setting() -> None:
    assert [name for name, _, _ in LIMITS] == [f.name for f in dataclasses.fields(AudioTokenizerConfig)]
    default = AudioTokenizerConfig()
    assert all(least <= getattr(default, name) <= most for name, least, most in LIMITS)
