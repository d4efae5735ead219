"""Written English becomes the words that a reader would say."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solfa.tokenizers.text.normalize import normalize, speakable, unknown_tags
from solfa.tokenizers.text.number_words import cardinal, decimal, ordinal, plural, year

KNOWN = frozenset("hello world this is great stop now the and help mcdonald".split())

READINGS = {
    # numbers
    "1,234,567 people": "one million two hundred thirty four thousand five hundred sixty seven people",
    "3.14 and .5 and 0.25": "three point one four and point five and zero point two five",
    "3/4 of 10½": "three quarters of ten and a half",
    "1st 2nd 3rd 11th 21st 101st": "first second third eleventh twenty first one hundred first",
    "agent 007": "agent zero zero seven",
    "10-20 people": "ten to twenty people",
    "-5 degrees": "minus five degrees",
    "version 1.2.3": "version one point two point three",
    "Call 555-123-4567 now": "call five five five, one two three, four five six seven now",
    # years and dates
    "In 1905, in 2005, in 2024": "in nineteen oh five, in two thousand five, in twenty twenty four",
    "the 1990s and the ’80s": "the nineteen nineties and the eighties",
    "May 5, 2005": "may fifth, two thousand five",
    "on 2024-05-17": "on may seventeenth, twenty twenty four",
    "on 5/17/2024": "on may seventeenth, twenty twenty four",
    "17 May 2024": "the seventeenth of may, twenty twenty four",
    "the 4th of July": "the fourth of july",
    # times
    "at 3:30 p.m. we": "at three thirty P M we",
    "at 10:05": "at ten oh five",
    "at 3:00": "at three o'clock",
    "at 10am": "at ten A M",
    # money
    "$5.50": "five dollars and fifty cents",
    "$1,000.00": "one thousand dollars",
    "$3 million and €2bn": "three million dollars and two billion euros",
    "£1 or 50¢": "one pound or fifty cents",
    # units
    "20°C": "twenty degrees celsius",
    "5 km at 10 km/h": "five kilometers at ten kilometers per hour",
    "1 lb, 5 ft": "one pound, five feet",
    "5 in the morning": "five in the morning",
    "100%": "one hundred percent",
    # abbreviations and capitals
    "Dr. Smith, Mr. and Mrs. Brown": "doctor smith, mister and missus brown",
    "He lives at 5 Main St. He is well.": "he lives at five main street. he is well.",
    "St. Mary": "saint mary",
    "the U.S. economy": "the U S economy",
    "e.g. this & that": "for example this and that",
    "J. K. Rowling": "J K rowling",
    "plan B. The end": "plan B. the end",
    "The FBI and NASA met. CEOs came.": "the F B I and nasa met. C E O's came.",
    "HELLO WORLD, THIS IS GREAT": "hello world, this is great",
    "A man with vitamin A.": "a man with vitamin A.",
    "McDonald's iPhone12, B2B, A4": "mcdonald's i phone twelve, B two B, A four",
    "Henry VIII, World War II, Chapter IV": "henry the eighth, world war two, chapter four",
    # addresses
    "See https://www.example.com/a-b?x=1.": "see W W W dot example dot com slash a dash b.",
    "mail bob.smith@example.co.uk": "mail bob dot smith at example dot co dot U K",
    # punctuation, scripts, layout
    "It’s “nice” — isn’t it?!": "it's nice - isn't it?",
    "Wait... what? Yes... No.": "wait, what? yes. no.",
    "'Permit me, Sir,' he said": "permit me, sir, he said",
    "well-known (so they say)": "well known, so they say",
    "Naïve café, Æsop, Łódź": "naive cafe, aesop, lodz",
    "good 😀 morning 你好": "good morning",
    "- one\n- two\n\nNext": "one. two. next",
    "**bold** and <b>tags</b>": "bold and tags",
    "[pause] hello [laugh] there [Pause]": "[pause] hello there [pause]",
}


@pytest.mark.parametrize(("written", "read"), READINGS.items())
def test_reading(written, read):
    assert normalize(written, KNOWN).rstrip(",") == read


@pytest.mark.parametrize(
    ("spoken", "expected"),
    [
        (cardinal(0), "zero"),
        (cardinal(-17_005), "minus seventeen thousand five"),
        (cardinal(10**18), "one " + " ".join(["zero"] * 18)),
        (ordinal(12), "twelfth"),
        (ordinal(20), "twentieth"),
        (year(1900), "nineteen hundred"),
        (year(2000), "two thousand"),
        (decimal("1,234.50"), "one thousand two hundred thirty four point five zero"),
        (plural("square foot"), "square feet"),
    ],
)
def test_numbers(spoken, expected):
    assert spoken == expected


@settings(deadline=None)
@given(st.text(max_size=200))
def test_only_words_and_marks_come_out(text):
    spoken = normalize(text)
    assert set(spoken.replace("[pause]", "")) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ' ,.?!;:-")
    assert "  " not in spoken and spoken == spoken.strip()


@settings(deadline=None)
@given(st.text(alphabet="0123456789:/.,-$€%£° ()apmstnkK'", max_size=40))
def test_no_digit_and_no_sign_is_left_in_odd_figures(text):
    assert not any(c.isdigit() or c in "$€%£°/" for c in normalize(text))


def test_what_can_be_spoken():
    assert speakable("ok") and speakable("5") and speakable("é")
    assert not speakable("😀 ...") and not speakable("你好") and not speakable("[laugh]")


def test_unknown_tags_are_named():
    assert unknown_tags("[pause] a [Laugh] b [12] [sigh]") == ["laugh", "sigh"]


@pytest.mark.parametrize("tag", ["laugh", "LAUGHS", "clears throat", "sigh", "excited", " whispering "])
def test_tags_are_not_read(tag):
    assert normalize(f"Hello [{tag}] there.") == "hello there."
    assert not speakable(f"[{tag}]") and unknown_tags(f"[{tag}]") == [tag.strip().lower()]


@pytest.mark.parametrize("words", ["sic", "his wife", "Oswald", "see below", "5 men"])
def test_other_brackets_are_read(words):
    assert normalize(f"Then he [{words}] left.") == f"then he, {words.lower().replace('5', 'five')}, left."
    assert speakable(f"[{words}]") and unknown_tags(f"[{words}]") == []


# floods

NINES = " ".join(["nine"] * 5000)
FLOODS = {
    "9" * 20_000: " ".join(["nine"] * 20_000),
    "$" + "9" * 5000: f"{NINES} dollars",
    "-$" + "9" * 5000: f"minus {NINES} dollars",
    "1/" + "9" * 5000: f"one over {NINES}",
    "1." + "9" * 5000: f"one point {NINES}",
    "$1." + "9" * 5000: f"one point {NINES} dollars",
    "9" * 5000 + "%": f"{NINES} percent",
    "9" * 5000 + " km": f"{NINES} kilometers",
    "1," + "000," * 2000 + "000": "one " + " ".join(["zero"] * 6003),
    "9"
    * 15: "nine hundred ninety nine trillion nine hundred ninety nine billion nine hundred ninety nine million nine hundred "
    "ninety nine thousand nine hundred ninety nine",
}


@pytest.mark.parametrize("text", FLOODS, ids=lambda t: f"{t[:4]}-{len(t)}")
def test_long_digit_strings_are_read_digit_by_digit(text):
    if len(text) == 15:
        text = f"${text}"
        assert normalize(text) == f"{FLOODS[text[1:]]} dollars"
    else:
        assert normalize(text) == FLOODS[text]


@pytest.mark.slow  # CPU times are meant for an idle machine
@pytest.mark.parametrize(
    "unit",
    "5|1/|1-|1,|1.|$|$1|a.|A|A |'|[a|1:|1:00|x^|5'|5\"|(|1 |1,000,|a-|1e|\n|- \n|X|XI |a@|@|a.b|www.|#|*a|no. |J. |5m|5 m/|½|¹|10-|Mon-|"
    "Jan |Jan 5-|the 60s |5 - |=|<|</|~|+1|--|—|...| .|0|1 1/2 |CA |III |w/|p. |p.m. |°|1990s | '9|Aa|a'".split("|"),
)
def test_a_flood_takes_linear_time(unit):
    start = time.process_time()
    normalize((unit * 20_000)[:20_000], KNOWN)
    assert time.process_time() - start < 1.5
