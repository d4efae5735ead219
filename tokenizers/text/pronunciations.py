"""Pronunciations of English words from Flite, in the form that `train_g2p.py` reads (build time only).

    python -m solfa.tokenizers.text.pronunciations --flite-dump ./flite_dump --texts corpus/*.txt --words lists/* --out p.tsv

`flite_dump` is compiled from `tts/data/flite_dump.c`.  Words come from the texts (most frequent first) and from word lists
(those in most lists first; CMUdict's file works as one).  Each is spoken alone, as a verb and as a noun; words that Flite
pronounces differently as a verb get that reading as a second one.  Where the
pronunciation inside whole sentences differs from that of the word alone ("a", "haven't"), the former is kept.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from solfa.tokenizers.text.normalize import fold
from solfa.tokenizers.text.tokenizer import CLITICS

WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
CARRIERS = {"alone": ("{}", 0, 0), "verb": ("they would {} them", 2, 1), "noun": ("the {} of them", 1, 2)}

# Flite's verb reading of these is a slip or a word that nobody means.
ONE_READING = frozenset(
    "the i'm im a an minute minute's email entrance entrances shit escrow putting interns contrary certificate incense "
    "reading mouth mouth's concert concerts frequent torment torments rampage rampages axes accent accents analyses aged "
    "blessed excesses defect defects compliment compliments produces collect combine confine converts proceed proceeds "
    "address invalid invite invites indent indents compress compresses".split()
)
# Where Flite is plainly wrong, or where a sentence needs another form than the word alone.
CORRECTIONS = {
    "a": "ax", "the": "dh ax", "i'm": "ay1 m", "im": "ay1 m", "read": "r eh1 d\tr iy1 d", "reading": "r iy1 d ih ng",
    "haven't": "hh ae1 v ax n t", "insults": "ih1 n s ax l t s\tih n s ah1 l t s", "insert": "ih1 n s er t\tih n s er1 t",
    "collect": "k ax l eh1 k t", "invite": "ih n v ay1 t", "invites": "ih n v ay1 t s", "confine": "k ax n f ay1 n",
    "exploit": "eh1 k s p l oy t\tih k s p l oy1 t", "exploits": "eh1 k s p l oy t s\tih k s p l oy1 t s",
    "aged": "ey1 jh d", "missus": "m ih1 s ih z", "etcetera": "eh t s eh1 t er ax", "dr": "d aa1 k t er",
    "proceed": "p r ax s iy1 d", "compress": "k ax m p r eh1 s", "compresses": "k ax m p r eh1 s ax z",
    "combine": "k ax m b ay1 n", "converts": "k ax n v er1 t s", "miz": "m ih1 z", "emoji": "ax m ow1 jh iy",
    "api": "ey1 p iy1 ay1", "gif": "g ih1 f", "json": "jh ey1 s ax n", "solfa": "s ow1 l f aa",
}  # fmt: skip


def speak(program: Path, lines: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Flite's front end over (id, text) pairs -> one record a line, see `flite_dump --help`."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as asked:
        asked.writelines(f"{name}\t{text}\n" for name, text in lines)
        asked.seek(0)
        command = [str(program), "slt", "--no-wave"]
        with subprocess.Popen(
            command, stdin=asked, stdout=subprocess.PIPE, encoding="utf-8", errors="replace"
        ) as process:
            assert process.stdout
            for line in process.stdout:
                record = json.loads(line)
                if "error" not in record:
                    yield record


def phones_by_word(record: dict[str, Any]) -> list[str]:
    """Per word its phones with stress marks, spaces between."""
    said: list[list[str]] = [[] for _ in record["words"]]
    for phone, stress, word in record["segments"]:
        if word >= 0:
            said[word].append(f"{phone}1" if stress == 1 else phone)
    return [" ".join(s) for s in said]


def plain(text: str) -> str:
    """Folded to ASCII, with single spaces."""
    return re.sub(r"\s+", " ", fold(text).encode("ascii", "ignore").decode()).strip()


def ranked(texts: list[str], lists: list[Path]) -> list[str]:
    """All words, the most useful first; possessives only where the texts have them."""
    seen: Counter[str] = Counter(w for text in texts for w in WORD.findall(text.lower()))
    listed: Counter[str] = Counter()
    for path in lists:
        first = (
            re.sub(r"\(\d+\)$", "", line.split()[0])
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.strip()
        )
        words = {plain(w).lower() for w in first}
        listed.update(w for w in words if WORD.fullmatch(w) and not w.endswith("'s"))
    return sorted(seen | listed, key=lambda w: (-seen[w], -listed[w], w))


def main(argv: list[str] | None = None) -> None:
    """Write the table of pronunciations; see the top of this file for the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flite-dump", type=Path, required=True)
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="one sentence a line")
    parser.add_argument("--words", type=Path, nargs="*", default=[], help="one word a line; what follows it is ignored")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    texts = [
        plain(line) for path in args.texts for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    words = ranked(texts, args.words)
    readings: dict[str, dict[str, str]] = {}
    for name, (carrier, before, after) in CARRIERS.items():
        records = speak(args.flite_dump, ((w, carrier.format(w)) for w in words))
        readings[name] = {r["id"]: " ".join(phones_by_word(r)[before : len(r["words"]) - after]) for r in records}
    in_context: dict[str, Counter[str]] = defaultdict(Counter)
    for record in speak(args.flite_dump, ((str(i), t) for i, t in enumerate(texts))):
        for word, said in zip(record["words"], phones_by_word(record), strict=True):
            in_context[word["word"]][said] += 1
    with args.out.open("w", encoding="utf-8") as out:
        for word in words:
            said, verb, noun = (readings[name].get(word, "") for name in CARRIERS)
            usual = in_context.get(word.replace("'", ""))  # Flite drops apostrophes, except before an ending
            if verb != noun and word not in ONE_READING:
                said = f"{noun}\t{verb}"
            elif usual and word.rpartition("'")[2] not in CLITICS:
                said = usual.most_common(1)[0][0]
            said = CORRECTIONS.get(word, said)
            if said:
                out.write(f"{word}\t{said}\n")


if __name__ == "__main__":
    main()
