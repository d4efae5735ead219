"""`solfa reconstruct`: token shards, .sfa files, or audio taken through the codec -> audio files with the old names and durations.

Several clips are decoded at once, each by a single thread, so that the samples are the same whatever the number of workers.
What there is to decode, and what is done already, is `reconstruct_plans.py`.
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

from solfa.core.atomic import ASIDE, write_bytes
from solfa.core.errors import UserError
from solfa.core.progress import Progress
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.container.prior import load_prior
from solfa.tokenizers.audio.container.sfa import MAX_SECONDS
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.resample import RATES, Samples
from solfa.tokenizers.datasets.commands.decode_files import check_recording, decode_blocks, write_blocks
from solfa.tokenizers.datasets.commands.reconstruct_plans import (
    Job,
    Lost,
    Output,
    Plan,
    find_sfa,
    plan_audio,
    plan_sfa,
    plan_tokens,
)
from solfa.tokenizers.datasets.commands.shared_options import (
    BatchOption,
    CodecOption,
    DevicesOption,
    check_books,
    output_path,
    pace,
    pick_devices,
    replicate,
)
from solfa.tokenizers.datasets.shards.token_dataset import find_shards

WORKERS = min(16, os.cpu_count() or 1)
SHOWN = 10  # of the clips that could not be reconstructed
LEFT_OVER = 3600.0  # seconds after which a file that nobody writes to any more is what a killed run has left
SHOW_SECONDS = 0.5  # between two steps of the progress bar
FilesOption = Annotated[
    Path,
    typer.Option(
        "--output", "-o", parser=output_path, metavar="PATH", help="Folder for the .wav files, or a name for one clip."
    ),
]
SfaSecondsOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=float(MAX_SECONDS),
        help="Refuse .sfa files that claim more.",
        show_default="a day; 600 for what could only be silence",
    ),
]


class Done(NamedTuple):
    """What a run did."""

    clips: int
    seconds: float  # of audio
    lost: list[Lost]


def reconstruct(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of token shards; an .sfa file or folder of them; or audio: a folder, file, glob or manifest."
        ),
    ],
    output: FilesOption,
    books: Annotated[int | None, typer.Option(help="Decode the first N books.", show_default="all")] = None,
    sample_rate: Annotated[str, typer.Option(help="codec, source (each file's own), or a number in Hz.")] = "codec",
    codec: CodecOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write files again that exist already.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Clips decoded at once, each by one thread.")] = WORKERS,
    batch_seconds: BatchOption = None,
    device: DevicesOption = "auto",
    max_seconds: SfaSecondsOption = None,
) -> int:
    """Turn tokens or .sfa files back into audio, or take audio through the codec to hear what it keeps.

    Names, folders and durations are those of the source; the sample rate is the codec's.  With --sample-rate source each file has
    its old rate again, and exactly as many samples as it had.  A run that was stopped continues when the same command is given again:
    files made from the same input with the same settings are left alone, any other file in the way is refused without --overwrite.
    What cannot be decoded is listed, the rest is done, and the exit code is 1.
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
    settings = settings_of(model, books, sample_rate)
    outputs: list[Output] = []

    def open_output(clips: int) -> Output:
        """The output, once it is known how many clips there are."""
        outputs.append(Output(output, source, clips, settings, overwrite))
        return outputs[0]

    folder = Path(source).expanduser()
    if folder.is_dir() and find_shards(folder):
        plan = plan_tokens(model, folder, books, open_output)
    elif clips := find_sfa(source):
        plan = plan_sfa(model, clips, books, load_prior(model, codec), max_seconds, open_output)
    else:
        plan = plan_audio(model, source, output, books, batch_seconds, workers, open_output)
    began = time.monotonic()
    if output.is_dir():
        remove_leftovers(output)
    outputs[0].journal.begin()
    try:
        done = write_all(copies, plan, rate, workers, outputs[0].folder)
    finally:
        outputs[0].journal.end()
    kept = f" ({plan.skipped} were there already)" if plan.skipped else ""
    print(f"{done.clips} clips, {pace(done.seconds, time.monotonic() - began)} -> {output}{kept}")
    show_lost(done.lost, output)
    return 1 if done.lost else 0


