"""Hugging Face datasets: what `datasets` wrote comes back as clips, from Arrow and Parquet, and damage is told."""

import datetime
import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from solfa.core.errors import UserError
from solfa.tokenizers.datasets.readers.corpus import Clip, Corpus, read_corpus

AUDIO = pa.struct({"bytes": pa.binary(), "path": pa.string()})
FEATURES = {
    "id": {"dtype": "int64", "_type": "Value"},
    "audio": {"sampling_rate": 16000, "_type": "Audio"},
    "sentence": {"dtype": "string", "_type": "Value"},
    "style": {"names": ["calm", "glad"], "_type": "ClassLabel"},
}


def table(numbers: list[int], **others: pa.Array) -> pa.Table:
    """Rows as `datasets` stores them; the audio of row n are n bytes."""
    audio = [{"bytes": n * b"x", "path": f"/home/me/p{n}.wav"} for n in numbers]
    columns = {
        "id": pa.array([1000 + n for n in numbers]),
        "audio": pa.array(audio, AUDIO),
        "sentence": pa.array([f"Number {n}." if n else None for n in numbers]),
        "style": pa.array([n % 2 for n in numbers]),
        **others,
    }
    info = {"info": {"features": {name: FEATURES[name] for name in columns if name in FEATURES}}}
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(info)})


def read(clip: Clip) -> bytes:
    assert clip.data is not None
    return clip.data()


def check(corpus: Corpus, numbers: list[int], prefix: str = "", **more: Any) -> None:
    clips = pickle.loads(pickle.dumps(list(corpus)))
    assert [clip.id for clip in clips] == [f"{prefix}{1000 + n}" for n in numbers]
    assert len(corpus) == len(clips)
    assert [len(read(clip)) for clip in clips] == numbers
    assert len(read(clips[0])) == numbers[0]  # in any order
    for clip, n in zip(clips, numbers, strict=True):
        text = f"Number {n}." if n else None
        assert clip.row == {"text": text, "style": "glad" if n % 2 else "calm", **more}
        assert clip.path.name == f"p{n}.wav"


def test_save_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset(table([3, 0, 2, 5]))
    assert isinstance(whole.features["audio"], datasets.Audio)
    whole.save_to_disk(tmp_path / "two files", num_shards=2)
    check(read_corpus(tmp_path / "two files"), [3, 0, 2, 5])
    whole.select([2, 0]).save_to_disk(tmp_path / "selected")
    check(read_corpus(tmp_path / "selected"), [2, 3])
    datasets.DatasetDict(train=whole, test=whole.select([1])).save_to_disk(tmp_path / "splits")
    both = list(read_corpus(tmp_path / "splits"))
    assert [(c.id, c.row["split"]) for c in both] == [
        ("test/1000", "test"),
        *((f"train/{1000 + n}", "train") for n in [3, 0, 2, 5]),
    ]
    whole.to_parquet(tmp_path / "p.parquet")
    check(read_corpus(tmp_path / "p.parquet"), [3, 0, 2, 5])


def test_arrow_streams_of_several_batches(tmp_path: Path) -> None:
    numbers = list(range(1, 30))
    with pa.ipc.new_stream(tmp_path / "data.arrow", table(numbers).schema) as stream:
        stream.write_table(table(numbers), max_chunksize=7)
    (tmp_path / "cache-123.arrow").write_bytes(b"left by a map()")
    check(read_corpus(tmp_path), numbers)


def test_parquet_folder_of_the_hub(tmp_path: Path) -> None:
    numbers = list(range(1, 30))
    (tmp_path / "data").mkdir()
    pq.write_table(table(numbers), tmp_path / "data/train.clean-00000-of-00001.parquet", row_group_size=4)
    (tmp_path / "README.md").write_text("card")
    check(read_corpus(tmp_path), numbers, "data/", split="train.clean")


def test_every_column_becomes_json_and_binary_ones_stay(tmp_path: Path) -> None:
    day = datetime.datetime(2024, 1, 2, 3, 4, 5)
    others = {
        "when": pa.array([day]),
        "words": pa.array([[{"word": "a", "at": [0.5, 1.0]}]]),
        "half": pa.array([[0.5]], pa.list_(pa.float16())),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "image": pa.array([{"bytes": b"x", "path": None}], AUDIO),
        "speaker_id": pa.array([7]),
        "locale": pa.array(["nl"]).dictionary_encode(),
    }
    pq.write_table(table([1], **others), tmp_path / "x.parquet")
    (clip,) = read_corpus(tmp_path / "x.parquet")
    assert json.loads(json.dumps(clip.row)) == {
        "text": "Number 1.",
        "style": "glad",
        "when": "2024-01-02T03:04:05",
        "words": [{"word": "a", "at": [0.5, 1.0]}],
        "half": [0.5],
        "map": [["k", 1]],
        "speaker": 7,
        "language": "nl",
    }


