"""`solfa tokenize --engine ray`: the dataset of the local engine, also when a node is lost, and when a clip kills its process."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import soundfile
from ray.cluster_utils import Cluster

from solfa import cli
from solfa.core.errors import UserError
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands import ray_engine
from solfa.tokenizers.datasets.commands.clip_results import Plan
from solfa.tokenizers.datasets.commands.ray_engine import Actors, tokenize_on_ray
from solfa.tokenizers.datasets.commands.tokenize_corpus import tokenize_corpus
from solfa.tokenizers.datasets.readers.clip import Clip, Corpus
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset

PLAN = Plan(batch_seconds=0.01, shard_rows=3)  # each clip is a batch: the same codes whatever the parts are
QUIET: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
STORE = 100 << 20
SOON_MISSED = {  # a lost node is noticed after two seconds instead of twelve
    "health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4,
}  # fmt: skip


class Clips:
    """A part of a corpus, of clips made by hand."""

    def __init__(self, clips: list[Clip]):
        self._clips = clips

    def names(self) -> Iterator[str]:
        return (clip.id for clip in self._clips)

    def clips(self) -> Iterator[Clip]:
        return iter(self._clips)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Twelve clips of noise with a manifest that says more about some of them."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for i in range(12):
        soundfile.write(folder / f"{i:02}.wav", 0.1 * rng.standard_normal(2400 + 1000 * (7 * i % 12)), 24_000)
        rows.append({"audio": f"{i:02}.wav", "text": f"clip {i}", "take": i if i < 8 else f"take {i}"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_corpus(folder / "manifest.jsonl")


@pytest.fixture(scope="module")
def local(corpus: Corpus, tiny_codec: AudioTokenizer, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the local engine makes of it."""
    output = tmp_path_factory.mktemp("local") / "t"
    tokenize_corpus(tiny_codec, corpus, output, plan=PLAN)
    return contents(output)


@pytest.fixture(scope="module")
def one_node() -> Iterator[None]:
    ray.init("local", num_cpus=1, object_store_memory=STORE, **QUIET)
    yield
    ray.shutdown()


def contents(folder: Path) -> list[dict[str, Any]]:
    return [{**row, "codes": row["codes"].tolist()} for row in TokenDataset(folder)]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_the_dataset_is_that_of_the_local_engine(
    corpus: Corpus,
    local: list[dict[str, Any]],
    one_node: None,
    tiny_codec: AudioTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_engine, "PART_CLIPS", 5)
    bad = Clip("bad", Path(__file__))
    clips = list(corpus)
    mixed = Corpus([Clips([*clips[:3], bad, *clips[3:]])])
    first = tokenize_on_ray(tiny_codec, mixed, tmp_path / "t", plan=PLAN, limit=7)
    assert (first.clips, first.skipped, [reject.clip for reject in first.rejects]) == (6, 0, [bad])
    assert contents(tmp_path / "t") == local[:6]

    rest = tokenize_on_ray(tiny_codec, mixed, tmp_path / "t", plan=PLAN)
    assert (rest.clips, rest.skipped, [reject.clip for reject in rest.rejects]) == (6, 6, [bad])
    assert contents(tmp_path / "t") == local
    manifest = json.loads((tmp_path / "t" / "manifest.json").read_text())
    assert (manifest["rows"], manifest["complete"]) == (12, True)
    assert [json.loads(line)["id"] for line in (tmp_path / "t" / "rejects.jsonl").open()] == ["bad"]

    again = tokenize_on_ray(tiny_codec, corpus, tmp_path / "t", plan=PLAN)
    assert (again.clips, again.skipped, again.rejects) == (0, 12, [])


