"""Descriptions of speech, generated instructions, and the words that both must leave alone."""

import random
import re
from itertools import islice

import pytest

from solfa.tts.describe import MEASURED, a, describe, descriptions, lexicon
from solfa.tts.evaluate import heldout_styles
from solfa.tts.instruct import pairs
from solfa.tts.style import ATTRIBUTES, LIMITS
from solfa.tts.train_style import phrasings, reserved


def test_training_never_uses_a_held_out_word():
    banned = reserved()
    assert not [phrase for phrase in lexicon().phrases() if banned.search(phrase)]
    assert not [text for text, _ in islice(pairs(random.Random(1)), 3000) if banned.search(text)]


def test_training_never_uses_a_held_out_request():
    heldout = {text.lower().strip(" .!?") for text, _, _ in heldout_styles("heldout_requests.csv")}
    assert len(heldout) == 141
    assert not heldout & {phrase.lower() for phrase in lexicon().phrases()}


@pytest.mark.parametrize("which", ["heldout", "dev"])
def test_lists_of_phrasings_are_sound(which):
    rows = phrasings(which)
    assert len(rows) >= (120 if which == "heldout" else 60)
    for attribute in ("rate", "pitch", "loudness", "pitch_range", "gender"):
        assert {row["direction"] for row in rows if row["attribute"] == attribute} == {"-1", "1"}
    for row in rows:
        assert any(re.search(rf"\b{re.escape(key)}", row["text"].lower()) for key in row["key"].split("|")), row


def test_dev_does_not_leak_into_heldout():
    keys = {key for row in phrasings("heldout") for key in row["key"].split("|")}
    found = [row["text"] for row in phrasings("dev") if any(re.search(rf"\b{re.escape(k)}", row["text"]) for k in keys)]
    assert not found


def test_pairs_repeat_with_their_seed_and_stay_in_range():
    some = list(islice(pairs(random.Random(7)), 2000))
    assert some == list(islice(pairs(random.Random(7)), 2000))
    for text, asked in some:
        assert text.strip() == text and text
        assert all(LIMITS[name][0] <= value <= LIMITS[name][1] for name, value in asked.items())
    assert {name for _, asked in some for name in asked} == set(ATTRIBUTES)
    assert len({text for text, _ in some}) > 1700


def test_refusals_turn_the_direction_round():
    for text, asked in islice(pairs(random.Random(3)), 4000):
        if text == "don't be so loud" or text == "not loud":
            assert asked["loudness"] < 0


@pytest.mark.parametrize("level", [1, 2, 3])
def test_descriptions_name_what_is_striking(level):
    rng = random.Random(level)
    words = {w for form in lexicon().measured["rate"]["-1"].values() for w in form}
    text = [describe({"rate": -1.0, "pitch": 0.1}, 1.0, 0.0, None, rng, level).lower() for _ in range(40)]
    assert sum(any(word in t for word in words) for t in text) >= (20 if level == 1 else 40)
    assert not any("fast" in t for t in text)
    assert sum("woman" in t or "female" in t for t in text) >= (1 if level == 1 else 40)


def test_labels_and_children_are_named():
    rng = random.Random(0)
    assert "sad" in describe({"rate": -1.0}, None, None, "sad", rng, 2)
    assert any(w in describe({}, None, -1.0, None, rng, 3).lower() for w in ("child", "kid"))


def test_descriptions_differ_and_grow():
    row = {"z": dict.fromkeys(MEASURED, 1.0), "gender": -1.0, "age": 1.0, "label": None}
    texts = descriptions(row, random.Random(0), n=6)
    assert len(set(texts)) == 6
    assert max(map(len, texts)) > 3 * min(map(len, texts))
    assert texts == descriptions(row, random.Random(0), n=6)


def test_articles():
    assert [a(w) for w in ("old man", "woman", "unusual voice", "one-eyed pirate")] == [
        "an old man", "a woman", "an unusual voice", "a one-eyed pirate"
    ]  # fmt: skip
