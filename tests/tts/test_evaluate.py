import pytest

from solfa.tts.evaluate import HELDOUT, Outcome, heldout_sentences, heldout_styles, spread


def test_moving_the_asked_way_is_what_counts() -> None:
    assert Outcome("slow", "rate", -1, 4.0, 3.0).moved
    assert not Outcome("slow", "rate", -1, 4.0, 4.0).moved
    assert not Outcome("high", "pitch", 1, 200.0, 190.0).moved


@pytest.mark.parametrize("name", HELDOUT)
def test_heldout_material_is_there(name: str) -> None:
    assert len(heldout_sentences()) >= 200
    by_attribute = {(a, d) for _, a, d in heldout_styles(name)}
    assert {(a, d) for a in ("rate", "pitch", "loudness") for d in (1, -1)} <= by_attribute


def test_spread_keeps_order_and_never_repeats() -> None:
    rows = list(range(10))
    assert spread(rows, 4) == [0, 2, 5, 7]
    assert spread(rows, 20) == rows
