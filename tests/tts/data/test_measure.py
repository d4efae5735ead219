"""Measures agree with sounds whose properties are known by construction."""

import math

import numpy as np
import pytest

from solfa.tts.data.measure import (
    LEVEL,
    breathiness,
    brightness,
    measure,
    measure_unlabelled,
    normalised,
    nuclei,
    relative,
    slot_power,
    speech_level,
    standardised,
)
from solfa.tts.data.pitch import pitch_statistics, pitch_track, tidy

RATE = 16_000


def buzz(hertz: np.ndarray | float, seconds: float = 1.0, slope: float = -6.0) -> np.ndarray:
    """A voice-like tone: harmonics below 4 kHz that fall by `slope` dB per octave; hertz may change sample by sample."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(hertz, round(seconds * RATE))) / RATE
    top = int(4000 / np.max(hertz))
    wave = sum(10 ** (slope * math.log2(k) / 20) * np.sin(k * phase + k) for k in range(1, top + 1))
    return 0.1 * wave / np.sqrt(np.mean(np.square(wave)))


@pytest.mark.parametrize("hertz", [75.0, 110.0, 163.0, 220.0, 310.0, 430.0])
def test_pitch_of_a_steady_tone(hertz: float) -> None:
    track = pitch_track(buzz(hertz), RATE)
    assert len(track) == 100
    assert (track > 0).mean() > 0.9
    assert np.median(track) == pytest.approx(hertz, rel=0.01)


@pytest.mark.parametrize("sample_rate", [8000, 16_000, 24_000, 44_100])
def test_pitch_does_not_depend_on_the_sample_rate(sample_rate: int) -> None:
    t = np.arange(sample_rate) / sample_rate
    wave = np.sum([np.sin(2 * np.pi * 140 * k * t + k) / k for k in range(1, 20)], axis=0)
    assert np.median(pitch_track(0.1 * wave, sample_rate)) == pytest.approx(140, rel=0.01)


def test_pitch_follows_a_glide_and_its_range_is_in_semitones() -> None:
    octave = 120 * 2 ** np.linspace(0, 1, 2 * RATE)
    median, deviation = pitch_statistics(pitch_track(buzz(octave, 2.0), RATE))
    assert median == pytest.approx(120 * math.sqrt(2), rel=0.03)
    assert deviation == pytest.approx(12 / math.sqrt(12), rel=0.08)


def test_noise_silence_and_nothing_have_no_pitch() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    assert (pitch_track(noise, RATE) > 0).mean() < 0.1
    assert not pitch_track(np.zeros(RATE), RATE).any()
    assert len(pitch_track(np.zeros(0), RATE)) == 0


def test_tidy_removes_splinters_and_octave_errors() -> None:
    track = np.array([0, 100, 100, 100, 210, 100, 100, 100, 0, 0, 100, 100, 0], float)
    assert tidy(track).tolist() == [0, 100, 100, 100, 0, 100, 100, 100, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("gain", [0.003, 0.1, 3.0])
def test_normalised_speech_is_at_the_level_whatever_the_pauses(gain: float) -> None:
    speech = np.concatenate([np.zeros(RATE), buzz(120), np.zeros(RATE)]) * gain
    wav, before = normalised(speech, RATE)
    assert speech_level(wav, RATE) == pytest.approx(LEVEL, abs=0.1)
    assert before == pytest.approx(-20 + 20 * math.log10(gain), abs=0.3)


def test_a_spiky_clip_is_not_clipped() -> None:
    wav = np.zeros(RATE)
    wav[::4000] = 0.5
    assert np.abs(normalised(wav, RATE)[0]).max() <= 0.99


def test_brightness_orders_spectral_slopes() -> None:
    values = [brightness(buzz(120, slope=s), RATE, np.full(100, 120.0)) for s in (-12, -6, -3, 0)]
    assert values == sorted(values) and values[-1] - values[0] > 10


def test_breathiness_orders_voices_from_clear_to_whisper() -> None:
    noise = 0.1 * np.random.default_rng(1).standard_normal(RATE)
    everywhere = np.ones(100, bool)
    values = [breathiness(buzz(130, slope=-3) * (1 - x) + noise * x, RATE, everywhere) for x in (0.0, 0.3, 0.6, 1.0)]
    assert values == sorted(values)
    assert values[0] < 0.1 and values[-1] > 0.85


def test_measure_of_a_labelled_clip() -> None:
    silence, fricative = np.zeros(RATE // 5), 0.02 * np.random.default_rng(0).standard_normal(RATE // 10)
    wav = np.concatenate([silence, fricative, buzz(150, 0.3), silence, buzz(200, 0.2), silence])
    phones, durations = ["pau", "s", "ow1", ",", "aa", "."], [20, 10, 30, 20, 20, 20]
    found = measure(wav, RATE, phones, durations)
    assert [round(p, -1) for p in found.pitch] == [0, 0, 150, 0, 200, 0]
    assert found.energy[2] == pytest.approx(-20, abs=1) and found.energy[0] < -50
    assert found.attributes["rate"] == pytest.approx(3 / 0.6)
    assert found.attributes["pauses"] == pytest.approx(20 / 80)
    assert found.median_pitch == pytest.approx(150, rel=0.02)


def test_measure_takes_a_phone_of_no_slots() -> None:
    found = measure(buzz(150, 0.3), RATE, ["pau", "ow1", "."], [0, 30, 0])
    assert found.pitch[0] == 0 and found.energy[0] == -100


@pytest.mark.parametrize("syllables", [3, 6])
def test_nuclei_are_counted(syllables: int) -> None:
    beat = np.concatenate([buzz(140, 0.15), 0.03 * buzz(140, 0.1)])
    wav = np.tile(beat, syllables)
    assert nuclei(slot_power(wav, RATE), pitch_track(wav, RATE)) == syllables


def test_scores_follow_attributes_and_know_men_women_and_children() -> None:
    plain = {
        "rate": 11.0,
        "pitch": 150.0,
        "pitch_range": 3.0,
        "loudness": LEVEL,
        "brightness": -18.0,
        "breathiness": 0.3,
        "pauses": 0.05,
    }
    scores = standardised(plain, 1.0, 0.0)
    for name in plain:
        higher = standardised(plain | {name: plain[name] + abs(plain[name]) / 10}, 1.0, 0.0)
        assert higher[name] > scores[name]
        assert all(higher[other] == scores[other] for other in plain if other != name)
    pitch = [standardised(plain, *who)["pitch"] for who in ((-1.0, 0.0), (None, None), (1.0, 0.0), (1.0, -1.0))]
    assert pitch == sorted(pitch, reverse=True), "150 Hz is high for a man and low for a child"
    assert max(abs(v) for v in standardised(dict.fromkeys(plain, 1e6), None, None).values()) == 3.0
    assert all(v == 0 for v in relative(scores, scores).values())


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_measures_take_every_rate(rate: int) -> None:
    seconds = np.arange(2 * rate) / rate
    tone = 0.2 * math.sqrt(2) * np.sin(2 * np.pi * 200 * seconds) * (seconds >= 1)
    power = slot_power(tone, rate)
    assert len(power) == 200
    assert power[:97].max() == 0 and power[103:190] == pytest.approx(np.full(87, 0.04), rel=0.15)
    assert measure_unlabelled(tone, rate)["loudness"] == pytest.approx(20 * math.log10(0.2), abs=0.3)
