from pathlib import Path

import numpy as np
import pytest

from solfa.cli import run
from solfa.tokenizers.text.tokenizer import TextTokenizer
from solfa.tts.evaluation.evaluate_tts import (
    HELDOUT,
    Outcome,
    heldout_sentences,
    heldout_styles,
    measured,
    spread,
    word_error_rate,
    write_outcomes,
)
from solfa.tts.style.style_encoder import Style
from solfa.tts.synthesizer import Speech


def test_moving_the_asked_way_is_what_counts() -> None:
    assert Outcome("slow", "rate", -1, 4.0, 3.0).moved
    assert not Outcome("slow", "rate", -1, 4.0, 4.0).moved
    assert not Outcome("high", "pitch", 1, 200.0, 190.0).moved


def test_rate_is_the_texts_syllables_over_the_time_they_take() -> None:
    text, noise = (
        TextTokenizer.from_pretrained(),
        0.1 * np.random.default_rng(0).standard_normal(24_000).astype(np.float32),
    )
    quiet = np.zeros(12_000, np.float32)
    for seconds, samples in ((1, noise), (2, np.concatenate([quiet, noise, noise, quiet]))):
        found = measured(text, "A banana, please.", Speech(samples, 24_000, [], "nobody", Style()))
        assert found["rate"] == pytest.approx(5 / seconds, rel=0.1)


@pytest.mark.parametrize("name", HELDOUT)
def test_heldout_material_is_there(name: str) -> None:
    assert len(heldout_sentences()) >= 200
    by_attribute = {(a, d) for _, a, d in heldout_styles(name)}
    assert {(a, d) for a in ("rate", "pitch", "loudness") for d in (1, -1)} <= by_attribute


def test_spread_keeps_order_and_never_repeats() -> None:
    rows = list(range(10))
    assert spread(rows, 4) == [0, 2, 5, 7]
    assert spread(rows, 20) == rows


def test_word_error_rate_of_silence_is_one() -> None:
    text, silence = TextTokenizer.from_pretrained(), np.zeros(8000, np.float32)
    assert word_error_rate(text, [("The cat sat down.", silence, 16_000)]) == 1.0
    assert word_error_rate(text, []) == 0.0


@pytest.mark.parametrize("place", ["file/x.csv", "folder"])
def test_an_output_that_cannot_be_written_is_found_before_anything_is_loaded(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    assert run(["eval", "tts", "-o", str(tmp_path / place), "--checkpoint", str(tmp_path / "none")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "checkpoint" not in message


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seed", "99999999999999999999"], "seed 99999999999999999999 should be"),
        (["--seed=-1"], "seed -1 should be"),
        (["--voice", "an"], "unknown voice 'an', perhaps 'ann'"),
        (["missing.csv"], "missing.csv"),
    ],
)
def test_mistakes_are_found_before_anything_is_spoken(
    words: list[str], sentence: str, tts_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", "tts", *words, "--checkpoint", str(tts_folder)]) == 2
    message = capsys.readouterr()
    assert sentence in message.err and message.err.count("\n") == 1 and message.out == ""


def test_outcomes_are_written_line_by_line(tmp_path: Path) -> None:
    write_outcomes(tmp_path / "new" / "x.csv", [Outcome("slow", "rate", -1, 4.0, 3.0)])
    lines = (tmp_path / "new" / "x.csv").read_text().splitlines()
    assert lines == ["text,attribute,direction,neutral,styled,moved", "slow,rate,-1,4.0,3.0,True"]
