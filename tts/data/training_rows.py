"""One clip -> rows of TTS training data: align a recording, speak a sentence with Flite, resynthesise a row's audio.

These run in worker processes; progress, splits and manifests are elsewhere.  A row is a dict (columns as in
`solfa.tts.data.manifest`); what cannot be used comes back as {"id", "source", "rejected": why}.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import read_audio, write_wav
from solfa.tokenizers.audio.resample import resample
from solfa.tts.data import synthetic
from solfa.tts.data.align import RATE, Aligner, implausible
from solfa.tts.data.flite import Sentence
from solfa.tts.data.measure import LEVEL, decibels, measure, normalised, slot_power
from solfa.tts.data.pitch import SLOT, Floats
from solfa.tts.data.synthetic import Change

SAMPLE_RATE = 24_000
PAD = 20  # slots of faint noise around a recording: where its own silence was cut off, a phone would be given the time of it

_aligner: Aligner | None = None  # one per worker process: loading the acoustic model takes a second


@dataclass(frozen=True)
class Person:
    """The person in a clip.  voice: preset name or None; gender -1 man .. 1 woman or None; age -1 child, 0 adult, 1 old or None."""

    speaker: str
    voice: str | None
    gender: float | None
    age: float | None


@dataclass(frozen=True)
class Recording:
    """A recorded sentence, to be aligned."""

    id: str
    source: str
    path: Path
    sentence: Sentence
    person: Person
    language: str
    label: str | None
    split: str


@dataclass(frozen=True)
class Line:
    """A sentence for one of Flite's voices."""

    id: str
    text: str
    person: Person


@dataclass(frozen=True)
class Resynthesis:
    """Variants of a finished row, each with who speaks then."""

    row: dict[str, Any]
    variants: list[tuple[str, Person, Change]]  # id, person, change


def make_rows(job: Recording | Line | Resynthesis, out: Path) -> list[dict[str, Any]]:
    """Write the job's audio under `out` and return its rows."""
    if isinstance(job, Recording):
        return [recording_row(job, out)]
    if isinstance(job, Line):
        return [flite_row(job, out)]
    return list(resynthesised_rows(job, out))


def recording_row(job: Recording, out: Path) -> dict[str, Any]:
    """Align a recording, cut its silence and level it."""
    global _aligner
    refused = {"id": job.id, "source": job.source}
    try:
        wav = read_audio(job.path, SAMPLE_RATE).samples
    except UserError as e:
        return refused | {"rejected": str(e), "unreadable": True}
    wav, level = normalised(wav, SAMPLE_RATE)
    if level < -70:
        return refused | {"rejected": "silence"}
    wav = padded(wav, PAD)
    if _aligner is None:
        _aligner = Aligner()
    low = resample(wav, SAMPLE_RATE, RATE)
    aligned = _aligner.align(low, job.sentence)
    if aligned is None:
        return refused | {"rejected": "no alignment found"}
    why = implausible(aligned, low[round(aligned.start * RATE) : round(aligned.end * RATE)])
    if why is not None:
        return refused | {"rejected": why}
    wav = whole_slots(wav[round(aligned.start * SAMPLE_RATE) :], sum(aligned.durations))
    wav, before = normalised(wav, SAMPLE_RATE)
    more = {
        "level": round(level + before - LEVEL, 2),
        "score": round(aligned.score, 2),
        "split": job.split,
        "made": "recording",
    }
    row = columns(job.id, job.source, job.sentence, job.person, job.language, job.label)
    labels = {"phones": aligned.phones, "word_index": aligned.word_index, "durations": aligned.durations}
    return finish(row | labels | more, wav, out)


