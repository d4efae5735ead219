"""`solfa reconstruct`: token shards, or audio taken through the codec, -> audio files with the old names and durations."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from torch import Tensor

from solfa import device as devices
from solfa.errors import UserError
from solfa.progress import Progress
from solfa.tokenizers.audio.model import AudioTokenizer
from solfa.tokenizers.audio_io import AUDIO_SUFFIXES, check_writable, write_wav
from solfa.tokenizers.corpus import read_corpus, safe_id
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


def plan_tokens(codec: AudioTokenizer, source: Path, output: Path, books: int | None, overwrite: bool) -> Plan:
    """The rows of token shards.  Raises: UserError for another codec's tokens."""
    tokens = TokenDataset(source, fingerprint=codec.fingerprint, books=books)
    paths = [_target(output, clip_id) for clip_id in tokens.column("id")]
    todo = [i for i, path in enumerate(paths) if overwrite or not path.exists()]

    def items() -> Iterator[Tokens | Reject]:
        for i in todo:
            row = tokens[i]
            samples = resampled_length(row["samples"], row["sample_rate"], codec.sample_rate)
            yield Tokens(paths[i], row["codes"], samples)

    return Plan(len(paths), len(paths) - len(todo), items())


def plan_audio(
    codec: AudioTokenizer,
    source: str,
    output: Path,
    books: int | None,
    overwrite: bool,
    batch_seconds: float,
    workers: int,
) -> Plan:
    """The clips of a corpus, tokenized in memory.  An `output` that is named as an audio file takes a single clip."""
    if Path(source).is_dir() and output.resolve() == Path(source).resolve():
        raise UserError(f"{output} is the source itself: give another output folder")
    corpus = read_corpus(source, exclude=output)
    single = output.suffix.lower() in AUDIO_SUFFIXES and not output.is_dir()
    if single and len(corpus) != 1:
        raise UserError(f"{source} holds {len(corpus)} clips, so the output should be a folder, not {output}")
    if single:
        check_writable(output)

    def target(clip_id: str) -> Path:
        return output if single else _target(output, clip_id)

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
        str, typer.Argument(help="A folder of token shards; or audio: a folder, file, glob or manifest.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the .wav files, or a name for one clip.")],
    books: Annotated[int | None, typer.Option(help="Decode the first N books.", show_default="all")] = None,
    codec: CodecOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write files again that exist already.")] = False,
    workers: WorkersOption = WORKERS,
    batch_seconds: BatchOption = 120.0,
    device: DeviceOption = "auto",
) -> int:
    """Turn tokens back into audio, or take audio through the codec to hear what it keeps.

    Names, folders and durations are those of the source; the sample rate is the codec's.  Files that exist are left
    alone, so a run that was stopped continues when the same command is given again.

    Examples:

        solfa reconstruct tokens/ -o back/
        solfa reconstruct tokens/ -o back-1kbps/ --books 4
        solfa reconstruct recordings/ -o through-the-codec/
        solfa reconstruct song.mp3 -o song-8-books.wav --books 8
    """
    model = AudioTokenizer.from_pretrained(codec).to(devices.pick(device))
    check_books(model, books)
    folder = Path(source).expanduser()
    if folder.is_dir() and any(folder.glob(PATTERN)):
        plan = plan_tokens(model, folder, output, books, overwrite)
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


def write_all(codec: AudioTokenizer, plan: Plan) -> tuple[float, list[Reject]]:
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


def _target(output: Path, clip_id: str) -> Path:
    return output / f"{safe_id(clip_id)}.wav"
