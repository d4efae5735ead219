"""A floor under the quality of the bundled codec, on the recordings in tests/data."""

from pathlib import Path

import numpy as np
import pytest

from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.evaluation.evaluate_codec import COLUMNS, measure, read_clip

RECORDINGS = Path(__file__).parents[2] / "data"
FLOORS = {  # books: PESQ-WB, STOI, mel distance in decades; measured: 2.69, .951, .141 and 4.18, .988, .100
    8: (2.60, 0.945, 0.146),
    64: (4.08, 0.984, 0.104),
}


def test_the_bundled_codec_does_not_get_worse() -> None:
    pytest.importorskip("pesq")
    codec = AudioTokenizer.from_pretrained()
    clips = list(read_corpus(str(RECORDINGS)))
    assert len(clips) == 4
    rows = np.array([measure(codec, read_clip(codec, clip, seconds=10), list(FLOORS)) for clip in clips])
    for books, figures in zip(FLOORS, rows.mean(axis=0), strict=True):
        found = dict(zip(COLUMNS, figures, strict=True))
        pesq, stoi, mel = FLOORS[books]
        assert found["PESQ-WB"] > pesq
        assert found["STOI"] > stoi
        assert found["mel distance"] < mel