def test_mistakes_are_sentences(
    corpus: Corpus, one_node: None, tiny_codec: AudioTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no GPU"):
        tokenize_on_ray(tiny_codec, corpus, tmp_path / "t", device="cuda")
    with pytest.raises(UserError, match="--dedupe"):
        tokenize_on_ray(tiny_codec, corpus, tmp_path / "t", plan=Plan(dedupe=True))
    monkeypatch.setattr(ray_engine, "_nearest", lambda path: [tmp_path / "on the driver alone"])
    with pytest.raises(UserError, match="node .* does not see .*on the driver alone"):
        tokenize_on_ray(tiny_codec, corpus, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_without_ray_the_extra_is_named(
    tiny_codec_folder: Path,
    speech_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delitem(sys.modules, "solfa.tokenizers.datasets.commands.ray_engine")
    monkeypatch.setitem(sys.modules, "ray", None)
    words = [
        "tokenize",
        str(speech_clip),
        "-o",
        str(tmp_path / "t"),
        "--codec",
        str(tiny_codec_folder),
        "--engine",
        "ray",
    ]
    assert cli.run(words) == 2
    assert capsys.readouterr().err == 'solfa: this command needs the module ray: run pip install ".[ray]"\n'
    assert not (tmp_path / "t").exists()


def test_an_actor_takes_no_more_cpus_than_a_gpu_has_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        {"Alive": True, "Resources": r} for r in ({"CPU": 2.0}, {"CPU": 16.0, "GPU": 8.0}, {"CPU": 64.0, "GPU": 1.0})
    ]
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 8.0}}])
    assert Actors.fitting("auto", 4) == Actors("cuda", 2, 1, 9)
    assert Actors.fitting("cpu", 4) == Actors("cpu", 1, 0, 82)
    assert Actors.fitting("auto", 4).part_clips(10**6) == 512
    assert Actors.fitting("auto", 4).part_clips(1000) == 1000 // 36


def test_a_lost_node_loses_and_doubles_nothing(
    corpus: Corpus,
    local: list[dict[str, Any]],
    tiny_codec: AudioTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two nodes hold a part each, and have written half of it, when one of them is killed."""
    monkeypatch.setattr(ray_engine, "PART_CLIPS", 6)
    gate = tmp_path / "gate"
    gate.touch()
    wait = 'while [ -e "$1" ]; do sleep 0.1; done; cat "$0"'
    clips = list(corpus)
    for i in (3, 4, 5, 9, 10, 11):
        read: Any = partial(subprocess.check_output, ["sh", "-c", wait, str(clips[i].path), str(gate)])
        clips[i] = replace(clips[i], data=read)
    output = tmp_path / "t"
    ray.shutdown()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False, "_system_config": SOON_MISSED,
        },
    )  # fmt: skip
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
        cluster.wait_for_nodes()
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        killed = threading.Event()

        def kill() -> None:
            halves = {"tokens-p000000000-00000.parquet", "tokens-p000000006-00000.parquet"}
            while {path.name for path in output.glob("data/*")} != halves:
                time.sleep(0.05)
            cluster.remove_node(second, allow_graceful=False)
            gate.unlink()
            killed.set()

        threading.Thread(target=kill, daemon=True).start()
        summary = tokenize_on_ray(tiny_codec, Corpus([Clips(clips)]), output, plan=PLAN)
        assert killed.is_set()
    finally:
        gate.unlink(missing_ok=True)
        ray.shutdown()
        cluster.shutdown()
    assert (summary.clips, summary.rejects) == (12, [])
    assert contents(output) == local
    shards = [f"data/tokens-p{first:09}-{index:05}.parquet" for first in (0, 6) for index in (0, 1)]
    assert files(output) == ["data", *shards, "manifest.json"]


def test_an_address_where_nobody_listens_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(UserError, match="127.0.0.1:9 .* does not take us"):
        with ray_engine.cluster():
            pass


@pytest.mark.slow
def test_a_clip_that_kills_its_process_costs_its_part_alone(
    corpus: Corpus,
    local: list[dict[str, Any]],
    tiny_codec: AudioTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_engine, "PART_CLIPS", 3)
    clips = list(corpus)
    clips[4] = replace(clips[4], data=partial(os._exit, 1))
    ray.shutdown()
    ray.init("local", num_cpus=1, object_store_memory=STORE, **QUIET)
    try:
        summary = tokenize_on_ray(tiny_codec, Corpus([Clips(clips)]), tmp_path / "t", plan=PLAN)
    finally:
        ray.shutdown()
    assert [reject.clip.id for reject in summary.rejects] == [clip.id for clip in clips[3:6]]
    assert "died 4 times" in summary.rejects[0].reason
    assert contents(tmp_path / "t") == local[:3] + local[6:]
    assert files(tmp_path / "t")[-2:] == ["manifest.json", "rejects.jsonl"]
