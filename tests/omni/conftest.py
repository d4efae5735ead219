"""A recipe of `solfa train omni` whose steps take milliseconds."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.decoder.moe import MoEConfig
from solfa.omni.training.omni_recipe import OmniRecipe
from solfa.omni.training.packing import SourceConfig
from solfa.omni.training.stability import StabilityConfig

ATTENTION = AttentionConfig(heads=4, kv_heads=2, qk_dim=8, v_dim=8, rotary_dim=4)
WORDS = "one two three four five six seven eight nine ten eleven twelve".split()


@pytest.fixture(scope="session")
def numbers_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A text file of lines that count from anywhere: easy to predict once the words are known."""
    path = tmp_path_factory.mktemp("text") / "numbers.txt"
    starts = np.random.default_rng(0).integers(0, len(WORDS), 600)
    path.write_text("\n".join(" ".join((WORDS * 2)[s : s + 3 + s % 5]) for s in starts.tolist()))
    return str(path)


@pytest.fixture
def omni_recipe(numbers_text: str, tmp_path: Path) -> OmniRecipe:
    return OmniRecipe(
        data={"numbers": SourceConfig(numbers_text)},
        out=str(tmp_path / "run"),
        decoder=DecoderConfig(
            dim=32, layers=2, ffn_dim=64, full_layers=(0,), full=ATTENTION,
            sliding=dataclasses.replace(ATTENTION, window=8, sink=True), moe=MoEConfig(experts=4, top_k=1, ffn_dim=32),
        ),
        row_steps=64, rows=4, rows_at_once=2, steps=60, learning_rate=1e-2, precision="no", heldout=50, evaluate_rows=4,
        log_every=1, balance_rate=0.01, stability=StabilityConfig(warmup=8, history=16, monitor_every=4),
    )  # fmt: skip
