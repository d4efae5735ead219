"""Sound to the loudspeaker, through the optional library sounddevice, which needs PortAudio on the machine."""

from types import ModuleType

import numpy as np

from solfa.core.errors import UserError
from solfa.tokenizers.audio.resample import Samples

REMEDIES = "pip install sounddevice, and on Linux apt-get install libportaudio2"


def play(samples: Samples, sample_rate: int) -> None:
    """Play mono sound and return at its end.

    samples: (n,) float, full scale 1; sample_rate: Hz.
    Raises: UserError where sounddevice or PortAudio is not installed, and where the machine has no loudspeaker.
    """
    sounddevice = _load()
    try:
        sounddevice.play(np.asarray(samples, np.float32), sample_rate, blocking=True)
    except sounddevice.PortAudioError as e:
        raise UserError(
            f"this machine cannot play sound ({e.args[0] if e.args else e}): write a file instead"
        ) from None


def can_play() -> bool:
    """Whether sounddevice and PortAudio can be loaded; a loudspeaker is not looked for."""
    try:
        _load()
    except UserError:
        return False
    return True


def _load() -> ModuleType:
    """The library sounddevice.  Raises: UserError, naming both remedies, where it cannot be loaded."""
    try:
        import sounddevice
    except ImportError:
        raise UserError(f"playing needs the library sounddevice: {REMEDIES}") from None
    except OSError:  # sounddevice is there, PortAudio is not
        raise UserError(f"playing needs the PortAudio library, which was not found: {REMEDIES}") from None
    return sounddevice
