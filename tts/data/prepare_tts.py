"""`solfa prepare tts`: recordings with their texts, and sentences for Flite, become the TTS training set.

Everything ends up in one folder: audio/ (24 kHz, active speech at -23 dB RMS), manifest.jsonl (see `solfa.tts.data.manifest`) and
rejects.jsonl.  parts/ holds what is finished, so the command can be stopped and run again, or run on more sources.
"""

import csv
import multiprocessing
import os
import random
import re
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from importlib import resources
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from solfa.core.atomic import make_folder
from solfa.core.errors import UserError
from solfa.core.progress import Progress
from solfa.tokenizers.datasets.readers.corpus import safe_id
from solfa.tts.data import flite, manifest
from solfa.tts.data.manifest import Parts, Row, ordered, sentence_key
from solfa.tts.data.synthetic import Change, draw_change
from solfa.tts.data.training_rows import Line, Person, Recording, Resynthesis, make_rows, seeded

EMOTIONS = frozenset("neutral angry bored disgust fearful happy sad surprised".split())
# speaker: (gender, age), where the recordings' own tables do not say
KNOWN = {"kathleen": (1.0, 0.4), "linda_johnson": (1.0, 0.0), "rms": (-1.0, 0.0), "slt": (1.0, 0.0), "awb": (-1.0, 0.0)}
FLITE_SHARES = {"rms": 0.55, "slt": 0.3, "awb": 0.15}
# Readers made from linda_johnson: name -> (hours, gender, age, change).  There is no clean recording of an English man
# or of a native child, so these are resynthesised and their rows and model cards say so.
DERIVED: dict[str, tuple[float, float | None, float, Change]] = {
    "arthur": (0.8, -1.0, 0.0, Change(pitch=0.55, formants=0.84)),
    "pip": (0.6, None, -1.0, Change(pitch=1.35, formants=1.18)),
}
DERIVED_FROM = "linda_johnson"


def prepare(
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Folders with metadata.csv (file,speaker,text,...).")
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder of the training set; added to if it is there.")
    ] = Path("prepared"),
    flite_hours: Annotated[float, typer.Option(min=0, help="Hours of speech to make with Flite's voices.")] = 0.0,
    sentences: Annotated[list[Path] | None, typer.Option(help="Text files with a sentence a line for Flite.")] = None,
    world: Annotated[int, typer.Option(min=0, help="Variants of each preset voice's clip to make with WORLD.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many clips of each source.")] = None,
) -> int:
    """Align, measure and describe clips: the training data of speech.

    Needs flite (front end and voices), pocketsphinx and pyworld at this step only.
    """
    if not sources and not flite_hours:
        raise UserError("nothing to prepare: give a folder with metadata.csv, or --flite-hours with --sentences")
    if flite_hours and not sentences:
        raise UserError("--flite-hours needs --sentences FILE, the texts to speak")
    flite.program()
    read = [(folder, read_metadata(folder)) for folder in sources or []]
    never = {sentence_key(s) for s in heldout_sentences()}
    make_folder(out)
    parts = Parts(out)
    if flite_hours:
        lines = flite_lines([_lines(path) for path in sentences or []], flite_hours, never | heldout_texts(parts, read))
        _run(lines[:limit], out, parts, workers, "speaking with Flite")
    for folder, rows in read:
        jobs = recordings(folder, rows, never)
        _run(jobs[:limit], out, parts, workers, f"aligning {folder.name}")
        if world:
            manifest.drop_doubtful(parts)
            names = {job.id for job in jobs[:limit]}
            _run(variants(parts, folder.name, names, world), out, parts, workers, f"resynthesising {folder.name}")
    manifest.write_rejects(out, parts)
    rows = manifest.write(out, parts, _captioner())
    manifest.write_rejects(out, parts)
    _report(rows, parts)
    return 1 if any(row.get("unreadable") for row in parts.rejects.values()) else 0


