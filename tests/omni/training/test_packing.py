"""Packed rows: nothing is lost or doubled, sources have their shares, and a row is a function of the seed and its number."""

from pathlib import Path

import numpy as np
import pytest
import torch

from solfa.core.errors import UserError
from solfa.omni.model.grid import IGNORE, TokenGrid
from solfa.omni.training.packing import BYTES, PackedRows, SourceConfig, open_source, pack
from solfa.tokenizers.datasets.shards.shard_formats import Header
from solfa.tokenizers.datasets.shards.shards import ShardWriter

TEXT = TokenGrid(text_size=BYTES, books=(16, 16), patch_size=2)
LINES = ["one", "the second line", "ä", "", "four and a few more words than fit", "five\r", "six six six"]


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "a.txt").write_bytes("\n".join(LINES[:4]).encode())
    (tmp_path / "b.txt").write_bytes(("\n".join(LINES[4:]) + "\n").encode())
    (tmp_path / "c.txt").touch()
    return str(tmp_path)


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    folder = tmp_path / "tokens"
    with ShardWriter(folder, Header("tiny", "f", 24_000, 25.0, 3, 16)) as writer:
        for i, (frames, said) in enumerate([(7, "hello"), (4, None), (40, "long"), (2, "yes")]):
            codes = np.random.default_rng(i).integers(0, 16, (3, frames))
            row = {"id": str(i), "audio": "", "codes": codes, "frames": frames, "text": said}
            writer.add({**row, "duration": frames / 25, "samples": 960 * frames, "sample_rate": 24_000})
        writer.flush()
    return str(folder)


def documents_of(rows: PackedRows, count: int) -> list[tuple]:
    """The parts of each document in the first `count` rows."""
    packed = rows.rows(0, count)
    found = []
    for b in range(count):
        for number in range(int(packed.segments[b].max()) + 1):
            at = packed.segments[b] == number
            one = type(packed.grid)(*(getattr(packed.grid, f)[b][at] for f in ("text", "audio", "loss_mask")))
            found.append((rows.grid.split(one), one.loss_mask))
    return found


def test_an_epoch_holds_every_document_once(text):
    rows = PackedRows(TEXT, [open_source(SourceConfig(text), TEXT, 20)], [1.0], 20, seed=3)
    said = [bytes(i for i in parts[0].tolist() if i < BYTES) for parts, _ in documents_of(rows, len(rows.packed[0]))]
    whole = [line.strip().encode() for line in LINES if line]
    cut = b"four and a few more words than fit"  # 36 steps with its marks
    assert sorted(said) == sorted([*(w for w in whole if w != cut), cut[:19], cut[19:]])


def test_marks_stand_at_the_ends_and_no_document_predicts_the_next(text):
    rows = PackedRows(TEXT, [open_source(SourceConfig(text, "files"), TEXT, 200)], [1.0], 200, seed=0)
    assert len(rows.packed[0]) == 1
    packed = rows.rows(0, 1)
    first = (packed.segments[0] == 0).nonzero()[:, 0]
    assert packed.grid.text[0, first[0]] == TEXT.id("<|bos|>") and packed.grid.text[0, first[-1]] == TEXT.id("<|eot|>")
    labels = TEXT.labels(packed.grid).text[0]
    assert (labels[first[:-1]] == packed.grid.text[0, first[1:]]).all()
    assert labels[first[-1]] == IGNORE and (labels[packed.segments[0] < 0] == IGNORE).all()
    assert sorted(packed.lengths()) == sorted(len("\n".join(p).encode()) + 2 for p in (LINES[:4], [*LINES[4:], ""]))


