"""What the README shows works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
import soundfile

from solfa.cli import run

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    """The fenced block after an HTML comment."""
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, marker
    return found[1]


def test_the_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found
    names: dict = {}
    exec(compile(found[1], "README.md", "exec"), names)
    assert names["codes"].shape[1] == 64
    assert soundfile.info(tmp_path / "train.wav").duration > 1


def test_the_first_command_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(block("speak command"))
    said = words[next(i for i, w in enumerate(words) if w.endswith("solfa")) + 1 :]
    assert run(said) == 0
    sound = soundfile.info(tmp_path / "hello.wav")
    assert sound.samplerate == 24_000 and 0.5 < sound.duration < 20


def test_the_test_command_is_what_ci_runs() -> None:
    assert "pytest" in block("test command")
    assert "test command" in (Path(__file__).parents[1] / ".ci" / "run").read_text()
