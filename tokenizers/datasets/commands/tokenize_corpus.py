"""`solfa tokenize`: a corpus -> a folder of tokens, by an engine; continued where an earlier run stopped.

What a run writes depends on the corpus and the options alone: rows stand in the corpus's order, whatever the batches were
and however often the run was killed.
"""

import dataclasses
import math
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from solfa.core.errors import UserError
from solfa.core.progress import Progress
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands.clip_results import DIGEST, Plan, Reject, ShardState
from solfa.tokenizers.datasets.commands.corpus_share import Share
from solfa.tokenizers.datasets.commands.dry_run import dry_run
from solfa.tokenizers.datasets.commands.engine import Engine
from solfa.tokenizers.datasets.commands.resume_check import check_sources, corpus_name, limits_of, settings_of
from solfa.tokenizers.datasets.commands.shared_options import (
    WORKERS,
    BatchOption,
    CodecOption,
    DevicesOption,
    MaxClippedOption,
    MaxSecondsOption,
    MinPeakOption,
    WorkersOption,
    check_books,
    header_of,
    nothing_done,
    output_path,
    pace,
    pick_devices,
    replicate,
)
from solfa.tokenizers.datasets.readers.clip import Corpus
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.datasets.shards.dataset_card import write_card
from solfa.tokenizers.datasets.shards.manifest_file import read_manifest
from solfa.tokenizers.datasets.shards.shards import ShardWriter


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    clips: int
    seconds: float  # of audio
    skipped: int  # done by an earlier run
    rejects: list[Reject]
    waited: float | None = None  # share of the time in which the model had nothing to do, where one process knows it


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
    source: str = "",
) -> Summary:
    """Tokenize a corpus into the folder `output`, continuing what an earlier run left there.

    When it is interrupted, what it has finished is written, and the next run goes on behind it.

    Args:
        places: the devices, by default the one that the codec is on.
        source: name of the corpus, for the manifest; with it, clips that it does not hold any more are noticed.

    Raises: UserError when the folder cannot be written, holds another codec's tokens or what was made from other input or with
    other settings, or no clip at all could be read.
    """
    plan = dataclasses.replace(plan, stamp=True)
    books = check_books(codec, books)
    total = share.size(corpus, limit)
    rejects: list[Reject] = []
    clips, seconds = 0, 0.0
    header = header_of(codec, books)
    with ShardWriter(output, header, overwrite, share.part, format, settings_of(plan), source) as writer:
        check_sources(writer.format, output, corpus, read_manifest(output), source)
        skipped = sum(clip.id in writer.done for clip in share.of(corpus, limit)) if writer.done else 0
        todo = (clip for clip in share.of(corpus, limit) if clip.id not in writer.done)
        seen = digests_of(writer) if plan.dedupe else {}
        began = time.monotonic()
        try:
            with (
                Engine(replicate(codec, places or [codec.device]), books, plan, seen) as engine,
                Progress("tokenizing", total, "clips", start=skipped) as bar,
            ):
                for window in engine.run(todo, shard_state(writer)):
                    for item in window.items:
                        if isinstance(item, Reject):
                            rejects.append(item)
                            writer.reject(item.clip.id, str(item.clip.path), item.reason, item.kind)
                        else:
                            writer.add(item.row())
                            clips, seconds = clips + 1, seconds + item.seconds
                    writer.mark(None if window.shard is None else dataclasses.asdict(window.shard))
                    if window.ends_shard:
                        writer.flush()
                    speed = f"{seconds / max(time.monotonic() - began, 1e-9):.0f} x real time"
                    bar.advance(len(window.items), f"{seconds / 3600:.2f} h of audio, {speed}")
        except BaseException:
            with suppress(UserError):  # a full disk, say, which has its own sentence
                writer.leave_open()
            raise
        writer.flush()
        if writer.rows == 0 and rejects:
            raise nothing_done(rejects)
        writer.write_manifest(complete=True)
    return Summary(clips, seconds, skipped, rejects, engine.waited)


