"""Classical codecs: there and back in step, at the bitrate asked for, in the table of `solfa eval codec`, and missing without harm."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import read_audio
from solfa.tokenizers.evaluation.classical_codecs import CLASSICAL, Classical, parse_classical
from solfa.tokenizers.evaluation.evaluate_codec import COLUMNS, evaluate
from solfa.tokenizers.evaluation.metrics import stoi

CASES = [(codec, kbps) for codec in CLASSICAL.values() for kbps in codec.rates]


@pytest.mark.parametrize("sample_rate", [16_000, 24_000, 44_100])
@pytest.mark.parametrize(("codec", "kbps"), CASES, ids=[f"{codec.name}-{kbps:g}" for codec, kbps in CASES])
def test_there_and_back(codec: Classical, kbps: float, sample_rate: int, speech_clip: Path) -> None:
    if sentence := codec.missing():
        pytest.skip(sentence)
    wav = np.tile(read_audio(speech_clip, sample_rate).samples, 3)[: -sample_rate // 7]
    made = codec.code(wav, sample_rate, kbps)
    assert made.samples.shape == wav.shape
    assert made.samples.dtype == np.float32
    assert 0.6 * kbps < made.kbps < 1.1 * kbps  # Opus need not spend all
    assert min(made.encoding, made.decoding) > 0
    delayed = made.samples[sample_rate // 25 :]
    aligned = stoi(wav, made.samples, sample_rate)
    assert aligned > stoi(wav[: len(delayed)], delayed, sample_rate)
    assert aligned > 0.3


def test_more_bits_sound_better(speech_clip: Path) -> None:
    wav = read_audio(speech_clip).samples
    for codec in parse_classical("opus,mp3"):
        if codec.missing() is None:
            low, high = (codec.code(wav, 24_000, rate).samples for rate in (codec.rates[0], codec.rates[-1]))
            assert np.square(high - wav).mean() < np.square(low - wav).mean()


def test_names() -> None:
    assert [codec.name for codec in parse_classical(" codec2,opus")] == ["codec2", "opus"]
    assert parse_classical("") == []
    with pytest.raises(UserError, match="takes opus, mp3, codec2, not 'flac'"):
        parse_classical("opus,flac")


def test_eval_codec_with_others(
    speech_clip: Path,
    tiny_codec_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("c2enc") is None
    assert (
        evaluate([str(speech_clip)], str(tiny_codec_folder), "4", against="opus,codec2", out=tmp_path / "figures.csv")
        == 0
    )
    printed = capsys.readouterr().out
    assert "left out: codec2 needs the program c2enc and c2dec" in printed
    with (tmp_path / "figures.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [(row["codec"], row["books"]) for row in rows] == [("tiny", "4"), *[("opus", "")] * 3]
    assert all(np.isfinite(float(row[name])) for row in rows for name in COLUMNS)
    assert "opus" in printed
