"""What trainers share: the clock, averages of weights, and a state that survives a crash at any moment, or is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from solfa.core import training
from solfa.core.errors import UserError
from solfa.core.training import Clock, WeightAverage
from solfa.core.training_state import find_state, load_state, save_state


def test_a_clock_counts_steps_or_minutes_whichever_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(training.time, "monotonic", lambda: now)
    steps, minutes, both = Clock(8, None), Clock(None, 2.0, elapsed=30.0), Clock(8, 2.0, elapsed=30.0)
    assert [steps.progress(n) for n in (0, 2, 8)] == [0, 0.25, 1]
    assert minutes.progress(5) == 0.25
    assert [both.progress(n) for n in (0, 2, 4, 8)] == [0.25, 0.25, 0.5, 1], "the steps end it"
    now = 190.0
    assert (minutes.progress(5), minutes.elapsed()) == (1, 120)
    assert both.progress(1) == 1, "the minutes end it"


def trained(steps: int) -> tuple[nn.Sequential, torch.optim.Optimizer, WeightAverage]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer, average = torch.optim.AdamW(model.parameters(), 0.1), WeightAverage(model, 0.9)
    for _ in range(steps):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
    return model, optimizer, average


def test_an_average_lies_among_the_weights_and_copies_other_buffers() -> None:
    model, _, average = trained(0)
    first = model.state_dict()["0.weight"].clone()
    with torch.no_grad():
        for name in ("0.weight", "1.running_mean"):
            model.state_dict()[name].add_(1)
    average.update(model)
    share = (average.state["0.weight"] - first).unique()
    assert ((share > 0.5) & (share < 1)).all(), "the start is forgotten fast"
    assert torch.equal(average.state["1.running_mean"], model.state_dict()["1.running_mean"])


def test_state_comes_back_with_the_optimizer(tmp_path: Path) -> None:
    model, optimizer, _ = trained(3)
    save_state(tmp_path / "state", {"step": 3}, {"model": model.state_dict()}, {"optimizer": optimizer})
    other, fresh, _ = trained(0)
    facts, tensors = load_state(tmp_path / "state", {"optimizer": fresh})
    assert facts == {"step": 3}
    torch.testing.assert_close(tensors["model"], dict(model.state_dict()), rtol=0, atol=0)
    for restored, saved in zip(
        fresh.state_dict()["state"].values(), optimizer.state_dict()["state"].values(), strict=True
    ):
        torch.testing.assert_close(restored, saved, rtol=0, atol=0)
    smaller = torch.optim.AdamW([next(other.parameters())])
    with pytest.raises(UserError, match="another model"):
        load_state(tmp_path / "state", {"optimizer": smaller})


@pytest.mark.parametrize("survivor", ["state", "state.writing", "state.old"])
def test_a_crash_between_two_renames_leaves_a_whole_state(tmp_path: Path, survivor: str) -> None:
    assert find_state(tmp_path / "state") is None
    model, optimizer, _ = trained(1)
    save_state(tmp_path / "state", {"step": 1}, {"model": model.state_dict()}, {"optimizer": optimizer})
    shutil.move(tmp_path / "state", tmp_path / survivor)
    (tmp_path / "state.writing").mkdir(exist_ok=True)  # one that was being written has no facts yet
    assert find_state(tmp_path / "state") == tmp_path / survivor
    save_state(tmp_path / "state", {"step": 2}, {"model": model.state_dict()}, {"optimizer": optimizer})
    assert load_state(tmp_path / "state", {})[0] == {"step": 2}


@pytest.mark.parametrize("file", ["facts.json", "model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("cut", [0, 5])
def test_a_damaged_state_is_one_sentence_with_the_remedy(tmp_path: Path, file: str, cut: int) -> None:
    model, optimizer, _ = trained(1)
    save_state(tmp_path / "state", {"step": 1}, {"model": model.state_dict()}, {"optimizer": optimizer})
    path = tmp_path / "state" / file
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=f"{file} is missing or damaged.*remove .*state to begin it again"):
        load_state(tmp_path / "state", {"optimizer": optimizer})
