"""Clock times, dates and decades in words."""

import re

from solfa.tokenizers.text.number_words import cardinal, ordinal, plural, year
from solfa.tokenizers.text.written_forms import MONTH, MONTHS, OPENERS


def ends_sentence(m: re.Match[str]) -> str:
    """The point of an abbreviation also ends the sentence when nothing follows, or a word that opens sentences."""
    ends = rf"[\"')]*\s*$|[\"')]*\s+(?:{OPENERS})\b"
    return "." if m[0].endswith(".") and re.match(ends, m.string[m.end() :]) else ""


def times(text: str) -> str:
    """ "3:30 p.m." -> "three thirty P M", "at 3:00" -> "at three o'clock"."""

    def half(letter: str | None) -> str:
        return f" {letter.upper()} M" if letter else ""

    def clock(m: re.Match[str]) -> str:
        hour, minute, second = int(m[1]), int(m[2]), m[3]
        if hour > 24 or minute > 59:
            return m[0]
        small = "" if minute == 0 else f" oh {cardinal(minute)}" if minute < 10 else f" {cardinal(minute)}"
        if not small and not m[4]:
            small = " o'clock" if 0 < hour <= 12 and not second else " hundred"
        seconds = f" and {cardinal(int(second))} seconds" if second and int(second) else ""
        return f"{cardinal(hour)}{small}{seconds}{half(m[4])}" + ends_sentence(m)

    ampm = r"(?:\s?([aApP])(?:\.\s?[mM]\b\.?|[mM]\b))"
    text = re.sub(r"(?<![\d:.])(\d{1,2}):([0-5]\d)(?::([0-5]\d))?(?![\d:])" + ampm + "?", clock, text)
    text = re.sub(r"\b(\d{1,2})" + ampm, lambda m: f"{cardinal(int(m[1]))}{half(m[2])}" + ends_sentence(m), text)
    return re.sub(r"\b([ap])\.\s?m\.", lambda m: f"{m[1].upper()} M" + ends_sentence(m), text)


def dates(text: str) -> str:
    """ "May 5, 2005", "2024-05-17", "5/17/2024" (American order), "17 May", "the 1990s" in words."""

    def month(name: str) -> str:
        return next(m for m in MONTHS if m.startswith(name[:3]))

    def iso(m: re.Match[str]) -> str:
        y, mo, d = int(m[1]), int(m[2]), int(m[3])
        return f"{MONTHS[mo - 1]} {ordinal(d)}, {year(y)}" if 1 <= mo <= 12 and 1 <= d <= 31 else m[0]

    def slashed(m: re.Match[str]) -> str:
        mo, d, y = int(m[1]), int(m[2]), int(m[3])
        mo, d = (d, mo) if mo > 12 else (mo, d)
        y += (2000 if y < 50 else 1900) if y < 100 else 0
        return f"{MONTHS[mo - 1]} {ordinal(d)}, {year(y)}" if 1 <= mo <= 12 and 1 <= d <= 31 else m[0]

    text = re.sub(r"\b(\d{4})-(\d\d)-(\d\d)\b", iso, text)
    text = re.sub(r"\b(\d{1,2})[/.](\d{1,2})[/.](\d{4}|\d\d)\b(?!\.\d)", slashed, text)
    day = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
    its_year = r"(?:,?\s(?P<year>[12]\d{3}))?\b"

    def written(m: re.Match[str]) -> str:
        if not 1 <= int(m["day"]) <= 31:
            return m[0]
        its = f", {year(int(m['year']))}" if m["year"] else ""
        start = (
            "the "
            if m.re.pattern.startswith(r"\b(?P<day>") and not re.search(r"\bthe\s$", m.string[: m.start()], re.I)
            else ""
        )
        spoken = (
            f"{start}{ordinal(int(m['day']))} of {month(m['month'])}"
            if m.re.pattern.startswith(r"\b(?P<day>")
            else f"{month(m['month'])} {ordinal(int(m['day']))}"
        )
        return spoken + its

    text = re.sub(rf"\b{MONTH}\s{day}(?![\d:,.]*\d){its_year}", written, text)
    text = re.sub(rf"\b{MONTH}\s{day}(?=,\s[12]\d{{3}}\b){its_year}", written, text)
    text = re.sub(rf"\b{day}\s(?:of\s)?{MONTH}(?![a-z]){its_year}", written, text)
    text = re.sub(rf"\b{MONTH}(?=,?\s[12]\d{{3}}\b)", lambda m: month(m["month"]), text)
    text = re.sub(r"(?<!\w)'(\d)0s\b", lambda m: plural(cardinal(int(m[1]) * 10)), text)
    return re.sub(r"\b(1\d|20)(\d)0'?s\b", lambda m: plural(year(int(m[1] + m[2] + "0"))), text)
