"""Abbreviations, initials and Roman numerals in words: "Dr. Smith", "Fig. 2", "J. K. Rowling", "Henry VIII", "Rocky III"."""

import re

from solfa.tokenizers.text.date_words import ends_sentence
from solfa.tokenizers.text.number_words import cardinal, ordinal
from solfa.tokenizers.text.written_forms import (
    ABBREVIATIONS,
    AFTER_ROMAN,
    ALWAYS_ABBREVIATED,
    BEFORE_NUMBERS,
    GIVEN_NAMES,
    KINGS,
    NEEDS_MORE,
    OPENERS,
    PHRASES,
    STATES,
    STATES_THAT_ARE_WORDS,
    STREETS,
    TRAILING,
)

DAYS = frozenset("Mon Tue Tues Wed Thu Thurs Fri Sat Sun".split())
ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
NUMERAL = r"(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})"  # 1 to 99 as they are properly written
SPEECH = r"(?:\b[Oo]h|\b[Aa]h|\b[Ss]a(?:y|ys|id)|\b[Aa]nswer(?:ed|s)?|[,:;\"'])\s+[\"']?"
POINTED = re.compile(rf"\b({'|'.join(sorted(ABBREVIATIONS, key=len, reverse=True))})\b(\.?)")


def phrases(text: str) -> str:
    """Fixed expressions, numbers of things ("No. 5", "Fig. 2", "p. 7"), streets, and states after a city."""
    for pattern, spoken in PHRASES.items():
        text = pattern.sub(spoken, text)
    text = re.sub(r"(?<!\w)w/(?:\s?(?=[a-z])|(?=\s|$))", "with ", text)
    text = re.sub(rf"({SPEECH})([Nn]o)\.(?=\s\d)", r"\1\2 . ", text)
    text = re.sub(r"(?<!\w)([A-F])-(?=[\s.,;]|$)", r"\1 minus", text)  # a grade
    for short, full in BEFORE_NUMBERS.items() if re.search(r"\d|\.\s[A-Z]", text) else ():
        numeral = "" if full.startswith("number") else rf"|\b{short}\.\s(?=[IVXLC]+\b|[A-Z]\b)"
        text = re.sub(rf"\b{short}\.?\s?(?=\d){numeral}", f"{full} ", text)
    text = re.sub(r"(?<!\w)#\s?(?=\d)", "number ", text)
    streets = rf"(\d+[A-Z]?\s(?:[NSEW]\.?\s)?(?:[A-Z][a-z]+\s|\d+[a-z]+\s)+)({'|'.join(STREETS)})\b\.?"
    text = re.sub(streets, lambda m: m[1] + STREETS[m[2]] + ends_sentence(m), text)
    text = re.sub(
        r"\b((?:\d*1st|\d*2nd|\d*3rd|\d+th) )(Ave|St)\b\.?", lambda m: m[1] + STREETS[m[2]] + ends_sentence(m), text
    )
    states = "|".join(STATES.keys() - STATES_THAT_ARE_WORDS)
    return re.sub(rf"(?<=[a-z], )({states})\b(?!\.\w|\s+\d{{5}})", lambda m: STATES[m[1]], text)


def value(numeral: str) -> int:
    """'XIV' -> 14."""
    values = [ROMAN[c] for c in numeral]
    return sum(-v if i + 1 < len(values) and v < values[i + 1] else v for i, v in enumerate(values))


