"""One picture of a token data set: how long its clips are, who speaks, and how evenly each book's codes are used."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from solfa.core.atomic import replacing
from solfa.core.errors import UserError
from solfa.tokenizers.datasets.shards.token_statistics import TokenStatistics

INK, FAINT, ACCENT = "#334155", "#e2e8f0", "#14b8a6"
SUFFIXES = (".png", ".pdf", ".svg")
NAMED_SPEAKERS = 14  # more of them are a curve without names


def check_picture(path: Path) -> None:
    """Raises: UserError for another ending than `SUFFIXES`."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} should end in {', '.join(SUFFIXES)} to say which kind of picture to write")


def save_plot(path: Path, statistics: TokenStatistics, title: str) -> None:
    """Write the picture, whole or not at all.  Raises: UserError as `check_picture`, and where it cannot be written."""
    check_picture(path)
    with replacing(path) as aside:
        draw(statistics, title).savefig(aside, dpi=150)


def draw(statistics: TokenStatistics, title: str) -> Figure:
    """Four panels, or three where no speaker is named."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.05)
    figure = Figure(figsize=(12, 7.4), layout=layout, facecolor="white")
    figure.suptitle(title, x=0.012, ha="left", color=INK, fontsize=13, fontweight="bold", parse_math=False)
    if statistics.speakers:
        (durations, speakers), (frequencies, entropy) = figure.subplots(2, 2)
        _speakers(speakers, statistics)
    else:
        mosaic = figure.subplot_mosaic([["durations", "durations"], ["frequencies", "entropy"]])
        durations, frequencies, entropy = mosaic["durations"], mosaic["frequencies"], mosaic["entropy"]
    _durations(durations, statistics)
    _frequencies(frequencies, statistics)
    _entropy(entropy, statistics)
    return figure


def _durations(axes: Axes, statistics: TokenStatistics) -> None:
    seconds = statistics.durations
    _quiet(axes, "Durations", "seconds", "clips")
    if not len(seconds):
        return
    # The longest hundredth would squeeze all others; it is drawn in the last bar.
    top = max(float(np.quantile(seconds, 0.99)), 1e-3)
    axes.hist(
        np.minimum(seconds, top), bins=min(60, max(10, len(seconds) // 8)), range=(0, top), color=ACCENT, alpha=0.85
    )
    median = float(np.median(seconds))
    axes.axvline(median, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(
        median, 0.97, f"  median {median:.1f} s, longest {seconds.max():.1f} s", color=INK, fontsize=9, va="top",
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlim(0, top)
    axes.set_ylim(0, 1.12 * axes.get_ylim()[1])  # room for the words above
    if top < seconds.max():
        axes.set_xlabel("seconds (the last bar holds all longer ones)")


def _speakers(axes: Axes, statistics: TokenStatistics) -> None:
    names = list(statistics.speakers)
    minutes = np.array([share.seconds for share in statistics.speakers.values()]) / 60
    unit, values = ("hours", minutes / 60) if minutes.max() >= 120 else ("minutes", minutes)
    if len(names) <= NAMED_SPEAKERS:
        _quiet(axes, f"Speakers: {len(names)}", unit, "", grid="x")
        axes.barh(range(len(names)), values, color=ACCENT, alpha=0.85, height=0.72)
        axes.set_yticks(range(len(names)), [_short(name) for name in names], parse_math=False)
        axes.invert_yaxis()
        return
    _quiet(axes, f"Speakers: {len(names)}", "speakers, most speech first", unit)
    axes.fill_between(
        np.arange(len(values) + 1), np.append(values, values[-1]), step="post", color=ACCENT, alpha=0.85, linewidth=0
    )
    axes.text(
        0.98,
        0.95,
        f"most: {_short(names[0])}",
        color=INK,
        fontsize=9,
        ha="right",
        va="top",
        transform=axes.transAxes,
        parse_math=False,
    )
    axes.set_xlim(0, len(values))
    axes.set_ylim(0)


def _frequencies(axes: Axes, statistics: TokenStatistics) -> None:
    size = statistics.header.codebook_size
    _quiet(axes, "How often each code occurs, sorted", "code, most frequent first", "share of the book")
    ranks = np.arange(1, size + 1)
    # From the last book to the first, whose curve is steepest and should lie on top.
    for book in reversed(range(statistics.header.books)):
        share = np.sort(statistics.probabilities[book])[::-1]
        axes.plot(ranks, np.where(share > 0, share, np.nan), color=_colour(book, statistics), linewidth=1.2, alpha=0.9)
    axes.axhline(1 / size, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(
        0.01,
        1 / (1.15 * size),
        "if all were used alike",
        color=INK,
        fontsize=9,
        va="top",
        transform=axes.get_yaxis_transform(),
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1, size)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rank, _: f"{rank:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    if statistics.header.books > 1:
        scale = ScalarMappable(Normalize(1, statistics.header.books), colormaps["viridis_r"])
        bar = axes.figure.colorbar(scale, ax=axes, pad=0.015, aspect=30)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.ax.tick_params(colors=INK, labelsize=8, length=0)
        bar.ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        bar.ax.set_title("book", color=INK, fontsize=9)


def _entropy(axes: Axes, statistics: TokenStatistics) -> None:
    header = statistics.header
    most = np.log2(header.codebook_size)
    _quiet(axes, f"Entropy: {statistics.entropy_kbps:.2f} of {header.kbps:.2f} kbps", "book", "bits per code")
    books = np.arange(1, header.books + 1)
    axes.bar(books, most, color=FAINT, width=0.8)
    axes.bar(books, statistics.entropy, color=[_colour(book, statistics) for book in range(header.books)], width=0.8)
    axes.set_xlim(0.4, header.books + 0.6)
    axes.set_ylim(0, most)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))


def _colour(book: int, statistics: TokenStatistics) -> tuple[float, float, float, float]:
    return colormaps["viridis_r"](book / max(1, statistics.header.books - 1))


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:8]}…{name[-9:]}"


def _quiet(axes: Axes, title: str, x: str, y: str, grid: str = "y") -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.set_xlabel(x, color=INK, fontsize=9)
    axes.set_ylabel(y, color=INK, fontsize=9)
    axes.tick_params(which="both", colors=INK, labelsize=8, length=0)
    axes.grid(axis=grid, color=FAINT, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
