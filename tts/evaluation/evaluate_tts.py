"""`solfa eval tts`: does speech do what the style asks, can it be understood, and how fast is it made?"""

import csv
import time
from collections import defaultdict
from importlib import resources
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from solfa.core.atomic import replacing
from solfa.core.errors import UserError
from solfa.core.output import check_output
from solfa.core.progress import Progress
from solfa.core.torchaudio_functional import functional
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.text.tokenizer import VOWELS, TextTokenizer
from solfa.tts.data.measure import measure_unlabelled
from solfa.tts.evaluation.asr import Recognizer
from solfa.tts.synthesizer import TTS, Speech, check_seed

GROUP = 4  # sentences that share a recognizer's vocabulary
ADHERENCE_SENTENCES = 16  # sentences on which the instructions are tried, in turn
MEASURED = {"rate": "syllables/s", "pitch": "Hz", "pitch_range": "semitones", "loudness": "dB"}
HELDOUT = {
    "heldout_requests.csv": "requests of an author who had not seen the training material",
    "heldout_styles.csv": "phrasings whose key words no training text holds",
}


class Outcome(NamedTuple):
    """One instruction tried on a sentence: the attribute without (`neutral`) and with it (`styled`)."""

    text: str
    attribute: str
    direction: int  # +1: more of the attribute was asked for, -1: less
    neutral: float
    styled: float

    @property
    def moved(self) -> bool:
        """Whether the attribute moved in the direction that was asked for."""
        return (self.styled - self.neutral) * self.direction > 0


def heldout_styles(name: str) -> list[tuple[str, str, int]]:
    """(phrasing, attribute, direction) of a list in HELDOUT, for attributes that can be measured."""
    table = resources.files("solfa").joinpath("tts", "style", name).read_text(encoding="utf-8")
    rows = csv.DictReader(table.splitlines())
    return [(r["text"], r["attribute"], int(float(r["direction"]))) for r in rows if r["attribute"] in MEASURED]


