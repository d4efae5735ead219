"""`solfa compress`: recordings -> .sfa files, their codes entropy-coded, with what they really cost."""

import time
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer

from solfa.core import device as devices
from solfa.core.atomic import write_bytes
from solfa.core.errors import UserError
from solfa.core.progress import Progress
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.container.prior import LearnedPrior, load_prior
from solfa.tokenizers.audio.container.sfa import SUFFIX, Recording, pack
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands.clip_results import Reject
from solfa.tokenizers.datasets.commands.engine import encode_corpus
from solfa.tokenizers.datasets.commands.output_journal import Journal, Planned, SingleFile
from solfa.tokenizers.datasets.commands.shared_options import (
    WORKERS,
    BatchOption,
    CodecOption,
    DeviceOption,
    WorkersOption,
    check_books,
    nothing_done,
    output_path,
    pace,
)
from solfa.tokenizers.datasets.readers.clip import Clip, safe_id
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.datasets.readers.source_stamp import stamp_of


class Written(NamedTuple):
    """A file that was written, the seconds of audio in it, and its bytes, header and all."""

    path: Path
    seconds: float
    size: int


def plan(sources: list[str], output: Path) -> dict[Path, Clip]:
    """The clips of all sources by the file that each goes to; an `output` that ends in .sfa takes a single clip.

    Raises: UserError for sources without audio, and for two clips that would go to one file.
    """
    clips = [clip for source in sources for clip in read_corpus(source, exclude=output)]
    if output.suffix.lower() == SUFFIX and not output.is_dir():
        if len(clips) != 1:
            raise UserError(
                f"{' '.join(sources)} holds {len(clips)} clips, so the output should be a folder, not {output}"
            )
        return {output: clips[0]}
    planned: dict[Path, Clip] = {}
    for clip in clips:
        path = output / f"{safe_id(clip.id)}{SUFFIX}"
        if path in planned:
            raise UserError(
                f"{planned[path].path} and {clip.path} would both become {path}: give them different output folders"
            )
        planned[path] = clip
    return planned


def compress_clips(
    codec: Codec,
    todo: dict[Path, Clip],
    books: int,
    learned: LearnedPrior | None,
    batch_seconds: float | None,
    workers: int,
) -> tuple[list[Written], list[Reject]]:
    """Encode and write each clip; -> those written and those rejected.

    Raises: UserError when the output cannot be written.
    """
    written: list[Written] = []
    rejects: list[Reject] = []
    seconds, began = 0.0, time.monotonic()
    items = encode_corpus(codec, todo.values(), books, batch_seconds, workers)
    with Progress("compressing", len(todo), "clips") as bar:
        for path, item in zip(todo, items, strict=True):
            if isinstance(item, Reject):
                rejects.append(item)
            else:
                recording = Recording(torch.from_numpy(item.codes), item.audio.source_samples, item.audio.source_rate)
                try:
                    data = pack(codec, recording, learned)
                except UserError as e:  # too long
                    rejects.append(Reject(item.clip, f"{item.clip.path}: {e}"))
                else:
                    write_bytes(path, data)
                    written.append(Written(path, item.seconds, len(data)))
                    seconds += item.seconds
            bar.advance(note=f"{seconds / max(time.monotonic() - began, 1e-9):.0f} x real time")
    return written, rejects


def compress(
    recordings: Annotated[list[str], typer.Argument(help="Audio files, folders, quoted globs or manifests.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=output_path,
            metavar="PATH",
            help="Folder for the .sfa files, or a name for one clip.",
        ),
    ],
    books: Annotated[int | None, typer.Option(help="Keep the first N books.", show_default="all")] = None,
    codec: CodecOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write files again that exist already.")] = False,
    workers: WorkersOption = WORKERS,
    batch_seconds: BatchOption = None,
    device: DeviceOption = "auto",
) -> int:
    """Compress recordings into .sfa files: codes, entropy-coded, each file with its exact length.

    Shows what each file really costs, header and all, beside the bitrate of its plain codes.  `solfa reconstruct` turns the
    files back into audio.  A run that was stopped continues when the same command is given again: files made from the same
    recordings with the same settings are left alone, any other file in the way is refused without --overwrite.

    Examples:

        solfa compress interview.wav -o interview.sfa
        solfa compress recordings/ -o compressed/ --books 8
        solfa reconstruct compressed/ -o back/
    """
    planned = plan(recordings, output)
    model = AudioTokenizer.from_pretrained(codec).to(devices.pick(device))
    learned = load_prior(model, codec)
    books = check_books(model, books)
    settings = {
        "codec": f"{model.name} ({model.fingerprint_of(books)})",
        "--books": books,
        "learned prior": learned.digest.hex() if learned else "none",
    }
    single = output in planned
    journal = SingleFile(output, overwrite) if single else Journal(output, settings, overwrite)
    todo = {path: clip for path, clip in planned.items() if not journal.done(Planned(path, stamp_of(clip).state))}
    began = time.monotonic()
    journal.begin()
    try:
        written, rejects = compress_clips(model, todo, books, learned, batch_seconds, workers)
    finally:
        journal.end()
    if rejects and len(rejects) == len(planned):
        raise nothing_done(rejects)
    raw = model.bitrate(books) / 1000
    total = Written(output, sum(file.seconds for file in written), sum(file.size for file in written))
    for file in [*written, total] if len(written) > 1 else written:
        rate = f"{8 * file.size / file.seconds / 1000:6.2f} kbps (raw {raw:.2f})"
        print(f"{file.seconds:9.2f} s {file.size:9} bytes {rate}  {'all' if file is total else file.path}")
    kept = f" ({len(planned) - len(todo)} were there already)" if len(todo) < len(planned) else ""
    prior = "learned and adaptive priors" if learned else "the adaptive prior"
    print(
        f"{len(written)} clips, {pace(total.seconds, time.monotonic() - began)}, {books} books, {prior} -> {output}{kept}"
    )
    for reject in rejects[:10]:
        print(f"rejected: {reject.reason}")
    if len(rejects) > 10:
        print(f"... and {len(rejects) - 10} more were rejected")
    return 1 if rejects else 0
