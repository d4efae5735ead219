"""Sample rates: soxr, with lengths that are exact by definition."""

import numpy as np
import soxr
from numpy.typing import NDArray

from solfa.core.errors import UserError

Samples = NDArray[np.float32]
RATES = range(1_000, 1_000_000)  # Hz; resampling from or to others would fill the memory


def check_rate(rate: float) -> int:
    """The rate in Hz.  Raises: UserError for what is no whole number, or none of `RATES`."""
    try:
        whole = int(rate)
    except (TypeError, ValueError, OverflowError):
        whole = 0
    if whole != rate or whole not in RATES:
        raise UserError(
            f"sample rate should be a whole number of Hz from {RATES.start} to {RATES.stop - 1}, not {rate!r}"
        )
    return whole


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


class StreamResampler:
    """`resample` for sound that comes piece by piece: all that comes out is what `resample` gives for the whole."""

    def __init__(self, source: int, target: int):
        self.source, self.target = source, target
        self.taken, self.given = 0, 0
        self.stream = soxr.ResampleStream(source, target, 1, dtype="float32")

    def push(self, samples: Samples) -> Samples:
        """The next (n,) at the source's rate -> what is known by now at the target's."""
        made = self.stream.resample_chunk(samples)
        self.taken, self.given = self.taken + len(samples), self.given + len(made)
        return made

    def finish(self) -> Samples:
        """The sound ends -> the rest."""
        if not self.taken:
            return np.zeros(0, np.float32)
        rest = self.stream.resample_chunk(np.zeros(0, np.float32), last=True)
        return fit(rest, resampled_length(self.taken, self.source, self.target) - self.given)
