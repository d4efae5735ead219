"""Words in lower case, acronyms as single capitals: "the F B I", but "nasa", and in headlines the words that are words."""

import re
from collections.abc import Collection

from solfa.tokenizers.text.acronyms import INTERJECTIONS, PRONOUNCED_ACRONYMS, SPELLED_ALWAYS, SPELLED_UNLESS_SHOUTED
from solfa.tokenizers.text.written_forms import NAME_PREFIXES


def capitals(text: str, known: Collection[str]) -> str:
    """The whole text in lower case but for letters that are read by their names.  `known`: words that are words."""
    loud = [t for t in re.findall(r"[A-Za-z]+", text) if len(t) > 1]
    shouting = len(loud) > 2 and sum(t.isupper() for t in loud) > len(loud) / 2 or _shouted_pair(loud, known)

    def word(m: re.Match[str]) -> str:
        token, ending = m[1], m[2]
        if len(token) == 1:
            return token + ending.lower() if ending.lower() in ("", "'s") and _is_letter(m, shouting) else m[0].lower()
        bare = token[:-1] if token.endswith("s") and token[:-1].isupper() and len(token) > 2 else token
        if token in ("PhD", "PhDs"):
            return "P H D" + ("'s" if token[-1] == "s" else "")
        if re.fullmatch("[BCDFGPQRTVWXYZ]s", token):  # "Ps and Qs"
            return f"{token[0]}'s{ending.lower()}"
        if mixed := re.fullmatch(r"([a-z]{1,4})([A-Z]{2,4})", token):  # "iOS"
            return f"{mixed[1]} {' '.join(mixed[2])}{ending.lower()}"
        if not bare.isupper() or bare in PRONOUNCED_ACRONYMS or _squeezed(bare) in INTERJECTIONS:
            whole = token.lower() in known or token.startswith(NAME_PREFIXES)
            return m[0].lower() if whole or bare.isupper() else re.sub(r"(?<=[a-z])(?=[A-Z])", " ", m[0]).lower()
        letters = " ".join(bare) + ("'s" if bare != token else ending.lower())
        if bare in SPELLED_ALWAYS or bare in SPELLED_UNLESS_SHOUTED and not shouting:
            return letters
        if shouting and bare.lower() in known:
            return m[0].lower()
        readable = bare.lower() in known and len(bare) > 3 and re.search("[AEIOUY]", bare)
        return letters if not readable and len(bare) <= 5 or not re.search("[AEIOUY]", bare) else m[0].lower()

    return re.sub(r"(?<![A-Za-z])(?<![A-Za-z]')([A-Za-z]+)((?:'[A-Za-z]+)*)(?![A-Za-z])", word, text)


def _shouted_pair(words: list[str], known: Collection[str]) -> bool:
    """Two words, both in capitals and both words ("STOP NOW")."""
    return len(words) == 2 and all(w.isupper() and w.lower() in known and w not in SPELLED_ALWAYS for w in words)


def _squeezed(word: str) -> str:
    return re.sub(r"(.)\1{2,}", r"\1\1", word.lower())


def _is_letter(m: re.Match[str], shouting: bool) -> bool:
    """Whether one letter standing alone is its name: not the pronoun, not an article that opens a sentence."""
    before, after = m.string[max(0, m.start() - 20) : m.start()].rstrip(), m.string[m.end() : m.end() + 20]
    beside = bool(re.match(r"\s[A-Z](?![A-Za-z'])", after) or re.search(r"(?<![A-Za-z'])[A-Z]$", before))
    if m[1].islower():
        return False
    if m[1] == "I":
        in_a_row = beside or bool(re.search(r"\b[Tt]he$", before) and re.match(r"\s(?:in|of)\b", after))
        return in_a_row and not m[2] and not (shouting and re.match(r"\s[A-Z]", after) and not beside)
    if after.startswith((" minus ", " plus ")) and m[1] == "A":
        return True
    opens = not before or before[-1] in ".!?:\"'-"
    ends = bool(re.match(r"\s*(?:$|[.,;:!?])", after))
    if m[1] == "A" and shouting and not beside:
        return ends
    return m[1] != "A" or beside or ends or not opens and not re.match(r"\s[A-Z][a-z]", after)
