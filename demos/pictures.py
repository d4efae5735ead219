"""Figures of the demo: spectrograms with words, and codes.  Transparent, in greys that read on light and dark pages."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#7d8794"
ACCENT = "#14b8a6"
WINDOW = 1024  # samples
RANGE_DB = 80.0  # from the loudest point down to black
MAX_WORDS = 60  # more than this cannot be read on one picture


def spectrogram(samples: np.ndarray, sample_rate: int, words: Sequence[tuple[str, float, float]] = ()) -> Figure:
    """samples: (n,); words: (word, start, end) in seconds, written above the sound that they name."""
    figure = _canvas(3.0)
    axes = figure.subplots()
    _draw(axes, decibels(samples), len(samples) / sample_rate, sample_rate)
    axes.set_xlabel("seconds")
    upright = len(words) > 14
    for word, start, end in words if len(words) <= MAX_WORDS else ():
        for edge in (start, end):
            axes.axvline(edge, color="white", linewidth=0.6, alpha=0.35)
        axes.text(
            (start + end) / 2, 1.02, word, transform=axes.get_xaxis_transform(), color=INK, fontsize=8 if upright else 9,
            ha="center", va="bottom", rotation=60 if upright else 0, parse_math=False,
        )  # fmt: skip
    return figure


def comparison(original: np.ndarray, made: np.ndarray, sample_rate: int, label: str) -> Figure:
    """Two spectrograms (n,), one above the other, on one scale of loudness."""
    figure = _canvas(4.6)
    top, bottom = figure.subplots(2, sharex=True)
    pair = decibels(original), decibels(made)
    loudest = max(p.max() for p in pair)
    for axes, picture, name in zip((top, bottom), pair, ("original", label), strict=True):
        _draw(axes, picture, len(original) / sample_rate, sample_rate, loudest)
        axes.set_title(name, loc="left", color=INK, fontsize=9)
    bottom.set_xlabel("seconds")
    return figure


def code_map(codes: np.ndarray, books: int, codebook_size: int, frame_rate: float) -> Figure:
    """codes: (all books, frames); the rows past the first `books`, which the sound does without, are faded."""
    rows, frames = codes.shape
    figure = _canvas(1.2 + 0.11 * rows)
    axes = figure.subplots()
    extent = (0, frames / frame_rate, rows + 0.5, 0.5)
    opacity = np.where(np.arange(rows) < books, 1.0, 0.15)[:, None] * np.ones((1, frames))
    axes.imshow(
        codes,
        aspect="auto",
        interpolation="nearest",
        cmap="viridis",
        vmin=0,
        vmax=codebook_size - 1,
        extent=extent,
        alpha=opacity,
    )
    if books < rows:
        axes.axhline(books + 0.5, color=ACCENT, linewidth=1.5)
    axes.set_title(f"codes: {books} of {rows} books are heard", loc="left", color=INK, fontsize=9)
    axes.set_yticks(sorted({1, *range(4, rows + 1, 4), rows}))
    axes.set_ylabel("book")
    axes.set_xlabel("seconds")
    _quiet(axes)
    return figure


def decibels(samples: np.ndarray, columns: int = 1200) -> np.ndarray:
    """(n,) -> (WINDOW / 2 + 1, about `columns` or fewer) power in dB."""
    hop = max(WINDOW // 8, len(samples) // columns)
    padded = np.pad(samples.astype(np.float64), (WINDOW // 2, WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: len(samples) + 1 : hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))) ** 2
    return 10 * np.log10(power.T + 1e-9)


def _draw(axes: Axes, picture: np.ndarray, seconds: float, sample_rate: int, loudest: float | None = None) -> None:
    top = picture.max() if loudest is None else loudest
    extent = (0, seconds, 0, sample_rate / 2000)
    axes.imshow(picture, origin="lower", aspect="auto", cmap="magma", vmin=top - RANGE_DB, vmax=top, extent=extent)
    axes.set_ylabel("kHz")
    _quiet(axes)


def _canvas(height: float) -> Figure:
    """11 by `height` inches, no background."""
    return Figure(figsize=(11, height), dpi=110, layout="constrained", facecolor="none")


def _quiet(axes: Axes) -> None:
    axes.tick_params(colors=INK, labelsize=8)
    axes.xaxis.label.set(color=INK, fontsize=9)
    axes.yaxis.label.set(color=INK, fontsize=9)
    axes.set_facecolor("none")
    for side in axes.spines.values():
        side.set_visible(False)
