"""Measured properties of a clip of speech: pitch, range, rate, loudness, brightness, breathiness and pauses.

Everything counts in slots of 10 ms.  `measure` needs the clip's phones and durations; `measure_unlabelled` finds
syllables by energy instead, for speech without labels.  `standardised` turns the numbers into style scores
(0 = an ordinary speaker, 1 = clearly more).
"""

import math
from dataclasses import dataclass

import librosa
import numpy as np
from numpy.typing import NDArray

from solfa.tts.data.flite import PAUSES, VOWELS
from solfa.tts.data.pitch import CEILING, FLOOR, SLOT, Floats, pitch_statistics, pitch_track

LEVEL = -23.0  # dB RMS of active speech in every training clip
BRIGHT = (60.0, 2000.0, 7600.0)  # Hz; 16 kHz recordings and 24 kHz ones are judged on the same bands


@dataclass(frozen=True)
class Measured:
    """pitch (Hz, mean over voiced slots, 0 = unvoiced) and energy (dB RMS) per phone; median_pitch in Hz over the clip."""

    pitch: list[float]
    energy: list[float]
    median_pitch: float
    attributes: dict[str, float]


def slots_of(wav: Floats, sample_rate: int) -> int:
    """Whole slots in a clip."""
    return int(len(wav) / (SLOT * sample_rate) + 0.5)


