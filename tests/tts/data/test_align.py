"""Alignment: the layout of heard times over symbols, and one real alignment where Flite is there to speak."""

from pathlib import Path

import numpy as np
import pytest

from solfa.core.errors import UserError
from solfa.tts.data import flite
from solfa.tts.data.align import EDGE, Aligned, implausible, lay_out, sphinx_phone, words_of
from solfa.tts.data.flite import PAUSES, Sentence
from solfa.tts.data.pitch import SLOT

SENTENCE = Sentence(
    text="No, go on.",
    words=["No", "go", "on"],
    phones=["pau", "n", "ow1", ",", "g", "ow1", "aa1", "n", "."],
    word_index=[-1, 0, 0, -1, 1, 1, 2, 2, -1],
)


def heard(*words: list[tuple[int, int]]) -> list[list[tuple[int, int, int]]]:
    return [[(start, length, -10 * length) for start, length in word] for word in words]


def test_pauses_go_to_punctuation_or_to_a_new_symbol() -> None:
    times = heard([(30, 5), (35, 10)], [(65, 6), (71, 9)], [(84, 10), (94, 6)])
    aligned = lay_out(SENTENCE, words_of(SENTENCE), times, slots=140)
    assert aligned is not None
    assert aligned.phones == ["pau", "n", "ow1", ",", "g", "ow1", "pau", "aa1", "n", "."]
    assert aligned.durations == [EDGE, 5, 10, 20, 6, 9, 4, 10, 6, EDGE]
    assert aligned.word_index == [-1, 0, 0, -1, 1, 1, -1, 2, 2, -1]
    assert (aligned.start, aligned.end) == (pytest.approx(0.15), pytest.approx(1.15))
    assert aligned.score == -10


def test_no_pause_leaves_punctuation_with_no_slots_and_adds_nothing() -> None:
    times = heard([(4, 5), (9, 10)], [(19, 6), (25, 9)], [(34, 10), (44, 6)])
    aligned = lay_out(SENTENCE, words_of(SENTENCE), times, slots=50)
    assert aligned is not None
    assert aligned.phones == SENTENCE.phones
    assert aligned.durations == [4, 5, 10, 0, 6, 9, 10, 6, 0]


@pytest.mark.parametrize("slots", [100, 107, 300])
def test_durations_cover_exactly_the_stretch(slots: int) -> None:
    times = heard([(20, 5), (25, 10)], [(50, 6), (56, 9)], [(65, 10), (75, 25)])
    aligned = lay_out(SENTENCE, words_of(SENTENCE), times, slots)
    assert aligned is not None
    assert sum(aligned.durations) == round((aligned.end - aligned.start) / SLOT)
    assert aligned.end <= slots * SLOT + 1e-9


def test_phones_are_spelled_for_the_recognizer() -> None:
    assert [sphinx_phone(p) for p in ("ax", "ow1", "dh", "er")] == ["AH", "OW", "DH", "ER"]


def test_implausible_alignments_are_named() -> None:
    noise = np.random.default_rng(0).standard_normal(16_000 * 4)

    def why(phones: list[str], durations: list[int], quiet_pauses: bool = True) -> str | None:
        gain = np.concatenate(
            [
                np.full(n * 160, 0.001 if p in PAUSES and quiet_pauses else 0.1)
                for p, n in zip(phones, durations, strict=True)
            ]
        )
        return implausible(Aligned(phones, [], durations, 0, 0, 0), noise[: len(gain)] * gain)

    fine = ["pau", "n", "ow1", "."]
    assert why(fine, [10, 8, 12, 10]) is None
    assert "ow1 lasts" in (why(fine, [10, 8, 70, 10]) or "")
    assert "phones a second" in (why(fine, [10, 3, 3, 10]) or "")
    assert "pause of" in (why(["pau", "n", "ow1", ",", "n", "ow1", "."], [10, 8, 9, 160, 8, 9, 10]) or "")
    assert "above the pauses" in (why(fine, [10, 8, 12, 10], quiet_pauses=False) or "")


def test_real_alignment_agrees_with_the_synthesizer(tmp_path: Path) -> None:
    """Flite says when each phone ends; the aligner, which only hears, should be within two slots of most."""
    pytest.importorskip("pocketsphinx")
    try:
        flite.program()
    except UserError as e:
        pytest.skip(str(e))
    from solfa.tokenizers.audio.audio_file import read_audio
    from solfa.tts.data.align import RATE, Aligner

    entry = flite.run("slt", {"a": "The old man gave a long answer, and nobody in the room believed him."}, tmp_path)[
        "a"
    ]
    sentence = flite.read(entry)
    wav = read_audio(entry["wav"], RATE).samples
    aligner = Aligner()
    aligned = aligner.align(wav, sentence)
    assert aligned is not None and sentence.ends is not None
    assert implausible(aligned, wav[round(aligned.start * RATE) : round(aligned.end * RATE)]) is None
    told = [end for p, end in zip(sentence.phones, sentence.ends, strict=True) if p not in PAUSES]
    ends = aligned.start + np.cumsum(aligned.durations) * SLOT
    found = [end for p, end in zip(aligned.phones, ends, strict=True) if p not in PAUSES]
    assert np.median(np.abs(np.array(found) - told)) < 0.02
    other = flite.front_end(
        {"b": "Completely different words are here, with quite a few more of them than anybody said."}
    )["b"]
    wrong = aligner.align(wav, other)
    assert wrong is None or wrong.score < aligned.score - 3
