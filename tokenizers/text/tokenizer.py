"""English text -> phones, the front end that speech synthesis reads; and phones <-> IDs.

Text is normalized (`normalize.py`), words are looked up in a lexicon, and what it lacks is spelled out by a small
letter-to-phone network (`g2p.py`).  Pronunciations are those of Flite (CMU lexicon), whose phone set this is:
consonants, vowels ("ow"), stressed vowels ("ow1"), punctuation as pauses, and `pau`, a pause without punctuation.
"""

import re
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from solfa.core import checkpoints
from solfa.core.errors import UserError
from solfa.tokenizers.text.acronyms import INTERJECTIONS
from solfa.tokenizers.text.corrections import CORRECTIONS
from solfa.tokenizers.text.homographs import choose
from solfa.tokenizers.text.normalize import PAUSE, TAG, fold, normalize, speakable, unknown_tags
from solfa.tokenizers.text.sentences import split_sentences

if TYPE_CHECKING:
    from solfa.tokenizers.text.g2p import Speller

MAX_CHARS = 20_000
SPECIALS = ["<pad>"]
PUNCTUATION = [",", ".", "?", "!", ";", ":", "-"]
CONSONANTS = "b ch d dh f g hh jh k l m n ng p r s sh t th v w y z zh".split()
VOWELS = "aa ae ah ao aw ax ay eh er ey ih iy ow oy uh uw".split()
STRESSED = [f"{v}1" for v in VOWELS if v != "ax"]
VOCABULARY = SPECIALS + ["pau", *PUNCTUATION] + CONSONANTS + VOWELS + STRESSED
LETTER_NAMES = {
    "A": "ey1", "B": "b iy1", "C": "s iy1", "D": "d iy1", "E": "iy1", "F": "eh1 f", "G": "jh iy1", "H": "ey1 ch",
    "I": "ay1", "J": "jh ey1", "K": "k ey1", "L": "eh1 l", "M": "eh1 m", "N": "eh1 n", "O": "ow1", "P": "p iy1",
    "Q": "k y uw1", "R": "aa1 r", "S": "eh1 s", "T": "t iy1", "U": "y uw1", "V": "v iy1", "W": "d ah1 b ax l y uw",
    "X": "eh1 k s", "Y": "w ay1", "Z": "z iy1",
}  # fmt: skip
DRAWN_OUT = re.compile(r"([a-z])\1{2,}")


@dataclass(frozen=True)
class Phones:
    """What is said, in order: symbols from `TextTokenizer.vocab`, beginning with `pau`, ending with punctuation."""

    symbols: list[str]
    words: list[str]  # lower case, as read aloud: "3" gives "three"
    word_index: list[int]  # per symbol its word, -1 for pauses and punctuation
    long_pauses: list[int] = field(default_factory=list)  # positions of the `pau` that a [pause] tag asked for
    warnings: list[str] = field(default_factory=list)  # what was left out, one sentence each


@dataclass(frozen=True)
class Explanation:
    """How one sentence of a text will be read aloud; `str()` of it is a few lines for a terminal."""

    written: str  # the sentence as it stands in the text
    read: str  # the same in words, as `TextTokenizer.normalize` gives it
    changes: list[
        tuple[str, str]
    ]  # what was written and what is read for it, where the two differ: ("$5", "five dollars")
    words: list[tuple[str, str]]  # per word its phones, spaces between; pauses are ("," , ",") or ("[pause]", "pau")
    warnings: list[str]  # what is left out, one sentence each

    @property
    def pauses(self) -> list[tuple[int, str]]:
        """(number of words before it, mark or "pau") of each pause, in order."""
        places, words = [], 0
        for word, phones in self.words:
            if word in PUNCTUATION or word == PAUSE:
                places.append((words, phones))
            else:
                words += 1
        return places

    def __str__(self) -> str:
        phones = "  ".join(p if p in PUNCTUATION or p == "pau" else f"{w} [{p}]" for w, p in self.words)
        changes = "; ".join(f"{a} -> {b}" for a, b in self.changes)
        rows = [("text", self.written), ("read", self.read), ("changed", changes), ("phones", phones)]
        rows += [("note", w) for w in self.warnings]
        return "\n".join(f"{name + ':':<9}{value}" for name, value in rows if value)