def heldout_sentences() -> list[str]:
    """Sentences kept for evaluation: never synthesised, never trained on."""
    text = resources.files("solfa").joinpath("tts", "style", "heldout_sentences.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


def recordings(folder: Path, rows: list[dict[str, str]], never: set[str]) -> list[Recording]:
    """A source's clips with their split and pronunciation; those whose text Flite cannot read are left out."""
    out = manifest.heldout((row["speaker"], row["text"]) for row in rows)
    speakers = _speakers(folder)
    single = len({row["speaker"] for row in rows}) < 20
    # where sentences usually end with punctuation, one without was cut off in the middle
    ended = sum(row["text"].rstrip(" \"'").endswith((".", "?", "!", ",", ";", ":")) for row in rows) > 0.5 * len(rows)
    texts = {str(i): row["text"] for i, row in enumerate(rows)}
    read = flite.front_end(texts, final="," if ended else ".")
    jobs = []
    for i, row in enumerate(rows):
        sentence = read.get(str(i))
        if sentence is None or row.get("language", "en") not in ("", "en"):
            continue
        key = sentence_key(row["text"])
        style = row.get("style") or ""
        gender, age = speakers.get(row["speaker"], KNOWN.get(row["speaker"], (None, None)))
        jobs.append(
            Recording(
                id=safe_id(f"{folder.name}-{Path(row['file']).stem}"),
                source=folder.name,
                path=folder / row["file"],
                sentence=sentence,
                person=Person(
                    row["speaker"], row["speaker"] if single else None, gender, -1.0 if style == "child" else age
                ),
                language="en",
                label=style if style in EMOTIONS else None,
                split="heldout" if row["speaker"] in out or key in out or key in never else "train",
            )
        )
    return sorted(jobs, key=lambda job: ordered(job.id))


def variants(parts: Parts, source: str, names: set[str], count: int) -> list[Resynthesis]:
    """Resynthesis jobs for a source's preset voices: `count` variants of each training clip, and the derived readers."""
    rows = [
        r
        for r in parts.rows.values()
        if r["source"] == source and r["id"] in names and r["voice"] and r["split"] == "train"
    ]
    rows.sort(key=lambda row: ordered(row["id"]))
    wanted: dict[str, list[tuple[str, Person, Change]]] = defaultdict(list)
    for row in rows:
        person = Person(row["speaker"], row["voice"], row["gender"], row["age"])
        for n in range(count):
            key = f"{row['id']}-w{n}"
            wanted[row["id"]].append((key, person, draw_change(seeded(key))))
    for name, (hours, gender, age, change) in DERIVED.items():
        seconds = 0.0
        for row in rows if name_of(rows) == DERIVED_FROM else []:
            if seconds > 3600 * hours:
                break
            seconds += row["duration_s"]
            key = f"{row['id']}-{name}"
            wanted[row["id"]].append((key, Person(name, name, gender, age), _derived(key, change)))
    jobs = []
    for row in rows:
        missing = [variant for variant in wanted[row["id"]] if variant[0] not in parts]
        if missing:
            jobs.append(Resynthesis(row, missing))
    return jobs


def name_of(rows: list[Row]) -> str | None:
    """The one voice of these rows."""
    voices = {row["voice"] for row in rows}
    return voices.pop() if len(voices) == 1 else None


def _derived(key: str, base: Change) -> Change:
    """A derived reader's change; half of his clips also differ in pace, pitch or liveliness."""
    rng = seeded(key)
    if rng.random() < 0.5:
        return base
    also = draw_change(rng)
    # ordinary voice quality: the timbre is this reader's only one
    return Change(base.pitch * also.pitch, also.range, also.stretch, also.pauses, base.formants)


def flite_lines(texts: list[list[str]], hours: float, never: set[str]) -> list[Line]:
    """Sentences for Flite's voices, about `hours` in all: each once, none of the held-out ones, files in turn."""
    pools = [
        sorted({s for s in lines if speakable(s) and sentence_key(s) not in never}, key=ordered) for lines in texts
    ]
    pool = sorted({s for lines in pools for s in lines}, key=ordered)
    lines = []
    at = 0
    for voice, share in FLITE_SHARES.items():
        seconds = 0.0
        gender, age = KNOWN[voice]
        while seconds < 3600 * hours * share:
            if at == len(pool):
                raise UserError(
                    f"the files of --sentences hold only {len(pool)} usable sentences, too few for {hours:g} hours"
                )
            text = pool[at]
            lines.append(Line(f"{voice}-{ordered(text)[:10]}", text, Person(voice, voice, gender, age)))
            seconds += 0.07 * len(text)  # Flite's voices say about 14 characters a second
            at += 1
    return sorted(lines, key=lambda line: ordered(line.id))  # voices in turn: a run cut short is still a mixture


def speakable(text: str) -> bool:
    """4 to 16 ordinary words with simple punctuation, which Flite reads as any reader would."""
    words = text.split()
    plain = re.fullmatch(r"[A-Za-z',;:?!. -]+", text) is not None
    odd = re.search(r"\.\.|\b[A-Z]{2,}\b|\.\S|\b[A-Za-z]\.|[,;:?!.] *[,;:?!]|\b(Mr|Mrs|Dr|St|etc)\b|--", text)
    return 4 <= len(words) <= 16 and plain and odd is None and text[0].isupper()


def heldout_texts(parts: Parts, read: list[tuple[Path, list[dict[str, str]]]]) -> set[str]:
    """Keys of all held-out clips' sentences, of this run's sources and of earlier ones."""
    keys = {sentence_key(row["text"]) for row in parts.rows.values() if row["split"] == "heldout"}
    for _, rows in read:
        out = manifest.heldout((row["speaker"], row["text"]) for row in rows)
        keys |= {sentence_key(row["text"]) for row in rows if row["speaker"] in out or sentence_key(row["text"]) in out}
    return keys


def _run(jobs: Iterable[Recording | Line | Resynthesis], out: Path, parts: Parts, workers: int, title: str) -> None:
    """Do the jobs that are not done yet, in `workers` processes; what a killed run had finished is kept."""
    todo = [job for job in jobs if isinstance(job, Resynthesis) or job.id not in parts]
    if not todo:
        return
    seconds = 0.0
    began = time.monotonic()
    with Progress(title, total=len(todo), unit="clips") as bar:
        for rows in _parallel(partial(make_rows, out=out), todo, workers):
            for row in rows:
                parts.add(row)
                seconds += row.get("duration_s", 0.0)
            bar.advance(note=f"{seconds / (time.monotonic() - began):.1f} x real time")


def _parallel(work: Callable[[Any], list[Row]], jobs: list[Any], workers: int) -> Iterator[list[Row]]:
    """Results as they come, with few jobs waiting, so that an interruption loses little."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        running: set[Future[list[Row]]] = set()
        try:
            for job in jobs:
                if len(running) >= 4 * workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
                running.add(pool.submit(work, job))
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    os.nice(max(0, 5 - os.nice(0)))  # leave the machine usable
    parent = multiprocessing.parent_process()
    if parent is not None:  # a worker would wait for ever for the next job of a command that was killed
        threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()


def _exit_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def read_metadata(folder: Path) -> list[dict[str, str]]:
    """The clips of a source that have a text.  Raises: UserError for a folder without a readable metadata.csv."""
    path = folder / "metadata.csv"
    if not path.is_file():
        raise UserError(f"{folder} has no metadata.csv with the columns file, speaker and text")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path} is not a CSV file in UTF-8") from None
    if not rows or not {"file", "speaker", "text"} <= rows[0].keys():
        raise UserError(f"{path} should have the columns file, speaker and text, and a row for each clip")
    return [row for row in rows if (row["text"] or "").strip()]


def _speakers(folder: Path) -> dict[str, tuple[float | None, float | None]]:
    """Speaker -> (gender, age) from speakers.csv (speaker,gender,age in years), if the source has one."""
    path = folder / "speakers.csv"
    if not path.is_file():
        return {}
    genders = {"m": -1.0, "f": 1.0}
    found: dict[str, tuple[float | None, float | None]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            years = row.get("age") or ""
            age = None if not years.isdigit() else -1.0 if int(years) < 15 else 1.0 if int(years) >= 60 else 0.0
            found[row["speaker"]] = (genders.get((row.get("gender") or "")[:1].lower()), age)
    return found


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} is not a readable text file in UTF-8") from None


def _captioner() -> Callable[[Row, random.Random], list[str]]:
    from solfa.tts.style.captions import captions

    return captions


def _report(rows: list[Row], parts: Parts) -> None:
    """Hours, pace and losses by source."""
    table = Table(box=None)
    for column in ("source", "speaker", "clips", "hours", "phones/s", "median Hz", "held out", "rejected"):
        table.add_column(column, justify="left" if column in ("source", "speaker") else "right")
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["source"], row["voice"] or "(many)"].append(row)
    lost = Counter(row["source"] for row in parts.rejects.values())
    for (source, voice), own in sorted(groups.items()):
        table.add_row(
            source, voice, str(len(own)), f"{sum(r['duration_s'] for r in own) / 3600:.2f}",
            f"{np.mean([r['attributes']['rate'] for r in own]):.1f}", f"{np.median([r['median_pitch'] for r in own]):.0f}",
            str(sum(r["split"] == "heldout" for r in own)), str(lost.get(source, 0)),
        )  # fmt: skip
    Console(width=max(80, shutil.get_terminal_size().columns)).print(table)
