"""The one loop of all trainers: set-up, resume, steps, weight averages, log, evaluation, state, and the end of a run.

    loop = TrainingLoop(recipe, ...)    # the processes, and whether there is a run to continue
    task = MyTask(loop, ...)            # builds the model from the recipe
    loop.run(task)

A task gives what differs: a step, an evaluation, its state.  The state on disk is all that a run is: one that was stopped
and continued equals one that was not.
"""

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from solfa.core.errors import UserError
from solfa.core.metrics_log import MetricsLog
from solfa.core.progress import Progress
from solfa.core.training import Clock, WeightAverage
from solfa.core.training_state import (
    FACTS,
    another_model,
    check_settings,
    damaged,
    find_state,
    load_state,
    read_facts,
    save_state,
    settings_of,
)


class LoopRecipe(Protocol):
    """What the loop reads of a trainer's recipe, a frozen dataclass.

    steps, minutes: where the run ends; with both, whichever comes first.
    """

    @property
    def out(self) -> str: ...
    @property
    def steps(self) -> int | None: ...
    @property
    def minutes(self) -> float | None: ...
    @property
    def save_every(self) -> int: ...
    @property
    def evaluate_every(self) -> int: ...
    @property
    def log_every(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def threads(self) -> int | None: ...


class StepReport(NamedTuple):
    """What a step of training measured.

    metrics: numbers by name for the log; `event` (words) is what was done about trouble.
    tokens, flops: of all processes, about; 0 where nobody counts them.
    roll_back: whether the last saved state should come back.
    """

    metrics: dict[str, Any]
    tokens: float = 0.0
    flops: float = 0.0
    roll_back: bool = False


@dataclass
class TaskState:
    """What a task keeps on disk beside its optimizers.  facts: JSON values; tensors: by part and name."""

    facts: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)


