"""Measures of reconstruction quality on NumPy signals of equal length (n,)."""

import numpy as np
import soxr


def pesq_wb(reference: np.ndarray, degraded: np.ndarray, sample_rate: int) -> float:
    """PESQ, wide band (ITU-T P.862.2), 1.0 to 4.6; NaN without speech, or for less than a quarter of a second.

    reference, degraded: float (n,); sample_rate: Hz.
    """
    from pesq import BufferTooShortError, NoUtterancesError, pesq

    if not degraded.any():
        return float("nan")  # the package fails on silence
    a, b = (soxr.resample(x, sample_rate, 16_000) for x in (reference, degraded))
    try:
        return float(pesq(16_000, a, b, "wb"))
    except (NoUtterancesError, BufferTooShortError):
        return float("nan")


def stoi(reference: np.ndarray, degraded: np.ndarray, sample_rate: int) -> float:
    """Short-time objective intelligibility, 0 to 1 (Taal et al. 2011).  reference, degraded: float (n,); sample_rate: Hz."""
    from pystoi import stoi as measure

    return float(measure(reference, degraded, sample_rate))


def si_sdr(reference: np.ndarray, degraded: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019).  reference, degraded: float (n,)."""
    scale = np.dot(degraded, reference) / max(np.dot(reference, reference), 1e-12)
    noise = degraded - scale * reference
    return float(10 * np.log10(np.sum((scale * reference) ** 2) / max(np.sum(noise**2), 1e-12) + 1e-12))


def mel_distance(reference: np.ndarray, degraded: np.ndarray, sample_rate: int) -> float:
    """Mean absolute difference of log10 mel spectrograms (80 bands, 1024-sample window), in decades of magnitude.

    reference, degraded: float (n,); sample_rate: Hz.
    """
    from librosa.feature import melspectrogram

    def log_mel(samples: np.ndarray) -> np.ndarray:
        mel = melspectrogram(
            y=samples.astype(np.float32), sr=sample_rate, n_fft=1024, hop_length=256, pad_mode="reflect", power=1.0,
            n_mels=80, htk=True, norm=None,
        )  # fmt: skip
        return np.log10(np.maximum(mel, 1e-5))

    return float(np.abs(log_mel(reference) - log_mel(degraded)).mean())