def romans(text: str) -> str:
    """Roman numerals after names, titles and parts of works; "King I asked" and "Malcolm X" stay."""

    def listed(m: re.Match[str]) -> str:
        numbers = re.sub(r"[IVXLC]+", lambda n: cardinal(value(n[0])), m[2])
        return f"{m[1]} {re.sub(r'-|–', ' to ', numbers)}"

    def king(m: re.Match[str]) -> str:
        initial = re.match(r"\.? [A-Z]", m.string[m.end() : m.end() + 3])  # "Robert I. Bouck"
        alone = m["n"] == "I" and (m[1] in ("King", "Queen", "Pope") or initial)
        return m[0] if alone else f"{m[1]} the {ordinal(value(m['n']))}"

    def named(m: re.Match[str]) -> str:
        if "L" in m["n"] and m[2] != "Bowl":  # "Size XL"
            return m[0]
        if m[1] in GIVEN_NAMES:
            return f"{m[1]} {m[2]} the {ordinal(value(m['n']))}"
        return f"{m[1] or ''}{' ' if m[1] else ''}{m[2]} {cardinal(value(m['n']))}"

    end = r"(?!\w)(?!\.\w|'(?!s\b)\w)"
    graded = r"(?:Type|Class|Level|Stage|Grade|Category|Tier)"
    pronoun = r"(?!I (?:am|was|have|had|like|love|want|need|read|took|see|saw|know|think|can|could|will|would|did|do|made|use|chose)\b)"
    one = r"(?!I (?!of\b|is\b|was\b|and\b|to\b|in\b|begins\b|ends\b|opens\b|shows\b)[a-z]+)"
    numeral = rf"(?=[IVXLC])({NUMERAL}){end}"
    series = rf"(?=[IVXLC])((?:{NUMERAL})(?:(?:, | and |, and | or |-|–)(?=[IVXLC]){NUMERAL}(?!\w))*){end}"
    text = re.sub(rf"\b(Act|Scene|Chapter|War|Phase|Volume|Article|Appendix|Section|Episode) {numeral}", listed, text)
    text = re.sub(rf"\b({graded}) {pronoun}{numeral}", listed, text)
    text = re.sub(rf"\b((?:{AFTER_ROMAN})s?) {one}{series}", listed, text)
    text = re.sub(rf"\b((?:{KINGS})(?: [A-Z][a-z]+)?) (?=[IVX])(?P<n>{NUMERAL}){end}(?! [a-z]+ing\b)", king, text)
    text = re.sub(rf"\bthe (?=[IVX]{{2}})(?P<n>{NUMERAL})(?= centur)", lambda m: f"the {ordinal(value(m['n']))}", text)
    name = rf"(?:\b([A-Z][a-z]+) )?\b([A-Z][a-z]+) (?=[IVXL]{{2}})(?P<n>{NUMERAL}){end}"
    return re.sub(name, named, text)


def abbreviations(text: str) -> str:
    """Titles, firms, months and the like in full; initials and dotted acronyms as letters."""
    text = POINTED.sub(_full, text)
    dotted = re.sub(
        r"\b(?:[A-Za-z]\.){2,}|\b[A-Z]\.[A-Z]\b",
        lambda m: " ".join(re.findall("[A-Z]", m[0].upper())) + ends_sentence(m),
        text,
    )
    return re.sub(rf"(?<!\b[A-Z] )\b([A-Z])\.(?=\s[A-Z](?:[a-z']|\.))(?!\s(?:{OPENERS})\b)", r"\1", dotted)


def _full(m: re.Match[str]) -> str:
    """One abbreviation in full, or unchanged where it is an ordinary word."""
    name, point = m[1], m[2]
    rest = m.string[m.end() : m.end() + 40]
    before = m.string[max(0, m.start() - 40) : m.start()]
    if not point and name not in ALWAYS_ABBREVIATED:
        return m[0]
    street = (
        name in ("Dr", "St")
        and re.search(r"[a-z]\s$", before)
        and not re.search(r"\b(?:the|and|of|by|for|to|with|at|in|from|is|was|see)\s$", before)
    )
    if street and not re.match(rf"\s+(?!(?:{OPENERS})\b)[A-Z]", rest):
        return {"Dr": "drive", "St": "street"}[name] + ends_sentence(m)
    if name == "Co" and re.search(r"(?:&|\band|[A-Z]\w*) $", before):
        return "company" + ends_sentence(m)
    if (
        re.search(r"(?:day|Mon|Tues?|Wed|Thu|Thurs|Fri|Sat|Sun)\.? (?:and|or|to|&) $", before) and name in DAYS
    ):  # "Sat. and Sun."
        return ABBREVIATIONS[name] + ends_sentence(m)
    if name in NEEDS_MORE and not re.match(r",|-|\s+[a-z\d]|\s+[A-Z]", rest):
        return m[0]
    if name in NEEDS_MORE and name[0].islower() and re.match(rf"\s+(?:{OPENERS})\b", rest):
        return m[0]
    return ABBREVIATIONS[name] + (ends_sentence(m) if name in TRAILING else "")
