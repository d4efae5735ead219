"""A codec in which every layer does something."""

import dataclasses

import pytest
import torch

from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.model.config import AudioTokenizerConfig


@pytest.fixture(scope="session")
def lively_codec(tiny_codec: AudioTokenizer) -> AudioTokenizer:
    """Tiny, and with a value in every weight: fresh blocks are the identity."""
    return enlivened(tiny_codec.config)


@pytest.fixture(scope="session")
def waving_codec(tiny_codec: AudioTokenizer) -> AudioTokenizer:
    """The same with books for the waveform, refined."""
    return enlivened(dataclasses.replace(tiny_codec.config, wave_books=4, wave_values=6, wave_refine=4, wave_from=2))


def enlivened(config: AudioTokenizerConfig) -> AudioTokenizer:
    twin = AudioTokenizer(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in twin.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5)
        if twin.wave:
            twin.wave.prior.copy_(torch.randint(-999, 1000, twin.wave.prior.shape, generator=generator))
        if twin.wave and twin.wave.refinement:
            twin.wave.refinement.leave.weight *= 0.002  # a sound of a sensible level
        twin.quantizer.codebooks.copy_(torch.randn(twin.quantizer.codebooks.shape, generator=generator))
    return twin
