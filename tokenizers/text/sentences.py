"""Where sentences end, for a whole text or for text that arrives in pieces of any size.

A point ends a sentence unless it belongs to an abbreviation ("Dr. Smith"), an initial ("J. Smith"), a decimal or a dotted
acronym; where the next word decides ("on Main St. He", "the U.S. Treasury"), the splitter waits for that word.  Sentences
that are too long for one breath give way at clauses, then at words.  A text gives the same sentences however it is cut.
"""

import re

from solfa.core.errors import UserError
from solfa.tokenizers.text.normalize import speakable
from solfa.tokenizers.text.written_forms import OPENERS

MAX_SENTENCE = 20_000  # characters; an unfinished sentence that grows beyond is closed where it stands
CLOSERS = "\"'\u201d\u2019)\\]"
SENTENCE_END = re.compile(rf"(?<![.!?\u2026])[.!?\u2026]++[{CLOSERS}]*+(?=\s|$)|\n\s*\n")
CLAUSE_END = re.compile(r"(?:[,;:][\"'\u201d\u2019)\]]*|\s[-\u2013]|\u2014)(?=\s)")
WORDS = re.compile(r"\[[^\[\]]{0,40}\]|\S+")  # a tag such as [pause] is never cut
CONTEXT = 40  # characters before a mark, and after it, that can decide whether it ends a sentence

# Abbreviations that stand before a name or a number: never at the end of a sentence.
BEFORE_A_NAME = "Mr|Mrs|Ms|Dr|Prof|Mt|Gen|Col|Sgt|Capt|Lt|Cmdr|Rev|Hon|Gov|Sen|Rep|Pres|vs|approx|e\\.g|i\\.e|cf|ca"
# Abbreviations that may end a sentence: they do before a word that opens sentences, or at the end of a paragraph.
ANYWHERE = (
    "St|Ft|Ave|Blvd|Rd|Ln|Ct|Hwy|Inc|Ltd|Co|Corp|Bros|Jr|Sr|etc|al|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Dept|Univ"
    "|ft|in|lb|lbs|oz|hr|hrs|min|mins|sec|yd|mi|est|dept|misc|incl|tel|ext"
)
BEFORE_A_NUMBER = "No|Nos|no|nos|Fig|Figs|fig|figs|Eq|Eqs|eq|Vol|vol|Ch|ch|Sec|pp|p|Ref|ref|Art|Op|op|Tab"
# a name before them makes these a street or a drive: "on Main St. He"
STREET = re.compile(r"(?:[A-Z][a-z]+|\d(?:st|nd|rd|th))\s(?:St|Dr)\.$")
NEVER = re.compile(rf"(?<![\w.])(?:{BEFORE_A_NAME})\.$")
MAYBE = re.compile(rf"(?<![\w.])(?:{ANYWHERE})\.$|(?<![\w'])[A-HJ-Z]\.$|(?<!\w)(?:[A-Za-z]\.){{2,}}$")
NUMBERED = re.compile(rf"(?<![\w.])(?:{BEFORE_A_NUMBER})\.$")
OH_NO = re.compile(
    r"(?:\b[Oo]h|\b(?:say|says|said|is|was|answer|again|course)|[,:;\"'\u201c\u2018])\s*[\"'\u201c\u2018]?[Nn]o\.$"
)
OPENS = re.compile(rf"\s*(?:[\"'\u201c\u2018(\[]|(?:{OPENERS})\b|$)")


