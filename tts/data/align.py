"""Forced alignment: when each phone of a sentence is spoken in a recording of it, by PocketSphinx and its English model.

The pronunciations are Flite's (`solfa.tts.data.flite`), not the recognizer's, so that recordings and synthetic speech have
the same phones.  Training data only: pocketsphinx (extra `train`) is imported when used.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from solfa.tts.data.flite import PAUSES, VOWELS, Sentence
from solfa.tts.data.measure import decibels, slot_power, slots_of
from solfa.tts.data.pitch import SLOT, Floats

RATE = 16_000  # Hz, of the acoustic model
EDGE = 15  # slots of silence kept at either end
LONGEST = 60  # slots a phone may last
# A feature frame covers 25.6 ms from its start, so its centre is 7.8 ms later than that of the slot of the same number.
LEAD = round(0.0078 * RATE)


@dataclass(frozen=True)
class Aligned:
    """A sentence laid over a recording.  durations: slots per phone; start, end: seconds of the recording that they cover;
    score: the model's mean log likelihood per slot of speech (only comparable within one kind of recording)."""

    phones: list[str]
    word_index: list[int]
    durations: list[int]
    start: float
    end: float
    score: float


class Aligner:
    """Aligns sentence after sentence; holds the acoustic model (one per process)."""

    def __init__(self) -> None:
        import pocketsphinx

        with tempfile.TemporaryDirectory() as folder:
            dictionary = os.path.join(folder, "empty.dict")
            with open(dictionary, "w", encoding="utf-8") as file:
                file.write("aa AA\n")
            self.decoder = pocketsphinx.Decoder(
                hmm=pocketsphinx.get_model_path("en-us/en-us"), dict=dictionary, lm=None, samprate=RATE, cmn="batch",
                beam=1e-80, wbeam=1e-60, pbeam=1e-80, loglevel="FATAL", bestpath=False,
            )  # fmt: skip

    def align(self, wav: Floats, sentence: Sentence) -> Aligned | None:
        """wav: (n,) at 16 kHz, well levelled.  -> None if the recording cannot be of this sentence."""
        groups = words_of(sentence)
        names = [self._name([sentence.phones[i] for i in group]) for group in groups]
        noise = np.random.default_rng(0).standard_normal(len(wav) + LEAD) * 1e-4  # the model fails on digital silence
        noise[LEAD:] += wav
        sound = (np.clip(noise, -1, 1) * 32767).astype(np.int16).tobytes()
        with _quiet():
            try:
                self.decoder.set_align_text(" ".join(names))
                self._decode(sound)
                if self.decoder.hyp() is None:
                    return None
                self.decoder.set_alignment()
                self._decode(sound)
                found = self.decoder.get_alignment()
            except RuntimeError:  # the search found no way through: not this sentence
                return None
            if found is None:
                return None
            aligned = [[(p.start, p.duration, p.score) for p in word] for word in found if not _filler(word.name)]
        if [len(word) for word in aligned] != [len(group) for group in groups]:
            return None
        return lay_out(sentence, groups, aligned, slots_of(wav, RATE))

    def _decode(self, sound: bytes) -> None:
        self.decoder.start_utt()
        try:
            self.decoder.process_raw(sound, no_search=False, full_utt=True)
        finally:
            self.decoder.end_utt()

    def _name(self, phones: list[str]) -> str:
        """The dictionary's word for a pronunciation; entered on first use."""
        plain = [sphinx_phone(p) for p in phones]
        name = "_".join(plain).lower() + "_"
        if self.decoder.lookup_word(name) is None:
            self.decoder.add_word(name, " ".join(plain), True)
        return name


def sphinx_phone(phone: str) -> str:
    """Flite's symbol -> the acoustic model's (upper case, no stress, no separate schwa)."""
    plain = phone.rstrip("01").upper()
    return "AH" if plain == "AX" else plain


def words_of(sentence: Sentence) -> list[list[int]]:
    """Positions in sentence.phones of each word's phones."""
    groups: list[list[int]] = []
    last = -1
    for i, word in enumerate(sentence.word_index):
        if word < 0:
            continue
        if word != last:
            groups.append([])
        groups[-1].append(i)
        last = word
    return groups


def lay_out(
    sentence: Sentence, groups: list[list[int]], aligned: list[list[tuple[int, int, int]]], slots: int
) -> Aligned | None:
    """Phones' (start slot, slots, score) by word, over a recording of `slots` -> the sentence with durations.

    A gap between words goes to the punctuation there, or to a "pau" put in; silence beyond EDGE at the ends is cut off.
    """
    begin, end = aligned[0][0][0], min(aligned[-1][-1][0] + aligned[-1][-1][1], slots)
    first, last = max(0, begin - EDGE), min(slots, end + EDGE)
    phones, index, durations = ["pau"], [-1], [begin - first]
    at, score, spoken = begin, 0, 0
    position = groups[0][0]
    for group, times in zip(groups, aligned, strict=True):
        marks = [sentence.phones[i] for i in range(position, group[0])]
        gap = times[0][0] - at
        if marks or gap:
            phones.append(marks[0] if marks else "pau")
            index.append(-1)
            durations.append(gap)
        for i, (start, length, value) in zip(group, times, strict=True):
            length = min(start + length, slots) - start
            phones.append(sentence.phones[i])
            index.append(sentence.word_index[i])
            durations.append(length)
            at = start + length
            score += value
            spoken += length
        position = group[-1] + 1
    phones.append(sentence.phones[-1])
    index.append(-1)
    durations.append(last - at)
    if min(durations) < 0 or at > last:
        return None
    return Aligned(phones, index, durations, first * SLOT, last * SLOT, score / max(spoken, 1))


def implausible(aligned: Aligned, wav: Floats) -> str | None:
    """One clause on why an alignment cannot be right, or None.  wav: the aligned stretch at 16 kHz."""
    lengths = [(p, n) for p, n in zip(aligned.phones, aligned.durations, strict=True) if p not in PAUSES]
    longest, length = max(lengths, key=lambda pair: pair[1])
    if length > LONGEST:
        return f"phone {longest} lasts {length * SLOT:.2f} s"
    rate = len(lengths) / (SLOT * sum(n for _, n in lengths))
    if not 4 < rate < 25:
        return f"{rate:.1f} phones a second"
    pauses = [n for p, n in zip(aligned.phones[1:-1], aligned.durations[1:-1], strict=True) if p in PAUSES]
    if pauses and max(pauses) > 150:
        return f"a pause of {max(pauses) * SLOT:.1f} s"
    contrast = vowel_contrast(aligned.phones, aligned.durations, wav, RATE)
    if contrast < 6:
        return f"vowels only {contrast:.1f} dB above the pauses"
    return None


def vowel_contrast(phones: list[str], durations: list[int], wav: Floats, sample_rate: int) -> float:
    """dB between the median slot of vowels and that of pauses (60 if there is no pause)."""
    level = decibels(slot_power(wav, sample_rate))[: sum(durations)]
    vowel = np.concatenate([np.full(n, p.rstrip("01") in VOWELS) for p, n in zip(phones, durations, strict=True)])[
        : len(level)
    ]
    pause = np.concatenate([np.full(n, p in PAUSES) for p, n in zip(phones, durations, strict=True)])[: len(level)]
    if not pause.any():
        return 60.0
    return float(np.median(level[vowel]) - np.median(level[pause])) if vowel.any() else 0.0


def _filler(name: str) -> bool:
    return name.startswith(("<", "[", "+"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library writes a line to standard error for each failed search, whatever its log level."""
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
