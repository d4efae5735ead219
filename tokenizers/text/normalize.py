"""Written English -> speakable English: numbers, dates, money, units, abbreviations, symbols, addresses, stray scripts.

The result is lower case; letters to be spelled are single capitals ("the F B I"); punctuation is what `text.py` gives
phones to (`, . ? ! ; : -`), plus the tag `[pause]`.  Each rule is a pattern and what replaces it, run in order: rules
that need more context come first.
"""

import re
import unicodedata
from collections.abc import Callable, Collection

from solfa.tokenizers.text.date_words import dates, ends_sentence, times
from solfa.tokenizers.text.number_words import cardinal, decimal, digits, number, ordinal, plural, year
from solfa.tokenizers.text.written_forms import (
    ABBREVIATIONS,
    AFTER_ROMAN,
    ALWAYS_ABBREVIATED,
    FRACTION_SIGNS,
    KINGS,
    MONEY,
    NAME_PREFIXES,
    OPENERS,
    PHRASES,
    PRONOUNCED_ACRONYMS,
    QUOTES_AND_DASHES,
    ROMAN,
    SPELLED,
    STREETS,
    SYMBOLS,
    UNITS,
    UNMARKED_LETTERS,
)

TAG = re.compile(r"\[\s*([A-Za-z][A-Za-z _'-]{0,40})\s*\]")
PAUSE = "[pause]"
LETTER_A = "\x01"  # surely the letter, not the article
SPEAKABLE = re.compile(
    r"[A-Za-z0-9]|[" + re.escape("".join(SYMBOLS.keys() - {"#", "°", "<", ">", "=", "+", "@", "→"})) + "]"
)


