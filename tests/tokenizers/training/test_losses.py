"""The losses of sound: zero for equal signals, positive otherwise, finite gradients also in silence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from solfa.tokenizers.audio.audio_file import read_audio
from solfa.tokenizers.evaluation.metrics import pesq_wb
from solfa.tokenizers.training.losses import AuditoryLoss, MultiResolutionMelLoss


@pytest.fixture(scope="module", params=[MultiResolutionMelLoss, AuditoryLoss])
def loss(request: pytest.FixtureRequest) -> nn.Module:
    return request.param(24_000)


def noise(seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(2, 6000, generator=torch.Generator().manual_seed(seed))


def test_equal_signals_cost_nothing(loss: nn.Module) -> None:
    assert loss(noise(), noise()).item() == pytest.approx(0, abs=1e-3)


def test_worse_signals_cost_more(loss: nn.Module) -> None:
    costs = [loss(noise() + gain * noise(1), noise()).item() for gain in (0.1, 0.3, 1.0)]
    assert 0 < costs[0] < costs[1] < costs[2]
    assert loss(2 * noise(), noise()).item() > 0.5


def test_sign_is_not_heard(loss: nn.Module) -> None:
    assert loss(-noise(), noise()).item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("gain", [0.0, 1e-8, 1.0, 100.0])
def test_gradients_are_finite(loss: nn.Module, gain: float) -> None:
    for truth in (noise(1), torch.zeros(2, 6000)):
        guess = (gain * noise()).requires_grad_()
        value = loss(guess, truth)
        value.backward()
        assert torch.isfinite(value)
        assert guess.grad is not None
        assert torch.isfinite(guess.grad).all()


def test_gradient_leads_to_the_target(loss: nn.Module) -> None:
    guess = (0.3 * noise()).requires_grad_()
    before = loss(guess, noise())
    (gradient,) = torch.autograd.grad(before, guess)
    assert loss(guess - 1e-3 * gradient / gradient.norm(), noise()) < before


def test_auditory_loss_ranks_as_pesq_does(speech_clip: Path) -> None:
    wav = read_audio(speech_clip, 24_000).samples
    noise = 0.05 * np.random.default_rng(0).standard_normal(len(wav)).astype(np.float32) * np.abs(wav).max()
    worse = [wav + gain * noise for gain in (0.5, 0.02, 0.1, 0.2)]
    cost = [AuditoryLoss(24_000)(torch.from_numpy(w)[None], torch.from_numpy(wav)[None]).item() for w in worse]
    score = [pesq_wb(wav, w, 24_000) for w in worse]
    assert np.argsort(cost).tolist() == np.argsort(score)[::-1].tolist()


def test_additions_cost_more_than_omissions(speech_clip: Path) -> None:
    wav = torch.from_numpy(read_audio(speech_clip, 24_000).samples)[None]
    loss = AuditoryLoss(24_000)
    spectrum = torch.fft.rfft(wav)
    band = slice(spectrum.shape[1] // 6, spectrum.shape[1] // 3)  # 2 to 4 kHz
    quieter, louder = spectrum.clone(), spectrum.clone()
    quieter[:, band] *= 0.25
    louder[:, band] *= 4.0
    missing, added = (torch.fft.irfft(s, wav.shape[1]) for s in (quieter, louder))
    assert loss(added, wav) > 1.5 * loss(missing, wav)


def test_level_of_both_does_not_matter_to_the_auditory_loss() -> None:
    loss = AuditoryLoss(24_000)
    assert loss(0.01 * (noise() + noise(1)), 0.01 * noise()).item() == pytest.approx(
        loss(noise() + noise(1), noise()).item(), rel=1e-3
    )
