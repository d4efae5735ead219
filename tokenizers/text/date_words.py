"""Clock times, dates, decades, and ranges of them, in words."""

import re
from collections.abc import Callable

from solfa.tokenizers.text.number_words import cardinal, ordinal, plural, year
from solfa.tokenizers.text.written_forms import MONTH, MONTHS, OPENERS, WEEKDAYS

DASH = r"\s?[-\u2013]\s?"
HALF = r"(?:\s?([aApP])(?:\.\s?[mM]\b\.?|[mM]\b))"  # of the day
DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
ITS_YEAR = r"(?:,?\s(?P<year>[12]\d{3}))?\b"


def ends_sentence(m: re.Match[str]) -> str:
    """The point of an abbreviation also ends the sentence when nothing follows, or a word that opens sentences."""
    ends = rf"[\"')]*\s*$|[\"')]*\s+(?:{OPENERS})\b"
    return "." if m[0].endswith(".") and re.match(ends, m.string[m.end() : m.end() + 40]) else ""


def clock(hour: int, minute: int, second: int = 0, whole: str = "") -> str:
    """3, 30 -> 'three thirty'; 10, 5 -> 'ten oh five'.  `whole`: what follows a full hour, such as " o'clock"."""
    small = whole if minute == 0 else f" oh {cardinal(minute)}" if minute < 10 else f" {cardinal(minute)}"
    return f"{cardinal(hour)}{small}" + (f" and {cardinal(second)} seconds" if second else "")


def times(text: str) -> str:
    """ "3:30 p.m." -> "three thirty P M", "at 3:00" -> "at three o'clock", "10am-5pm" -> "ten A M to five P M"."""

    def half(letter: str | None) -> str:
        return f" {letter.upper()} M" if letter else ""

    def span(m: re.Match[str]) -> str:
        first, small, its, last, small2, its2 = m.groups()
        known = small and small2 or its2 or its and last.isalpha()
        if not known or not valid(first, small) or last.isdigit() and not valid(last, small2):
            return m[0]
        end = clock(int(last), int(small2 or 0)) if last.isdigit() else last
        return f"{clock(int(first), int(small or 0))}{half(its)} to {end}{half(its2)}" + ends_sentence(m)

    def one(m: re.Match[str]) -> str:
        hour, minute, second = int(m[1]), int(m[2]), int(m[3] or 0)
        if hour > 24:
            return m[0]
        whole = "" if m[4] else " o'clock" if 0 < hour <= 12 and not second else " hundred"
        return clock(hour, minute, second, whole) + half(m[4]) + ends_sentence(m)

    def valid(hour: str, minute: str | None) -> bool:
        return int(hour) <= 24 and int(minute or 0) < 60

    moment = r"(\d{1,2})(?::([0-5]\d))?"
    text = re.sub(r"(?<![\d.$])(\d{1,2})\.([0-5]\d)(?=\s?[ap]\.?m\b)", r"\1:\2", text)  # "5.30pm"
    text = re.sub(rf"\b(noon|midnight){DASH}(?=\d)", r"\1 to ", text)
    end = r"(\d{1,2}|noon\b|midnight\b)(?::([0-5]\d))?"
    text = re.sub(rf"(?<![\d:.$/-]){moment}{HALF}?{DASH}{end}(?![\d:/]){HALF}?", span, text)
    text = re.sub(rf"(?<![\d:.])(\d{{1,2}}):([0-5]\d)(?::([0-5]\d))?(?![\d:]){HALF}?", one, text)
    text = re.sub(rf"\b(\d{{1,2}}){HALF}", lambda m: f"{cardinal(int(m[1]))}{half(m[2])}" + ends_sentence(m), text)
    return re.sub(r"\b([ap])\.\s?m\.", lambda m: f"{m[1].upper()} M" + ends_sentence(m), text)