def test_an_epoch_shuffles_what_the_one_before_it_held(text):
    rows = PackedRows(TEXT, [open_source(SourceConfig(text), TEXT, 20)], [1.0], 20, seed=1)
    n = len(rows.packed[0])
    orders = [[rows.locate(epoch * n + i)[1] for i in range(n)] for epoch in range(4)]
    assert all(sorted(order) == list(range(n)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_a_row_follows_from_the_seed_and_its_number_alone(text):
    def make(seed: int) -> PackedRows:
        return PackedRows(TEXT, [open_source(SourceConfig(text), TEXT, 20)], [1.0], 20, seed)

    once, again = make(5), make(5)
    whole = once.rows(0, 12)
    for first in (8, 0, 4):  # any order, any division over processes
        part = again.rows(first, 4)
        assert torch.equal(part.grid.text, whole.grid.text[first : first + 4])
        assert torch.equal(part.segments, whole.rows(first, first + 4).segments)
    assert not torch.equal(make(6).rows(0, 12).grid.text, whole.grid.text)


def test_sources_have_their_shares(text, tokens):
    sources = [open_source(SourceConfig(text), TEXT, 40), open_source(SourceConfig(tokens, "audio"), TEXT, 40)]
    rows = PackedRows(TEXT, sources, [3.0, 1.0], 40, seed=0)
    which = np.array([rows.locate(i)[0] for i in range(2048)])
    assert (which[:1024] == 1).sum() == 256 and (which == 1).sum() == 512
    assert 20 < (which[:100] == 1).sum() < 30 + 10, "the sources alternate"
    for source in (0, 1):  # and each is read evenly
        read = np.bincount([rows.locate(i)[1] for i in range(2048) if which[i] == source])
        assert read.max() - read.min() <= 1


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("audio", [["<|bos|>", "<|sostm|>"], "codes", ["<|eostm|>", "<|eot|>"]]),
        ("speak", [["<|bos|>", "text", "<|sostm|>"], "codes", ["<|eostm|>", "<|eot|>"]]),
        ("transcribe", [["<|bos|>", "<|sosp|>"], "codes", ["<|eosp|>", "text", "<|eot|>"]]),
    ],
)
def test_audio_documents(tokens, kind, expected):
    source = open_source(SourceConfig(tokens, kind), TEXT, 20)
    assert source.too_long == 1
    rows = PackedRows(TEXT, [source], [1.0], 20, seed=0)
    clips = {tuple(c["codes"].flatten().tolist()): c for c in source.data}
    documents = documents_of(rows, len(rows.packed[0]))
    assert len(documents) == (3 if kind == "audio" else 2)
    for parts, learn in documents:
        clip = clips[tuple(parts[1].flatten().tolist())]
        wanted = [
            clip["codes"].tolist()
            if part == "codes"
            else [i for word in part for i in (clip["text"].encode() if word == "text" else [TEXT.id(word)])]
            for part in expected
        ]
        assert [part.tolist() for part in parts] == wanted
        assert not learn[0] and learn[-1]
        before = {"audio": 1, "speak": len(parts[0]), "transcribe": 2 + TEXT.patches(parts[1].shape[1]) + 1}[kind]
        assert learn.tolist() == [False] * before + [True] * (len(learn) - before)


def test_heldout_documents_are_not_learned(text):
    def lines(heldout: bool) -> set[bytes]:
        source = open_source(SourceConfig(text), TEXT, 50, heldout, every=3)
        rows = PackedRows(TEXT, [source], [1.0], 50, seed=0)
        return {bytes(p[0].tolist()[1:-1]) for p, _ in documents_of(rows, len(rows.packed[0]))}

    learned, measured = lines(False), lines(True)
    assert not learned & measured and len(learned) == 4 and len(measured) == 2


def test_little_of_a_row_is_padding():
    lengths = np.random.default_rng(0).integers(20, 200, 4000)
    rows = pack(lengths, 512, seed=0)
    assert sorted(np.concatenate(rows).tolist()) == list(range(4000))
    assert max(lengths[row].sum() for row in rows) <= 512
    assert lengths.sum() / (512 * len(rows)) > 0.97


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (SourceConfig("nowhere/*.txt"), "no text files at nowhere"),
        (SourceConfig("nowhere", "words"), "'words' is no kind of documents"),
    ],
)
def test_mistakes_are_one_sentence(config, complaint):
    with pytest.raises(UserError, match=complaint):
        open_source(config, TEXT, 20)


def test_sources_that_do_not_fit(text, tokens):
    with pytest.raises(UserError, match="codebooks of 16 codes"):
        open_source(SourceConfig(tokens, "audio"), TokenGrid(BYTES, books=(32, 32)), 20)
    with pytest.raises(UserError, match="no document of at most 5 steps"):
        PackedRows(TEXT, [open_source(SourceConfig(tokens, "speak"), TEXT, 5)], [1.0], 5, seed=0)
    with pytest.raises(UserError, match="above 0"):
        PackedRows(TEXT, [open_source(SourceConfig(text), TEXT, 20)], [0.0], 20, seed=0)
