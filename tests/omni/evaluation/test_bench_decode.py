"""`solfa bench decode` on tiny models: its tables hold what was measured.  Nothing here is timed."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from solfa.cli import run
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.evaluation.bench_decode import solfa_stepper, time_steps, transformers_stepper
from solfa.omni.model.text_model import TextConfig, TextModel

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
    assert run(["bench", "decode", "--lengths", ""]) == 0
    printed = capsys.readouterr().out
    assert "7:1, 16 layers" in printed and "(1/7.0)" in printed and "1,048,576 steps" in printed


def test_all_models_decode_steps_and_measure_their_cache(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr("solfa.omni.evaluation.bench_decode.VOCAB", 64)
    full = dataclasses.replace(TINY, full_layers=(0, 1))
    builders = {
        "solfa": lambda: solfa_stepper(50, TINY),
        "full": lambda: transformers_stepper(50, full),
        "static": lambda: transformers_stepper(50, full, static=True),
        "hybrid": lambda: transformers_stepper(50, TINY),
    }
    found = time_steps(builders, 1)
    step = 2 * 16 * 4  # bytes in a layer
    assert {name: size // step for name, (_, size) in found.items()} == {
        "solfa": 8 + 64, "full": 2 * 53, "static": 2 * 114, "hybrid": 7 + 53
    }  # fmt: skip
    assert all(seconds > 0 for seconds, _ in found.values())


def test_writing_with_drafts_is_compared_with_writing_without(checkpoint, tmp_path, capsys):
    text = tmp_path / "lines.txt"
    text.write_text("\n".join(f"{i} this is a line of text that is long enough" for i in range(9)))
    words = ["--model", str(checkpoint), "--text", str(text), "--lengths", "", "--prompts", "2", "--steps", "12"]
    assert run(["bench", "decode", *words, "--temperatures", "0,1"]) == 0
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if " x " in line]
    assert [(r[0].strip(), r[1].strip()) for r in rows] == [(t, d) for t in "01" for d in "012"]
    assert all("2 of 2 texts" in r[5] for r in rows[:3]) and rows[0][3].strip() == "1.00 x"
    assert all(1 <= float(r[4]) <= 1 + int(r[1]) for r in rows)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--lengths", "1k"], "--lengths '1k' should be numbers with commas between"),
        (["--lengths", "0"], "--lengths 0 should lie in 1.."),
        (["--lengths", "99999999"], "--lengths 99999999 should lie in 1.."),
        (["--temperatures", "nan"], "--temperatures nan should lie in 0.."),
        (["--temperatures", "-1"], "--temperatures -1.0 should lie in 0.."),
        (["--text", "x"], "--model and --text go together"),
        (["--model", "x"], "--model and --text go together"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_mistakes_are_told_in_a_sentence_before_any_work(words, sentence, capsys):
    assert run(["bench", "decode", "--lengths", "", *words]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err and "bytes per step" not in printed.out


def test_the_model_is_one_of_text(tmp_path, capsys):
    assert run(["bench", "decode", "--lengths", "", "--model", "tts-en", "--text", str(tmp_path)]) == 2
    assert "but 'text_lm' is needed" in capsys.readouterr().err


def test_texts_are_long_enough_and_many_enough(checkpoint, tmp_path, capsys):
    text = tmp_path / "lines.txt"
    text.write_text("short\nshorter\n")
    assert run(["bench", "decode", "--lengths", "", "--model", str(checkpoint), "--text", str(text)]) == 2
    assert "has 0 lines of more than 24 bytes" in capsys.readouterr().err
