"""`solfa tokenize`: codes as the codec gives them clip by clip, in order, continued after a kill, rejects listed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from solfa.cli import run
from solfa.errors import UserError
from solfa.tokenizers import tokenizing
from solfa.tokenizers.audio.model import AudioTokenizer
from solfa.tokenizers.audio_io import read_audio
from solfa.tokenizers.corpus import read_corpus
from solfa.tokenizers.shards import TokenDataset
from solfa.tokenizers.tokenizing import length_batches, tokenize_corpus


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
        wav = 0.3 * rng.standard_normal((round((0.05 + 0.21 * (i * 5 % 7)) * rate) + i, 1 + i % 2))
        soundfile.write(folder / name, np.clip(wav, -1, 1), rate)
        rows.append(
            {"audio": name, "speaker": f"s{i % 3}", "text": f"clip {i}", "durations": [i, i + 1], "label": None}
        )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def contents(folder: Path) -> list[dict[str, Any]]:
    return [{**row, "codes": row["codes"].tolist()} for row in TokenDataset(folder)]


def test_codes_are_those_of_each_clip_alone(mixed: Path, tmp_path: Path, tiny_codec: AudioTokenizer) -> None:
    summary = tokenize_corpus(tiny_codec, read_corpus(mixed), tmp_path / "t", batch_seconds=2.0)
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
    monkeypatch.setattr(tokenizing, "SHARD_ROWS", 2)
    tokenize_corpus(tiny_codec, read_corpus(mixed), tmp_path / "whole", batch_seconds=1.0)

    calls = 0
    encode = tokenizing._encode

    def stop_after_three(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(tokenizing, "_encode", stop_after_three)
    stops = 0
    for _ in range(20):
        try:
            tokenize_corpus(tiny_codec, read_corpus(mixed), tmp_path / "stopped", batch_seconds=1.0)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 2
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    names = [path.name for path in sorted((tmp_path / "whole").iterdir())]
    assert [path.name for path in sorted((tmp_path / "stopped").iterdir())] == names
    again = tokenize_corpus(tiny_codec, read_corpus(mixed), tmp_path / "stopped")
    assert (again.clips, again.skipped) == (0, 12)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_process_loses_and_doubles_nothing(mixed: Path, tmp_path: Path, tiny_codec_folder: Path) -> None:
    script = (
        "import sys, solfa.tokenizers.tokenizing as t, time\n"
        "t.SHARD_ROWS = 1\n"
        "encode = t._encode\n"
        "t._encode = lambda *a: (time.sleep(0.05), encode(*a))[1]\n"
        "from solfa.cli import main; main(sys.argv[1:])"
    )
    words = ["tokenize", str(mixed), "-o", str(tmp_path / "t"), "--codec", str(tiny_codec_folder)]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 300  # importing torch on a busy machine
    while (
        len(list((tmp_path / "t").glob("tokens-*.parquet"))) < 2
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= len(TokenDataset(tmp_path / "t")) <= 12
    assert run(words) == 0
    assert TokenDataset(tmp_path / "t").column("id") == [clip.id for clip in read_corpus(mixed)]


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
    assert [r["id"].split("/")[-1] for r in rejects] == ["1", "gone"]
    assert "is empty" in rejects[0]["reason"]
    assert "does not exist" in rejects[1]["reason"]
    assert len(TokenDataset(tmp_path / "t")) == 3

    soundfile.write(tmp_path / "empty.wav", np.zeros(2400), 24_000)  # mended: only what is missing is done
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
