"""Sentences end where they end, in a whole text and in one that arrives in pieces; no speakable character is lost."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solfa.core.errors import UserError
from solfa.tokenizers.text.sentences import MAX_SENTENCE, SentenceSplitter, split_sentences

TEXTS = [
    [
        "Dr. Smith came at 3.30 p.m. on Monday to the U.S. Treasury.",
        '"Why?" asked J. Smith...',
        "Nobody knows!",
        "The end",
    ],
    ["It cost 3.50.", "He paid."],
    ["I live on Main St. near the river.", "We met St. Nicholas.", "He lives on Main St.", "It is long."],
    ["It is 6 ft. wide.", "He is 6 ft.", "She is not."],
    ["See Fig. 2 and No. 5 of Vol. IV now.", "He said no.", "Then he left.", "Oh no.", "5 people came."],
    ["Apple Inc. announced it.", "It was Apple Inc.", "They sell phones, etc.", "We buy them."],
    ["Plan B.", "The end of J. R. Smith."],
    ["Wait... what?", "Yes...", "No."],
    ['"Stop!" he cried.', '"Go."', "She went."],
    ["One", "Two", "Three."],
    ["Wait. [pause]"],
    ["The meeting is on Jan. 5 at 9 a.m. in Room 4.", "It ends at 5 p.m.", "We leave then."],
    ["Version 1.2.3 is out!?", "See www.example.com. now"],
]


def written(sentences: list[str]) -> str:
    return "\n\n".join(sentences) if sentences[0] == "One" else " ".join(sentences)


@pytest.mark.parametrize("sentences", TEXTS)
def test_sentences_end_where_they_end(sentences):
    expected = ["Wait."] if sentences == ["Wait. [pause]"] else sentences
    if sentences[-1] == "See www.example.com. now":
        expected = [sentences[0], "See www.example.com.", "now"]
    assert split_sentences(written(sentences)) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("sentences", TEXTS)
def test_pieces_of_any_size_give_the_same_sentences(sentences, size):
    text = written(sentences)
    splitter = SentenceSplitter()
    got = [s for i in range(0, len(text), size) for s in splitter.push(text[i : i + size])]
    assert got + splitter.finish() == split_sentences(text)


def test_nothing_is_inserted_between_pieces():
    splitter = SentenceSplitter()
    assert splitter.push("Hel") == []
    assert splitter.push("lo. How") == ["Hello."]
    assert splitter.push(" are you?") == []
    assert splitter.finish() == ["How are you?"]
    assert splitter.push("Again. ") == ["Again."] and splitter.finish() == []


def test_a_sentence_is_given_as_soon_as_it_is_surely_closed():
    splitter = SentenceSplitter()
    assert splitter.push("It rains. ") == ["It rains."]
    assert splitter.push("Really?! ") == ["Really?!"]
    assert splitter.push("Ask Dr. ") == [] and splitter.push("Smith. ") == ["Ask Dr. Smith."]
    assert splitter.push("It is on Main St. ") == [] and splitter.push("He ") == ["It is on Main St."]
    assert splitter.push("knows.\n\n") == ["He knows."]


def test_a_long_unfinished_sentence_is_given_in_pieces_while_it_grows():
    splitter, pieces = SentenceSplitter(max_chars=50), []
    text = "and then one more clause comes, " * 40
    for i in range(0, len(text), 16):
        pieces += splitter.push(text[i : i + 16])
    assert len(pieces) > 15
    assert pieces + splitter.finish() == split_sentences(text, 50)


def test_long_sentences_give_way_at_clauses_then_words():
    assert split_sentences("One two three, four five six; seven.", 20) == ["One two three,", "four five six;", "seven."]
    assert split_sentences("one two three four", 9) == ["one two", "three", "four"]
    assert split_sentences("abcdefghij", 4) == ["abcd", "efgh", "ij"]


def test_pieces_without_speech_are_left_out():
    assert split_sentences("Great! 😀! Yes.") == ["Great!", "Yes."]


def test_a_limit_below_one_is_one_sentence():
    with pytest.raises(UserError, match="max_chars is 0"):
        SentenceSplitter(0)


@pytest.mark.slow  # CPU times are meant for an idle machine
@pytest.mark.parametrize(
    "text", ["." * 20_000 + "x", "\n" * 20_000, "a " * 10_000, "5" * 20_000, '."' * 10_000, "U.S. " * 4000]
)
def test_floods_take_linear_time(text):
    start = time.process_time()
    split_sentences(text)
    splitter = SentenceSplitter()
    for i in range(0, len(text), 50):
        splitter.push(text[i : i + 50])
    splitter.finish()
    assert time.process_time() - start < 3


def test_a_sentence_without_end_is_closed_at_the_limit():
    splitter = SentenceSplitter(max_chars=2 * MAX_SENTENCE)
    text = "word " * MAX_SENTENCE
    given = [s for i in range(0, len(text), 5000) for s in splitter.push(text[i : i + 5000])]
    assert len(given) == 4 and all(len(s) <= MAX_SENTENCE for s in given)
    assert given + splitter.finish() == split_sentences(text, 2 * MAX_SENTENCE)


LETTERS = st.text(alphabet="abcXYZ 019.,;:!?'\"-\n()", max_size=300)


@settings(deadline=None)
@given(LETTERS, st.integers(1, 60))
def test_no_speakable_character_is_lost(text, limit):
    pieces = split_sentences(text, limit)
    assert all(0 < len(p) <= limit for p in pieces)

    def letters(t):
        return re.sub(r"[^A-Za-z0-9]", "", t)

    assert letters("".join(pieces)) == letters(text)


@settings(deadline=None)
@given(LETTERS, st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(5, 60))
def test_any_cut_gives_the_same_sentences(text, sizes, limit):
    splitter, got, at, i = SentenceSplitter(limit), [], 0, 0
    while at < len(text):
        got += splitter.push(text[at : at + sizes[i % len(sizes)]])
        at, i = at + sizes[i % len(sizes)], i + 1
    assert got + splitter.finish() == split_sentences(text, limit)
