"""`solfa tokenize`: a corpus -> a folder of tokens, by an engine; continued where an earlier run stopped.

What a run writes depends on the corpus and the options alone: rows stand in the corpus's order, whatever the batches were
and however often the run was killed.
"""

import copy
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from solfa.core import device as devices
from solfa.core.errors import UserError
from solfa.core.progress import Progress, clock
from solfa.tokenizers.audio.audio_file import probe
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands.engine import DIGEST, Engine, Limits, Plan
from solfa.tokenizers.datasets.commands.engine import Encoded as Encoded
from solfa.tokenizers.datasets.commands.engine import Reject as Reject
from solfa.tokenizers.datasets.commands.engine import encode_corpus as encode_corpus
from solfa.tokenizers.datasets.readers.clip import Clip, Corpus
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.datasets.shards.dataset_card import write_card
from solfa.tokenizers.datasets.shards.shard_formats import FORMATS, Header
from solfa.tokenizers.datasets.shards.shards import ShardWriter, check_format, check_header, check_overwrite

# Options that `tokenize`, `reconstruct` and `compress` share.
CodecOption = Annotated[str | None, typer.Option(help="A bundled name, a folder or a hub id.", show_default="bundled")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Threads that decode and resample audio files.")]
BatchOption = Annotated[
    float | None,
    typer.Option(min=1.0, max=3600.0, help="Seconds of audio encoded at once.", show_default="20, on CUDA 120"),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    clips: int
    seconds: float  # of audio
    skipped: int  # done by an earlier run
    rejects: list[Reject]
    waited: float | None = None  # share of the time in which the model had nothing to do, where one process can tell


@dataclass(frozen=True)
class Share:
    """Which of `count` runs this one is, from 1; it takes every `count`-th clip."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """`3/8`.  Raises: UserError for anything else."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise UserError(f"--shard {text} makes no sense: give 1/8 to 8/8 to eight runs")
        return cls(int(index), int(count))

    @property
    def part(self) -> str:
        """What the files of this run have in their names."""
        width = max(3, len(str(self.count)))
        return f"{self.index:0{width}}of{self.count:0{width}}-" if self.count > 1 else ""

    def of(self, corpus: Corpus, limit: int | None) -> Iterator[Clip]:
        return islice(corpus, self.index - 1, limit, self.count)

    def size(self, corpus: Corpus, limit: int | None) -> int:
        clips = len(corpus) if limit is None else min(limit, len(corpus))
        return len(range(self.index - 1, clips, self.count))


def nothing_done(rejects: Sequence[Reject]) -> UserError:
    """What to say when every clip was rejected."""
    return UserError(rejects[0].reason if len(rejects) == 1 else f"no clip could be read; {rejects[0].reason}")


def pace(seconds: float, elapsed: float) -> str:
    """`1:20:00 of audio in 2:00, 40.0 x real time`."""
    return f"{clock(seconds)} of audio in {clock(elapsed)}, {seconds / max(elapsed, 1e-9):.1f} x real time"


def header_of(codec: Codec, books: int) -> Header:
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


def tokenize_corpus(
    codec: Codec,
    corpus: Corpus,
    output: Path,
    books: int | None = None,
    plan: Plan = Plan(),  # noqa: B008
    limit: int | None = None,
    overwrite: bool = False,
    share: Share = Share(),  # noqa: B008
    format: str = "parquet",
    places: Sequence[torch.device] = (),
) -> Summary:
    """Tokenize a corpus into the folder `output`, continuing what an earlier run left there.

    `places`: the devices, by default the one that the codec is on.
    Raises: UserError when the folder cannot be written, holds another codec's tokens, or no clip at all could be read.
    """
    books = check_books(codec, books)
    total = share.size(corpus, limit)
    rejects: list[Reject] = []
    clips, seconds = 0, 0.0
    with ShardWriter(output, header_of(codec, books), overwrite, share.part, format) as writer:
        skipped = sum(clip.id in writer.done for clip in share.of(corpus, limit)) if writer.done else 0
        todo = (clip for clip in share.of(corpus, limit) if clip.id not in writer.done)
        seen = digests_of(writer) if plan.dedupe else {}
        began = time.monotonic()
        with (
            Engine(replicate(codec, places or [codec.device]), books, plan, seen) as engine,
            Progress("tokenizing", total, "clips", start=skipped) as bar,
        ):
            for window in engine.run(todo):
                for item in window.items:
                    if isinstance(item, Reject):
                        rejects.append(item)
                        writer.reject(item.clip.id, str(item.clip.path), item.reason, item.kind)
                    else:
                        writer.add(item.row())
                        clips, seconds = clips + 1, seconds + item.seconds
                if window.ends_shard:
                    writer.flush()
                speed = f"{seconds / max(time.monotonic() - began, 1e-9):.0f} x real time"
                bar.advance(len(window.items), f"{seconds / 3600:.2f} h of audio, {speed}")
        writer.flush()
        if writer.rows == 0 and rejects:
            raise nothing_done(rejects)
        writer.write_manifest(complete=True)
    return Summary(clips, seconds, skipped, rejects, engine.waited)


def digests_of(writer: ShardWriter) -> dict[str, str]:
    """Id by digest of the clips in finished files.  Raises: UserError where some have no digest."""
    found: dict[str, str] = {}
    for path in writer.format.files():
        for row in writer.format.read(path, ["id", DIGEST])[1]:
            if row[DIGEST] is None:
                raise UserError(
                    f"{path} was written without --dedupe, and cannot be continued with it: use --overwrite"
                )
            found.setdefault(row[DIGEST], row["id"])
    return found


def dry_run(
    codec: Codec,
    corpus: Corpus,
    output: Path,
    books: int | None,
    limit: int | None,
    overwrite: bool,
    share: Share,
    format: str,
) -> str:
    """What a run would do, by file names and headers; touches nothing.  Raises: UserError where it would refuse to begin."""
    done: set[str] = set()
    check_overwrite(output, overwrite, share.part)
    header = header_of(codec, check_books(codec, books))
    if not overwrite:
        check_format(output, header, format)
        form = FORMATS[format](output, header)
        for path in form.files():
            found, rows = form.read(path, ["id"])
            check_header(output, found, header)
            done.update(row["id"] for row in rows)
    clips = skipped = unread = 0
    seconds = 0.0
    for clip in share.of(corpus, limit):
        if clip.id in done:
            skipped += 1
            continue
        clips += 1
        try:
            found_seconds = probe(clip.path, clip.data() if clip.data else None).duration
            seconds += clip.span[1] if clip.span else found_seconds
        except UserError:
            unread += 1
    bad = f", {unread} of them unreadable" if unread else ""
    size = codec.bitrate(books) / 8e6 * seconds
    return f"would tokenize {clips} clips{bad}, {seconds / 3600:.2f} h by their headers, about {size:.1f} MB -> {output}; {skipped} are there already"


def tokenize(
    corpus: Annotated[
        str,
        typer.Argument(
            help="A folder, an audio file, a quoted glob, a manifest, .tar shards or a Hugging Face data set."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the tokens.")],
    codec: CodecOption = None,
    books: Annotated[int | None, typer.Option(help="Keep the first N books.", show_default="all")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N clips.", show_default="all")] = None,
    shard: Annotated[str, typer.Option(help="I/N: this is run I of N, which fill one folder together.")] = "1/1",
    format: Annotated[Literal["parquet", "webdataset", "npz"], typer.Option(help="Of the files.")] = "parquet",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the tokens there and start afresh.")] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    min_seconds: Annotated[float, typer.Option(min=0.0, help="Reject shorter clips.")] = 0.1,
    max_seconds: Annotated[
        float,
        typer.Option(min=0.0, help="Reject longer clips.", show_default="none; 3600 with codecs that cannot stream"),
    ] = math.inf,
    min_peak: Annotated[
        float, typer.Option(max=0.0, help="Reject silence: clips that never exceed so many dBFS.")
    ] = -80.0,
    max_clipped: Annotated[
        float, typer.Option(min=0.0, max=100.0, help="Reject clips with more % of samples at full scale.")
    ] = 100.0,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Reject clips whose decoded samples came before.")] = False,
    workers: WorkersOption = WORKERS,
    batch_seconds: BatchOption = None,
    device: Annotated[
        str, typer.Option(help="auto (all CUDA devices, else the CPU), cpu, cuda, or cuda:0,cuda:1.")
    ] = "auto",
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="ray: on the cluster at RAY_ADDRESS, whose nodes share corpus and output."),
    ] = "local",
) -> int:
    """Turn a corpus of audio into token shards (Parquet) with a manifest.

    A manifest names its audio in a column `audio`, `file` or `path`, relative to itself; every other column is carried
    into the shards.  A run that was stopped, or killed, continues where it was when the same command is given again.  Clips
    that cannot be used are listed in `rejects.jsonl` with the reason, the rest is done, and the exit code is 1.

    Examples:

        solfa tokenize recordings/ -o tokens/
        solfa tokenize "corpus/**/*.flac" -o tokens/ --books 8
        solfa tokenize data/manifest.jsonl -o tokens/ --workers 8 --device cuda
        solfa tokenize podcasts/ -o tokens/ --shard 3/8 --dedupe
        RAY_ADDRESS=head:6379 solfa tokenize /shared/corpus -o /shared/tokens --engine ray
    """
    clips = read_corpus(corpus, exclude=output)
    share = Share.parse(shard)
    model = AudioTokenizer.from_pretrained(codec)
    if dry:
        print(dry_run(model, clips, output, books, limit, overwrite, share, format))
        return 0
    limits = Limits(min_seconds, max_seconds, 10 ** (min_peak / 20), max_clipped / 100)
    plan = Plan(batch_seconds, workers, limits=limits, dedupe=dedupe)
    began = time.monotonic()
    if engine == "ray":
        from solfa.tokenizers.datasets.commands.ray_engine import tokenize_on_ray

        if share != Share():
            raise UserError("--engine ray divides the corpus itself: leave --shard out")
        done = tokenize_on_ray(model, clips, output, books, plan, limit, overwrite, format, device)
    else:
        done = tokenize_corpus(model, clips, output, books, plan, limit, overwrite, share, format, pick_devices(device))
    write_card(output, header_of(model, books or model.books), corpus, shlex.join(["solfa", *sys.argv[1:]]), format)
    kept = f" ({done.skipped} more were there already)" if done.skipped else ""
    rate = f"{books or model.books} books at {model.bitrate(books) / 1000:g} kbps"
    waited = f", the model waited {100 * done.waited:.0f} % of the time" if done.waited is not None else ""
    print(f"{done.clips} clips, {pace(done.seconds, time.monotonic() - began)}{waited}, {rate} -> {output}{kept}")
    if done.rejects:
        tried = len(done.rejects) + done.clips
        listed = output / "-".join(["rejects", *share.part.split("-")[:-1]])
        print(
            f"{len(done.rejects)} of {tried} clips were rejected, see {listed}.jsonl; first: {done.rejects[0].reason}"
        )
    return 1 if done.rejects else 0
