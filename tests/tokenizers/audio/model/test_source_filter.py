"""The harmonic-plus-noise source and its shaping."""

import pytest
import torch

from solfa.tokenizers.audio.model.source_filter import (
    NOISE_PERIOD,
    SILENCE,
    HeadState,
    PulseState,
    SourceFilterHead,
    band_matrix,
    fixed_noise,
    pulse_train,
)
from solfa.tokenizers.audio.stream_state import Stream

RATE, HOP = 24_000, 240


def head(subframes: int = 2) -> SourceFilterHead:
    return SourceFilterHead(RATE, HOP, 512, 16, subframes).eval()


@pytest.mark.parametrize("f0", [60.0, 100.0, 137.3, 400.0, 850.0])  # 100 Hz: the phase meets multiples of pi exactly
def test_pulses_have_unit_variance_and_the_right_frequency(f0: float) -> None:
    x = pulse_train(torch.full((1, 200), f0), HOP, RATE)[0]
    assert x.shape == (48_000,)
    assert torch.isfinite(x).all()
    assert x.var().item() == pytest.approx(1.0, abs=0.03)
    assert x.mean().item() == pytest.approx(0.0, abs=0.02)
    spectrum = torch.fft.rfft(x.double() * torch.hann_window(len(x), dtype=torch.float64)).abs()
    hz = torch.arange(len(spectrum)) * RATE / len(x)
    lowest = hz[spectrum > 0.5 * spectrum.max()].min()
    assert lowest.item() == pytest.approx(f0, abs=1.0)
    between = ((hz / f0) % 1 - 0.5).abs() < 0.25
    assert spectrum[between].max() < 1e-2 * spectrum.max(), "energy only at harmonics"
    assert spectrum[hz > 0.475 * RATE + 10].max() < 1e-3 * spectrum.max(), "band-limited"


def test_pulses_follow_a_glide_without_jumps() -> None:
    f0 = torch.linspace(80, 300, 100)[None]
    x = pulse_train(f0, HOP, RATE)[0]
    assert torch.isfinite(x).all()
    cycles = float(
        torch.nn.functional.interpolate(f0[None], scale_factor=HOP, mode="linear")[0, 0].double().sum() / RATE
    )
    tops = ((x[1:-1] > x[:-2]) & (x[1:-1] >= x[2:]) & (x[1:-1] > 4)).sum().item()
    assert tops == pytest.approx(cycles, abs=1.5)


def test_pulses_are_causal_and_do_not_drift() -> None:
    f0 = torch.full((1, 6000), 123.4)  # one minute
    whole = pulse_train(f0, HOP, RATE)
    part = pulse_train(f0[:, :500], HOP, RATE)
    torch.testing.assert_close(whole[:, : part.shape[1]], part)
    # Five seconds are 617 cycles, so the end of the minute repeats the beginning.
    first, last = whole[0, :120_000], whole[0, -120_000:]
    assert torch.cosine_similarity(first, last, dim=0) > 0.999


def test_band_matrix_is_an_interpolation() -> None:
    matrix = band_matrix(80, 512, RATE)
    assert matrix.shape == (257, 80)
    torch.testing.assert_close(matrix.sum(1), torch.ones(257))
    assert matrix.min() >= 0
    assert (matrix > 0).sum(1).max() <= 2
    assert matrix[0, 0] == matrix[-1, -1] == 1


def test_noise_is_the_same_everywhere() -> None:
    """Checkpoints rely on these very samples."""
    noise = fixed_noise()
    assert noise.shape == (NOISE_PERIOD,)
    assert torch.equal(noise, fixed_noise())
    torch.testing.assert_close(noise[:3], torch.tensor([0.33528662, -0.4161375, -0.12797149]))
    assert noise.std().item() == pytest.approx(0.3, rel=0.01)


def test_noise_goes_on_where_it_ended() -> None:
    part, stream = head(), Stream()
    stream.state(part, HeadState).noise_from = NOISE_PERIOD - 2400
    pieces = [part.excitation(torch.full((1, 10), 100.0), stream)[1] for _ in range(2)]
    expected = torch.cat([part.noise[-2400:], part.noise[: pieces[0].shape[1] + pieces[1].shape[1] - 2400]])
    assert torch.equal(torch.cat(pieces, dim=1)[0], expected)


