"""`solfa bench tts` around an untrained network: its table holds what was measured.  Only that times add up is tested."""

import time
from pathlib import Path

import pytest

from solfa.cli import run as solfa
from solfa.tts.evaluation import bench_tts as bench
from solfa.tts.synthesizer import TTS

SENTENCES = ["Breathe in.", "Cut the pie.", "Wake and rise."]


@pytest.fixture
def tts(tts_folder: Path) -> TTS:
    return TTS.from_pretrained(tts_folder)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command has few and short sentences to say."""
    monkeypatch.setattr(bench, "heldout_sentences", lambda: SENTENCES)


def test_parts_sum_to_the_whole(tts: TTS) -> None:
    timed = bench.TimedTTS(tts.model, tts.codec, tts.text, tts.styles)
    timed.run(SENTENCES[0])
    began = time.perf_counter()
    run = timed.run(" ".join(SENTENCES))
    took = time.perf_counter() - began
    assert 0.7 * took < run.whole <= took
    assert list(run.parts) == list(bench.PARTS) and all(seconds > 0 for seconds in run.parts.values())
    assert 0 < run.first < run.whole, "the first of three sentences is ready before the last"
    assert run.speech == pytest.approx(tts.say(" ".join(SENTENCES), bench.STYLE).duration)


@pytest.mark.usefixtures("few")
def test_the_table_is_printed(tts_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert solfa(["bench", "tts", "--repeats", "1", "--checkpoint", str(tts_folder)]) == 0
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines() if "│" in line
    ]
    assert [row[0] for row in rows] == ["two words", "a sentence", "five sentences"]
    for _, speech, took, factor, first, *parts in rows:
        assert 0.1 <= float(speech[:-2]) < 60 and 0 < float(first[:-2]) <= float(took[:-2])
        assert sum(float(part.split()[0]) for part in parts) == pytest.approx(1000 * float(factor), abs=6)


@pytest.mark.parametrize("words", [["--repeats", "0"], ["--threads", "0"], ["--checkpoint", "/nowhere"]])
def test_mistakes_are_told_in_a_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert solfa(["bench", "tts", *words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("solfa: ") and message.count("\n") == 1
