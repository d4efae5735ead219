"""Figures in words: long digit strings, phone numbers and other codes, fractions, ranges, sums, plain numbers."""

import re

from solfa.tokenizers.text.measures import NAMES
from solfa.tokenizers.text.number_words import cardinal, decimal, digits, number, ordinal, pairs, plural, year
from solfa.tokenizers.text.written_forms import (
    MONEY,
    MONTHS,
    READ_IN_PAIRS,
    STATES,
    STREET_WORDS,
    UNITS,
)

LETTER_A = "\x01"  # surely the letter, not the article
EMERGENCY = r"calls?|operators?|dispatchers?|emergency|service|system|center|number|lines?"


def long_numbers(text: str) -> str:
    """Strings of more than 15 digits one by one, so that no later rule meets them; "$" and units go behind them."""

    def spoken(m: re.Match[str]) -> str:
        words = ["minus"] if m["minus"] else []
        words += [number(m["top"]), "over"] if m["top"] else []
        words += [number(m["whole"]), "point"] if m["whole"] else []
        words += [digits(m["digits"])]
        words += ["point", digits(m["rest"])] if m["rest"] else []
        words += [plural(MONEY[m["money"]][0])] if m["money"] else []
        words += [plural(UNITS[m["unit"]])] if m["unit"] else []
        return f" {' '.join(words)} " + ("over " if m["over"] else "")

    text = re.sub(r"\b(1,?0+)s(?= of\b)", lambda m: plural(number(m[1].replace(",", "")).removeprefix("one ")), text)
    text = re.sub(
        r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3}){2,4}(?![\d.]*\d)", lambda m: m[0].replace(".", ","), text
    )  # "1.000.000"
    text = re.sub(r"(?<![\d.,+-])[1-9]\d{0,2}(?: \d{3}){0,3} 000(?![\d -]*\d)", lambda m: m[0].replace(" ", ","), text)
    text = re.sub(r"(?<![\d,])\d{1,3}(?:,\d{3}){5,}+\b", lambda m: m[0].replace(",", ""), text)
    return re.sub(
        r"(?P<minus>(?<![\w.)])-)?(?P<money>[$€£¥₹₩₽₺₪₱₦₿₴])?(?<!\d)(?:(?P<top>\d{1,15})/)?(?:(?P<whole>\d{1,15})\.)?(?P<digits>\d{16,})"
        rf"(?:\.(?P<rest>\d+))?(?:\s?(?P<unit>{NAMES})(?![\w/']))?(?P<over>/(?=\d))?",
        spoken,
        text,
    )


def codes(text: str) -> str:
    """Phone numbers, ISBNs, card numbers, ZIP codes, addresses on a network, rooms, flights and houses, digit by digit."""

    def groups(m: re.Match[str]) -> str:
        found = re.findall(r"\d+|[A-Z]{4,}", m[0])
        if m[0][0] == "+" and sum(map(len, found)) < 8:  # "+1.5"
            return m[0]
        joint = " " if all(len(g) == 1 for g in found) else ", "
        words = joint.join(_group(g, i, found) for i, g in enumerate(found))
        return ("plus " if m[0].startswith("+") else "") + words

    def zip_code(m: re.Match[str]) -> str:
        words = f"{STATES[m[1]]} {digits(m[2], 'oh')}" if m[1] in STATES else m[0]
        return words + (f", {digits(m[3], 'oh')}" if m[3] and m[1] in STATES else "")

    text = re.sub(r"\b(ISBN)(?:-1[03])?:?\s?(\d[\d -]{8,16}[\dX])\b", lambda m: f"{m[1]} {_isbn(m[2])}", text)
    text = re.sub(
        r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)", lambda m: " dot ".join(map(digits, m[0].split("."))), text
    )
    text = re.sub(r"(?<![\w+])\+\d{1,3}(?:[-. ]?\(?\d{1,12}\)?(?:[-. ]\d{1,6}){0,4})(?![\w-])", groups, text)
    text = re.sub(r"(?<![\w.-])1?-?[89]\d\d-[A-Z]{4,10}\b", groups, text)
    text = re.sub(
        r"(?<![\w.])(?:\+?\d{1,3}[-. ])?(?:\(\d{3}\)\s?|\d{3}[-. ])\d{3}[-. ]\d{4}\b|(?<![\w-])\d{3}-\d{4}\b(?!-)",
        groups,
        text,
    )
    text = re.sub(r"(?<![\w.,-])0\d{2,5}[ -]\d{3,4}(?:[ -]\d{3,4}|\d{2})?(?![\w-])", groups, text)
    text = re.sub(r"(?<![\w.,-])\d{4}(?: \d{4}){3}(?![\w-])", groups, text)
    text = re.sub(r"(?<![\w.,-])\d+(?:-\d+){2,}(?![\w-])", groups, text)
    text = re.sub(r"\b([A-Z]{2})\s+(\d{5})(?:-(\d{4}))?\b", zip_code, text)
    text = re.sub(
        r"\b((?:[Cc]all|[Dd]ial|[Pp]hone|[Rr]ing|[Cc]alled|[Dd]ialed) )(\d{3})\b(?!-)",
        lambda m: m[1] + digits(m[2]),
        text,
    )
    text = re.sub(rf"(?<![\w.$/-])911\b(?!\s(?!(?:{EMERGENCY})\b)[a-z]|[-/.,]\d)", digits("911"), text)
    text = re.sub(
        rf"\b((?:{READ_IN_PAIRS})\s)(\d{{3,4}})(?=[A-Z]?\b)(?![\d,.:/-]*\d)", lambda m: f"{m[1]}{pairs(m[2])} ", text
    )
    house = rf"(?<![\w.,/-])(\d{{3,4}})(?=[A-Z]?(?:\s[NSEW]\.?)?(?:\s[A-Z][a-z]+){{1,3}}\s(?i:{STREET_WORDS})\b)"
    text = re.sub(house, lambda m: f"{pairs(m[1])} ", text)
    text = re.sub(r"\b(extension )(\d{3,6})\b", lambda m: m[1] + digits(m[2]), text)
    return re.sub(r"\b(\d)(\d\d)\((\w)\)", lambda m: f"{pairs(m[1] + m[2])} {m[3].upper()}", text)


