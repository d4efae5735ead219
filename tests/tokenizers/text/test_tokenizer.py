"""Sentences become phones; phones become IDs and back; `explain` shows how a text will be read."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solfa.core.errors import UserError
from solfa.tokenizers.text.tokenizer import (
    LETTER_NAMES,
    MAX_CHARS,
    PUNCTUATION,
    TextTokenizer,
    attach,
)


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.from_pretrained()


def said(tokenizer, text):
    return " ".join(tokenizer.phones(text).symbols)


def test_a_sentence(tokenizer):
    assert said(tokenizer, "Hello, world!") == "pau hh ax l ow1 , w er1 l d !"


def test_shape_of_a_sentence(tokenizer):
    phones = tokenizer.phones("Dr. Smith paid $5 for 2 apples, twice")
    assert phones.symbols[0] == "pau" and phones.symbols[-1] == "."
    assert len(phones.symbols) == len(phones.word_index)
    assert phones.words == "doctor smith paid five dollars for two apples twice".split()
    assert sorted(set(phones.word_index)) == list(range(-1, len(phones.words)))
    pauses = [s for s, w in zip(phones.symbols, phones.word_index, strict=True) if w < 0]
    assert pauses == ["pau", ",", "."]


def test_every_symbol_has_an_id_and_back(tokenizer):
    symbols = tokenizer.phones("The quick brown fox: jumps; over - the lazy dog? Yes! [pause] Zhe.").symbols
    assert tokenizer.decode(tokenizer.encode(symbols)) == symbols
    assert tokenizer.decode(range(tokenizer.vocab_size)) == tokenizer.vocab
    assert len(set(tokenizer.vocab)) == tokenizer.vocab_size and tokenizer.vocab[0] == "<pad>"


@pytest.mark.parametrize("wrong", [lambda t: t.encode(["qq"]), lambda t: t.decode([9999]), lambda t: t.decode([-1])])
def test_foreign_ids_are_named(tokenizer, wrong):
    with pytest.raises(UserError):
        wrong(tokenizer)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the apple", "dh iy ae1 p ax l"),
        ("the pear", "dh ax p eh1 r"),
        ("a cat", "ax k ae1 t"),
        ("the dog's cat's bus's", "dh ax d ao1 g z k ae1 t s b ah1 s ax z"),
        ("the FBI", "dh iy eh1 f b iy1 ay1"),
    ],
)
def test_words_shape_each_other(tokenizer, text, words):
    assert said(tokenizer, text) == f"pau {words} ."


def test_homographs_follow_their_neighbours(tokenizer):
    verb, noun = tokenizer.pronounce("to record the record".split())[1::2]
    assert verb == "r ax k ao1 r d".split() and noun == "r eh1 k er d".split()
    assert tokenizer.pronounce(["use", "it"])[0][-1] == "z"
    assert tokenizer.pronounce(["the", "use", "of"])[1][-1] == "s"


def test_endings_after_an_apostrophe():
    assert attach(["b", "ah1", "s"], "s")[-2:] == ["ax", "z"]
    assert attach(["ih1", "t"], "ll")[-2:] == ["ax", "l"]
    assert attach(["w", "iy1"], "ll")[-1] == "l"


def test_tags(tokenizer):
    phones = tokenizer.phones("Wait. [pause] Now [laugh] go.")
    assert [phones.symbols[i] for i in phones.long_pauses] == ["pau"]
    assert phones.symbols[phones.long_pauses[0] - 1] == "."
    assert phones.words == ["wait", "now", "go"]
    assert len(phones.warnings) == 1 and "[laugh]" in phones.warnings[0]


def test_what_is_left_out_is_said(tokenizer):
    assert tokenizer.phones("Café 😀.").warnings == []
    assert "你好" in tokenizer.phones("Hello 你好 there.").warnings[0]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("😀🎉", "nothing to speak"),
        ("?!...", "nothing to speak"),
        ("你好，世界", "no English"),
        ("[laugh]", "nothing to speak"),
        ("a" * (MAX_CHARS + 1), f"{MAX_CHARS:,}"),
    ],
)
def test_what_cannot_be_spoken_is_one_sentence(tokenizer, text, named):
    with pytest.raises(UserError, match=re.escape(named)) as error:
        tokenizer.phones(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=120))
def test_any_text_gives_phones_or_a_user_error(tokenizer, text):
    try:
        phones = tokenizer.phones(text)
    except UserError:
        return
    assert phones.words and phones.symbols[-1] in PUNCTUATION
    tokenizer.encode(phones.symbols)


def test_words_outside_the_lexicon_are_spelled_out(tokenizer):
    word = "blorptastic"
    assert word not in tokenizer.lexicon
    first, again = tokenizer.pronounce([word, f"{word}'s"])
    assert any(p.endswith("1") for p in first) and again[: len(first)] == first


def test_letters_and_lexicon_agree_with_the_vocabulary(tokenizer):
    known = set(tokenizer.vocab)
    assert all(p in known for name in LETTER_NAMES.values() for p in name.split())
    assert all(set(phones.split()) <= known for phones in tokenizer.lexicon.values())


def test_loading_reads_neither_lexicon_nor_network():
    fresh = TextTokenizer.from_pretrained()
    assert "lexicon" not in vars(fresh) and "spell_out" not in vars(fresh)


@pytest.mark.slow
def test_loading_is_fast():
    start = time.process_time()
    TextTokenizer.from_pretrained().phones("Hello there.")
    assert time.process_time() - start < 0.3


def test_a_foreign_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        TextTokenizer.from_pretrained(tmp_path)


def test_explain_shows_what_will_be_read(tokenizer):
    first, second = tokenizer.explain("Dr. Smith paid $5, twice. [pause] The apple [laugh] fell")
    assert first.written == "Dr. Smith paid $5, twice." and first.read == "doctor smith paid five dollars, twice."
    assert first.changes == [("Dr.", "doctor"), ("$5,", "five dollars,")]
    assert first.words[0] == ("doctor", "d aa1 k t er") and first.words[5] == (",", ",")
    assert first.pauses == [(5, ","), (6, ".")] and first.warnings == []
    assert second.pauses == [(0, "pau"), (3, ".")]
    assert second.words[1] == ("the", "dh iy") and "[laugh]" in second.warnings[0]
    assert "$5, -> five dollars," in str(first) and "doctor [d aa1 k t er]" in str(first)
    with pytest.raises(UserError):
        tokenizer.explain("...")


def test_explain_agrees_with_what_is_spoken(tokenizer):
    text = "In 1905 she read 3 books; 2 were his."
    (row,) = tokenizer.explain(text)
    assert " ".join(p for _, p in row.words).split() == tokenizer.phones(text).symbols[1:]
