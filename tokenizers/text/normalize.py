"""Written English -> speakable English: numbers, dates, money, units, abbreviations, symbols, addresses, stray scripts.

The result is lower case; letters to be spelled are single capitals ("the F B I"); punctuation is what `tokenizer.py` gives
phones to (`, . ? ! ; : -`), plus the tag `[pause]`.  Each rule takes the whole text, run in the order of `RULES`: rules
that need more context come first.  What a careful American newsreader would say is kept in
`tests/tokenizers/text/readings.tsv`.
"""

import re
import unicodedata
from collections.abc import Callable, Collection

from solfa.tokenizers.text.abbreviations import abbreviations, phrases, romans
from solfa.tokenizers.text.addresses import addresses
from solfa.tokenizers.text.capitals import capitals
from solfa.tokenizers.text.date_words import dates, decades, iso_dates, ranges, times
from solfa.tokenizers.text.figures import LETTER_A, codes, fractions, long_numbers, plain_numbers, sums
from solfa.tokenizers.text.measures import feet_and_inches, powers, units
from solfa.tokenizers.text.money import money
from solfa.tokenizers.text.written_forms import (
    FRACTION_SIGNS,
    QUOTES_AND_DASHES,
    SUPERSCRIPTS,
    SYMBOLS,
    TAGS,
    UNMARKED_LETTERS,
)

TAG = re.compile(rf"\[\s*({'|'.join(TAGS)})\s*\]", re.IGNORECASE)
PAUSE = "[pause]"
SPEAKABLE = re.compile(
    r"[A-Za-z0-9]|[" + re.escape("".join(SYMBOLS.keys() - {"#", "°", "<", ">", "=", "+", "@", "→"})) + "]"
)


def fold(text: str) -> str:
    """Unicode quotes, dashes, full-width and accented letters in their plain form; other scripts stay."""
    if text.isascii():
        return text.translate(QUOTES_AND_DASHES)
    for sign, plain in FRACTION_SIGNS.items():
        text = re.sub(rf"(?<=\d)\s*{sign}", f" {plain}", text).replace(sign, plain)
    text = re.sub(r"(?<=\d)\s?[\u00c5\u212b](?![A-Za-z])", " angstroms", text)
    text = re.sub(r"(?<=\d)\u2212(?=[\d.])", " - ", text).replace("\u2212", "-")
    text = re.sub(
        rf"(?<=[\w)])[{SUPERSCRIPTS}]+",
        lambda m: "^" + unicodedata.normalize("NFKD", m[0]).replace("\u2212", "-"),
        text,
    )
    text = text.translate(QUOTES_AND_DASHES).translate(UNMARKED_LETTERS)
    kept = "".join(c if c in SYMBOLS else unicodedata.normalize("NFKD", c) for c in text)
    return "".join(c for c in kept if not unicodedata.combining(c)).translate(QUOTES_AND_DASHES)


def speakable(text: str) -> bool:
    """Whether anything in this text can be said in English."""
    return bool(SPEAKABLE.search(fold(TAG.sub(" ", text))))


def unknown_tags(text: str) -> list[str]:
    """Names of inline tags like `[laugh]` that nothing here acts on."""
    return [name for name in (m[1].strip().lower() for m in TAG.finditer(text)) if name != "pause"]


def normalize(text: str, known: Collection[str] = ()) -> str:
    """`text` as it is to be read aloud; `known` are words that may be read as words even when in capitals.

    Text in square brackets that is no tag of `TAGS` is read, like text in parentheses.
    """
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", text.replace("\r\n", "\n"))
    text = TAG.sub(lambda m: " \x00 " if m[1].lower() == "pause" else " ", text)
    text = fold(feet_and_inches(text))
    figures = any(c.isdigit() for c in text) or "^" in text
    for rule in RULES:
        if figures or rule not in FIGURES:
            text = rule(text)
    return _tidy(capitals(text, known))


