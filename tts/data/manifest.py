"""A prepared data set: the split, scores relative to people and voices, and the manifest with its descriptions.

Columns of `manifest.jsonl`, one clip a line: audio (relative path), id, text, speaker, voice (preset name or null), source,
made (recording, flite or world), parent (id of the recording that WORLD changed), language, split (train or heldout),
label (emotion or null), gender, age, words; phones with word_index, durations (10 ms slots that sum to the clip),
pitch (Hz, 0 unvoiced) and energy (dB RMS), one each; median_pitch; attributes (rate: phones/s without pauses, pitch: Hz,
pitch_range: semitones, loudness: dB RMS of the person, before levelling, brightness: dB, breathiness: 0..1, pauses: share of time);
z: attributes as style scores against people of that gender; voice_z: against the same voice's ordinary reading.
"""

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from solfa.core.atomic import write_bytes
from solfa.core.errors import UserError
from solfa.tts.data.measure import relative, standardised

Row = dict[str, Any]

HELDOUT_CLIPS = 25  # of a reader of whom there is much
HELDOUT_SPEAKERS = 0.05  # share, of a source with many
OTHER_PERSON = 7.0  # semitones from a reader's median at which a clip must be somebody else's
WORST = 4.0  # deviations below the source's median alignment score at which a clip goes
STYLES = ("rate", "pitch", "pitch_range", "loudness", "brightness", "breathiness", "pauses")


def sentence_key(text: str) -> str:
    """A sentence without case, punctuation and spacing, to tell whether two texts are the same."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def ordered(key: str) -> str:
    """A fixed, arbitrary order: the split must not depend on the machine or on the order of files."""
    return hashlib.sha256(key.encode()).hexdigest()


def heldout(clips: Iterable[tuple[str, str]]) -> set[str]:
    """Keys held out of one source, from its (speaker, text) pairs.

    Of a source with 20 speakers or more these are speakers (5 %); of any other one, sentence keys with 25 clips, or a tenth
    of the clips, of each speaker.  All takes of such a sentence are held out.
    """
    by_speaker: dict[str, list[str]] = defaultdict(list)
    for speaker, text in clips:
        by_speaker[speaker].append(sentence_key(text))
    if len(by_speaker) >= 20:
        return set(sorted(by_speaker, key=ordered)[: round(HELDOUT_SPEAKERS * len(by_speaker))])
    chosen: set[str] = set()
    for texts in by_speaker.values():
        wanted = min(HELDOUT_CLIPS, len(texts) // 10)
        for text in sorted(set(texts), key=ordered):
            if sum(t in chosen for t in texts) >= wanted:
                break
            chosen.add(text)
    return chosen


class Parts:
    """Finished rows and rejects under OUT/parts, one file a source, appended as clips are done: what resuming reads."""

    def __init__(self, out: Path):
        self.folder = out / "parts"
        self.rows: dict[str, Row] = {}
        self.rejects: dict[str, Row] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    self._keep(json.loads(line))
                except json.JSONDecodeError:  # the line that a killed run was writing; its clip is done again
                    continue

    def __contains__(self, key: str) -> bool:
        return key in self.rows or key in self.rejects

    def add(self, row: Row) -> None:
        """Keep and write a row or a reject."""
        self._keep(row)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{row['source']}.jsonl"
        whole = not path.exists() or path.stat().st_size == 0 or _ends_with_newline(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(("" if whole else "\n") + json.dumps(row, ensure_ascii=False) + "\n")

    def _keep(self, row: Row) -> None:
        (self.rejects if "rejected" in row else self.rows)[row["id"]] = row


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def drop_doubtful(parts: Parts) -> None:
    """Move to the rejects, with their variants: recordings whose alignment scores far below the others of their source, and
    those of a single reader whose pitch is that of another person."""
    recordings = [row for row in parts.rows.values() if row["made"] == "recording"]
    scores: dict[str, list[float]] = defaultdict(list)
    pitches: dict[str, list[float]] = defaultdict(list)
    for row in recordings:
        scores[row["source"]].append(row["score"])
        if row["voice"] and row["median_pitch"]:
            pitches[row["voice"]].append(row["median_pitch"])
    least = {}
    for source, values in scores.items():
        median = np.median(values)
        least[source] = median - WORST * 1.4826 * np.median(np.abs(np.array(values) - median))
    why = {}
    for row in recordings:
        if row["score"] < least[row["source"]]:
            why[row["id"]] = f"alignment score {row['score']}, far below the others"
        elif row["voice"] and row["median_pitch"]:
            off = 12 * abs(np.log2(row["median_pitch"] / np.median(pitches[row["voice"]])))
            if off > OTHER_PERSON:
                why[row["id"]] = f"pitch {off:.0f} semitones off this reader's: somebody else?"
    for row in list(parts.rows.values()):
        reason = why.get(row.get("parent", row["id"]))
        if reason is not None:
            parts.rejects[row["id"]] = {"id": row["id"], "source": row["source"], "rejected": reason}
            del parts.rows[row["id"]]


def score(rows: list[Row]) -> None:
    """Add z and voice_z to every row.  A whisper has no pitch to score: its pitch and pitch_range are the ordinary ones."""
    ordinary: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        row["z"] = standardised(row["attributes"], row["gender"], row["age"])
        # a derived reader's ordinary reading differs from its recording in formants and pitch
        if not row.get("settings") or {"formants"} <= row["settings"].keys() <= {"formants", "pitch"}:
            ordinary[row["speaker"]].append(row)
    base = {
        speaker: {k: float(np.median([r["z"][k] for r in own])) for k in STYLES} for speaker, own in ordinary.items()
    }
    for row in rows:
        own = base.get(row["speaker"], dict.fromkeys(STYLES, 0.0))
        if not any(row["pitch"]):
            row["z"] |= {"pitch": own["pitch"], "pitch_range": own["pitch_range"]}
        row["voice_z"] = relative(row["z"], own)


def write(out: Path, parts: Parts, caption: Callable[[Row, random.Random], list[str]]) -> list[Row]:
    """Write manifest.jsonl and rejects.jsonl from everything under OUT/parts; -> the manifest's rows."""
    drop_doubtful(parts)
    rows = sorted(parts.rows.values(), key=lambda row: (row["source"], row["id"]))
    if not rows:
        raise UserError(f"no clip could be used; {out / 'rejects.jsonl'} says why")
    score(rows)
    for row in rows:
        row["descriptions"] = caption(row, random.Random(row["id"]))
    _write_lines(out / "manifest.jsonl", rows)
    return rows


def write_rejects(out: Path, parts: Parts) -> None:
    """List what was left out, and why."""
    _write_lines(out / "rejects.jsonl", sorted(parts.rejects.values(), key=lambda row: (row["source"], row["id"])))


def _write_lines(path: Path, rows: Iterable[Row]) -> None:
    write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
