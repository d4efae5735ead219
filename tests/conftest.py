"""What several test files share: a tiny untrained codec and a second of something like a voice."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from solfa.tokenizers.audio.audio_file import write_wav
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.model.config import AudioTokenizerConfig
from solfa.tokenizers.audio.resample import Samples

torch.set_num_threads(1)  # tiny models: a second thread only waits
settings.register_profile("solfa", deadline=None, derandomize=True)  # busy machines; the same examples in every run
settings.load_profile("solfa")

TINY = AudioTokenizerConfig(
    codebook_size=32, books=4, lm_books=2, codebook_dim=8, dim=16, frame_dim=16, heads=2, window=8,
    encoder_blocks=1, encoder_layers=1, decoder_layers=1, decoder_blocks=1, vocoder_blocks=1, mels=20, fine_mels=12, pitch_bins=24, bands=16, wave_books=0,
)  # fmt: skip


def voice(seconds: float = 1.0, sample_rate: int = 24_000, pitch: float = 140.0) -> Samples:
    """(n,) a gliding pulse train with two formants and a little noise; the same at every call."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * t))) / sample_rate
    wav = np.zeros(len(t))
    for k in range(1, 20):
        f = k * pitch
        if 1.2 * f < sample_rate / 2:
            gain = np.exp(-(((f - 600) / 300) ** 2)) + 0.5 * np.exp(-(((f - 1700) / 400) ** 2)) + 0.02
            wav += gain * np.sin(k * phase)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 3 * t)
    noise = np.random.default_rng(0).standard_normal(len(t))
    return np.asarray(0.15 * syllables * wav + 0.002 * noise, np.float32)


@pytest.fixture(scope="session")
def speech_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .wav of one voice-like second at 24 kHz."""
    path = tmp_path_factory.mktemp("clips") / "voice.wav"
    write_wav(path, voice(), 24_000)
    return path


@pytest.fixture(scope="session")
def tiny_codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a tiny untrained codec; the same weights in every run."""
    folder = tmp_path_factory.mktemp("codecs") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AudioTokenizer(TINY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_codec(tiny_codec_folder: Path) -> AudioTokenizer:
    return AudioTokenizer.own(tiny_codec_folder)
