"""Amounts of money in words: signs, ranges, magnitudes, "a five dollar bill", "one dollar and ninety nine cents a pound"."""

import re

from solfa.tokenizers.text.measures import attributive, full_name
from solfa.tokenizers.text.number_words import cardinal, decimal, number, plural
from solfa.tokenizers.text.written_forms import CURRENCY_PREFIXES, MONEY, MONEY_SCALES

SIGNS = "".join(sign for sign in MONEY if len(sign) == 1 and sign != "¢")
CODES = "|".join(code for code in MONEY if len(code) == 3)
AMOUNT = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
SCALE = r"(?:[\s-]?(?P<scale>hundred|thousand|million|billion|trillion|(?:[kKmMBbT]|bn|mn|tn)(?![A-Za-z]))\b)?"
SIGN = rf"(?P<prefix>US|CA|AU|NZ|HK|C|A|S)?(?P<sign>[{SIGNS}])"
LEFT = r"(?<![\w.$])"  # no word and no number goes before
PER = r"(?:/(?P<per>[A-Za-z]{1,6})\b\.?)?"
RANGE = rf"(?:\s?\u2013\s?|-|\s-\s(?=[{SIGNS}]))"
BEFORE = re.compile(
    rf"{LEFT}(?P<minus>[-+~])?{SIGN}\s?(?P<minus2>-)?(?P<amount>{AMOUNT})(?:{RANGE}(?P<second>[{SIGNS}]?(?:{AMOUNT})))?"
    rf"{SCALE}(?P<plus>\+(?!\s?\d))?{PER}(?P<join>-(?=[a-z]))?(?P<to>\s?[-\u2013]\s?(?=[{SIGNS}]\d))?"
)
AFTER = re.compile(rf"{LEFT}(?P<minus>[-+])?(?P<amount>{AMOUNT}){SCALE}\s?(?P<sign>[{SIGNS}¢])")
CODE_AFTER = re.compile(rf"{LEFT}(?P<minus>[-+])?(?P<amount>{AMOUNT}){SCALE}\s?(?P<sign>{CODES})\b")
CODE_BEFORE = re.compile(rf"\b(?P<sign>{CODES})\s?(?P<amount>{AMOUNT}){SCALE}")


def money(text: str) -> str:
    """Every amount with a currency sign or code in words."""
    text = re.sub(r"(?<=€)(\d+),(\d\d)(?![\d,])", r"\1.\2", text)  # a decimal comma
    for pattern in (BEFORE, AFTER, CODE_AFTER, CODE_BEFORE):
        text = pattern.sub(_spoken, text)
    return text


def _spoken(m: re.Match[str]) -> str:
    """One match of the patterns above in words."""
    found = {**dict.fromkeys(("minus", "minus2", "prefix", "second", "plus", "per", "join", "to")), **m.groupdict()}
    name, part = MONEY[m["sign"]]
    name = f"{CURRENCY_PREFIXES.get(found['prefix'] or m['sign'], '')} {name}".strip()
    joined = bool(found["join"] or f"-{m['scale']}" in m[0])
    single = joined or attributive(m.string[: m.start()], m.string[m.end() :])
    scale = MONEY_SCALES.get(m["scale"] or "", m["scale"])
    if found["second"] or scale:
        bounds = [m["amount"], *re.findall(AMOUNT, found["second"] or "")]
        words = " to ".join(map(decimal, bounds)) + (f" {scale}" if scale else "")
        words += f" {name if single else _units(name)}"
    else:
        words = _amount(m["amount"].replace(",", ""), name, part, single)
    if found["per"]:
        unit = full_name(found["per"])
        words += f" {'an' if unit[0] in 'aeio' or unit == 'hour' else 'a'} {unit}"
    sign = {"-": "minus ", "+": "plus ", "~": "about "}.get(found["minus"] or found["minus2"] or "", "")
    return f" {'more than ' if found['plus'] else sign}{words} {'to ' if found['to'] else ''}"


def _amount(amount: str, name: str, part: str, single: bool) -> str:
    """An amount without magnitude: '1.01' -> 'one dollar and one cent', '1.234' -> 'one point two three four dollars'."""
    whole, _, cents = amount.partition(".")
    if len(cents) != 2 or not part:
        return f"{decimal(amount)} {name if amount == '1' or single else _units(name)}"
    pieces = {"penny": "pence", "paisa": "paise"}.get(part, "cents")
    small = f"{cardinal(int(cents))} {part if int(cents) == 1 or single else pieces}"
    large = f"{number(whole)} {name if int(whole[:15]) == 1 or single else _units(name)}"
    if int(cents) == 0:
        return large
    return small if int(whole[:15]) == 0 else f"{large} {small}" if single else f"{large} and {small}"


def _units(name: str) -> str:
    return name if name.endswith(("yen", "yuan", "won", "naira", "bitcoin")) else plural(name)
