"""Training clips for the audio tokenizer: decoded once, with F0, into flat arrays on disk; then random crops from them.

A batch is a function of (seed, step) alone, so a resumed run reads exactly what an undisturbed one would have read.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch
from torch import Tensor

from solfa.core.atomic import write_bytes
from solfa.core.errors import UserError
from solfa.core.progress import track
from solfa.tokenizers.audio.bad_audio import BadAudio
from solfa.tokenizers.audio.model.features import MEAN_F0
from solfa.tokenizers.datasets.readers.clip import Clip
from solfa.tokenizers.datasets.readers.corpus import read_corpus

MAX_SECONDS = 20.0
SHORTEST = 10  # frames
QUIETEST = 1e-4  # peak of full scale 1: below it a clip is silence
PEAK = 0.6  # of every clip in the store
AUDIO_FOLDERS = (
    "wavs",
    "wav",
    "clips",
    "audio",
)  # folders of a corpus of one speaker, who is better named by what is above


class Source(NamedTuple):
    """A clip to learn from.  speech: whether F0 is to be measured; music and noises have none."""

    clip: Clip
    speaker: str
    speech: bool


class NothingUsable(UserError):
    """Not one of some clips could be decoded.  rejects: as in `ClipStore`."""

    def __init__(self, rejects: list[dict[str, str]]):
        super().__init__(f"none of the training files could be used; the first: {rejects[0]['reason']}")
        self.rejects = rejects


class Batch(NamedTuple):
    wav: Tensor  # (B, crop) at the tokenizer's rate
    f0: Tensor  # (B, crop / hop) Hz, gaps bridged so that the source's phase stays smooth
    voiced: Tensor  # (B, crop / hop) 1 where F0 was measured

    @property
    def measured(self) -> tuple[Tensor, Tensor]:
        """Log F0 relative to MEAN_F0, and voicing: as the tokenizer's features hold them."""
        return (self.f0 / MEAN_F0).log(), self.voiced


def list_sources(corpora: Sequence[str]) -> list[Source]:
    """The clips of corpora in any layout that `solfa tokenize` reads.

    A clip's speaker is the one that its corpus names, otherwise the folder that it lies in.  Language `none` marks music and
    noises.  Raises: UserError for a corpus that does not exist, holds no audio, or has a damaged table.
    """
    return [
        Source(clip, str(clip.row.get("speaker") or folder_of(clip)), clip.row.get("language") != "none")
        for corpus in corpora
        for clip in read_corpus(corpus)
    ]


def folder_of(clip: Clip) -> str:
    folder = clip.path.absolute().parent
    return folder.parent.name if folder.name in AUDIO_FOLDERS else folder.name


def is_heldout(speaker: str, percent: float) -> bool:
    """A fixed pseudo-random share of speakers, the same on every machine."""
    return int(hashlib.sha256(speaker.encode()).hexdigest()[:8], 16) % 10_000 < 100 * percent


def measure_f0(samples: np.ndarray, sample_rate: int, hop: int) -> np.ndarray:
    """F0 in Hz, one per hop, 0 where unvoiced (WORLD's DIO and StoneMask)."""
    import pyworld

    wide = samples.astype(np.float64)
    f0, times = pyworld.dio(wide, sample_rate, f0_floor=60.0, f0_ceil=500.0, frame_period=1000 * hop / sample_rate)
    return pyworld.stonemask(wide, f0, times, sample_rate).astype(np.float32)


def _load(job: tuple[Source, int, int]) -> tuple[np.ndarray, np.ndarray] | tuple[str, str]:
    """(source, rate, hop) -> float16 samples and F0; or why the clip cannot be used, as a word and a sentence."""
    (clip, _, speech), rate, hop = job
    try:
        x = clip.read(rate).samples[: int(MAX_SECONDS * rate)]
    except BadAudio as e:
        return e.kind, str(e)
    except UserError as e:
        return "other", str(e)
    peak = np.abs(x).max(initial=0.0)
    frames = len(x) // hop
    if peak < QUIETEST:
        return "silent", f"{clip.path} is silent"
    if frames < SHORTEST:
        return "short", f"{clip.path} is shorter than {SHORTEST * hop / rate:g} s"
    x = x[: frames * hop] * (PEAK / peak)
    f0 = measure_f0(x, rate, hop)[:frames] if speech else np.zeros(frames, np.float32)
    return x.astype(np.float16), f0


