"""`solfa eval codec`: how well an audio tokenizer reconstructs recordings, or tokens their sources, per number of books.

Classical codecs can stand in the same table, measured on the same samples.
"""

import csv
import io
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from solfa.core.atomic import make_folder, remove_folders, write_bytes
from solfa.core.errors import UserError
from solfa.core.progress import Progress
from solfa.tokenizers.audio.audio_file import read_audio
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.readers.corpus import Clip, read_corpus
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset
from solfa.tokenizers.evaluation.classical_codecs import Classical, parse_classical
from solfa.tokenizers.evaluation.metrics import mel_distance, pesq_wb, si_sdr, stoi

COLUMNS = ("kbps", "PESQ-WB", "STOI", "mel distance", "SI-SDR dB", "encode x", "decode x")
MARGIN = 1.0  # seconds of codes past the part that is measured, which its sound may depend on
Row = tuple[float, ...]  # in the order of `COLUMNS`


class Sample(NamedTuple):
    """reference: (n,) at the codec's rate; codes: int64 (books, frames) of it, or None when they are to be made."""

    reference: np.ndarray
    codes: Tensor | None = None


def measure(codec: Codec, sample: Sample, books: list[int]) -> list[Row]:
    """-> a row for each number of books; speeds in seconds of audio per second, NaN for what was not done."""
    reference, given = sample
    rate = codec.sample_rate
    seconds = len(reference) / rate
    rows: list[Row] = []
    for k in books:
        began = time.perf_counter()
        codes = codec.encode(torch.from_numpy(reference), rate, books=k) if given is None else given[None, :k]
        encoded = time.perf_counter()
        made = codec.decode(codes)[0, : len(reference)].numpy()
        encoding = seconds / (encoded - began) if given is None else float("nan")
        speeds = encoding, codes.shape[2] / codec.frame_rate / (time.perf_counter() - encoded)
        rows.append((codec.bitrate(k) / 1000, *quality(reference, made, rate), *speeds))
    return rows


def measure_classical(codec: Classical, reference: np.ndarray, sample_rate: int) -> list[Row]:
    """reference: (n,) -> a row for each of the codec's bitrates."""
    seconds = len(reference) / sample_rate
    rows: list[Row] = []
    for rate in codec.rates:
        made, kbps, encoding, decoding = codec.through(reference, sample_rate, rate)
        rows.append((kbps, *quality(reference, made, sample_rate), seconds / encoding, seconds / decoding))
    return rows


def quality(reference: np.ndarray, made: np.ndarray, sample_rate: int) -> tuple[float, float, float, float]:
    pesq = pesq_wb(reference, made, sample_rate)
    return pesq, stoi(reference, made, sample_rate), mel_distance(reference, made, sample_rate), si_sdr(reference, made)


def read_clip(codec: Codec, clip: Clip, seconds: float) -> Sample:
    """The first `seconds` of a clip.  Raises: UserError for one that cannot be read or is too short to be measured."""
    return Sample(_heard(codec, clip, seconds)[0])


def read_row(codec: Codec, tokens: TokenDataset, index: int, clips: dict[str, Clip] | None, seconds: float) -> Sample:
    """The first `seconds` of a row of tokens and of its source, which is the clip with its id or else the file it names.

    Raises: UserError for a source that is missing, has changed, or cannot be measured.
    """
    row = tokens[index]
    span = (
        (row["offset"], row["duration"]) if isinstance(row.get("offset"), float) else None
    )  # as manifests.py leaves it
    clip = Clip(row["id"], Path(row["audio"]), span=span) if clips is None else clips.get(row["id"])
    if clip is None:
        raise UserError(f"row {row['id']} has no source among the recordings given")
    reference, samples, rate = _heard(codec, clip, seconds)
    if (samples, rate) != (row["samples"], row["sample_rate"]):
        was = f"{row['samples']} samples at {row['sample_rate']} Hz"
        raise UserError(f"{clip.path} is not what was tokenized: it has {samples} samples at {rate} Hz, not {was}")
    frames = int((len(reference) / codec.sample_rate + MARGIN) * codec.frame_rate)
    codes = codec.check_codes(row["codes"][None, :, :frames])[0]
    if codes.shape[1] * codec.hop < len(reference):
        raise UserError(f"row {row['id']} has {codes.shape[1]} frames, too few for its source")
    return Sample(reference, codes)


def _heard(codec: Codec, clip: Clip, seconds: float) -> tuple[np.ndarray, int, int]:
    """-> (n,) at the codec's rate, samples and rate of the source."""
    audio = read_audio(clip.path, codec.sample_rate, clip.data() if clip.data else None, clip.span)
    x = audio.samples[: int(seconds * codec.sample_rate)]
    if len(x) < codec.sample_rate // 2:
        raise UserError(f"{clip.path} is shorter than half a second")
    return x, audio.source_samples, audio.source_rate


