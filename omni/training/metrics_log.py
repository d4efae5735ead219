"""The log of a training run: `metrics.jsonl`, TensorBoard, and the curves drawn from the former."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from solfa.core.progress import Progress

METRICS = "metrics.jsonl"

PANELS = (  # title, prefixes of the names it shows, logarithmic
    ("loss (nats)", ("loss", "text", "book", "mtp", "heldout/"), False),
    ("gradient norm", ("norm",), True),
    ("largest activation of each layer", ("activation/",), True),
    ("largest attention logit of each layer", ("logit/",), True),
    ("entropy of the experts' load, 1 is even", ("load entropy/",), False),
    ("tokens per second", ("tokens_per_second",), False),
    ("learning rate", ("learning_rate",), False),
)
MOST_NAMED = 8  # curves of a panel that a legend still tells apart


class Log:
    """Writes a line every `every` steps, of means since the line before; lines after `step` are of a run that died."""

    def __init__(self, folder: Path, step: int, every: int, peak: float):
        from torch.utils.tensorboard import SummaryWriter

        self.path, self.every, self.peak = folder / METRICS, every, peak
        old = read_metrics(self.path) if self.path.exists() else []
        self.path.write_text("".join(json.dumps(row) + "\n" for row in old if row["step"] <= step), encoding="utf-8")
        self.writer = SummaryWriter(str(folder / "logs"), purge_step=step + 1)
        self.values: dict[str, list[float]] = defaultdict(list)
        self.tokens = self.flops = self.seconds = 0.0
        self.note = ""

    def add(self, step: int, metrics: dict[str, Any], tokens: float, flops: float, seconds: float) -> None:
        """What a step measured, `event` being what was done about it; and what it took."""
        if "event" in metrics:
            self._write(step, metrics)
        else:  # a bad step is no part of a mean
            for name, value in metrics.items():
                self.values[name].append(value)
        self.tokens, self.flops, self.seconds = self.tokens + tokens, self.flops + flops, self.seconds + seconds
        if step % self.every or not self.values:
            return
        means = {name: sum(values) / len(values) for name, values in self.values.items()}
        speed = {"tokens_per_second": self.tokens / self.seconds, "mfu": self.flops / self.seconds / self.peak}
        self._write(step, means | speed)
        self.note = f"loss {means['loss']:.3f}, {speed['tokens_per_second']:,.0f} tokens/s, MFU {speed['mfu']:.0%}"
        self.values.clear()
        self.tokens = self.flops = self.seconds = 0.0

    def _write(self, step: int, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | row) + "\n")
        for name, value in row.items():
            if not isinstance(value, str):
                self.writer.add_scalar(name, value, step)

    def close(self, bar: Progress) -> None:
        """Draw the curves, if there is something to draw them with."""
        self.writer.close()
        try:
            draw(self.path, self.path.with_name("curves.png"))
        except ModuleNotFoundError as e:
            bar.say(f'no curves.png: it needs {e.name} (pip install ".[demo]")')


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; one that was cut off by a crash is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def draw(metrics: Path, picture: Path) -> None:
    """One panel for each kind of curve that the run has; steps that were skipped or rolled back are red lines."""
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
    panels = [(title, [n for n in curves if n.startswith(names)], log) for title, names, log in PANELS]
    panels = [panel for panel in panels if panel[1]]
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(8, 2.4 * len(panels)), squeeze=False, sharex=True)
    for axis, (title, names, log) in zip(axes[:, 0], panels, strict=True):
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
