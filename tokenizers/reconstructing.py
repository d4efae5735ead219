"""`solfa reconstruct`: token shards, .sfa files, or audio taken through the codec -> audio files with the old names and durations."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor

from solfa import device as devices
from solfa.errors import UserError
from solfa.progress import Progress
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.container import SUFFIX, read_sfa
from solfa.tokenizers.audio.model import AudioTokenizer
from solfa.tokenizers.audio.prior import LearnedPrior, load_prior
from solfa.tokenizers.audio_io import AUDIO_SUFFIXES, check_writable, write_wav
from solfa.tokenizers.corpus import Clip, read_corpus, safe_id
from solfa.tokenizers.resampling import resampled_length
from solfa.tokenizers.shards import PATTERN, TokenDataset
from solfa.tokenizers.tokenizing import (
    WORKERS,
    BatchOption,
    CodecOption,
    DeviceOption,
    Reject,
    WorkersOption,
    check_books,
    encode_corpus,
    nothing_done,
    pace,
)


class Tokens(NamedTuple):
    """One clip to decode: codes int64 (books, frames), and the samples it should have at the codec's rate."""

    path: Path
    codes: Tensor
    samples: int


class Plan(NamedTuple):
    """total: clips in the source; skipped: those whose output exists; items: the rest, as they come."""

    total: int
    skipped: int
    items: Iterator[Tokens | Reject]


def plan_tokens(codec: Codec, source: Path, output: Path, books: int | None, overwrite: bool) -> Plan:
    """The rows of token shards.  Raises: UserError for another codec's tokens."""
    tokens = TokenDataset(source, fingerprint=codec.fingerprint_of(books or codec.books), books=books)
    paths = [_target(output, clip_id) for clip_id in tokens.column("id")]
    todo = [i for i, path in enumerate(paths) if overwrite or not path.exists()]

    def items() -> Iterator[Tokens | Reject]:
        for i in todo:
            row = tokens[i]
            samples = resampled_length(row["samples"], row["sample_rate"], codec.sample_rate)
            yield Tokens(paths[i], row["codes"], samples)

    return Plan(len(paths), len(paths) - len(todo), items())


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

    def items() -> Iterator[Tokens | Reject]:
        for clip in todo:
            try:
                codes, samples, sample_rate = read_sfa(clip.path, codec, learned)
                if books is not None and books > len(codes):
                    raise UserError(f"{clip.path} holds {len(codes)} books, so {books} cannot be read from it")
            except UserError as e:
                yield Reject(clip, str(e))
            else:
                yield Tokens(target(clip.id), codes[:books], resampled_length(samples, sample_rate, codec.sample_rate))

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
    batch_seconds: float,
    workers: int,
) -> Plan:
    """The clips of a corpus, tokenized in memory."""
    if Path(source).is_dir() and output.resolve() == Path(source).resolve():
        raise UserError(f"{output} is the source itself: give another output folder")
    corpus = read_corpus(source, exclude=output)
    target = _targets(output, source, len(corpus))
    todo = [clip for clip in corpus if overwrite or not target(clip.id).exists()]
    for clip in todo:
        if target(clip.id).exists() and target(clip.id).samefile(clip.path):
            raise UserError(f"{target(clip.id)} would replace its own original: give another output folder")

    def items() -> Iterator[Tokens | Reject]:
        for item in encode_corpus(codec, todo, check_books(codec, books), batch_seconds, workers):
            if isinstance(item, Reject):
                yield item
            else:
                samples = resampled_length(item.audio.source_samples, item.audio.source_rate, codec.sample_rate)
                yield Tokens(target(item.clip.id), torch.from_numpy(item.codes), samples)

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
    codec: CodecOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write files again that exist already.")] = False,
    workers: WorkersOption = WORKERS,
    batch_seconds: BatchOption = 120.0,
    device: DeviceOption = "auto",
) -> int:
    """Turn tokens or .sfa files back into audio, or take audio through the codec to hear what it keeps.

    Names, folders and durations are those of the source; the sample rate is the codec's.  Files that exist are left
    alone, so a run that was stopped continues when the same command is given again.  In a folder that holds .sfa files, those are
    the source, and audio beside them is not.

    Examples:

        solfa reconstruct tokens/ -o back/
        solfa reconstruct interview.sfa -o interview.wav
        solfa reconstruct tokens/ -o back-1kbps/ --books 4
        solfa reconstruct recordings/ -o through-the-codec/
        solfa reconstruct song.mp3 -o song-8-books.wav --books 8
    """
    model = AudioTokenizer.from_pretrained(codec).to(devices.pick(device))
    check_books(model, books)
    folder = Path(source).expanduser()
    if folder.is_dir() and any(folder.glob(PATTERN)):
        plan = plan_tokens(model, folder, output, books, overwrite)
    elif clips := find_sfa(source):
        plan = plan_sfa(model, clips, source, output, books, overwrite, load_prior(model, codec))
    else:
        plan = plan_audio(model, source, output, books, overwrite, batch_seconds, workers)
    began = time.monotonic()
    seconds, rejects = write_all(model, plan)
    written = plan.total - plan.skipped - len(rejects)
    kept = f" ({plan.skipped} were there already)" if plan.skipped else ""
    print(f"{written} clips, {pace(seconds, time.monotonic() - began)} -> {output}{kept}")
    for reject in rejects[:10]:
        print(f"rejected: {reject.reason}")
    if len(rejects) > 10:
        print(f"... and {len(rejects) - 10} more were rejected")
    return 1 if rejects else 0


def write_all(codec: Codec, plan: Plan) -> tuple[float, list[Reject]]:
    """Decode and write each item; -> (seconds of audio, rejects).

    Raises: UserError when the output cannot be written, or when there was something to do and all of it was rejected.
    """
    rejects: list[Reject] = []
    seconds = 0.0
    began = time.monotonic()
    with Progress("reconstructing", plan.total, "clips", start=plan.skipped) as bar:
        for item in plan.items:
            if isinstance(item, Reject):
                rejects.append(item)
            else:
                # One clip at a time: padding beside a longer one would change its last frame.
                wav = codec.decode(item.codes[None].to(next(codec.parameters()).device))[0, : item.samples]
                write_wav(item.path, wav.cpu().numpy(), codec.sample_rate)
                seconds += item.samples / codec.sample_rate
            bar.advance(note=f"{seconds / max(time.monotonic() - began, 1e-9):.0f} x real time")
    if rejects and len(rejects) == plan.total:
        raise nothing_done(rejects)
    return seconds, rejects


def _targets(output: Path, source: str, clips: int) -> Callable[[str], Path]:
    """Where a clip goes, by its id.  An `output` that is named as an audio file takes a single clip."""
    if output.suffix.lower() not in AUDIO_SUFFIXES or output.is_dir():
        return lambda clip_id: _target(output, clip_id)
    if clips != 1:
        raise UserError(f"{source} holds {clips} clips, so the output should be a folder, not {output}")
    check_writable(output)
    return lambda _: output


def _target(output: Path, clip_id: str) -> Path:
    return output / f"{safe_id(clip_id)}.wav"
