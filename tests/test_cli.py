"""The command line: help without torch, one sentence for a mistake, exit codes, every command in its place."""

import errno
import inspect
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

import solfa
from solfa import cli, info
from solfa.cli import COMMANDS, run
from solfa.core.errors import UserError


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"]])
def test_help_needs_no_torch(words: list[str]) -> None:
    code = f"import sys\nfrom solfa.cli import run\ncode = run({words})\nassert not {{'torch', 'numpy', 'typer', 'rich'}} & set(sys.modules)\nsys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "solfa", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"solfa {solfa.__version__}\n"
    assert subprocess.run([sys.executable, "-m", "solfa", "nonsense"], capture_output=True, check=False).returncode == 2


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    page = capsys.readouterr().out
    assert all(name in page and line in page for name, (_, line) in COMMANDS.items())
    assert run(["train", "-h"]) == 0
    page = capsys.readouterr().out
    assert "train codec" in page
    assert "eval codec" not in page


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, function = COMMANDS[name][0].split(":")
    command: Callable[..., object] = getattr(import_module(module), function)
    assert inspect.getdoc(command)
    assert run([*name.split(), "--help"]) == 0
    assert f"solfa {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tokenise"], "perhaps 'tokenize'"),
        (["train", "codek"], "perhaps 'train codec'"),
        (["xyz"], "there is no command 'xyz'; see solfa --help"),
        (["tokenize"], "see solfa tokenize --help"),
        (["tokenize", "x", "-o", "y", "--books", "many"], "see solfa tokenize --help"),
        (["tokenize", "x", "-o", "y", "--workers", "0"], "see solfa tokenize --help"),
        (["tokenize", "x", "-o", "y", "--nonsense"], "see solfa tokenize --help"),
        (["tokenize", "/nowhere/at/all", "-o", "y"], "does not exist"),
        (["reconstruct", "/nowhere/at/all", "-o", "y", "--codec", "/nowhere"], "no checkpoint"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("solfa: ")
    assert err.count("\n") == 1
    assert told in err
    assert "Traceback" not in err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[..., Any]], None]]:
    """Puts a function into the command table as `stand-in`."""

    def install(function: Callable[..., Any]) -> None:
        module = types.ModuleType("stand_in")
        module.__dict__["function"] = function
        monkeypatch.setitem(sys.modules, "stand_in", module)
        monkeypatch.setitem(COMMANDS, "stand-in", ("stand_in:function", "For a test."))

    yield install


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("the text is empty"), 2, "solfa: the text is empty\n"),
        (KeyboardInterrupt(), 130, "solfa: interrupted\n"),
        (OSError(errno.ENOSPC, "No space left on device", "out.wav"), 2, "solfa: out.wav: no space left on device\n"),
        (OSError(errno.EROFS, "Read-only file system", "out.wav"), 2, "solfa: out.wav: read-only file system\n"),
        (PermissionError(errno.EACCES, "Permission denied", "out.wav"), 2, "solfa: out.wav: permission denied\n"),
        (ModuleNotFoundError("No module named 'gradio'", name="gradio"), 2, 'solfa: this command needs the module gradio: run pip install ".[demo]"\n'),
        (ModuleNotFoundError("...", name="torch.utils.tensorboard"), None, ""),
        (ModuleNotFoundError("...", name="solfa.gone"), None, ""),
        (OSError(errno.EIO, "Input/output error"), None, ""),
        (ZeroDivisionError(), None, ""),
    ],
)  # fmt: skip
def test_errors_become_exit_codes(
    command: Callable[..., None], error: BaseException, code: int | None, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        """Fail."""
        raise error

    command(fail)
    if code is None:  # our own bug: a traceback is right
        with pytest.raises(type(error)):
            run(["stand-in"])
    else:
        assert run(["stand-in"]) == code
        assert capsys.readouterr().err.strip().splitlines() == told.strip().splitlines()


def test_a_command_returns_its_exit_code_and_takes_its_options(command: Callable[..., None]) -> None:
    got = []

    def work(name: str, times: Annotated[int, typer.Option("--times", "-n")] = 1) -> int:
        """Work."""
        got.append((name, times))
        return 1

    command(work)
    assert run(["stand-in", "x", "-n", "3"]) == 1
    assert got == [("x", 3)]
    with pytest.raises(SystemExit) as left:
        cli.main(["stand-in", "y"])
    assert left.value.code == 1


def test_a_reader_that_goes_away_is_no_error() -> None:
    shell = f"{sys.executable} -m solfa --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("module", "extra"),
    [("gradio", "demo"), ("pyworld.pyworld", "train"), ("accelerate", "train"), ("torch", None)],
)
def test_extra_of(module: str, extra: str | None) -> None:
    assert cli.extra_of(module) == extra


def test_info_prints_one_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info"]) == 0
    page = capsys.readouterr().out
    assert solfa.__version__ in page
    assert all(word in page for word in ("torch", "device", "checkpoint", "codec-24khz", "kbps", "train"))


def test_info_names_a_missing_portaudio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "_installed", lambda name: True)
    for there, line in ((True, "play    installed"), (False, "play    installed, but the PortAudio library is not: ")):
        monkeypatch.setattr(info, "can_play", lambda there=there: there)
        assert info.extra_line("play", ["sounddevice"]).startswith(line)
        assert ("libportaudio2" in info.extra_line("play", ["sounddevice"])) is not there
    monkeypatch.setattr(info, "_installed", lambda name: False)
    assert "without sounddevice" in info.extra_line("play", ["sounddevice"])


def test_a_truly_unwritable_output_is_told(
    speech_clip: Path, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("tokenize", "reconstruct"):
        assert run([command, str(speech_clip), "-o", "/proc/solfa", "--codec", str(tiny_codec_folder)]) == 2
        assert "cannot be made" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_printed_is_told() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m solfa --version > /dev/full"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
