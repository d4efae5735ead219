"""Batches by length: every row once, within the budget, the same again, shared evenly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solfa.tokenizers.datasets.shards.length_buckets import LengthBuckets, collate


@settings(max_examples=50)
@given(st.data(), st.integers(1, 300), st.integers(0, 3), st.integers(1, 4))
def test_every_row_once_within_the_budget(data: st.DataObject, budget: int, epoch: int, world: int) -> None:
    frames = data.draw(st.lists(st.integers(0, 100), min_size=world, max_size=60))
    ranks = [LengthBuckets(frames, budget, seed=5, rank=rank, world=world) for rank in range(world)]
    for rank in ranks:
        rank.set_epoch(epoch)
    assert len({len(rank) for rank in ranks}) == 1
    batches = [batch for rank in ranks for batch in rank]
    rows = sorted(i for batch in batches for i in batch)
    if any(len(batch) > 1 for batch in batches) or world == 1:
        assert rows == list(range(len(frames)))
    assert set(rows) == set(range(len(frames)))
    assert len(rows) < len(frames) + world
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(frames[i] for i in batch) <= budget


def test_epochs_differ_repeat_and_resume() -> None:
    frames = np.random.default_rng(0).integers(20, 400, 1000)
    buckets = LengthBuckets(frames, 4000, seed=1)
    first = list(buckets)
    assert list(buckets) == first == list(LengthBuckets(frames, 4000, seed=1))
    buckets.set_epoch(1)
    second = list(buckets)
    assert second != first
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    assert list(LengthBuckets(frames, 4000, seed=2)) != first
    buckets.set_epoch(0, skip=7)
    assert list(buckets) == first[7:]
    assert len(buckets) == len(first)


def test_little_is_padding_and_steps_are_alike() -> None:
    frames = np.random.default_rng(0).integers(20, 400, 5000)
    ranks = [LengthBuckets(frames, 4000, rank=rank, world=2) for rank in range(2)]
    padded = sum(len(batch) * int(frames[batch].max()) for rank in ranks for batch in rank)
    assert frames.sum() / padded > 0.93
    one, two = (np.array([frames[batch].max() for batch in rank]) for rank in ranks)
    assert np.median(np.abs(one - two)) < 20


def test_more_processes_than_rows() -> None:
    with pytest.raises(ValueError, match="rank 0 of 3 processes cannot share 2 rows"):
        LengthBuckets([1, 2], 10, rank=0, world=3)


def test_rows_are_padded_at_their_end() -> None:
    batch = collate(
        [
            {"id": "a", "codes": torch.ones(2, 3, dtype=torch.long)},
            {"id": "b", "codes": torch.ones(2, 1, dtype=torch.long), "x": 1},
        ]
    )
    assert batch["codes"].tolist() == [[[1, 1, 1]] * 2, [[1, 0, 0]] * 2]
    assert batch["frames"].tolist() == [3, 1]
    assert (batch["id"], batch["x"]) == (["a", "b"], [None, 1])
