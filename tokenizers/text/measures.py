"""Measures in words: amounts with units, units per units, feet and inches, powers, scientific notation."""

import re

from solfa.tokenizers.text.date_words import ends_sentence
from solfa.tokenizers.text.number_words import cardinal, decimal, number, pairs, plural
from solfa.tokenizers.text.written_forms import (
    COUNTED,
    MEASURED_THINGS,
    NO_NOUN,
    PER_WORDS,
    SPACED_UNITS,
    UNITS,
    WITH_POINT,
)

AMOUNT = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
NAMES = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))
ARTICLE = re.compile(
    r"\b(?:[Aa]n?|[Tt]he|[Tt]his|[Tt]hat|[Ee]ach|[Ee]very|[Aa]nother|[Hh]is|[Hh]er|[Mm]y|[Oo]ur|[Yy]our|[Tt]heir|[Ii]ts|\w's)\s$"
)
COMPARATIVES = (
    "(?:fast|slow|larg|small|high|low|cheap|long|short|strong|weak|great|old|young|quick|hard|wid|tall|clos|bright|loud|clean|saf|smart|"
    "deep|thick|thin|rich|poor)e?r|bigger|better|worse|heavier|easier|hotter"
)
LENGTHS = frozenset(("meter", "kilometer", "centimeter", "millimeter", "mile", "foot", "inch", "yard"))


def attributive(before: str, after: str) -> bool:
    """Whether an amount between these texts stands before a noun, in the singular: "a $5 bill", "the 100 m race"."""
    noun = re.match(r"\s+([A-Za-z]+)", after[:40])
    if not noun or noun[1] in NO_NOUN:
        return False
    return bool(ARTICLE.search(before[-10:])) or noun[1] in MEASURED_THINGS


def full_name(unit: str) -> str:
    """'lb' -> 'pound', 'hr' -> 'hour'; what is no unit is left as it is."""
    return PER_WORDS.get(unit) or UNITS.get(unit, unit)


def feet_and_inches(text: str) -> str:
    """5'10" -> 'five foot ten', 12" -> 'twelve inches'; works on curly marks and primes, before they are folded."""
    foot, inch = "['\u2019\u2032]", "(?:[\"\u201d\u2033]|'')"

    def both(m: re.Match[str]) -> str:
        return f"{cardinal(int(m[1]))} foot {cardinal(int(m[2]))}"

    def one(name: str) -> "re._SubReplT":  # type: ignore[name-defined]
        def spoken(m: re.Match[str]) -> str:
            before = m.string[: m.start()]
            mark = m[0][-1]
            if (
                mark == '"'
                and before.count('"') % 2
                or mark == "\u201d"
                and before.count("\u201c") > before.count("\u201d")
            ):
                return m[0]  # the mark closes a quotation
            if mark in "'\u2019" and re.search(r"(?<!\w)['\u2018]\w[^'\u2019]*$", before):
                return m[0]
            single = m[1] == "1" or attributive(before, m.string[m.end() :])
            return f"{decimal(m[1])} {name if single else plural(name)}"

        return spoken

    text = re.sub(rf"(?<![\w.])(\d{{1,2}}){foot}\s?(\d{{1,2}})(?:{inch}|(?![\w.]))", both, text)
    text = re.sub(rf"(?<![\w.'])(\d{{1,4}}(?:\.\d+)?){foot}(?=\s|[,;.]|$|x)", one("foot"), text)
    text = re.sub(rf"(?<![\w.'])(\d{{1,4}}(?:\.\d+)?){inch}(?=\s|[,;.]|$|x)", one("inch"), text)
    return re.sub(r"\b(feet|inches)\s?[xX×]\s?(?=[a-z\d])", r"\1 by ", text)


def powers(text: str) -> str:
    """'2^10' -> '2 to the ten', 'x^2' -> 'x squared', '10^-3 m' -> '10 to the minus three meters', '1e-5' -> '1 E minus five'."""

    def spoken(m: re.Match[str]) -> str:
        base, exponent = m["base"], m["exponent"].replace("+", "")
        if base.isalpha():
            base = "\x01" if base in ("a", "A") else " ".join(base.upper()) if len(base) == 2 else base
        sign = "minus " if exponent[0] == "-" else ""
        size = exponent.lstrip("-")
        power = f"to the {sign}{number(size) if size.isdigit() else size}"
        if not sign and size in ("2", "3"):
            power = "squared" if size == "2" else "cubed"
        unit = f" {plural(UNITS[m['unit']])}" if m["unit"] else ""
        return f"{base} {power}{unit}" + (f" per {UNITS[m['per']]}" if m["per"] else "")

    text = re.sub(r"(?<=[\d.])\s?[x*]\s?(?=10\^)", " times ", text)
    text = re.sub(
        rf"(?P<base>(?<![\w.])(?:{AMOUNT})|(?<![A-Za-z])[A-Za-z]{{1,2}}|\))\^\(?(?P<exponent>[-+]?(?:\d{{1,4}}|[a-z]))\)?(?![\w^])"
        rf"(?:\s?(?P<unit>{NAMES})(?:/(?P<per>{NAMES}))?(?![\w/^.]))?",
        lambda m: m[0] if m["base"] in UNITS and re.search(r"\d\s?$|/$", m.string[: m.start()]) else spoken(m),
        text,
    )
    exponential = r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([-+]?)(\d{1,4})\b"
    return re.sub(exponential, lambda m: f"{decimal(m[1])} E {'minus ' if m[2] == '-' else ''}{number(m[3])}", text)


