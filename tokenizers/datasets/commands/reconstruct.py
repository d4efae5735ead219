"""`solfa reconstruct`: token shards, .sfa files, or audio taken through the codec -> audio files with the old names and durations.

Several clips are decoded at once, each by a single thread, so that the samples are the same whatever the number of workers.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from solfa.core.atomic import ASIDE, write_bytes
from solfa.core.errors import UserError
from solfa.core.progress import Progress
from solfa.tokenizers.audio.audio_file import AUDIO_SUFFIXES, check_writable
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.container.prior import LearnedPrior, load_prior
from solfa.tokenizers.audio.container.sfa import SUFFIX, Recording, read_sfa
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.resample import RATES, Samples
from solfa.tokenizers.datasets.commands.decode_files import check_recording, decode_blocks, write_blocks
from solfa.tokenizers.datasets.commands.tokenize_corpus import (
    BatchOption,
    CodecOption,
    Reject,
    check_books,
    encode_corpus,
    pace,
    pick_devices,
    replicate,
)
from solfa.tokenizers.datasets.readers.corpus import Clip, read_corpus, safe_id
from solfa.tokenizers.datasets.shards.shard_by_shard import Damaged, shard_by_shard
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset, find_shards

WORKERS = min(16, os.cpu_count() or 1)
SHOWN = 10  # of the clips that could not be reconstructed
LEFT_OVER = 3600.0  # seconds after which a file that nobody writes to any more is what a killed run has left


class Job(NamedTuple):
    """A recording to decode, and the file that it goes to."""

    id: str
    path: Path
    recording: Recording


class Lost(NamedTuple):
    """A clip (or a whole shard) that cannot be reconstructed, and the reason in one sentence."""

    id: str
    reason: str


class Plan(NamedTuple):
    """total: how many there are in the source; skipped: those whose output exists; items: the rest, as they come."""

    total: int
    skipped: int
    items: Iterator[Job | Lost]


class Done(NamedTuple):
    """What a run did."""

    clips: int
    seconds: float  # of audio
    lost: list[Lost]


def plan_tokens(codec: Codec, source: Path, output: Path, books: int | None, overwrite: bool) -> Plan:
    """The rows of token shards; one that is damaged is lost, the others are not.

    Raises: UserError for another codec's tokens, or when no shard can be read.
    """
    fingerprint = codec.fingerprint_of(books or codec.books)
    parts = list(shard_by_shard(source, fingerprint, books))
    total = sum(1 if isinstance(part, Damaged) else len(part) for part in parts)
    target = _targets(output, str(source), total)
    lost: list[Lost] = []
    todo: list[tuple[Path, NDArray[np.int32]]] = []  # rows by shard
    skipped = 0
    for part in parts:
        if isinstance(part, Damaged):
            lost.append(Lost(part.shard.name, part.reason))
            continue
        try:
            there = [not overwrite and target(name).exists() for name in part.column("id")]
        except UserError as e:
            lost += [Lost(part.shards[0].name, str(e))] * len(part)
            continue
        todo.append((part.shards[0], np.flatnonzero(~np.array(there, bool)).astype(np.int32)))
        skipped += sum(there)

    def items() -> Iterator[Job | Lost]:
        yield from lost
        for shard, rows in todo:
            tokens = TokenDataset(source, fingerprint, books, cache_bytes=0, shards=[shard])
            for i in rows.tolist():
                try:
                    row = tokens[i]
                except UserError as e:
                    yield Lost(f"row {i} of {shard.name}", str(e))
                else:
                    recording = Recording(row["codes"], row["samples"], row["sample_rate"])
                    yield Job(row["id"], target(row["id"]), recording)

    return Plan(total, skipped, items())


def plan_sfa(
    codec: Codec,
    clips: list[Clip],
    source: str,
    output: Path,
    books: int | None,
    overwrite: bool,
    learned: LearnedPrior | None,
) -> Plan:
    """The recordings in .sfa files."""
    target = _targets(output, source, len(clips))
    todo = [clip for clip in clips if overwrite or not target(clip.id).exists()]

    def items() -> Iterator[Job | Lost]:
        for clip in todo:
            try:
                recording = read_sfa(clip.path, codec, learned)
                if books is not None and books > len(recording.codes):
                    raise UserError(
                        f"{clip.path} holds {len(recording.codes)} books, so {books} cannot be read from it"
                    )
            except UserError as e:
                yield Lost(clip.id, str(e))
            else:
                yield Job(clip.id, target(clip.id), recording._replace(codes=recording.codes[:books]))

    return Plan(len(clips), len(clips) - len(todo), items())


def find_sfa(source: str) -> list[Clip]:
    """The .sfa file that `source` names, or all those below a folder; ids are paths below it, without the suffix."""
    path = Path(source).expanduser()
    root, found = (path, path.rglob(f"*{SUFFIX}")) if path.is_dir() else (path.parent, [path])
    files = sorted(p for p in found if p.suffix.lower() == SUFFIX and p.is_file() and not p.name.startswith("."))
    return [Clip(safe_id(p.relative_to(root).with_suffix("").as_posix()), p) for p in files]


def plan_audio(
    codec: Codec,
    source: str,
    output: Path,
    books: int | None,
    overwrite: bool,
    batch_seconds: float | None,
    workers: int,
) -> Plan:
    """The clips of a corpus, tokenized in memory."""
    if Path(source).is_dir() and output.resolve() == Path(source).resolve():
        raise UserError(f"{output} is the source itself: give another output folder")
    corpus = read_corpus(source, exclude=output)
    target = _targets(output, source, len(corpus))
    todo = [clip for clip in corpus if overwrite or not target(clip.id).exists()]
    for clip in todo:
        if clip.data is None and target(clip.id).exists() and target(clip.id).samefile(clip.path):
            raise UserError(f"{target(clip.id)} would replace its own original: give another output folder")

    def items() -> Iterator[Job | Lost]:
        for item in encode_corpus(codec, todo, check_books(codec, books), batch_seconds, workers):
            if isinstance(item, Reject):
                yield Lost(item.clip.id, item.reason)
            else:
                codes = torch.from_numpy(item.codes)
                recording = Recording(codes, item.audio.source_samples, item.audio.source_rate)
                yield Job(item.clip.id, target(item.clip.id), recording)

    return Plan(len(corpus), len(corpus) - len(todo), items())


def reconstruct(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of token shards; an .sfa file or folder of them; or audio: a folder, file, glob or manifest."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the .wav files, or a name for one clip.")],
    books: Annotated[int | None, typer.Option(help="Decode the first N books.", show_default="all")] = None,
    sample_rate: Annotated[str, typer.Option(help="codec, source (each file's own), or a number in Hz.")] = "codec",
    codec: CodecOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write files again that exist already.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Clips decoded at once, each by one thread.")] = WORKERS,
    batch_seconds: BatchOption = None,
    device: Annotated[
        str, typer.Option(help="auto (all CUDA devices, else the CPU), cpu, cuda, or cuda:0,cuda:1.")
    ] = "auto",
) -> int:
    """Turn tokens or .sfa files back into audio, or take audio through the codec to hear what it keeps.

    Names, folders and durations are those of the source; the sample rate is the codec's.  With --sample-rate source each file has
    its old rate again, and exactly as many samples as it had.  Files that exist are left alone, so a run that was stopped
    continues when the same command is given again.  What cannot be decoded is listed, the rest is done, and the exit code is 1.
    In a folder that holds .sfa files, those are the source, and audio beside them is not.

    Examples:

        solfa reconstruct tokens/ -o back/
        solfa reconstruct tokens/ -o back/ --sample-rate source --workers 8
        solfa reconstruct interview.sfa -o interview.wav
        solfa reconstruct tokens/ -o back-1kbps/ --books 4
        solfa reconstruct recordings/ -o through-the-codec/
        solfa reconstruct song.mp3 -o song-8-books.wav --books 8
    """
    copies = replicate(AudioTokenizer.from_pretrained(codec), pick_devices(device))
    model = copies[0]
    check_books(model, books)
    rate = parse_rate(sample_rate, model)
    folder = Path(source).expanduser()
    if folder.is_dir() and find_shards(folder):
        plan = plan_tokens(model, folder, output, books, overwrite)
    elif clips := find_sfa(source):
        plan = plan_sfa(model, clips, source, output, books, overwrite, load_prior(model, codec))
    else:
        plan = plan_audio(model, source, output, books, overwrite, batch_seconds, workers)
    began = time.monotonic()
    if output.is_dir():
        remove_leftovers(output)
    done = write_all(copies, plan, rate, workers, None if _is_file(output) else output)
    kept = f" ({plan.skipped} were there already)" if plan.skipped else ""
    print(f"{done.clips} clips, {pace(done.seconds, time.monotonic() - began)} -> {output}{kept}")
    reasons = list(dict.fromkeys(lost.reason for lost in done.lost))
    for reason in reasons[:SHOWN]:
        print(f"rejected: {reason}")
    report = output / "reconstruct-rejects.jsonl"
    if len(reasons) > SHOWN:
        write_bytes(report, "".join(json.dumps(lost._asdict()) + "\n" for lost in done.lost).encode())
        print(f"... and {len(done.lost) - SHOWN} more were rejected, see {report}")
    elif output.is_dir():
        report.unlink(missing_ok=True)  # of an earlier run
    return 1 if done.lost else 0


def parse_rate(word: str, codec: Codec) -> int | None:
    """-> Hz, or None for each source's own."""
    if word in ("codec", "source"):
        return codec.sample_rate if word == "codec" else None
    if not word.isdecimal() or int(word) not in RATES:
        raise UserError(f"--sample-rate should be codec, source, or {RATES.start} to {RATES.stop - 1} Hz, not {word!r}")
    return int(word)


