"""The TTS model's trainer, at a size that trains in seconds: its data, its losses, and runs that stop and continue."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from solfa.core import checkpoints
from solfa.core.errors import UserError
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.model.patches import LocalConfig
from solfa.tokenizers.audio.audio_file import write_wav
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands.tokenize_corpus import tokenize_corpus
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.text.tokenizer import TextTokenizer
from solfa.tts.model import STYLES, TTSConfig, TTSModel, Voice
from solfa.tts.planner import PlannerConfig
from solfa.tts.training import train_tts as train
from solfa.tts.training.train_tts import losses
from solfa.tts.training.tts_data import Batches, Utterance, collate
from solfa.tts.training.tts_recipe import TTSRecipe

VOICES = (Voice("described"), Voice("ann", 1.0, 0.0, 200.0), Voice("bob", -1.0, 0.0, 100.0))
TINY = TTSConfig(
    voices=VOICES, books=2, codebook_size=32, slot_dim=8,
    planner=PlannerConfig(symbols=20, dim=16, layers=1, heads=2, ffn_dim=32, voice_dim=16),
    decoder=DecoderConfig(
        dim=32, layers=2, ffn_dim=48, full_layers=(0,), full=AttentionConfig(heads=2, kv_heads=1, qk_dim=16, v_dim=16, rotary_dim=8),
        sliding=AttentionConfig(window=8, heads=2, kv_heads=1, qk_dim=16, v_dim=16, rotary_dim=8, sink=True),
    ),
    patch_encoder=LocalConfig(16, 1, 2, 32), patch_decoder=LocalConfig(16, 1, 2, 32, code_dim=8),
)  # fmt: skip


def utterance(seed: int, voice: str | None = "ann", phones: int = 6) -> Utterance:
    rng = np.random.default_rng(seed)
    slots = [int(n) for n in rng.integers(3, 12, phones)]
    frames = math.ceil(sum(slots) / 4)
    pitch = [float(p) for p in np.where(rng.random(phones) < 0.7, 200 * 2 ** rng.normal(0, 0.2, phones), 0)]
    codes = torch.from_numpy(rng.integers(0, 32, (2, frames))).to(torch.int16)
    ids = [int(i) for i in rng.integers(0, 20, phones)]
    energy = [float(e) for e in rng.normal(-25, 5, phones)]
    return Utterance(ids, slots, pitch, energy, codes, voice, "made", 200.0, (1.0, 0.0), [0.0] * 6, 0.0, False)


def test_padding_a_batch_changes_no_loss() -> None:
    torch.manual_seed(0)
    model = TTSModel(TINY).eval()
    short, long = utterance(0, phones=4), utterance(1, phones=11)
    alone = losses(model, collate([short], VOICES, np.zeros(1, bool)))
    both = losses(model, collate([short, long], VOICES, np.zeros(2, bool)))
    other = losses(model, collate([long], VOICES, np.zeros(1, bool)))
    n, m = short.codes.shape[1], long.codes.shape[1]
    torch.testing.assert_close(both[2], (n * alone[2] + m * other[2]) / (n + m), atol=1e-4, rtol=1e-4)


def test_pitch_is_relative_to_the_voice_or_for_a_described_one_to_the_clip() -> None:
    clip = utterance(0)._replace(pitch=[100.0, 0.0, 200.0, 400.0, 200.0, 200.0], median_pitch=100.0)
    as_ann = collate([clip], VOICES, np.array([False]))
    hidden = collate([clip], VOICES, np.array([True]))
    assert as_ann.conditions.voice.tolist() == [1] and hidden.conditions.voice.tolist() == [0]
    assert as_ann.prosody.pitch[0, [0, 2, 3]].tolist() == [-12.0, 0.0, 12.0]
    assert hidden.prosody.pitch[0, [0, 2, 3]].tolist() == [0.0, 12.0, 24.0]
    assert math.isnan(as_ann.prosody.pitch[0, 1])


def test_batches_depend_on_seed_and_step_alone_and_follow_the_weights() -> None:
    items = [utterance(i, "ann" if i % 2 else "bob") for i in range(40)]
    batches = Batches(
        items, TTSRecipe(data="", mix={"bob": 0.0}, finish={"ann": 0.0}, finish_from=0.5, batch_seconds=3)
    )
    first, _ = batches.draw(3, 0.0)
    again, _ = batches.draw(3, 0.0)
    assert [id(u) for u in first] == [id(u) for u in again]
    assert {u.voice for u in first} == {"ann"}
    assert {u.voice for u in batches.draw(4, 0.9)[0]} == {"bob"}


def test_a_voice_that_no_clip_has_is_an_error() -> None:
    with pytest.raises(UserError, match="nobody"):
        train.make_voices([utterance(0)], {"nobody": ""})


def test_a_run_is_continued_with_its_own_settings_and_data_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_codec: AudioTokenizer, tiny_codec_folder: Path
) -> None:
    items = [utterance(i) for i in range(12)]
    monkeypatch.setattr(
        train, "read_utterances", lambda recipe, text: (items, str(tiny_codec_folder), tiny_codec.fingerprint)
    )
    recipe = TTSRecipe(
        data="",
        out=str(tmp_path),
        model=TINY,
        voices={"ann": ""},
        steps=2,
        minutes=60.0,
        batch_seconds=2,
        precision="no",
    )
    train.run(recipe)
    assert json.loads((tmp_path / "state" / "facts.json").read_text())["step"] == 2, "the steps ended it"
    with pytest.raises(UserError, match="begun with weight_decay=0.05, not 0.1: continue it with that"):
        train.run(dataclasses.replace(recipe, weight_decay=0.1))
    items[3] = items[3]._replace(codes=items[3].codes.flip(0))
    with pytest.raises(UserError, match="the data have changed since the run"):
        train.run(recipe)
    items[:] = [u._replace(heldout=True) for u in items]
    with pytest.raises(UserError, match="all clips in .* are held out"):
        train.run(dataclasses.replace(recipe, out=str(tmp_path / "other")))


def test_a_killed_run_continues_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_codec: AudioTokenizer, tiny_codec_folder: Path
) -> None:
    items = [utterance(i, "ann") for i in range(12)] + [utterance(20, "ann")._replace(heldout=True)]
    monkeypatch.setattr(
        train, "read_utterances", lambda recipe, text: (items, str(tiny_codec_folder), tiny_codec.fingerprint)
    )

    def run(out: str, steps: int) -> dict[str, torch.Tensor]:
        recipe = TTSRecipe(
            data="", out=str(tmp_path / out), model=dataclasses.replace(TINY, voices=VOICES[:1]), voices={"ann": "a test"},
            steps=steps, save_every=2, batch_seconds=2, precision="no", learning_rate=1e-2,
        )  # fmt: skip
        train.run(recipe)
        return load_file(tmp_path / out / "state" / "model.safetensors")

    # The rate depends on the share of the run that is done, and the first part is a shorter run.
    monkeypatch.setattr(train, "cosine_rate", lambda done: 1.0)
    whole = run("whole", 4)
    run("parts", 2)
    parts = run("parts", 4)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=1e-5, msg=name)


def test_starting_from_a_checkpoint_keeps_voices_by_name_and_learns_new_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_codec: AudioTokenizer, tiny_codec_folder: Path
) -> None:
    monkeypatch.setattr(
        train,
        "read_utterances",
        lambda recipe, text: (list(map(utterance, range(6))), str(tiny_codec_folder), tiny_codec.fingerprint),
    )
    torch.manual_seed(1)
    config = dataclasses.replace(
        TINY, planner=dataclasses.replace(TINY.planner, symbols=TextTokenizer.from_pretrained().vocab_size)
    )
    old = TTSModel(config)
    train.save_pretrained(tmp_path / "old", config, old.state_dict())
    recipe = TTSRecipe(
        data="",
        out=str(tmp_path / "new"),
        model=TINY,
        voices={"ann": ""},
        init=str(tmp_path / "old"),
        steps=1,
        learning_rate=0.0,
        precision="no",
    )
    voices, tensors = (checkpoints.load(train.run(recipe), train.KIND)[i] for i in (0, 1))
    assert [v["name"] for v in voices["voices"]] == ["described", "ann"]
    torch.testing.assert_close(tensors["voice_embed.weight"], old.voice_embed.weight[:2], atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(tensors["slot.weight"], old.slot.weight, atol=1e-2, rtol=1e-2)
    frequency = tensors["omni.patch_decoder.heads.bias"].exp().sum(-1)
    torch.testing.assert_close(frequency, torch.ones_like(frequency), atol=2e-2, rtol=0)


def test_another_tokenizers_tokens_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_codec_folder: Path
) -> None:
    monkeypatch.setattr(
        train, "read_utterances", lambda recipe, text: ([utterance(0)], str(tiny_codec_folder), "0" * 16)
    )
    with pytest.raises(UserError, match="made by another"):
        train.run(TTSRecipe(data="tokens", out=str(tmp_path), model=TINY, steps=1, precision="no"))


@pytest.fixture
def prepared_tokens(tmp_path: Path, tiny_codec: AudioTokenizer) -> Path:
    """Tokens of a manifest as `solfa prepare tts` writes them, of twelve clips of noise."""
    lines, rng = [], np.random.default_rng(0)
    for i in range(12):
        slots = [int(n) for n in rng.integers(10, 30, 6)]
        write_wav(tmp_path / f"{i}.wav", (0.1 * rng.normal(size=240 * sum(slots))).astype(np.float32), 24_000)
        scores = dict.fromkeys(STYLES, 0.0)
        lines.append({
            "audio": f"{i}.wav", "id": str(i), "text": "a test", "speaker": "ann", "voice": "ann", "source": "noise", "made": "recording",
            "split": "heldout" if i == 0 else "train", "gender": 1.0, "age": None, "phones": TextTokenizer.from_pretrained().vocab[3:9],
            "durations": slots, "pitch": [200.0] * 6, "energy": [-25.0] * 6, "median_pitch": 200.0, "voice_z": scores,
        })  # fmt: skip
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tokenize_corpus(tiny_codec, read_corpus(tmp_path / "manifest.jsonl"), tmp_path / "tokens", 2)
    return tmp_path / "tokens"


def test_processes_train_one_model_together_from_tokens(
    prepared_tokens: Path, tiny_codec: AudioTokenizer, tiny_codec_folder: Path, tmp_path: Path
) -> None:
    """As `torchrun` or `accelerate launch` start them, on the tokens of a prepared manifest as they are."""
    slot = tiny_codec.quantizer.codebooks.shape[-1]
    model = dataclasses.replace(TINY, codebook_size=tiny_codec.config.codebook_size, slot_dim=slot)
    recipe = TTSRecipe(
        data=str(prepared_tokens), out=str(tmp_path / "together"), codec=str(tiny_codec_folder), model=model, voices={"ann": ""}, steps=4,
        batch_seconds=3, precision="no",
    )  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(dataclasses.asdict(recipe)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "solfa", "train", "tts", "--config", str(tmp_path / "recipe.yaml")],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    alone = train.run(dataclasses.replace(recipe, out=str(tmp_path / "alone")))
    states = [load_file(folder / "state" / "model.safetensors") for folder in (tmp_path / "together", alone.parent)]
    apart = [k for k, v in states[0].items() if not torch.equal(v, states[1][k])]
    assert any(k.startswith("omni.decoder") for k in apart), "the other process's batches count"
    assert all(torch.isfinite(v).all() for v in states[0].values())
