"""`solfa tokenize --engine ray`: the local engine in actors of Ray Data, each of which writes the files of the parts it is given.

The driver cuts the corpus into parts, in order, and gets back what was done; codes never travel.  A file's name follows
from its part, so whoever takes over the part of a lost node goes on behind the files that are there.  Placing, scaling and
retrying are Ray Data's.  Corpus and output lie on storage that every node sees under the same paths.
"""

import logging
import os
import socket
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
import ray.util
import torch

from solfa.core.errors import UserError
from solfa.core.progress import Progress
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.datasets.commands.clip_results import Encoded, Plan, Reject
from solfa.tokenizers.datasets.commands.engine import Engine
from solfa.tokenizers.datasets.commands.resume_check import check_sources, settings_of
from solfa.tokenizers.datasets.commands.shared_options import check_books, header_of, nothing_done
from solfa.tokenizers.datasets.commands.tokenize_corpus import Summary
from solfa.tokenizers.datasets.readers.clip import Clip, Corpus
from solfa.tokenizers.datasets.shards.folder_locks import FolderLock
from solfa.tokenizers.datasets.shards.manifest_file import read_manifest
from solfa.tokenizers.datasets.shards.shard_formats import DATA, FORMATS, Header
from solfa.tokenizers.datasets.shards.shards import ShardWriter

PART_CLIPS, SMALL_PART = 512, 16  # at most, and at least where actors are many
PARTS_PER_ACTOR = 4  # so that all actors end at about the same time
TRIES = 4  # of a part whose process or node dies; then its clips are rejects
OBJECT_STORE = 1 << 30  # bytes, where the cluster is this machine: for the codec and the lists of clips


@dataclass(frozen=True)
class Part:
    """Of clips that stand together in the corpus, from number `first` on, those that are to be done."""

    first: int
    clips: list[Clip]

    @property
    def name(self) -> str:
        """In the names of its files, which so sort as the corpus does."""
        return f"p{self.first:09}-"


@dataclass(frozen=True)
class Done:
    """What came of a part; `error`: what would spoil every other part as well."""

    first: int
    clips: int = 0
    seconds: float = 0.0
    rejects: tuple[Reject, ...] = ()
    waited: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Job:
    """What every actor is given."""

    codec: "ray.ObjectRef[Codec]"  # on the CPU
    header: Header
    plan: Plan
    output: Path
    format: str
    device: str
    cwd: Path  # what relative paths start from
    landmarks: tuple[Path, ...]  # exist on every node that sees corpus and output


