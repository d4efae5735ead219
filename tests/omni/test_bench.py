"""`solfa bench decode` on tiny models: its tables hold what was measured.  Nothing here is timed."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from solfa.cli import run as solfa
from solfa.omni import bench
from solfa.omni.decoder import AttentionConfig, DecoderConfig
from solfa.omni.text import TextConfig, TextModel

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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lengths", "1k"], "'1k' should be numbers"),
        (["--lengths", "", "--text", "x"], "go together"),
    ],
)
def test_mistakes_are_told_in_a_sentence(words, sentence, capsys):
    assert solfa(["bench", "decode", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_texts_are_long_enough_and_many_enough(checkpoint, tmp_path, capsys):
    text = tmp_path / "lines.txt"
    text.write_text("short\nshorter\n")
    assert solfa(["bench", "decode", "--lengths", "", "--model", str(checkpoint), "--text", str(text)]) == 2
    assert "has 0 lines of more than 24 bytes" in capsys.readouterr().err
