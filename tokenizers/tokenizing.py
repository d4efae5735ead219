"""`solfa tokenize`: clips -> decoded and resampled by threads -> batches of like length -> codes -> token shards.

Rows come out in the order of the corpus whatever the batches were, so a run that is killed and started again fills
the same shards with the same rows as one that was left alone.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from solfa import device as devices
from solfa.errors import UserError
from solfa.progress import Progress, clock
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.model import AudioTokenizer
from solfa.tokenizers.audio_io import Audio, read_audio
from solfa.tokenizers.corpus import Clip, Corpus, read_corpus
from solfa.tokenizers.shards import Header, ShardWriter

WINDOW_BATCHES = 8  # batches' worth of audio that are decoded, then sorted by length
SHARD_SECONDS = 3600.0
SHARD_ROWS = 4096

# Options that `tokenize` and `reconstruct` share.
CodecOption = Annotated[str | None, typer.Option(help="A bundled name, a folder or a hub id.", show_default="bundled")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Threads that decode and resample audio files.")]
BatchOption = Annotated[float, typer.Option(min=1.0, help="Seconds of audio encoded at once.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Reject:
    """A clip that could not be tokenized, and the reason in one sentence."""

    clip: Clip
    reason: str


@dataclass(frozen=True)
class Encoded:
    """A clip with its codes: int64 (books, frames)."""

    clip: Clip
    audio: Audio
    codes: NDArray[np.int64]

    @property
    def seconds(self) -> float:
        return self.audio.source_samples / self.audio.source_rate

    def row(self) -> dict[str, Any]:
        """The row of a token shard: what the manifest said, and over it what was measured."""
        return {
            **self.clip.row,
            "id": self.clip.id,
            "audio": str(self.clip.path),
            "duration": self.seconds,
            "samples": self.audio.source_samples,
            "sample_rate": self.audio.source_rate,
            "codes": self.codes,
            "frames": self.codes.shape[1],
        }


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    clips: int
    seconds: float  # of audio
    skipped: int  # done by an earlier run
    rejects: list[Reject]


def encode_corpus(
    codec: Codec, clips: Iterable[Clip], books: int, batch_seconds: float = 120.0, workers: int = 2
) -> Iterator[Encoded | Reject]:
    """Codes of each clip, in the order of the clips; those that cannot be read come back as `Reject`."""
    for window in _windows(clips, codec.sample_rate, WINDOW_BATCHES * batch_seconds, workers):
        done: dict[int, Encoded | Reject] = {i: item for i, (_, item) in enumerate(window) if isinstance(item, Reject)}
        lengths = {i: len(item.samples) for i, (_, item) in enumerate(window) if isinstance(item, Audio)}
        for batch in length_batches(lengths, int(batch_seconds * codec.sample_rate)):
            codes = _encode(codec, [window[i][1].samples for i in batch], books)  # type: ignore[union-attr]
            for i, c in zip(batch, codes, strict=True):
                clip, audio = window[i]
                assert isinstance(audio, Audio)
                done[i] = Encoded(clip, audio, c)
        yield from (done[i] for i in range(len(window)))


def length_batches(lengths: dict[int, int], budget: int) -> list[list[int]]:
    """Group keys by length so that each padded batch holds at most `budget` samples (or a single longer clip)."""
    batches: list[list[int]] = []
    for key in sorted(lengths, key=lambda k: (lengths[k], k)):
        if batches and (len(batches[-1]) + 1) * lengths[key] <= budget:
            batches[-1].append(key)
        else:
            batches.append([key])
    return batches


def _encode(codec: Codec, waves: Sequence[NDArray[np.float32]], books: int) -> list[NDArray[np.int64]]:
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.zeros(len(waves), int(lengths.max()))
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    codes = codec.encode(padded, codec.sample_rate, lengths=lengths, books=books).cpu().numpy()
    return [c[:, : -(-len(wave) // codec.hop)] for c, wave in zip(codes, waves, strict=True)]


def _windows(
    clips: Iterable[Clip], sample_rate: int, seconds: float, workers: int
) -> Iterator[list[tuple[Clip, Audio | Reject]]]:
    """Decode ahead in threads (libsndfile, FFmpeg and soxr release the lock); group into windows of about `seconds`."""

    def decode(clip: Clip) -> Audio | Reject:
        try:
            return read_audio(clip.path, sample_rate)
        except UserError as e:
            return Reject(clip, str(e))

    window: list[tuple[Clip, Audio | Reject]] = []
    samples = 0
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        for clip, item in _ahead(pool, decode, clips, 2 * max(1, workers)):
            window.append((clip, item))
            samples += len(item.samples) if isinstance(item, Audio) else 0
            if samples >= seconds * sample_rate or len(window) >= SHARD_ROWS:
                yield window
                window, samples = [], 0
        if window:
            yield window
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor, decode: Callable[[Clip], Audio | Reject], clips: Iterable[Clip], depth: int
) -> Iterator[tuple[Clip, Audio | Reject]]:
    """Map in order with at most `depth` clips in flight, so that memory does not grow with the corpus."""
    waiting: deque[tuple[Clip, Future[Audio | Reject]]] = deque()
    for clip in clips:
        waiting.append((clip, pool.submit(decode, clip)))
        if len(waiting) > depth:
            first, future = waiting.popleft()
            yield first, future.result()
    for clip, future in waiting:
        yield clip, future.result()


def nothing_done(rejects: Sequence[Reject]) -> UserError:
    """What to say when every clip was rejected."""
    return UserError(rejects[0].reason if len(rejects) == 1 else f"no clip could be read; {rejects[0].reason}")


def pace(seconds: float, elapsed: float) -> str:
    """`1:20:00 of audio in 2:00, 40.0 x real time`."""
    return f"{clock(seconds)} of audio in {clock(elapsed)}, {seconds / max(elapsed, 1e-9):.1f} x real time"


def header_of(codec: Codec, books: int) -> Header:
    """Raises: UserError for books larger than shards can hold."""
    if codec.codebook_size > 2**15:
        raise UserError(f"token shards hold books of up to 32768 codes, and codec {codec.name} has {codec.codebook_size} in one")
    return Header(codec.name, codec.fingerprint_of(books), codec.sample_rate, codec.frame_rate, books, codec.codebook_size)


def check_books(codec: Codec, books: int | None) -> int:
    """`books`, or all of them.  Raises: UserError for more than the codec has."""
    if books is None:
        return codec.books
    if not 1 <= books <= codec.books:
        raise UserError(f"codec {codec.name} has books 1 to {codec.books}, so {books} cannot be used")
    return books


def tokenize_corpus(
    codec: Codec,
    corpus: Corpus,
    output: Path,
    books: int | None = None,
    batch_seconds: float = 120.0,
    workers: int = 2,
    limit: int | None = None,
    overwrite: bool = False,
) -> Summary:
    """Tokenize a corpus into the folder `output`, continuing what an earlier run left there.

    Raises: UserError when the folder cannot be written, holds another codec's tokens, or no clip at all could be read.
    """
    books = check_books(codec, books)
    total = len(corpus) if limit is None else min(limit, len(corpus))
    rejects: list[Reject] = []
    seconds = pending_seconds = 0.0
    clips = pending_rows = 0
    with ShardWriter(output, header_of(codec, books), overwrite) as writer:
        before = writer.rows
        todo = (clip for _, clip in zip(range(total), corpus, strict=False) if clip.id not in writer.done)
        began = time.monotonic()
        with Progress("tokenizing", total, "clips", start=min(before, total)) as bar:
            for item in encode_corpus(codec, todo, books, batch_seconds, workers):
                if isinstance(item, Reject):
                    rejects.append(item)
                else:
                    writer.add(item.row())
                    clips, seconds = clips + 1, seconds + item.seconds
                    pending_rows, pending_seconds = pending_rows + 1, pending_seconds + item.seconds
                    if pending_seconds >= SHARD_SECONDS or pending_rows >= SHARD_ROWS:
                        writer.flush()
                        pending_rows, pending_seconds = 0, 0.0
                bar.advance(note=f"{seconds / max(time.monotonic() - began, 1e-9):.0f} x real time")
        writer.flush()
        if writer.rows == 0:
            raise nothing_done(rejects)
        writer.write_manifest(complete=True)
        writer.write_rejects([{"id": r.clip.id, "audio": str(r.clip.path), "reason": r.reason} for r in rejects])
    return Summary(clips, seconds, before, rejects)


def tokenize(
    corpus: Annotated[
        str, typer.Argument(help="A folder, an audio file, a quoted glob, or a .csv or .jsonl manifest.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the token shards.")],
    codec: CodecOption = None,
    books: Annotated[int | None, typer.Option(help="Keep the first N books.", show_default="all")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N clips.", show_default="all")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the tokens there and start afresh.")] = False,
    workers: WorkersOption = WORKERS,
    batch_seconds: BatchOption = 120.0,
    device: DeviceOption = "auto",
) -> int:
    """Turn a corpus of audio into token shards (Parquet) with a manifest.

    A manifest names its audio in a column `audio`, `file` or `path`, relative to itself; every other column is carried
    into the shards.  A run that was stopped continues where it was when the same command is given again.  Clips that
    cannot be read are listed in `rejects.jsonl`, the rest is done, and the exit code is 1.

    Examples:

        solfa tokenize recordings/ -o tokens/
        solfa tokenize "corpus/**/*.flac" -o tokens/ --books 8
        solfa tokenize data/manifest.jsonl -o tokens/ --workers 8 --device cuda
    """
    clips = read_corpus(corpus, exclude=output)
    model = AudioTokenizer.from_pretrained(codec).to(devices.pick(device))
    began = time.monotonic()
    done = tokenize_corpus(model, clips, output, books, batch_seconds, workers, limit, overwrite)
    kept = f" ({done.skipped} more were there already)" if done.skipped else ""
    rate = f"{books or model.books} books at {model.bitrate(books) / 1000:g} kbps"
    print(f"{done.clips} clips, {pace(done.seconds, time.monotonic() - began)}, {rate} -> {output}{kept}")
    if done.rejects:
        tried = len(done.rejects) + done.clips
        listed = f"see {output / 'rejects.jsonl'}; first: {done.rejects[0].reason}"
        print(f"{len(done.rejects)} of {tried} clips were rejected, {listed}")
    return 1 if done.rejects else 0