@dataclass(frozen=True)
class Actors:
    """What an actor takes, and how many such fit on the cluster as it is now."""

    device: str
    cpus: int
    gpus: int
    count: int

    @staticmethod
    def fitting(device: str, workers: int) -> "Actors":
        """Raises: UserError for a device that the cluster lacks."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1]
        if with_gpu and device != "cpu":
            cpus = max(1, min(workers, *(int(node.get("CPU", 0) // node["GPU"]) for node in with_gpu)))
            return Actors("cuda", cpus, 1, sum(int(node["GPU"]) for node in with_gpu))
        if device not in ("auto", "cpu"):
            raise UserError(f"the Ray cluster has no GPU for --device {device}; use auto or cpu")
        return Actors("cpu", 1, 0, max(1, sum(int(node.get("CPU", 0)) for node in nodes)))

    def part_clips(self, total: int) -> int:
        """Clips in a part."""
        return min(PART_CLIPS, max(SMALL_PART, total // (PARTS_PER_ACTOR * self.count)))


class Tokenizer:
    """An actor: holds the codec, and does one part after another."""

    def __init__(self, job: Job):
        self.job = job
        self.codec: Codec = ray.get(job.codec).to(job.device)
        self.files = FORMATS[job.format](job.output, job.header)
        torch.set_num_threads(job.plan.workers)

    def __call__(self, batch: pa.Table) -> pa.Table:
        part: Part = unpack(batch["part"][0].as_py())
        try:
            self._check_storage()
            done = self._take(part)
        except UserError as e:
            done = Done(part.first, error=str(e))
        return pa.table({"done": [pack(done)]})

    def _check_storage(self) -> None:
        if self.job.cwd.exists():
            os.chdir(self.job.cwd)
        unseen = next((path for path in self.job.landmarks if not path.exists()), None)
        if unseen is not None:
            node = ray.util.get_node_ip_address()
            raise UserError(
                f"node {node} does not see {unseen}: corpus and output must lie on storage that all nodes share"
            )

    def _take(self, part: Part) -> Done:
        """Do a part, unless that has killed too many processes already."""
        name = part.name.rstrip("-")
        with FolderLock(self.job.output / f".lock-{name}"):  # a node given up by Ray may still be at it
            counter = self.job.output / f".tries-{name}"  # a byte for each; those who die leave it
            tries = counter.stat().st_size if counter.exists() else 0
            if tries >= TRIES:
                reason = f"the process died {tries} times on the {len(part.clips)} clips among which this is"
                done = Done(part.first, rejects=tuple(Reject(clip, reason) for clip in part.clips))
            else:
                counter.write_bytes(bytes(tries + 1))
                done = self._tokenize(part)
            counter.unlink(missing_ok=True)
            return done

    def _tokenize(self, part: Part) -> Done:
        """Write what no earlier try has written."""
        there = sorted((self.job.output / DATA).glob(f"tokens-{part.name}*"))
        found = {row["id"]: row["duration"] for path in there for row in self.files.read(path, ["id", "duration"])[1]}
        durations = {clip.id: found[clip.id] for clip in part.clips if clip.id in found}
        rows: list[dict[str, Any]] = []
        rejects: list[Reject] = []
        with Engine([self.codec], self.job.header.books, self.job.plan) as engine:
            for window in engine.run(clip for clip in part.clips if clip.id not in found):
                rows += [item.row() for item in window.items if isinstance(item, Encoded)]
                rejects += [item for item in window.items if isinstance(item, Reject)]
                durations.update((item.clip.id, item.seconds) for item in window.items if isinstance(item, Encoded))
                if window.ends_shard:
                    self.files.write(rows, part.name)
                    rows = []
        if rows:
            self.files.write(rows, part.name)
        return Done(part.first, len(durations), sum(durations.values()), tuple(rejects), engine.waited)


def tokenize_on_ray(
    codec: Codec,
    corpus: Corpus,
    output: Path,
    books: int | None = None,
    plan: Plan = Plan(),  # noqa: B008
    limit: int | None = None,
    overwrite: bool = False,
    format: str = "parquet",
    device: str = "auto",
    source: str = "",
) -> Summary:
    """`tokenize_corpus` on the Ray cluster that is connected, or that RAY_ADDRESS names; else on this machine.

    `plan.workers`: the CPUs of an actor with a GPU; the others have one.  `device`: "auto" takes GPUs where the cluster has any.
    Raises: UserError as `tokenize_corpus`, and when a node does not see the corpus or the output.
    """
    if plan.dedupe:
        raise UserError("--dedupe compares all clips with each other, which --engine ray cannot: use the local engine")
    books = check_books(codec, books)
    header = header_of(codec, books)
    output = output.absolute()
    total = len(corpus) if limit is None else min(limit, len(corpus))
    for path in output.glob(".lock-p*"):  # of a run that was killed; its actors may take a moment to follow it
        with FolderLock(path):
            pass  # whose file goes with it
    for path in output.glob(".tries-p*"):
        path.unlink(missing_ok=True)
    done: list[Done] = []
    clips, seconds = 0, 0.0
    plan = replace(plan, stamp=True)
    with ShardWriter(output, header, overwrite, format=format, settings=settings_of(plan), corpus=source) as writer:
        check_sources(writer.format, output, corpus, read_manifest(output), source)
        skipped = sum(clip.id in writer.done for clip in islice(corpus, total)) if writer.done else 0
        before = writer.rows
        if skipped < total:
            writer.claim_folder()
            began = time.monotonic()
            with cluster(), Progress("tokenizing", total, "clips", start=skipped) as bar:
                actors = Actors.fitting(device, plan.workers)
                parts = list(cut(islice(corpus, total), writer.done, actors.part_clips(total)))
                landmarks = (output / DATA, *_nearest(unpack(parts[0]).clips[0].path))
                plan = replace(plan, workers=actors.cpus)
                job = Job(ray.put(codec.cpu()), header, plan, output, format, actors.device, Path.cwd(), landmarks)
                for one in run(job, actors, parts):
                    if one.error:
                        raise UserError(one.error)
                    done.append(one)
                    clips, seconds = clips + one.clips, seconds + one.seconds
                    speed = f"{seconds / max(time.monotonic() - began, 1e-9):.0f} x real time"
                    bar.advance(one.clips + len(one.rejects), f"{seconds / 3600:.2f} h of audio, {speed}")
        done.sort(key=lambda one: one.first)
        rejects = [reject for one in done for reject in one.rejects]
        if before + clips == 0 and rejects:
            raise nothing_done(rejects)
        for reject in rejects:
            writer.reject(reject.clip.id, str(reject.clip.path), reject.reason, reject.kind)
        writer.write_manifest(complete=True)
        if (lost := before + clips - writer.rows) > 0:
            raise UserError(
                f"{lost} rows that nodes wrote are not in {output}: it must be the same folder on all nodes"
            )
    waited = sum(one.waited for one in done) / max(1, len(done))
    return Summary(clips, seconds, skipped, rejects, waited)


def cut(clips: Iterable[Clip], done: set[str], size: int) -> Iterator[bytes]:
    """-> parts, packed, of `size` clips less those that are done."""
    numbered = enumerate(clips)
    while some := list(islice(numbered, size)):
        todo = [clip for _, clip in some if clip.id not in done]
        if todo:
            yield pack(Part(some[0][0], todo))


def run(job: Job, actors: Actors, parts: list[bytes]) -> Iterator[Done]:
    """What came of the packed parts, in any order."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a part of long recordings takes hours
    context.max_consecutive_actor_init_deaths = 3
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # with one part an actor it is never more
    pool = ray.data.ActorPoolStrategy(
        min_size=1, max_size=len(parts), initial_size=min(actors.count, len(parts)), max_tasks_in_flight_per_actor=1
    )
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts)).map_batches(
            Tokenizer, fn_constructor_args=[job], compute=pool, num_cpus=actors.cpus, num_gpus=actors.gpus,
            batch_size=1, batch_format="pyarrow",
        )  # fmt: skip
        for row in dataset.iter_rows():
            yield unpack(row["done"])


@contextmanager
def cluster() -> Iterator[None]:
    """Connected to Ray, quietly, and afterwards as before.  Raises: UserError when RAY_ADDRESS names no cluster that takes us."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            _check_address(address)
            ray.init(address, **quiet)
        except (
            OSError,
            RuntimeError,
            ray.exceptions.RayError,
        ) as e:  # nobody there; other versions of Ray or Python; no token
            raise UserError(
                f"the Ray cluster at {address} (RAY_ADDRESS) does not take us: {' '.join(str(e).split())}"
            ) from None
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Ray itself tries for minutes.  Raises: OSError when nobody listens at host:port."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def pack(value: Part | Done) -> bytes:
    """As Ray moves everything between its own processes, no file; small, as the clips of a part have much in common."""
    return zlib.compress(ray.cloudpickle.dumps(value))


def unpack(data: bytes) -> Any:
    """What `pack` was given."""
    return ray.cloudpickle.loads(zlib.decompress(data))


def _nearest(path: Path) -> Iterator[Path]:
    """The file itself, or what a name inside an archive lies in."""
    yield from islice((place for place in (path, *path.parents) if place.exists()), 1)
