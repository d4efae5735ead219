"""How acted emotions differ from the same actor's neutral reading: measured style scores by emotion.

    python -m solfa.tts.data.emotions EMODB_FOLDER > tts/data/emotion_offsets.json

The style encoder's training pairs take from it what "angry" or "sad" asks for, so that these are findings and not guesses.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from solfa.tokenizers.audio.audio_file import read_audio
from solfa.tts.data.manifest import STYLES
from solfa.tts.data.measure import measure_unlabelled, standardised
from solfa.tts.data.prepare_tts import read_metadata

NEUTRAL = "neutral"
LOST = ("loudness", "pauses")  # not in the recordings any more, see main


def offsets(folder: Path) -> dict[str, dict[str, float | None]]:
    """Emotion -> style score minus that of the actor's neutral clips; every actor counts the same."""
    scores: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for row in read_metadata(folder):
        audio = read_audio(folder / row["file"])
        found = measure_unlabelled(audio.samples, audio.sample_rate)
        scores[row["speaker"], row["style"]].append(standardised(found, None, None, limit=False))
    means = {key: {k: float(np.mean([s[k] for s in own])) for k in STYLES} for key, own in scores.items()}
    differences: dict[str, list[dict[str, float]]] = defaultdict(list)
    for (actor, emotion), mean in means.items():
        if (actor, NEUTRAL) in means:
            differences[emotion].append({k: mean[k] - means[actor, NEUTRAL][k] for k in STYLES})
    result: dict[str, dict[str, float | None]] = {}
    for emotion, own in sorted(differences.items()):
        result[emotion] = {k: None if k in LOST else round(float(np.mean([d[k] for d in own])), 2) for k in STYLES}
    return result


def main(argv: list[str]) -> None:
    """Print the offsets of a folder with metadata.csv (file,speaker,text,style)."""
    result: dict[str, Any] = {
        "source": "Berlin Database of Emotional Speech (EmoDB), 8 of its 10 actors, 10 German sentences",
        "licence": "CC0 1.0, as stated by audEERING's dataset definition (github.com/audeering/emodb)",
        "null": "loudness and pauses: these copies are level-normalised and cut to 2 s; brightness shows vocal effort instead",
        "rate": "syllable nuclei per second of speech",
        "unit": "style score of solfa.tts.data.measure.standardised minus the actor's neutral mean (1 is plainly audible, 2 extreme)",
        "offsets": offsets(Path(argv[0])),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
