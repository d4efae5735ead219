"""`solfa eval codec`: how well an audio tokenizer reconstructs recordings, or tokens their sources, per number of books.

Classical codecs can stand in the same table, measured on the same samples.
"""

import csv
import io
import math
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from solfa.core.atomic import write_bytes
from solfa.core.errors import UserError
from solfa.core.output import check_output
from solfa.core.progress import track
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.readers.corpus import Clip, read_corpus
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset
from solfa.tokenizers.evaluation.classical_codecs import Classical, parse_classical
from solfa.tokenizers.evaluation.metrics import mel_distance, pesq_wb, si_sdr, stoi

COLUMNS = ("kbps", "PESQ-WB", "STOI", "mel distance", "SI-SDR dB", "encode x", "decode x")
DIGITS = (2, 2, 3, 3, 1, 0, 0)  # after the decimal point, by column
SPEEDS = 5  # the column where speeds begin
MARGIN = 1.0  # seconds of codes decoded beyond the part that is measured, whose sound may depend on them
SHORTEST = 0.5  # seconds of a clip that can be measured
Row = tuple[float, ...]  # in the order of `COLUMNS`


class Sample(NamedTuple):
    """reference: float32 (n,) at the codec's rate; codes: int64 (books, frames) of it, or None where they are to be made."""

    reference: np.ndarray
    codes: Tensor | None = None


def measure(codec: Codec, sample: Sample, books: list[int]) -> list[Row]:
    """-> a row for each number of books; speeds in seconds of audio per second, NaN for encoding that was not done."""
    reference, stored = sample
    rate = codec.sample_rate
    seconds = len(reference) / rate
    rows: list[Row] = []
    for k in books:
        start = time.perf_counter()
        codes = codec.encode(torch.from_numpy(reference), rate, books=k) if stored is None else stored[None, :k]
        encoded = time.perf_counter()
        decoded = codec.decode(codes)[0, : len(reference)].numpy()
        encode_speed = seconds / (encoded - start) if stored is None else math.nan
        decode_speed = codes.shape[2] / codec.frame_rate / (time.perf_counter() - encoded)
        rows.append((codec.bitrate(k) / 1000, *quality(reference, decoded, rate), encode_speed, decode_speed))
    return rows


def measure_classical(codec: Classical, reference: np.ndarray, sample_rate: int) -> list[Row]:
    """reference: float32 (n,) -> a row for each of the codec's bitrates.  Raises: UserError where its program fails."""
    seconds = len(reference) / sample_rate
    rows: list[Row] = []
    for rate in codec.rates:
        decoded, kbps, encoding, decoding = codec.code(reference, sample_rate, rate)
        rows.append((kbps, *quality(reference, decoded, sample_rate), seconds / encoding, seconds / decoding))
    return rows


def quality(reference: np.ndarray, decoded: np.ndarray, sample_rate: int) -> tuple[float, float, float, float]:
    """Both float32 (n,) -> PESQ-WB, STOI, mel distance (decades), SI-SDR (dB)."""
    pesq = pesq_wb(reference, decoded, sample_rate)
    mel = mel_distance(reference, decoded, sample_rate)
    return pesq, stoi(reference, decoded, sample_rate), mel, si_sdr(reference, decoded)


def read_clip(codec: Codec, clip: Clip, seconds: float) -> Sample:
    """The first `seconds` of a clip.  Raises: UserError for one that cannot be read or is too short to be measured."""
    return Sample(_read_part(codec, clip, seconds)[0])


def read_row(codec: Codec, tokens: TokenDataset, index: int, clips: dict[str, Clip] | None, seconds: float) -> Sample:
    """The first `seconds` of a row of tokens and of its source, which is the clip with its id or else the file it names.

    Raises: UserError for a source that is missing, has changed, or cannot be measured.
    """
    row = tokens[index]
    # a part of a file, as manifests name it
    span = (row["offset"], row["duration"]) if isinstance(row.get("offset"), float) else None
    clip = Clip(row["id"], Path(row["audio"]), span=span) if clips is None else clips.get(row["id"])
    if clip is None:
        raise UserError(f"row {row['id']} has no source among the recordings given")
    reference, samples, rate = _read_part(codec, clip, seconds)
    if (samples, rate) != (row["samples"], row["sample_rate"]):
        was = f"{row['samples']} samples at {row['sample_rate']} Hz"
        raise UserError(f"{clip.path} is not what was tokenized: it has {samples} samples at {rate} Hz, not {was}")
    frames = int((len(reference) / codec.sample_rate + MARGIN) * codec.frame_rate)
    codes = codec.check_codes(row["codes"][None, :, :frames])[0]
    if codes.shape[1] * codec.hop < len(reference):
        raise UserError(f"row {row['id']} has {codes.shape[1]} frames, too few for its source")
    return Sample(reference, codes)


def _read_part(codec: Codec, clip: Clip, seconds: float) -> tuple[np.ndarray, int, int]:
    """-> float32 (n,) at the codec's rate, and samples and rate of the source."""
    audio = clip.read(codec.sample_rate)
    x = audio.samples[: int(seconds * codec.sample_rate)]
    if len(x) < SHORTEST * codec.sample_rate:
        raise UserError(f"{clip.path} is shorter than half a second")
    if not x.any():
        raise UserError(f"{clip.path} is silent")
    return x, audio.source_samples, audio.source_rate


