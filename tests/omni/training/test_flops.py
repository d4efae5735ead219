"""The formula counts what torch counts, but for the pairs that attention computes and no query may see."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from solfa.omni.decoder.attention import causal_mask
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.decoder.moe import MoEConfig
from solfa.omni.model.grid import TokenGrid
from solfa.omni.model.omni_model import OmniConfig, OmniModel, omni_loss
from solfa.omni.model.patches import LocalConfig
from solfa.omni.training.flops import TRAINING, attention_pairs, decoder_flops, patch_flops, peak_flops

FULL = AttentionConfig(heads=4, kv_heads=2, qk_dim=8, v_dim=4, rotary_dim=4, sink=True)
CONFIG = DecoderConfig(
    dim=24, layers=3, ffn_dim=40, full_layers=(0,), full=FULL, sliding=dataclasses.replace(FULL, window=5),
    moe=MoEConfig(experts=4, top_k=2, ffn_dim=16),
)  # fmt: skip


@pytest.mark.parametrize("window", [None, 1, 5, 40])
def test_pairs_are_those_that_see_each_other(window):
    for steps in (1, 4, 5, 6, 23):
        assert attention_pairs(steps, window) == causal_mask(torch.arange(steps), torch.arange(steps), window).sum()


def test_a_decoder_needs_what_torch_counts():
    decoder = OmniModel(OmniConfig(TokenGrid(10, books=(4,)), CONFIG)).decoder
    x = torch.randn(7, 1, 24, requires_grad=True)  # sequences of one step: every pair is seen
    with FlopCounterMode(display=False) as counter:
        y = decoder(x)
    assert counter.get_total_flops() == decoder_flops(decoder, [1] * 7)
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == (TRAINING - 1) * decoder_flops(decoder, [1] * 7)


def test_longer_sequences_add_the_pairs_that_they_see():
    decoder = OmniModel(OmniConfig(TokenGrid(10, books=(4,)), CONFIG)).decoder
    apart = decoder_flops(decoder, [1] * 12)
    pairs = 12 * 13 // 2 + 2 * attention_pairs(12, 5) - 3 * 12  # one full layer, two of window 5
    assert decoder_flops(decoder, [12]) == apart + 2 * pairs * 4 * (8 + 4)


@pytest.mark.parametrize("code_dim", [0, 6])
def test_patches_need_what_torch_counts(code_dim):
    grid = TokenGrid(10, books=(8, 8, 8), patch_size=2)
    local = LocalConfig(dim=16, layers=2, heads=2, ffn_dim=24, code_dim=code_dim)
    model = OmniModel(OmniConfig(grid, CONFIG, local, local))
    batch = grid.build([[1], torch.zeros(3, 8, dtype=torch.long), [2]]).batched()
    with FlopCounterMode(display=False) as counter:
        omni_loss(model(batch), book_weights=(1.0, 1.0, 1.0))
    parts = counter.get_flop_counts()
    counted = sum(sum(parts[f"OmniModel.{part}"].values()) for part in ("patch_encoder", "patch_decoder"))
    assert counted == patch_flops(model.patch_encoder, model.patch_decoder, read=4, written=4)


def test_the_peak_is_measured():
    peak, origin = peak_flops(torch.device("cpu"), torch.float32)
    assert origin == "measured" and 1e8 < peak < 1e14
