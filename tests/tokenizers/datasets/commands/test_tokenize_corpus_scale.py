"""`solfa tokenize` with the bundled codec on 10,000 short clips and a three-hour file: memory, waiting, speed.  By hand:

python -m pytest tests/tokenizers/test_tokenizing_scale.py -m slow -s
"""

import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from solfa.tokenizers.audio.audio_file import read_audio
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.resample import Samples
from solfa.tokenizers.datasets.commands.clip_results import Plan
from solfa.tokenizers.datasets.commands.engine import CPU_BATCH_SECONDS, Engine, encode_batch, length_batches
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="peak memory in KiB")]

CLIPS, HOURS, CORES = 10_000, 3.0, 2
GIB = 1 << 30


def noises(seconds: float, rate: int, seed: int) -> Samples:
    """(n,) bursts of coloured noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(round(seconds * rate)).astype(np.float32)
    return np.float32(0.2) * np.convolve(x, [0.4, 0.3, 0.2, 0.1], "same").astype(np.float32)


def write_clips(folder: Path, count: int, least: float, most: float) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for i in range(count):
        rate = (16_000, 24_000, 44_100)[i % 3]
        wav = noises(rng.uniform(least, most), rate, i)
        soundfile.write(folder / f"{i:05}.{('wav', 'flac', 'mp3')[i // 3 % 3]}", wav, rate)


def tokenize(clips: Path, output: Path, *options: str) -> tuple[int, str]:
    """The command line -> its peak memory in bytes, and what it printed."""
    words = [sys.executable, "-m", "solfa", "tokenize", str(clips), "-o", str(output), *options]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": str(CORES)}
    )
    assert process.stdout
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, told
    return usage.ru_maxrss << 10, told


def test_memory_is_bounded_and_the_model_does_not_wait(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    write_clips(clips / "short", CLIPS, 0.3, 1.2)
    rate = 16_000
    with soundfile.SoundFile(clips / "long.flac", "w", rate, 1) as file:
        for minute in range(round(HOURS * 60)):
            file.write(noises(60, rate, minute))
    model, _ = tokenize(clips / "short" / "00000.wav", tmp_path / "one", "--workers", str(CORES))
    memory, told = tokenize(clips, tmp_path / "tokens", "--workers", str(CORES))
    print(f"\n{(memory - model) / GIB:.2f} GiB beyond the {model / GIB:.2f} of one short clip; {told}")
    rows = TokenDataset(tmp_path / "tokens")
    assert len(rows) == CLIPS + 1
    assert rows.frames().max() == HOURS * 3600 * 25
    assert memory - model < 2 * GIB
    waited = re.search(r"waited (\d+) %", told)
    assert waited and int(waited[1]) < 15


@pytest.mark.parametrize("books", [8, 64])
def test_throughput_is_near_the_bare_encoder(tmp_path: Path, books: int) -> None:
    """Laps in turn: files through the engine, and the same clips from memory through the same number of encoders."""
    write_clips(tmp_path / "clips", 120, 1.0, 12.0)
    corpus = read_corpus(tmp_path / "clips")
    codec = AudioTokenizer.from_pretrained()
    threads = torch.get_num_threads()
    torch.set_num_threads(CORES)
    waves = [read_audio(clip.path, codec.sample_rate).samples for clip in corpus]
    laps: dict[str, list[tuple[float, float]]] = {"bare": [], "engine": []}
    try:
        for lap in range(4):
            for name, times in laps.items():
                began, cpu = time.monotonic(), cpu_seconds()
                with Engine([codec], books, Plan(workers=CORES)) as engine:
                    if name == "bare":
                        batches = length_batches(
                            dict(enumerate(map(len, waves))), round(CPU_BATCH_SECONDS * codec.sample_rate)
                        )
                        todo = [[waves[i] for i in batch] for batch in reversed(batches)]
                        assert sum(
                            map(len, engine._encoders.map(lambda some: encode_batch(codec, some, books), todo))
                        ) == len(waves)
                    else:
                        assert sum(len(window.items) for window in engine.run(corpus)) == len(waves)
                if lap:  # the first warms up
                    times.append((time.monotonic() - began, cpu_seconds() - cpu))
    finally:
        torch.set_num_threads(threads)
    wall, cpu_ratio = (
        sum(bare) / sum(own)
        for bare, own in zip(zip(*laps["bare"], strict=True), zip(*laps["engine"], strict=True), strict=True)
    )
    seconds = sum(map(len, waves)) / codec.sample_rate
    speeds = ", ".join(f"{name} {[round(seconds / w, 1) for w, _ in times]}" for name, times in laps.items())
    print(
        f"\n{books} books: {wall:.2f} of the bare encoder by the clock, {cpu_ratio:.2f} by CPU time; x real time: {speeds}; waited {engine.waited:.2f}"
    )
    assert max(wall, cpu_ratio) > 0.8


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
