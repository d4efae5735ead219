import math

import torch

from solfa.tts.planner import PlannerConfig, Prosody, ProsodyPlanner, loss, scaled, slot_phones, unscaled

SMALL = PlannerConfig(symbols=20, dim=16, layers=1, heads=2, ffn_dim=32, voice_dim=8)


def prosody() -> Prosody:
    return Prosody(
        torch.tensor([[3, 0, 7, 12]]),
        torch.tensor([[0.5, math.nan, -3.0, 2.0]]),
        torch.tensor([[-20.0, -3.0, 0.0, 4.0]]),
    )


def test_unscaled_is_the_inverse_of_scaled() -> None:
    truth = prosody()
    again = unscaled(scaled(truth))
    assert again.slots.equal(truth.slots)
    torch.testing.assert_close(again.pitch, truth.pitch, equal_nan=True)
    torch.testing.assert_close(again.energy, truth.energy)


def test_every_slot_belongs_to_the_phone_that_is_spoken_then() -> None:
    slots = torch.tensor([[3, 0, 2, 1], [1, 1, 1, 1]])
    index, into = slot_phones(slots, 8)
    assert index.tolist() == [[0, 0, 0, 2, 2, 3, 3, 3], [0, 1, 2, 3, 3, 3, 3, 3]]
    torch.testing.assert_close(into[0, :3], torch.tensor([1, 3, 5]) / 6)
    assert into.min() >= 0 and into.max() <= 1


def test_padding_changes_no_prediction() -> None:
    torch.manual_seed(0)
    planner = ProsodyPlanner(SMALL).eval()
    phones, voice = torch.randint(20, (1, 9)), torch.randn(1, 8)
    alone = planner(phones, voice, torch.ones(1, 9, dtype=torch.bool))
    padded = torch.cat([phones, torch.zeros(1, 4, dtype=torch.long)], dim=1)
    real = torch.arange(13)[None] < 9
    beside = planner(padded, voice, real)
    torch.testing.assert_close(beside.mean[:, :9], alone.mean, atol=1e-5, rtol=1e-4)


def test_loss_ignores_what_was_not_measured_and_falls_with_training() -> None:
    torch.manual_seed(0)
    planner = ProsodyPlanner(SMALL)
    phones, voice, real = torch.randint(20, (1, 4)), torch.randn(1, 8), torch.ones(1, 4, dtype=torch.bool)
    optimizer = torch.optim.Adam(planner.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        value = loss(planner(phones, voice, real), prosody(), real)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0] - 0.5
