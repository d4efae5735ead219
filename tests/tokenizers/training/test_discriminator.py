"""Discriminators on the complex STFT, and the losses between them and the generator."""

import pytest
import torch

from solfa.tokenizers.training.discriminator import (
    WINDOWS,
    Discriminators,
    StftDiscriminator,
    discriminator_loss,
    generator_losses,
)


def noise(seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(2, 2880, generator=torch.Generator().manual_seed(seed))


def test_maps_of_every_window() -> None:
    maps = Discriminators()(noise())
    assert len(maps) == len(WINDOWS)
    for window, part in zip(WINDOWS, maps, strict=True):
        assert len(part) == 6
        assert part[-1].shape[:2] == (2, 1)
        assert part[0].shape[2] == 2880 // (window // 4) + 1
        assert all(torch.isfinite(m).all() for m in part)


def test_another_sound_and_a_delay_change_the_score() -> None:
    critic = StftDiscriminator(512)
    assert not torch.allclose(critic(noise())[-1], critic(noise(1))[-1])
    assert not torch.allclose(critic(noise())[-1], critic(noise().roll(60, 1))[-1])


def scores(*values: float) -> list[list[torch.Tensor]]:
    """One discriminator each, one feature map and a score."""
    return [[torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), v)] for v in values]


def test_hinge_losses() -> None:
    assert discriminator_loss(scores(1, 2), scores(-1, -3)) == 0
    assert discriminator_loss(scores(0, 0), scores(0, 0)) == 2
    assert discriminator_loss(scores(-1), scores(2)) == 5
    adversarial, features = generator_losses(scores(1, 1), scores(0.5, -0.25))
    assert adversarial.item() == pytest.approx(-0.125)
    assert features == 0


def test_feature_loss_is_relative() -> None:
    real, fake = [[torch.full((1, 2), 4.0), torch.zeros(1)]], [[torch.full((1, 2), 5.0), torch.zeros(1)]]
    assert generator_losses(real, fake)[1].item() == pytest.approx(0.25)


@pytest.mark.parametrize("silent", [False, True])
def test_gradients_reach_the_sound_and_the_critic(silent: bool) -> None:
    critics = Discriminators()
    fake = (noise(1) * (not silent)).requires_grad_()
    adversarial, features = generator_losses(critics(noise()), critics(fake))
    (adversarial + features).backward()
    assert fake.grad is not None
    assert torch.isfinite(fake.grad).all()
    assert silent or fake.grad.abs().max() > 0
    critics.zero_grad()
    discriminator_loss(critics(noise()), critics(fake.detach())).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in critics.parameters())
