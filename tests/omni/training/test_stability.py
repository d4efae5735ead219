"""Training that stays up: what goes wrong is noticed, and after a few steps the loss is where it would have been."""

import dataclasses
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from solfa.core.errors import UserError
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig, HybridDecoder, SelfAttention
from solfa.omni.model.text_model import TextModel
from solfa.omni.training.omni_recipe import OmniRecipe
from solfa.omni.training.omni_task import OmniTask
from solfa.omni.training.packing import Packed
from solfa.omni.training.stability import Guard, Monitor, StabilityConfig, Verdict, qk_clip
from solfa.omni.training.train_omni import make_task

LEARNED, AFTER = 24, 12  # steps before something goes wrong, and after


@pytest.fixture(scope="module")
def learned() -> dict[str, object]:
    """What tests of this file share: the folder of a run of LEARNED steps, and the undisturbed run's loss AFTER more."""
    return {}


@pytest.fixture
def trainer(learned, omni_recipe: OmniRecipe, tmp_path_factory) -> OmniTask:
    """A healthy run after LEARNED steps, its state saved."""
    if not learned:
        folder = tmp_path_factory.mktemp("learned")
        first = make_task(dataclasses.replace(omni_recipe, out=str(folder)))
        losses(first, LEARNED)
        first.loop.save(first)
        learned["folder"], learned["loss"] = folder, level(losses(first, AFTER))
    shutil.copytree(Path(str(learned["folder"])) / "state", Path(omni_recipe.out) / "state")
    trainer = make_task(omni_recipe)
    assert trainer.loop.restore(trainer)
    return trainer


def losses(trainer: OmniTask, steps: int) -> list[float]:
    trainer.model.train()
    return [trainer.loop.train_step(trainer).metrics["loss"] for _ in range(steps)]


def level(values: list[float]) -> float:
    return sum(values[-4:]) / 4


def events(trainer: OmniTask, steps: int) -> list[str]:
    trainer.model.train()
    return [trainer.loop.train_step(trainer).metrics.get("event", "") for _ in range(steps)]


def poison(trainer: OmniTask, positions: range) -> None:
    """At these positions of the data, a token that never occurs and whose embedding is enormous."""
    real, token, model = trainer.batch, trainer.objective.grid.id("<|voice|>"), trainer.model
    assert isinstance(model, TextModel)
    with torch.no_grad():
        model.embed.weight[token] = 1e4 * torch.randn(model.embed.embedding_dim)

    def batch(position: int) -> Packed:
        rows = real(position)
        if position in positions:
            rows.grid.text[:, ::2] = token
        return rows

    trainer.batch = batch  # type: ignore[method-assign]


def recovers(trainer: OmniTask, learned: dict[str, object], steps: int = AFTER) -> bool:
    return level(losses(trainer, steps)) < float(str(learned["loss"])) + 0.1


def test_a_poisoned_batch_is_skipped(trainer, learned):
    before = {k: v.clone() for k, v in trainer.model.state_dict().items() if k != "embed.weight"}
    poison(trainer, range(LEARNED, LEARNED + 1))
    assert events(trainer, 1) == ["skip"]
    assert all(torch.equal(before[k], v) for k, v in trainer.model.state_dict().items() if k in before)
    assert recovers(trainer, learned)


def test_without_a_guard_it_does_harm(trainer, learned):
    trainer.guard = Guard(StabilityConfig(warmup=1000))
    poison(trainer, range(LEARNED, LEARNED + 3))
    assert not recovers(trainer, learned, 6)


def test_many_poisoned_batches_bring_the_checkpoint_back_and_the_data_goes_on(trainer, learned):
    losses(trainer, 4)
    poison(trainer, range(LEARNED + 4, LEARNED + 7))
    assert events(trainer, 3) == ["skip", "skip", "roll back"]
    assert trainer.loop.step == LEARNED and trainer.offset == 7
    read = []
    real = trainer.batch
    trainer.batch = lambda position: read.append(position) or real(position)
    assert recovers(trainer, learned)
    assert read[0] == LEARNED + 7, "the poison is not read again"


def test_a_gradient_that_is_not_a_number_is_skipped(trainer, learned):
    weight = trainer.decoder.layers[1].attention.out.weight
    hook = weight.register_hook(lambda gradient: gradient * math.nan)
    assert events(trainer, 1) == ["skip"]
    hook.remove()
    assert all(p.isfinite().all() for p in trainer.parameters)
    assert recovers(trainer, learned)


def attentions(decoder: HybridDecoder) -> list[SelfAttention]:
    return [m for m in decoder.modules() if isinstance(m, SelfAttention)]


def explode(trainer: OmniTask) -> None:
    """All queries and keys a hundred times as large, so logits ten thousand times."""
    for attention in attentions(trainer.decoder):
        with torch.no_grad():
            attention.qkv.weight[: attention.sizes[0]] *= 100


def test_exploding_heads_are_clipped(trainer, learned):
    explode(trainer)
    found = events(trainer, 8)
    assert any("clipped" in event for event in found) and not any("roll back" in event for event in found)
    trainer.monitor.start()
    trainer.losses(trainer.batch(100), backward=False)
    assert max(x.max() for x in trainer.monitor.read().logits) < 2 * trainer.recipe.stability.qk_clip
    assert recovers(trainer, learned)


def entropy(trainer: OmniTask) -> float:
    trainer.monitor.start()
    trainer.losses(trainer.batch(200), backward=False)
    (found,) = trainer.monitor.read().entropies()
    trainer.decoder.moe_layers()[0].load.zero_()
    return found


def test_a_collapsed_router_comes_back(trainer, learned):
    before = entropy(trainer)
    trainer.decoder.moe_layers()[0].balance[2] = 100.0
    assert entropy(trainer) == 0.0 < before
    assert "revived 1 routers" in " ".join(events(trainer, 5))
    assert recovers(trainer, learned)
    assert entropy(trainer) > 0.8 * before


