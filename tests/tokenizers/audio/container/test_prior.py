"""Priors of the entropy coder: exact integers, the same for writer and reader, and worth their name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from solfa.core.errors import UserError
from solfa.tokenizers.audio.container import prior as priors
from solfa.tokenizers.audio.container.prior import (
    POWERS,
    RARE,
    AdaptivePrior,
    Codes,
    Counts,
    LearnedPrior,
    Prior,
    Tables,
    load_prior,
    save_prior,
)
from solfa.tokenizers.audio.container.range_coder import RangeDecoder, RangeEncoder
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer

SIZES = (300, 7, 2)


def bits(prior: Prior, codes: Codes) -> float:
    """What the codes cost."""
    return float(sum(np.log2(s.total / s.size) for s in prior.spans(codes)))


def through(prior: Prior, codes: Codes) -> Codes:
    encoder = RangeEncoder()
    for symbol in prior.spans(codes):
        encoder.encode(*symbol)
    return prior.decode(RangeDecoder(encoder.finish()), *codes.shape)


def random_codes(frames: int, sizes: tuple[int, ...] = SIZES, seed: int = 0) -> Codes:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, size, frames) for size in sizes])


def extreme_tables(books: int, size: int, dim: int, rank: int) -> Tables:
    """Every number as large as its type allows, of both signs."""
    rng = np.random.default_rng(1)

    def ends(*shape: int) -> np.ndarray:
        return rng.choice([-127, 127], shape).astype(np.int8)

    return {
        "unit": np.array([8], np.int32), "project": ends(books, dim, rank), "weight": ends(books, rank, 2 * dim + 1),
        "bias": rng.integers(-2000, 0, (books, size)).astype(np.int16), "logit_shift": np.full(books, 12, np.int32),
        "project_shift": np.full((books, rank), 8, np.int32), "weight_shift": np.full((books, rank), 3, np.int32),
    }  # fmt: skip


def extreme(books: int = 3, size: int = 50, dim: int = 128, further: tuple[int, ...] = ()) -> LearnedPrior:
    codebooks = np.random.default_rng(0).uniform(-8, 8, (books, size, dim)).astype(np.float32)
    return LearnedPrior(codebooks, (size,) * books + further, extreme_tables(books, size, dim, LearnedPrior.RANK))


@given(st.lists(st.tuples(*(st.integers(0, size - 1) for size in SIZES)), max_size=30), st.integers(1, 3))
def test_adaptive_codes_come_back(frames: list[tuple[int, ...]], books: int) -> None:
    codes = np.array(frames, np.int64).reshape(-1, len(SIZES)).T[:books]
    assert np.array_equal(through(AdaptivePrior(SIZES), codes), codes)


def test_adaptive_counts_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    few = random_codes(1000, (10,))
    change = np.concatenate([few, few + 200], axis=1)
    slow = bits(AdaptivePrior(SIZES), change)
    monkeypatch.setattr(Counts, "MEMORY", 300)
    assert np.array_equal(through(AdaptivePrior(SIZES), change), change)
    assert bits(AdaptivePrior(SIZES), change) < 0.97 * slow


def test_adaptive_is_small_where_there_is_something_to_learn_and_no_burden_elsewhere() -> None:
    even = random_codes(2000, (1024,))
    assert bits(AdaptivePrior((1024,)), even) < 1.03 * 10 * even.size
    skewed = np.minimum(even, 15)  # nearly always the same
    assert bits(AdaptivePrior((1024,)), skewed) < 0.05 * 10 * even.size
    pairs = even.repeat(2, axis=1)
    assert bits(AdaptivePrior((1024,)), pairs) < 0.66 * 10 * pairs.size


def test_no_code_is_free() -> None:
    """So the bytes of a file bound the codes in it."""
    constant = np.zeros((2, 2000), np.int64)
    costs = [np.log2(s.total / s.size) for p in (AdaptivePrior(SIZES), extreme()) for s in p.spans(constant)]
    assert min(costs) > 1 / RARE


def test_powers_are_rounded_right() -> None:
    """The table is 2^(16 - k/64) to the nearest integer, by integers alone."""
    steps = LearnedPrior.STEPS
    for k, power in enumerate(POWERS[:-1].tolist()):
        assert (2 * power - 1) ** steps < 2 ** (17 * steps - k) < (2 * power + 1) ** steps


def test_learned_numbers_are_exact_integers() -> None:
    """Floats carry them; integers must give the same, at the limits of every range."""
    prior, codes = extreme(), random_codes(40, (50, 50, 50))
    tables, vectors = prior.tables, prior.vectors.astype(np.int64)
    outputs = np.rint((vectors @ tables["project"].astype(np.int64)) / 2.0 ** tables["project_shift"][:, None])
    outputs = outputs.clip(-255, 255).astype(np.int64)
    spans = iter(prior.spans(codes))
    before = np.zeros(vectors.shape[2], np.int64)
    hit = 0
    for frame, column in enumerate(codes.T):
        coarser = np.zeros_like(before)
        for book, code in enumerate(column):
            x = np.concatenate([coarser, before, [2 ** int(tables["unit"][0]) * (frame == 0)]])
            hidden = np.rint((tables["weight"][book].astype(np.int64) @ x) / 2.0 ** tables["weight_shift"][book])
            hidden = hidden.clip(-1023, 1023).astype(np.int64)
            products = outputs[book] @ hidden
            hit = max(hit, int(np.abs(products).max()))
            logits = np.rint(products / 2.0 ** tables["logit_shift"][book]).astype(np.int64) + tables["bias"][book]
            sizes = POWERS[np.minimum(logits.max() - logits, len(POWERS) - 1)]
            sizes = sizes + sizes.sum() // (255 * len(sizes)) + 1
            assert next(spans) == (sizes[:code].sum(), sizes[code], sizes.sum())
            coarser = coarser + vectors[book, code]
        before = coarser
    assert 2**22 < hit < 2**24


@pytest.mark.parametrize("books", [1, 2, 3, 5])
def test_learned_codes_come_back(books: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the blocks that the writer worked in; books beyond the learned ones are coded too."""
    prior, codes = extreme(further=(20, 3)), random_codes(30, (50, 50, 50, 20, 3))[:books]
    whole = list(prior.spans(codes))
    monkeypatch.setattr(LearnedPrior, "BLOCK", 7)
    assert list(prior.spans(codes)) == whole
    assert np.array_equal(through(prior, codes), codes)
    assert np.array_equal(through(prior, codes[:, :0]), codes[:, :0])


