from hypothesis import given
from hypothesis import strategies as st

from solfa.tokenizers.evaluation.edit_distance import edit_distance

WORDS = st.lists(st.sampled_from("a b c d".split()), max_size=6)


@given(WORDS, WORDS)
def test_it_is_a_distance(a: list[str], b: list[str]) -> None:
    assert edit_distance(a, a) == 0
    assert edit_distance(a, b) == edit_distance(b, a)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


def test_each_kind_counts_once() -> None:
    said = "the cat sat down".split()
    assert edit_distance(said, "the cat sat".split()) == 1
    assert edit_distance(said, "the big cat sat down".split()) == 1
    assert edit_distance(said, "the dog sat down".split()) == 1
    assert edit_distance(list("kitten"), list("sitting")) == 3
