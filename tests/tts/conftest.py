"""An untrained TTS model, small enough to speak in every test."""

import dataclasses
from pathlib import Path

import pytest
import torch

from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.model.patches import LocalConfig
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.text.tokenizer import TextTokenizer
from solfa.tts.model import TTSConfig, TTSModel, Voice
from solfa.tts.planner import PlannerConfig
from solfa.tts.training.train_tts import save_pretrained


@pytest.fixture(scope="session")
def tts_folder(tmp_path_factory: pytest.TempPathFactory, tiny_codec_folder: Path) -> Path:
    """Its checkpoint, for the tiny codec; the same weights in every run."""
    codec, text = AudioTokenizer.from_pretrained(tiny_codec_folder), TextTokenizer.from_pretrained()
    small, local = AttentionConfig(heads=2, kv_heads=1, qk_dim=16, v_dim=16, rotary_dim=8), LocalConfig(16, 1, 2, 32)
    config = TTSConfig(
        voices=(Voice("described"), Voice("ann", 1.0, 0.0, 200.0), Voice("bob", -1.0, 0.0, 100.0)),
        codec=str(tiny_codec_folder), codec_fingerprint=codec.fingerprint, books=2, codebook_size=32, slot_dim=8,
        planner=PlannerConfig(text.vocab_size, dim=16, layers=1, heads=2, ffn_dim=32, voice_dim=16),
        decoder=DecoderConfig(32, 2, 48, (0,), full=small, sliding=dataclasses.replace(small, window=8, sink=True)),
        patch_encoder=local, patch_decoder=local,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TTSModel(config)
    with torch.no_grad():  # phones of about 60 ms, as a trained planner would say, and codes that are not all alike
        model.planner.state_dict()["predict.2.bias"][0] = 2.0
        model.omni.patch_decoder.heads.weight.mul_(10)
    folder = tmp_path_factory.mktemp("models") / "untrained"
    save_pretrained(folder, config, model.state_dict())
    return folder
