"""Figures of the demo: spectrograms with words, by librosa, and codes.  Transparent, in greys for light and dark pages."""

from collections.abc import Sequence

import librosa
import librosa.display
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#7d8794"
ACCENT = "#14b8a6"
WINDOW = 1024  # samples
COLUMNS = 1000  # of a spectrogram: more are not seen
RANGE_DB = 80.0  # from the loudest point down to black
MAX_WORDS = 60  # more than this cannot be read on one picture


def spectrogram(samples: np.ndarray, sample_rate: int, words: Sequence[tuple[str, float, float]] = ()) -> Figure:
    """samples: (n,); words: (word, start, end) in seconds, written above the sound that they name."""
    figure = _canvas(3.0)
    axes = figure.subplots()
    _draw(axes, decibels(samples), hop(samples), sample_rate)
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


def comparison(original: np.ndarray, decoded: np.ndarray, sample_rate: int, label: str) -> Figure:
    """Two spectrograms (n,), one above the other, on one scale of loudness."""
    figure = _canvas(4.6)
    top, bottom = figure.subplots(2, sharex=True)
    pair = decibels(original), decibels(decoded)
    loudest = max(p.max() for p in pair)
    for axes, picture, name in zip((top, bottom), pair, ("original", label), strict=True):
        _draw(axes, picture, hop(original), sample_rate, loudest)
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
    axes.set_title(f"codes: {books} of {rows} books are decoded", loc="left", color=INK, fontsize=9)
    axes.set_yticks(sorted({1, *range(4, rows + 1, 4), rows}))
    axes.set_ylabel("book")
    axes.set_xlabel("seconds")
    _quiet(axes)
    return figure


def hop(samples: np.ndarray) -> int:
    """Samples from one column of a spectrogram of (n,) samples to the next."""
    return max(WINDOW // 8, len(samples) // COLUMNS)


def decibels(samples: np.ndarray) -> np.ndarray:
    """(n,) -> (WINDOW / 2 + 1, about COLUMNS or fewer) power in dB."""
    spectrum = librosa.stft(samples.astype(np.float32), n_fft=WINDOW, hop_length=hop(samples))
    return librosa.amplitude_to_db(np.abs(spectrum), ref=1.0, amin=3e-5, top_db=None)


def _draw(axes: Axes, picture: np.ndarray, step: int, sample_rate: int, loudest: float | None = None) -> None:
    """A picture of `decibels`, with `step` samples between its columns, and everything RANGE_DB below the top in black."""
    top = picture.max() if loudest is None else loudest
    librosa.display.specshow(
        picture, sr=sample_rate, hop_length=step, x_axis="s", y_axis="linear", ax=axes, cmap="magma", vmin=top - RANGE_DB, vmax=top
    )  # fmt: skip
    axes.yaxis.set_major_formatter(lambda hertz, _: f"{hertz / 1000:g}")
    axes.set_xlabel("")
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
