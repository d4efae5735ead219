"""Pitch of speech by autocorrelation and a cheapest path (Boersma 1993, as in Praat), in NumPy.

On read speech it finds more of the vowels' slots than WORLD's DIO with fewer leaps, at 200 to 400 times real time; Harvest
runs at 5 times real time and calls two thirds of the voiceless consonants voiced.  librosa's pYIN and YIN are less exact,
see docs/decisions.md.
"""

import numpy as np
import soxr
from numpy.typing import NDArray

Floats = NDArray[np.floating]

SLOT = 0.01  # seconds
FLOOR, CEILING = 60.0, 600.0  # Hz
RATE = 8000  # Hz, enough for autocorrelation; peaks are interpolated
WINDOW = 3 / 75  # seconds: three periods of a low voice
CANDIDATES = 6
NEUTRAL = 110.0  # Hz at which a candidate neither gains nor loses by its octave
# Praat's settings, nearly: what a slot pays for silence, for being voiced, for each octave up, for leaps, for starting and stopping
SILENCE, VOICING, OCTAVE, LEAP, SWITCH = 0.03, 0.4, 0.05, 0.35, 0.14


def pitch_track(wav: Floats, sample_rate: int) -> Floats:
    """(n,) -> (slots,) Hz at the centres of 10 ms slots, 0 where unvoiced."""
    slots = int(len(wav) / (SLOT * sample_rate) + 0.5)
    low = (
        soxr.resample(np.asarray(wav, np.float32), sample_rate, RATE)
        if sample_rate != RATE
        else np.asarray(wav, np.float32)
    )
    size, hop = round(WINDOW * RATE), round(SLOT * RATE)
    left = (size - hop) // 2
    padded = np.zeros(left + slots * hop + size, np.float32)
    padded[left : left + min(len(low), slots * hop)] = low[: slots * hop]
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[: slots * hop : hop]
    if not slots:
        return np.zeros(0)
    hertz, strength = _candidates(frames - frames.mean(1, keepdims=True))
    return tidy(_cheapest(hertz, strength))


def _candidates(frames: Floats) -> tuple[Floats, Floats]:
    """(slots, size) -> Hz and strength, both (slots, 1 + CANDIDATES); the first one is "unvoiced" (0 Hz)."""
    size = frames.shape[1]
    window = np.hanning(size + 2)[1:-1].astype(np.float32)
    length = 1 << (2 * size - 1).bit_length()
    own = np.fft.irfft(np.square(np.abs(np.fft.rfft(window, length))), length)
    correlation = np.fft.irfft(np.square(np.abs(np.fft.rfft(frames * window, length))), length)
    shortest, longest = int(RATE / CEILING), int(RATE / FLOOR) + 2
    r = correlation[:, : longest + 1] / np.maximum(correlation[:, :1], 1e-9) / (own[: longest + 1] / own[0])
    before, here, after = r[:, shortest - 1 : -2], r[:, shortest:-1], r[:, shortest + 1 :]
    bend = before - 2 * here + after
    shift = np.where(bend < 0, 0.5 * (before - after) / np.minimum(bend, -1e-9), 0)
    height = np.minimum(here - 0.25 * (before - after) * shift, 1.0)
    lag = np.arange(shortest, shortest + here.shape[1]) + np.clip(shift, -0.5, 0.5)
    peak = (here >= before) & (here > after) & (here > 0.3)
    value = np.where(peak, height - OCTAVE * np.log2(NEUTRAL * lag / RATE), -np.inf)
    best = np.argpartition(-value, CANDIDATES, axis=1)[:, :CANDIDATES]
    rows = np.arange(len(frames))[:, None]
    loudest = np.abs(frames).max(1)
    quiet = np.maximum(0, 2 - loudest / max(float(np.percentile(loudest, 99)), 1e-9) / (SILENCE / (1 + VOICING)))
    strength = np.concatenate([(VOICING + quiet)[:, None], value[rows, best]], 1)
    return np.concatenate([np.zeros((len(frames), 1)), RATE / lag[rows, best]], 1), strength


def _cheapest(hertz: Floats, strength: Floats) -> Floats:
    """The path through candidates with the highest strength less the cost of its leaps (Viterbi)."""
    voiced = hertz > 0
    octave = np.log2(np.where(voiced, hertz, 1.0))
    leap = np.abs(octave[1:, :, None] - octave[:-1, None, :])  # (slots - 1, to, from)
    both = voiced[1:, :, None] & voiced[:-1, None, :]
    cost = np.where(both, LEAP * leap, SWITCH * (voiced[1:, :, None] != voiced[:-1, None, :]))
    total = strength[0]
    back = np.zeros(hertz.shape, np.int64)
    for i in range(1, len(hertz)):
        through = total[None, :] - cost[i - 1]
        back[i] = through.argmax(1)
        total = strength[i] + through.max(1)
    path = np.zeros(len(hertz), np.int64)
    path[-1] = total.argmax()
    for i in range(len(hertz) - 1, 0, -1):
        path[i - 1] = back[i, path[i]]
    return hertz[np.arange(len(hertz)), path]


def tidy(track: Floats, shortest: int = 3) -> Floats:
    """A pitch track without voiced runs under `shortest` slots and without slots an octave off the median."""
    track = track.copy()
    voiced = track > 0
    if not voiced.any():
        return track
    median = np.median(track[voiced])
    track[(track < 0.5 * median) | (track > 2.0 * median)] = 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (track > 0).astype(np.int8), [0]])))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start < shortest:
            track[start:end] = 0
    return track


def pitch_statistics(track: Floats) -> tuple[float, float]:
    """(slots,) Hz -> (median in Hz, standard deviation in semitones); (0, 0) if nothing is voiced."""
    voiced = track[track > 0]
    if not len(voiced):
        return 0.0, 0.0
    return float(np.median(voiced)), float(np.std(12 * np.log2(voiced / np.median(voiced))))
