"""Measures against what is known by definition, and `solfa eval codec` on one clip."""

import csv
from pathlib import Path

import numpy as np
import pytest

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import read_audio
from solfa.tokenizers.evaluation.evaluate_codec import COLUMNS, evaluate, parse_books
from solfa.tokenizers.evaluation.metrics import mel_distance, pesq_wb, si_sdr, stoi

RATE = 24_000


@pytest.fixture
def clip(speech_clip: Path) -> np.ndarray:
    return read_audio(speech_clip).samples


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(n).astype(np.float32)


def test_si_sdr_is_the_ratio_it_says() -> None:
    reference = np.sin(np.arange(RATE) / 10)
    other = np.cos(np.arange(RATE) / 10)  # orthogonal, to rounding
    assert si_sdr(reference, reference + 0.1 * other) == pytest.approx(20, abs=0.05)
    assert si_sdr(reference, 5 * (reference + 0.1 * other)) == pytest.approx(20, abs=0.05)
    assert si_sdr(reference, reference) > 80
    assert si_sdr(reference, np.zeros(RATE)) < -80


def test_mel_distance_counts_decades(clip: np.ndarray) -> None:
    loud = noise(RATE)
    assert mel_distance(clip, clip, RATE) == 0
    assert mel_distance(loud, 0.1 * loud, RATE) == pytest.approx(1, abs=1e-3)


def test_perceptual_measures_fall_with_noise(clip: np.ndarray) -> None:
    spoilt = clip + 0.05 * noise(len(clip))
    assert pesq_wb(clip, clip, RATE) == pytest.approx(4.64, abs=0.01)
    assert 1 <= pesq_wb(clip, spoilt, RATE) < 4
    assert stoi(clip, clip, RATE) == pytest.approx(1, abs=1e-3)
    assert stoi(clip, spoilt, RATE) < 0.99


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("samples", [RATE, RATE // 10], ids=["silence", "too short"])
def test_pesq_without_speech_is_nan(samples: int) -> None:
    assert np.isnan(pesq_wb(np.zeros(samples, np.float32), np.zeros(samples, np.float32), RATE))


def test_books_to_measure() -> None:
    assert parse_books("", 4) == [1, 2, 4]
    assert parse_books("3,1", 4) == [3, 1]
    for words in ("5", "0", "two", "1,,2"):
        with pytest.raises(UserError, match="--books"):
            parse_books(words, 4)


def test_eval_codec(
    speech_clip: Path, tiny_codec_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate([str(speech_clip)], str(tiny_codec_folder), "1,4", out=tmp_path / "figures.csv") == 0
    assert "PESQ-WB" in capsys.readouterr().out
    with (tmp_path / "figures.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [row["books"] for row in rows] == ["1", "4"]
    assert all(np.isfinite(float(row[name])) for row in rows for name in COLUMNS)