def heldout_sentences() -> list[str]:
    """Sentences that no training clip holds."""
    text = resources.files("solfa").joinpath("tts", "style", "heldout_sentences.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


def measured(text: TextTokenizer, sentence: str, speech: Speech) -> dict[str, float]:
    """Attributes of a sentence spoken.  Its syllables are counted in the text, which is known; their time is measured."""
    syllables = sum(symbol.rstrip("01") in VOWELS for symbol in text.phones(sentence).symbols)
    return measure_unlabelled(speech.samples.astype(np.float64), speech.sample_rate, syllables)


def adherence(
    tts: TTS, phrasings: list[tuple[str, str, int]], sentences: list[str], voice: str | None, seed: int
) -> list[Outcome]:
    """Each instruction on one of the sentences in turn, against that sentence without instruction and with the same seed."""
    outcomes: list[Outcome] = []
    neutral: dict[str, dict[str, float]] = {}
    # one voice throughout, so that an instruction which describes a person changes nothing here
    name = tts.choose_voice(voice, tts.styles.encode("")).name
    with Progress("speaking styles", total=len(phrasings), unit="phrasings") as bar:
        for i, (text, attribute, direction) in enumerate(phrasings):
            sentence = sentences[i % len(sentences)]
            if sentence not in neutral:
                neutral[sentence] = measured(tts.text, sentence, tts.say(sentence, "", name, seed))
            styled = measured(tts.text, sentence, tts.say(sentence, text, name, seed))
            outcomes.append(Outcome(text, attribute, direction, neutral[sentence][attribute], styled[attribute]))
            bar.advance()
    return outcomes


def adherence_table(outcomes: list[Outcome], title: str) -> Table:
    """One row per attribute and direction: how many instructions moved it as asked, and how far."""
    table = Table("attribute", "asked", "phrasings", "moved as asked", "median change", title=title)
    for attribute, unit in MEASURED.items():
        for direction, word in ((1, "more"), (-1, "less")):
            own = [o for o in outcomes if o.attribute == attribute and o.direction == direction]
            if own:
                change = float(np.median([o.styled - o.neutral for o in own]))
                moved = f"{sum(o.moved for o in own)} ({np.mean([o.moved for o in own]):.0%})"
                table.add_row(attribute, word, str(len(own)), moved, f"{change:+.2f} {unit}")
    return table


def word_error_rate(text: TextTokenizer, items: list[tuple[str, np.ndarray, int]]) -> float:
    """Wrong, missing and added words per word of the sentences.

    items: (sentence, samples, rate).  A group of sentences is recognized with the words of that group alone.
    """
    wrong = total = 0
    for start in range(0, len(items), GROUP):
        group = items[start : start + GROUP]
        words = [text.phones(sentence).words for sentence, _, _ in group]
        recognizer = Recognizer(text, [w for row in words for w in row])
        for reference, (_, samples, rate) in zip(words, group, strict=True):
            wrong += functional.edit_distance(reference, recognizer.recognize(samples, rate))
            total += len(reference)
    return wrong / max(total, 1)


def style_outcomes(tts: TTS, phrasings: int, voice: str | None, seed: int, console: Console) -> list[Outcome]:
    """Try up to `phrasings` instructions per attribute from each held-out list, and print a table per list."""
    outcomes: list[Outcome] = []
    for name, title in HELDOUT.items() if phrasings else ():
        by_attribute: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
        for row in heldout_styles(name):
            by_attribute[row[1]].append(row)
        rows = [row for own in by_attribute.values() for row in spread(own, phrasings)]
        found = adherence(tts, rows, spread(heldout_sentences(), ADHERENCE_SENTENCES), voice, seed)
        console.print(adherence_table(found, title))
        outcomes += found
    return outcomes


def voices_table(tts: TTS, sentences: int, seed: int, recordings: list[tuple[str, np.ndarray, int]]) -> Table:
    """One row per voice: word error rate and speed on `sentences` held-out sentences; and one for human recordings."""
    title = f"{sentences} held-out sentences, recognized by PocketSphinx with a closed vocabulary"
    table = Table("voice", "word error rate", "real-time factor", title=title)
    texts = heldout_sentences()
    lines = texts[:: max(1, len(texts) // sentences)][:sentences]
    with Progress("speaking sentences", total=len(tts.voices) * len(lines), unit="sentences") as bar:
        for voice in tts.voices:
            items, took = [], 0.0
            for line in lines:
                start = time.perf_counter()
                speech = tts.say(line, "", voice.name, seed)
                took += time.perf_counter() - start
                items.append((line, speech.samples, speech.sample_rate))
                bar.advance()
            seconds = sum(len(x) / rate for _, x, rate in items)
            table.add_row(voice.name, f"{word_error_rate(tts.text, items):.2f}", f"{took / seconds:.2f}")
    if recordings:
        table.add_row("human recordings", f"{word_error_rate(tts.text, recordings):.2f}", "")
    return table


def read_recordings(references: str, count: int) -> list[tuple[str, np.ndarray, int]]:
    """(text, samples, rate) of at most `count` clips.  Raises: UserError for a corpus without texts."""
    clips = [c for c in read_corpus(references) if c.row.get("text")]
    if not clips:
        raise UserError(f"{references} has no texts to compare with")
    recordings = []
    for clip in spread(clips, count):
        audio = clip.read()
        recordings.append((str(clip.row["text"]), audio.samples, audio.sample_rate))
    return recordings


def write_outcomes(path: Path, outcomes: list[Outcome]) -> None:
    """A CSV file with a line per outcome, whole or not at all.  Raises: UserError when it cannot be written."""
    with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f)
        writer.writerow([*Outcome._fields, "moved"])
        writer.writerows([*o, o.moved] for o in outcomes)


def spread(rows: list, count: int) -> list:
    """At most `count` of the rows, evenly spread."""
    return [rows[i * len(rows) // count] for i in range(count)] if len(rows) > count else rows


def evaluate(
    references: Annotated[
        str | None,
        typer.Argument(help="Manifest of human recordings with a text column, for comparison.", show_default=False),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="TTS checkpoint: a bundled name, a folder, or hf:owner/name.")
    ] = None,
    sentences: Annotated[int, typer.Option(min=1, help="Held-out sentences to speak in each voice.")] = 12,
    phrasings: Annotated[
        int, typer.Option(min=0, help="Held-out style instructions per attribute, from each of two lists; 0 for none.")
    ] = 20,
    voice: Annotated[
        str | None, typer.Option(help="Voice for the style instructions.", show_default="the default voice")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same speech.")] = 0,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write every outcome to this CSV file.", show_default=False)
    ] = None,
) -> None:
    """Print three tables: what style instructions changed, word error rate per voice, and speed.

    Example: solfa eval tts recordings/metadata.csv
    """
    check_seed(seed)
    if out is not None:
        check_output(out)
    began = time.perf_counter()
    tts = TTS.from_pretrained(checkpoint)
    loading = time.perf_counter() - began
    if voice is not None:
        tts.find_voice(voice)
    recordings = read_recordings(references, sentences) if references else []
    console = Console(width=max(100, Console().width))
    outcomes = style_outcomes(tts, phrasings, voice, seed, console)
    if out is not None:
        write_outcomes(out, outcomes)
    console.print(voices_table(tts, sentences, seed, recordings))
    console.print(f"loading took {loading:.1f} s")
