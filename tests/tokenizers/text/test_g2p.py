"""The letter-to-phone network: one interface for training and use, alignment, and a training run in miniature."""

import itertools
import json

import pytest
import torch

from solfa.core import checkpoints
from solfa.tokenizers.text.g2p import LETTERS, LetterToPhone, LetterToPhoneConfig, Speller
from solfa.tokenizers.text.tokenizer import TextTokenizer
from solfa.tokenizers.training.train_g2p import align, main, read_pronunciations

CHUNKS = ("<start>", "", "b", "ae1", "k s", "t")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LetterToPhone(LetterToPhoneConfig(CHUNKS, dim=16, layers=1, heads=2)).eval()


def ids(*words):
    return torch.tensor([[LETTERS.index(c) for c in w] for w in words])


def test_generation_is_the_argmax_of_teacher_forcing(model):
    letters = ids("cat", "box", "tab")
    chosen = model.generate(letters)
    logits = model(letters, chosen)
    logits[..., 0] = float("-inf")
    assert torch.equal(logits.argmax(-1), chosen)


def test_later_chunks_do_not_reach_back(model):
    letters, a = ids("taxi"), torch.tensor([[1, 2, 3, 4]])
    b = torch.tensor([[1, 2, 5, 5]])
    assert torch.equal(model(letters, a)[:, :3], model(letters, b)[:, :3])


def test_words_of_any_length_and_mark(model):
    speller = Speller(model)
    words = ["a", "cat", "x" * 100, "o'clock", "CAT", "--", ""]
    answers = speller(words)
    assert len(answers) == len(words) and answers[-2:] == ["", ""] and answers[1] == answers[4]
    assert speller(words) == answers
    assert [Speller(model)([w])[0] for w in words] == answers


def test_alignment_finds_the_obvious_chunks():
    words = {
        "box": "b aa k s",
        "tot": "t aa t",
        "bob": "b aa b",
        "fox": "f aa k s",
        "tax": "t ae k s",
        "bat": "b ae t",
        "tab": "t ae b",
        "fat": "f ae t",
        "cat": "k ae t",
    }
    pairs = [(w, tuple(p.split())) for w, p in words.items()]
    found = dict(zip(words, align(pairs), strict=True))
    assert found["box"] == ("b", "aa", "k s") and found["cat"] == ("k", "ae", "t")
    assert all(" ".join(filter(None, found[w])) == p for w, p in words.items())
    assert align([("a", tuple("bcdf"))]) == [None]


def test_training_in_miniature(tmp_path):
    """A regular toy language is learned, and the folder that training writes can be loaded."""
    sounds = {"a": "aa1", "b": "b", "d": "d", "e": "eh1", "t": "t"}
    words = ["".join(w) for w in itertools.product("bdt", "ae", "bdt", "ae", ["", "t"])]
    table = tmp_path / "p.tsv"
    table.write_text("".join(f"{w}\t{' '.join(sounds[c] for c in w)}\n" for w in words), encoding="utf-8")
    assert len(read_pronunciations(table)) == len(words)
    out = tmp_path / "text"
    main([str(table), "--out", str(out), "--steps", "40", "--lexicon-bytes", "200", "--lexicon-surely", "3"])
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))["config"]
    assert {"per", "wer"} <= config["held_out_error_percent"].keys()
    assert (out / "lexicon.txt").stat().st_size <= 200
    tokenizer = TextTokenizer.from_pretrained(out)
    assert tokenizer.spell_out(["bade", "tabe"]) == ["b aa1 d eh1", "t aa1 b eh1"]
    assert checkpoints.read_config(out, "text")["vocab"] == tokenizer.vocab


def test_the_shipped_network_reads_made_up_words():
    speller = TextTokenizer.from_pretrained().spell_out
    answers = dict(zip(["blat", "stame", "florbing"], speller(["blat", "stame", "florbing"]), strict=True))
    assert answers["blat"] == "b l ae1 t"
    assert answers["stame"] == "s t ey1 m"
    assert answers["florbing"].endswith("ih ng")
