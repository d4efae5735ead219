"""Whether a run may go on in a folder that holds tokens already: only where its clips are what they were when those were made."""

import math
import os
from pathlib import Path
from typing import Any

from solfa.core.errors import UserError
from solfa.core.progress import Progress
from solfa.tokenizers.datasets.commands.clip_results import Limits, Plan
from solfa.tokenizers.datasets.readers.clip import Clip, Corpus
from solfa.tokenizers.datasets.readers.source_stamp import STAMP, changed
from solfa.tokenizers.datasets.shards.shard_formats import Format

REMEDY = "give another output folder, or --overwrite to begin anew"


def settings_of(plan: Plan) -> dict[str, Any]:
    """What decides which clips are taken, by the names of the command line's options."""
    limits = plan.limits
    peak = round(20 * math.log10(limits.min_peak), 6) if limits.min_peak > 0 else None
    return {
        "min-seconds": limits.min_seconds,
        "max-seconds": limits.max_seconds if math.isfinite(limits.max_seconds) else None,
        "min-peak": peak,
        "max-clipped": 100 * limits.max_clipped,
        "dedupe": plan.dedupe,
    }


def limits_of(min_seconds: float, max_seconds: float, min_peak: float, max_clipped: float) -> Limits:
    """From the command line's seconds, dBFS and %."""
    return Limits(min_seconds, max_seconds, 10 ** (min_peak / 20), max_clipped / 100)


def corpus_name(source: str) -> str:
    """The name of a corpus in a manifest: the same from every folder that the command is given in."""
    return source if source.startswith("hf:") else os.path.abspath(os.path.expanduser(source))


def check_sources(files: Format, output: Path, corpus: Corpus, manifest: dict[str, Any], source: str) -> None:
    """Compare the clips of a corpus with what the rows in `output` were made from.

    source: the corpus's name, as in the manifest; "" where it has none.
    Raises: UserError, naming one clip and the remedy, where a clip was made from another file, or its file or its metadata have
    changed, or are gone.  Of rows that an older solfa wrote, only the place of the file is known.
    """
    recorded: dict[str, tuple[str | None, str]] = {}
    for path in files.files():
        for row in files.read(path, ["id", "audio", STAMP])[1]:
            recorded[row["id"]] = (row[STAMP], str(row["audio"]))
    if not recorded:
        return
    found: list[str] = []
    with Progress("comparing", len(recorded), "clips") as bar:
        for clip in corpus:
            if (made := recorded.pop(clip.id, None)) is not None:
                bar.advance()
                if sentence := difference(output, clip, *made):
                    found.append(sentence)
    if recorded and manifest.get("corpora") == [source]:
        found += [f"{output} holds clip {name!r}, which is not in {source} any more" for name in recorded]
    if found:
        more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{more}: {REMEDY}")


def difference(output: Path, clip: Clip, stamp: str | None, audio: str) -> str:
    """In which way a clip is another than the one of its row in `output`, as a sentence; "" where it is the same."""
    other = f"clip {clip.id!r} in {output} was made from {audio}, not from {clip.path}"
    if stamp is None:
        return other if _two_files(Path(audio), clip.path) else ""
    return {
        "": "",
        "file": other,
        "content": f"{clip.path} has changed since {output} was made from it",
        "metadata": f"the metadata of clip {clip.id!r} have changed since {output} was made",
    }[changed(clip, stamp)]


def _two_files(one: Path, other: Path) -> bool:
    """Whether both are there, and are not the same."""
    try:
        return one.exists() and other.exists() and not one.samefile(other)
    except (OSError, ValueError):
        return False