def test_a_router_that_stays_collapsed_brings_the_checkpoint_back(trainer, learned):
    before = entropy(trainer)
    router = trainer.decoder.moe_layers()[0].router.weight
    router.requires_grad_(False).zero_()  # all experts score alike, so whichever the balance likes best gets everything
    assert "roll back" in " ".join(events(trainer, 8))
    assert entropy(trainer) > 0.8 * before


# The parts


def test_the_guard_calls_a_spike_bad_and_a_slope_good():
    guard = Guard(StabilityConfig(warmup=4, patience=2))
    assert [guard.judge(x, 1.0) for x in (9.0, 30.0, 4.0)] == [Verdict.GOOD] * 3, "too early to tell"
    noise = torch.randn(100, generator=torch.Generator().manual_seed(0)).tolist()
    assert all(guard.judge(8.0 - 0.05 * i + 0.02 * x, 1.0) is Verdict.GOOD for i, x in enumerate(noise))
    limit = guard.loss_limit()
    assert 3.0 + 0.4 < limit < 3.0 + 0.8, "a slope is no spread"
    assert guard.judge(limit + 0.01, 1.0) is Verdict.SKIP and guard.loss_limit() == limit
    assert guard.judge(3.0, 21.0) is Verdict.ROLL_BACK
    assert guard.judge(3.0, 19.0) is Verdict.GOOD and guard.streak == 0
    assert [guard.judge(x, y) for x, y in ((math.nan, 1.0), (3.0, math.inf))] == [Verdict.SKIP, Verdict.ROLL_BACK]


def test_the_guard_believes_data_that_stay_different_and_gives_up_on_what_is_no_number():
    guard = Guard(StabilityConfig(warmup=4, patience=1))
    for _ in range(10):
        guard.judge(2.0, 1.0)
    good = guard.state()
    for expected in (Verdict.ROLL_BACK, Verdict.ROLL_BACK, Verdict.GOOD):
        assert guard.judge(6.0, 1.0) is expected
        if expected is Verdict.ROLL_BACK:
            guard.rolled_back(good)
    for _ in range(Guard.ROLL_BACKS - 2):
        assert guard.judge(math.nan, 1.0) is Verdict.ROLL_BACK
        guard.rolled_back(good)
    with pytest.raises(UserError, match="6 times after the same checkpoint"):
        guard.rolled_back(good)


ATTENTION = AttentionConfig(heads=6, kv_heads=2, qk_dim=8, v_dim=4, rotary_dim=4, qkv_bias=True)
SLIDING = dataclasses.replace(ATTENTION, window=5, sink=True)


@pytest.fixture
def decoder() -> HybridDecoder:
    torch.manual_seed(0)
    decoder = HybridDecoder(
        DecoderConfig(dim=16, layers=2, ffn_dim=16, full_layers=(0,), full=ATTENTION, sliding=SLIDING)
    )
    for attention in attentions(decoder):
        torch.nn.init.normal_(attention.qkv.bias)
    return decoder


def logits(decoder: HybridDecoder, x: Tensor) -> list[Tensor]:
    monitor = Monitor(decoder)
    monitor.start()
    with torch.no_grad():
        decoder(x)
    return monitor.read().logits


def test_the_monitor_sees_the_largest_activation_and_lets_go(decoder):
    x = torch.randn(2, 9, 16)
    monitor = Monitor(decoder)
    monitor.start()
    with torch.no_grad():
        decoder(x / 2)
        decoder(x)
        shared = []
        hook = decoder.layers[1].register_forward_hook(lambda _, __, y: shared.append(y))
        decoder(x)
        hook.remove()
    sight = monitor.read()
    assert sight.activations[1] == pytest.approx(shared[0].abs().max().item())
    assert not any(layer._forward_hooks or layer.attention.track_max_logit for layer in decoder.layers)


def test_qk_clip_brings_each_head_down_to_the_limit_and_leaves_the_others(decoder):
    x = torch.randn(3, 12, 16)
    with torch.no_grad():
        weight, bias = decoder.layers[0].attention.qkv.weight, decoder.layers[0].attention.qkv.bias
        for p in (weight, bias):
            p[8:16] *= 50  # a query head of the first group, which has three
            p[56:64] *= 40  # the keys of the second group, which all its heads read
    before, values = logits(decoder, x), weight[64:].clone()
    limit = float(before[0][[0, 2]].max()) * 1.1
    broken = before[0] > limit
    assert broken.tolist() == [False, True, False, True, True, True]
    untouched = decoder.layers[1].attention.qkv.weight.clone()
    keys = weight[48:56].clone()
    assert qk_clip(decoder, [before[0], torch.zeros(6)], limit) == 4
    after = logits(decoder, x)[0]
    torch.testing.assert_close(after[broken], torch.full((4,), limit), rtol=1e-4, atol=0)
    torch.testing.assert_close(after[~broken], before[0][~broken], rtol=1e-4, atol=1e-5)
    assert torch.equal(weight[48:56], keys), "healthy heads read these keys"
    assert weight[56:64].norm() < 40 * 16, "keys that hurt everybody shrink too"
    assert torch.equal(weight[64:], values) and torch.equal(decoder.layers[1].attention.qkv.weight, untouched)


def test_qk_clip_leaves_what_it_cannot_mend(decoder):
    before = decoder.layers[0].attention.qkv.weight.clone()
    assert qk_clip(decoder, [torch.tensor([math.inf, math.nan, 1, 1, 1, 1]), torch.ones(6)], 50.0) == 0
    assert torch.equal(decoder.layers[0].attention.qkv.weight, before)
