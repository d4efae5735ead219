"""What `solfa reconstruct` is to decode: the rows of token shards, .sfa files, or audio that goes through the codec in memory.

A plan lists what cannot be decoded, leaves out what an earlier run has written from the same input with the same settings, and
gives the rest as jobs, one after another.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch

from solfa.core.errors import UserError
from solfa.core.progress import Progress
from solfa.tokenizers.audio.audio_file import AUDIO_SUFFIXES, check_writable
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.container.prior import LearnedPrior
from solfa.tokenizers.audio.container.sfa import SUFFIX, Packed, Recording, read_file, read_header
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands.clip_results import Reject
from solfa.tokenizers.datasets.commands.engine import encode_corpus
from solfa.tokenizers.datasets.commands.output_journal import Journal, Planned, SingleFile
from solfa.tokenizers.datasets.commands.shared_options import check_books
from solfa.tokenizers.datasets.readers.clip import Clip, Numbered, safe_id
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.datasets.readers.source_stamp import stamp_of
from solfa.tokenizers.datasets.shards.shard_by_shard import Damaged, shard_by_shard
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset, check_row


class Job(NamedTuple):
    """A recording to decode, and the file that it goes to."""

    id: str
    path: Path
    recording: Recording | Packed


class Lost(NamedTuple):
    """A clip (or a whole shard) that cannot be reconstructed, and the reason in one sentence."""

    id: str
    reason: str


class Plan(NamedTuple):
    """total: clips in the source; skipped: those whose output is there; items: the rest, as they come.

    seconds: of audio to decode, where it is known before the work.
    """

    total: int
    skipped: int
    items: Iterator[Job | Lost]
    seconds: float | None = None


class Output:
    """Where clips go: `output` is a folder, or is named as an audio file and takes a single clip.

    Args:
        settings: of the run, for the journal of the folder.

    Raises: UserError for an audio file's name where there are several `clips`.
    """

    def __init__(self, output: Path, source: str, clips: int, settings: dict[str, Any], overwrite: bool):
        self.folder = None if is_file_name(output) else output
        self._output, self._names = output, Numbered()
        self.journal: Journal | SingleFile = (
            SingleFile(output, overwrite) if self.folder is None else Journal(output, settings, overwrite)
        )
        if self.folder is None:
            if clips != 1:
                raise UserError(f"{source} holds {clips} clips, so the output should be a folder, not {output}")
            check_writable(output)

    def target(self, clip_id: str) -> Path:
        """The file of a clip; of two clips with one id the second has its own.  To be called once for each, in their order."""
        return self._output if self.folder is None else self._output / f"{self._names.unique(safe_id(clip_id))}.wav"


def is_file_name(output: Path) -> bool:
    """Whether an output is named as an audio file, and no folder of that name is there."""
    return output.suffix.lower() in AUDIO_SUFFIXES and not output.is_dir()


def plan_tokens(codec: Codec, source: Path, books: int | None, open_output: Callable[[int], Output]) -> Plan:
    """The rows of token shards; a shard or row that is damaged is lost, the others are not.

    open_output: gives the output for a number of clips.
    Raises: UserError for another codec's tokens, or when no shard can be read.
    """
    fingerprint = codec.fingerprint_of(books or codec.books)
    parts = list(shard_by_shard(source, fingerprint, books))
    total = sum(1 if isinstance(part, Damaged) else len(part) for part in parts)
    output = open_output(total)
    lost: list[Lost] = []
    todo: list[tuple[Path, int, Path]] = []  # shard, row, target
    skipped, seconds = 0, 0.0
    with Progress("looking through", total, "rows") as bar:
        for part in parts:
            if isinstance(part, Damaged):
                lost.append(Lost(part.shard.name, part.reason))
                continue
            shard = part.shards[0]
            for i in range(len(part)):
                bar.advance()
                try:
                    row = checked(part, i)
                except UserError as e:
                    lost.append(Lost(f"row {i} of {shard.name}", str(e)))
                    continue
                target = output.target(row["id"])
                if output.journal.done(Planned(target, digest_of(row))):
                    skipped += 1
                else:
                    todo.append((shard, i, target))
                    seconds += row["samples"] / row["sample_rate"]

    def items() -> Iterator[Job | Lost]:
        yield from lost
        for shard, rows in groupby(todo, lambda one: one[0]):
            tokens = TokenDataset(source, fingerprint, books, cache_bytes=0, shards=[shard])
            for _, i, target in rows:
                row = tokens[i]
                yield Job(row["id"], target, Recording(row["codes"], row["samples"], row["sample_rate"]))

    return Plan(total, skipped, items(), seconds)


def checked(part: TokenDataset, i: int) -> dict[str, Any]:
    """Row `i` of a shard.  Raises: UserError, naming shard and row, where it cannot be decoded."""
    try:
        row = part[i]
        check_row(row)
    except UserError as e:
        raise UserError(f"row {i} of {part.shards[0].name} is left out: {e}") from None
    return row


def digest_of(row: dict[str, Any]) -> str:
    """Of all that its sound follows from, but the codec."""
    state = hashlib.sha256(f"{row['samples']} {row['sample_rate']} {tuple(row['codes'].shape)}".encode())
    state.update(row["codes"].numpy().tobytes())
    return state.hexdigest()[:24]


def plan_sfa(
    codec: Codec,
    clips: list[Clip],
    books: int | None,
    learned: LearnedPrior | None,
    max_seconds: float | None,
    open_output: Callable[[int], Output],
) -> Plan:
    """The recordings in .sfa files, whose headers are read first.  max_seconds: as in `read_header`."""
    output = open_output(len(clips))
    todo: list[tuple[Clip, Path]] = []
    lost: list[Lost] = []
    skipped, seconds = 0, 0.0

    def read(clip: Clip) -> tuple[bytes, Packed]:
        data = read_file(clip.path)
        packed = read_header(data, codec, learned, clip.path, max_seconds)
        if books is not None and books > packed.books:
            raise UserError(f"{clip.path} holds {packed.books} books, so {books} cannot be read from it")
        return data, packed

    for clip in clips:
        target = output.target(clip.id)
        try:
            data, packed = read(clip)
        except UserError as e:
            lost.append(Lost(clip.id, str(e)))
            continue
        if output.journal.done(Planned(target, hashlib.sha256(data).hexdigest()[:24])):
            skipped += 1
        else:
            todo.append((clip, target))
            seconds += packed.seconds

    def items() -> Iterator[Job | Lost]:
        yield from lost
        for clip, target in todo:
            yield Job(clip.id, target, read(clip)[1]._replace(take=books))

    return Plan(len(clips), skipped, items(), seconds)


def find_sfa(source: str) -> list[Clip]:
    """The .sfa file that `source` names, or all those below a folder; ids are paths below it, without the suffix."""
    path = Path(source).expanduser()
    root, found = (path, path.rglob(f"*{SUFFIX}")) if path.is_dir() else (path.parent, [path])
    files = sorted(p for p in found if p.suffix.lower() == SUFFIX and p.is_file() and not p.name.startswith("."))
    return [Clip(safe_id(p.relative_to(root).with_suffix("").as_posix()), p) for p in files]


def plan_audio(
    codec: AudioTokenizer | Codec,
    source: str,
    output: Path,
    books: int | None,
    batch_seconds: float | None,
    workers: int,
    open_output: Callable[[int], Output],
) -> Plan:
    """The clips of a corpus, tokenized in memory."""
    if Path(source).is_dir() and output.resolve() == Path(source).resolve():
        raise UserError(f"{output} is the source itself: give another output folder")
    corpus = read_corpus(source, exclude=output)
    targets = open_output(len(corpus))
    todo: list[tuple[Clip, Path]] = []
    skipped = 0
    for clip in corpus:
        target = targets.target(clip.id)
        if clip.data is None and target.exists() and clip.path.exists() and target.samefile(clip.path):
            raise UserError(f"{target} would replace its own original: give another output folder")
        if targets.journal.done(Planned(target, stamp_of(clip).state)):
            skipped += 1
        else:
            todo.append((clip, target))

    def items() -> Iterator[Job | Lost]:
        found: Iterable[Any] = encode_corpus(
            codec, (clip for clip, _ in todo), check_books(codec, books), batch_seconds, workers
        )
        for item, (_, target) in zip(found, todo, strict=True):
            if isinstance(item, Reject):
                yield Lost(item.clip.id, item.reason)
            else:
                codes = torch.from_numpy(item.codes)
                recording = Recording(codes, item.audio.source_samples, item.audio.source_rate)
                yield Job(item.clip.id, target, recording)

    return Plan(len(corpus), skipped, items())
