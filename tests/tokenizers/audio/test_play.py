"""Playing sound: the samples reach the library as they are, and a machine without it, or without PortAudio, gives one sentence."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from solfa.core.errors import UserError
from solfa.tokenizers.audio.play import can_play, play

WORKING = """
class PortAudioError(Exception):
    pass

def play(samples, sample_rate, blocking):
    if sample_rate == 1:
        raise PortAudioError("Error querying device -1")
    played.append((samples, sample_rate, blocking))

played = []
"""


def install(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of that name and text stands before whatever the machine has."""
    (folder / "sounddevice.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    yield
    sys.modules.pop("sounddevice", None)


@pytest.mark.parametrize("error", ["OSError('PortAudio library not found')", "ImportError('no such module')"])
def test_a_missing_library_is_one_sentence_with_both_remedies(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(f"raise {error}", tmp_path, monkeypatch)
    assert not can_play()
    with pytest.raises(UserError, match="pip install sounddevice.*apt-get install libportaudio2"):
        play(np.zeros(10, np.float32), 24_000)


def test_samples_reach_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(WORKING, tmp_path, monkeypatch)
    assert can_play()
    play(np.ones(10, np.float32), 24_000)
    ((samples, rate, blocking),) = sys.modules["sounddevice"].played  # type: ignore[attr-defined]
    assert samples.tolist() == [1.0] * 10 and rate == 24_000 and blocking
    with pytest.raises(UserError, match="cannot play sound .Error querying device"):
        play(np.ones(10, np.float32), 1)
