"""`solfa eval codec`: how well an audio tokenizer reconstructs a folder of recordings, per number of books."""

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
from solfa.tokenizers.audio.metrics import mel_distance, pesq_wb, si_sdr, stoi
from solfa.tokenizers.audio.model import AudioTokenizer
from solfa.tokenizers.audio_io import read_audio
from solfa.tokenizers.corpus import read_corpus

COLUMNS = ("PESQ-WB", "STOI", "mel distance", "SI-SDR dB", "encode x", "decode x")


def measure(codec: AudioTokenizer, reference: np.ndarray, books: list[int]) -> np.ndarray:
    """reference: (n,) at the codec's rate -> (len(books), len(COLUMNS)); speeds in seconds of audio per second."""
    rate = codec.sample_rate
    wav = torch.from_numpy(reference)
    began = time.perf_counter()
    codes = codec.encode(wav, rate)
    encoded = len(reference) / rate / (time.perf_counter() - began)
    rows = []
    for k in books:
        began = time.perf_counter()
        made = codec.decode(codes[:, :k])[0, : len(reference)].numpy()
        decoded = len(reference) / rate / (time.perf_counter() - began)
        quality = pesq_wb(reference, made, rate), stoi(reference, made, rate), mel_distance(reference, made, rate), si_sdr(reference, made)
        rows.append((*quality, encoded, decoded))
    return np.array(rows)


def evaluate(
    references: Annotated[list[str], typer.Argument(help="Folders, globs, files or manifests of recordings.")],
    codec: Annotated[str | None, typer.Option(help="Audio tokenizer: a bundled name, a folder or a hub id.")] = None,
    books: Annotated[str, typer.Option(help="Numbers of books to measure, with commas.", show_default="1,2,4,8,...,all")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many clips, evenly spread.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Longest part of a clip to use.")] = 10.0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write every clip's figures to this CSV file.", show_default=False)] = None,
) -> int:
    """Print bitrate, PESQ-WB, STOI, mel distance, SI-SDR and speed per number of books.

    Example: solfa eval codec recordings/ --limit 40
    """
    model = AudioTokenizer.from_pretrained(codec)
    counts = parse_books(books, model)
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
                results.append((clip.id, measure(model, x, counts)))
            except UserError as e:
                failed.append(str(e))
            bar.advance()
    if not results:
        raise UserError(f"nothing could be measured: {failed[0] if failed else 'no clips'}")
    # The first clip pays for warming up, so speeds are medians.
    values = np.stack([r for _, r in results])
    mean = np.concatenate([np.nanmean(values[..., :4], axis=0), np.median(values[..., 4:], axis=0)], axis=1)
    table = Table("books", "kbps", *COLUMNS, title=f"{model.name} on {len(results)} clips, {torch.get_num_threads()} threads")
    for k, row in zip(counts, mean, strict=True):
        cells = (f"{row[0]:.2f}", f"{row[1]:.3f}", f"{row[2]:.3f}", f"{row[3]:.1f}", f"{row[4]:.0f}", f"{row[5]:.0f}")
        table.add_row(str(k), f"{model.bitrate(k) / 1000:.2f}", *cells)
    Console(width=max(100, Console().width)).print(table)
    for sentence in failed:
        print(f"left out: {sentence}")
    if out:
        with out.open("w", encoding="utf-8", newline="") as f:
            writer = csv.writer(f)
            writer.writerow(["id", "books", *COLUMNS])
            writer.writerows([name, k, *row] for name, rows in results for k, row in zip(counts, rows, strict=True))
    return 1 if failed else 0


def parse_books(words: str, codec: AudioTokenizer) -> list[int]:
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