Work = list[tuple[str, Callable[[], Sample]]]  # ids, and functions that read what is to be measured


def plan_work(codec: Codec, dataset: TokenDataset | None, references: list[str], seconds: float) -> Work:
    """The clips of the references, or the rows of token shards, whose sources are looked for in the references if given.

    Raises: UserError for references that cannot be read.
    """
    clips = [clip for source in references for clip in read_corpus(source)]
    if dataset is None:
        return [(clip.id, partial(read_clip, codec, clip, seconds)) for clip in clips]
    sources = {clip.id: clip for clip in clips} if references else None
    ids = dataset.column("id")
    return [(name, partial(read_row, codec, dataset, i, sources, seconds)) for i, name in enumerate(ids)]


Results = list[tuple[str, list[Row]]]  # of each clip: its id, and a row for each label


def measure_all(work: Work, codec: Codec, books: list[int], others: list[Classical]) -> tuple[Results, list[str]]:
    """Measure clips.  -> the results, and a sentence for each that failed."""
    results, failed = [], []
    for name, read in track(work, "measuring"):
        try:
            sample = read()
            rows = measure(codec, sample, books)
            for other in others:
                rows += measure_classical(other, sample.reference, codec.sample_rate)
            results.append((name, rows))
        except UserError as e:
            failed.append(str(e))
    if not results:
        raise UserError(f"nothing could be measured: {failed[0] if failed else 'no clips'}")
    return results, failed


def quality_table(results: Results, labels: list[tuple[str, str]]) -> Table:
    """Means over the clips, and medians of speeds, for the first clip pays for warming up; a row for each label."""
    values = np.array([rows for _, rows in results])  # (clips, labels, columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a mean of nothing but NaN, as of PESQ without speech
        quality_means = np.nanmean(values[..., :SPEEDS], axis=0)
    mean = np.concatenate([quality_means, np.median(values[..., SPEEDS:], axis=0)], axis=1)
    table = Table("codec", "books", *COLUMNS, title=f"{len(results)} clips, {torch.get_num_threads()} threads")
    for label, row in zip(labels, mean, strict=True):
        cells = ("-" if math.isnan(v) else f"{v:.{digits}f}" for v, digits in zip(row, DIGITS, strict=True))
        table.add_row(*label, *cells)
    return table


def csv_bytes(header: Sequence[object], rows: Sequence[Sequence[object]]) -> bytes:
    """A CSV file in UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


def evaluate(
    references: Annotated[
        list[str] | None, typer.Argument(help="Folders, globs, files or manifests of recordings.", show_default=False)
    ] = None,
    codec: Annotated[str | None, typer.Option(help="A bundled name, a folder, or hf:owner/name.")] = None,
    books: Annotated[
        str,
        typer.Option(help="Numbers of books (codebooks, n_q) to measure, with commas.", show_default="1,2,4,8,...,all"),
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many clips, evenly spread.")] = None,
    seconds: Annotated[float, typer.Option(help="Longest part of a clip to use, at least half a second.")] = 10.0,
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
        solfa eval codec recordings/ --codec hf:kyutai/mimi --against opus,codec2
        solfa eval codec --tokens tokens/ --limit 40
    """
    if not seconds >= SHORTEST or math.isinf(seconds):
        raise UserError(f"--seconds {seconds:g} should be a number of at least {SHORTEST}")
    if out is not None:
        check_output(out)
    others = parse_classical(against)
    if tokens is None and not references:
        raise UserError("name recordings to measure, or token shards by --tokens")
    model = AudioTokenizer.from_pretrained(codec)
    dataset = None
    if tokens is not None:
        dataset = TokenDataset(tokens, model.fingerprint_of(TokenDataset(tokens).books), cache_bytes=0)
    counts = parse_books(books, model.books if dataset is None else dataset.books)
    absent = [sentence for other in others if (sentence := other.missing())]
    others = [other for other in others if not other.missing()]
    work = plan_work(model, dataset, references or [], seconds)
    if limit:
        work = work[:: max(1, len(work) // limit)][:limit]
    results, failed = measure_all(work, model, counts, others)
    labels = [(model.name, str(k)) for k in counts] + [(other.name, "") for other in others for _ in other.rates]
    Console(width=max(100, Console().width)).print(quality_table(results, labels))
    for sentence in [*absent, *failed]:
        print(f"left out: {sentence}")
    if out:
        rows = [[name, *label, *row] for name, rows in results for label, row in zip(labels, rows, strict=True)]
        write_bytes(out, csv_bytes(["id", "codec", "books", *COLUMNS], rows))
    return 1 if failed else 0


def parse_books(words: str, most: int) -> list[int]:
    """`4,8` -> [4, 8]; empty -> some numbers up to `most`, the books there are.

    Raises: UserError for anything but numbers within 1..most.
    """
    if not words:
        return sorted({k for k in (1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32) if k <= most} | {most})
    try:
        counts = [int(w) for w in words.split(",")]
    except ValueError:
        raise UserError(f"--books should be numbers with commas, not {words!r}") from None
    if not all(1 <= k <= most for k in counts):
        raise UserError(f"--books {words} should lie in 1..{most}")
    return counts
