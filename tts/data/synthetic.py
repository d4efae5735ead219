"""Synthetic speech with exact labels: Flite's voices, and real recordings resynthesised by WORLD.

WORLD (Morise et al. 2016, pyworld) takes a recording apart into pitch, spectral envelope and aperiodicity; `resynthesise`
changes each on its own, so that one neutral reading yields labelled styles, or another reader, in a human timbre.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solfa.tts.data import flite
from solfa.tts.data.flite import PAUSES, Sentence
from solfa.tts.data.measure import LEVEL
from solfa.tts.data.pitch import CEILING, FLOOR, SLOT, Floats, pitch_track

FRAME = 0.005  # seconds between WORLD's frames
EDGE = 15  # slots of silence kept at either end

# Flite's voices: (mean, deviation of pitch in its own settings), or None for rms, whose model ignores them
FLITE_PITCH: dict[str, tuple[float, float] | None] = {"rms": None, "slt": (172.0, 22.0), "awb": (131.0, 22.0)}


@dataclass(frozen=True)
class Change:
    """What to change in a recording; the defaults change nothing.

    pitch, stretch (duration) and formants are factors, range scales the pitch movement around the median in semitones,
    pauses scales inner pauses on top of stretch, breath 0..1 adds noise to the voice, tilt is dB per octave from 500 Hz.
    """

    pitch: float = 1.0
    range: float = 1.0
    stretch: float = 1.0
    pauses: float = 1.0
    formants: float = 1.0
    breath: float = 0.0
    tilt: float = 0.0
    whisper: bool = False

    @property
    def loudness(self) -> float:
        """dB RMS of a person who speaks with this vocal effort; the clip itself stays at LEVEL."""
        return LEVEL + (-12.0 if self.whisper else 2.0 * self.tilt - 3.0 * self.breath)


@dataclass(frozen=True)
class Analysis:
    """f0: (frames,) Hz, 0 unvoiced; envelope, aperiodicity: (frames, bins); every FRAME seconds."""

    f0: Floats
    envelope: Floats
    aperiodicity: Floats
    sample_rate: int


def draw_change(rng: np.random.Generator) -> Change:
    """A variant of a recording in one to several respects."""
    while True:
        asked = rng.random(5) < (0.55, 0.5, 0.6, 0.25, 0.4)
        if asked.any():
            break
    breath, tilt, whisper = 0.0, 0.0, False
    if asked[4]:
        kind = rng.choice(["whisper", "breathy", "soft", "bright"], p=[0.15, 0.25, 0.3, 0.3])
        whisper = bool(kind == "whisper")
        breath = float(rng.uniform(0.3, 0.9)) if kind == "breathy" else 0.0
        tilt = (
            float(rng.uniform(-4.5, -1.0))
            if kind == "soft"
            else float(rng.uniform(0.8, 3.5))
            if kind == "bright"
            else 0.0
        )
    return Change(
        pitch=2 ** (float(rng.uniform(-5, 5)) / 12) if asked[0] else 1.0,
        range=_between(rng, 0.3, 1.8) if asked[1] else 1.0,
        stretch=1 / _between(rng, 0.7, 1.5) if asked[2] else 1.0,
        pauses=_between(rng, 0.4, 2.5) if asked[3] else 1.0,
        breath=breath,
        tilt=tilt,
        whisper=whisper,
    )


def draw_flite(voice: str, rng: np.random.Generator) -> tuple[dict[str, float], Change]:
    """-> (settings for Flite, what WORLD must still change); half of the clips are neutral."""
    if rng.random() < 0.5:
        return {}, Change()
    settings = {"stretch": _between(rng, 0.7, 1.5)}
    pitch, spread = float(rng.uniform(0.75, 1.25)), _between(rng, 0.4, 2.0)
    own = FLITE_PITCH[voice]
    if own is None:
        return settings, Change(pitch=pitch, range=spread)
    return settings | {"f0mean": own[0] * pitch, "f0std": own[1] * spread}, Change()


def flite_clip(voice: str, key: str, text: str, folder: Path, settings: dict[str, float]) -> Sentence | None:
    """A sentence in one of Flite's voices, as folder/key.wav (16 kHz); None if Flite finds nothing to say."""
    entry = flite.run(voice, {key: text}, folder, **settings).get(key)
    return flite.read(entry) if entry else None


