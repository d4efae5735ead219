"""Measures of reconstruction quality on NumPy signals of equal length (n,)."""

import numpy as np
import soxr


def pesq_wb(reference: np.ndarray, degraded: np.ndarray, sample_rate: int) -> float:
    """PESQ, wide band (ITU-T P.862.2), 1.0 to 4.6; NaN where it finds no speech, or less than a quarter of a second of sound."""
    from pesq import BufferTooShortError, NoUtterancesError, pesq

    if not degraded.any():
        return float("nan")  # PESQ itself breaks down on silence
    a, b = (soxr.resample(x, sample_rate, 16_000) for x in (reference, degraded))
    try:
        return float(pesq(16_000, a, b, "wb"))
    except (NoUtterancesError, BufferTooShortError):
        return float("nan")


def stoi(reference: np.ndarray, degraded: np.ndarray, sample_rate: int) -> float:
    """Short-time objective intelligibility, 0 to 1 (Taal et al. 2011)."""
    from pystoi import stoi as measure

    return float(measure(reference, degraded, sample_rate))


def si_sdr(reference: np.ndarray, degraded: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019)."""
    scale = np.dot(degraded, reference) / max(np.dot(reference, reference), 1e-12)
    noise = degraded - scale * reference
    return float(10 * np.log10(np.sum((scale * reference) ** 2) / max(np.sum(noise**2), 1e-12) + 1e-12))


def mel_distance(reference: np.ndarray, degraded: np.ndarray, sample_rate: int) -> float:
    """Mean absolute difference of log10 mel spectrograms (80 bands, 1024-sample window), in decades of magnitude."""
    import torch

    from solfa.core.torchaudio_functional import functional as AF

    bank = AF.melscale_fbanks(513, 0.0, sample_rate / 2, 80, sample_rate)
    window = torch.hann_window(1024)
    both = torch.from_numpy(np.stack([reference, degraded]).astype(np.float32))
    mel = torch.stft(both, 1024, 256, window=window, return_complex=True).abs().transpose(1, 2) @ bank
    a, b = mel.clamp_min(1e-5).log10()
    return float((a - b).abs().mean())
