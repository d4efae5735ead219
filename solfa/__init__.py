"""solfa: discrete-token speech and omni-modal models, small enough to own.

The public names are imported when first used, so that `solfa --help` does not pay for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what readers, editors and type checkers see
    from solfa.errors import UserError as UserError
    from solfa.omni.sampling import SamplingConfig as SamplingConfig
    from solfa.tokenizers.audio.model import AudioTokenizer as AudioTokenizer
    from solfa.tokenizers.audio_io import read_audio as read_audio
    from solfa.tts.speak import TTS as TTS

__version__ = "0.1.0"
__all__ = ["AudioTokenizer", "SamplingConfig", "TTS", "UserError", "read_audio"]

_PUBLIC = {
    "AudioTokenizer": "tokenizers.audio.model",
    "SamplingConfig": "omni.sampling",
    "TTS": "tts.speak",
    "UserError": "errors",
    "read_audio": "tokenizers.audio_io",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"solfa.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'solfa' has no attribute {name!r}")