def labelled(sentence: Sentence, seconds: float) -> tuple[float, float, list[int]]:
    """A spoken sentence's (start, end in seconds, slots per phone) with at most EDGE slots of silence at either end."""
    assert sentence.ends is not None
    begin = round(sentence.ends[0] / SLOT)
    edges = [max(0, begin - EDGE)] + [round(end / SLOT) for end in sentence.ends]
    edges[-1] = min(edges[-2] + EDGE, edges[-1], int(seconds / SLOT))
    return edges[0] * SLOT, edges[-1] * SLOT, [int(b - a) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def analyse(wav: Floats, sample_rate: int) -> Analysis:
    """(n,) -> pitch, envelope and aperiodicity.  D4C, the slow part, is run on every second frame: aperiodicity changes slowly."""
    import pyworld

    wav = np.ascontiguousarray(wav, np.float64)
    times = np.arange(int(len(wav) / (FRAME * sample_rate)) + 1) * FRAME
    # from slot centres to frames; a frame is voiced if its nearest slot is
    track = pitch_track(wav, sample_rate)
    centres = (np.arange(len(track)) + 0.5) * SLOT
    voiced = track > 0
    f0 = np.zeros(len(times))
    if voiced.any():
        here = voiced[np.minimum((times / SLOT).astype(int), len(track) - 1)]
        f0 = np.where(here, np.interp(times, centres[voiced], track[voiced]), 0.0)
        refined = pyworld.stonemask(wav, f0, times, sample_rate)
        f0 = np.where((refined > 0) & (np.abs(refined / np.maximum(f0, 1) - 1) < 0.15), refined, f0)
    envelope = pyworld.cheaptrick(wav, f0, times, sample_rate)
    coarse = pyworld.d4c(wav, np.ascontiguousarray(f0[::2]), np.ascontiguousarray(times[::2]), sample_rate)
    aperiodicity = np.repeat(coarse, 2, 0)[: len(f0)]
    # an unvoiced frame is all noise, also where its neighbour's aperiodicity was taken over
    aperiodicity = np.where((f0 > 0)[:, None], np.where(aperiodicity > 0.998, 0.5, aperiodicity), 1 - 1e-6)
    return Analysis(f0, envelope, aperiodicity, sample_rate)


def stretched(phones: list[str], durations: list[int], change: Change) -> list[int]:
    """Slots per phone after the change of pace; silence at the ends stays, rounding never accumulates."""
    exact = np.array(durations, float)
    exact[1:-1] *= change.stretch
    for i in range(1, len(phones) - 1):
        if phones[i] in PAUSES:
            exact[i] *= change.pauses
    return np.diff(np.floor(np.cumsum(exact) + 0.5).astype(int), prepend=0).tolist()


def resynthesise(
    analysis: Analysis, phones: list[str], durations: list[int], change: Change
) -> tuple[NDArray[np.float32], list[int], Floats]:
    """-> (wav of whole slots, slots per phone, pitch track in Hz per slot) of the changed recording."""
    import pyworld

    rate = analysis.sample_rate
    new = stretched(phones, durations, change)
    slots = sum(new)
    times = np.arange(round(slots * SLOT / FRAME) + 1) * FRAME
    was = np.interp(times, np.cumsum([0, *new]) * SLOT, np.cumsum([0, *durations]) * SLOT) / FRAME
    was = np.minimum(was, len(analysis.f0) - 1)
    nearest = np.round(was).astype(int)
    low = np.floor(was).astype(int)
    high = np.minimum(low + 1, len(analysis.f0) - 1)
    part = was - low

    f0 = analysis.f0[nearest].copy()
    both = (analysis.f0[low] > 0) & (analysis.f0[high] > 0)
    f0[both] = ((1 - part) * analysis.f0[low] + part * analysis.f0[high])[both]
    voiced = f0 > 0
    if voiced.any():
        median = np.median(analysis.f0[analysis.f0 > 0])
        f0[voiced] = np.clip(median * change.pitch * (f0[voiced] / median) ** change.range, 0.7 * FLOOR, 1.2 * CEILING)
    # geometric mean of neighbours, in the log domain where envelopes live
    envelope = np.exp(
        (1 - part[:, None]) * np.log(analysis.envelope[low]) + part[:, None] * np.log(analysis.envelope[high])
    )
    aperiodicity = analysis.aperiodicity[nearest]
    envelope, aperiodicity = _shift_formants(envelope, change.formants), _shift_formants(aperiodicity, change.formants)

    hertz = np.linspace(0, rate / 2, envelope.shape[1])
    octaves = np.log2(np.maximum(hertz, 500.0) / 500.0)
    envelope = envelope * 10 ** (np.clip(change.tilt * octaves, -24, 14) / 10)
    if change.breath:
        # aperiodicity is a ratio of amplitudes; noise adds as power
        reach = np.clip(0.2 + hertz / 2000, 0, 1)
        aperiodicity = np.sqrt(aperiodicity**2 + (1 - aperiodicity**2) * change.breath * reach)
    if change.whisper:
        # without a glottal source the low formants nearly vanish and vowels fall below the consonants
        quieter = np.interp(hertz, [0, 150, 600, 1500], [-34, -30, -16, -8])
        envelope[voiced] *= 10 ** (quieter / 10)
        aperiodicity = np.full_like(aperiodicity, 1 - 1e-6)
        f0 = np.zeros_like(f0)
    wav = pyworld.synthesize(
        np.ascontiguousarray(f0), np.ascontiguousarray(envelope), np.ascontiguousarray(aperiodicity), rate, 1000 * FRAME
    )
    size = round(slots * SLOT * rate)
    wav = np.concatenate([wav[:size], np.zeros(max(0, size - len(wav)))]).astype(np.float32)
    return wav, new, f0[1::2][:slots]


def _shift_formants(frames: Floats, factor: float) -> Floats:
    """(frames, bins) with everything at f Hz moved to factor * f."""
    if factor == 1.0:
        return frames
    bins = frames.shape[1]
    where = np.minimum(np.arange(bins) / factor, bins - 1)
    low = np.floor(where).astype(int)
    high = np.minimum(low + 1, bins - 1)
    part = where - low
    return frames[:, low] * (1 - part) + frames[:, high] * part


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))