def month(name: str) -> str:
    """'Jan.' -> 'january'."""
    return next(m for m in MONTHS if m.startswith(name[:3])).lower()


def iso_dates(text: str) -> str:
    """ "2024-05-17", "2024/05/17", "2024-01-15T14:30:00Z" in words."""

    def spoken(m: re.Match[str]) -> str:
        y, mo, d = int(m[1]), int(m[2]), int(m[3])
        if not (1 <= mo <= 12 and 1 <= d <= 31):
            return m[0]
        words = f"{MONTHS[mo - 1]} {ordinal(d)}, {year(y)}"
        if m[4] and int(m[4]) <= 24:
            whole = " o'clock" if 0 < int(m[4]) <= 12 else " hundred"
            words += f", {clock(int(m[4]), int(m[5]), int(m[6] or 0), whole)}" + (" U T C" if m[7] else "")
        return words

    time = r"(?:[T ]([0-2]\d):([0-5]\d)(?::([0-5]\d)(?:\.\d{1,9})?)?(?![\d:])(Z\b)?)?"
    return re.sub(rf"\b([12]\d{{3}})[-/](\d\d)[-/](\d\d)(?!\d){time}", spoken, text)


def ranges(text: str) -> str:
    """Weekdays, months and days of a month from one to another: "Mon-Fri", "Jan.-Mar.", "Jan 5-7", "Jan. 5–Feb. 3"."""
    days = {d: full for full in WEEKDAYS for d in (full, full[:3], full[:4], full[:5])}
    months = {n: n for m in MONTHS for n in (m, m[:3], m[:4])}
    if "-" in text or "\u2013" in text:
        text = _named_range(_named_range(text, days, days.__getitem__), months, month)
    short = rf"\b(Mon|Tues?|Wed|Thu(?:rs)?|Fri|Sat|Sun)\.?(?=,? (?:{'|'.join(m[:3] for m in MONTHS)}))"
    text = re.sub(short, lambda m: days[m[1]].lower(), text)
    text = re.sub(rf"\b({MONTH}\s\d{{1,2}}){DASH}(?=[A-Z][a-z]{{2,8}}\.?\s\d)", r"\1 to ", text)
    within = rf"\b{MONTH}\s(\d{{1,2}}){DASH}(\d{{1,2}})\b(?!:)"
    return re.sub(within, lambda m: f"{month(m['month'])} {ordinal(int(m[2]))} to {ordinal(int(m[3]))}", text)


def _named_range(text: str, names: dict[str, str], full: Callable[[str], str]) -> str:
    """'Mon-Fri' -> 'monday to friday' for the keys of `names`."""
    name = rf"({'|'.join(sorted(names, key=len, reverse=True))})\b\.?"
    return re.sub(
        rf"\b{name}{DASH}{name}(?!\s?\d{{1,2}}\b|-?\w)",
        lambda m: f"{full(m[1]).lower()} to {full(m[2]).lower()}" + ends_sentence(m),
        text,
    )


def decades(text: str) -> str:
    """ "the 1990s", "the '80s", "her 20s", "mid-80s" in words; "wait 60s" is left to the units."""

    def tens(digit: str) -> str:
        return plural(cardinal(int(digit) * 10)) if digit != "0" else "two thousands"

    owner = r"(\b(?:[Tt]he|[Hh]is|[Hh]er|[Tt]heir|[Mm]y|[Oo]ur|[Yy]our|early|late|mid)(?:\s|-))"
    text = re.sub(rf"{owner}'?(\d)0'?s\b", lambda m: m[1].replace("-", " ") + tens(m[2]), text)
    text = re.sub(r"(?<!\w)'(\d)0'?s\b", lambda m: tens(m[1]), text)
    for _ in range(2):  # "the 40s, 50s and 60s"
        text = re.sub(r"(?<=ties)(,? (?:and|or|to|through) |, )(\d)0s\b", lambda m: m[1] + tens(m[2]), text)
    text = re.sub(
        r"\b(\d)0s (?=music|fashion|style|rock|pop|film|show|hit|song|era\b)", lambda m: tens(m[1]) + " ", text
    )
    text = re.sub(r"(?<!\w)(mid)-(?=1\d{3}s|20\d0s)", r"\1 ", text)
    return re.sub(r"\b(1\d|20)(\d)0'?s\b", lambda m: plural(year(int(m[1] + m[2] + "0"))), text)


