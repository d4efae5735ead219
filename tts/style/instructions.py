"""Invented instructions: endless pairs of natural language and the attributes that it asks for, to train the style encoder.

Every kind of sentence is a method of `_Writer`; the words come from `style_lexicon.yaml`.  `remarks` invents sentences that ask
for nothing.
"""

import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from solfa.tts.style.captions import HE, Phrase, Values, a, lexicon, listed
from solfa.tts.style.style_encoder import ATTRIBUTES, LIMITS

# how strongly -> (words, factor on the value)
INTENSIFIERS = [
    ("slightly", 0.5), ("a bit", 0.5), ("a little", 0.5), ("a touch", 0.5), ("mildly", 0.5), ("somewhat", 0.7), ("rather", 0.8),
    ("fairly", 0.8), ("pretty", 1.0), ("quite", 1.1), ("really", 1.3), ("so", 1.3), ("very", 1.5), ("unusually", 1.4),
    ("terribly", 1.7), ("incredibly", 1.8), ("extremely", 1.9), ("exceptionally", 1.7),
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

# What is refused asks for the opposite.  For an adjective, an adverb, an adjective used as one ("speak so loud"), an order and a
# participle.
CONTRASTS = ["{good}, not {bad}", "not {bad} but {good}", "{good} rather than {bad}", "{good} instead of {bad}"]
REFUSALS = {
    "adj": [
        "don't sound {bad}", "do not sound {bad}", "don't sound so {bad}", "don't be {bad}", "don't be so {bad}", "don't be too {bad}",
        "please don't be so {bad}", "never {bad}", "not {bad}", "not so {bad}", "not so {bad}, please", "not as {bad}", "not that {bad}",
        "not quite so {bad}", "not too {bad}", "nothing {bad}", "no {bad} voice", "less {bad}", "a bit less {bad}", "much less {bad}",
        "make it less {bad}", "make it not so {bad}", "too {bad}", "that's too {bad}", "that was too {bad}", "you are too {bad}",
        "way too {bad}", "you sound too {bad}", "it is far too {bad}", "stop being so {bad}", "stop sounding {bad}", "without being {bad}",
        "without sounding {bad}", "it should not be {bad}", "it must not sound {bad}", "I don't want it {bad}", "I don't like {bad} voices",
        "avoid a {bad} voice", "anything but {bad}", "a voice that is not {bad}", "a voice that isn't so {bad}",
    ],
    "adv": [
        "don't {verb} {bad}", "do not {verb} {bad}", "please don't {verb} {bad}", "never {verb} {bad}", "you shouldn't {verb} {bad}",
        "without talking {bad}", "stop talking {bad}", "not {bad}", "not speaking {bad}",
    ],
    "so": [
        "don't {verb} so {bad}", "do not {verb} so {bad}", "please don't {verb} so {bad}", "don't {verb} too {bad}", "stop talking so {bad}",
        "you {verb} too {bad}", "you are talking too {bad}", "why do you {verb} so {bad}?", "not so {bad}", "{verb} less {bad}",
        "don't {verb} that {bad}",
    ],
    "imp": ["don't {bad}", "do not {bad}", "please don't {bad}", "no need to {bad}", "you don't have to {bad}", "never {bad}", "you needn't {bad}"],
    "ger": ["stop {bad}", "no {bad}", "without {bad}", "not {bad}", "please stop {bad}", "quit {bad}", "enough {bad}", "avoid {bad}"],
}  # fmt: skip
ALREADY_NEGATIVE = re.compile(r"(don't|do not|not?|never|stop|avoid|without)\b", re.IGNORECASE)

# A figurative word also asks for other attributes: "like a woodpecker" is not only fast.  Words that name the attribute
# itself (LITERAL) ask for that alone.
LITERAL = {
    "rate": "slow|fast|quick|speed|pace|tempo|hurr|rush",
    "pitch": "pitch|high|low|deep|register|note|scale|tone|frequency",
    "loudness": "loud|quiet|soft|volume|shout|yell|voice|hear",
    "pitch_range": "monoton|flat|expressi|intonation|melod|liv|emotion|pitch|tone|feeling|variation",
}
CONNOTATIONS: dict[tuple[str, bool], Values] = {
    ("rate", True): {"pitch_range": 0.3},
    ("rate", False): {"pitch_range": -0.3},
    ("pitch", True): {"pitch_range": 0.3, "brightness": 0.3},
    ("pitch", False): {"rate": -0.25, "brightness": -0.3},
    ("loudness", True): {"pitch_range": 0.3, "brightness": 0.4},
    ("loudness", False): {"pitch_range": -0.3, "rate": -0.25, "breathiness": 0.3},
    ("pitch_range", True): {"rate": 0.3, "pitch": 0.3, "loudness": 0.25},
    ("pitch_range", False): {"rate": -0.25},
}


@cache
def _people() -> tuple[list[list[tuple[str, Values]]], list[float]]:
    """People who are alike, and how often to name one of them: young men are fewer than men, but not as few as their words."""
    alike: dict[str, list[tuple[str, Values]]] = {}
    for text, values in lexicon().people:
        alike.setdefault(str(values), []).append((text, values))
    return list(alike.values()), [len(some) ** 0.5 for some in alike.values()]


class _Writer:
    """Invents one instruction: every method returns words and adds what they ask for to `values`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.explicit: Values = {}
        self.implied: Values = {}
        self.connoted: Values = {}

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
        """Enter what a phrase asks for, `factor` times as strongly."""
        into = self.explicit if len(phrase.values) == 1 else self.implied
        for name, value in phrase.values:
            into[name] = value * factor
        if phrase.plain and factor > 0:
            (name, value), *_ = phrase.values
            if name in LITERAL and not re.search(LITERAL[name], phrase.text):
                self.connoted |= CONNOTATIONS[name, value > 0]

    def special(self, kind: str) -> str:
        """A phrase of a kind that is not an attribute: personas, comparatives."""
        phrase = self.rng.choice(self.rng.choice(lexicon().groups[kind]))
        self.ask(phrase)
        return phrase.text

    def person(self, adjectives: bool = True) -> str:
        """A noun phrase with article."""
        rng = self.rng
        text, values = rng.choice(rng.choices(*_people())[0])
        self.implied.update(values)
        if "'s" in text:
            return a(text)
        if adjectives and rng.random() < 0.35:
            text = f"{self.pick('adj')} {text}"
        text = rng.choice([text] * 6 + [f"{text} voice" if "voice" not in text else text, "voice of a " + text])
        if text[0].isupper() and rng.random() < 0.8:  # a name
            return text
        text = rng.choice([a(text)] * 9 + [text, f"the {text}", f"my {text}", f"your {text}"])
        return text + (" " + rng.choice(lexicon().contexts) if rng.random() < 0.15 else "")

    def many(self, form: str, most: int = 3) -> str:
        """One to `most` phrases of a form as a list: "slow, low and calm"."""
        return listed(
            [self.pick(form) for _ in range(self.rng.choices(range(1, most + 1), [4, 3, 1][:most])[0])], self.rng
        )

    def voice(self) -> str:
        """ "in a slow and calm voice"."""
        adjectives, noun = self.many("adj"), self.rng.choice(VOICES)
        whole = f"{adjectives} {noun}"
        shapes = ["{}", "in {}", "with {}", "use {}", "speak with {}", "I want {}", "give me {}", "speak in {}", "{}"]
        return self.rng.choice(shapes).format(whole if noun in FLAT or self.rng.random() < 0.2 else a(whole))

    def spoken(self) -> str:
        """ "read it slowly"."""
        return f"{self.rng.choice(VERBS)} {self.many('adv')}"

    def fragment(self) -> str:
        """ "slow and calm", "slowly", "whispering", "slow down"."""
        return self.rng.choice(
            [lambda: self.many("adj"), lambda: self.many("adv"), lambda: self.pick("ger"), lambda: self.pick("imp")]
        )()

    def order(self) -> str:
        """ "please slow down"."""
        rng = self.rng
        text = self.pick("imp")
        if rng.random() < 0.3:
            text = rng.choice(PLEAS).format(text)
        if rng.random() < 0.25:
            text += rng.choice([" and ", ". ", ", ", "; "]) + self.pick("imp")
        return text

    def like(self) -> str:
        """ "like a news reader"."""
        text = self.rng.choice(LIKE).format(self.special("personas"))
        if self.rng.random() < 0.3:
            text += ", " + self.fragment()
        return text

    def scene(self) -> str:
        """ "as if telling a secret"."""
        return self.rng.choice(AS_IF).format(self.pick("ger"))

    def someone(self) -> str:
        """ "an old man who speaks slowly"."""
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
        """ "this is an old man. the tone is calm"."""
        rng = self.rng
        who = self.person(adjectives=False)
        first = rng.choice([f"{who} reads a text", f"the speaker is {who}", who, f"this is {who}", f"we hear {who}"])
        second = rng.choice(
            ["the voice is ", "the speaker sounds ", "the tone is ", "the delivery is ", "the recording is "]
        ) + self.many("adj")
        third = rng.choice(["", ". the speaker talks " + self.pick("adv")])
        return f"{first}. {second}{third}"

    def pronoun(self) -> str:
        """ "her voice is low"."""
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
        """ "a bit slower than usual"."""
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
        """ "don't speak so loud", "not loud but quiet": what is negated must lose to what is asked."""
        rng = self.rng
        name = rng.choice(["rate", "rate", "loudness", "loudness", "pitch", "pitch", "pitch_range"])
        sign = rng.choice([-1.0, 1.0])
        kind = rng.choices(["adj", "adv", "so", "imp", "ger"], [5, 2, 3, 2, 1])[0]
        bad = rng.choice(self.refusable(name, -sign, kind))
        if kind in ("adj", "adv") and rng.random() < 0.25:
            good = rng.choice(self.refusable(name, sign, kind))
            if rng.random() < 0.15:
                self.explicit[name] = 0.0
                return f"neither {bad} nor {good}"
            self.explicit[name] = sign * rng.choice([1.0, 0.8])
            return rng.choice(CONTRASTS).format(good=good, bad=bad)
        self.explicit[name] = sign * 0.7
        verb = rng.choice(["speak", "talk", "say it", "read it", "read", "say this"])
        return rng.choice(REFUSALS[kind]).format(bad=bad, verb=verb)

    def refusable(self, name: str, sign: float, kind: str) -> list[str]:
        """Phrases for the plain wish that may stand after "don't" and the like: mostly those that name the attribute itself."""
        form = "adj" if kind == "so" else kind
        plain = [p.text for group in lexicon().groups[name] for p in group if p.values[0][1] == sign and p.form == form]
        literal = [text for text in plain if re.search(LITERAL[name], text)]
        if kind == "so":
            return [text for text in literal if " " not in text]
        if kind == "ger":
            return [text for text in literal if re.match(r"\w+ing\b", text)]
        if kind == "imp":
            return [text for text in literal if not ALREADY_NEGATIVE.match(text)]
        return literal if self.rng.random() < 0.6 else plain

    def values(self) -> Values:
        """Plain words win over what a mood or a person implies, and that over connotations; clipped to +-2."""
        merged = self.connoted | self.implied | self.explicit
        return {n: min(max(v, max(-2.0, LIMITS[n][0])), min(2.0, LIMITS[n][1])) for n, v in merged.items()}


_SHAPES: list[tuple[Callable[[_Writer], str], float]] = [
    (_Writer.voice, 4), (_Writer.spoken, 3), (_Writer.fragment, 4), (_Writer.order, 2), (_Writer.like, 3.5), (_Writer.scene, 2.5),
    (_Writer.someone, 5), (_Writer.sentences, 1), (_Writer.pronoun, 1.5), (_Writer.comparative, 1.5), (_Writer.refusal, 4),
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


@cache
def _everyday() -> dict[str, Any]:
    """The lexicon's words for `remarks`."""
    return yaml.safe_load((Path(__file__).parent / "style_lexicon.yaml").read_text(encoding="utf-8"))["everyday"]


def remarks(rng: random.Random) -> Iterator[str]:
    """Endless short sentences and names of things that ask for nothing."""
    words = _everyday()
    shapes = ["{who} {did}", "{who} {did} {where}", "{who} {did} {where}", "{whole}", "{thing}", "the {thing} is {where}", "a {thing} and a {thing2}"]  # fmt: skip
    while True:
        yield rng.choice(shapes).format(
            thing2=rng.choice(words["thing"]), **{kind: rng.choice(texts) for kind, texts in words.items()}
        )
