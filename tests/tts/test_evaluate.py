from hypothesis import given
from hypothesis import strategies as st

from solfa.tts.evaluate import Outcome, heldout_sentences, heldout_styles, spread
from solfa.tts.recognize import word_errors

WORDS = st.lists(st.sampled_from("a b c d".split()), max_size=6)


@given(WORDS, WORDS)
def test_word_errors_is_a_distance(a: list[str], b: list[str]) -> None:
    assert word_errors(a, a) == 0
    assert word_errors(a, b) == word_errors(b, a)
    assert abs(len(a) - len(b)) <= word_errors(a, b) <= max(len(a), len(b))


def test_word_errors_counts_each_kind_once() -> None:
    said = "the cat sat down".split()
    assert word_errors(said, "the cat sat".split()) == 1
    assert word_errors(said, "the big cat sat down".split()) == 1
    assert word_errors(said, "the dog sat down".split()) == 1


def test_moving_the_asked_way_is_what_counts() -> None:
    assert Outcome("slow", "rate", -1, 4.0, 3.0).moved
    assert not Outcome("slow", "rate", -1, 4.0, 4.0).moved
    assert not Outcome("high", "pitch", 1, 200.0, 190.0).moved


def test_heldout_material_is_there() -> None:
    assert len(heldout_sentences()) >= 200
    by_attribute = {(a, d) for _, a, d in heldout_styles()}
    assert {(a, d) for a in ("rate", "pitch", "loudness") for d in (1, -1)} <= by_attribute


def test_spread_keeps_order_and_never_repeats() -> None:
    rows = list(range(10))
    assert spread(rows, 4) == [0, 2, 5, 7]
    assert spread(rows, 20) == rows
