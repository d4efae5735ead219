"""What `tokenize`, `reconstruct`, `compress` and `inspect` share: options of the command line, checks of them, and what is printed."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from solfa.core import device as devices
from solfa.core.errors import UserError
from solfa.core.progress import clock
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.datasets.commands.clip_results import Reject
from solfa.tokenizers.datasets.shards.shard_formats import Header


def output_path(text: str) -> Path:
    """An output as the user gave it.  Raises: BadParameter for an empty one, which would be the folder that one is in."""
    if not text.strip():
        raise typer.BadParameter("it is empty: name a folder or a file")
    return Path(text)


CodecOption = Annotated[
    str | None, typer.Option(help="A bundled name, a folder, or hf:owner/name.", show_default="bundled")
]
WorkersOption = Annotated[int, typer.Option(min=1, help="Threads that decode and resample audio files.")]
BatchOption = Annotated[
    float | None,
    typer.Option(min=1.0, max=3600.0, help="Seconds of audio encoded at once.", show_default="20, on CUDA 120"),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
DevicesOption = Annotated[str, typer.Option(help="auto (all CUDA devices, else the CPU), cpu, cuda, or cuda:0,cuda:1.")]
MaxSecondsOption = Annotated[
    float,
    typer.Option(min=0.0, help="Reject longer clips.", show_default="none; 3600 with codecs that cannot stream"),
]
MinPeakOption = Annotated[float, typer.Option(max=0.0, help="Reject silence: clips that never exceed so many dBFS.")]
MaxClippedOption = Annotated[
    float, typer.Option(min=0.0, max=100.0, help="Reject clips with more % of samples at full scale.")
]
WORKERS = min(4, os.cpu_count() or 1)


def nothing_done(rejects: Sequence[Reject]) -> UserError:
    """What to say when every clip was rejected."""
    return UserError(rejects[0].reason if len(rejects) == 1 else f"no clip could be read; {rejects[0].reason}")


def pace(seconds: float, elapsed: float) -> str:
    """`1:20:00 of audio in 2:00, 40.0 x real time`."""
    return f"{clock(seconds)} of audio in {clock(elapsed)}, {seconds / max(elapsed, 1e-9):.1f} x real time"


def header_of(codec: Codec, books: int) -> Header:
    """Whose codes a folder holds, for its first `books` books."""
    return Header(
        codec.name, codec.fingerprint_of(books), codec.sample_rate, codec.frame_rate, books, codec.codebook_size
    )


def check_books(codec: Codec, books: int | None) -> int:
    """`books`, or all of them.  Raises: UserError for more than the codec has."""
    if books is None:
        return codec.books
    if not 1 <= books <= codec.books:
        raise UserError(f"codec {codec.name} has books 1 to {codec.books}, so {books} cannot be used")
    return books


def pick_devices(names: str) -> list[torch.device]:
    """`auto`: every CUDA device, else the CPU; or one name, or several with commas between.

    Raises: UserError for a device that this machine lacks.
    """
    if names == "auto" and torch.cuda.device_count() > 1:
        return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [devices.pick(name.strip()) for name in names.split(",")]


def replicate(codec: Codec, places: Sequence[torch.device]) -> list[Codec]:
    """The codec on each of the devices; those that name one device share it."""
    there: dict[torch.device, Codec] = {}
    for place in places:
        if place not in there:
            there[place] = (copy.deepcopy(codec) if there else codec).to(place)
    return [there[place] for place in places]
