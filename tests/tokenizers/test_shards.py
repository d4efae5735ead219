"""Token shards: rows come back as they went in, runs continue, and another codec's tokens are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solfa.atomic import ASIDE
from solfa.errors import UserError
from solfa.tokenizers.shards import Header, ShardWriter, TokenDataset

HEADER = Header("tiny", "0123456789abcdef", 24_000, 25.0, 4, 32)


def row(name: str, frames: int = 3, **more: Any) -> dict[str, Any]:
    codes = np.random.default_rng(frames).integers(0, 32, (4, frames))
    own = {"id": name, "audio": f"{name}.wav", "duration": frames / 25, "samples": frames * 960, "sample_rate": 24_000}
    return {**own, "codes": codes, "frames": frames, **more}


def write(folder: Path, *shards: list[dict[str, Any]], header: Header = HEADER) -> None:
    with ShardWriter(folder, header) as writer:
        for rows in shards:
            for r in rows:
                writer.add(r)
            writer.flush()


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
    dataset = TokenDataset(tmp_path, cache_groups=1)
    assert [dataset[i]["id"] for i in (399, 0, 399, 200)] == ["399", "0", "399", "200"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(json_values, min_size=2, max_size=5), st.lists(json_values, min_size=2, max_size=5))
def test_any_json_value_can_be_carried(
    tmp_path_factory: pytest.TempPathFactory, first: list[Any], second: list[Any]
) -> None:
    """In the shard that sets a column's type, and in one that has to live with it."""
    folder = tmp_path_factory.mktemp("shards")
    write(
        folder,
        [row(f"a{i}", x=v) for i, v in enumerate(first)],
        [row(f"b{i}", x=v, late=v) for i, v in enumerate(second)],
    )
    dataset = TokenDataset(folder)
    assert [r["x"] for r in dataset] == first + second == dataset.column("x")
    assert [r["late"] for r in dataset if "late" in r] == second


def test_columns_keep_one_type_over_shards(tmp_path: Path) -> None:
    write(tmp_path, [row("a", x=1.5, y=[1])], [row("b", x=2, y=[]), row("c")])
    first, second = (pq.read_schema(path) for path in sorted(tmp_path.glob("*.parquet")))
    assert first == second
    assert TokenDataset(tmp_path).column("x") == [1.5, 2.0, None]


def test_manifest_describes_the_folder(tmp_path: Path) -> None:
    write(tmp_path, [row("a", frames=25), row("b", frames=50)])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == {
        "codec": "tiny", "fingerprint": HEADER.fingerprint, "sample_rate": 24_000, "frame_rate": 25.0, "books": 4, "codebook_size": 32,
        "format_version": 1, "shards": 1, "rows": 2, "hours": round(3 / 3600, 4), "complete": False,
    }  # fmt: skip


def test_a_second_run_knows_what_is_done_and_clears_leftovers(tmp_path: Path) -> None:
    write(tmp_path, [row("a")], [row("b")])
    (tmp_path / f"{ASIDE}77-tokens-00002.parquet").write_bytes(b"half")
    with ShardWriter(tmp_path, HEADER) as writer:
        assert writer.done == {"a", "b"}
        assert not list(tmp_path.glob(f"{ASIDE}*"))
        writer.add(row("c"))
        writer.flush()
    assert TokenDataset(tmp_path).column("id") == ["a", "b", "c"]


def test_overwrite_removes_only_its_own_files(tmp_path: Path) -> None:
    write(tmp_path, [row("a")])
    (tmp_path / "notes.txt").write_text("mine")
    with ShardWriter(tmp_path, HEADER, overwrite=True) as writer:
        assert writer.done == set()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, HEADER), pytest.raises(UserError, match="another run"):
        ShardWriter(tmp_path, HEADER)
    with ShardWriter(tmp_path, HEADER):
        pass


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "new" / "deep", HEADER):
        assert (tmp_path / "new" / "deep").is_dir()
    assert not list(tmp_path.iterdir())


def test_another_codecs_tokens_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [row("a")])
    other = Header("other", "f" * 16, 24_000, 25.0, 4, 32)
    with pytest.raises(UserError, match="already holds tokens of codec tiny"):
        ShardWriter(tmp_path, other)
    with pytest.raises(UserError, match="holds tokens of codec 'tiny'.*cannot read"):
        TokenDataset(tmp_path, fingerprint="f" * 16)
    with pytest.raises(UserError, match="4 books, so 5"):
        TokenDataset(tmp_path, books=5)


def test_damaged_foreign_and_missing_shards(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no token shards"):
        TokenDataset(tmp_path)
    write(tmp_path, [row("a")])
    (tmp_path / "tokens-00001.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(UserError, match="tokens-00001.parquet is damaged"):
        TokenDataset(tmp_path)
    table = pq.read_table(tmp_path / "tokens-00000.parquet").replace_schema_metadata({})
    pq.write_table(table, tmp_path / "tokens-00001.parquet")
    with pytest.raises(UserError, match="not written by solfa"):
        TokenDataset(tmp_path)
