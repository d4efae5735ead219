"""`solfa bench codec`: speed and memory of our codec beside those of Mimi, EnCodec and DAC at their published sizes.

Theirs have random weights, which are as fast as trained ones.  Each codec runs in two processes of its own: one measures its
memory, and one its speed, in turns with the others', so that other load on the machine affects all of them alike.
"""

import ctypes
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, fields
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from solfa.core.atomic import write_bytes
from solfa.core.device import pick
from solfa.core.errors import UserError
from solfa.core.output import check_output
from solfa.core.progress import track
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.third_party.transformers_codecs import untrained
from solfa.tokenizers.evaluation.evaluate_codec import csv_bytes

M_MMAP_THRESHOLD = -3  # of glibc's mallopt


@dataclass(frozen=True)
class BenchedCodec:
    """How to build a codec: from a checkpoint, or untrained from a kind of `third_party` and its configuration.

    name: of the checkpoint (None: the bundled default), or of the row; books: to code with, None: `Codec.lm_books`.
    """

    name: str | None
    kind: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    books: int | None = None

    def build(self) -> Codec:
        """Raises: UserError for a checkpoint that cannot be loaded."""
        if self.kind is None:
            return AudioTokenizer.from_pretrained(self.name)
        codec = untrained(self.kind, **self.config)
        codec.name = self.name or self.kind
        return codec


OURS = BenchedCodec(None)
OTHERS = (
    BenchedCodec("Mimi", "mimi", books=8),  # 1.1 kbps, as in Moshi; the defaults are kyutai/mimi
    BenchedCodec("EnCodec 24 kHz", "encodec", books=8),  # 6 kbps; the defaults are facebook/encodec_24khz
    BenchedCodec(  # descript/dac_24khz
        "DAC 24 kHz", "dac", {"sampling_rate": 24_000, "downsampling_ratios": [2, 4, 5, 8], "n_codebooks": 32}, books=32
    ),
)


@dataclass(frozen=True)
class Figures:
    """What was measured of one codec on one device; speeds in seconds of audio per second."""

    codec: str
    device: str
    books: int
    kbps: float
    parameters: int
    encode: float
    decode: float
    memory: int  # bytes, at most, above what the loaded model takes


class Lap(NamedTuple):
    """Seconds it took."""

    encode: float
    decode: float


def measure(
    codecs: list[BenchedCodec], device: torch.device, seconds: float, repeats: int, threads: int
) -> list[Figures]:
    """Medians of `repeats` laps after one to warm up, in the order of `codecs`.

    Raises: UserError when the process of one of them ends.
    """
    settings = device, seconds, threads
    try:
        memory = [start(measure_memory, codec, *settings).recv() for codec in track(codecs, f"memory on {device.type}")]
        pipes = [start(run_laps, codec, *settings) for codec in codecs]
        facts = [pipe.recv() for pipe in pipes]  # all are loaded before the first starts
        laps: list[list[Lap]] = [[] for _ in codecs]
        for lap in track(range(1 + repeats), f"laps on {device.type}"):
            for pipe, times in zip(pipes, laps, strict=True):
                pipe.send(lap)
                times.append(pipe.recv())
    except (EOFError, ConnectionError):
        raise UserError(
            f"a codec failed on {device.type}; its error is above, and if there is none, memory ran out"
        ) from None
    figures = []
    for (name, books, kbps, parameters), (_, *timed), peak in zip(facts, laps, memory, strict=True):
        encode, decode = (seconds / statistics.median(times) for times in zip(*timed, strict=True))
        figures.append(Figures(name, device.type, books, kbps, parameters, encode, decode, peak))
    return figures