@dataclass
class ClipStore:
    """Flat arrays of all clips: samples (float16) and F0, with each clip's first frame and its length in frames.

    rejects: of each clip that could not be used its id, file, and why, as a word and a sentence.
    digest: of the samples.
    """

    samples: np.ndarray
    f0: np.ndarray
    start: np.ndarray
    frames: np.ndarray
    hop: int
    rate: int
    rejects: Sequence[dict[str, str]] = ()
    digest: str = ""

    @classmethod
    def build(cls, folder: Path, sources: Sequence[Source], rate: int, hop: int, workers: int) -> "ClipStore":
        """Decode and analyse once into `folder`; later calls with the same sources, unchanged, only open the files.

        Raises: NothingUsable where no clip can be decoded.
        """
        key, index = key_of(sources, rate, hop), folder / "index.json"
        known = read_index(index)
        if known.get("key") != key:
            folder.mkdir(parents=True, exist_ok=True)
            index.unlink(missing_ok=True)
            known = {"key": key} | cls._decode(folder, sources, rate, hop, workers)
            write_bytes(index, json.dumps(known).encode())
        frames = np.array(known["frames"])
        samples = np.memmap(folder / "samples.f16", np.float16, "r")
        f0 = np.memmap(folder / "f0.f32", np.float32, "r")
        start = np.concatenate([[0], np.cumsum(frames)[:-1]])
        return cls(samples, f0, start, frames, hop, rate, known["rejects"], known["digest"])

    @staticmethod
    def _decode(folder: Path, sources: Sequence[Source], rate: int, hop: int, workers: int) -> dict[str, Any]:
        """Write the arrays.  -> what the index says of them."""
        spans: list[int] = []
        rejects: list[dict[str, str]] = []
        digest = hashlib.sha256()
        with (
            (folder / "samples.f16").open("wb") as wav,
            (folder / "f0.f32").open("wb") as pitch,
            ProcessPoolExecutor(workers) as pool,
        ):
            loaded = pool.map(_load, [(s, rate, hop) for s in sources], chunksize=8)
            for (clip, _, _), found in zip(
                sources, track(loaded, total=len(sources), label="decoding and measuring F0"), strict=True
            ):
                if isinstance(found[0], str):
                    kind, reason = found
                    rejects.append({"id": clip.id, "audio": str(clip.path), "kind": kind, "reason": str(reason)})
                    continue
                samples, f0 = found[0].tobytes(), found[1].tobytes()  # type: ignore[union-attr]
                wav.write(samples)
                pitch.write(f0)
                digest.update(samples)
                spans.append(len(found[1]))
        if not spans:
            raise NothingUsable(rejects)
        return {"frames": spans, "rejects": rejects, "digest": digest.hexdigest()}

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
        smooth, voiced = (np.stack(parts) for parts in zip(*map(bridge_gaps, f0), strict=True))
        return Batch(torch.from_numpy(wav), torch.from_numpy(smooth), torch.from_numpy(voiced))


def key_of(sources: Iterable[Source], rate: int, hop: int) -> str:
    """A digest of what is to be decoded: which files, as large and as old as they are, and how."""

    @cache
    def stamp(path: Path) -> tuple[int, int]:
        """Size and time of a file, or of the shard or table that a clip's path lies in."""
        for place in (path, *path.parents):
            if place.exists():
                status = place.stat()
                return status.st_size, status.st_mtime_ns
        return 0, 0

    rows = [[c.id, str(c.path), c.span, stamp(c.path), speech] for c, _, speech in sources]
    return hashlib.sha256(json.dumps([*rows, [rate, hop]]).encode()).hexdigest()


def read_index(path: Path) -> dict[str, Any]:
    """What was decoded, or {} where nothing was, or the file is damaged."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) and {"frames", "rejects", "digest"} <= index.keys() else {}


def bridge_gaps(f0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F0 with its unvoiced gaps interpolated, and voicing (0 or 1): float32 (T,) each."""
    at = np.flatnonzero(f0)
    smooth = np.interp(np.arange(len(f0)), at, f0[at]) if len(at) > 2 else np.full(len(f0), 120.0)
    return smooth.astype(np.float32), (f0 > 0).astype(np.float32)
