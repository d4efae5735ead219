"""Reading tokens: random access, other libraries, workers, and refusals."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from solfa.core.errors import UserError
from solfa.tokenizers.datasets.shards.dataset_card import write_card
from solfa.tokenizers.datasets.shards.length_buckets import LengthBuckets, collate
from solfa.tokenizers.datasets.shards.shard_formats import Header
from solfa.tokenizers.datasets.shards.shards import ShardWriter
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset

HEADER = Header("tiny", "0123456789abcdef", 24_000, 25.0, 4, 32)


def row(name: str, frames: int = 3, **more: Any) -> dict[str, Any]:
    codes = np.random.default_rng(frames).integers(0, 32, (4, frames))
    own = {"id": name, "audio": f"{name}.wav", "duration": frames / 25, "samples": frames * 960, "sample_rate": 24_000}
    return {**own, "codes": codes, "frames": frames, **more}


def write(folder: Path, *shards: list[dict[str, Any]]) -> None:
    with ShardWriter(folder, HEADER) as writer:
        for rows in shards:
            for r in rows:
                writer.add(r)
            writer.flush()
        writer.write_manifest(complete=True)


def test_rows_come_back_in_order_with_their_codes(tmp_path: Path) -> None:
    rows = [
        row(f"clip/{i}", frames=1 + i % 7, speaker=7, text="é", phones=["a", "b"], pitch={"median": 1.5})
        for i in range(300)
    ]
    write(tmp_path, rows[:140], rows[140:])
    dataset = TokenDataset(tmp_path, HEADER.fingerprint)
    assert len(dataset) == 300
    for i in (0, 127, 128, 139, 140, 299, -1):
        got, want = dataset[i], rows[i]
        assert got["id"] == want["id"]
        assert got["codes"].dtype == torch.int64
        assert np.array_equal(got["codes"].numpy(), want["codes"])
        assert (got["speaker"], got["text"], got["phones"], got["pitch"]) == ("7", "é", ["a", "b"], {"median": 1.5})
    assert dataset.frames().tolist() == [r["frames"] for r in rows]
    assert [r["id"] for r in dataset] == dataset.column("id") == [r["id"] for r in rows]
    with pytest.raises(IndexError):
        dataset[300]
    first_books = TokenDataset(tmp_path, books=2)[5]["codes"].numpy()
    assert np.array_equal(first_books, rows[5]["codes"][:2])


def test_a_small_cache_reads_the_same(tmp_path: Path) -> None:
    rows = [row(f"{i}") for i in range(400)]
    write(tmp_path, rows)
    dataset = TokenDataset(tmp_path, cache_bytes=1)
    assert [dataset[i]["id"] for i in (399, 0, 399, 200)] == ["399", "0", "399", "200"]


@pytest.mark.parametrize("library", ["datasets", "pandas", "polars", "pyarrow"])
def test_other_libraries_read_the_folder(tmp_path: Path, library: str) -> None:
    rows = [row(f"{i}", frames=i % 5, text="é", x=i if i < 5 else "late") for i in range(9)]
    write(tmp_path / "t", rows[:4], rows[4:])
    (tmp_path / "t" / "rejects.jsonl").write_text('{"id": "bad"}\n')
    write_card(tmp_path / "t", HEADER, "corpus/", "solfa tokenize corpus/ -o t/")
    module = pytest.importorskip(library)
    if library == "datasets":
        loaded = module.load_dataset(str(tmp_path / "t"), split="train", cache_dir=str(tmp_path / "cache"))
        plain = module.load_dataset(
            "parquet", data_dir=str(tmp_path / "t" / "data"), split="train", cache_dir=str(tmp_path / "cache")
        )
        assert plain.features == loaded.features
        assert loaded.with_format("torch")[8]["codes"].tolist() == rows[8]["codes"].tolist()
        there = list(loaded.select(range(1, 9)))
        rows = rows[1:]
    elif library == "polars":
        there = module.read_parquet(tmp_path / "t" / "data").to_dicts()
    elif library == "pandas":
        there = module.read_parquet(tmp_path / "t" / "data").to_dict("records")
    else:
        there = pq.read_table(tmp_path / "t" / "data").to_pylist()
    assert [r["id"] for r in there] == [r["id"] for r in rows]
    assert [r["text"] for r in there] == ["é"] * len(rows)
    assert [[list(book) for book in r["codes"]] for r in there] == [r["codes"].tolist() for r in rows]


def test_loader_with_workers(tmp_path: Path) -> None:
    rows = [row(f"{i}", frames=1 + i * 7 % 40) for i in range(200)]
    write(tmp_path, rows[:90], rows[90:])
    dataset = TokenDataset(tmp_path)
    dataset[0]  # opened before the workers exist
    buckets = LengthBuckets(dataset.frames(), 200)
    loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=buckets, collate_fn=collate, num_workers=2)
    seen = []
    for batch in loader:
        assert batch["codes"].shape == (len(batch["id"]), 4, int(batch["frames"].max()))
        for name, codes, frames in zip(batch["id"], batch["codes"], batch["frames"].tolist(), strict=True):
            assert np.array_equal(codes[:, :frames].numpy(), rows[int(name)]["codes"])
            assert not codes[:, frames:].any()
            seen.append(name)
    assert sorted(seen, key=int) == [r["id"] for r in rows]


def test_a_pickled_dataset_reads_the_same_and_takes_no_cache_along(tmp_path: Path) -> None:
    rows = [row(f"{i}", 100) for i in range(100)]
    write(tmp_path, rows)
    dataset = TokenDataset(tmp_path)
    small = len(pickle.dumps(dataset))
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[7]["codes"], dataset[7]["codes"])
    assert len(pickle.dumps(dataset)) == small


def test_another_codecs_tokens_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [row("a")])
    with pytest.raises(UserError, match="already holds tokens of codec tiny"):
        ShardWriter(tmp_path, Header("other", "f" * 16, 24_000, 25.0, 4, 32))
    with pytest.raises(UserError, match="holds tokens of codec 'tiny'.*cannot read"):
        TokenDataset(tmp_path, fingerprint="f" * 16)
    with pytest.raises(UserError, match="4 books, so 5"):
        TokenDataset(tmp_path, books=5)


def test_damaged_foreign_and_missing_shards(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no token shards"):
        TokenDataset(tmp_path)
    write(tmp_path, [row("a")])
    (tmp_path / "data" / "tokens-00001.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(UserError, match="tokens-00001.parquet is damaged"):
        TokenDataset(tmp_path)
    table = pq.read_table(tmp_path / "data" / "tokens-00000.parquet").replace_schema_metadata({})
    pq.write_table(table, tmp_path / "data" / "tokens-00001.parquet")
    with pytest.raises(UserError, match="not written by solfa"):
        TokenDataset(tmp_path)
