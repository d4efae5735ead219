"""Numbers as English words: cardinals, ordinals, years, decimals, digit strings.

American style without "and" ("one hundred five"), because that is how Flite reads and so how the training speech sounds.
"""

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
SCALES = ("", "thousand", "million", "billion", "trillion", "quadrillion")
LARGEST = 10 ** (3 * len(SCALES)) - 1
IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def cardinal(n: int) -> str:
    """17005 -> 'seventeen thousand five'; beyond the quadrillions digit by digit."""
    if n < 0:
        return f"minus {cardinal(-n)}"
    if n > LARGEST:
        return digits(str(n))
    if n < 20:
        return SMALL[n]
    if n < 100:
        return TENS[n // 10] + (f" {SMALL[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{SMALL[n // 100]} hundred" + (f" {cardinal(n % 100)}" if n % 100 else "")
    groups = []
    for scale in SCALES:
        n, part = divmod(n, 1000)
        if part:
            groups.append(f"{cardinal(part)} {scale}".strip())
    return " ".join(reversed(groups))


def ordinal_word(word: str) -> str:
    """The last word of a cardinal made ordinal: 'three' -> 'third', 'twenty' -> 'twentieth'."""
    if word in IRREGULAR_ORDINALS:
        return IRREGULAR_ORDINALS[word]
    return f"{word[:-1]}ieth" if word.endswith("y") else f"{word}th"


def ordinal(n: int) -> str:
    """21 -> 'twenty first'."""
    head, _, last = cardinal(n).rpartition(" ")
    return f"{head} {ordinal_word(last)}".strip()


def year(n: int) -> str:
    """1905 -> 'nineteen oh five', 2005 -> 'two thousand five', 2024 -> 'twenty twenty four'."""
    century, rest = divmod(n, 100)
    if not 1000 < n < 10_000 or century % 10 == 0 and rest < 10:
        return cardinal(n)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def digits(text: str) -> str:
    """'007' -> 'zero zero seven'; every other character is skipped."""
    return " ".join(SMALL[int(c)] for c in text if c in "0123456789")


def decimal(text: str) -> str:
    """'1,234.50' -> 'one thousand two hundred thirty four point five zero'; '.5' -> 'point five'."""
    whole, point, fraction = text.replace(",", "").partition(".")
    head = number(whole) if whole else ""
    return f"{head} point {digits(fraction)}".strip() if point and fraction else head


def number(text: str) -> str:
    """A digit string as a quantity, or digit by digit where it is a code (leading zero, over 15 digits)."""
    if len(text) > 1 and text[0] == "0" or int(text) > LARGEST:
        return digits(text)
    return cardinal(int(text))


def plural(words: str) -> str:
    """The plural of the last word: 'nineteen ninety' -> 'nineteen nineties', 'six' -> 'sixes', 'foot' -> 'feet'."""
    head, _, last = words.rpartition(" ")
    if last in ("foot", "inch"):
        last = {"foot": "feet", "inch": "inches"}[last]
    elif last.endswith("y") and last[-2] not in "aeiou":
        last = f"{last[:-1]}ies"
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    elif last not in ("hertz", "celsius", "fahrenheit"):
        last += "s"
    return f"{head} {last}".strip()