def remove_leftovers(folder: Path) -> None:
    """What runs that were killed have left half-written."""
    for path in folder.glob(f"{ASIDE}*"):
        with suppress(FileNotFoundError):  # another run has just finished it, or removed it as well
            if time.time() - path.stat().st_mtime > LEFT_OVER:
                path.unlink()


def write_all(
    codecs: Sequence[Codec], plan: Plan, sample_rate: int | None, workers: int, aside_in: Path | None = None
) -> Done:
    """Decode and write all items, `workers` at once, by turns on each of `codecs`, which are copies of one.

    sample_rate: in Hz, None for each source's own.  aside_in: where files grow until they are whole, by default each beside its place.
    Raises: UserError when the output cannot be written, or when there was something to do and nothing of it could be done.
    """
    stop = threading.Event()

    def write(job: Job, codec: Codec) -> float | Lost:
        """-> seconds of audio."""
        try:
            check_recording(codec, job.recording)
        except UserError as e:
            return Lost(job.id, f"{job.id}: {e}")
        rate = sample_rate or job.recording.sample_rate
        write_blocks(job.path, until(stop, decode_blocks(codec, job.recording, rate)), rate, aside_in)
        return job.recording.samples / job.recording.sample_rate

    lost: dict[int, Lost] = {}
    waiting: dict[Future[float | Lost], int] = {}
    clips, seconds = 0, 0.0
    began = time.monotonic()

    def collect(all_of_them: bool) -> None:
        nonlocal clips, seconds
        while len(waiting) > (0 if all_of_them else 2 * workers):
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                number, found = waiting.pop(future), future.result()
                if isinstance(found, Lost):
                    lost[number] = found
                else:
                    clips, seconds = clips + 1, seconds + found
                bar.advance(note=f"{seconds / max(time.monotonic() - began, 1e-9):.0f} x real time")

    # Sums in another order differ in their last bits, so each clip has one thread, however many clips there are at once.
    one_thread = partial(torch.set_num_threads, 1) if codecs[0].device.type == "cpu" else None
    pool = ThreadPoolExecutor(workers, "decode", one_thread)
    try:
        with Progress("reconstructing", plan.total, "clips", start=plan.skipped) as bar:
            for number, item in enumerate(plan.items):
                if isinstance(item, Lost):
                    lost[number] = item
                    bar.advance()
                else:
                    waiting[pool.submit(write, item, codecs[number % len(codecs)])] = number
                    collect(all_of_them=False)
            collect(all_of_them=True)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    reasons = [lost[number] for number in sorted(lost)]
    if reasons and len(reasons) == plan.total:
        raise UserError(reasons[0].reason if len(reasons) == 1 else f"no clip could be read; {reasons[0].reason}")
    return Done(clips, seconds, reasons)


class Stopped(Exception):
    """Raised inside a worker when the run ends early, so that half a file is removed."""


def until(stop: threading.Event, blocks: Iterator[Samples]) -> Iterator[Samples]:
    for block in blocks:
        if stop.is_set():
            raise Stopped
        yield block


def _targets(output: Path, source: str, clips: int) -> Callable[[str], Path]:
    """Where a clip goes, by its id.  An `output` that is named as an audio file takes a single clip."""
    if not _is_file(output):
        return lambda clip_id: _target(output, clip_id)
    if clips != 1:
        raise UserError(f"{source} holds {clips} clips, so the output should be a folder, not {output}")
    check_writable(output)
    return lambda _: output


def _is_file(output: Path) -> bool:
    return output.suffix.lower() in AUDIO_SUFFIXES and not output.is_dir()


def _target(output: Path, clip_id: str) -> Path:
    return output / f"{safe_id(clip_id)}.wav"
