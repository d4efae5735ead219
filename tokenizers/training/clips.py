"""Training clips for the audio tokenizer: decoded once, with F0, into flat arrays on disk; then random crops from them.

A batch is a function of (seed, step) alone, so a resumed run sees exactly what an undisturbed one would have seen.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr
import torch
from torch import Tensor

from solfa.core.atomic import write_bytes
from solfa.core.errors import UserError
from solfa.core.progress import track
from solfa.tokenizers.audio.audio_file import AUDIO_SUFFIXES, read_audio
from solfa.tokenizers.audio.model.features import MEAN_F0

MAX_SECONDS = 20.0
PEAK = 0.6


class Source(NamedTuple):
    path: Path
    speaker: str
    speech: bool


class Batch(NamedTuple):
    wav: Tensor  # (B, crop) at the tokenizer's rate
    f0: Tensor  # (B, crop / hop) Hz, gaps bridged so that the source's phase stays smooth
    voiced: Tensor  # (B, crop / hop) 1 where F0 was measured

    @property
    def measured(self) -> tuple[Tensor, Tensor]:
        """Log F0 relative to MEAN_F0, and voicing: as the tokenizer's features hold them."""
        return (self.f0 / MEAN_F0).log(), self.voiced


def list_sources(folders: Sequence[str]) -> list[Source]:
    """Audio files below the folders; a `metadata.csv` (file, speaker, language) beside them names speakers.

    Without one, a file's speaker is the folder that it lies in.  Language `none` marks music and noises.
    """
    found = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"no training folder {folder}")
        tables = sorted(folder.rglob("metadata.csv"))
        for table in tables:
            with table.open(encoding="utf-8", newline="") as f:
                for row in csv.DictReader(f):
                    speaker = row.get("speaker") or table.parent.name
                    found.append(Source(table.parent / row["file"], speaker, row.get("language") != "none"))
        if not tables:
            files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
            found += [Source(p, p.parent.name, True) for p in files]
    if not found:
        raise UserError(f"no audio files below {', '.join(map(str, folders))}")
    return found


def is_heldout(speaker: str, percent: float) -> bool:
    """A fixed pseudo-random share of speakers, the same on every machine."""
    return int(hashlib.sha256(speaker.encode()).hexdigest()[:8], 16) % 10_000 < 100 * percent


def measure_f0(samples: np.ndarray, sample_rate: int, hop: int) -> np.ndarray:
    """F0 in Hz, one per hop, 0 where unvoiced (WORLD's DIO and StoneMask)."""
    import pyworld

    wide = samples.astype(np.float64)
    f0, times = pyworld.dio(wide, sample_rate, f0_floor=60.0, f0_ceil=500.0, frame_period=1000 * hop / sample_rate)
    return pyworld.stonemask(wide, f0, times, sample_rate).astype(np.float32)


def _load(job: tuple[Source, int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    source, rate, hop = job
    try:
        x = read_audio(source.path, sample_rate=rate).samples[: int(MAX_SECONDS * rate)]
    except UserError:
        return None
    peak = np.abs(x).max(initial=0.0)
    frames = len(x) // hop
    if peak < 1e-4 or frames < 10:
        return None
    x = x[: frames * hop] * (PEAK / peak)
    f0 = measure_f0(x, rate, hop)[:frames] if source.speech else np.zeros(frames, np.float32)
    return x.astype(np.float16), f0


@dataclass
class ClipStore:
    """Flat arrays of all clips: samples (float16) and F0, with each clip's first frame and its length in frames."""

    samples: np.ndarray
    f0: np.ndarray
    start: np.ndarray
    frames: np.ndarray
    hop: int
    rate: int

    @classmethod
    def build(cls, folder: Path, sources: Sequence[Source], rate: int, hop: int, workers: int) -> "ClipStore":
        """Decode and analyse once into `folder`; later calls with the same sources only open the files."""
        key = hashlib.sha256(
            json.dumps([[str(s.path), s.speech] for s in sources] + [[rate, hop]]).encode()
        ).hexdigest()
        index = folder / "index.json"
        if not (index.is_file() and json.loads(index.read_text())["key"] == key):
            folder.mkdir(parents=True, exist_ok=True)
            index.unlink(missing_ok=True)
            spans = []
            jobs = [(s, rate, hop) for s in sources]
            with (
                (folder / "samples.f16").open("wb") as wav,
                (folder / "f0.f32").open("wb") as pitch,
                ProcessPoolExecutor(workers) as pool,
            ):
                for clip in track(
                    pool.map(_load, jobs, chunksize=8), total=len(jobs), label="decoding and measuring F0"
                ):
                    if clip is not None:
                        wav.write(clip[0].tobytes())
                        pitch.write(clip[1].tobytes())
                        spans.append(len(clip[1]))
            if not spans:
                raise UserError("none of the training files could be read")
            write_bytes(index, json.dumps({"key": key, "frames": spans}).encode())
        frames = np.array(json.loads(index.read_text())["frames"])
        samples = np.memmap(folder / "samples.f16", np.float16, "r")
        f0 = np.memmap(folder / "f0.f32", np.float32, "r")
        return cls(samples, f0, np.concatenate([[0], np.cumsum(frames)[:-1]]), frames, hop, rate)

    @property
    def hours(self) -> float:
        return float(self.frames.sum()) * self.hop / self.rate / 3600

    def batch(self, seed: int, step: int, size: int, frames: int) -> Batch:
        """`size` random crops of `frames` feature frames, with level and, for a third of them, speed changed.

        Speed (0.82 to 1.22) moves pitch and formants together: voices that no speaker of the data has.
        """
        rng = np.random.default_rng((seed, step))
        weight = np.sqrt(self.frames)  # between each clip alike and each second alike
        picks = rng.choice(len(self.frames), size, p=weight / weight.sum())
        wav, f0 = np.zeros((size, frames * self.hop), np.float32), np.zeros((size, frames), np.float32)
        for row, pick in enumerate(picks):
            speed = rng.uniform(0.82, 1.22) if rng.random() < 0.33 else 1.0
            take = min(int(np.ceil(frames * speed)), int(self.frames[pick]))
            first = int(self.start[pick]) + int(rng.integers(0, self.frames[pick] - take + 1))
            x = self.samples[first * self.hop : (first + take) * self.hop].astype(np.float32)
            z = self.f0[first : first + take]
            if speed != 1.0:
                x = soxr.resample(x, speed, 1.0, quality="MQ")
                z = z[np.minimum((np.arange(int(take / speed)) * speed).astype(int), take - 1)] * speed
            x, z = x[: frames * self.hop], z[:frames]
            wav[row, : len(x)] = x * rng.uniform(0.15, 1.5)
            f0[row, : len(z)] = z
        smooth, voiced = (np.stack(parts) for parts in zip(*map(bridged, f0), strict=True))
        return Batch(torch.from_numpy(wav), torch.from_numpy(smooth), torch.from_numpy(voiced))


def bridged(f0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F0 with its unvoiced gaps interpolated, and voicing (0 or 1): float32 (T,) each."""
    at = np.flatnonzero(f0)
    smooth = np.interp(np.arange(len(f0)), at, f0[at]) if len(at) > 2 else np.full(len(f0), 120.0)
    return smooth.astype(np.float32), (f0 > 0).astype(np.float32)
