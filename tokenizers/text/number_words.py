"""Numbers as English words: cardinals, ordinals, years, decimals, digit strings.

American style without "and" ("one hundred five"), because that is how Flite reads and so how the training speech sounds.
The words themselves come from num2words; money and codes are ours, since num2words reads 0.5 dollars as "zero dollars, fifty
cents" and has no digit strings.
"""

from functools import lru_cache

DIGITS = "zero one two three four five six seven eight nine".split()
LARGEST = 10**18 - 1  # beyond it a number is read digit by digit
LONGEST = 15  # digits; a longer string is a code


@lru_cache(8192)
def _words(n: int, kind: str) -> str:
    from num2words import num2words  # takes 30 ms to import; only a text with numbers needs it

    return num2words(n, to=kind).replace(",", "").replace("-", " ").replace(" and ", " ")


def cardinal(n: int) -> str:
    """17005 -> 'seventeen thousand five'; beyond the quadrillions digit by digit."""
    if abs(n) > LARGEST:
        return ("minus " if n < 0 else "") + digits(str(abs(n)))
    return _words(n, "cardinal")


def ordinal(n: int) -> str:
    """21 -> 'twenty first'; beyond the quadrillions digit by digit."""
    return _words(n, "ordinal") if n <= LARGEST else digits(str(n))


def year(n: int) -> str:
    """1905 -> 'nineteen oh five', 2005 -> 'two thousand five', 2024 -> 'twenty twenty four'."""
    return _words(n, "year") if 1000 < n < 10_000 else cardinal(n)


def digits(text: str, zero: str = "zero") -> str:
    """'007' -> 'zero zero seven'; every other character is skipped.  `zero`: the word for 0, "oh" in a ZIP code."""
    return " ".join(DIGITS[int(c)] if c != "0" else zero for c in text if c in "0123456789")


def pairs(text: str) -> str:
    """Three or four digits as rooms, flights and houses are read: '237' -> 'two thirty seven', '1080' -> 'ten eighty'."""
    if len(text) not in (3, 4) or text[0] == "0" or text[1:] == "000":
        return number(text)
    head, rest = cardinal(int(text[:-2])), int(text[-2:])
    return f"{head} hundred" if rest == 0 else f"{head} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def decimal(text: str) -> str:
    """'1,234.50' -> 'one thousand two hundred thirty four point five zero'; '.5' -> 'point five'."""
    whole, point, fraction = text.replace(",", "").partition(".")
    head = number(whole) if whole else ""
    return f"{head} point {digits(fraction)}".strip() if point and fraction else head


def number(text: str) -> str:
    """A digit string as a quantity, or digit by digit where it is a code (leading zero, over 15 digits)."""
    if len(text) > 1 and text[0] == "0" or len(text) > LONGEST:
        return digits(text)
    return cardinal(int(text))


def plural(words: str) -> str:
    """The plural of the last word: 'nineteen ninety' -> 'nineteen nineties', 'six' -> 'sixes', 'foot' -> 'feet'."""
    head, _, last = words.rpartition(" ")
    if last in ("foot", "inch"):
        last = {"foot": "feet", "inch": "inches"}[last]
    elif last.endswith("y") and last[-2] not in "aeiou":
        last = f"{last[:-1]}ies"
    elif last.endswith("hertz") or last in ("celsius", "fahrenheit"):
        pass
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    else:
        last += "s"
    return f"{head} {last}".strip()
