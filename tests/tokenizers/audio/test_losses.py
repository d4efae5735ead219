"""The mel loss: zero for equal signals, positive otherwise, finite gradients also in silence."""

import pytest
import torch

from solfa.tokenizers.audio.losses import MultiResolutionMelLoss


@pytest.fixture(scope="module")
def loss() -> MultiResolutionMelLoss:
    return MultiResolutionMelLoss(24_000)


def noise(seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(2, 6000, generator=torch.Generator().manual_seed(seed))


def test_equal_signals_cost_nothing(loss: MultiResolutionMelLoss) -> None:
    assert loss(noise(), noise()).item() == pytest.approx(0, abs=1e-6)


def test_worse_signals_cost_more(loss: MultiResolutionMelLoss) -> None:
    costs = [loss(noise() + gain * noise(1), noise()).item() for gain in (0.1, 0.3, 1.0)]
    assert 0 < costs[0] < costs[1] < costs[2]
    assert loss(2 * noise(), noise()).item() > 0.5


def test_sign_is_not_heard(loss: MultiResolutionMelLoss) -> None:
    assert loss(-noise(), noise()).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("gain", [0.0, 1e-8, 1.0, 100.0])
def test_gradients_are_finite(loss: MultiResolutionMelLoss, gain: float) -> None:
    for truth in (noise(1), torch.zeros(2, 6000)):
        guess = (gain * noise()).requires_grad_()
        value = loss(guess, truth)
        value.backward()
        assert torch.isfinite(value)
        assert guess.grad is not None
        assert torch.isfinite(guess.grad).all()


def test_gradient_leads_to_the_target(loss: MultiResolutionMelLoss) -> None:
    guess = (0.3 * noise()).requires_grad_()
    before = loss(guess, noise())
    (gradient,) = torch.autograd.grad(before, guess)
    assert loss(guess - 1e-3 * gradient / gradient.norm(), noise()) < before
