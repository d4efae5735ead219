"""Progress on stderr: a bar with count and time left on a terminal, a plain line now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

T = TypeVar("T")

LOG_EVERY = 15.0  # seconds between lines where stderr is not a terminal


class Progress:
    """A context manager that counts to `total` (None: unknown) and shows the time left.

    ```
    with Progress("tokenizing", total=len(corpus), unit="clips") as bar:
        bar.advance(1, note="40 x real time")
    ```
    """

    def __init__(self, label: str, total: float | None, unit: str = "", start: float = 0):
        """`start`: how many were done before this run; they do not count for the speed."""
        self.label, self.total, self.unit, self.start, self.done = label, total, unit, start, start
        self.note = ""
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", style="dim"),
        )  # fmt: skip
        self._bar = RichProgress(*columns, console=console) if console.is_terminal else None

    def __enter__(self) -> "Progress":
        self._began = self._logged = time.monotonic()
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=int(self.start), note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._logged > self._began and kind is None:  # a run that logged anything also logs its end
            self._log()

    def advance(self, steps: float = 1, note: str | None = None) -> None:
        """Count `steps` more; `note` (kept until the next one) is shown at the end of the line."""
        self.done += steps
        self.note = self.note if note is None else note
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, note=self.note)
        elif time.monotonic() - self._logged >= LOG_EVERY:
            self._log()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _log(self) -> None:
        self._logged = time.monotonic()
        print(describe(self, self._logged - self._began), file=sys.stderr, flush=True)


def describe(bar: Progress, elapsed: float) -> str:
    """One line for a log: `tokenizing: 120/1580 clips, 0:21 elapsed, 4:16 left, 40 x real time`."""
    count = f"{bar.done:g}/{bar.total:g}" if bar.total is not None else f"{bar.done:g}"
    words = [f"{bar.label}: {count} {bar.unit}".rstrip(), f"{clock(elapsed)} elapsed"]
    if bar.total and bar.done > bar.start:
        words.append(f"{clock(elapsed / (bar.done - bar.start) * max(bar.total - bar.done, 0))} left")
    return ", ".join([*words, bar.note] if bar.note else words)


def clock(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, s = divmod(round(seconds), 60)
    h, m = divmod(minutes, 60)
    return f"{h}:{m:02}:{s:02}" if h else f"{m}:{s:02}"


def track(items: Iterable[T], label: str, total: float | None = None, unit: str = "") -> Iterator[T]:
    """Yield the items and count them; `total` defaults to their `len` where they have one."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(label, total, unit) as bar:
        for item in items:
            yield item
            bar.advance()
