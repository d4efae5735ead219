"""The labelled corpus `homographs.tsv`: (class, sentence, word, phones): words that are written alike and spoken differently,
interjections, and names.  A word that stands twice in its sentence has two readings, " | " between them.

    python -m pytest -s tests/tokenizers/text/test_homographs.py     prints the score of each class
"""

from collections import Counter
from pathlib import Path

import pytest

from solfa.tokenizers.text.acronyms import INTERJECTIONS
from solfa.tokenizers.text.corrections import CORRECTIONS
from solfa.tokenizers.text.homographs import RULES
from solfa.tokenizers.text.tokenizer import TextTokenizer

CORPUS = Path(__file__).with_name("homographs.tsv")
# Sentences that are known to be read wrongly, by class: "they read the will after the funeral" needs the whole story.
WRONG = {"read": 1}


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.from_pretrained()


def test_score_by_class(tokenizer):
    right, of, wrong = Counter(), Counter(), []
    for line in CORPUS.read_text(encoding="utf-8").splitlines()[1:]:
        name, sentence, word, expected = line.split("\t")
        phones = tokenizer.phones(sentence)
        symbols = list(zip(phones.symbols, phones.word_index, strict=True))
        places = [i for i, w in enumerate(phones.words) if w == word]
        got = " | ".join(" ".join(s for s, w in symbols if w == i) for i in places)
        of[name] += 1
        right[name] += got == expected
        if got != expected:
            wrong.append(f"{name}: {word!r} in {sentence!r} is {got!r}, not {expected!r}")
    print(
        "",
        *(f"{name:<18}{right[name]:>4} of {of[name]}" for name in of),
        f"all{right.total():>19} of {of.total()}",
        sep="\n",
    )
    print(*wrong, sep="\n")
    assert of.total() >= 340
    assert not [name for name in of if right[name] < of[name] - WRONG.get(name, 0)], "\n".join(wrong)


def test_tables_speak_in_phones_of_the_vocabulary(tokenizer):
    phones = [*CORRECTIONS.values(), *INTERJECTIONS.values(), *(r for rules in RULES.values() for _, r in rules)]
    assert set(" ".join(phones).split()) <= set(tokenizer.vocab)


def test_corrections_differ_from_the_lexicon(tokenizer):
    assert [w for w, phones in CORRECTIONS.items() if tokenizer.lexicon.get(w) == phones] == []


def test_words_drawn_out_are_the_words(tokenizer):
    so, no, hmm = tokenizer.pronounce(["sooooo", "noooo", "hmmmmm"])
    assert so == tokenizer.pronounce(["so"])[0] and no == tokenizer.pronounce(["no"])[0] and hmm == ["hh", "m"]
