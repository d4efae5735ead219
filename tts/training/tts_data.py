"""What the TTS model is trained on: utterances from token shards, the voices among them, and batches of similar length."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from solfa.core.errors import UserError
from solfa.core.progress import track
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset
from solfa.tokenizers.text.tokenizer import TextTokenizer
from solfa.tts import planner
from solfa.tts.model import REFERENCE_PITCH, SLOTS_PER_FRAME, STYLES, Conditions, Voice
from solfa.tts.planner import Prosody
from solfa.tts.training.tts_recipe import TTSRecipe


class Utterance(NamedTuple):
    """A clip: N phones with their measured prosody, and its codes."""

    phones: list[int]
    slots: list[int]  # duration of each phone, of which `planner.SLOTS_PER_SECOND` are a second
    pitch: list[float]  # Hz per phone, 0 unvoiced
    energy: list[float]  # dB per phone
    codes: Tensor  # int16 (books, frames)
    voice: str | None  # the preset voice that it is of
    source: str
    median_pitch: float  # Hz
    person: tuple[float, float]  # gender, age
    style: list[float]  # of each of `STYLES`
    resynthesised: float  # 1 where WORLD made it from a recording
    heldout: bool


class Batch(NamedTuple):
    phones: Tensor  # (B, N)
    mask: Tensor  # (B, N) bool, False in padding
    prosody: Prosody
    conditions: Conditions
    codes: list[Tensor]  # (books, frames) each


def read_utterances(recipe: TTSRecipe, text: TextTokenizer) -> tuple[list[Utterance], str, str]:
    """-> (utterances, codec name, codec fingerprint).

    Raises: UserError for tokens without prosody, of another frame rate, or none short enough.
    """
    data = TokenDataset(recipe.data, books=recipe.model.books)
    if data.header.frame_rate != planner.SLOTS_PER_SECOND / SLOTS_PER_FRAME:
        raise UserError(f"{recipe.data} has {data.header.frame_rate} frames per second; the TTS model needs 25")
    out = []
    for row in track(data, "reading tokens", total=len(data)):
        if "durations" not in row or "phones" not in row:
            raise UserError(f"{recipe.data} has no phones and durations: make it from a manifest of solfa prepare tts")
        seconds = sum(row["durations"]) / planner.SLOTS_PER_SECOND
        if not 0.3 < seconds <= recipe.max_seconds:
            continue
        z = row["voice_z"]
        out.append(
            Utterance(
                text.encode(row["phones"]),
                row["durations"],
                row["pitch"],
                row["energy"],
                row["codes"].to(torch.int16),
                row["voice"],
                row["source"],
                row["median_pitch"] or REFERENCE_PITCH,
                (row["gender"] or 0.0, row["age"] or 0.0),
                [z[name] for name in STYLES],
                float(row["made"] == "world"),
                row["split"] == "heldout",
            )  # fmt: skip
        )
    if not out:
        raise UserError(f"{recipe.data} has no utterance of at most {recipe.max_seconds:g} s")
    return out, data.header.codec, data.header.fingerprint.partition("+")[0]  # of the books that are spoken


def make_voices(utterances: list[Utterance], presets: Mapping[str, str]) -> tuple[Voice, ...]:
    """The described voice first, then the presets (name -> a few words about them) with their measured pitch.

    Raises: UserError for a preset of which there is no clip.
    """
    voices = [Voice("described", about="nobody: as described by gender, age and pitch")]
    for name, about in presets.items():
        own = [u for u in utterances if u.voice == name]
        if not own:
            raise UserError(f"no clip in the data is of voice {name!r}")
        ordinary = [u for u in own if abs(u.style[1]) < 0.5] or own  # pitch unchanged
        pitch = float(np.median([u.median_pitch for u in ordinary]))
        voices.append(Voice(name, own[0].person[0], own[0].person[1], round(pitch, 1), about))
    return tuple(voices)


def collate(items: list[Utterance], voices: tuple[Voice, ...], described: np.ndarray) -> Batch:
    """Utterances, padded to the longest.  described: (B,) bool, True to hide which preset voice it is."""
    index = {v.name: i for i, v in enumerate(voices)}
    longest = max(len(u.phones) for u in items)

    def padded(rows: list[list[Any]], fill: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor([row + [fill] * (longest - len(row)) for row in rows], dtype=dtype)

    voice = [0 if hide or u.voice not in index else index[u.voice] for u, hide in zip(items, described, strict=True)]
    # A described voice's own median is that of the clip; a preset's is that of its ordinary reading.
    median = [voices[v].pitch if v else u.median_pitch for u, v in zip(items, voice, strict=True)]
    style = [
        [s if v or name != "pitch" else 0.0 for s, name in zip(u.style, STYLES, strict=True)]
        for u, v in zip(items, voice, strict=True)
    ]
    semitones = [
        [12 * math.log2(p / m) if p > 0 else math.nan for p in u.pitch] for u, m in zip(items, median, strict=True)
    ]
    person = [[math.log2(m / REFERENCE_PITCH), *u.person] for u, m in zip(items, median, strict=True)]
    prosody = Prosody(
        padded([u.slots for u in items], 0, torch.long),
        padded(semitones, math.nan, torch.float32),
        padded([[e + 23 for e in u.energy] for u in items], 0.0, torch.float32).clamp(-50, 20),
    )
    phones = padded([u.phones for u in items], 0, torch.long)
    mask = padded([[True] * len(u.phones) for u in items], False, torch.bool)
    conditions = Conditions(
        torch.tensor(voice),
        torch.tensor(person, dtype=torch.float32),
        torch.tensor(style),
        torch.tensor([u.resynthesised for u in items]),
    )
    return Batch(phones, mask, prosody, conditions, [u.codes.long() for u in items])


class Batches:
    """Batches of similar length; batch i depends on (seed, i) alone."""

    def __init__(self, utterances: list[Utterance], recipe: TTSRecipe):
        self.utterances, self.recipe = utterances, recipe
        self.seconds = np.array([u.codes.shape[1] / 25 for u in utterances])
        self.order = np.argsort(self.seconds, kind="stable")
        self.weights = {
            which: self._weights(table)
            for which, table in (("mix", recipe.mix), ("finish", recipe.finish or recipe.mix))
        }

    def _weights(self, table: Mapping[str, float]) -> np.ndarray:
        # the more specific name wins: a voice resynthesised by WORLD, a voice, a source
        def weight(u: Utterance) -> float:
            names = (f"{u.voice}-world" if u.resynthesised else "", u.voice or "", u.source)
            return next((table[name] for name in names if name in table), 1.0)

        return np.array([weight(u) for u in self.utterances])

    def draw(self, step: int, progress: float) -> tuple[list[Utterance], np.ndarray]:
        """-> (utterances of batch number `step`, bool of each whether to hide its voice), with `progress` of the run done."""
        rng = np.random.default_rng((self.recipe.seed, step))
        weights = self.weights["finish" if progress >= self.recipe.finish_from else "mix"]
        first = rng.choice(len(self.utterances), p=weights / weights.sum())
        # neighbours in length, weighted as well
        rank = int(np.searchsorted(self.seconds[self.order], self.seconds[first]))
        span = max(200, len(self.order) // 10)
        low = max(0, min(rank - span // 2, len(self.order) - span))
        near = self.order[low : low + span]
        local = weights[near]
        count = max(2, int(self.recipe.batch_seconds / self.seconds[first]))
        count = min(count, int((local > 0).sum()))
        picks = rng.choice(near, count, replace=False, p=local / local.sum())
        return [self.utterances[i] for i in picks], rng.random(len(picks)) < self.recipe.describe_share


def digest(utterances: Sequence[Utterance]) -> str:
    """Another digest means other data."""
    found = hashlib.sha256()
    for u in utterances:
        found.update(repr((u.phones, u.slots, u.voice, u.heldout)).encode())
        found.update(u.codes.contiguous().numpy().tobytes())
    return found.hexdigest()


def to_device(batch: Batch, device: torch.device) -> Batch:
    prosody = Prosody(*(t.to(device) for t in batch.prosody))
    conditions = Conditions(*(t.to(device) for t in batch.conditions))
    return Batch(
        batch.phones.to(device), batch.mask.to(device), prosody, conditions, [c.to(device) for c in batch.codes]
    )