def _group(group: str, at: int, groups: list[str]) -> str:
    """One group of a phone number: digits, "eight hundred" after a leading 1, or a word."""
    if not group.isdigit():
        return group.lower()
    toll_free = group in ("800", "900") and at <= 1 and len(groups) > 2 - (not groups[-1].isdigit())
    return cardinal(int(group)) if toll_free else digits(group)


def _isbn(code: str) -> str:
    return ", ".join(digits(g) + (" X" if g.endswith("X") else "") for g in re.split("[ -]+", code)).replace("  ", " ")


def fractions(text: str) -> str:
    """'3/4' -> 'three quarters', '2 1/2 cups' -> 'two and a half cups', '10 / 2 = 5' -> 'ten divided by two', '9/11'."""

    def part(top: int, bottom: int) -> str:
        name = {2: "half", 4: "quarter"}.get(bottom) or ordinal(bottom).removeprefix("one ")
        return f"{cardinal(top)} {name if top == 1 else 'halves' if bottom == 2 else plural(name)}"

    def mixed(m: re.Match[str]) -> str:
        top, bottom = int(m[2]), int(m[3])
        if not 0 < top < bottom <= 100:
            return m[0]
        small = f"a {'half' if bottom == 2 else 'quarter'}" if top == 1 and bottom in (2, 4) else part(top, bottom)
        unit = f" {plural(UNITS[m['unit']])}" if m["unit"] else ""
        return f"{number(m[1])} and {small}{unit}" + (" to " if m["to"] else "")

    def simple(m: re.Match[str]) -> str:
        top, bottom = int(m[1]), int(m[2])
        unit = f" {UNITS[m['unit']]}" if m["unit"] else ""
        if m[0] == "9/11":
            return "nine eleven"
        if top == bottom and top in (20, 50):
            return f"{cardinal(top)} {cardinal(bottom)}"
        if top == bottom and top > 1:
            return f"{cardinal(top)} out of {cardinal(bottom)}"
        if not 0 < top < bottom or not (
            bottom <= 20 or bottom in (25, 30, 32, 50, 60, 64, 100, 1000, 10_000, 1_000_000)
        ):
            return f"{number(m[1])} over {number(m[2])}{unit}"
        return part(top, bottom) + unit + (" to " if m["to"] else "")

    unit = rf"(?:\s?(?P<unit>{NAMES})(?![\w/'^])(?:\.(?=\s[a-z]))?)?(?P<to>\s?[-\u2013]\s?(?=\d))?"
    text = re.sub(rf"(?<![\w./,])(\d{{1,6}})[\s-](\d{{1,3}})/(\d{{1,3}})(?![\w/]){unit}", mixed, text)
    text = re.sub(r"(?<![\w.-])(50|20)-\1(?![\w-])", lambda m: f"{cardinal(int(m[1]))} {cardinal(int(m[1]))}", text)
    text = re.sub(r"(?<=\d)\s/\s(?=\d)", " divided by ", text)
    whole = r"(?<![\w./])(\d{1,9})/(\d{1,9})(?=\s?=)"
    text = re.sub(whole, lambda m: f"{m[1]} divided by {m[2]}" if int(m[1]) > int(m[2]) else m[0], text)
    text = re.sub(r"(?<![\w./])(\d+\.\d+)/(\d+)(?![\w/.])", r"\1 out of \2", text)
    text = re.sub(
        r"\b((?:[Ss]cored?|[Rr]ated?|[Rr]ating|got|gave)\b[\w ]{0,12}? \d+)/(?=(?:5|10|100)\b)", r"\1 out of ", text
    )
    text = re.sub(r"\b(1[02])/(24|25|31)\b(?!/)", lambda m: f"{MONTHS[int(m[1]) - 1]} {ordinal(int(m[2]))}", text)
    text = re.sub(r"\b(1\d{3}|20\d\d)/(\d\d)\b(?!/)", lambda m: f"{year(int(m[1]))} {cardinal(int(m[2]))}", text)
    return re.sub(rf"\b(\d+)/(\d+)\b(?!/){unit}", simple, text)