class TextTokenizer:
    """Text <-> phones <-> IDs.  Needs no other program and no network; loading reads a configuration and nothing else."""

    vocab: list[str] = VOCABULARY

    def __init__(self, folder: Path) -> None:
        """`folder`: a checkpoint of kind "text" with `lexicon.txt`."""
        self.folder = folder
        self.config = checkpoints.read_config(folder, "text")
        if not (folder / "lexicon.txt").is_file():
            raise UserError(f"checkpoint folder {folder} has no lexicon.txt")
        if self.config.get("vocab") != VOCABULARY:
            raise UserError(f"the phones in {folder / 'config.json'} are not the ones that this solfa speaks")
        self._ids = {s: i for i, s in enumerate(self.vocab)}

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None) -> "TextTokenizer":
        """The bundled default, a bundled name, a folder, or hf:owner/name."""
        return cls(checkpoints.resolve(name, "text"))

    @property
    def vocab_size(self) -> int:
        """Number of symbols: phones, pauses and the padding symbol."""
        return len(self.vocab)

    @cached_property
    def lexicon(self) -> Mapping[str, str]:
        """Word -> phones with spaces between; a verb's own pronunciation follows after a tab ("record")."""
        lines = (self.folder / "lexicon.txt").read_text(encoding="utf-8").splitlines()
        entries = (line.split("\t", 1) for line in lines if "\t" in line)
        return {word: phones for word, phones in entries}

    @cached_property
    def spell_out(self) -> "Speller":
        """The network for words outside the lexicon, loaded when the first such word comes."""
        from solfa.tokenizers.text.g2p import Speller

        return Speller.from_folder(self.folder)

    def encode(self, symbols: Iterable[str]) -> list[int]:
        """Symbols -> IDs; the inverse of `decode`."""
        try:
            return [self._ids[s] for s in symbols]
        except KeyError as e:
            raise UserError(f"{e.args[0]!r} is not a phone or pause that this tokenizer knows") from None

    def decode(self, ids: Iterable[int]) -> list[str]:
        """IDs -> symbols; the inverse of `encode`."""
        ids = list(ids)
        wrong = [i for i in ids if not 0 <= i < self.vocab_size]
        if wrong:
            raise UserError(f"phone ID {wrong[0]} is outside 0..{self.vocab_size - 1}")
        return [self.vocab[i] for i in ids]

    def normalize(self, text: str) -> str:
        """`text` as it will be read aloud, in words; raises `UserError` when there is nothing to say or too much."""
        check(text)
        spoken = normalize(text, ChainMap(CORRECTIONS, self.lexicon))  # type: ignore[arg-type]
        if not re.search("[A-Za-z]", TAG.sub("", spoken)):
            raise UserError(f"there is nothing to speak in the text {_short(text)}")
        return spoken

    def phones(self, text: str) -> Phones:
        """Text -> phones with the word that each belongs to; raises like `normalize`."""
        symbols, index = ["pau"], [-1]
        long_pauses: list[int] = []
        words: list[str] = []
        for token, phones in self._read(self.normalize(text)):
            if token in PUNCTUATION or token == PAUSE:
                if token == PAUSE:
                    long_pauses.append(len(symbols))
                index.append(-1)
            else:
                index += [len(words)] * len(phones)
                words.append(token.lower())
            symbols += phones
        return Phones(symbols, words, index, long_pauses, _left_out(text))

    def _read(self, spoken: str) -> list[tuple[str, list[str]]]:
        """Normalized text -> its words and pauses in order, each with its phones; the last is punctuation."""
        tokens = re.findall(r"\[pause\]|[A-Za-z]+(?:'[A-Za-z]+)*|'[a-z]+|[,.?!;:-]", spoken)
        if tokens[-1] not in PUNCTUATION:
            tokens.append(".")
        said = iter(self.pronounce([t for t in tokens if t not in PUNCTUATION and t != PAUSE]))
        return [(t, [t] if t in PUNCTUATION else ["pau"] if t == PAUSE else next(said)) for t in tokens]

    def explain(self, text: str) -> list[Explanation]:
        """How `text` will be read, one row per sentence: what was written, what is read for it, phones and pauses.

        A command prints the rows with `print(row)`; a program reads the fields of `Explanation`.
        Raises: UserError like `normalize`.
        """
        self.normalize(text)
        rows = []
        for sentence in split_sentences(text):
            try:
                read = self.normalize(sentence)
            except UserError:  # a piece without words, such as "..."; the whole text has some
                continue
            words = [(t, " ".join(p)) for t, p in self._read(read)]
            rows.append(Explanation(sentence, read, _changes(sentence, read), words, _left_out(sentence)))
        return rows

    def pronounce(self, words: list[str]) -> list[list[str]]:
        """Phones of each word of one text, as neighbours shape them: "the apple", "to record"; capitals are letters."""
        said = [self._known(w) for w in words]
        missing = sorted({w for w, p in zip(words, said, strict=True) if p is None})
        guessed = dict(zip(missing, self.spell_out(missing), strict=True)) if missing else {}
        out = []
        for i, (word, phones) in enumerate(zip(words, said, strict=True)):
            readings = (phones if phones is not None else guessed[word]).split("\t")
            out.append(choose(words, i, readings).split())
        for i, word in enumerate(words):
            if word == "the" and i + 1 < len(out) and out[i + 1][0][0] in "aeiou":
                out[i] = ["dh", "iy"]
        return out

    def _known(self, word: str) -> str | None:
        """Phones from the tables, the lexicon or by rule; None for a word that must be spelled out."""
        if word.isupper():
            return LETTER_NAMES.get(word) if len(word) == 1 else None
        if word in CORRECTIONS:
            return CORRECTIONS[word]
        if (sound := INTERJECTIONS.get(word) or INTERJECTIONS.get(DRAWN_OUT.sub(r"\1\1", word))) is not None:
            return sound
        if word in self.lexicon:
            return self.lexicon[word]
        if DRAWN_OUT.search(word):  # "sooo", "noooo"
            for short in (DRAWN_OUT.sub(r"\1\1", word), DRAWN_OUT.sub(r"\1", word)):
                if short in self.lexicon:
                    return self.lexicon[short]
        stem, mark, ending = word.rpartition("'")
        if not mark:
            return None
        if stem and ending in CLITICS:
            known = (
                LETTER_NAMES.get(stem) or CORRECTIONS.get(stem) or self.lexicon.get(stem) or self.spell_out([stem])[0]
            )
            return " ".join(attach(known.split("\t")[0].split(), ending))
        return self.lexicon.get(word.replace("'", ""))