@pytest.mark.parametrize("rows_are", ["structs", "bytes", "large bytes"])
def test_audio_without_ids(tmp_path: Path, rows_are: str) -> None:
    kind = {"structs": AUDIO, "bytes": pa.binary(), "large bytes": pa.large_binary()}[rows_are]
    audio = pa.array([{"bytes": b"ab"}, {"bytes": b"c"}] if rows_are == "structs" else [b"ab", b"c"], kind)
    plain = pa.table({"audio": audio})
    pq.write_table(plain, tmp_path / "set.parquet")
    with pa.ipc.new_stream(tmp_path / "set.arrow", plain.schema) as stream:
        stream.write_table(plain)
    for name in ("set.parquet", "set.arrow"):
        clips = list(read_corpus(tmp_path / name))
        assert [c.id for c in clips] == ["set/00000000", "set/00000001"]
        assert [read(c) for c in clips] == [b"ab", b"c"]


def test_paths_instead_of_bytes(tmp_path: Path) -> None:
    """As in datasets of local files that were not embedded, and in a Parquet manifest."""
    paths = ["wavs/a.wav", "/abs/b.wav"]
    structs = pa.array([{"bytes": None, "path": path} for path in paths], AUDIO)
    for name, column in {"audio": structs, "file": pa.array(paths)}.items():
        source = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({name: column, "text": ["A.", "B."]}), source)
        first, second = read_corpus(source)
        assert first == Clip("wavs/a", tmp_path / "wavs/a.wav", {"text": "A."})
        assert (second.id, second.path) == ("abs/b", Path("/abs/b.wav"))


def test_a_parquet_manifest_beside_its_audio_doubles_nothing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"file": ["a.wav"]}), tmp_path / "manifest.parquet")
    assert [c.id for c in read_corpus(tmp_path)] == ["a"]
    (tmp_path / "a.wav").write_bytes(b"x")
    (tmp_path / "b.wav").write_bytes(b"x")
    assert [c.id for c in read_corpus(tmp_path)] == ["a", "b"]


def test_mistakes_are_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    pq.write_table(table([1]), tmp_path / "cut.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cut.parquet").read_bytes()[:-20])
    (tmp_path / "no.arrow").write_bytes(b"no arrow")
    schema = table([100]).schema
    with pa.ipc.new_stream(
        tmp_path / "zip.arrow", schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as stream:
        stream.write_table(table([1000]))
    whole = tmp_path / "whole.arrow"
    with pa.ipc.new_stream(whole, schema) as stream:
        stream.write_table(table([1000]))
    (tmp_path / "half.arrow").write_bytes(whole.read_bytes()[:1500])
    for name, words in {
        "text.parquet": "no audio",
        "cut.parquet": "damaged",
        "no.arrow": "damaged",
        "half.arrow": "damaged",
        "zip.arrow": "compressed Arrow",
    }.items():
        with pytest.raises(UserError, match=words):
            read_corpus(tmp_path / name)


def test_a_row_without_audio_is_told_when_it_is_read(tmp_path: Path) -> None:
    audio = pa.array([{"bytes": b"x", "path": None}, {"bytes": None, "path": None}], AUDIO)
    pq.write_table(pa.table({"audio": audio}), tmp_path / "x.parquet")
    first, second = read_corpus(tmp_path / "x.parquet")
    assert read(first) == b"x"
    with pytest.raises(UserError, match="no audio in row 1"):
        read(second)


@pytest.mark.parametrize("source", ["hf:owner/no-such-set", "hf:owner/no-such-set/clean"])
def test_a_hub_id_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="does not exist here, and no data set of that name could be had"):
        read_corpus(source)


def test_a_hub_id_that_is_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "datasets--owner--name"
    (cached / "snapshots/abc/clean").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("abc")
    pq.write_table(table([1, 2]), cached / "snapshots/abc/clean/test-00000-of-00001.parquet")
    check(read_corpus("hf:owner/name"), [1, 2], "clean/", split="test")
    check(read_corpus("hf:owner/name/clean"), [1, 2], split="test")


def test_a_mistyped_path_is_no_hub_id() -> None:
    with pytest.raises(UserError, match="does not exist: .*write hf:typo/clips"):
        read_corpus("typo/clips")


def test_what_is_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no hub id"):
        read_corpus("hf:name")
