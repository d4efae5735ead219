"""Sample rates: soxr, with lengths that are exact by definition."""

import numpy as np
import soxr
from numpy.typing import NDArray

Samples = NDArray[np.float32]


def resample(samples: Samples, source: int, target: int) -> Samples:
    """(n,) at `source` Hz -> (round(n * target / source),) at `target` Hz."""
    if source == target:
        return samples
    return fit(
        soxr.resample(samples.astype(np.float32, copy=False), source, target),
        resampled_length(len(samples), source, target),
    )


def resampled_length(n: int, source: int, target: int) -> int:
    """Samples that `n` samples at `source` Hz become at `target` Hz: rounded, and at least one."""
    return max(1, (2 * n * target + source) // (2 * source))


def fit(samples: Samples, n: int) -> Samples:
    """Exactly n samples: trimmed, or padded with silence."""
    return samples[:n] if len(samples) >= n else np.pad(samples, (0, n - len(samples)))
