"""Attributes of speech -> natural language, in many different words and at several levels of detail.

`captions` puts into words what was measured in a recording (`solfa prepare tts`).  The words come from `style_lexicon.yaml`, which
`instructions.py` also uses to invent instructions for the style encoder.
"""

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from solfa.tts.style.style_encoder import ATTRIBUTES

Values = dict[str, float]

MEASURED = ("rate", "pitch", "pitch_range", "loudness", "brightness", "breathiness", "pauses")
WHO = {
    ("adult", "male"): ["man", "male speaker", "male voice", "adult man"],
    ("adult", "female"): ["woman", "female speaker", "female voice", "adult woman"],
    ("adult", "any"): ["adult", "speaker", "grown-up", "person"],
    ("old", "male"): ["old man", "elderly man", "aged man"],
    ("old", "female"): ["old woman", "elderly woman", "aged woman"],
    ("old", "any"): ["old person", "elderly person", "elderly speaker"],
    ("child", "male"): ["boy", "young boy", "little boy", "male child"],
    ("child", "female"): ["girl", "young girl", "little girl", "female child"],
    ("child", "any"): ["child", "young child", "kid", "child's voice"],
}
NOTABLE = 0.4  # scores nearer to 0 than this are ordinary
HE = {-1.0: ("he", "his", "him"), 1.0: ("she", "her", "her")}


@dataclass(frozen=True)
class Phrase:
    """A few words and what they ask for; `form` is adj, adv, imp, ger, like (a role) or comp (a comparative)."""

    text: str
    form: str
    values: tuple[tuple[str, float], ...]
    plain: bool
    """A single attribute at an ordinary strength: it can be intensified and negated."""


@dataclass(frozen=True)
class Lexicon:
    groups: dict[str, list[list[Phrase]]]
    """By kind (an attribute's name, mixed, emotions, personas, comparatives), then by what is asked for."""
    people: list[tuple[str, Values]]
    contexts: list[str]
    neutral: list[str]
    measured: dict[str, dict[str, dict[str, list[str]]]]
    """Attribute -> rounded score -> form -> words."""

    def phrases(self) -> Iterator[str]:
        """Every string that a description may contain."""
        for groups in self.groups.values():
            yield from (phrase.text for group in groups for phrase in group)
        yield from (text for text, _ in self.people)
        yield from self.contexts + self.neutral
        for levels in self.measured.values():
            yield from (word for forms in levels.values() for words in forms.values() for word in words)


def _values(text: str) -> Values:
    """ "rate 1, pitch -0.5" -> {"rate": 1.0, "pitch": -0.5}"""
    found = {name: float(value) for name, value in (part.split() for part in text.split(",") if part.strip())}
    assert set(found) <= set(ATTRIBUTES), text
    return found


@cache
def lexicon() -> Lexicon:
    """The words of `style_lexicon.yaml`."""
    raw = yaml.safe_load((Path(__file__).parent / "style_lexicon.yaml").read_text(encoding="utf-8"))
    groups: dict[str, list[list[Phrase]]] = {}
    for name, levels in raw["words"].items():
        for level, forms in levels.items():
            values: tuple[tuple[str, float], ...] = ((name, float(level)),)
            plain = abs(float(level)) == 1
            groups.setdefault(name, []).append(
                [Phrase(t, form, values, plain) for form, texts in forms.items() for t in texts]
            )
    for kind in ("mixed", "emotions"):
        for spec, forms in raw[kind].items():
            values = tuple(_values(spec).items())
            groups.setdefault(kind, []).append(
                [Phrase(t, form, values, False) for form, texts in forms.items() for t in texts]
            )
    for kind, form in (("personas", "like"), ("comparatives", "comp")):
        for spec, texts in raw[kind].items():
            groups.setdefault(kind, []).append([Phrase(t, form, tuple(_values(spec).items()), False) for t in texts])
    people = [(text, _values(spec)) for spec, texts in raw["people"].items() for text in texts]
    return Lexicon(groups, people, raw["contexts"], raw["neutral"], raw["measured"])


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return ("an " if re.match(r"(?!uni[^nm]|use|eu|one)[aeiou]", noun, re.I) else "a ") + noun


def listed(words: list[str], rng: random.Random) -> str:
    """One to three words or so as a list in a sentence."""
    if len(words) == 1:
        return words[0]
    return ", ".join(words[:-1]) + rng.choice([" and ", ", ", " and ", ", and ", " but "]) + words[-1]