def fold(text: str) -> str:
    """Unicode quotes, dashes, full-width and accented letters in their plain form; other scripts stay."""
    for sign, plain in FRACTION_SIGNS.items():
        text = re.sub(rf"(?<=\d)\s*{sign}", f" and {plain}", text).replace(sign, plain)
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
    """`text` as it is to be read aloud; `known` are words that may be read as words even when in capitals."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", text.replace("\r\n", "\n"))
    text = TAG.sub(lambda m: " \x00 " if m[1].strip().lower() == "pause" else " ", text)
    text = fold(text)
    for rule in (
        _layout,
        _addresses,
        _phrases,
        _money,
        times,
        dates,
        _romans,
        _units,
        _numbers,
        _abbreviations,
        _symbols,
    ):
        text = rule(text)
    text = _capitals(text, known)
    return _tidy(text)


def _layout(text: str) -> str:
    """Paragraphs and list items end like sentences; marks of markdown and HTML go."""
    text = re.sub(r"</?[A-Za-z][^<>]{0,80}>", " ", text)
    if "\n" in text:
        text = re.sub(r"(?m)^[ \t]*(?:[-*+\u2022\u25cf\u25aa]|#{1,6}|\d{1,2}[.)])[ \t]+(?=\S)", "\n", text)
    text = re.sub(r"([^\s.!?,;:\x00])[ \t]*\n(?=\s*(?:\n|[A-Z0-9]))", r"\1.\n", text)
    text = re.sub(r"(\*\*|__|~~|\*)(?=\S)([^*_~\n]+?)(?<=\S)\1", r"\2", text)
    return re.sub(r"\s+", " ", text)


def _addresses(text: str) -> str:
    def spoken(part: str) -> str:
        names = {
            ".": "dot",
            "/": "slash",
            "-": "dash",
            "_": "underscore",
            "@": "at",
            ":": "colon",
            "~": "tilde",
            "%": "percent",
        }
        part = re.sub(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " ", part)
        part = re.sub(r"\d+", lambda m: digits(m[0]), part)
        part = re.sub(r"(?<=\.)(?!co\b)[a-z]{2}(?=$|[./])", lambda m: " ".join(m[0].upper()), part)
        part = re.sub(r"\bwww\b", "W W W", re.sub(r"[./\-_@:~%]", lambda m: f" {names[m[0]]} ", part))
        return re.sub(r"[^A-Za-z']+", " ", part)

    def url(m: re.Match[str]) -> str:
        address, end = re.match(r"(.*?)([.,;:!?)'\"]*)$", m[0]).groups()  # type: ignore[union-attr]
        address = re.sub(r"^[a-z]+://", "", address, flags=re.I)
        return " " + spoken(re.split(r"[?#]", address)[0].rstrip("/")) + end

    text = re.sub(
        r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+",
        lambda m: " " + spoken(m[0].rstrip(".")) + ("." if m[0].endswith(".") else ""),
        text,
    )
    text = re.sub(r"\b(?:https?|ftp)://\S+|\bwww\.\S+", url, text, flags=re.I)
    text = re.sub(
        r"(?<![\w.-])[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*\.(?:com|org|net|edu|gov|io|dev|ai|co\.uk)\b(?:/[\w./-]*\w)?",
        url,
        text,
        flags=re.I,
    )
    text = re.sub(r"(?<!\w)#(?=[A-Za-z])", "hashtag ", text)
    return re.sub(r"(?<![\w])@(?=[A-Za-z_])", "at ", text)


def _phrases(text: str) -> str:
    for pattern, spoken in PHRASES.items():
        text = re.sub(rf"(?<!\w){pattern}(?!\w)", spoken, text)
    text = re.sub(r"\b[Nn]os?\.\s?(?=\d)", "number ", text)
    text = re.sub(r"(?<!\w)#\s?(?=\d)", "number ", text)
    streets = rf"(\d+\s(?:[NSEW]\.?\s)?(?:[A-Z][a-z]+\s|\d+[a-z]+\s)+)({'|'.join(STREETS)})\b\.?"
    text = re.sub(streets, lambda m: m[1] + STREETS[m[2]] + ends_sentence(m), text)
    return re.sub(r"\bp\.\s?(?=\d)", "page ", text)


AMOUNT = r"(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
SCALE = r"(?:\s?(hundred|thousand|million|billion|trillion|[kKMB](?![A-Za-z])|bn|mn)\b)?"
SCALE_WORDS = {"k": "thousand", "K": "thousand", "M": "million", "B": "billion", "bn": "billion", "mn": "million"}


def _money(text: str) -> str:
    def spoken(amount: str, scale: str | None, currency: str) -> str:
        unit, part = MONEY[currency]
        amount = amount.replace(",", "")
        whole, _, cents = amount.partition(".")
        units = "yen" if unit == "yen" else plural(unit)
        if scale:
            return f"{decimal(amount)} {SCALE_WORDS.get(scale, scale)} {units}"
        if len(cents) == 2 and part:
            pence = {"penny": "pence", "paisa": "paise"}.get(part, "cents")
            small = f"{cardinal(int(cents))} {part if int(cents) == 1 else pence}"
            large = f"{number(whole)} {unit if whole == '1' else units}"
            return large if int(cents) == 0 else small if int(whole) == 0 else f"{large} and {small}"
        return f"{decimal(amount)} {unit if amount == '1' else units}"

    signs = r"(?:US|CA|A|C)?([$€£¥₹])"
    text = re.sub(signs + r"\s?" + AMOUNT + SCALE, lambda m: f" {spoken(m[2], m[3], m[1])} ", text)
    text = re.sub(AMOUNT + SCALE + r"\s?(USD|EUR|GBP)\b", lambda m: f" {spoken(m[1], m[2], m[3])} ", text)
    return re.sub(AMOUNT + SCALE + r"\s?([$€£¥₹¢])", lambda m: f" {spoken(m[1], m[2], m[3])} ", text)


def _romans(text: str) -> str:
    def value(numeral: str) -> int:
        values = [ROMAN[c] for c in numeral]
        return sum(-v if i + 1 < len(values) and v < values[i + 1] else v for i, v in enumerate(values))

    numeral = r"(?P<n>[IVX]{1,6}|[IVXLC]{2,6})\b(?!['.]\w)"
    text = re.sub(rf"\b({AFTER_ROMAN}) {numeral}", lambda m: f"{m[1]} {cardinal(value(m['n']))}", text)
    return re.sub(
        rf"\b((?:{KINGS})(?: [A-Z][a-z]+)?) (?P<n>[IVX]{{1,6}})\b(?!['.]\w)(?! [a-z]+ing\b)", _king(value), text
    )


def _king(value: Callable[[str], int]) -> Callable[[re.Match[str]], str]:
    """'Henry VIII' -> 'Henry the eighth', but 'King I' stays a pronoun."""
    return lambda m: (
        m[0] if m["n"] == "I" and m[1] in ("King", "Queen", "Pope") else f"{m[1]} the {ordinal(value(m['n']))}"
    )


def _units(text: str) -> str:
    names = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))

    def spoken(m: re.Match[str]) -> str:
        if m["unit"] == "in" and not re.match(
            r"\s*[,.;:)]|\s*$|\s+(?:by|x|long|wide|tall|high|deep)\b", m.string[m.end() :]
        ):
            return m[0]
        unit = UNITS[m["unit"]]
        if m["amount"].replace(",", "") != "1" or m["sign"]:
            head, per, rest = unit.partition(" per ")
            first, _, second = head.partition(" ")
            head = f"{plural(first)} {second}" if first == "degree" and second else plural(head)
            unit = head + per + rest
        return f"{'minus ' if m['sign'] else ''}{decimal(m['amount'])} {unit}"

    pattern = rf"(?:(?<=\s)|^)(?P<sign>[-\u2013])?(?P<amount>{AMOUNT[1:-1]})\s?(?P<unit>{names})(?![\w/²³])"
    text = re.sub(r"(?<=\d)\s?[xX]\s?(?=\d)", " by ", text)
    text = re.sub(
        rf"\b({AMOUNT[1:-1]})\s?[-\u2013]\s?(?={AMOUNT[1:-1]}\s?(?:%|{names})(?!\w))",
        lambda m: f"{decimal(m[1])} to ",
        text,
    )
    return re.sub(pattern, spoken, text)


def _numbers(text: str) -> str:
    def fraction(m: re.Match[str]) -> str:
        top, bottom = int(m[1]), int(m[2])
        if not 0 < top < bottom or bottom > 20:
            return f"{number(m[1])} over {number(m[2])}"
        name = {2: "half", 4: "quarter"}.get(bottom) or ordinal(bottom)
        return f"{cardinal(top)} {name if top == 1 else 'halves' if bottom == 2 else plural(name)}"

    def plain(m: re.Match[str]) -> str:
        n = m[0]
        is_year = len(n) == 4 and 1100 <= int(n) <= 2099
        return year(int(n)) if is_year else number(n) if len(n) < 10 else digits(n)

    def phone(m: re.Match[str]) -> str:
        return ", ".join(digits(g) for g in re.findall(r"\d+", m[0]))

    text = re.sub(
        r"(?<![\w.])(?:\+?\d{1,3}[-. ])?(?:\(\d{3}\)\s?|\d{3}[-. ])\d{3}[-. ]\d{4}\b|\b\d{3}-\d{4}\b", phone, text
    )
    text = re.sub(r"\b(\d{1,4}(?:,\d{3})*)(?:st|nd|rd|th)\b", lambda m: ordinal(int(m[1].replace(",", ""))), text)
    text = re.sub(r"\b(\d+)/(\d+)\b", fraction, text)
    text = re.sub(r"\b\d+(?:\.\d+){2,}\b", lambda m: " point ".join(number(p) for p in m[0].split(".")), text)
    text = re.sub(r"(?<=\d)\s?[-\u2013]\s?(?=\d)", " to ", text)
    text = re.sub(r"(?:(?<=\s)|(?<=\()|^)[-\u2013](?=\.?\d)", "minus ", text)
    text = re.sub(r"(?<=[\w)])\s[-\u2013]\s(?=minus |\d)(?<=\d\s.\s)", " minus ", text)
    text = re.sub(r"(?<=\d)\s?\*\s?(?=\d)", " times ", text)
    text = re.sub(r"~\s?(?=\d)", "about ", text)
    text = re.sub(r"\bA(?=-?\d)", LETTER_A + " ", text)
    text = re.sub(
        r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " ", re.sub(r"(?<=[A-Za-z])-(?=\d)|(?<=\d)-(?=[A-Za-z])", " ", text)
    )
    text = re.sub(
        r"\b\d{1,3}(?:,\d{3})+(?:\.\d+)?\b|\b\d*\.\d+\b|(?<!\w)\.\d+\b",
        lambda m: f" {decimal(m[0])} " if m[0][0] == "." else decimal(m[0]),
        text,
    )
    return re.sub(r"\d+", lambda m: f"{plain(m)}", text)


def _abbreviations(text: str) -> str:
    def spoken(m: re.Match[str]) -> str:
        name, point = m[1], m[2]
        rest = m.string[m.end() :]
        if not point and name not in ALWAYS_ABBREVIATED:
            return m[0]
        if name in ("Dr", "St") and re.search(r"[a-z]\s$", m.string[: m.start()]) and not re.match(r"\s+[A-Z]", rest):
            return {"Dr": "drive", "St": "street"}[name] + ends_sentence(m)
        if name in (
            "Mon",
            "Sun",
            "Sat",
            "Mar",
            "Fri",
            "Co",
            "Rep",
            "est",
            "ch",
            "vol",
            "fig",
            "Hon",
            "Gen",
        ) and not re.match(r",|\s+\S", rest):
            return m[0]
        title = name not in ("Jr", "Sr", "Inc", "Ltd", "Co", "Corp", "Ave", "Blvd", "Rd", "etc", "Bros")
        return ABBREVIATIONS[name] + ("" if title else ends_sentence(m))

    names = "|".join(sorted(ABBREVIATIONS, key=len, reverse=True))
    text = re.sub(rf"\b({names})\b(\.?)", spoken, text)
    # initials and dotted acronyms: "J. K. Rowling", "the U.S. economy", "Ph.D."
    dotted = re.sub(
        r"\b(?:[A-Za-z]\.){2,}|\b[A-Z]\.[A-Z]\b",
        lambda m: " ".join(re.findall("[A-Z]", m[0].upper())) + ends_sentence(m),
        text,
    )
    return re.sub(rf"(?<!\b[A-Z] )\b([A-Z])\.(?=\s[A-Z](?:[a-z']|\.))(?!\s(?:{OPENERS})\b)", r"\1", dotted)


def _symbols(text: str) -> str:
    text = re.sub(r"(?<=[a-z])\s?/\s?(?=[a-z])", " ", text, flags=re.I)
    text = re.sub(r"\.{2,}(?=\s*[a-z])", ",", text)
    text = re.sub(r"[()\[\]{}|\u2022]+", " , ", text)
    text = (
        re.sub(r"(?<=[\w\"'.!?])\s*(?:--+|\u2014)\s*(?=[\w\"'\x00])|\s+[-\u2013]\s+", " - ", text)
        .replace("\u2014", " ")
        .replace("\u2013", " ")
    )
    spoken = "".join(f" {SYMBOLS[c]} " if c in SYMBOLS else c for c in text)
    return re.sub(r"\s+", " ", spoken)


def _capitals(text: str, known: Collection[str]) -> str:
    """Words in lower case; acronyms as single capitals."""
    tokens = re.findall(r"[A-Za-z]+", text)
    loud = [t for t in tokens if len(t) > 1]
    shouting = len(loud) > 2 and sum(t.isupper() for t in loud) > len(loud) / 2

    def word(m: re.Match[str]) -> str:
        token, ending = m[1], m[2]
        if len(token) == 1:
            return token + ending.lower() if ending.lower() in ("", "'s") and _is_letter(m) else m[0].lower()
        bare = token[:-1] if token.endswith("s") and token[:-1].isupper() and len(token) > 2 else token
        if not bare.isupper() or bare in PRONOUNCED_ACRONYMS or shouting and bare.lower() in known:
            whole = token.lower() in known or token.startswith(NAME_PREFIXES)
            return m[0].lower() if whole else re.sub(r"(?<=[a-z])(?=[A-Z])", " ", m[0]).lower()
        readable = bare.lower() in known and len(bare) > 3 and re.search("[AEIOUY]", bare)
        if bare in SPELLED and not shouting or not readable and len(bare) <= 5 or not re.search("[AEIOUY]", bare):
            return " ".join(bare) + ("'s" if bare != token else ending.lower())
        return m[0].lower()

    return re.sub(r"(?<![A-Za-z])(?<![A-Za-z]')([A-Za-z]+)((?:'[A-Za-z]+)*)(?![A-Za-z])", word, text)


def _is_letter(m: re.Match[str]) -> bool:
    """Whether one letter standing alone is its name: not the pronoun, not an article that opens a sentence."""
    before, after = m.string[: m.start()].rstrip(), m.string[m.end() :]
    beside = bool(re.match(r"\s[A-Z](?![A-Za-z'])", after) or re.search(r"(?<![A-Za-z'])[A-Z]$", before))
    if m[1].islower():
        return False
    if m[1] == "I":
        return beside and not m[2]
    opens = not before or before[-1] in ".!?:\"'-"
    ends = bool(re.match(r"\s*(?:$|[.,;:!?])", after))
    return m[1] != "A" or beside or ends or not opens and not re.match(r"\s[A-Z][a-z]", after)


def _tidy(text: str) -> str:
    """Only words, apostrophes inside them, and single marks of punctuation stay; one space between words."""
    text = text.replace("\x00", PAUSE).replace(LETTER_A, "A")
    text = re.sub(r"[^A-Za-z',.?!;:\-\[\] ]", " ", text)
    text = re.sub(r"(?<![a-zA-Z])'|'(?![a-zA-Z])", lambda m: "'" if _is_clipped(m) else " ", text)
    text = re.sub(r"(?<=[A-Za-z])-+(?=[A-Za-z])", " ", text)
    text = re.sub(r"\s*([,.?!;:])", r"\1", re.sub(r"\s+", " ", text))
    strongest = {c: i for i, c in enumerate("-,;:.!?")}
    text = re.sub(
        r"[,.?!;:\- ]*[,.?!;:\-][,.?!;:\- ]*",
        lambda m: _mark(max((c for c in m[0] if c in strongest), key=strongest.__getitem__)),
        text,
    )
    text = re.sub(r"^[,.?!;:\- ]+", "", text)
    text = re.sub(r"(\[pause\])[,.?!;:\- ]+", r"\1 ", text)
    return re.sub(r" +", " ", text).strip()


def _is_clipped(m: re.Match[str]) -> bool:
    """'em, 'cause and dogs' keep their apostrophe only where it changes nothing but the spelling."""
    return bool(re.match(r"(?:em|til|cause|bout|twas|tis|n)\b", m.string[m.end() :]))


def _mark(c: str) -> str:
    return " - " if c == "-" else f"{c} "