def units(text: str) -> str:
    """'5 km at 10 km/h', '25 MB/s', '9.8 m/s^2', '20-25 °C', '1080p', '3B parameters' in words."""
    text = re.sub(r"\b(\d{3,4})\s?[xX×]\s?(\d{3,4})\b", lambda m: f"{pairs(m[1])} by {pairs(m[2])}", text)
    text = re.sub(r"\bv\.?\s?(?=\d+\.\d)", "version ", text)
    text = re.sub(r"\b(\d{3,4})([pi])\b(?!\.\w)", lambda m: f"{pairs(m[1])} {m[2].upper()}", text)
    text = re.sub(r"(?<=\d)\s?[xX]\s?(?=\d[\d.,]*\s?=)", " times ", text)
    text = re.sub(rf"(?<=\d)[xX](?=\s(?:as|more|less|the|fewer|{COMPARATIVES})\b)", " times", text)
    text = re.sub(r"(?<=\d)\s?[xX]\s?(?=\d)|(?<=[a-z]) x (?=\d)", " by ", text)
    scales = {"k": "thousand", "K": "thousand", "m": "million", "M": "million", "B": "billion", "b": "billion"}
    counted = rf"(?<![\w.])({AMOUNT})\s?([kKmMBb])(?=\s(?:{COUNTED})\b)|(?<![\w.])({AMOUNT})([MB])(?=\s[a-z]{{3,}}s\b)"
    text = re.sub(counted, lambda m: f"{decimal(m[1] or m[3])} {scales[m[2] or m[4]]}", text)
    text = re.sub(r"\bsq\.?\s?(?=(?:ft|mi|in|yd|m|km)\b)", "sq ", text)
    text = re.sub(r"(?<=\d)\s?((?:[kcm]?m|ft|in))([23])\b(?![.,]\d)", r" \1^\2", text)  # "30m2"
    text = re.sub(rf"(?<=\d)(\s?(?:{NAMES}))\s?[-\u2013]\s?(?=(?:{AMOUNT})\s?(?:{NAMES})(?![\w/]))", r"\1 to ", text)
    bounds = rf"(?<![\w.])({AMOUNT})\s?[-\u2013]\s?(?=(?:{AMOUNT})\s?(?:%|{NAMES})(?!\w))"
    text = re.sub(bounds, lambda m: f"{decimal(m[1])} to ", text)
    return re.sub(
        rf"(?:(?<=[\s(])|^)(?P<sign>[-+\u2013])?(?P<amount>{AMOUNT})"
        rf"(?P<scale>\s(?:hundred|thousand|million|billion|trillion)(?=\s))?(?P<gap>[\s-]?)"
        rf"(?:(?P<unit>{NAMES})(?P<power>\^[23])?|(?P<word>[a-z]{{3,12}})(?=/))"
        rf"(?:/(?P<per>{NAMES}|day|week|month|year|person|mi)(?P<per_power>\^[23])?)?(?![\w/^])(?P<point>\.?)",
        _measure,
        text,
    )


def _measure(m: re.Match[str]) -> str:
    """One amount with its unit in words; left as it is where the letters are no unit here ("in the morning", "7B")."""
    unit, rest = m["unit"], m.string[m.end() :]
    if (
        m["word"]
        and not m["per"]
        or unit in SPACED_UNITS
        and m["gap"] != " "
        and not m["per"]
        and "." not in m["amount"]
    ):
        return m[0]
    pointed = bool(m["point"]) and (m["per"] or unit) in WITH_POINT
    if unit == "in" and not m["per"] and not m["power"]:
        alone = re.match(r"\s*[,;:)]|\s*$|\s+(?:by|x|long|wide|tall|high|deep)\b", rest)
        if not (alone or pointed and re.match(r"\s+[a-z]", rest) or m["gap"] == "-"):
            return m[0]
    name = UNITS[unit] if unit else m["word"]
    if m["power"]:
        name = f"{'square' if m['power'] == '^2' else 'cubic'} {name}"
    single = (
        m["amount"] == "1"
        and m["sign"] != "-"
        and not m["scale"]
        or m["gap"] == "-"
        or attributive(m.string[: m.start()], rest)
    )
    if not single and not m["word"]:
        head, per, tail = name.partition(" per ")
        first, _, second = head.partition(" ")
        head = f"{plural(first)} {second}" if first in ("degree", "dot") and second else plural(head)
        name = head + per + tail
    if m["per"]:
        name += f" per {_per_unit(full_name(m['per']), m['per_power'])}"
    sign = {"-": "minus ", "\u2013": "minus ", "+": "plus "}.get(m["sign"] or "", "")
    end = (ends_sentence(m) if pointed else m["point"]) or ""
    return f"{sign}{decimal(m['amount'])}{m['scale'] or ''} {name}{end}"


def _per_unit(name: str, power: str | None) -> str:
    """'second', '^2' -> 'second squared'; 'meter', '^3' -> 'cubic meter'."""
    if not power:
        return name
    if name in LENGTHS:
        return f"{'square' if power == '^2' else 'cubic'} {name}"
    return f"{name} {'squared' if power == '^2' else 'cubed'}"