def start(target: Callable[..., None], *arguments: object) -> Connection:
    """Start a process, whose first argument is a pipe, and return the other end; the process ends when that is closed."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=target, args=(there, *arguments), daemon=True).start()
    there.close()
    return here


def run_laps(pipe: Connection, benched: BenchedCodec, device: torch.device, seconds: float, threads: int) -> None:
    """In a process of its own: build the codec, send its name and sizes, and run a timed lap for each message from the pipe."""
    codec, books, wav = prepare(benched, device, seconds, threads)
    pipe.send((codec.name, books, codec.bitrate(books) / 1000, sum(p.numel() for p in codec.parameters())))
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        start_time = now(device)
        codes = codec.encode(wav, codec.sample_rate, books=books)
        middle = now(device)
        codec.decode(codes)
        pipe.send(Lap(middle - start_time, now(device) - middle))


def measure_memory(pipe: Connection, benched: BenchedCodec, device: torch.device, seconds: float, threads: int) -> None:
    """In a process of its own: send the most bytes that encoding and decoding take beyond the loaded model."""
    codec, books, wav = prepare(benched, device, seconds, threads)
    reset_peak_memory(device)
    before = peak_memory(device)
    codec.decode(codec.encode(wav, codec.sample_rate, books=books))
    pipe.send(peak_memory(device) - before)


def prepare(benched: BenchedCodec, device: torch.device, seconds: float, threads: int) -> tuple[Codec, int, Tensor]:
    """-> the codec on the device, its number of books, and noise float32 (n,) of so many seconds to encode."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # random weights may lead to denormal numbers, which are slow; trained ones do not
    codec = benched.build().to(device)
    wav = 0.1 * torch.randn(round(seconds * codec.sample_rate), generator=torch.Generator().manual_seed(0))
    return codec, benched.books or codec.lm_books, wav


def now(device: torch.device) -> float:
    """Seconds, when all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` start from the memory now in use, without what the allocator has kept of freed memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(
                M_MMAP_THRESHOLD, 1 << 16
            )  # without this, fragmentation makes equal runs differ (220 and 510 MiB)
            libc.malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass  # forbidden in some containers: then only memory above the peak of loading is counted


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has used since `reset_peak_memory`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":  # getrusage would count the process that started this one
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def bench(
    seconds: Annotated[float, typer.Option(help="Length of the sound, 0.1 to 600.")] = 10.0,
    repeats: Annotated[int, typer.Option(min=1, help="Laps of each codec, of which the median counts.")] = 3,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads of each codec.", show_default="as torch chooses")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: the CPU, and CUDA where there is one.")] = "auto",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the figures to this CSV file.", show_default=False)
    ] = None,
) -> None:
    """Print speed and memory of our codec, Mimi, EnCodec and DAC on the same sound in one run, and how many times faster ours is.

    Example: solfa bench codec --threads 1
    """
    if not 0.1 <= seconds <= 600:
        raise UserError(f"--seconds {seconds:g} should lie in 0.1..600")
    if out is not None:
        check_output(out)
    codecs = [OURS, *OTHERS] if find_spec("transformers") else [OURS]
    chosen = (
        [torch.device("cpu"), torch.device("cuda")]
        if device == "auto" and torch.cuda.is_available()
        else [pick(device)]
    )
    count = threads or torch.get_num_threads()
    figures = [figure for d in chosen for figure in measure(codecs, d, seconds, repeats, count)]
    console = Console(width=max(110, Console().width))
    for d in chosen:
        title = (
            f"{d.type}, {count} {'thread' if count == 1 else 'threads'}, {seconds:g} s of sound, median of {repeats}"
        )
        console.print(table([f for f in figures if f.device == d.type], title))
    print("x: seconds of audio in a second; (n x): ours is n times as fast; peak: memory beyond the loaded model.")
    if len(codecs) == 1:
        print("left out: Mimi, EnCodec and DAC, which need transformers: run pip install '.[codecs]'")
    if out:
        write_bytes(out, csv_bytes([f.name for f in fields(Figures)], [astuple(f) for f in figures]))


def table(figures: list[Figures], title: str) -> Table:
    """One row per codec; the first is ours."""
    result = Table("codec", "books", "kbps", "parameters", "encode x", "", "decode x", "", "peak", title=title)
    ours = figures[0]
    for f in figures:
        result.add_row(
            f.codec, str(f.books), f"{f.kbps:.2f}", f"{f.parameters / 1e6:.1f}M",
            f"{f.encode:.1f}", f"({ours.encode / f.encode:.1f} x)", f"{f.decode:.1f}", f"({ours.decode / f.decode:.1f} x)",
            f"{f.memory / 2**20:.0f} MiB",
        )  # fmt: skip
    return result
