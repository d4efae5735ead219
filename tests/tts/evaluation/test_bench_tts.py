"""`solfa bench tts` around an untrained speaker: its tables hold what was measured.  Only that times add up is tested."""

import time
from pathlib import Path

import pytest
import torch

from solfa.cli import run as solfa
from solfa.omni.generation.sampling import SamplingConfig
from solfa.tts.evaluation import bench_tts as bench
from solfa.tts.synthesizer import TTS

SENTENCES = ["Breathe in.", "Cut the pie.", "Wake and rise."]


@pytest.fixture
def tts(speaker_folder: Path) -> TTS:
    return TTS.from_pretrained(speaker_folder)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command has few and short sentences to say, and writes one of them with drafts."""
    monkeypatch.setattr(bench, "heldout_sentences", lambda: SENTENCES)
    monkeypatch.setattr(bench, "MEASURED", 1)


def test_parts_sum_to_the_whole(tts: TTS) -> None:
    timed = bench.TimedTTS(tts.model, tts.codec, tts.text, tts.styles)
    timed.run(SENTENCES[0])
    began = time.perf_counter()
    run = timed.run(" ".join(SENTENCES))
    took = time.perf_counter() - began
    assert 0.7 * took < run.whole <= took
    assert list(run.parts) == list(bench.PARTS) and all(seconds > 0 for seconds in run.parts.values())
    assert 0 < run.first < run.whole, "the first of three sentences is ready before the last"
    assert run.speech == pytest.approx(tts.say(" ".join(SENTENCES), bench.STYLES[0]).duration)


def test_a_block_reads_the_states_that_the_speaker_wrote_from(tts: TTS) -> None:
    plan = bench.planned(tts, SENTENCES[2], 0)
    written, states, model = list[torch.Tensor](), list[torch.Tensor](), tts.model.omni
    with model.decoder.register_forward_hook(lambda _m, _i, found: states.append(found[:, -1])):
        for patch in tts.write(plan, SamplingConfig(), torch.Generator().manual_seed(0)):
            written.append(patch)
    x = bench.lesson(model, plan, torch.cat(written))
    n = len(x.patches)
    assert n == sum(len(patch) == model.grid.patch_size for patch in written) - 1 > 1
    assert all(torch.equal(a, b) for a, b in zip(x.patches, written[1:], strict=False))
    torch.testing.assert_close(x.true, torch.cat(states[1 : n + 1]), atol=1e-4, rtol=1e-4)
    own, whole = x.states[0, x.before + 1 :], x.foreseen(bench.MTP(model.config.decoder, 1))
    assert whole.shape == x.true.shape and torch.equal(own[:n], x.true)


def test_a_block_learns_and_drafts_change_no_greedy_code(tts: TTS) -> None:
    fitted = bench.fit(tts, SENTENCES, 0.02)
    assert fitted.sentences >= 1 and fitted.steps >= 1
    plans = [bench.planned(tts, sentence, 7) for sentence in SENTENCES]
    greedy = SamplingConfig(temperature=0, repeat_limit=0)
    found = bench.draft(tts.model.omni, fitted.mtp, plans, greedy)
    torch.manual_seed(0)
    untrained = bench.draft(tts.model.omni, bench.MTP(tts.model.omni.config.decoder, 1), plans, greedy)
    assert found.same == untrained.same == found.utterances == 3
    assert found.books.shape == (2,) and ((found.books >= 0) & (found.books <= 1)).all()
    assert found.books.mean() > untrained.books.mean() + 0.1
    assert 1 <= untrained.length <= found.length <= 2 and found.speedup > 0


@pytest.mark.usefixtures("few")
def test_both_tables_are_printed(speaker_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        solfa(["bench", "tts", "--repeats", "1", "--drafts-minutes", "0.01", "--checkpoint", str(speaker_folder)]) == 0
    )
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines() if "│" in line
    ]
    speed, drafts = rows[:3], rows[3:]
    assert [row[0] for row in speed] == ["two words", "a sentence", "five sentences"]
    for _, speech, took, factor, first, *parts in speed:
        assert 0.1 <= float(speech[:-2]) < 60 and 0 < float(first[:-2]) <= float(took[:-2])
        assert sum(float(part.split()[0]) for part in parts) == pytest.approx(1000 * float(factor), abs=6)
    assert [row[0] for row in drafts] == ["0", "0.15"]
    assert [row[4] for row in drafts] == ["1 of 1 sentences", "-"]
    for _, speedup, length, books, _ in drafts:
        assert float(speedup.split()[0]) > 0 and 1 <= float(length) <= 2
        assert all(0 <= float(share) <= 1 for share in books.split()) and len(books.split()) == 2


@pytest.mark.usefixtures("few")
def test_without_minutes_no_draft_is_made(speaker_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert solfa(["bench", "tts", "--repeats", "1", "--checkpoint", str(speaker_folder)]) == 0
    out = capsys.readouterr().out
    assert "real-time factor" in out and "draft" not in out


@pytest.mark.parametrize("words", [["--repeats", "0"], ["--drafts-minutes", "0"], ["--checkpoint", "/nowhere"]])
def test_mistakes_are_told_in_a_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert solfa(["bench", "tts", *words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("solfa: ") and message.count("\n") == 1