def dates(text: str) -> str:
    """ "May 5, 2005", "5/17/2024" (American order), "17 May", "on 7/4", "44 B.C.", "the class of '98" in words."""

    def slashed(m: re.Match[str]) -> str:
        mo, d, y = int(m[1]), int(m[2] or m[3]), int(m[4])
        mo, d = (d, mo) if mo > 12 else (mo, d)
        y += (2000 if y < 50 else 1900) if y < 100 else 0
        return f"{MONTHS[mo - 1]} {ordinal(d)}, {year(y)}" if 1 <= mo <= 12 and 1 <= d <= 31 else m[0]

    def short(m: re.Match[str]) -> str:
        mo, d = int(m[2]), int(m[3])
        return f"{m[1]} {MONTHS[mo - 1]} {ordinal(d)}" if 1 <= mo <= 12 and 1 <= d <= 31 else m[0]

    def its_year(m: re.Match[str]) -> str:
        return f", {year(int(m['year']))}" if m["year"] else ""

    def month_first(m: re.Match[str]) -> str:
        return f"{month(m['month'])} {ordinal(int(m['day']))}" + its_year(m) if 1 <= int(m["day"]) <= 31 else m[0]

    def day_first(m: re.Match[str]) -> str:
        if not 1 <= int(m["day"]) <= 31:
            return m[0]
        plain = re.search(r"\bthe\s$", m.string[: m.start()], re.I) or re.match(r"\d+[a-z]", m[0]) and " of " in m[0]
        return f"{'' if plain else 'the '}{ordinal(int(m['day']))} of {month(m['month'])}" + its_year(m)

    text = re.sub(r"\b(\d{1,2})(?:/(\d{1,2})/|\.(\d{1,2})\.)(\d{4}|\d\d)\b(?!\.\d)", slashed, text)
    text = re.sub(r"\b([Oo]n|[Uu]ntil|[Ss]ince) (\d{1,2})/(\d{1,2})\b(?!/)", short, text)
    text = re.sub(rf"\b{MONTH}\s{DAY}(?![\d:,.]*\d){ITS_YEAR}", month_first, text)
    text = re.sub(rf"\b{MONTH}\s{DAY}(?=,\s[12]\d{{3}}\b){ITS_YEAR}", month_first, text)
    text = re.sub(rf"\b{DAY}\s(?:of\s)?{MONTH}(?![a-z]){ITS_YEAR}", day_first, text)
    text = re.sub(rf"\b{MONTH}(?=,?\s[12]\d{{3}}\b)", lambda m: month(m["month"]), text)
    text = re.sub(r"(?<!\w)'(\d\d)\b(?!\w|'|\.\d)", lambda m: short_year(m[1]), text)
    era = r"\b(\d{1,4}) ?(B\.\s?C\.(?:\s?E\.)?|A\.\s?D\.|C\.\s?E\.|BCE?\b|AD\b|CE\b)"
    text = re.sub(era, lambda m: f"{year(int(m[1]))} {' '.join(re.findall('[A-Z]', m[2]))}" + ends_sentence(m), text)
    return re.sub(r"\b(?:A\.\s?D\.|AD) (\d{1,4})\b", lambda m: f"A D {year(int(m[1]))}", text)


def short_year(two: str) -> str:
    """The last two digits of a year: '98' -> 'ninety eight', '05' -> 'oh five'."""
    return f"oh {cardinal(int(two))}" if two[0] == "0" else cardinal(int(two))