class TrainingTask(ABC):
    """What a trainer gives to the loop.  All methods but `save_checkpoint` are called in every process.

    average: the moving average of `averaged`, kept by the loop; None where the last weights are what counts.
    optimizers: by name, those whose state the loop saves; a task with another way puts it into its tensors.
    panels: what the picture of the log shows, see `metrics_log.draw`.
    """

    average: WeightAverage | None = None
    averaged: nn.Module
    optimizers: Mapping[str, torch.optim.Optimizer] = {}
    panels: Sequence[tuple[str, tuple[str, ...], bool]] = (("losses", ("",), False),)
    peak_flops: float = 0.0

    @property
    def healthy(self) -> bool:
        """Whether the state is worth keeping."""
        return True

    @abstractmethod
    def train_step(self, progress: float) -> StepReport:
        """One step of training, number `loop.step`, with the share `progress` of the run done."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Measures on data that are held out, by name; {} in processes that measure nothing."""

    @abstractmethod
    def state(self) -> TaskState:
        """What is to be kept."""

    @abstractmethod
    def load_tensors(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        """Take back the tensors of a state.  Raises: KeyError or RuntimeError where they do not fit."""

    def resumed(self, facts: dict[str, Any]) -> None:  # noqa: B027 (not every task has something to do)
        """After a run's state was loaded to continue it: take back what else it holds."""

    def rolled_back(self, facts: dict[str, Any], lost: int) -> None:  # noqa: B027 (not every task has something to do)
        """After the state from `lost` steps ago was loaded because the steps since went wrong."""

    def saved(self) -> None:  # noqa: B027 (not every task has something to do)
        """After the state was written."""

    @abstractmethod
    def save_checkpoint(self, folder: Path, state: TaskState) -> None:
        """Write what others load: what `state` describes, or the average."""

    def finish(self) -> bool:
        """What remains to be done after the last step.  -> whether it changed the state."""
        return False


class TrainingLoop:
    """A run in `recipe.out`: number of the next `step`, `saved_at` which the last state was written (-1: never).

    Args:
        precision: "no", "bf16" or "fp16", as accelerate's mixed precision.
        handlers: of accelerate.
        default_steps: where the recipe gives neither steps nor minutes.

    Raises: UserError where the run was begun with other settings, or its state is damaged.
    """

    def __init__(
        self, recipe: LoopRecipe, precision: str = "no", handlers: Sequence[Any] = (), default_steps: int = 10_000
    ):
        from accelerate import Accelerator
        from accelerate.utils import set_seed

        for name in ("steps", "minutes", "save_every", "evaluate_every", "log_every", "threads"):
            if (value := getattr(recipe, name)) is not None and not value > 0:
                raise UserError(f"{name} should be more than 0, not {value}")
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        self.recipe, self.out = recipe, Path(recipe.out)
        self.accelerator = Accelerator(
            mixed_precision=precision, cpu=not torch.cuda.is_available(), kwargs_handlers=list(handlers)
        )
        self.device, self.main = self.accelerator.device, self.accelerator.is_main_process
        self.processes, self.process = self.accelerator.num_processes, self.accelerator.process_index
        self.steps = default_steps if recipe.steps is None and recipe.minutes is None else recipe.steps
        self.clock = Clock(self.steps, recipe.minutes)
        self.step, self.saved_at = 0, -1
        self.interrupted = self.stopping = False  # here and now; in all processes, since the last step
        self.settings, self.data_digest = settings_of(recipe), ""
        self.found = find_state(self.out / "state")
        if self.found:
            check_settings(self.out, self._fact(read_facts(self.found), "settings"), self.settings)
        self.accelerator.wait_for_everyone()  # nobody writes a state before all have looked for one
        set_seed(recipe.seed)  # the same weights in every process

    def check_data(self, digest: str) -> None:
        """`digest`: of the data.  Raises: UserError where a run that is to be continued has read others."""
        self.data_digest = digest
        if self.found and self._fact(read_facts(self.found), "data_digest") != digest:
            raise UserError(
                f"the data have changed since the run in {self.out} began: give them as they were, or another out= "
                f"(and init={self.out / 'checkpoint'} to go on from its weights)"
            )

    def print(self, line: str) -> None:
        """Print in the first process alone."""
        self.accelerator.print(line)

    # Around the steps

    def run(self, task: TrainingTask) -> Path:
        """Train to the end.  -> the folder of the checkpoint.

        Raises: KeyboardInterrupt after Ctrl-C or SIGTERM, when the step is done and the state saved.
        """
        if self.found and self.restore(task):
            self.print(f"continuing at step {self.step}")
        else:
            self.save(task)
        log = MetricsLog(self.out, self.step, self.recipe.log_every, task.peak_flops) if self.main else None
        bar = Progress("training", 100, "%", start=round(100 * min(1.0, self.clock.progress(self.step)), 1))
        progress = self.progress()
        with self._interruptible(bar), bar if self.main else nullcontext():
            while progress < 1 and not self.stopping:
                progress = self._step_and_report(task, progress, log, bar)
            if not self.stopping and task.finish():  # of a run that ended before it had done that
                self.save(task)
        if log is not None:
            log.close(task.panels, bar.say)
        if self.stopping:
            self.print(f"stopped at step {self.step}; the same command continues")
            raise KeyboardInterrupt
        return self.out / "checkpoint"

    def _step_and_report(self, task: TrainingTask, progress: float, log: MetricsLog | None, bar: Progress) -> float:
        """One step and what is due after it.  -> the share of the run that is done."""
        began, number = time.monotonic(), self.step + 1
        metrics, tokens, flops, _ = self.train_step(task, progress)
        seconds = time.monotonic() - began
        progress = self.progress()
        changed = progress >= 1 and task.finish()
        due = progress >= 1 or self.stopping or self.step - self.saved_at >= self.recipe.save_every
        if task.healthy and (changed or (due and self.step != self.saved_at)):
            self.save(task)
        measured: dict[str, float] = {}
        if progress >= 1 or self.step % self.recipe.evaluate_every == 0:
            measured = task.evaluate()
        if log is None:
            return progress
        log.add(number, metrics | measured, tokens, flops, seconds)
        if "event" in metrics:
            bar.say(f"step {number}: {metrics['event']} ({shown({k: v for k, v in metrics.items() if k != 'event'})})")
        if measured:
            bar.say(f"step {number}: {shown(measured)}")
        note = f"step {self.step}"
        bar.advance(round(100 * min(1.0, progress), 1) - bar.done, f"{note}, {log.note}" if log.note else note)
        return progress

    def train_step(self, task: TrainingTask, progress: float | None = None) -> StepReport:
        """One step, and back to the last state if the task asks for it."""
        report = task.train_step(self.progress() if progress is None else progress)
        self.step += 1
        if task.average is not None:
            task.average.update(task.averaged)
        if report.roll_back:
            before = self.step
            facts = self._load(task)
            self.step = facts["step"]
            task.rolled_back(facts, before - self.step)
        return report

    def progress(self) -> float:
        """How much of the run is done; like `stopping`, the same in every process."""
        share = self.clock.progress(self.step)
        if self.processes == 1:
            self.stopping = self.interrupted
            return share
        both = torch.tensor([share, float(self.interrupted)], dtype=torch.float64, device=self.device)
        dist.broadcast(both, 0)
        self.stopping = bool(both[1])
        return float(both[0])

    @contextmanager
    def _interruptible(self, bar: Progress) -> Iterator[None]:
        """Ctrl-C, or SIGTERM, ends the run after the step it is in; a second one at once."""

        def stop(number: int, frame: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            if self.main:
                bar.say("stopping after this step; once more stops at once")

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # State

    def save(self, task: TrainingTask) -> None:
        """Write the state, from which the run goes on or back, and the checkpoint, which others load."""
        state = task.state()
        facts = state.facts | {
            "step": self.step,
            "elapsed": self.clock.elapsed(),
            "settings": self.settings,
            "data_digest": self.data_digest,
        }
        tensors = dict(state.tensors)
        if task.average is not None:
            facts["updates"], tensors["average"] = task.average.updates, task.average.state
        if self.main:
            save_state(self.out / "state", facts, tensors, task.optimizers)
            task.save_checkpoint(self.out / "checkpoint", state)
        self.accelerator.wait_for_everyone()
        self.saved_at = self.step
        task.saved()

    def restore(self, task: TrainingTask) -> bool:
        """Continue from the state in the run's folder.  -> whether there is one.  Raises: UserError for one that does not fit."""
        if find_state(self.out / "state") is None:
            return False
        facts = self._load(task)
        self.step = self.saved_at = facts["step"]
        self.clock = Clock(self.steps, self.recipe.minutes, facts["elapsed"])
        try:
            task.resumed(facts)
        except KeyError:
            raise damaged(self.out / "state", FACTS) from None
        return True

    def _load(self, task: TrainingTask) -> dict[str, Any]:
        folder = find_state(self.out / "state")
        assert folder is not None, "a run saves its state before the first step"
        facts, tensors = load_state(folder, task.optimizers)
        for name in ("step", "elapsed"):
            self._fact(facts, name)
        try:
            task.load_tensors(tensors)
            if task.average is not None:
                task.average.load(tensors["average"], facts["updates"])
        except (KeyError, RuntimeError):
            raise another_model(folder) from None
        return facts

    def _fact(self, facts: dict[str, Any], name: str) -> Any:
        if name not in facts:
            raise damaged(self.out / "state", FACTS)
        return facts[name]


def shown(metrics: dict[str, float]) -> str:
    """`loss 1.234, norm 0.5`: what a line on the screen has room for."""
    return ", ".join(f"{name} {value:.3f}" for name, value in list(metrics.items())[:12])
