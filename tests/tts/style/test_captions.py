"""Descriptions of speech, generated instructions, and the words that both must leave alone."""

import random
import re
from itertools import islice

import pytest

from solfa.tts.style.captions import MEASURED, a, caption, captions, lexicon
from solfa.tts.style.instructions import pairs
from solfa.tts.style.style_encoder import ATTRIBUTES, LIMITS
from solfa.tts.training.train_style_encoder import HELDOUT, Reserved, phrasings, plain, requests


def test_training_leaves_held_out_phrasings_and_key_words_alone():
    reserved = Reserved()
    rows = [row for which in HELDOUT for row in phrasings(which)]
    assert len(rows) >= 300 and all(row["text"] in reserved for row in rows)
    key = phrasings("heldout_styles")[0]["key"].split("|")[0]
    assert f"Like {key.upper()}ish things" in reserved and "speak in a voice" not in reserved
    some = [text for text, _ in islice(pairs(random.Random(1)), 2000)] + [one.text for one in requests()]
    assert sum(text in reserved for text in some) < 0.15 * len(some), "most of the material stays"


@pytest.mark.parametrize("which", [*HELDOUT, "dev_styles"])
def test_lists_of_phrasings_are_sound(which):
    rows = phrasings(which)
    assert len(rows) >= 90 and len({(row["text"].lower(), row["attribute"]) for row in rows}) == len(rows)
    for attribute in ("rate", "pitch", "loudness", "pitch_range"):
        assert {row["direction"] for row in rows if row["attribute"] == attribute} == {"-1", "1"}
    for row in rows:
        keys = row.get("key", "").split("|")
        assert any(re.search(rf"\b{re.escape(key)}", row["text"].lower()) for key in keys), row


def test_dev_phrasings_are_not_held_out_ones():
    held = {plain(row["text"]) for which in HELDOUT for row in phrasings(which)}
    same = [row["text"] for row in phrasings("dev_styles") if plain(row["text"]) in held]
    assert len(same) <= 5, same


def test_written_requests_are_labelled():
    rows = requests()
    assert len(rows) > 3500 and len({plain(one.text) for one in rows}) > 0.99 * len(rows)
    for one in rows:
        assert set(one.asked) | one.either <= set(ATTRIBUTES) and not set(one.asked) & one.either, one
        assert all(LIMITS[name][0] <= value <= LIMITS[name][1] and value for name, value in one.asked.items()), one
    for name in ("rate", "pitch", "loudness", "pitch_range"):
        for sign in (-1, 1):
            assert sum(one.asked.get(name, 0) * sign > 0 for one in rows) >= 300


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
    text = [caption({"rate": -1.0, "pitch": 0.1}, 1.0, 0.0, None, rng, level).lower() for _ in range(40)]
    assert sum(any(word in t for word in words) for t in text) >= (20 if level == 1 else 40)
    assert not any("fast" in t for t in text)
    assert sum("woman" in t or "female" in t for t in text) >= (1 if level == 1 else 40)


def test_labels_and_children_are_named():
    rng = random.Random(0)
    assert "sad" in caption({"rate": -1.0}, None, None, "sad", rng, 2)
    assert any(w in caption({}, None, -1.0, None, rng, 3).lower() for w in ("child", "kid"))


def test_descriptions_differ_and_grow():
    row = {"z": dict.fromkeys(MEASURED, 1.0), "gender": -1.0, "age": 1.0, "label": None}
    texts = captions(row, random.Random(0), n=6)
    assert len(set(texts)) == 6
    assert max(map(len, texts)) > 3 * min(map(len, texts))
    assert texts == captions(row, random.Random(0), n=6)


def test_articles():
    assert [a(w) for w in ("old man", "woman", "unusual voice", "one-eyed pirate")] == [
        "an old man", "a woman", "an unusual voice", "a one-eyed pirate"
    ]  # fmt: skip