def sums(text: str) -> str:
    """Signs between and before numbers: minus, times, "is less than", "about", "more than"; ranges and ratios with "to"."""
    if not re.search(r"[\d<>=+/\u2192\u2248\u2260\u2264\u2265]", text):
        return text
    text = re.sub(r"(?<![\w/'.])([a-z])/([a-z])(?![\w/'])", r"\1 over \2", text)
    text = re.sub(r"(?<![\w.])(\d+):(\d+)(?![\d:])", lambda m: f"{number(m[1])} to {number(m[2])}", text)
    years = r"(?<![\w.-])(1[1-9]\d\d|20\d\d)[-\u2013](\d\d)(?![\w-])"
    text = re.sub(years, lambda m: f"{year(int(m[1]))} to {cardinal(int(m[2]))}" if m[2] > m[1][2:] else m[0], text)
    counted = r"(?:(?<=pages )|(?<=ages )|(?<=chapters )|(?<=lines )|(?<=steps )|(?<=rows ))"
    number_ = r"\d[\d,]*+(?:\.\d+)?"
    text = re.sub(
        rf"{counted}({number_}) - (?=\d)|(?<![\w.+*/=] )(?<![\w.,])({number_}) - (?={number_} [a-z]{{3}})", _to, text
    )
    text = re.sub(r"(?<=\d) ?\u2014 ?(?=\d)|(?<=[\d%])\s?\u2013\s?(?=[\d.])|(?<=[\d%])-(?=[\d.])", " to ", text)
    text = re.sub(r"(?<=[\d)])\s[-\u2013]\s(?=-?[\d.(])", " minus ", text)
    text = re.sub(r"(?:(?<=[\s(=*/×])|^)[-\u2013](?=\.?\d)", "minus ", text)
    text = re.sub(r"(?<=[\d)])\s?\*\s?(?=[\d(])", " times ", text)
    text = re.sub(r"~\s?(?=\d)", "about ", text)
    text = re.sub(r"(?<![\w.,+])(\d[\d,.]*+)\+(?=\s[A-Za-z]|[,.;:)]|\s?$)", r"more than \1", text)
    operand = r"(?<![A-Za-z'])(?:[A-Za-z\u03c0]|\d|squared|cubed)"
    signs = {
        "<": "is less than",
        ">": "is greater than",
        "≤": "is at most",
        "≥": "is at least",
        "≈": "is about",
        "≠": "is not",
    }
    text = re.sub(rf"({operand})\s?([<>≤≥≈≠])(?!=)", lambda m: f"{m[1]} {signs[m[2]]} ", text)
    text = re.sub(r">\s?(?=\d)", "more than ", text)
    return re.sub(
        r"(?<![\w'])[aA](?= is not | is (?:less|greater) than | is at (?:least|most) | [=+\u2192] )", LETTER_A, text
    )


def _to(m: re.Match[str]) -> str:
    return f"{m[1] or m[2]} to "


def plain_numbers(text: str) -> str:
    """What figures are left: ordinals, versions, decimals, years, quantities; letters and digits apart."""

    def plain(m: re.Match[str]) -> str:
        n = m[0]
        is_year = len(n) == 4 and 1100 <= int(n) <= 2099
        return year(int(n)) if is_year else number(n) if len(n) < 10 else digits(n)

    early = r"\b((?:[Ii]n|[Bb]y|[Ss]ince|[Uu]ntil|[Yy]ear|[Oo]f) )(10\d\d)\b(?![.,]?\d| [a-z]+s\b)"
    text = re.sub(early, lambda m: m[1] + year(int(m[2])), text)
    text = re.sub(r"\b(\d{1,4}(?:,\d{3})*)(?:st|nd|rd|th)\b", lambda m: ordinal(int(m[1].replace(",", ""))), text)
    text = re.sub(r"\b\d+(?:\.\d+){2,}\b", lambda m: " point ".join(number(p) for p in m[0].split(".")), text)
    text = re.sub(r"\b([A-Z]{1,4}\d{1,2})s\b", r"\1's", text)  # "MP3s"
    text = re.sub(r"\bA(?=-?\d)", LETTER_A + " ", text)
    text = re.sub(r"(?<=[A-Za-z])-(?=\d)|(?<=\d)-(?=[A-Za-z])", " ", text)
    text = re.sub(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " ", text)
    text = re.sub(
        r"\b\d{1,3}(?:,\d{3})+(?:\.\d+)?\b|\b\d*\.\d+\b|(?<!\w)\.\d+\b",
        lambda m: f" {decimal(m[0])} " if m[0][0] == "." else decimal(m[0]),
        text,
    )
    return re.sub(r"\d+", plain, text)