def settings_of(model: Codec, books: int | None, sample_rate: str) -> dict[str, Any]:
    """What decides how a recording sounds, by names that stand in messages."""
    books = check_books(model, books)
    return {
        "codec": f"{model.name} ({model.fingerprint_of(books)})",
        "--books": books,
        "--sample-rate": "source" if sample_rate == "source" else parse_rate(sample_rate, model),
    }


def show_lost(lost: Sequence[Lost], output: Path) -> None:
    """Print why clips could not be reconstructed; where that is many lines, the rest goes to a file in the output folder."""
    reasons = list(dict.fromkeys(one.reason for one in lost))
    for reason in reasons[:SHOWN]:
        print(f"rejected: {reason}")
    report = output / "reconstruct-rejects.jsonl"
    if len(reasons) > SHOWN:
        write_bytes(report, "".join(json.dumps(one._asdict()) + "\n" for one in lost).encode())
        print(f"... and {len(lost) - SHOWN} more were rejected, see {report}")
    elif output.is_dir():
        report.unlink(missing_ok=True)  # of an earlier run


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
    stop, decoded = threading.Event(), Counter()
    lost: dict[int, Lost] = {}
    waiting: dict[Future[float | Lost], int] = {}
    clips, seconds = 0, 0.0
    began = time.monotonic()

    def collect(most: int) -> None:
        """Wait until at most so many are left, and show how far they are."""
        nonlocal clips, seconds
        while len(waiting) > most:
            for future in wait(waiting, SHOW_SECONDS, FIRST_COMPLETED).done:
                number, found = waiting.pop(future), future.result()
                if isinstance(found, Lost):
                    lost[number] = found
                else:
                    clips, seconds = clips + 1, seconds + found
                show(1)
            show(0)

    def show(ended: int) -> None:
        sound = decoded.take()
        speed = f"{decoded.total / max(time.monotonic() - began, 1e-9):.0f} x real time"
        bar.advance(sound if by_seconds else ended, speed)

    # A clip is no step of its own where it may take an hour.
    by_seconds = plan.seconds is not None
    total, start, unit = (plan.seconds, 0, "s of audio") if by_seconds else (plan.total, plan.skipped, "clips")
    # Sums in another order differ in their last bits, so each clip has one thread, however many clips there are at once.
    one_thread = partial(torch.set_num_threads, 1) if codecs[0].device.type == "cpu" else None
    pool = ThreadPoolExecutor(workers, "decode", one_thread)
    try:
        with Progress("reconstructing", total, unit, start=start) as bar:
            for number, item in enumerate(plan.items):
                if isinstance(item, Lost):
                    lost[number] = item
                    show(1)
                else:
                    codec = codecs[number % len(codecs)]
                    waiting[pool.submit(write, item, codec, sample_rate, aside_in, stop, decoded)] = number
                    collect(most=2 * workers)
            collect(most=0)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    reasons = [lost[number] for number in sorted(lost)]
    if reasons and len(reasons) == plan.total:
        raise UserError(reasons[0].reason if len(reasons) == 1 else f"no clip could be read; {reasons[0].reason}")
    return Done(clips, seconds, reasons)


class Counter:
    """Seconds of sound that threads have decoded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new = self.total = 0.0

    def add(self, seconds: float) -> None:
        """To be called by any thread."""
        with self._lock:
            self._new += seconds
            self.total += seconds

    def take(self) -> float:
        """Those since the last call."""
        with self._lock:
            new, self._new = self._new, 0.0
        return new


class Stopped(Exception):
    """Raised inside a worker when the run ends early, so that half a file is removed."""


def write(
    job: Job, codec: Codec, sample_rate: int | None, aside_in: Path | None, stop: threading.Event, decoded: Counter
) -> float | Lost:
    """Decode one recording into its file -> seconds of audio.  Raises: Stopped soon after `stop` is set."""

    def pause() -> None:
        if stop.is_set():
            raise Stopped

    def counted(blocks: Iterator[Samples], rate: int) -> Iterator[Samples]:
        for block in blocks:
            pause()
            decoded.add(len(block) / rate)
            yield block

    try:
        check_recording(codec, job.recording)
    except UserError as e:
        return Lost(job.id, f"{job.id}: {e}")
    rate = sample_rate or job.recording.sample_rate
    write_blocks(job.path, counted(decode_blocks(codec, job.recording, rate, pause), rate), rate, aside_in)
    return job.recording.samples / job.recording.sample_rate
