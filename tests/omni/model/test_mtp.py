"""Blocks of multi-token prediction: what they see, what they learn, and that drafting is what training practised."""

import dataclasses
from typing import Any

import pytest
import torch

from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.model.mtp import MTP, Drafter, repeat_mtp_block
from solfa.omni.model.text_model import TextConfig, TextModel
from solfa.omni.training.train_omni import make_task

HEADS: dict[str, Any] = {"heads": 4, "qk_dim": 12, "v_dim": 8, "rotary_dim": 4}
SMALL = DecoderConfig(
    dim=32, layers=2, ffn_dim=48, full_layers=(0,), full=AttentionConfig(kv_heads=1, **HEADS),
    sliding=AttentionConfig(window=8, kv_heads=2, sink=True, **HEADS),
)  # fmt: skip


@pytest.fixture
def model() -> TextModel:
    torch.manual_seed(0)
    model = TextModel(TextConfig(vocab_size=20, decoder=SMALL, mtp=3)).eval()
    assert model.head
    torch.nn.init.normal_(model.head.weight)
    return model


@torch.no_grad()
def test_block_k_knows_the_inputs_up_to_k_steps_ahead(model):
    states, inputs = torch.randn(1, 12, 32), torch.randn(1, 12, 32)
    before = model.mtp(states, inputs)
    for changed in (inputs, states):
        changed[:, 7] += 1
        after = model.mtp(states, inputs)
        firsts = [int((a - b).abs().amax(-1)[0].gt(1e-5).nonzero()[0]) for a, b in zip(after, before, strict=True)]
        assert firsts == ([6, 5, 4] if changed is inputs else [7, 7, 7])
        before = after


@torch.no_grad()
def test_packed_sequences_are_as_if_alone(model):
    a, b = torch.randint(20, (1, 13)), torch.randint(20, (1, 9))
    segments = torch.tensor([[0] * 13 + [1] * 9])
    packed = model.mtp(torch.cat([model.inputs(a), model.inputs(b)], 1), model.inputs(torch.cat([a, b], 1)), segments)
    alone = [model.mtp(model.inputs(ids), model.inputs(ids)) for ids in (a, b)]
    for k, (got, x, y) in enumerate(zip(packed, *alone, strict=True)):
        torch.testing.assert_close(got[:, : 12 - k], x[:, : 12 - k], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got[:, 13 : 21 - k], y[:, : 8 - k], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_drafting_in_rounds_is_one_teacher_forced_pass(model):
    """Three rows, of which each round makes certain as many steps as it likes: drafts are those of the whole sequence."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(20, (60,), generator=generator) for _ in range(3)]
    states = torch.stack([model.decoder(model.inputs(row[None]))[0] for row in rows])
    drafter, done = Drafter(model.mtp, 3), torch.zeros(3, dtype=torch.int64)
    for turn in range(8):
        counts = torch.randint(0 if turn else 1, 5, (3,), generator=generator)
        most = int(counts.max()) or 1
        at = torch.stack([d + torch.arange(most) for d in done]).clamp(max=58)
        known = torch.gather(torch.stack(rows), 1, at + 1)
        made = drafter.draft(
            torch.gather(states, 1, at[..., None].expand(-1, -1, 32)), model.inputs(known), counts,
            lambda state: ((drafted := model.logits(state).argmax(-1)), model.inputs(drafted)),
        )  # fmt: skip
        done += counts
        for i, end in enumerate(done.tolist()):
            if not counts[i]:
                continue
            sequence = rows[i][: end + 1]
            for k in range(3):
                # step `end` is known but not read: its state is missing, and no block looks at it
                whole = torch.cat([states[i : i + 1, :end], torch.zeros(1, len(sequence) - end, 32)], 1)
                drafted = model.logits(model.mtp(whole, model.inputs(sequence[None]))[k][0, end - 1]).argmax()
                assert made[k][i] == drafted, f"round {turn}, row {i}, block {k + 1}"
                sequence = torch.cat([sequence, drafted[None]])


def test_one_block_is_copied_to_several():
    one = TextModel(TextConfig(vocab_size=20, decoder=SMALL, mtp=1))
    three = TextModel(TextConfig(vocab_size=20, decoder=SMALL, mtp=3))
    three.load_state_dict(repeat_mtp_block(one.state_dict(), 3))
    for block in three.mtp:
        assert all(torch.equal(block.state_dict()[k], v) for k, v in one.mtp[0].state_dict().items())
    assert repeat_mtp_block(one.state_dict(), 1).keys() == one.state_dict().keys()


def test_drafts_need_blocks(model):
    with pytest.raises(ValueError, match="4 drafts are to be made by 3 blocks"):
        Drafter(model.mtp, 4)
    with pytest.raises(ValueError):
        Drafter(MTP(SMALL, 0), 1)


def test_first_one_block_is_trained_and_then_three(omni_recipe, tmp_path):
    one = dataclasses.replace(omni_recipe, mtp=1, steps=25)
    losses = {}
    for name, recipe in {
        "one": one,
        "three": dataclasses.replace(
            one, mtp=3, mtp_weight=0.1, init=f"{one.out}/checkpoint", out=str(tmp_path / "three")
        ),
    }.items():
        trainer = make_task(recipe)
        trainer.model.train()
        losses[name] = [trainer.loop.train_step(trainer).metrics for _ in range(25)]
        trainer.loop.save(trainer)
    first, last = losses["one"][0], losses["one"][-1]
    assert first["loss"] == pytest.approx(first["text"] + 0.3 * first["mtp 1"], rel=1e-4)
    assert last["mtp 1"] < 2 < first["mtp 1"]
    begun, ended = losses["three"][0], losses["three"][-1]
    assert begun["mtp 1"] < 2, "the first block has been trained already"
    assert ended["mtp 3"] < begun["mtp 3"] and ended["mtp 3"] < 2
    model = TextModel.from_pretrained(tmp_path / "three" / "checkpoint")
    assert len(model.mtp) == 3
