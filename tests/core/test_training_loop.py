"""The loop of all trainers, with a tiny task: where it ends, what it keeps, and that a stopped run equals an undisturbed one."""

import dataclasses
import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from solfa.core.errors import UserError
from solfa.core.metrics_log import read_metrics
from solfa.core.training import WeightAverage
from solfa.core.training_loop import StepReport, TaskState, TrainingLoop, TrainingTask
from solfa.core.training_state import load_state


@pytest.fixture(autouse=True)
def fresh_accelerator() -> None:
    """Its precision is fixed for a process; other tests may want another."""
    AcceleratorState._reset_state(reset_partial_state=True)


@dataclass(frozen=True)
class LineRecipe:
    out: str
    width: int = 3
    steps: int | None = 6
    minutes: float | None = None
    save_every: int = 100
    evaluate_every: int = 4
    log_every: int = 2
    seed: int = 0
    threads: int | None = None


class LineTask(TrainingTask):
    """Fits a linear map, in batches that follow from the step."""

    def __init__(self, recipe: LineRecipe, interrupt_at: int = -1, bad: frozenset[int] = frozenset()):
        self.loop = TrainingLoop(recipe)
        self.loop.check_data("made up")
        self.averaged = nn.Linear(recipe.width, 1)
        self.optimizers = {"optimizer": torch.optim.AdamW(self.averaged.parameters(), 0.1)}
        self.average = WeightAverage(self.averaged, 0.9)
        self.interrupt_at, self.bad = interrupt_at, bad
        self.read: list[int] = []
        self.lost = self.checkpoints = 0

    def train_step(self, progress: float) -> StepReport:
        if self.loop.step == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        number = self.loop.step + self.lost
        self.read.append(number)
        x = torch.randn(8, self.loop.recipe.width, generator=torch.Generator().manual_seed(number))  # type: ignore[attr-defined]
        loss = (self.averaged(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer = self.optimizers["optimizer"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return StepReport({"loss": loss.item()}, roll_back=number in self.bad)

    def evaluate(self) -> dict[str, float]:
        return {"heldout/bias": float(self.averaged.state_dict()["bias"])}

    def state(self) -> TaskState:
        return TaskState({"lost": self.lost}, {"model": self.averaged.state_dict()})

    def load_tensors(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        self.averaged.load_state_dict(tensors["model"])

    def resumed(self, facts: dict[str, Any]) -> None:
        self.lost = facts["lost"]

    def rolled_back(self, facts: dict[str, Any], lost: int) -> None:
        self.lost += lost

    def save_checkpoint(self, folder: Path, state: TaskState) -> None:
        self.checkpoints += 1


def saved(recipe: LineRecipe) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    return load_state(Path(recipe.out) / "state", {})


@pytest.mark.parametrize(("steps", "minutes", "done"), [(6, None, 6), (3, 60.0, 3), (10**9, 1e-9, 0), (None, 1e-9, 0)])
def test_steps_or_minutes_end_the_run_whichever_comes_first(
    tmp_path: Path, steps: int | None, minutes: float | None, done: int
) -> None:
    recipe = LineRecipe(str(tmp_path), steps=steps, minutes=minutes)
    task = LineTask(recipe)
    task.loop.run(task)
    assert task.loop.step == saved(recipe)[0]["step"] == done


def test_ctrl_c_ends_the_run_after_its_step_and_the_same_command_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = LineTask(LineRecipe(str(tmp_path / "whole")))
    whole.loop.run(whole)
    recipe = LineRecipe(str(tmp_path / "parts"))
    stopped = LineTask(recipe, interrupt_at=2)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stopped.loop.run(stopped)
    assert signal.getsignal(signal.SIGINT) == before
    assert saved(recipe)[0]["step"] == 3 and "stopped at step 3" in capsys.readouterr().out
    again = LineTask(recipe)
    again.loop.run(again)
    assert again.read == [3, 4, 5]
    for part, tensors in saved(whole.loop.recipe)[1].items():  # type: ignore[arg-type]
        for name, value in tensors.items():
            assert torch.equal(saved(recipe)[1][part][name], value), (part, name)


def test_steps_that_went_wrong_bring_the_last_state_back(tmp_path: Path) -> None:
    task = LineTask(LineRecipe(str(tmp_path), save_every=2), bad=frozenset({3}))
    task.loop.run(task)
    assert task.read == [0, 1, 2, 3, 4, 5, 6, 7] and task.loop.step == 6
    other = LineTask(LineRecipe(str(tmp_path / "other"), save_every=2, steps=2))
    other.loop.run(other)
    assert task.average is not None and task.average.updates == 6


def test_what_is_measured_is_logged_at_its_step(tmp_path: Path) -> None:
    task = LineTask(LineRecipe(str(tmp_path), evaluate_every=3, log_every=2))
    task.loop.run(task)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], "loss" in row, "heldout/bias" in row) for row in rows] == [
        (2, True, False), (3, False, True), (4, True, False), (6, True, True),
    ]  # fmt: skip
    assert (tmp_path / "curves.png").exists() and list((tmp_path / "logs").iterdir())


def test_a_finished_run_is_not_written_again(tmp_path: Path) -> None:
    recipe = LineRecipe(str(tmp_path))
    first = LineTask(recipe)
    first.loop.run(first)
    again = LineTask(recipe)
    again.loop.run(again)
    assert (first.checkpoints, again.checkpoints, again.read) == (2, 0, [])


def test_a_run_is_continued_with_its_own_settings_and_data_alone(tmp_path: Path) -> None:
    recipe = LineRecipe(str(tmp_path), steps=2)
    task = LineTask(recipe)
    task.loop.run(task)
    LineTask(dataclasses.replace(recipe, steps=4, save_every=1, log_every=1, evaluate_every=9, threads=1))
    with pytest.raises(UserError, match="begun with width=3, not 4: continue it with that, or give another out="):
        LineTask(dataclasses.replace(recipe, width=4))
    with pytest.raises(UserError, match="the data have changed since the run in .* began"):
        TrainingLoop(recipe).check_data("others")


def test_a_state_without_what_it_should_hold_is_damaged(tmp_path: Path) -> None:
    recipe = LineRecipe(str(tmp_path), steps=1)
    task = LineTask(recipe)
    task.loop.run(task)
    facts = tmp_path / "state" / "facts.json"
    content = json.loads(facts.read_text())
    for name in content:
        facts.write_text(json.dumps({k: v for k, v in content.items() if k != name}))
        with pytest.raises(UserError, match="damaged|another model"):
            task = LineTask(recipe)
            task.loop.run(task)


@pytest.mark.parametrize("setting", ["steps", "minutes", "save_every", "evaluate_every", "log_every", "threads"])
def test_settings_that_train_nothing(tmp_path: Path, setting: str) -> None:
    with pytest.raises(UserError, match=f"{setting} should be more than 0"):
        LineTask(dataclasses.replace(LineRecipe(str(tmp_path)), **{setting: 0}))  # type: ignore[arg-type]
