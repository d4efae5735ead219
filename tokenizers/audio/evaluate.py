"""`solfa eval codec`: how well an audio tokenizer reconstructs a folder of recordings, per number of books.

Classical codecs can stand in the same table, measured on the same samples.
"""

import csv
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from solfa.errors import UserError
from solfa.progress import Progress
from solfa.tokenizers.audio.classical import Classical, parse_classical
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.metrics import mel_distance, pesq_wb, si_sdr, stoi
from solfa.tokenizers.audio.model import AudioTokenizer
from solfa.tokenizers.audio_io import read_audio
from solfa.tokenizers.corpus import read_corpus

COLUMNS = ("kbps", "PESQ-WB", "STOI", "mel distance", "SI-SDR dB", "encode x", "decode x")
Row = tuple[float, ...]  # in the order of `COLUMNS`


def measure(codec: Codec, reference: np.ndarray, books: list[int]) -> list[Row]:
    """reference: (n,) at the codec's rate -> a row for each number of books; speeds in seconds of audio per second."""
    rate = codec.sample_rate
    seconds = len(reference) / rate
    rows: list[Row] = []
    for k in books:
        began = time.perf_counter()
        codes = codec.encode(torch.from_numpy(reference), rate, books=k)
        encoded = time.perf_counter()
        made = codec.decode(codes)[0, : len(reference)].numpy()
        speeds = seconds / (encoded - began), seconds / (time.perf_counter() - encoded)
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


def evaluate(
    references: Annotated[list[str], typer.Argument(help="Folders, globs, files or manifests of recordings.")],
    codec: Annotated[str | None, typer.Option(help="Audio tokenizer: a bundled name, a folder or a hub id.")] = None,
    books: Annotated[str, typer.Option(help="Numbers of books to measure, with commas.", show_default="1,2,4,8,...,all")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many clips, evenly spread.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Longest part of a clip to use.")] = 10.0,
    against: Annotated[str, typer.Option(help="Classical codecs for the same table, with commas: opus, mp3, codec2.")] = "",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write every clip's figures to this CSV file.", show_default=False)] = None,
) -> int:
    """Print bitrate, PESQ-WB, STOI, mel distance, SI-SDR and speed per number of books.

    Examples:

        solfa eval codec recordings/ --limit 40
        solfa eval codec recordings/ --codec kyutai/mimi --against opus,codec2
    """
    model = AudioTokenizer.from_pretrained(codec)
    counts = parse_books(books, model)
    others = parse_classical(against)
    absent = [sentence for other in others if (sentence := other.missing())]
    others = [other for other in others if not other.missing()]
    clips = [clip for source in references for clip in read_corpus(source)]
    if limit:
        clips = clips[:: max(1, len(clips) // limit)][:limit]
    results, failed = [], []
    with Progress("measuring", total=len(clips), unit="clips") as bar:
        for clip in clips:
            try:
                x = read_audio(clip.path, sample_rate=model.sample_rate).samples[: int(seconds * model.sample_rate)]
                if len(x) < model.sample_rate // 2:
                    raise UserError(f"{clip.path} is shorter than half a second")
                rows = measure(model, x, counts)
                for other in others:
                    rows += measure_classical(other, x, model.sample_rate)
                results.append((clip.id, rows))
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
        cells = (f"{value:.{digits}f}" for value, digits in zip(row, (2, 2, 3, 3, 1, 0, 0), strict=True))
        table.add_row(*label, *cells)
    Console(width=max(100, Console().width)).print(table)
    for sentence in [*absent, *failed]:
        print(f"left out: {sentence}")
    if out:
        with out.open("w", encoding="utf-8", newline="") as f:
            writer = csv.writer(f)
            writer.writerow(["id", "codec", "books", *COLUMNS])
            writer.writerows([name, *label, *row] for name, rows in results for label, row in zip(labels, rows, strict=True))
    return 1 if failed else 0


def parse_books(words: str, codec: Codec) -> list[int]:
    """`4,8` -> [4, 8]; empty -> powers of two up to all books."""
    if not words:
        return sorted({k for k in (1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32) if k <= codec.books} | {codec.books})
    try:
        counts = [int(w) for w in words.split(",")]
    except ValueError:
        raise UserError(f"--books should be numbers with commas, not {words!r}") from None
    if not all(1 <= k <= codec.books for k in counts):
        raise UserError(f"--books should lie in 1..{codec.books}")
    return counts