@pytest.mark.parametrize("frames", [1, 3, 50])
def test_pulses_in_pieces_equal_the_whole(frames: int) -> None:
    f0 = 60 + 300 * torch.rand(2, 150, generator=torch.Generator().manual_seed(0))
    state, pieces = PulseState(), []
    for at in range(0, 150, frames):
        ended = at + frames == 150
        pieces.append(pulse_train(f0[:, at : at + frames], HOP, RATE, state, ended))
        known = (at + frames) * HOP - (0 if ended else HOP // 2)
        assert sum(piece.shape[1] for piece in pieces) == known
    torch.testing.assert_close(torch.cat(pieces, dim=1), pulse_train(f0, HOP, RATE), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_phase_does_not_depend_on_pieces_for_an_hour() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse, fine = PulseState(), PulseState()
    for minute in range(60):
        f0 = 80 + 200 * torch.rand(1, 6000, generator=generator)
        whole = pulse_train(f0, HOP, RATE, coarse, ended=False)
        pieces = torch.cat([pulse_train(piece, HOP, RATE, fine, ended=False) for piece in f0.split(8, dim=1)], dim=1)
        torch.testing.assert_close(pieces, whole, atol=1e-4, rtol=0, msg=f"minute {minute}")


@pytest.mark.parametrize("subframes", [1, 2, 4])
def test_head_in_pieces_equals_the_whole(subframes: int) -> None:
    part, generator = head(subframes), torch.Generator().manual_seed(0)
    gains, f0 = torch.randn(2, 40, part.gains, generator=generator), 60 + 300 * torch.rand(2, 40, generator=generator)
    stream, pieces = Stream(), []
    for start, stop in [(0, 5), (5, 6), (6, 20), (20, 40)]:
        stream.ended = stop == 40
        ahead = min(1, 40 - stop)  # frames that F0 is ahead of the gains
        pieces.append(part(gains[:, start:stop], f0[:, start + (start > 0) : stop + ahead], stream))
        assert sum(piece.shape[1] for piece in pieces) == stop * HOP - (0 if stream.ended else part.delay)
    torch.testing.assert_close(torch.cat(pieces, dim=1), part(gains, f0), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("subframes", [1, 2, 4])
@pytest.mark.parametrize("frames", [4, 7])
def test_head_gives_hop_samples_a_frame(subframes: int, frames: int) -> None:
    part = head(subframes)
    y = part(torch.randn(3, frames, part.gains), torch.full((3, frames), 120.0))
    assert y.shape == (3, frames * HOP)
    assert torch.isfinite(y).all()


def test_head_is_silent_at_the_lowest_gain_and_repeats_itself() -> None:
    part = head()
    gains, f0 = torch.zeros(1, 10, part.gains), torch.full((1, 10), 120.0)
    assert torch.equal(part(gains, f0), part(gains, f0))
    assert part(gains + SILENCE * 2, f0).square().mean() < 1e-6 * part(gains, f0).square().mean()


@pytest.mark.parametrize("source", [0, 1])
def test_levels_bring_the_envelope_back(source: int) -> None:
    """Pulses alone, or noise alone, at the levels of a sound have its band magnitudes."""
    part, f0 = head(), torch.full((1, 100), 120.0)
    want = torch.linspace(-1.0, 0.5, 16).repeat(1, 100, 4)  # a tilt of 52 dB
    muted = torch.zeros(2, 16)
    muted[1 - source] = -20.0
    levels = part.levels(part(want + muted.flatten().repeat(2), f0))
    found = levels.unflatten(-1, (2, 2, 16))[:, 10:-10, :, source].mean((0, 1, 2))
    torch.testing.assert_close(found[1:-1], want[0, 0, 1:15], atol=0.12, rtol=0)


def test_training_moves_the_noise() -> None:
    part = head().train()
    gains, f0 = torch.zeros(1, 10, part.gains), torch.full((1, 10), 120.0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert not torch.equal(part(gains, f0), part(gains, f0))
