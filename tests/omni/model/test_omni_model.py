import dataclasses
import math

import pytest
import torch

from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.model.grid import TokenGrid
from solfa.omni.model.omni_model import OmniConfig, OmniModel, omni_loss
from solfa.omni.model.patches import LocalConfig

GRID = TokenGrid(text_size=30, books=(64, 64, 64))
LOCAL = LocalConfig(dim=32, layers=1, heads=2, ffn_dim=64)
CONFIG = OmniConfig(
    grid=GRID,
    decoder=DecoderConfig(dim=48, layers=2, ffn_dim=64, full_layers=(0,), sliding=AttentionConfig(window=6, sink=True)),
    patch_encoder=LOCAL,
    patch_decoder=LOCAL,
    cond_dim=5,
)
WEIGHTS = (3.0, 2.0, 1.0)


def codes(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 64, (3, frames), generator=torch.Generator().manual_seed(seed))


def sequence(frames: int, seed: int = 0):
    return GRID.build(
        [[GRID.id("<|bos|>"), 4, 7], [GRID.id("<|sostm|>")], codes(frames, seed), [GRID.id("<|eostm|>")]], loss_from=2
    )


@pytest.fixture
def model() -> OmniModel:
    torch.manual_seed(0)
    return OmniModel(CONFIG)


def test_a_fresh_model_pays_log_of_the_vocabulary(model):
    batch = GRID.collate([sequence(n, n) for n in (90, 33, 61, 100)])
    losses = omni_loss(model(batch, torch.randn(*batch.text.shape, 4, 5)), book_weights=WEIGHTS)
    assert losses.books.tolist() == pytest.approx([math.log(64)] * 3, abs=0.1)
    assert losses.text.item() == pytest.approx(math.log(GRID.vocab_size), abs=0.15)
    torch.testing.assert_close(losses.total, losses.text + (losses.books * torch.tensor([3, 2, 1]) / 6).sum())


@torch.no_grad()
def test_a_batch_predicts_what_each_sequence_does_alone(model):
    model.eval()
    grids = [sequence(n, n) for n in (13, 29, 4)]
    batch = GRID.collate(grids)
    cond = torch.zeros(*batch.text.shape, 4, 5)
    for row, g in zip(cond, grids, strict=True):
        row[: len(g.text)] = torch.randn(len(g.text), 4, 5)
    together = model(batch, cond)
    start = 0
    for i, g in enumerate(grids):
        alone = model(g.batched(), cond[i : i + 1, : len(g.text)])
        torch.testing.assert_close(together.text[i : i + 1, : len(g.text)], alone.text, atol=1e-5, rtol=1e-5)
        n = len(alone.audio)
        torch.testing.assert_close(together.audio[start : start + n], alone.audio, atol=1e-5, rtol=1e-5)
        start += n
    assert start == len(together.audio) == together.audio_mask.sum()


@torch.no_grad()
def test_condition_of_a_frame_acts_where_the_frame_is_written_and_later(model):
    model.eval()
    batch = sequence(12).batched()
    cond = torch.zeros(1, batch.text.shape[1], 4, 5)
    other = cond.clone()
    other[0, 5] = 1  # the second patch, steps 4 5 6 being audio
    change = (model(batch, cond).audio - model(batch, other).audio).abs().amax((1, 2, 3))
    assert change[0] == 0 and change[1] > 1e-3 and change[2] > 1e-6


@torch.no_grad()
def test_slot_embeds_change_the_output(model):
    model.eval()
    batch = sequence(8).batched()
    slot_embeds = torch.zeros(1, batch.text.shape[1], 48)
    assert torch.equal(model(batch, slot_embeds=slot_embeds).audio, model(batch).audio)
    slot_embeds[0, 1] = torch.randn(48)
    assert (model(batch, slot_embeds=slot_embeds).audio - model(batch).audio).abs().max() > 1e-4


def test_learns_one_sequence_by_heart(model):
    batch = GRID.collate([sequence(6), sequence(4, 1)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(25):
        losses = omni_loss(model(batch), book_weights=WEIGHTS)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.books.max() < 0.7 and losses.text < 0.3


def test_trains_in_bfloat16(model):
    batch = GRID.collate([sequence(10), sequence(7, 1)])
    with torch.autocast("cpu", torch.bfloat16):
        omni_loss(model(batch, torch.randn(*batch.text.shape, 4, 5)), book_weights=WEIGHTS).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_steps_without_audio_cost_nothing_but_text(model):
    losses = omni_loss(model(GRID.build([[1, 2, 3]]).batched()), book_weights=WEIGHTS)
    assert losses.books.tolist() == [0, 0, 0] and torch.equal(losses.total, losses.text)
    losses.total.backward()


def test_a_checkpoint_is_the_model_again(tmp_path):
    torch.manual_seed(0)
    model = OmniModel(dataclasses.replace(CONFIG, mtp=2)).eval()
    model.save_pretrained(tmp_path)
    again = OmniModel.from_pretrained(tmp_path)
    assert again.config == model.config and not again.training
    tensors = again.state_dict()
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())
