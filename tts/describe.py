"""Attributes of speech -> natural language, in many different words and at several levels of detail.

Two uses: `descriptions` words what was measured in a recording (`solfa prepare tts`), and `pairs` invents instructions
with the attributes that they ask for, to train the style encoder.  The words come from `style_lexicon.yaml`.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from solfa.tts.style import ATTRIBUTES, LIMITS

Values = dict[str, float]

MEASURED = ("rate", "pitch", "pitch_range", "loudness", "brightness", "breathiness", "pauses")
# how strongly -> (words, factor on the value)
INTENSIFIERS = [
    ("slightly", 0.5), ("a bit", 0.5), ("a little", 0.5), ("a touch", 0.5), ("mildly", 0.5), ("somewhat", 0.7), ("rather", 0.8),
    ("fairly", 0.8), ("pretty", 1.0), ("quite", 1.1), ("really", 1.3), ("so", 1.3), ("very", 1.5), ("unusually", 1.4),
    ("terribly", 1.7), ("incredibly", 1.8), ("extremely", 1.9), ("exceptionally", 1.7), ("way too", 1.8),
]  # fmt: skip
NEGATIONS = [
    ("not {}", -0.6), ("not too {}", -0.5), ("not so {}", -0.6), ("not very {}", -0.6), ("not {} at all", -0.9), ("never {}", -0.7),
    ("anything but {}", -1.0), ("less {}", -0.8), ("by no means {}", -0.9), ("not that {}", -0.6), ("not at all {}", -0.9),
]  # fmt: skip
VERBS = [
    "speak", "talk", "say it", "read it", "read this", "say this", "tell it", "narrate", "spoken", "speaking", "talking",
    "said", "reads", "read aloud", "deliver the line", "pronounce it", "recite it", "a voice speaking", "someone talking", "speech delivered",
]  # fmt: skip
VOICES = [
    "voice", "voice", "voice", "tone", "delivery", "way of speaking", "manner", "reading", "manner of speaking", "speech", "style",
    "tone of voice", "talker", "speaker", "narration", "performance", "sound", "way of talking",
]  # fmt: skip
FLAT = {"speech", "narration"}  # nouns that take no article
LIKE = ["like {}", "as {}", "{}", "in the style of {}", "sound like {}", "speak like {}", "talk like {}", "imitate {}", "you are {}",
        "read it like {}", "as {} would say it", "in the manner of {}", "pretend to be {}", "the voice of {}", "similar to {}", "be {}"]  # fmt: skip
AS_IF = [
    "{}",
    "as if {}",
    "someone {}",
    "like someone {}",
    "speak as if {}",
    "a person {}",
    "as though {}",
    "a speaker {}",
    "like a person {}",
]
PLEAS = [
    "{}, please",
    "please {}",
    "can you {}?",
    "could you {}",
    "I want you to {}",
    "try to {}",
    "{}!",
    "you should {}",
    "now {}",
]
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
            values, plain = ((name, float(level)),), abs(float(level)) == 1
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


def _list(words: list[str], rng: random.Random) -> str:
    if len(words) == 1:
        return words[0]
    return ", ".join(words[:-1]) + rng.choice([" and ", ", ", " and ", ", and ", " but "]) + words[-1]


# ---- what was measured --------------------------------------------------------------------------------------------


def _word(name: str, z: float, form: str, rng: random.Random) -> str:
    """An adjective or adverb for one attribute at this score."""
    level = round(max(-2.0, min(2.0, z)))
    if level == 0 and abs(z) >= NOTABLE:
        word = str(rng.choice(lexicon().measured[name]["1" if z > 0 else "-1"][form]))
        softer = "" if " " in word else rng.choice(["slightly ", "a little ", "a bit ", "somewhat "])
        return softer + word
    return str(rng.choice(lexicon().measured[name][str(level)][form]))


def _someone(gender: float | None, age: float | None, rng: random.Random) -> str:
    """A noun phrase without article for who speaks; None: unknown."""
    if gender is None and age is None:
        return rng.choice(["speaker", "voice", "person"])
    ages = "child" if age is not None and age < -0.5 else "old" if age is not None and age > 0.5 else "adult"
    genders = "any" if gender is None or abs(gender) < 0.3 else "female" if gender > 0 else "male"
    return rng.choice(WHO[ages, genders])


def describe(
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
        return _list([_word(n, attributes[n], form, rng) for n in names], rng)

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


def descriptions(row: Mapping[str, Any], rng: random.Random, n: int = 6) -> list[str]:
    """n different descriptions of a training row, from terse to detailed.

    Reads `row["z"]` (z-scores by attribute name, see `describe`), and `gender`, `age`, `label` where the row has them.
    """
    found: dict[str, None] = {}
    for attempt in range(4 * n):
        text = describe(row["z"], row.get("gender"), row.get("age"), row.get("label"), rng, level=1 + attempt % 3)
        found.setdefault(text)
        if len(found) == n:
            break
    return list(found)


# ---- what could be asked ------------------------------------------------------------------------------------------


class _Writer:
    """Invents one instruction: every method returns words and adds what they ask for to `values`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.explicit: Values = {}
        self.implied: Values = {}

    def pick(self, *forms: str) -> str:
        """A phrase of one of these forms, perhaps intensified or negated."""
        rng, groups = self.rng, lexicon().groups
        while True:
            kind = rng.choices(["word", "mixed", "emotions"], [5, 2, 2.5])[0]
            if kind == "word":
                names = [n for n in groups if n in ATTRIBUTES and n not in self.explicit]
                kind = rng.choices(
                    names, [1 if n in ("rate", "pitch", "loudness", "pitch_range") else 0.4 for n in names]
                )[0]
            levels = groups[kind]
            weights = [
                0.15 if g[0].values[0][1] == 0 else 0.35 if abs(g[0].values[0][1]) == 2 and kind in ATTRIBUTES else 1.0
                for g in levels
            ]
            group = rng.choices(levels, weights)[0]
            fits = [p for p in group if p.form in forms]
            if fits and not (kind not in ATTRIBUTES and self.implied):
                break
        phrase = rng.choice(fits)
        text, factor = phrase.text, 1.0
        gradable = (
            " " not in text
            and phrase.form in ("adj", "adv")
            and (phrase.plain or kind == "emotions" or kind == "mixed")
        )
        if gradable and rng.random() < 0.35:
            how, factor = rng.choice(INTENSIFIERS)
            text = f"{how} {text}"
        elif phrase.plain and gradable and rng.random() < 0.2:
            how, factor = rng.choice(NEGATIONS)
            text = how.format(text)
        self.ask(phrase, factor)
        return text

    def ask(self, phrase: Phrase, factor: float = 1.0) -> None:
        into = self.explicit if len(phrase.values) == 1 else self.implied
        for name, value in phrase.values:
            into[name] = value * factor

    def special(self, kind: str) -> str:
        phrase = self.rng.choice(self.rng.choice(lexicon().groups[kind]))
        self.ask(phrase)
        return phrase.text

    def person(self, adjectives: bool = True) -> str:
        """A noun phrase with article."""
        rng = self.rng
        while True:
            text, values = rng.choice(lexicon().people)
            if values or rng.random() < 0.3:
                break
        self.implied.update(values)
        if "'s" in text:
            return a(text)
        if adjectives and rng.random() < 0.35:
            text = f"{self.pick('adj')} {text}"
        text = rng.choice([text] * 6 + [f"{text} voice" if "voice" not in text else text, "voice of a " + text])
        text = rng.choice([a(text)] * 7 + [text, "the " + text])
        return text + (" " + rng.choice(lexicon().contexts) if rng.random() < 0.15 else "")

    def many(self, form: str, most: int = 3) -> str:
        return _list(
            [self.pick(form) for _ in range(self.rng.choices(range(1, most + 1), [4, 3, 1][:most])[0])], self.rng
        )

    def voice(self) -> str:
        adjectives, noun = self.many("adj"), self.rng.choice(VOICES)
        whole = f"{adjectives} {noun}"
        shapes = ["{}", "in {}", "with {}", "use {}", "speak with {}", "I want {}", "give me {}", "speak in {}", "{}"]
        return self.rng.choice(shapes).format(whole if noun in FLAT or self.rng.random() < 0.2 else a(whole))

    def spoken(self) -> str:
        return f"{self.rng.choice(VERBS)} {self.many('adv')}"

    def fragment(self) -> str:
        return self.rng.choice(
            [lambda: self.many("adj"), lambda: self.many("adv"), lambda: self.pick("ger"), lambda: self.pick("imp")]
        )()

    def order(self) -> str:
        rng = self.rng
        text = self.pick("imp")
        if rng.random() < 0.3:
            text = rng.choice(PLEAS).format(text)
        if rng.random() < 0.25:
            text += rng.choice([" and ", ". ", ", ", "; "]) + self.pick("imp")
        return text

    def like(self) -> str:
        text = self.rng.choice(LIKE).format(self.special("personas"))
        if self.rng.random() < 0.3:
            text += ", " + self.fragment()
        return text

    def scene(self) -> str:
        return self.rng.choice(AS_IF).format(self.pick("ger"))

    def someone(self) -> str:
        rng = self.rng
        who = self.person()
        tail: list[Callable[[], str]] = [
            lambda: "",
            lambda: "",
            lambda: " who speaks " + self.many("adv", 2),
            lambda: " speaking " + self.many("adv", 2),
            lambda: " talking " + self.many("adv", 2),
            lambda: ", " + self.many("adj", 2),
            lambda: " " + self.pick("ger"),
            lambda: " with " + a(self.many("adj", 2)) + " voice",
            lambda: ", " + self.pick("adj") + ", " + self.pick("ger"),
            lambda: " who sounds " + self.many("adj", 2),
        ]
        return who + rng.choice(tail)()

    def sentences(self) -> str:
        rng = self.rng
        who = self.person(adjectives=False)
        first = rng.choice([f"{who} reads a text", f"the speaker is {who}", who, f"this is {who}", f"we hear {who}"])
        second = rng.choice(
            ["the voice is ", "the speaker sounds ", "the tone is ", "the delivery is ", "the recording is "]
        ) + self.many("adj")
        third = rng.choice(["", ". the speaker talks " + self.pick("adv")])
        return f"{first}. {second}{third}"

    def pronoun(self) -> str:
        rng = self.rng
        gender = rng.choice([-1.0, 1.0])
        he, his, him = HE[gender]
        self.explicit["gender"] = gender
        shapes: list[Callable[[], str]] = [
            lambda: f"{he} speaks {self.many('adv', 2)}",
            lambda: f"{he} sounds {self.many('adj', 2)}",
            lambda: f"{he} is {self.pick('adj')}",
            lambda: f"{his} voice is {self.many('adj', 2)}",
            lambda: f"{his} {self.pick('adj')} voice",
            lambda: f"let {him} speak {self.pick('adv')}",
            lambda: f"make {him} sound {self.pick('adj')}",
            lambda: f"as {he} speaks, {self.pick('ger')}",
        ]
        return rng.choice(shapes)()

    def comparative(self) -> str:
        rng = self.rng
        text = self.special("comparatives")
        how, factor = rng.choice(
            [
                ("", 1.0),
                ("", 1.0),
                ("a bit ", 0.5),
                ("a little ", 0.5),
                ("slightly ", 0.5),
                ("much ", 1.6),
                ("even ", 1.2),
                ("far ", 1.6),
                ("a lot ", 1.5),
            ]
        )
        self.explicit = {name: value * factor for name, value in self.explicit.items()}
        shapes = [
            "{}",
            "{}, please",
            "make it {}",
            "speak {}",
            "say it {}",
            "{} than usual",
            "{} than normal",
            "can you make it {}",
            "it should be {}",
            "{} than before",
            "I want it {}",
            "make the voice {}",
            "talk {}",
        ]
        return rng.choice(shapes).format(how + text)

    def refusal(self) -> str:
        """ "don't speak fast", "not loud but quiet": what is negated must lose to what is asked."""
        rng, groups = self.rng, lexicon().groups
        name = rng.choice([n for n in ("rate", "pitch", "loudness", "pitch_range", "rate", "loudness")])
        sign = rng.choice([-1.0, 1.0])
        form = rng.choice(["adj", "adv"])
        by_sign = {
            s: [p.text for g in groups[name] for p in g if p.values[0][1] == s and p.form == form] for s in (-1.0, 1.0)
        }
        bad, good = rng.choice(by_sign[-sign]), rng.choice(by_sign[sign])
        if rng.random() < 0.15:
            self.explicit[name] = 0.0
            return f"neither {bad} nor {good}"
        self.explicit[name] = sign * rng.choice([1.0, 0.8])
        if rng.random() < 0.4:
            shapes = [
                "{good}, not {bad}",
                "not {bad} but {good}",
                "{good} rather than {bad}",
                "{good} instead of {bad}",
            ]
        else:
            self.explicit[name] = sign * 0.7
            shapes = ["don't {verb} {bad}", "do not {verb} {bad}", "please don't {verb} {bad}", "never {verb} {bad}"]
            if form == "adj":
                shapes += [
                    "stop sounding {bad}",
                    "nothing {bad}",
                    "no {bad} voice",
                    "without being {bad}",
                    "don't be so {bad}",
                ]
        verb = "sound" if form == "adj" else rng.choice(["speak", "talk", "say it", "read it"])
        return rng.choice(shapes).format(good=good, bad=bad, verb=verb)

    def values(self) -> Values:
        """Plain words win over what a mood or a person implies; clipped to +-2."""
        merged = self.implied | self.explicit
        return {n: min(max(v, max(-2.0, LIMITS[n][0])), min(2.0, LIMITS[n][1])) for n, v in merged.items()}


_SHAPES: list[tuple[Callable[[_Writer], str], float]] = [
    (_Writer.voice, 4), (_Writer.spoken, 3), (_Writer.fragment, 4), (_Writer.order, 2), (_Writer.like, 3.5), (_Writer.scene, 2.5),
    (_Writer.someone, 5), (_Writer.sentences, 1), (_Writer.pronoun, 1.5), (_Writer.comparative, 1.5), (_Writer.refusal, 1.5),
]  # fmt: skip


def pairs(rng: random.Random) -> Iterator[tuple[str, Values]]:
    """Endless (instruction, attributes asked for); an attribute that is missing was not asked for."""
    shapes, weights = zip(*_SHAPES, strict=True)
    while True:
        writer = _Writer(rng)
        if rng.random() < 0.03:
            yield rng.choice(lexicon().neutral), {}
            continue
        text = rng.choices(shapes, weights)[0](writer)
        if rng.random() < 0.08:
            text += " " + rng.choice(lexicon().contexts)
        yield text, writer.values()