def evaluate(
    references: Annotated[
        list[str] | None, typer.Argument(help="Folders, globs, files or manifests of recordings.", show_default=False)
    ] = None,
    codec: Annotated[str | None, typer.Option(help="Audio tokenizer: a bundled name, a folder or a hub id.")] = None,
    books: Annotated[
        str, typer.Option(help="Numbers of books to measure, with commas.", show_default="1,2,4,8,...,all")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many clips, evenly spread.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Longest part of a clip to use.")] = 10.0,
    against: Annotated[
        str, typer.Option(help="Classical codecs for the same table, with commas: opus, mp3, codec2.")
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write every clip's figures to this CSV file.", show_default=False),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="Score these token shards; the recordings are their sources, by default where they were.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Print bitrate, PESQ-WB, STOI, mel distance, SI-SDR and speed per number of books.

    With --tokens, what is measured are the codes that are stored, against the audio that each row names as its source.  If
    that has moved, or was inside a tar or a data set, give the corpus as well: rows find their sources by their ids.

    Examples:

        solfa eval codec recordings/ --limit 40
        solfa eval codec recordings/ --codec kyutai/mimi --against opus,codec2
        solfa eval codec --tokens tokens/ --limit 40
    """
    model = AudioTokenizer.from_pretrained(codec)
    dataset = None
    if tokens is not None:
        dataset = TokenDataset(tokens, model.fingerprint_of(TokenDataset(tokens).books), cache_bytes=0)
    elif not references:
        raise UserError("name recordings to measure, or token shards by --tokens")
    if out is not None:
        check_file(out)
    counts = parse_books(books, model.books if dataset is None else dataset.books)
    others = parse_classical(against)
    absent = [sentence for other in others if (sentence := other.missing())]
    others = [other for other in others if not other.missing()]
    clips = [clip for source in references or [] for clip in read_corpus(source)]
    work: list[tuple[str, Callable[[], Sample]]]
    if dataset is None:
        work = [(clip.id, partial(read_clip, model, clip, seconds)) for clip in clips]
    else:
        sources = {clip.id: clip for clip in clips} if references else None
        ids = dataset.column("id")
        work = [(name, partial(read_row, model, dataset, i, sources, seconds)) for i, name in enumerate(ids)]
    if limit:
        work = work[:: max(1, len(work) // limit)][:limit]
    results, failed = [], []
    with Progress("measuring", total=len(work), unit="clips") as bar:
        for name, read in work:
            try:
                sample = read()
                rows = measure(model, sample, counts)
                for other in others:
                    rows += measure_classical(other, sample.reference, model.sample_rate)
                results.append((name, rows))
            except UserError as e:
                failed.append(str(e))
            bar.advance()
    if not results:
        raise UserError(f"nothing could be measured: {failed[0] if failed else 'no clips'}")
    # The first clip pays for warming up, so speeds are medians.
    values = np.array([rows for _, rows in results])
    mean = np.concatenate([np.nanmean(values[..., :5], axis=0), np.median(values[..., 5:], axis=0)], axis=1)
    labels = [(model.name, str(k)) for k in counts] + [(other.name, "") for other in others for _ in other.rates]
    table = Table("codec", "books", *COLUMNS, title=f"{len(results)} clips, {torch.get_num_threads()} threads")
    for label, row in zip(labels, mean, strict=True):
        cells = (
            "-" if np.isnan(value) else f"{value:.{digits}f}"
            for value, digits in zip(row, (2, 2, 3, 3, 1, 0, 0), strict=True)
        )
        table.add_row(*label, *cells)
    Console(width=max(100, Console().width)).print(table)
    for sentence in [*absent, *failed]:
        print(f"left out: {sentence}")
    if out:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["id", "codec", "books", *COLUMNS])
        writer.writerows(
            [name, *label, *row] for name, rows in results for label, row in zip(labels, rows, strict=True)
        )
        write_bytes(out, text.getvalue().encode("utf-8", "replace"))
    return 1 if failed else 0


def check_file(path: Path) -> None:
    """Raises: UserError, before the work rather than after it, where no file could be written."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file")
    remove_folders(make_folder(path.parent))


def parse_books(words: str, most: int) -> list[int]:
    """`4,8` -> [4, 8]; empty -> some numbers up to `most`, the books there are."""
    if not words:
        return sorted({k for k in (1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32) if k <= most} | {most})
    try:
        counts = [int(w) for w in words.split(",")]
    except ValueError:
        raise UserError(f"--books should be numbers with commas, not {words!r}") from None
    if not all(1 <= k <= most for k in counts):
        raise UserError(f"--books should lie in 1..{most}")
    return counts
