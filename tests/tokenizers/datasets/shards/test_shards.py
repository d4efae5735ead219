"""Writing tokens: rows come back as they went in, runs continue after any end, and parts share a folder."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solfa.core.atomic import ASIDE
from solfa.core.errors import UserError
from solfa.tokenizers.datasets.shards.shard_formats import FORMATS, Header
from solfa.tokenizers.datasets.shards.shards import ShardWriter
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset

HEADER = Header("tiny", "0123456789abcdef", 24_000, 25.0, 4, 32)


def row(name: str, frames: int = 3, books: int = 4, size: int = 32, **more: Any) -> dict[str, Any]:
    codes = np.random.default_rng(frames).integers(0, size, (books, frames))
    own = {"id": name, "audio": f"{name}.wav", "duration": frames / 25, "samples": frames * 960, "sample_rate": 24_000}
    return {**own, "codes": codes, "frames": frames, **more}


def write(folder: Path, *shards: list[dict[str, Any]], header: Header = HEADER) -> None:
    with ShardWriter(folder, header) as writer:
        for rows in shards:
            for r in rows:
                writer.add(r)
            writer.flush()


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)  # hundreds of waits for the disk, and not what is tested
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
    first, second = (pq.read_schema(path) for path in sorted(tmp_path.glob("data/*.parquet")))
    assert first == second
    assert TokenDataset(tmp_path).column("x") == [1.5, 2.0, None]


def test_manifest_describes_the_folder(tmp_path: Path) -> None:
    write(tmp_path, [row("a", frames=25), row("b", frames=50)])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == {
        "codec": "tiny", "fingerprint": HEADER.fingerprint, "sample_rate": 24_000, "frame_rate": 25.0, "books": 4, "codebook_size": 32,
        "format_version": 2, "format": "parquet", "files": 1, "rows": 2, "hours": round(3 / 3600, 4), "complete": False,
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


@pytest.mark.parametrize(("size", "kind"), [(1024, "int16"), (2**15, "int16"), (2**16, "uint16"), (2**16 + 1, "int32")])
def test_codes_are_lists_of_the_smallest_integers(tmp_path: Path, size: int, kind: str) -> None:
    header = Header("big", "f", 24_000, 25.0, 2, size)
    rows = [
        row("none", 0, 2, size),
        row("a", 50, 2, size),
        {**row("b", 2, 2, size), "codes": np.array([[0, size - 1]] * 2)},
    ]
    write(tmp_path, rows, header=header)
    table = pq.read_table(tmp_path / "data")
    assert str(table.schema.field("codes").type) == f"fixed_size_list<element: list<element: {kind}>>[2]"
    assert table["codes"].to_pylist() == [r["codes"].tolist() for r in rows]
    assert [r["codes"].tolist() for r in TokenDataset(tmp_path)] == [r["codes"].tolist() for r in rows]
    assert Header.loads(table.schema.metadata[b"solfa"], tmp_path) == header


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_holds_the_rows_and_continues(tmp_path: Path, format: str) -> None:
    rows = [row(f"s.1/{name}", i + 1, text="é", pitch=[1.5, None]) for i, name in enumerate(["a", "a.b", "a%2Eb", "c"])]
    for part in (rows[:2], rows[2:]):
        with ShardWriter(tmp_path, HEADER, format=format) as writer:
            assert writer.done == ({r["id"] for r in rows[:2]} if part == rows[2:] else set())
            for r in part:
                writer.add(r)
            writer.flush()
    layout = FORMATS[format](tmp_path, HEADER)
    names = [name for name in rows[0] if name != "codes"]
    read = [layout.read(path, [*names, "gone"]) for path in layout.files()]
    assert {header for header, _ in read} == {HEADER}
    found = sorted((r for _, there in read for r in there), key=lambda r: str(r["id"]))
    wanted = sorted(({name: r[name] for name in names} | {"gone": None} for r in rows), key=lambda r: str(r["id"]))
    assert found == wanted
    other = "npz" if format == "parquet" else "parquet"
    with pytest.raises(UserError, match=f"already holds tokens as {format}"):
        ShardWriter(tmp_path, HEADER, format=other)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["rows"], manifest["hours"]) == (4, round(10 / 25 / 3600, 4))
    with ShardWriter(tmp_path, HEADER, overwrite=True, format=format) as writer:
        assert writer.done == set()
    assert not list(tmp_path.iterdir())
    (tmp_path / "data").mkdir()
    name = {"parquet": "tokens-0.parquet", "webdataset": "tokens-0.tar", "npz": "x.npz"}[format]
    (tmp_path / "data" / name).write_bytes(b"not this")
    with pytest.raises(UserError, match="is damaged"):
        ShardWriter(tmp_path, HEADER, format=format)


def test_webdataset_shards_open_as_such(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [row(f"s.1/clip.{i}", i + 2) for i in range(4)]
    with ShardWriter(tmp_path / "t", HEADER, format="webdataset") as writer:
        for r in rows:
            writer.add(r)
        writer.flush()
    files = str(tmp_path / "t" / "data" / "*.tar")
    loaded = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert [r["__key__"] for r in loaded] == [f"s.1/clip%2E{i}" for i in range(4)]
    assert [r["json"]["id"] for r in loaded] == [r["id"] for r in rows]
    assert all(np.array_equal(got["npy"], want["codes"]) for got, want in zip(loaded, rows, strict=True))


def test_npz_files_open_as_such(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, HEADER, format="npz") as writer:
        writer.add(row("s1/clip.1", text="hm"))
        writer.flush()
    arrays = np.load(tmp_path / "data" / "s1" / "clip.1.npz")
    assert np.array_equal(arrays["codes"], row("")["codes"])
    assert arrays["codes"].dtype == np.int16
    assert json.loads(str(arrays["metadata"]))["text"] == "hm"


def test_all_shards_have_one_schema(tmp_path: Path) -> None:
    """Readers take a folder for one table, so what a first shard did not foresee must not change the columns."""
    write(tmp_path, [row("a", x=1, y=None, extra="mine")])
    write(tmp_path, [row("b", x="one", y="text", z=[None]), row("c", x=2, y=3.5)])
    first, second = (pq.read_schema(path) for path in sorted(tmp_path.glob("data/*")))
    assert first.equals(second, check_metadata=True)
    assert pq.read_table(tmp_path / "data")["x"].to_pylist() == [1, None, 2]
    rows = list(TokenDataset(tmp_path))
    assert [(r["x"], r["y"], r.get("z"), r.get("extra")) for r in rows] == [
        (1, None, None, "mine"), ("one", "text", [None], None), (2, 3.5, None, None)
    ]  # fmt: skip
    assert TokenDataset(tmp_path).column("z") == [None, [None], None]


def test_rejects_are_listed_while_the_run_goes_on_and_once(tmp_path: Path) -> None:
    def listed() -> list[str]:
        path = tmp_path / "rejects.jsonl"
        return [json.loads(line)["id"] for line in path.read_text().splitlines()] if path.exists() else []

    with ShardWriter(tmp_path, HEADER) as writer:
        writer.reject("bad", "bad.wav", "it is empty")
        writer.add(row("a"))
        writer.flush()
        assert listed() == ["bad"]
        writer.reject("é", "é.wav", "it is gone")
        writer.flush()
        assert listed() == ["bad", "é"]
    with ShardWriter(tmp_path, HEADER) as writer:  # the first run was stopped; this one tries them again
        writer.reject("bad", "bad.wav", "it is empty")
        writer.flush()
        assert listed() == ["bad", "é"]
        writer.add(row("é"))
        writer.flush()
        assert listed() == ["bad"]
        writer.write_manifest(complete=True)
    assert listed() == ["bad"]
    with ShardWriter(tmp_path, HEADER) as writer:
        writer.write_manifest(complete=True)  # the corpus has no bad clip any more
    assert listed() == []


def test_parts_fill_one_folder_together(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, HEADER, part="1of2-") as one, ShardWriter(tmp_path, HEADER, part="2of2-") as two:
        aside = tmp_path / f"{ASIDE}77-tokens-1of2-00000.parquet"
        aside.touch()  # being written by the other
        with pytest.raises(UserError, match=r"another run is writing to .* \(part 2of2\)"):
            ShardWriter(tmp_path, HEADER, part="2of2-")
        for other in ("", "1of3-"):
            with pytest.raises(UserError, match="divides the corpus in another way"):
                ShardWriter(tmp_path, HEADER, part=other)
        assert aside.exists()
        aside.unlink()
        one.add(row("a", x=1))
        one.flush()
        two.add(row("b", x="text"))
        two.reject("bad", "bad.wav", "it is empty")
        two.flush()
        two.add(row("c"))
        two.flush()
        two.write_manifest(complete=True)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        assert (manifest["rows"], manifest["parts"], manifest["complete"]) == (3, ["2of2"], False)
        one.write_manifest(complete=True)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["rows"], manifest["parts"], manifest["complete"]) == (3, ["1of2", "2of2"], True)
    names = ["tokens-1of2-00000.parquet", "tokens-2of2-00000.parquet", "tokens-2of2-00001.parquet"]
    assert sorted(os.listdir(tmp_path / "data")) == names
    assert sorted(os.listdir(tmp_path)) == ["data", "manifest.json", "rejects-2of2.jsonl"]
    assert TokenDataset(tmp_path).column("x") == [1, "text", None]
    with ShardWriter(tmp_path, HEADER) as whole:
        assert whole.done == {"a", "b", "c"}
    with pytest.raises(UserError, match="delete that folder"):
        ShardWriter(tmp_path, HEADER, overwrite=True, part="1of2-")


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_leaves_whole_files(tmp_path: Path, format: str) -> None:
    """The system itself refuses to let a file grow: what it does at 64 KiB is what a full disk does at its end."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = {**row("large", 60_000), "codes": np.random.default_rng(0).integers(0, 32, (4, 60_000))}
    with ShardWriter(tmp_path, HEADER, format=format) as writer:
        writer.add(row("a"))
        writer.flush()
        writer.add(large)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
        try:
            with pytest.raises(UserError, match="cannot be written: File too large"):
                writer.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert writer.done == {"a"}
        assert len(list(tmp_path.glob("data/*"))) == 1
        assert not list(tmp_path.glob(f"{ASIDE}*"))
    with ShardWriter(tmp_path, HEADER, format=format) as writer:
        assert writer.done == {"a"}
        writer.add(large)
        writer.flush()
    with ShardWriter(tmp_path, HEADER, format=format) as writer:
        assert writer.done == {"a", "large"}


