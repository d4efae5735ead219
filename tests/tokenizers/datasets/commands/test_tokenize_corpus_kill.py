"""A run of `solfa tokenize` that is killed again and again ends with what an undisturbed one writes, row for row."""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands.clip_results import Limits, Plan
from solfa.tokenizers.datasets.commands.shared_options import header_of
from solfa.tokenizers.datasets.commands.tokenize_corpus import tokenize_corpus
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.datasets.shards.shard_formats import FORMATS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and kills")

CLIPS, KILLS = 150, 20
PLAN = Plan(1.0, 2, shard_seconds=0.7, shard_rows=4, limits=Limits(min_seconds=0.01, min_peak=1e-4), dedupe=True)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny clips, among them all that can be wrong with one."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for i in range(CLIPS):
        rate = (8_000, 16_000, 24_000, 44_100)[i % 4]
        path = folder / f"{i % 7}" / f"{i:03}.{('wav', 'flac')[i % 2]}"
        path.parent.mkdir(exist_ok=True)
        wav = np.clip(0.3 * rng.standard_normal((round(rng.uniform(0.05, 0.3) * rate), 1 + i % 2)), -1, 1)
        soundfile.write(path, wav, rate)
        if i % 10 == 3:
            damage = (b"", path.read_bytes()[:50], b"no sound at all")[i // 10 % 3]
            path.write_bytes(damage)
        elif i % 10 == 5:
            path.unlink()
            bad = (np.full(100, np.nan), np.zeros(2000), np.ones(10))[i // 10 % 3]
            soundfile.write(path.with_suffix(".wav"), bad.astype(np.float32), rate, subtype="FLOAT")
        elif i % 10 == 7:
            same = sorted(p for p in folder.rglob(f"{i - 6:03}.*"))[0]
            path.with_suffix(same.suffix).write_bytes(same.read_bytes())
            if path.suffix != same.suffix:
                path.unlink()
    return folder


def shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("data/**/*") if path.is_file())


def contents(path: Path) -> pa.Table | bytes:
    return pq.read_table(path) if path.suffix == ".parquet" else path.read_bytes()


def job(codec: AudioTokenizer, clips: Path, output: Path, format: str) -> None:
    tokenize_corpus(codec, read_corpus(clips), output, plan=PLAN, format=format)


@pytest.mark.parametrize(
    "format", ["parquet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("webdataset", "npz"))]
)
def test_killed_at_random_moments_it_ends_as_one_left_alone(
    clips: Path, tmp_path: Path, tiny_codec: AudioTokenizer, format: str
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    fork = multiprocessing.get_context("fork")  # so torch is imported once
    reader = FORMATS[format](killed, header_of(tiny_codec, tiny_codec.books))

    def start(output: Path) -> Any:
        process = fork.Process(target=job, args=(tiny_codec, clips, output, format))
        process.start()
        return process

    began = time.monotonic()
    start(whole).join()
    alone = time.monotonic() - began
    expected = FORMATS[format](whole, reader.header)
    rows = [row["id"] for path in expected.files() for row in expected.read(path, ["id"])[1]]
    rejects = (whole / "rejects.jsonl").read_text().splitlines()
    ids = {*rows, *(json.loads(line)["id"] for line in rejects)}
    assert len(rows) + len(rejects) == len(ids) == CLIPS
    assert len(rows) > 100 and len(rejects) > 30

    rng = np.random.default_rng(1)
    kills = 0
    while kills < KILLS:  # a run that slips through is followed by another
        shutil.rmtree(killed, ignore_errors=True)
        process = start(killed)
        while kills < KILLS:
            if rng.random() < 0.4:  # soon after another shard, so that there is progress
                goal = len(shards(killed)) + 1
                while len(shards(killed)) < goal and process.is_alive():
                    time.sleep(0.002)
            process.join(rng.uniform(0, alone / 20))
            if process.exitcode is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
            for path in reader.files():
                reader.read(path, ["id"])  # all of it is there
            process = start(killed)
        process.join()
        assert process.exitcode == 0
        assert list(map(contents, shards(killed))) == list(map(contents, shards(whole)))
        assert (killed / "rejects.jsonl").read_text().splitlines() == rejects
        assert [path.name for path in sorted(killed.rglob("*"))] == [path.name for path in sorted(whole.rglob("*"))]
