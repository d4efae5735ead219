import numpy as np
import pytest

from solfa.tokenizers.text.tokenizer import TextTokenizer
from solfa.tts.evaluation.evaluate_tts import HELDOUT, Outcome, heldout_sentences, heldout_styles, measured, spread
from solfa.tts.style.style_encoder import Style
from solfa.tts.synthesizer import Speech


def test_moving_the_asked_way_is_what_counts() -> None:
    assert Outcome("slow", "rate", -1, 4.0, 3.0).moved
    assert not Outcome("slow", "rate", -1, 4.0, 4.0).moved
    assert not Outcome("high", "pitch", 1, 200.0, 190.0).moved


def test_rate_is_the_texts_syllables_over_the_time_they_take() -> None:
    text, noise = (
        TextTokenizer.from_pretrained(),
        0.1 * np.random.default_rng(0).standard_normal(24_000).astype(np.float32),
    )
    quiet = np.zeros(12_000, np.float32)
    for seconds, samples in ((1, noise), (2, np.concatenate([quiet, noise, noise, quiet]))):
        found = measured(text, "A banana, please.", Speech(samples, 24_000, [], "nobody", Style()))
        assert found["rate"] == pytest.approx(5 / seconds, rel=0.1)


@pytest.mark.parametrize("name", HELDOUT)
def test_heldout_material_is_there(name: str) -> None:
    assert len(heldout_sentences()) >= 200
    by_attribute = {(a, d) for _, a, d in heldout_styles(name)}
    assert {(a, d) for a in ("rate", "pitch", "loudness") for d in (1, -1)} <= by_attribute


def test_spread_keeps_order_and_never_repeats() -> None:
    rows = list(range(10))
    assert spread(rows, 4) == [0, 2, 5, 7]
    assert spread(rows, 20) == rows
