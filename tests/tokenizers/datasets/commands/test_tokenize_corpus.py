"""`solfa tokenize`: codes as the codec gives them clip by clip, in order, continued after a kill, rejects listed."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from solfa.cli import run
from solfa.core.errors import UserError
from solfa.tokenizers.audio import audio_file as audio_io
from solfa.tokenizers.audio.audio_file import read_audio
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands import engine
from solfa.tokenizers.datasets.commands.clip_results import Limits, Plan
from solfa.tokenizers.datasets.commands.engine import length_batches
from solfa.tokenizers.datasets.commands.shared_options import pick_devices
from solfa.tokenizers.datasets.commands.tokenize_corpus import tokenize_corpus
from solfa.tokenizers.datasets.readers.clip import Clip
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve clips of odd lengths, rates and channels, with a manifest."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(1)
    rows = []
    for i in range(12):
        rate = (8_000, 16_000, 22_050, 24_000, 44_100, 48_000)[i % 6]
        name = f"s{i % 3}/{i:02}.{('wav', 'flac')[i % 2]}"
        (folder / name).parent.mkdir(exist_ok=True)
        wav = 0.3 * rng.standard_normal((round((0.1 + 0.21 * (i * 5 % 7)) * rate) + i, 1 + i % 2))
        soundfile.write(folder / name, np.clip(wav, -1, 1), rate)
        rows.append(
            {"audio": name, "speaker": f"s{i % 3}", "text": f"clip {i}", "durations": [i, i + 1], "label": None}
        )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def contents(folder: Path) -> list[dict[str, Any]]:
    return [{**row, "codes": row["codes"].tolist()} for row in TokenDataset(folder)]


def test_codes_are_those_of_each_clip_alone(mixed: Path, tmp_path: Path, tiny_codec: AudioTokenizer) -> None:
    summary = tokenize_corpus(tiny_codec, read_corpus(mixed), tmp_path / "t", plan=Plan(2.0))
    assert (summary.clips, summary.rejects) == (12, [])
    rows = list(TokenDataset(tmp_path / "t", tiny_codec.fingerprint))
    assert [row["id"] for row in rows] == [clip.id for clip in read_corpus(mixed)]
    for row in rows:
        audio = read_audio(row["audio"], 24_000)
        assert row["duration"] == pytest.approx(row["samples"] / row["sample_rate"])
        assert row["frames"] == -(-len(audio.samples) // tiny_codec.hop) == row["codes"].shape[1]
        alone = tiny_codec.encode(torch.from_numpy(audio.samples), 24_000)[0]
        assert (row["codes"] == alone).float().mean() > 0.95  # a tie may fall the other way in a batch


def test_manifest_columns_are_carried(mixed: Path, tmp_path: Path, tiny_codec: AudioTokenizer) -> None:
    tokenize_corpus(tiny_codec, read_corpus(mixed / "manifest.jsonl"), tmp_path / "t", books=2, limit=5)
    rows = list(TokenDataset(tmp_path / "t"))
    assert [row["text"] for row in rows] == [f"clip {i}" for i in range(5)]
    assert [row["durations"] for row in rows] == [[i, i + 1] for i in range(5)]
    assert {row["codes"].shape[0] for row in rows} == {2}
    assert json.loads((tmp_path / "t" / "manifest.json").read_text())["complete"] is True


def test_a_stopped_run_continues_to_the_same_shards(
    mixed: Path, tmp_path: Path, tiny_codec: AudioTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(batch_seconds=1.0, shard_rows=2)
    tokenize_corpus(tiny_codec, read_corpus(mixed), tmp_path / "whole", plan=plan)

    calls = 0
    encode = engine.encode_batch

    def stop_after_three(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(engine, "encode_batch", stop_after_three)
    stops = 0
    for _ in range(20):
        try:
            tokenize_corpus(tiny_codec, read_corpus(mixed), tmp_path / "stopped", plan=plan)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 2
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    names = [path.name for path in sorted((tmp_path / "whole").iterdir())]
    assert [path.name for path in sorted((tmp_path / "stopped").iterdir())] == names
    again = tokenize_corpus(tiny_codec, read_corpus(mixed), tmp_path / "stopped")
    assert (again.clips, again.skipped) == (0, 12)


def test_bad_clips_are_listed_and_the_rest_is_done(
    mixed: Path, tmp_path: Path, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (mixed / "manifest.jsonl").read_text().splitlines()[:3]
    (tmp_path / "empty.wav").write_bytes(b"")
    rows = [*map(json.loads, lines), {"audio": str(tmp_path / "empty.wav"), "id": "bad/1"}, {"audio": "gone.wav"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps({**r, "audio": str(mixed / r["audio"])}) + "\n" for r in rows))
    words = ["tokenize", str(tmp_path / "m.jsonl"), "-o", str(tmp_path / "t"), "--codec", str(tiny_codec_folder)]
    assert run(words) == 1
    assert "2 of 5 clips were rejected" in capsys.readouterr().out
    rejects = [json.loads(line) for line in (tmp_path / "t" / "rejects.jsonl").read_text().splitlines()]
    assert [(r["id"].split("/")[-1], r["kind"]) for r in rejects] == [("1", "empty"), ("gone", "missing")]
    assert "is empty" in rejects[0]["reason"]
    assert "does not exist" in rejects[1]["reason"]
    assert len(TokenDataset(tmp_path / "t")) == 3

    soundfile.write(tmp_path / "empty.wav", np.full(2400, 0.1), 24_000)  # mended: only what is missing is done
    assert run(words) == 1
    assert TokenDataset(tmp_path / "t").column("id")[-1] == "bad/1"
    assert len((tmp_path / "t" / "rejects.jsonl").read_text().splitlines()) == 1


def test_nothing_readable_is_a_mistake_and_leaves_nothing(
    tmp_path: Path, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    words = ["--codec", str(tiny_codec_folder), "-o", str(tmp_path / "t")]
    for source in ("a.wav", "gone.wav"):
        assert run(["tokenize", str(tmp_path / source), *words]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("solfa: ")
        assert "\n" not in error
    assert not (tmp_path / "t").exists()


def test_refuses_too_many_books_and_unwritable_output(mixed: Path, tmp_path: Path, tiny_codec: AudioTokenizer) -> None:
    with pytest.raises(UserError, match="books 1 to 4"):
        tokenize_corpus(tiny_codec, read_corpus(mixed), tmp_path / "t", books=5)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file is in the way"):
        tokenize_corpus(tiny_codec, read_corpus(mixed), tmp_path / "file")
    with pytest.raises(UserError, match="cannot be made"):
        tokenize_corpus(tiny_codec, read_corpus(mixed), Path("/proc/solfa"))


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 3000))
def test_length_batches_partition_and_respect_the_budget(lengths: list[int], budget: int) -> None:
    batches = length_batches(dict(enumerate(lengths)), budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def long_and_short(folder: Path, seconds: float = 9.0) -> list[Clip]:
    """Two short clips about a long one at another rate."""
    rng = np.random.default_rng(2)
    clips = []
    for name, length in (("a", 0.7), ("b", seconds), ("c", 0.9)):
        soundfile.write(
            folder / f"{name}.flac", np.clip(0.2 * rng.standard_normal(round(length * 22_050)), -1, 1), 22_050
        )
        clips.append(Clip(name, folder / f"{name}.flac"))
    return clips


def test_long_files_give_the_codes_of_one_piece(
    tmp_path: Path, tiny_codec: AudioTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = long_and_short(tmp_path)
    whole = list(engine.encode_corpus(tiny_codec, clips, 4))
    monkeypatch.setattr(engine, "LONG_SECONDS", 2.0)
    monkeypatch.setattr(engine, "PART_SECONDS", 1.3)
    monkeypatch.setattr(audio_io, "BLOCK", 10_000)
    monkeypatch.setattr(engine, "encode_batch", lengths_below(round(2.6 * 24_000)))
    pieces = list(engine.encode_corpus(tiny_codec, clips, 4))
    for one, other in zip(whole, pieces, strict=True):
        assert isinstance(one, engine.Encoded) and isinstance(other, engine.Encoded)
        assert (one.clip, one.audio) == (other.clip, other.audio)
        assert np.array_equal(one.codes, other.codes)


def lengths_below(most: int) -> Any:
    encode = engine.encode_batch

    def checked(codec: Any, waves: Any, books: int) -> Any:
        assert max(map(len, waves)) <= most
        return encode(codec, waves, books)

    return checked


def test_a_long_file_that_breaks_off_is_a_reject(
    tmp_path: Path, tiny_codec: AudioTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = long_and_short(tmp_path)
    data = bytearray(clips[1].path.read_bytes())
    data[-20_000:-10_000] = bytes(10_000)
    clips[1].path.write_bytes(data)
    monkeypatch.setattr(engine, "LONG_SECONDS", 2.0)
    monkeypatch.setattr(audio_io, "BLOCK", 10_000)
    items = list(engine.encode_corpus(tiny_codec, clips, 4))
    assert [getattr(item, "kind", "") for item in items] == ["", "corrupt", ""]
    items = list(engine.encode_corpus(tiny_codec, long_and_short(tmp_path), 4, limits=Limits(max_seconds=4.0)))
    assert [getattr(item, "kind", "") for item in items] == ["", "long", ""]


def test_a_codec_that_cannot_stream_takes_long_files_whole(
    tmp_path: Path, tiny_codec: AudioTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = long_and_short(tmp_path)
    whole = list(engine.encode_corpus(tiny_codec, clips, 4))
    monkeypatch.setattr(engine, "LONG_SECONDS", 2.0)
    monkeypatch.setattr(type(tiny_codec), "reach", None)
    for one, other in zip(whole, engine.encode_corpus(tiny_codec, clips, 4), strict=True):
        assert isinstance(one, engine.Encoded) and isinstance(other, engine.Encoded)
        assert np.array_equal(one.codes, other.codes)
    monkeypatch.setattr(engine, "WHOLE_SECONDS", 5.0)
    items = list(engine.encode_corpus(tiny_codec, clips, 4))
    assert [getattr(item, "kind", "") for item in items] == ["", "long", ""]


def test_several_devices_give_the_same_rows(mixed: Path, tmp_path: Path, tiny_codec: AudioTokenizer) -> None:
    plan = Plan(batch_seconds=1.0, shard_rows=5)
    cpu = torch.device("cpu")
    tokenize_corpus(tiny_codec, read_corpus(mixed), tmp_path / "one", plan=plan)
    tokenize_corpus(tiny_codec, read_corpus(mixed), tmp_path / "three", plan=plan, places=[cpu, cpu, cpu])
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert [d.type for d in pick_devices("cpu,cpu")] == ["cpu", "cpu"]
    with pytest.raises(UserError, match="nowhere"):
        pick_devices("cpu,nowhere")


def test_shares_divide_the_corpus(
    mixed: Path, tmp_path: Path, tiny_codec_folder: Path, tiny_codec: AudioTokenizer
) -> None:
    words = ["tokenize", str(mixed), "-o", str(tmp_path / "t"), "--codec", str(tiny_codec_folder), "--limit", "10"]
    for i in (2, 1, 3):
        assert run([*words, "--shard", f"{i}/3"]) == 0
    tokenize_corpus(tiny_codec, read_corpus(mixed), tmp_path / "whole", limit=10)
    rows = sorted(contents(tmp_path / "t"), key=lambda row: row["id"])
    assert rows == sorted(contents(tmp_path / "whole"), key=lambda row: row["id"])
    assert json.loads((tmp_path / "t" / "manifest.json").read_text())["complete"] is True
    for bad in ("0/3", "4/3", "1", "a/b"):
        assert run([*words, "--shard", bad]) == 2


def test_dry_run_tells_and_touches_nothing(
    mixed: Path, tmp_path: Path, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tokenize", str(mixed), "-o", str(tmp_path / "t"), "--codec", str(tiny_codec_folder)]
    assert run([*words, "--dry-run"]) == 0
    assert "would tokenize 12 clips" in capsys.readouterr().out
    assert not (tmp_path / "t").exists()
    assert run([*words, "--limit", "4"]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert run([*words, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "would tokenize 8 clips" in told and "4 are there already" in told
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert run([*words, "--dry-run", "--format", "npz", "--overwrite"]) == 0
    assert "would tokenize 12 clips" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    for refused in (["--format", "npz"], ["--books", "2"], ["--overwrite", "--shard", "1/2"]):
        assert run([*words, "--dry-run", *refused]) == run([*words, *refused]) == 2


def test_dedupe_knows_what_earlier_runs_wrote(tmp_path: Path, tiny_codec: AudioTokenizer) -> None:
    clips, output = tmp_path / "clips", tmp_path / "t"
    clips.mkdir()
    long_and_short(clips, 1.2)
    samples, rate = soundfile.read(clips / "a.flac", dtype="int16")
    soundfile.write(clips / "again.wav", samples, rate)  # other bytes, the same sound
    plan = Plan(dedupe=True)
    tokenize_corpus(tiny_codec, read_corpus(clips), output, plan=plan, limit=1)
    done = tokenize_corpus(tiny_codec, read_corpus(clips), output, plan=plan)
    assert [(reject.clip.id, reject.kind) for reject in done.rejects] == [("again", "duplicate")]
    assert "clip a" in done.rejects[0].reason
    assert TokenDataset(output).column("id") == ["a", "b", "c"]

    tokenize_corpus(tiny_codec, read_corpus(clips), tmp_path / "plain", limit=1)
    with pytest.raises(UserError, match="--overwrite"):
        tokenize_corpus(tiny_codec, read_corpus(clips), tmp_path / "plain", plan=plan)


def test_others_go_on_beside_a_long_file(
    tmp_path: Path, tiny_codec: AudioTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The long one's encoder stands still until more of the others are done than may wait for a codec at once."""
    rng = np.random.default_rng(3)
    for i in range(60):
        samples = 0.2 * rng.standard_normal(24_000 if i else 72_000)
        soundfile.write(tmp_path / f"{i:02}.wav", np.clip(samples, -1, 1), 24_000)
    encode_batch, encoded = engine.encode_batch, threading.Semaphore(0)

    def counted(codec: Any, waves: Any, books: int) -> Any:
        codes = encode_batch(codec, waves, books)
        encoded.release(len(waves))
        return codes

    kind = type(tiny_codec)
    encode_part = kind.encode_part

    def late(codec: AudioTokenizer, *words: Any) -> Any:
        for _ in range(50):
            assert encoded.acquire(timeout=60), "nobody goes on"
        encoded.release(50)
        return encode_part(codec, *words)

    monkeypatch.setattr(kind, "encode_part", late)
    monkeypatch.setattr(engine, "encode_batch", counted)
    monkeypatch.setattr(engine, "LONG_SECONDS", 2.0)
    monkeypatch.setattr(engine, "WINDOW_SECONDS", 4.0)
    with engine.Engine([tiny_codec, tiny_codec], 4, Plan(batch_seconds=2.0)) as both:
        items = [item for window in both.run(read_corpus(tmp_path)) for item in window.items]
    assert [item.clip.id for item in items] == [f"{i:02}" for i in range(60)]
    assert all(isinstance(item, engine.Encoded) for item in items)
    assert list(engine.encode_corpus(tiny_codec, [], 4)) == []
