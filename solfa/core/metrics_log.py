"""The log of a training run: `metrics.jsonl`, TensorBoard, and the curves drawn from the former."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
MOST_NAMED = 8  # curves of a panel that a legend can still show apart
IN_NOTE = 6  # means that a line on the screen has room for


class MetricsLog:
    """Writes a line every `every` steps, of means since the line before; lines after `step` are of a run that died.

    note: the last line in words.
    """

    def __init__(self, folder: Path, step: int, every: int, peak: float = 0.0):
        """peak: floating-point operations per second that all processes could do; 0 where nobody counts."""
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.every, self.peak = folder / METRICS, every, peak
        old = read_metrics(self.path) if self.path.exists() else []
        self.path.write_text("".join(json.dumps(row) + "\n" for row in old if row["step"] <= step), encoding="utf-8")
        self.writer = SummaryWriter(str(folder / "logs"), purge_step=step + 1)
        self.values: dict[str, list[float]] = defaultdict(list)
        self.tokens = self.flops = self.seconds = 0.0
        self.steps = 0
        self.note = ""

    def add(self, step: int, metrics: dict[str, Any], tokens: float, flops: float, seconds: float) -> None:
        """What a step measured, `event` being what was done about it; and what it took."""
        if "event" in metrics:
            self._write(step, metrics)
        else:  # a bad step is no part of a mean
            for name, value in metrics.items():
                self.values[name].append(value)
        self.tokens, self.flops, self.seconds = self.tokens + tokens, self.flops + flops, self.seconds + seconds
        self.steps += 1
        if step % self.every:
            if measured := {n: self.values.pop(n)[-1] for n in list(self.values) if n.startswith("heldout")}:
                self._write(step, measured)  # at the step that it is of
            return
        if self.values:
            self._write_means(step)

    def _write_means(self, step: int) -> None:
        means = {name: sum(values) / len(values) for name, values in self.values.items()}
        seconds = self.seconds / self.steps
        speed = {"seconds_per_step": seconds}
        words = [f"{name} {value:.3f}" for name, value in list(means.items())[:IN_NOTE]]
        words.append(f"{seconds:.2f} s a step")
        if self.tokens:
            speed["tokens_per_second"] = self.tokens / self.seconds
            words.append(f"{speed['tokens_per_second']:,.0f} tokens/s")
        if self.peak:
            speed["mfu"] = self.flops / self.seconds / self.peak
            words.append(f"MFU {speed['mfu']:.0%}")
        self._write(step, means | speed)
        self.note = ", ".join(words)
        self.values.clear()
        self.tokens = self.flops = self.seconds = 0.0
        self.steps = 0

    def _write(self, step: int, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | row) + "\n")
        for name, value in row.items():
            if not isinstance(value, str):
                self.writer.add_scalar(name, value, step)

    def close(self, panels: Sequence[tuple[str, tuple[str, ...], bool]], say: Callable[[str], None]) -> None:
        """Draw the curves, if there is something to draw them with; `say` takes the line that there is not."""
        self.writer.close()
        try:
            draw(self.path, self.path.with_name("curves.png"), panels)
        except ModuleNotFoundError as e:
            say(f'no curves.png: it needs {e.name} (pip install ".[demo]")')


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; one that was cut off by a crash is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def draw(metrics: Path, picture: Path, panels: Sequence[tuple[str, tuple[str, ...], bool]]) -> None:
    """One panel for each kind of curve that the run has; steps that were skipped or rolled back are red lines.

    panels: of each its title, the beginnings of the names that it shows, and whether its axis is logarithmic.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    events = []
    for row in read_metrics(metrics):
        if "event" in row:
            events.append(row["step"])
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                steps, values = curves[name]
                steps.append(row["step"])
                values.append(value)
    found = [(title, [n for n in curves if n.startswith(names)], log) for title, names, log in panels]
    found = [panel for panel in found if panel[1]]
    if not found:
        return
    figure, axes = pyplot.subplots(len(found), 1, figsize=(8, 2.4 * len(found)), squeeze=False, sharex=True)
    for axis, (title, names, log) in zip(axes[:, 0], found, strict=True):
        for name in names:
            axis.plot(*curves[name], label=name, linewidth=1)
        for step in events:
            axis.axvline(step, color="red", linewidth=0.5, alpha=0.5)
        axis.set_title(title, fontsize=9, loc="left")
        if log:
            axis.set_yscale("log")
        if 1 < len(names) <= MOST_NAMED:
            axis.legend(fontsize=7)
    axes[-1, 0].set_xlabel("step")
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