def test_a_prior_is_found_beside_its_codec_only(tiny_codec: AudioTokenizer, tmp_path: Path) -> None:
    tiny_codec.save_pretrained(tmp_path)
    assert load_prior(tiny_codec, tmp_path) is None
    saved = save_prior(tmp_path, tiny_codec, extreme_tables(4, 32, 8, 8))
    loaded = load_prior(tiny_codec, tmp_path)
    assert loaded is not None
    assert loaded.digest == saved.digest != AdaptivePrior.digest
    codes = random_codes(10, tiny_codec.codebook_sizes)
    assert list(loaded.spans(codes)) == list(saved.spans(codes))
    assert load_prior(AudioTokenizer(tiny_codec.config), tmp_path) is None, "other codebooks"
    (tmp_path / priors.FILE).write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged"):
        load_prior(tiny_codec, tmp_path)


def test_the_bundled_prior_belongs_to_the_bundled_codec() -> None:
    assert load_prior(AudioTokenizer.own()) is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("bias"), "'bias' is missing"),
        (lambda t: t.update(more=t["bias"]), "'more' is not one of its tables"),
        (lambda t: t.update(weight=t["weight"][:1].copy()), "'weight' is int8 .* instead of int8"),
        (lambda t: t.update(weight=t["weight"].astype(np.float32)), "'weight' is float32 .* instead of int8"),
        (lambda t: t.update(project=np.zeros((), np.int8)), "'project' is int8"),
        (lambda t: t.update(unit=t["unit"] + (1 << 30)), "'unit' holds a power of two beyond 64"),
        (lambda t: t.update(weight_shift=t["weight_shift"] - (1 << 30)), "'weight_shift' holds a power of two"),
    ],
)
def test_a_prior_with_other_tables_is_refused(change: Callable[[Any], Any], words: str, tmp_path: Path) -> None:
    codec = AudioTokenizer.own()
    assert codec.folder is not None
    path = tmp_path / "prior.safetensors"
    with safe_open(codec.folder / path.name, framework="numpy") as file:
        metadata, tables = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(tables)
    save_file(tables, path, metadata)
    with pytest.raises(UserError, match=f"is no prior for this codec: {words}"):
        load_prior(codec, tmp_path)
    save_file(tables, path)
    assert load_prior(codec, tmp_path) is None, "no word of the codebooks that it was fitted to"