def shard_state(writer: ShardWriter) -> ShardState:
    """How far the shard is that an earlier run has left open."""
    try:
        return ShardState(**writer.open_state) if writer.open_state else ShardState()  # type: ignore[arg-type]
    except TypeError:  # another version of solfa wrote it
        return ShardState()


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


def report(done: Summary, model: Codec, books: int, output: Path, share: Share, elapsed: float) -> None:
    """Print what a run did."""
    kept = f" ({done.skipped} more were there already)" if done.skipped else ""
    rate = f"{books} books at {model.bitrate(books) / 1000:g} kbps"
    waited = f", the model waited {100 * done.waited:.0f} % of the time" if done.waited is not None else ""
    print(f"{done.clips} clips, {pace(done.seconds, elapsed)}{waited}, {rate} -> {output}{kept}")
    if done.rejects:
        tried = len(done.rejects) + done.clips
        listed = output / "-".join(["rejects", *share.part.split("-")[:-1]])
        print(
            f"{len(done.rejects)} of {tried} clips were rejected, see {listed}.jsonl; first: {done.rejects[0].reason}"
        )


def tokenize(
    corpus: Annotated[
        str,
        typer.Argument(
            help="A folder, an audio file, a quoted glob, a manifest, .tar shards or a Hugging Face data set."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=output_path, metavar="FOLDER", help="Folder for the tokens.")
    ],
    codec: CodecOption = None,
    books: Annotated[int | None, typer.Option(help="Keep the first N books.", show_default="all")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N clips.", show_default="all")] = None,
    shard: Annotated[str, typer.Option(help="I/N: this is run I of N, which fill one folder together.")] = "1/1",
    format: Annotated[Literal["parquet", "webdataset", "npz"], typer.Option(help="Of the files.")] = "parquet",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the tokens there and start afresh.")] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")] = False,
    min_seconds: Annotated[float, typer.Option(min=0.0, help="Reject shorter clips.")] = 0.1,
    max_seconds: MaxSecondsOption = math.inf,
    min_peak: MinPeakOption = -80.0,
    max_clipped: MaxClippedOption = 100.0,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Reject clips whose decoded samples came before.")] = False,
    workers: WorkersOption = WORKERS,
    batch_seconds: BatchOption = None,
    device: DevicesOption = "auto",
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="ray: on the cluster at RAY_ADDRESS, whose nodes share corpus and output."),
    ] = "local",
) -> int:
    """Turn a corpus of audio into token shards (Parquet) with a manifest.

    A manifest names its audio in a column `audio`, `file` or `path`, relative to itself; every other column is carried
    into the shards.  A run that was stopped, or killed, continues where it was when the same command is given again; one with
    other limits, or whose recordings have changed, is refused.  Clips that cannot be used are listed in `rejects.jsonl` with the
    reason, the rest is done, and the exit code is 1.

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
    plan = Plan(
        batch_seconds, workers, limits=limits_of(min_seconds, max_seconds, min_peak, max_clipped), dedupe=dedupe
    )
    name = corpus_name(corpus)
    if dry:
        print(dry_run(model, clips, output, books, limit, overwrite, share, format, plan, name))
        return 0
    began = time.monotonic()
    if engine == "ray":
        from solfa.tokenizers.datasets.commands.ray_engine import tokenize_on_ray

        if share != Share():
            raise UserError("--engine ray divides the corpus itself: leave --shard out")
        done = tokenize_on_ray(model, clips, output, books, plan, limit, overwrite, format, device, name)
    else:
        places = pick_devices(device)
        done = tokenize_corpus(model, clips, output, books, plan, limit, overwrite, share, format, places, name)
    books = check_books(model, books)
    write_card(output, header_of(model, books), corpus, shlex.join(["solfa", *sys.argv[1:]]), format)
    report(done, model, books, output, share, time.monotonic() - began)
    return 1 if done.rejects else 0
