"""`solfa bench decode` on tiny models: its tables hold what was measured.  Nothing here is timed."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from solfa.cli import run as solfa
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.evaluation import bench_decode as bench
from solfa.omni.model.grid import TokenGrid
from solfa.omni.model.omni_model import OmniConfig, OmniModel
from solfa.omni.model.patches import LocalConfig
from solfa.omni.model.text_model import TextConfig, TextModel
from solfa.tokenizers.datasets.shards.shard_formats import Header
from solfa.tokenizers.datasets.shards.shards import ShardWriter

HEADS: dict[str, Any] = {"heads": 2, "kv_heads": 1, "qk_dim": 16, "v_dim": 16, "rotary_dim": 16}
TINY = DecoderConfig(
    dim=32, layers=2, ffn_dim=48, full_layers=(1,), full=AttentionConfig(**HEADS),
    sliding=AttentionConfig(window=8, sink=True, **HEADS),
)  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    TextModel(TextConfig(266, TINY, bos=258, eos=(259,), mtp=2)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_sizes_are_a_sixth_of_full_attention_s_at_32k(capsys):
    assert solfa(["bench", "decode", "--lengths", ""]) == 0
    printed = capsys.readouterr().out
    assert "7:1, 16 layers" in printed and "(1/7.0)" in printed and "1,048,576 steps" in printed


def test_both_read_one_step_and_say_what_their_cache_holds(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(bench, "VOCAB", 64)
    whole = dataclasses.replace(TINY, full_layers=(0, 1))
    makers = {
        "ours": lambda: bench.ours(50, TINY),
        "full": lambda: bench.theirs(50, whole),
        "static": lambda: bench.theirs(50, whole, static=True),
        "hybrid": lambda: bench.theirs(50, TINY),
    }
    found = bench.race(makers, 1)
    step = 2 * 16 * 4  # bytes in a layer
    assert {name: size // step for name, (_, size) in found.items()} == {
        "ours": 8 + 64, "full": 2 * 53, "static": 2 * 114, "hybrid": 7 + 53
    }  # fmt: skip
    assert all(seconds > 0 for seconds, _ in found.values())


def test_writing_with_drafts_is_compared_with_writing_without(checkpoint, tmp_path, capsys):
    text = tmp_path / "lines.txt"
    text.write_text("\n".join(f"{i} this is a line of text that is long enough" for i in range(9)))
    words = ["--model", str(checkpoint), "--text", str(text), "--lengths", "", "--prompts", "2", "--steps", "12"]
    assert solfa(["bench", "decode", *words, "--temperatures", "0,1"]) == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if " x " in line]
    assert [(r[0].strip(), r[1].strip()) for r in rows] == [(t, d) for t in "01" for d in "012"]
    assert all("2 of 2 texts" in r[5] for r in rows[:3]) and rows[0][3].strip() == "1.00 x"
    assert all(1 <= float(r[4]) <= 1 + int(r[1]) for r in rows)


@pytest.fixture
def speaker(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    local = LocalConfig(dim=16, layers=1, heads=2, ffn_dim=24)
    OmniModel(OmniConfig(TokenGrid(256, (6, 6, 6), patch_size=2), TINY, local, local, mtp=2)).save_pretrained(
        tmp_path / "speaker"
    )
    return tmp_path / "speaker"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path / "tokens", Header("tiny", "f", 24_000, 25.0, 4, 6)) as writer:
        for i in range(9):
            codes = np.random.default_rng(i).integers(0, 6, (4, 13 + i))
            row = {"id": str(i), "audio": "", "codes": codes, "frames": codes.shape[1], "text": ""}
            writer.add({**row, "duration": 1.0, "samples": 24_000, "sample_rate": 24_000})
        writer.flush()
    return tmp_path / "tokens"


def test_writing_audio_with_drafts_is_compared_with_writing_without(speaker, tokens, capsys):
    words = ["--model", str(speaker), "--tokens", str(tokens), "--lengths", "", "--prompts", "2", "--steps", "6"]
    assert solfa(["bench", "decode", *words, "--temperatures", "0,1"]) == 0
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if " x " in line
    ]
    assert [(r[0], r[1]) for r in rows] == [(t, d) for t in "01" for d in "012"]
    assert all(r[6] == "2 of 2 clips, 12 patches" for r in rows[:3]) and rows[0][3] == "1.00 x"
    assert all(1 <= float(r[4]) <= 1 + int(r[1]) for r in rows)
    for r in rows:
        shares = [float(word) for word in r[5].split()] if r[1] != "0" else []
        assert r[5] == "-" if r[1] == "0" else len(shares) == 3 and all(0 <= share <= 1 for share in shares)
    assert solfa(["bench", "decode", *words, "--prompts", "6"]) == 2
    assert "has 5 clips of more than 16 frames, and 6 are wanted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lengths", "1k"], "'1k' should be numbers"),
        (
            ["--lengths", "", "--text", "x"],
            "--model goes with one of --text, for a model of text, and --tokens, for one of audio",
        ),
        (["--lengths", "", "--model", "x"], "--model goes with one of"),
        (["--lengths", "", "--model", "x", "--text", "x", "--tokens", "x"], "--model goes with one of"),
    ],
)
def test_mistakes_are_told_in_a_sentence(words, sentence, capsys):
    assert solfa(["bench", "decode", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_the_model_fits_what_it_goes_on_from(checkpoint, tokens, capsys):
    assert solfa(["bench", "decode", "--lengths", "", "--model", str(checkpoint), "--tokens", str(tokens)]) == 2
    assert "kind 'text_lm', but 'omni' is needed" in capsys.readouterr().err


def test_texts_are_long_enough_and_many_enough(checkpoint, tmp_path, capsys):
    text = tmp_path / "lines.txt"
    text.write_text("short\nshorter\n")
    assert solfa(["bench", "decode", "--lengths", "", "--model", str(checkpoint), "--text", str(text)]) == 2
    assert "has 0 lines of more than 24 bytes" in capsys.readouterr().err
