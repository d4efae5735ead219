"""`solfa bench codec`: speed and memory of our codec beside those of Mimi, EnCodec and DAC at their published sizes.

Theirs have random weights, which are as fast as trained ones.  Each codec runs in processes of its own: one that is weighed, and
one that is timed, in turns with the others, so that whatever else the machine does strikes all of them.
"""

import csv
import ctypes
import io
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

from solfa.core import device as devices
from solfa.core.atomic import write_bytes
from solfa.core.errors import UserError
from solfa.core.progress import track
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.third_party import transformers_codecs as foreign
from solfa.tokenizers.evaluation.evaluate_codec import check_file

M_MMAP_THRESHOLD = -3  # of glibc's mallopt


@dataclass(frozen=True)
class Contestant:
    """A codec by what it is made from: a checkpoint, or a kind of `foreign.FAMILIES` and its configuration."""

    name: str | None
    kind: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    books: int | None = None  # None: as many as language models speak

    def build(self) -> Codec:
        if self.kind is None:
            return AudioTokenizer.from_pretrained(self.name)
        codec = foreign.untrained(self.kind, **self.config)
        codec.name = self.name or self.kind
        return codec


OURS = Contestant(None)
OTHERS = (
    Contestant("Mimi", "mimi", books=8),  # 1.1 kbps, as in Moshi; the defaults are kyutai/mimi
    Contestant("EnCodec 24 kHz", "encodec", books=8),  # 6 kbps; the defaults are facebook/encodec_24khz
    Contestant(  # descript/dac_24khz
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


def race(
    contestants: list[Contestant], device: torch.device, seconds: float, repeats: int, threads: int
) -> list[Figures]:
    """Medians of `repeats` laps after one to warm up, in the order of the contestants.

    Raises: UserError when one of them breaks down.
    """
    settings = device, seconds, threads
    try:
        memory = [
            start(weigh, contestant, *settings).recv() for contestant in track(contestants, f"memory on {device.type}")
        ]
        pipes = [start(run_laps, contestant, *settings) for contestant in contestants]
        facts = [pipe.recv() for pipe in pipes]  # all are loaded before the first starts
        laps: list[list[Lap]] = [[] for _ in contestants]
        for lap in track(range(1 + repeats), f"laps on {device.type}"):
            for pipe, own in zip(pipes, laps, strict=True):
                pipe.send(lap)
                own.append(pipe.recv())
    except (EOFError, ConnectionError):
        raise UserError(
            f"a codec broke down on {device.type}; what it said is above, and if it said nothing, memory ran out"
        ) from None
    figures = []
    for (name, books, kbps, parameters), (_, *timed), most in zip(facts, laps, memory, strict=True):
        encode, decode = (seconds / statistics.median(times) for times in zip(*timed, strict=True))
        figures.append(Figures(name, device.type, books, kbps, parameters, encode, decode, most))
    return figures


def start(target: Callable[..., None], *arguments: object) -> Connection:
    """A new process, and the pipe that it was given first; it ends with the pipe."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=target, args=(there, *arguments), daemon=True).start()
    there.close()
    return here


def run_laps(pipe: Connection, contestant: Contestant, device: torch.device, seconds: float, threads: int) -> None:
    """In a process of its own: build the codec, tell what it is, and run a timed lap for each word that comes through the pipe."""
    codec, books, wav = prepare(contestant, device, seconds, threads)
    pipe.send((codec.name, books, codec.bitrate(books) / 1000, sum(p.numel() for p in codec.parameters())))
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        began = now(device)
        codes = codec.encode(wav, codec.sample_rate, books=books)
        middle = now(device)
        codec.decode(codes)
        pipe.send(Lap(middle - began, now(device) - middle))


def weigh(pipe: Connection, contestant: Contestant, device: torch.device, seconds: float, threads: int) -> None:
    """In a process of its own: send the most bytes that encoding and decoding take beyond the loaded model."""
    codec, books, wav = prepare(contestant, device, seconds, threads)
    forget_peak(device)
    before = peak(device)
    codec.decode(codec.encode(wav, codec.sample_rate, books=books))
    pipe.send(peak(device) - before)


def prepare(contestant: Contestant, device: torch.device, seconds: float, threads: int) -> tuple[Codec, int, Tensor]:
    """-> the codec, its number of books, and noise (n,) to encode."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # random weights may fade to numbers so small that CPUs stumble; trained ones do not
    codec = contestant.build().to(device)
    wav = 0.1 * torch.randn(round(seconds * codec.sample_rate), generator=torch.Generator().manual_seed(0))
    return codec, contestant.books or codec.lm_books, wav


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def forget_peak(device: torch.device) -> None:
    """Let `peak` count from now on, and count what is in use rather than what the allocator keeps for later."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(
                M_MMAP_THRESHOLD, 1 << 16
            )  # or fragments make the same run take 220 MiB once and 510 MiB another time
            libc.malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass  # some containers forbid it: then what loading took at most hides as much of the rest


def peak(device: torch.device) -> int:
    """The most bytes that this process has held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":  # getrusage would count the process that started this one
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def bench(
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the sound.")] = 10.0,
    repeats: Annotated[int, typer.Option(min=1, help="Laps of each codec, of which the median counts.")] = 3,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each codec.", show_default="as torch chooses")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: the CPU, and CUDA where there is one.")] = "auto",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write the figures to this CSV file.", show_default=False)
    ] = None,
) -> None:
    """Print speed and memory of our codec, Mimi, EnCodec and DAC on the same sound in one run, and how many times faster ours is.

    Example: solfa bench codec --threads 1
    """
    if out is not None:
        check_file(out)
    contestants = [OURS, *OTHERS] if find_spec("transformers") else [OURS]
    chosen = (
        [torch.device("cpu"), torch.device("cuda")]
        if device == "auto" and torch.cuda.is_available()
        else [devices.pick(device)]
    )
    count = threads or torch.get_num_threads()
    figures = [figure for d in chosen for figure in race(contestants, d, seconds, repeats, count)]
    console = Console(width=max(110, Console().width))
    for d in chosen:
        title = (
            f"{d.type}, {count} {'thread' if count == 1 else 'threads'}, {seconds:g} s of sound, median of {repeats}"
        )
        console.print(table([f for f in figures if f.device == d.type], title))
    print("x: seconds of audio in a second; (n x): ours is n times as fast; peak: memory beyond the loaded model.")
    if len(contestants) == 1:
        print("left out: Mimi, EnCodec and DAC, which need transformers: run pip install '.[codecs]'")
    if out:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(f.name for f in fields(Figures))
        writer.writerows(astuple(f) for f in figures)
        write_bytes(out, text.getvalue().encode())


def table(figures: list[Figures], title: str) -> Table:
    """One row per codec; the first is ours."""
    made = Table("codec", "books", "kbps", "parameters", "encode x", "", "decode x", "", "peak", title=title)
    ours = figures[0]
    for f in figures:
        made.add_row(
            f.codec, str(f.books), f"{f.kbps:.2f}", f"{f.parameters / 1e6:.1f}M",
            f"{f.encode:.1f}", f"({ours.encode / f.encode:.1f} x)", f"{f.decode:.1f}", f"({ours.decode / f.decode:.1f} x)",
            f"{f.memory / 2**20:.0f} MiB",
        )  # fmt: skip
    return made