def _word(name: str, z: float, form: str, rng: random.Random) -> str:
    """An adjective or adverb for one attribute at this score."""
    level = round(max(-2.0, min(2.0, z)))
    if level == 0 and abs(z) >= NOTABLE:
        word = str(rng.choice(lexicon().measured[name]["1" if z > 0 else "-1"][form]))
        softer = "" if " " in word else rng.choice(["slightly ", "a little ", "a bit ", "somewhat "])
        return softer + word
    return str(rng.choice(lexicon().measured[name][str(level)][form]))


def _someone(gender: float | None, age: float | None, rng: random.Random) -> str:
    """A noun phrase without article for the person who speaks; None: unknown."""
    if gender is None and age is None:
        return rng.choice(["speaker", "voice", "person"])
    ages = "child" if age is not None and age < -0.5 else "old" if age is not None and age > 0.5 else "adult"
    genders = "any" if gender is None or abs(gender) < 0.3 else "female" if gender > 0 else "male"
    return rng.choice(WHO[ages, genders])


def caption(
    attributes: Mapping[str, float],
    gender: float | None,
    age: float | None,
    label: str | None,
    rng: random.Random,
    level: int = 2,
) -> str:
    """One natural-language description of measured speech.

    attributes: z-scores by name (rate, pitch, pitch_range, loudness, brightness, breathiness, pauses; any may be
    missing); gender -1 male .. +1 female, age -1 child .. +1 old (None: unknown); label: an emotion's adjective or None.
    level 1 names one thing ("a slow voice"), 2 the most striking few in a sentence, 3 everything in two sentences.
    """
    striking = sorted(
        (n for n in MEASURED if abs(attributes.get(n, 0.0)) >= NOTABLE), key=lambda n: -abs(attributes[n])
    )
    who = _someone(gender, age, rng)
    someone = f"{label} {who}" if label else who

    def words(names: list[str], form: str) -> str:
        return listed([_word(n, attributes[n], form, rng) for n in names], rng)

    if level == 1:
        if label and rng.random() < 0.5:
            return rng.choice([a(f"{label} voice"), f"sounding {label}", label, a(someone)])
        if not striking or rng.random() < 0.2:
            return rng.choice([a(who), who, a(f"{who} speaking normally") if not striking else a(who)])
        name = rng.choice(striking[:2])
        return rng.choice(
            [f"{a(words([name], 'adj'))} voice", f"speaking {words([name], 'adv')}", words([name], "adj")]
        )
    if level == 2:
        names = striking[: rng.randint(1, 3)]
        rng.shuffle(names)
        if not names:
            return a(someone) + rng.choice(["", " speaking normally", " with an ordinary voice"])
        shape = rng.choice(
            ["{} speaking {adv}", "{}, {adj}", "{} with {a_adj} voice", "{} who speaks {adv}", "{} sounding {adj}"]
        )
        adj = words(names, "adj")
        return shape.format(a(someone), adv=words(names, "adv"), adj=adj, a_adj=a(adj))
    first, second = striking[: (len(striking) + 1) // 2], striking[(len(striking) + 1) // 2 :]
    first_words = words(first, "adj") if first else "ordinary"
    opening = f"{a(someone)} " + rng.choice(
        [f"with {a(first_words)} voice", f"whose voice is {first_words}", f"who sounds {first_words}"]
    )
    ordinary = rng.choice([n for n in ("rate", "pitch", "loudness") if n not in first] or ["pauses"])
    he = HE[1.0 if gender > 0 else -1.0][0] if gender else "the speaker"
    closing = f"{he} speaks {words(second, 'adv') if second else _word(ordinary, 0.0, 'adv', rng)}"
    return f"{opening[0].upper()}{opening[1:]}. {closing[0].upper()}{closing[1:]}."


def captions(row: Mapping[str, Any], rng: random.Random, n: int = 6) -> list[str]:
    """n different captions of a training row, from terse to detailed.

    Reads `row["z"]` (z-scores by attribute name, see `caption`), and `gender`, `age`, `label` where the row has them.
    """
    found: dict[str, None] = {}
    for attempt in range(4 * n):
        text = caption(row["z"], row.get("gender"), row.get("age"), row.get("label"), rng, level=1 + attempt % 3)
        found.setdefault(text)
        if len(found) == n:
            break
    return list(found)