def _layout(text: str) -> str:
    """Paragraphs and list items end like sentences; marks of markdown and HTML go."""
    text = re.sub(r"</?[A-Za-z][^<>]{0,80}>", " ", text)
    if "\n" in text:
        text = re.sub(r"(?m)^[ \t]*(?:[-*+\u2022\u25cf\u25aa]|#{1,6}|\d{1,2}[.)])[ \t]+(?=\S)", "\n", text)
    text = re.sub(r"([^\s.!?,;:\x00])[ \t]*\n(?=\s*(?:\n|[A-Z0-9]))", r"\1.\n", text)
    text = re.sub(r"(\*\*|__|~~|\*)(?=[^\s\d])([^*_~\n]{1,400}?)(?<=\S)\1", r"\2", text)
    return re.sub(r"\s+", " ", text)


def _symbols(text: str) -> str:
    """Signs in words; brackets, dashes and dots as pauses."""
    text = re.sub(r"(?<=[a-z])\s?/\s?(?=[a-z])", " ", text, flags=re.I)
    text = re.sub(r"(?<!\.)\.{2,}+(?=\s*[a-z])|(?<=\b[Ii])\.{2,}+(?=\s*I\b)", ",", text)
    text = re.sub(r"(?<=\w)\[(\w{1,20})\]", r" \1 ", text)
    text = re.sub(r"[()\[\]{}|\u2022]+", " , ", text)
    text = (
        re.sub(r"(?<=[\w\"'.!?])\s*(?:--+|\u2014)\s*(?=[\w\"'\x00])|\s+[-\u2013]\s+", " - ", text)
        .replace("\u2014", " ")
        .replace("\u2013", " ")
    )
    spoken = "".join(f" {SYMBOLS[c]} " if c in SYMBOLS else c for c in text)
    return re.sub(r"\s+", " ", spoken)


RULES: tuple[Callable[[str], str], ...] = (
    _layout,
    addresses,
    long_numbers,
    iso_dates,
    phrases,
    codes,
    money,
    times,
    ranges,
    decades,
    dates,
    romans,
    powers,
    fractions,
    units,
    sums,
    plain_numbers,
    abbreviations,
    _symbols,
)


FIGURES = frozenset((long_numbers, iso_dates, codes, money, decades, dates, powers, fractions, units, plain_numbers))


def _tidy(text: str) -> str:
    """Only words, apostrophes inside them, and single marks of punctuation stay; one space between words."""
    text = text.replace("\x00", PAUSE).replace(LETTER_A, "A")
    text = re.sub(r"[^A-Za-z',.?!;:\-\[\] ]", " ", text)
    text = re.sub(r"(?<![a-zA-Z])'|'(?![a-zA-Z])", lambda m: "'" if _is_clipped(m) else " ", text)
    text = re.sub(r"(?<=[A-Za-z])-+(?=[A-Za-z])", " ", text)
    text = re.sub(r"\s*([,.?!;:])", r"\1", re.sub(r"\s+", " ", text))
    strongest = {c: i for i, c in enumerate("-,;:.!?")}
    text = re.sub(
        r"[,.?!;:\-][,.?!;:\- ]*",
        lambda m: _mark(max((c for c in m[0] if c in strongest), key=strongest.__getitem__)),
        re.sub(r" +(?=[,.?!;:\-])", "", text),
    )
    text = re.sub(r"^[,.?!;:\- ]+", "", text)
    text = re.sub(r"(\[pause\])[,.?!;:\- ]+", r"\1 ", text)
    return re.sub(r" +", " ", text).strip()


def _is_clipped(m: re.Match[str]) -> bool:
    """'em, 'cause and dogs' keep their apostrophe only where it changes nothing but the spelling."""
    return bool(re.match(r"(?:em|til|cause|bout|twas|tis|n)\b", m.string[m.end() : m.end() + 8]))


def _mark(c: str) -> str:
    return " - " if c == "-" else f"{c} "
