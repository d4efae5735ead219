"""Leaving early: threads stop within a second or two, memory does not grow, and what is finished is kept."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from solfa.tokenizers.audio import audio_file
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands import engine
from solfa.tokenizers.datasets.commands.clip_results import Plan
from solfa.tokenizers.datasets.commands.tokenize_corpus import tokenize_corpus
from solfa.tokenizers.datasets.readers.clip import Clip
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.datasets.shards.folder_locks import FolderLock
from solfa.tokenizers.datasets.shards.shard_formats import FORMATS
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset


def noise(path: Path, seconds: float, seed: int = 0, rate: int = 16_000) -> Path:
    samples = 0.2 * np.random.default_rng(seed).standard_normal(round(seconds * rate))
    soundfile.write(path, np.clip(samples, -1, 1), rate)
    return path


def test_an_engine_that_is_left_reads_no_further(
    tmp_path: Path, tiny_codec: AudioTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long file is being read, whose blocks never end, when the engine is left."""
    read = 0
    begun = threading.Event()

    def endless(path: Path, file: soundfile.SoundFile) -> Any:
        nonlocal read
        with file:
            while True:
                read += 1
                if read > 30:
                    begun.set()
                yield np.full(16_000, 0.1, np.float32)

    monkeypatch.setattr(audio_file, "_blocks", endless)
    monkeypatch.setattr(engine, "LONG_SECONDS", 5.0)
    monkeypatch.setattr(engine, "PART_SECONDS", 2.0)
    clip = Clip("a", noise(tmp_path / "a.wav", 1.0))
    with engine.Engine([tiny_codec], 4, Plan()) as running:
        windows = running.run([clip])

        def ask() -> None:
            with pytest.raises(engine.Stopped):
                next(windows)

        threading.Thread(target=ask, daemon=True).start()
        assert begun.wait(60)
        began = time.monotonic()
        running._stop.set()  # as the end of the `with` does first
        running._wake.set()
    assert time.monotonic() - began < 10
    count = read
    time.sleep(0.2)
    assert read == count
    assert not tiny_codec.encoder._forward_pre_hooks


def test_a_codec_stops_between_two_layers(tmp_path: Path, tiny_codec: AudioTokenizer) -> None:
    layers: list[int] = []

    def count(*_: object) -> None:
        layers.append(1)
        if len(layers) == 3:
            running._stop.set()

    hook = tiny_codec.encoder.enter.register_forward_pre_hook(lambda *_: count())
    try:
        with engine.Engine([tiny_codec], 4, Plan(workers=1)) as running:
            layers += [1, 1]
            with pytest.raises(engine.Stopped):
                list(running.run([Clip("a", noise(tmp_path / "a.wav", 1.0))]))
    finally:
        hook.remove()
    assert len(layers) == 3


def interrupted(folder: Path, output: Path, codec: AudioTokenizer, format: str, after: int, plan: Plan) -> None:
    """Ctrl-C once so many windows are finished."""

    class Interrupted(engine.Engine):
        def run(self, *words: Any) -> Any:
            for number, window in enumerate(super().run(*words)):
                if number == after:
                    raise KeyboardInterrupt
                yield window

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("solfa.tokenizers.datasets.commands.tokenize_corpus.Engine", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            tokenize_corpus(codec, read_corpus(folder), output, plan=plan, format=format)


@pytest.mark.parametrize("format", FORMATS)
def test_an_interrupt_keeps_the_open_shard_and_the_end_is_the_same(
    format: str, tmp_path: Path, tiny_codec: AudioTokenizer
) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(30):
        noise(folder / f"{i:02}.wav", 0.2 + 0.05 * (7 * i % 11), i)
    (folder / "04.wav").write_bytes(b"")
    (folder / "17.txt").write_text("a column that the first rows lack")
    plan = Plan(batch_seconds=1.0, shard_seconds=7.0)
    tokenize_corpus(tiny_codec, read_corpus(folder), tmp_path / "whole", plan=plan, format=format)
    output = tmp_path / "stopped"
    layout = FORMATS[format](output, None)  # type: ignore[arg-type]
    kept = 0
    for after in (2, 1, 1):
        interrupted(folder, output, tiny_codec, format, after, plan)
        ids = [row["id"] for path in layout.files() for row in layout.read(path, ["id"])[1]]
        assert len(ids) == len(set(ids)) > kept
        kept = len(ids)
        assert not list(output.glob(".lock*"))
    done = tokenize_corpus(tiny_codec, read_corpus(folder), output, plan=plan, format=format)
    assert (done.skipped, done.clips) == (kept, 29 - kept)
    for path in sorted((tmp_path / "whole").rglob("*")):
        same = output / path.relative_to(tmp_path / "whole")
        if path.suffix == ".parquet":
            assert pq.read_table(same, partitioning=None).equals(pq.read_table(path, partitioning=None))
            assert pq.read_schema(same).equals(pq.read_schema(path), check_metadata=True)
        elif path.is_file():
            assert same.read_bytes() == path.read_bytes(), path
    assert len(list(output.rglob("*"))) == len(list((tmp_path / "whole").rglob("*")))


def test_a_note_that_does_not_fit_is_forgotten(tmp_path: Path, tiny_codec: AudioTokenizer) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(20):
        noise(folder / f"{i:02}.wav", 0.5, i)
    plan = Plan(batch_seconds=1.0)
    interrupted(folder, tmp_path / "t", tiny_codec, "parquet", 2, plan)
    note = tmp_path / "t" / ".open-whole.json"
    for text in ("", "[]", '{"file": "tokens-00000.parquet", "rows": 999, "files": 1, "state": {}}'):
        note.write_text(text)
        kept = len(TokenDataset(tmp_path / "t"))
        assert kept >= 1
        interrupted(folder, tmp_path / "t", tiny_codec, "parquet", 1, plan)
    tokenize_corpus(tiny_codec, read_corpus(folder), tmp_path / "t", plan=plan)
    assert TokenDataset(tmp_path / "t").column("id") == [f"{i:02}" for i in range(20)]
    assert not note.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_the_command_and_keeps_clips(tmp_path: Path, tiny_codec_folder: Path) -> None:
    folder, output = tmp_path / "clips", tmp_path / "t"
    folder.mkdir()
    for i in range(40):
        noise(folder / f"{i:02}.wav", 2.0, i)
    noise(folder / "zz.flac", 4000.0)
    words = ["tokenize", str(folder), "-o", str(output), "--codec", str(tiny_codec_folder), "--batch-seconds", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "solfa", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not (output / "data").is_dir() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error.endswith("solfa: interrupted\n") and "Traceback" not in error
    assert time.monotonic() - began < 15  # a second or two where nothing else runs
    if (output / "data").is_dir():
        assert len(TokenDataset(output)) >= 1


LOCK = """
import sys, time
from pathlib import Path
from solfa.tokenizers.datasets.shards.folder_locks import FolderLock
lock = FolderLock(Path(sys.argv[1]))
assert lock.take()
print("ready", flush=True)
time.sleep(60)
"""


def test_a_lock_goes_with_its_process_and_leaks_no_descriptor(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", LOCK, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert not FolderLock(path).take()
        process.kill()
        process.wait()
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for _ in range(20):
        lock = FolderLock(path)
        assert lock.take() and path.exists()
        assert not FolderLock(path).take()
        lock.give_back()
        assert not path.exists()
        with FolderLock(path):
            pass
    assert not list(tmp_path.iterdir())
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == before