class SentenceSplitter:
    """Takes text in pieces of any size and gives back sentences as soon as they are surely closed.

    >>> splitter = SentenceSplitter()
    >>> splitter.push("Hel"), splitter.push("lo. How"), splitter.push(" are you?"), splitter.finish()
    ([], ['Hello.'], [], ['How are you?'])

    Nothing is inserted between pieces.  Sentences without anything that can be spoken are left out.
    """

    def __init__(self, max_chars: int = 400) -> None:
        """`max_chars`: the longest piece to give back; longer sentences are cut.  Raises: UserError when below 1."""
        if max_chars < 1:
            raise UserError(f"max_chars is {max_chars}, but must be at least 1")
        self.max_chars = max_chars
        self._text = ""  # the unfinished sentence, and what follows it
        self._looked = 0  # no sentence ends before this position of `_text`
        self._given = 0  # pieces of the unfinished sentence that were given back already
        self._shortened_at = 0  # the length of `_text` when such pieces were last looked for

    def push(self, piece: str) -> list[str]:
        """Add text; returns the sentences that it closes, in order, often none."""
        self._text += piece
        return self._closed(final=False)

    def finish(self) -> list[str]:
        """The text is complete: returns what is left of it.  The splitter is then ready for a new text."""
        return self._closed(final=True) + self._take(len(self._text))

    def _closed(self, final: bool) -> list[str]:
        sentences: list[str] = []
        while True:
            match = SENTENCE_END.search(self._text, self._looked)
            if (match.start() if match else len(self._text)) > MAX_SENTENCE:
                sentences += self._take(self._text.rfind(" ", 1, MAX_SENTENCE) + 1 or MAX_SENTENCE)
                continue
            if match is None:
                # A mark at the very end may go on ("..." or a quote); white space may become an empty line.
                kept = len(self._text.rstrip().rstrip(".!?\u2026\"'\u201d\u2019)]"))
                self._looked = max(self._looked, kept)
                break
            ends = _ends_sentence(self._text, match, final)
            if ends is None:
                self._looked = match.start()
                break
            if ends:
                sentences += self._take(match.end())
            else:
                self._looked = match.end()
        return sentences if final else sentences + self._ahead()

    def _take(self, end: int) -> list[str]:
        """The sentence up to `end`, in pieces, without those given back before; it leaves the buffer."""
        pieces = _shorten(self._text[:end].strip(), self.max_chars)[self._given :]
        self._text, self._looked, self._given, self._shortened_at = self._text[end:], 0, 0, 0
        return [p for p in pieces if speakable(p)]

    def _ahead(self) -> list[str]:
        """The first pieces of a sentence that is too long already: those that no later text can change."""
        if len(self._text) < self._shortened_at + 2 * self.max_chars + 2 * CONTEXT:
            return []
        self._shortened_at = len(self._text) - self.max_chars
        # What follows the last two pieces, or the last characters, may still be packed otherwise.
        pieces = _shorten(self._text.strip(), self.max_chars)
        sure = len(pieces) - 2
        while sure > 0 and sum(map(len, pieces[sure:])) < 2 * CONTEXT:
            sure -= 1
        new = pieces[self._given : max(sure, self._given)]
        self._given = max(sure, self._given)
        return [p for p in new if speakable(p)]


def split_sentences(text: str, max_chars: int = 400) -> list[str]:
    """Long text in pieces of at most `max_chars`: at sentence ends, else clause ends, else words, else anywhere.

    Every character but white space is in exactly one piece; pieces with nothing speakable in them are left out.
    """
    splitter = SentenceSplitter(max_chars)
    return splitter.push(text) + splitter.finish()


def _ends_sentence(text: str, mark: re.Match[str], final: bool) -> bool | None:
    """Whether a sentence ends with these marks; None where that depends on text that has not come yet."""
    if mark[0][0] == "\n":
        return True
    rest = text[mark.end() : mark.end() + CONTEXT]
    following = rest.lstrip()
    if not rest:  # more marks may follow
        return True if final else None
    bare = mark[0].rstrip("\"'\u201d\u2019)]")
    quoted, trails_off = bare != mark[0], bare == "\u2026" or bare[:2] == ".."
    if re.match(r"\s*\n\s*\n", rest) or not (quoted or trails_off or bare == "."):
        return True
    if not following and (quoted or trails_off):
        return True if final or len(rest) == CONTEXT else None
    if trails_off and re.search(r"\bI$", text[: mark.start()][-2:]) and following[0] == "I":  # "I... I don't know"
        return False
    if quoted or trails_off:
        return not following[0].islower()
    return _point_ends_sentence(text[max(0, mark.start() - CONTEXT) : mark.end()], rest, final)


def _point_ends_sentence(before: str, rest: str, final: bool) -> bool | None:
    """The same for a single point.  `before` ends with it, `rest` are the next characters."""
    maybe, numbered, street = MAYBE.search(before), NUMBERED.search(before), STREET.search(before)
    if NEVER.search(before) and not street:
        return False
    if not (maybe or numbered or street):
        return True
    following = rest.lstrip()
    if not final and len(rest) < CONTEXT and not re.match(r"\w{12}|\S+\s|[^\w\s]", following):
        return None  # the next word is not complete
    if numbered and not maybe and following:
        counted = r"\d" if numbered[0][:2].lower() == "no" else r"\d|[IVXLC]+\b|[A-Z]\b"
        return not re.match(counted, following) or bool(OH_NO.search(before))
    return bool(OPENS.match(rest))


def _shorten(sentence: str, max_chars: int) -> list[str]:
    """Clauses packed into as few pieces as fit; a clause that is too long gives way at words, a word anywhere."""
    if not sentence:
        return []
    if len(sentence) <= max_chars:
        return [sentence]
    parts: list[str] = []
    for clause in _clauses(sentence):
        if len(clause) <= max_chars:
            parts.append(clause)
            continue
        for word in WORDS.findall(clause):
            parts += [word[i : i + max_chars] for i in range(0, len(word), max_chars)]
    pieces = [parts[0]]
    for part in parts[1:]:
        if len(pieces[-1]) + 1 + len(part) <= max_chars:
            pieces[-1] += f" {part}"
        else:
            pieces.append(part)
    return pieces


def _clauses(sentence: str) -> list[str]:
    ends = [0, *(m.end() for m in CLAUSE_END.finditer(sentence)), len(sentence)]
    clauses = (sentence[a:b].strip() for a, b in zip(ends[:-1], ends[1:], strict=True))
    return [c for c in clauses if c]
