"""A floor under the bundled voice: a recognizer understands it, and it takes as long as people take."""

import pytest

from solfa.tts.evaluation.evaluate_tts import word_error_rate
from solfa.tts.synthesizer import TTS

SENTENCES = (
    "The birch canoe slid on the smooth planks.",
    "Glue the sheet to the dark blue background.",
    "It is easy to tell the depth of a well.",
    "Rice is often served in round bowls.",
    "The box was thrown beside the parked truck.",
    "Four hours of steady work faced us.",
)


def test_the_default_voice_is_understood_and_speaks_at_a_human_pace() -> None:
    pytest.importorskip("pocketsphinx")
    tts = TTS.from_pretrained()
    speeches = [tts.say(sentence, seed=0) for sentence in SENTENCES]
    for sentence, speech in zip(SENTENCES, speeches, strict=True):
        phones = sum(symbol[0].isalpha() for symbol in tts.text.phones(sentence).symbols)
        assert 0.07 < speech.duration / phones < 0.14, sentence
    items = [(s, speech.samples, speech.sample_rate) for s, speech in zip(SENTENCES, speeches, strict=True)]
    assert word_error_rate(tts.text, items) < 0.13, "3 of 48 words when this was written"
