"""solfa: discrete-token speech and omni-modal models, small enough to own.

The public names are imported when first used, so that `solfa --help` does not pay for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what readers, editors and type checkers see
    from solfa.core.errors import UserError as UserError
    from solfa.omni.generation.sampling import SamplingConfig as SamplingConfig
    from solfa.tokenizers.audio.audio_file import read_audio as read_audio
    from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer as AudioTokenizer
    from solfa.tts.synthesizer import TTS as TTS

__version__ = "0.1.0"
__all__ = ["AudioTokenizer", "SamplingConfig", "TTS", "UserError", "read_audio"]

_PUBLIC = {
    "AudioTokenizer": "tokenizers.audio.model.audio_tokenizer",
    "SamplingConfig": "omni.generation.sampling",
    "TTS": "tts.synthesizer",
    "UserError": "core.errors",
    "read_audio": "tokenizers.audio.audio_file",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"solfa.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'solfa' has no attribute {name!r}")