def slot_power(wav: Floats, sample_rate: int) -> Floats:
    """(n,) -> (slots,) mean square over 20 ms around each slot, so that low voices do not ripple."""
    size = round(SLOT * sample_rate)
    count = slots_of(wav, sample_rate)
    if not count:
        return np.zeros(0)
    whole = np.zeros((count + 1) * size)
    whole[: min(len(wav), count * size)] = wav[: count * size]
    around = np.concatenate([whole[: size // 2], whole])  # what precedes the first slot is as loud as its first half
    rms = librosa.feature.rms(y=around, frame_length=2 * size, hop_length=size, center=False, dtype=np.float64)
    return np.square(rms[0, :count])


def decibels(power: Floats | float) -> Floats:
    """Mean square -> dB RMS, at least -100."""
    return 10 * np.log10(np.maximum(power, 1e-10))


def active(power: Floats, gate: float = 25.0) -> NDArray[np.bool_]:
    """Slots within `gate` dB of the loud ones (95th percentile)."""
    level = decibels(power)
    return level > np.percentile(level, 95) - gate


def speaking(power: Floats, gate: float = 30.0) -> NDArray[np.bool_]:
    """Slots in which somebody speaks, stops' closures (gaps under 150 ms) included."""
    found = active(power, gate)
    where = np.flatnonzero(found)
    for a, b in zip(where[:-1], where[1:], strict=True):
        if b - a < 15:
            found[a:b] = True
    return found


def speech_level(wav: Floats, sample_rate: int) -> float:
    """dB RMS over the slots in which somebody speaks."""
    power = slot_power(wav, sample_rate)
    return float(decibels(power[active(power)].mean())) if len(power) else -100.0


def normalised(wav: Floats, sample_rate: int, level: float = LEVEL) -> tuple[NDArray[np.float32], float]:
    """-> (the clip with active speech at `level` dB RMS unless it would clip, its own level before)."""
    before = speech_level(wav, sample_rate)
    gain = min(10 ** ((level - before) / 20), 0.99 / max(float(np.abs(wav).max(initial=0.0)), 1e-9))
    return (wav * gain).astype(np.float32), before


def brightness(wav: Floats, sample_rate: int, track: Floats) -> float:
    """dB of energy above 2 kHz versus below over voiced slots (over active ones in a whisper)."""
    power = slot_power(wav, sample_rate)
    chosen = track > 0
    if chosen.sum() < 10:
        chosen = active(power)
    if not chosen.any():
        return -40.0
    around, size, hop = _around(wav, sample_rate, 0.03)
    columns = librosa.stft(around, n_fft=size, hop_length=hop, window=np.hanning(size), center=False)[:, : len(chosen)]
    spectrum = np.square(np.abs(columns[:, chosen])).sum(1)
    hertz = librosa.fft_frequencies(sr=sample_rate, n_fft=size)
    low, middle, high = BRIGHT
    above = spectrum[(hertz >= middle) & (hertz < high)].sum()
    below = spectrum[(hertz >= low) & (hertz < middle)].sum()
    return float(10 * np.log10(max(above, 1e-12) / max(below, 1e-12)))


def breathiness(wav: Floats, sample_rate: int, chosen: NDArray[np.bool_]) -> float:
    """0 (clear) .. 1 (whisper): one minus the periodicity between 500 and 4000 Hz of the chosen slots, vowels if known.

    Periodicity is the highest normalised autocorrelation at the lag of a pitch (Boersma 1993), over 50 ms; noise reaches
    0.45 by chance, which counts as none.
    """
    if not chosen.any():
        return 0.0
    around, length, hop = _around(wav, sample_rate, 0.05)
    frames = librosa.util.frame(around, frame_length=length, hop_length=hop, axis=0)[: len(chosen)][chosen][::2]
    window = np.hanning(frames.shape[1])
    size = 1 << (2 * frames.shape[1] - 1).bit_length()
    hertz = np.fft.rfftfreq(size, 1 / sample_rate)
    band = ((hertz > 500) & (hertz < 4000)).astype(float)
    spectrum = np.square(np.abs(np.fft.rfft(frames * window, size))) * band
    correlation = np.fft.irfft(spectrum, size)
    own = np.fft.irfft(np.square(np.abs(np.fft.rfft(window, size))), size)
    lags = slice(int(sample_rate / CEILING), int(sample_rate / FLOOR))
    peaks = (correlation[:, lags] / np.maximum(correlation[:, :1], 1e-12) / (own[lags] / own[0])).max(1)
    return float(np.clip((1 - np.median(peaks)) / (1 - 0.45), 0, 1))


def measure(
    wav: Floats,
    sample_rate: int,
    phones: list[str],
    durations: list[int],
    track: Floats | None = None,
    loudness: float = LEVEL,
) -> Measured:
    """A labelled clip's measures.

    track: (slots,) Hz if known, else tracked here.  loudness: dB RMS to record, since the clip itself is normalised.
    """
    count = sum(durations)
    track = _fit(pitch_track(wav, sample_rate) if track is None else track, count)
    power = _fit(slot_power(wav, sample_rate), count)
    ends = np.cumsum(durations)
    spoken = np.concatenate([np.full(n, p not in PAUSES) for p, n in zip(phones, durations, strict=True)])
    vowels = np.concatenate([np.full(n, p.rstrip("01") in VOWELS) for p, n in zip(phones, durations, strict=True)])
    # What the tracker finds in a pause is not the voice.
    track = np.where(spoken, track, 0.0)
    pitch, energy = [], []
    for end, length in zip(ends, durations, strict=True):
        here = track[end - length : end]
        voiced = here[here > 0]
        pitch.append(round(float(voiced.mean()), 1) if 2 * len(voiced) >= length > 0 else 0.0)
        energy.append(round(float(decibels(power[end - length : end].mean() if length else 0.0)), 1))
    inner = np.flatnonzero(spoken)
    inside = inner[-1] + 1 - inner[0] if len(inner) else 0
    count_of_phones = sum(1 for p in phones if p not in PAUSES)
    median, deviation = pitch_statistics(track)
    attributes = {
        "rate": count_of_phones / max(SLOT * int(spoken.sum()), SLOT),
        "pitch": median,
        "pitch_range": deviation,
        "loudness": loudness,
        "brightness": brightness(wav, sample_rate, track),
        "breathiness": breathiness(wav, sample_rate, _fit(vowels, slots_of(wav, sample_rate))),
        "pauses": 1 - int(spoken.sum()) / inside if inside else 0.0,
    }
    return Measured(pitch, energy, round(median, 2), {k: round(float(v), 4) for k, v in attributes.items()})


def measure_unlabelled(wav: Floats, sample_rate: int, syllables: int | None = None) -> dict[str, float]:
    """The attributes of a clip without labels; rate is syllables per second of speech, loudness that of the file.

    syllables: of the text, where it is known; else syllable nuclei are counted.
    """
    track = pitch_track(wav, sample_rate)
    power = slot_power(wav, sample_rate)
    loud, speech = active(power), speaking(power)
    where = np.flatnonzero(speech)
    inside = where[-1] + 1 - where[0] if len(where) else 1
    median, deviation = pitch_statistics(track)
    return {
        "rate": (nuclei(power, track) if syllables is None else syllables) / max(SLOT * int(speech.sum()), SLOT),
        "pitch": median,
        "pitch_range": deviation,
        "loudness": float(decibels(power[loud].mean())) if loud.any() else -100.0,
        "brightness": brightness(wav, sample_rate, track),
        "breathiness": breathiness(wav, sample_rate, track > 0),
        "pauses": 1 - int(speech.sum()) / inside,
    }


def nuclei(power: Floats, track: Floats) -> int:
    """Syllable nuclei: voiced energy peaks that stand 2 dB above the dips beside them (de Jong and Wempe 2009)."""
    level = np.convolve(decibels(power), np.hanning(7) / np.hanning(7).sum(), mode="same")
    voiced = _fit(track, len(level)) > 0
    threshold = np.percentile(level, 95) - 25
    peaks = [
        i
        for i in range(1, len(level) - 1)
        if level[i - 1] < level[i] >= level[i + 1] and level[i] > threshold and voiced[i]
    ]
    kept: list[int] = []
    for peak in peaks:
        if kept and level[kept[-1] : peak].min() > min(level[kept[-1]], level[peak]) - 2:
            kept[-1] = max(kept[-1], peak, key=lambda i: level[i])
        else:
            kept.append(peak)
    return len(kept)


def _around(wav: Floats, sample_rate: int, seconds: float) -> tuple[Floats, int, int]:
    """(n,) with silence at both ends, such that frames without padding have the slots in their middle.

    -> (padded samples, samples of a frame of `seconds`, samples from frame to frame); at least one frame per slot.
    """
    size = 2 * (round(seconds * sample_rate) // 2)
    hop = round(SLOT * sample_rate)
    count = slots_of(wav, sample_rate)
    left = (size - hop) // 2
    padded = np.zeros(left + count * hop + size)
    usable = wav[: count * hop]
    padded[left : left + len(usable)] = usable
    return padded, size, hop


def _fit(values: NDArray, count: int) -> NDArray:
    return np.concatenate([values[:count], np.zeros(max(0, count - len(values)), values.dtype)])


# The values that are 0 and 1 in a style score.  1 is plainly audible, 2 extreme; centres are those of adult readers.
CENTRES = {
    "rate": 11.0,
    "pitch_range": 3.0,
    "loudness": LEVEL,
    "brightness": -18.0,
    "breathiness": 0.35,
    "pauses": 0.03,
}
PITCH_CENTRES = {-1.0: 115.0, 0.0: 150.0, 1.0: 190.0}  # Hz by gender; children speak at CHILD_PITCH
CHILD_PITCH = 250.0


def standardised(
    attributes: dict[str, float], gender: float | None, age: float | None, limit: bool = True
) -> dict[str, float]:
    """Attributes -> style scores against people of that gender and age: 0 ordinary, 1 plainly more, 2 extreme.

    limit: keep scores within -3 .. 3, which is what the planner sees; differences want them unlimited.
    """
    a = {k: max(v, 1e-3) if k in ("rate", "pitch", "pitch_range") else v for k, v in attributes.items()}
    ordinary = CHILD_PITCH if age is not None and age < 0 else PITCH_CENTRES[float(np.sign(gender or 0))]
    scores = {
        "rate": math.log(a["rate"] / CENTRES["rate"]) / 0.2,
        "pitch": 12 * math.log2(a["pitch"] / ordinary) / 3,
        "pitch_range": math.log(a["pitch_range"] / CENTRES["pitch_range"]) / 0.35,
        "loudness": (a["loudness"] - CENTRES["loudness"]) / 5,
        "brightness": (a["brightness"] - CENTRES["brightness"]) / 4,
        "breathiness": 2 * (a["breathiness"] - CENTRES["breathiness"]) / (0.9 - CENTRES["breathiness"]),
        "pauses": (a["pauses"] - CENTRES["pauses"]) / 0.06,
    }
    bound = 3.0 if limit else math.inf
    return {k: round(min(bound, max(-bound, v)), 3) for k, v in scores.items()}


def relative(scores: dict[str, float], ordinary: dict[str, float]) -> dict[str, float]:
    """Style scores against those of a voice's ordinary reading."""
    return {k: round(min(3.0, max(-3.0, v - ordinary[k])), 3) for k, v in scores.items()}