KILLED = """
import sys, numpy as np
from pathlib import Path
from solfa.tokenizers.datasets.shards.shard_formats import Header
from solfa.tokenizers.datasets.shards.shards import ShardWriter
header = Header("tiny", "f", 24_000, 25.0, 4, 32)
codes = np.ones((4, 3), np.int64)
print("ready", flush=True)
with ShardWriter(Path(sys.argv[1]), header, format=sys.argv[2]) as writer:
    for i in range(60):
        if f"c{i}" in writer.done:
            continue
        if i % 7:
            row = {"id": f"c{i}", "duration": 0.12, "frames": 3, "codes": codes, "x": i if i < 30 else "late"}
            writer.add(row)
        else:
            writer.reject(f"c{i}", "", "bad")
        if i % 3 == 2:
            writer.flush()
    writer.flush()
    writer.write_manifest(complete=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("format", FORMATS)
def test_killed_at_any_moment(tmp_path: Path, format: str) -> None:
    rng = np.random.default_rng(0)
    layout = FORMATS[format](tmp_path, Header("tiny", "f", 24_000, 25.0, 4, 32))
    killed = ends = 0
    while not ends:
        command = [sys.executable, "-c", KILLED, str(tmp_path), format]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            if killed < 3:
                time.sleep(rng.uniform(0.005, 0.1))
                process.kill()
            ends = process.wait() == 0
        killed += not ends
        assert killed < 5
        ids = [r["id"] for path in layout.files() for r in layout.read(path, ["id"])[1]]  # every visible file is whole
        assert len(set(ids)) == len(ids)
        assert {path for path in (tmp_path / "data").rglob("*") if path.is_file()} == set(layout.files())
    assert killed >= 1
    assert set(ids) == {f"c{i}" for i in range(60) if i % 7}
    rejects = [json.loads(line)["id"] for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert sorted(rejects) == sorted(f"c{i}" for i in range(0, 60, 7))
    assert sorted(os.listdir(tmp_path)) == ["data", "manifest.json", "rejects.jsonl"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, HEADER), pytest.raises(UserError, match="another run"):
        ShardWriter(tmp_path, HEADER)
    with ShardWriter(tmp_path, HEADER):
        pass


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "new" / "deep", HEADER):
        assert (tmp_path / "new" / "deep").is_dir()
    assert not list(tmp_path.iterdir())
