"""The labelled corpus `readings.tsv`: (class, text, reading), written as a careful American newsreader reads aloud.

    python -m pytest -s tests/tokenizers/text/test_readings.py     prints the score of each class

The readings are in the form of `TextTokenizer.normalize`: words in lower case, letters as capitals, one mark for each pause.
They were written before the code that is scored by them, not taken from it.
"""

from collections import Counter
from pathlib import Path

import pytest

from solfa.tokenizers.text.tokenizer import TextTokenizer

CORPUS = Path(__file__).with_name("readings.tsv")
# Lines that are known to be read wrongly, by class; every other class is read without a fault.
WRONG = {"code": 2}


def corpus() -> list[list[str]]:
    lines = CORPUS.read_text(encoding="utf-8").splitlines()
    return [line.replace("\\n", "\n").split("\t") for line in lines[1:]]


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.from_pretrained()


def test_the_corpus_is_large_and_well_formed():
    rows = corpus()
    assert len(rows) >= 600 and all(len(row) == 3 and all(row) for row in rows)
    assert len({text for _, text, _ in rows}) == len(rows)


def test_score_by_class(tokenizer):
    right, of, wrong = Counter(), Counter(), []
    for name, text, reading in corpus():
        got = tokenizer.normalize(text).rstrip(",")
        of[name] += 1
        right[name] += got == reading
        if got != reading:
            wrong.append(f"{name}: {text!r} is read {got!r}, not {reading!r}")
    print(
        "",
        *(f"{name:<18}{right[name]:>4} of {of[name]}" for name in of),
        f"all{right.total():>19} of {of.total()}",
        sep="\n",
    )
    print(*wrong, sep="\n")
    short = {name: right[name] for name in of if right[name] < of[name] - WRONG.get(name, 0)}
    assert not short, "\n".join(wrong)
