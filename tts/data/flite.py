"""Flite as a build-time tool: its front end gives every source the same phones, its voices give speech with exact labels.

Both go through the small program `tts/data/flite_dump.c`, found on PATH, in $SOLFA_FLITE_DUMP, or compiled into the user's
cache when a C compiler and Flite's headers (Debian: gcc, flite1-dev) are there.  Nothing here is needed at run time.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solfa.core.errors import UserError

VOWELS = frozenset("aa ae ah ao aw ax ay eh er ey ih iy ow oy uh uw".split())
PAUSES = frozenset([",", ".", "?", "!", ";", ":", "-", "pau"])
LIBRARIES = "cmu_us_slt cmu_us_rms cmu_us_awb cmu_us_kal16 usenglish cmulex"
HELP = "install a C compiler and Flite (Debian: apt install gcc flite1-dev) or put a built flite_dump on PATH"


@dataclass(frozen=True)
class Sentence:
    """A text after Flite's front end, as the flat symbols that solfa's planner takes.

    phones starts with "pau" and ends with the final punctuation; word_index has -1 for pauses.  ends (seconds, one per
    phone) and wav are there if the sentence was spoken.
    """

    text: str
    words: list[str]
    phones: list[str]
    word_index: list[int]
    ends: list[float] | None = None
    wav: Path | None = None


def program() -> Path:
    """Path of flite_dump, compiled on first use.  Raises: UserError when that is not possible."""
    given = os.environ.get("SOLFA_FLITE_DUMP") or shutil.which("flite_dump")
    if given:
        if not os.access(given, os.X_OK):
            raise UserError(f"SOLFA_FLITE_DUMP names {given}, which is not a program")
        return Path(given)
    source = Path(__file__).with_name("flite_dump.c")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not source.is_file():
        raise UserError(f"Flite's front end is missing: {HELP}")
    version = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    built = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "solfa" / f"flite_dump-{version}"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        aside = built.with_suffix(f".{os.getpid()}")
        links = [f"-lflite_{name}" for name in LIBRARIES.split()] + ["-lflite", "-lm"]
        done = subprocess.run([compiler, "-O2", "-o", str(aside), str(source), *links], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"flite_dump does not compile ({done.stderr.strip().splitlines()[-1][:120]}): {HELP}")
        os.replace(aside, built)
    return built


def run(voice: str, lines: dict[str, str], folder: Path | None = None, **settings: float) -> dict[str, dict[str, Any]]:
    """flite_dump's JSON by id.  settings: stretch, f0mean (Hz), f0std (Hz).  Sentences that failed are left out."""
    command = [str(program()), voice]
    for name, value in settings.items():
        command += [f"--{name}", f"{value:.4f}"]
    command.append(str(folder) if folder else "--no-wave")
    text = "".join(f"{key}\t{' '.join(line.split())}\n" for key, line in lines.items())
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise UserError(f"flite_dump failed: {done.stderr.strip()[:200] or done.returncode}")
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    return {entry["id"]: entry for entry in entries if "error" not in entry}


def front_end(lines: dict[str, str], final: str = ".") -> dict[str, Sentence]:
    """Sentences by id, without times.  final: the punctuation of a text that ends without one."""
    return {key: read(entry, final) for key, entry in run("slt", lines).items()}


def read(entry: dict[str, Any], final: str = ".") -> Sentence:
    """A JSON object of flite_dump -> Sentence.  Words that came from one token of the text ("that", "'s") are joined."""
    words, owner, marks = _tokens(entry["text"], entry["words"], final)
    phones, index, ends = ["pau"], [-1], [0.0]
    last = -1  # Flite's number of the last word seen
    for name, stress, word, *end in entry["segments"]:
        time = end[0] if end else 0.0
        if word < 0:
            if last >= 0 and phones[-1] not in PAUSES:
                between_tokens = last + 1 == len(owner) or owner[last + 1] != owner[last]
                mark = marks[owner[last]] if between_tokens else ""
                # a pause that no punctuation asks for is sure only where the sentence was spoken
                if mark or end:
                    phones.append(mark or "pau")
                    index.append(-1)
                    ends.append(time)
                    continue
            ends[-1] = time
            continue
        if last >= 0 and owner[word] != owner[last] and marks[owner[last]] and phones[-1] not in PAUSES:
            phones.append(marks[owner[last]])
            index.append(-1)
            ends.append(ends[-1])
        last = word
        phones.append(f"{name}1" if stress == 1 else name)
        index.append(owner[word])
        ends.append(time)
    if phones[-1] not in PAUSES:
        phones.append(marks[-1])
        index.append(-1)
        ends.append(ends[-1])
    phones[-1] = marks[-1]
    timed = "wav" in entry
    return Sentence(entry["text"], words, phones, index, ends if timed else None, Path(entry["wav"]) if timed else None)


def _tokens(text: str, entries: list[dict[str, str]], final: str) -> tuple[list[str], list[int], list[str]]:
    """-> (tokens of the text, token number of each of Flite's words, pause symbol after each token or "")."""
    tokens: list[str] = []
    owner: list[int] = []
    spans: list[tuple[int, int]] = []
    at = 0
    for entry in entries:
        token = entry["token"]
        found = text.find(token, at)
        again = bool(tokens) and token == tokens[-1] and (found < 0 or re.search(r"\w", text[at:found]) is not None)
        if not again:
            start = found if found >= 0 else at
            at = start + len(token)
            tokens.append(token)
            spans.append((start, at))
        owner.append(len(tokens) - 1)
    starts = [start for start, _ in spans[1:]] + [len(text)]
    marks = [_mark(text[end:start]) for (_, end), start in zip(spans, starts, strict=True)]
    marks[-1] = marks[-1] or final
    return tokens, owner, marks


def _mark(gap: str) -> str:
    """The pause symbol for what stands between two words of a text."""
    for mark in "?!;:":
        if mark in gap:
            return mark
    if re.search(r"(?<!\.)\.(?!\.)", gap):
        return "."
    if "," in gap or ".." in gap or "\N{HORIZONTAL ELLIPSIS}" in gap or "(" in gap or ")" in gap:
        return ","
    return "-" if re.search(r"--|\s-|-\s|[\N{EN DASH}\N{EM DASH}]", gap) else ""