def flite_row(job: Line, out: Path) -> dict[str, Any]:
    """A Flite clip with settings drawn from the clip's id."""
    voice = job.person.speaker
    settings, change = synthetic.draw_flite(voice, seeded(job.id))
    folder = out / "audio" / "flite"
    folder.mkdir(parents=True, exist_ok=True)
    sentence = synthetic.flite_clip(voice, f"{job.id}.raw", job.text, folder, settings)
    if sentence is None or sentence.wav is None:
        return {"id": job.id, "source": "flite", "rejected": "Flite finds nothing to say"}
    try:
        wav, rate, *_ = read_audio(sentence.wav)
    finally:
        sentence.wav.unlink(missing_ok=True)
    start, end, durations = synthetic.labelled(sentence, len(wav) / rate)
    if min(durations[1:-1], default=0) < 0 or durations[-1] < 0:
        return {"id": job.id, "source": "flite", "rejected": "times out of order"}
    wav = whole_slots(wav[round(start * rate) :], sum(durations), rate)
    track = None
    if change != Change():
        wav, durations, track = synthetic.resynthesise(synthetic.analyse(wav, rate), sentence.phones, durations, change)
    wav = whole_slots(resample(wav, rate, SAMPLE_RATE), sum(durations))
    wav, _ = normalised(wav, SAMPLE_RATE)
    row = columns(job.id, "flite", sentence, job.person, "en", None)
    more = {"durations": durations, "split": "train", "made": "flite", "settings": settings | changed(change)}
    return finish(row | more, wav, out, track)


def resynthesised_rows(job: Resynthesis, out: Path) -> Iterator[dict[str, Any]]:
    """A recording's variants; it is analysed once."""
    wav = read_audio(out / job.row["audio"], SAMPLE_RATE).samples
    analysis = synthetic.analyse(wav, SAMPLE_RATE)
    for key, person, change in job.variants:
        new, durations, track = synthetic.resynthesise(analysis, job.row["phones"], job.row["durations"], change)
        new, _ = normalised(new, SAMPLE_RATE)
        row = job.row | {"id": key, "source": "world", "made": "world", "parent": job.row["id"], "durations": durations}
        row |= asdict(person) | {"settings": changed(change)}
        yield finish(row, new, out, track, change)


def columns(
    key: str, source: str, sentence: Sentence, person: Person, language: str, label: str | None
) -> dict[str, Any]:
    """The columns of a row that do not depend on the sound."""
    return {
        "id": key, "text": sentence.text, **asdict(person), "source": source, "language": language, "label": label,
        "words": sentence.words, "phones": sentence.phones, "word_index": sentence.word_index,
    }  # fmt: skip


def finish(
    row: dict[str, Any], wav: Floats, out: Path, track: Floats | None = None, change: Change | None = None
) -> dict[str, Any]:
    """Measure a clip (24 kHz, levelled) against its labels, write it, complete its row."""
    change = change or Change()
    found = measure(wav, SAMPLE_RATE, row["phones"], row["durations"], track, change.loudness)
    attributes = found.attributes
    # Without a pitch of its own a whisper would look like an impossibly deep voice.
    median = found.median_pitch or float(row.get("median_pitch") or 0.0)
    attributes["pitch"] = attributes["pitch"] or median
    audio = f"audio/{row['source']}/{row['id']}.wav"
    write_wav(out / audio, wav, SAMPLE_RATE)
    more = {"pitch": found.pitch, "energy": found.energy, "median_pitch": median, "attributes": attributes}
    return row | more | {"audio": audio, "duration_s": round(sum(row["durations"]) * SLOT, 2)}


def whole_slots(wav: Floats, slots: int, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Cut or pad a clip to `slots` times 10 ms."""
    size = round(slots * SLOT * sample_rate)
    return np.concatenate([wav[:size], np.zeros(max(0, size - len(wav)), wav.dtype)])


def padded(wav: Floats, slots: int) -> np.ndarray:
    """A clip with noise, as faint as its own faintest slots, before and after."""
    floor = min(float(np.percentile(decibels(slot_power(wav, SAMPLE_RATE)), 3)), -60.0)
    noise = 10 ** (max(floor, -80.0) / 20) * np.random.default_rng(0).standard_normal(
        (2, round(slots * SLOT * SAMPLE_RATE))
    )
    return np.concatenate([noise[0], wav, noise[1]]).astype(np.float32)


def changed(change: Change) -> dict[str, float]:
    """What a Change changes, rounded."""
    return {k: round(float(v), 4) for k, v in asdict(change).items() if v != getattr(Change(), k)}


def seeded(key: str) -> np.random.Generator:
    """A generator that depends on an id alone, so that a resumed run draws what the first would have drawn."""
    return np.random.default_rng(list(key.encode()))
