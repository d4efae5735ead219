"""When each word of synthesized speech is spoken, from the plan of its phones."""

from typing import NamedTuple

from solfa.tokenizers.text.tokenizer import Phones
from solfa.tts.planner import SLOTS_PER_SECOND, Prosody


class WordTime(NamedTuple):
    """A word and when it is spoken, in seconds from the start."""

    word: str
    start: float
    end: float


def word_times(phones: Phones, prosody: Prosody) -> list[WordTime]:
    """When each word is spoken: exact, because the plan decides it.  prosody: of one sentence, on the CPU."""
    ends = prosody.slots[0].cumsum(0) / SLOTS_PER_SECOND
    starts = ends - prosody.slots[0] / SLOTS_PER_SECOND
    times = []
    for i, word in enumerate(phones.words):
        own = [n for n, w in enumerate(phones.word_index) if w == i]
        times.append(WordTime(word, round(float(starts[own[0]]), 3), round(float(ends[own[-1]]), 3)))
    return times
