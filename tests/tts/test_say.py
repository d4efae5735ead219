"""`solfa say` around an untrained network: files, streams, standard input and mistakes."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from solfa.cli import run
from solfa.tokenizers.audio import play as loudspeaker
from solfa.tokenizers.audio.audio_file import read_audio
from solfa.tts.say import read_stdin


def test_command_writes_a_file_and_says_how_long_it_took(
    tts_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "hello.wav"
    assert run(["say", "Hello.", "--style", "slow", "-o", str(out), "--checkpoint", str(tts_folder)]) == 0
    assert out.stat().st_size > 1000
    assert "real-time factor" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["say", ""],
        ["say", "🎉"],
        ["say", "x" * 50_000],
        ["say", "Hello.", "--style", "говори тихо"],
        ["say", "Hello.", "--voice", "nobody"],
        ["say", "Hello.", "--seed", "99999999999999999999"],
        ["say", "Hello.", "--seed=-1"],
        ["say", "Hello.", "--device", "nonsense"],
        ["say", "Hello.", "--show-text"],
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    arguments: list[str], tts_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.wav"
    assert run([*arguments, "-o", str(out), "--checkpoint", str(tts_folder)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "Traceback" not in message
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_found_before_speaking(
    tts_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(["say", "Hello.", "-o", str(tmp_path / "file" / "x.wav"), "--checkpoint", str(tts_folder)]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file/x.wav", "folder.wav", "x.mp9"])
def test_a_place_that_cannot_be_written_is_found_before_anything_is_loaded(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.wav").mkdir()
    assert run(["say", "Hello.", "-o", str(tmp_path / place), "--checkpoint", str(tmp_path / "none")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "checkpoint" not in message


def test_standard_input_is_spoken_while_it_arrives(tts_folder: Path) -> None:
    command = [sys.executable, "-m", "solfa", "say", "-", "--stream", "--checkpoint", str(tts_folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write("A caf\u00e9. The".encode())
        process.stdin.flush()
        assert len(process.stdout.read(1000)) == 1000, "sound comes while standard input is open"
        process.stdin.write(b" rest.")
        process.stdin.close()
        assert len(process.stdout.read()) > 1000
        assert b"real-time factor" in process.stderr.read()
        assert process.wait(60) == 0


class Input:
    """Standard input that holds these bytes."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [["--stream"], ["-o", "x.wav"], ["--show-text"]])
def test_standard_input_that_is_not_text_is_one_sentence(
    options: list[str],
    tts_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", Input(b"Hello \xff\xfe."))
    assert run(["say", "-", *options, "--checkpoint", str(tts_folder)]) == 2
    assert capsys.readouterr().err == "solfa: standard input is not text in UTF-8\n"
    assert list(tmp_path.iterdir()) == []


def test_letters_cut_in_two_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trickle(io.RawIOBase):
        data = list("é 你".encode())

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            if not self.data:
                return 0
            buffer[0] = self.data.pop(0)
            return 1

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Trickle())))
    assert "".join(read_stdin()) == "é 你"


def test_show_text_prints_words_and_phones_and_makes_no_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["say", "<style>slow</style>It costs $5. Good night!", "--show-text", "--checkpoint", "/nowhere"]) == 0
    shown = capsys.readouterr()
    assert "five dollars" in shown.out and "good [g uh1 d]" in shown.out.lower() and "slow" not in shown.out
    assert shown.err == "" and list(tmp_path.iterdir()) == []
    assert run(["say", "...", "--show-text"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_play_without_portaudio_is_one_sentence_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loudspeaker, "can_play", lambda: False)
    assert run(["say", "Hello.", "--play", "--checkpoint", "/nowhere"]) == 2
    message = capsys.readouterr().err
    assert "PortAudio" in message and message.count("\n") == 1


def test_play_gets_each_sentence(tts_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[int] = []
    monkeypatch.setattr(loudspeaker, "can_play", lambda: True)
    monkeypatch.setattr(loudspeaker, "play", lambda samples, rate: played.append(len(samples)))
    out = tmp_path / "both.wav"
    assert run(["say", "One. Two.", "--play", "-o", str(out), "--checkpoint", str(tts_folder)]) == 0
    assert len(played) == 2 and len(read_audio(out).samples) == sum(played)
