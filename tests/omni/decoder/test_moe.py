import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from solfa.omni.decoder.moe import MoE, MoEConfig

CONFIG = MoEConfig(experts=8, top_k=3, ffn_dim=12, scale=1.7)


def mixture(config: MoEConfig = CONFIG, activation: str = "silu") -> MoE:
    torch.manual_seed(0)
    moe = MoE(16, config, activation)
    for p in moe.parameters():
        torch.nn.init.normal_(p, std=0.4)
    moe.balance.normal_(std=0.2)
    return moe


def dense(moe: MoE, x: torch.Tensor) -> torch.Tensor:
    """All experts on all steps, in float64, from the formulas of DeepSeek-V3."""
    c, rows = moe.config, x.double().flatten(0, -2)
    scores = F.linear(rows, moe.router.weight.double()).sigmoid()
    ranked = scores.detach() + moe.balance
    for row in ranked:
        if c.groups > 1:
            goodness = [g.sort().values[-2:].sum() for g in row.chunk(c.groups)]
            for group, chunk in enumerate(row.chunk(c.groups)):
                if sum(g > goodness[group] for g in goodness) >= c.top_groups:
                    chunk[:] = -9
    open_to = torch.zeros_like(scores).scatter(1, ranked.sort(descending=True).indices[:, : c.top_k], 1)
    weights = scores * open_to
    weights = c.scale * (weights / weights.sum(-1, keepdim=True) if c.normalise else weights)
    gate, up = torch.einsum("nd,efd->nef", rows, moe.gate_up.double()).chunk(2, dim=-1)
    return (
        (torch.einsum("nef,edf->ned", F.silu(gate) * up, moe.down.double()) * weights[..., None]).sum(1).view(x.shape)
    )


@pytest.mark.parametrize("config", [
    CONFIG, dataclasses.replace(CONFIG, normalise=False), dataclasses.replace(CONFIG, top_k=8),
    dataclasses.replace(CONFIG, groups=4, top_groups=2), dataclasses.replace(CONFIG, experts=40, top_k=1),
])  # fmt: skip
def test_is_the_formula_with_its_gradients(config):
    moe, x = mixture(config), torch.randn(2, 9, 16, requires_grad=True)
    leaves = [x, moe.router.weight, moe.gate_up, moe.down]
    got, want = moe(x), dense(moe, x).float()
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    seed = torch.randn_like(want)
    for a, b in zip(torch.autograd.grad(got, leaves, seed), torch.autograd.grad(want, leaves, seed), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_balance_picks_experts_but_does_not_weigh_them():
    moe, x = mixture(), torch.randn(1, 50, 16)
    weights, chosen = moe.route(x[0])
    moe.balance += 3.0
    torch.testing.assert_close(moe.route(x[0])[0], weights)
    moe.balance[5] += 10
    weights, chosen = moe.route(x[0])
    assert (chosen == 5).any(-1).all() and (weights.sum(-1) - 1.7).abs().max() < 1e-5
    assert "balance" in moe.state_dict() and "load" not in moe.state_dict() and not moe.balance.requires_grad


@torch.no_grad()
def test_company_changes_nothing():
    moe, x = mixture(), torch.randn(64, 1, 16)
    together = moe(x)
    for i in range(0, 64, 7):
        torch.testing.assert_close(moe(x[i : i + 1]), together[i : i + 1], atol=1e-6, rtol=1e-5)


def test_padding_gets_nothing_and_counts_nothing():
    moe, x = mixture(), torch.randn(2, 10, 16)
    real = torch.rand(2, 10) < 0.6
    want = moe(x) * real[..., None]
    moe.load.zero_()
    torch.testing.assert_close(moe(x, real), want)
    assert moe.load.sum() == 3 * real.sum()


def test_load_counts_each_step_once_with_checkpointing_and_without_gradients():
    moe, x = mixture(), torch.randn(2, 10, 16, requires_grad=True)
    for reentrant in (False, True):
        checkpoint(moe, x, use_reentrant=reentrant).sum().backward()
    assert moe.load.sum() == 2 * 3 * 20
    with torch.no_grad():
        moe(x)
    assert moe.load.sum() == 3 * 3 * 20
    want = moe.route(x[0])[1].flatten().bincount(minlength=8) + moe.route(x[1])[1].flatten().bincount(minlength=8)
    assert torch.equal(moe.load, 3 * want)


def test_evaluation_does_not_move_the_balance():
    moe, x = mixture(), torch.randn(2, 10, 16)
    moe.eval()(x)
    assert moe.load.sum() == 60
    assert moe.train().load.sum() == 0
    moe(x)
    assert moe.train().load.sum() == 60


def test_rebalancing_spreads_a_lopsided_load():
    moe = mixture()
    moe.balance.zero_()
    moe.balance[:3] = 0.9
    x = torch.randn(4, 100, 16)

    def imbalance() -> float:
        moe.load.zero_()
        moe(x)
        return (moe.load.max() / moe.load.float().mean()).item()

    assert imbalance() > 2.5
    for _ in range(400):
        moe(x)
        moe.rebalance(0.01)
        assert moe.load.sum() == 0
    assert imbalance() < 1.2


def test_router_scores_are_float32_under_autocast():
    moe, x = mixture(), torch.randn(2, 30, 16)
    rows = x.flatten(0, 1)
    weights, chosen = moe.route(rows)
    with torch.autocast("cpu", torch.bfloat16):
        half_weights, half_chosen = moe.route(rows)
        y = moe(x)
    assert torch.equal(chosen, half_chosen) and torch.equal(weights, half_weights)
    assert (y - moe(x)).abs().max() < 0.1


@pytest.mark.parametrize("change", [
    {"score": "relu"}, {"groups": 3}, {"groups": 8, "top_groups": 2}, {"groups": 4, "top_groups": 1}, {"top_k": 9},
])  # fmt: skip
def test_impossible_mixtures_are_refused(change):
    with pytest.raises(ValueError, match="score|groups|top_k"):
        dataclasses.replace(CONFIG, **change)