CLITICS = {"s": "z", "d": "d", "ll": "l", "ve": "v", "re": "r", "m": "m"}


def attach(stem: list[str], ending: str) -> list[str]:
    """Phones of "stem'ending" for the endings of `CLITICS`, as Flite attaches them."""
    sound, last = CLITICS[ending], stem[-1]
    vowel = last[0] in "aeiou"
    if ending == "s":
        if last in ("s", "z", "sh", "zh", "ch", "jh"):
            return [*stem, "ax", "z"]
        return [*stem, "s" if last in ("p", "t", "k", "f", "th", "hh") else "z"]
    if ending == "re" and not vowel:
        return [*stem, "er"]
    return [*stem, sound] if vowel and last != "er" else [*stem, "ax", sound]


def check(text: str) -> None:
    """Raises `UserError` with what is wrong when a text cannot be spoken."""
    if len(text) > MAX_CHARS:
        raise UserError(f"the text has {len(text):,} characters; the limit is {MAX_CHARS:,} at a time")
    if not text.strip():
        raise UserError("the text is empty")
    if speakable(text):
        return
    rest = TAG.sub("", text)
    if any(c.isalpha() for c in fold(rest)):
        raise UserError(f"the text {_short(text)} has no English in it: only Latin letters and digits can be spoken")
    raise UserError(f"there is nothing to speak in the text {_short(text)}: it has no letter and no digit")


def _changes(written: str, read: str) -> list[tuple[str, str]]:
    """Runs of words that differ between the text and its reading; capitals and marks around a word are no difference."""
    a, b = written.split(), read.split()
    plain = [[w.lower().strip(",.?!;:\"'()\u201c\u201d\u2018\u2019-\u2013\u2014") for w in side] for side in (a, b)]
    codes = SequenceMatcher(None, plain[0], plain[1], autojunk=False).get_opcodes()
    return [(" ".join(a[i:j]), " ".join(b[k:n])) for code, i, j, k, n in codes if code != "equal"]


def _left_out(text: str) -> list[str]:
    warnings = [f"the tag [{name}] is unknown and was ignored" for name in dict.fromkeys(unknown_tags(text))]
    foreign = "".join(c for c in fold(TAG.sub("", text)) if c.isalpha() and not c.isascii() and c not in "πµμ")
    return warnings + ([f"the characters {_short(foreign)} are not English and were left out"] if foreign else [])


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else f"{text[:27]}...")
