"""The local engine: clips -> decoded ahead by threads -> windows -> batches of like length -> codes, in the clips' order.

A window is a stretch of the corpus whose clips are sorted into batches.  Where windows and shards end depends on the clips
alone, never on timing, so a run that goes on behind a finished shard makes the very batches that one left alone makes.  A
recording too long to be in memory goes through the codec's stream encoder as it is decoded.  Nothing here writes files.
"""

import itertools
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from solfa.core.errors import UserError
from solfa.core.progress import clock
from solfa.tokenizers.audio.audio_file import AudioReader, BadAudio, Kind
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.resample import Samples
from solfa.tokenizers.datasets.readers.clip import Clip

CPU_BATCH_SECONDS, CUDA_BATCH_SECONDS = 20.0, 120.0  # on a CPU, what the caches hold is 40 % faster than larger batches
CPU_ENCODERS = 8  # at most; each has its share of the threads
SHARD_SECONDS = 3600.0
SHARD_ROWS = 4096
WINDOW_SECONDS = 960.0  # of audio in a window, once a shard has begun with smaller ones
LONG_SECONDS = 120.0  # a longer clip is encoded as it is decoded, and never in memory as a whole
WHOLE_SECONDS = 3600.0  # unless the codec cannot stream: then a clip longer than this is refused
PART_SECONDS = 120.0  # of a long clip, encoded at once
LONG_AT_ONCE = 2  # long clips: the next is read while the codecs have the last of one
AHEAD = 8  # clips per worker that are being decoded, or wait for an earlier one
DIGEST = "audio_sha1"  # the column that `dedupe` adds
MOST_WINDOWS = 64  # on their way at once: behind a long clip their codes wait
NOTHING: Samples = np.zeros(0, np.float32)
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What a clip must be like; by default anything that can be decoded will do.  Seconds are the source's."""

    min_seconds: float = 0.0
    max_seconds: float = math.inf
    min_peak: float = 0.0  # full scale is 1
    max_clipped: float = 1.0  # share of samples at full scale

    def check(self, reader: AudioReader) -> None:
        """Raises: BadAudio for a clip that was read to its end."""
        self.check_long(reader)
        path = reader.path
        if reader.source_seconds < self.min_seconds:
            raise BadAudio(
                "short", f"{path} lasts {reader.source_seconds:.3f} s, and the least is {self.min_seconds:g} s"
            )
        if reader.peak < self.min_peak:
            peak = f"its peak is {20 * math.log10(reader.peak):.0f} dBFS" if reader.peak else "all samples are zero"
            raise BadAudio("silent", f"{path} is silent: {peak}")
        if (share := reader.at_full_scale / reader.source_samples) > self.max_clipped:
            raise BadAudio("clipped", f"{path} is clipped: {100 * share:.1f} % of its samples are at full scale")

    def check_long(self, reader: AudioReader) -> None:
        """Raises: BadAudio when more was read than a clip may have."""
        if reader.source_seconds > self.max_seconds:
            raise BadAudio("long", f"{reader.path} lasts longer than {clock(self.max_seconds)}")


@dataclass(frozen=True)
class Plan:
    """How a corpus is gone through."""

    batch_seconds: float | None = None  # None: what suits the device
    workers: int = 2  # threads that decode
    shard_seconds: float = SHARD_SECONDS  # a shard ends with the clip that fills it
    shard_rows: int = SHARD_ROWS
    limits: Limits = Limits()
    dedupe: bool = False  # refuse clips whose decoded samples came before


@dataclass(frozen=True)
class Reject:
    """A clip that could not be tokenized, and the reason in one sentence and as a word."""

    clip: Clip
    reason: str
    kind: Kind = "other"


class Source(NamedTuple):
    """What was read of a clip, at its own rate; `digest` as in `AudioReader`, "" where nobody asked."""

    source_samples: int
    source_rate: int
    digest: str = ""


@dataclass(frozen=True)
class Encoded:
    """A clip with its codes: int64 (books, frames)."""

    clip: Clip
    audio: Source
    codes: NDArray[np.int64]

    @property
    def seconds(self) -> float:
        return self.audio.source_samples / self.audio.source_rate

    def row(self) -> dict[str, Any]:
        """The row of a token shard: what the manifest said, and over it what was measured."""
        row = {
            **self.clip.row,
            "id": self.clip.id,
            "audio": str(self.clip.path),
            "duration": self.seconds,
            "samples": self.audio.source_samples,
            "sample_rate": self.audio.source_rate,
            "codes": self.codes,
            "frames": self.codes.shape[1],
        }
        return {**row, DIGEST: self.audio.digest} if self.audio.digest else row


class Window(NamedTuple):
    """What became of the clips of a window, in their order."""

    items: list[Encoded | Reject]
    ends_shard: bool


@dataclass
class Decoded:
    """A clip on its way to a codec.  Of a long one `samples` are the first, and `rest` gives the others."""

    clip: Clip
    samples: Samples  # (n,) at the codec's rate; `NOTHING` once they are encoded
    seconds: float  # of the source; of a long one by its header
    audio: Source | None  # None: long
    rest: AudioReader


@dataclass(frozen=True)
class Batches:
    """A window on its way through the codecs: which of its items come out of which batch."""

    items: list[Decoded | Reject]
    ends_shard: bool
    futures: dict[Future[list[Encoded | Reject]], list[int]]


class Planner:
    """Collects clips until they make a window, and windows until they make a shard; `batch` and `most` (in a window): samples."""

    def __init__(self, plan: Plan, batch: int, most: int):
        self.plan, self.batch, self.most = plan, batch, most
        self.items: list[Decoded | Reject] = []
        self.samples = 0  # in the window
        self.windows, self.rows, self.seconds = 0, 0, 0.0  # in the shard

    @property
    def shard_is_full(self) -> bool:
        return self.seconds >= self.plan.shard_seconds or self.rows >= self.plan.shard_rows

    def add(self, item: Decoded | Reject) -> bool:
        """-> whether the window is full.  Rejects do not count: another run may find those clips mended."""
        self.items.append(item)
        if isinstance(item, Reject):
            return False
        self.samples += len(item.samples)
        self.rows += 1
        self.seconds += item.seconds
        enough = min(self.batch * 2**self.windows, self.most)  # small windows first, for the codec to begin soon
        return self.shard_is_full or self.samples >= enough

    def take(self) -> tuple[list[Decoded | Reject], bool]:
        """The window, and whether it ends the shard."""
        items, ends_shard = self.items, self.shard_is_full
        self.items, self.samples, self.windows = [], 0, self.windows + 1
        if ends_shard:
            self.windows, self.rows, self.seconds = 0, 0, 0.0
        return items, ends_shard


class Engine:
    """Turns clips into codes; a context manager that ends its threads.

    On a CPU several batches are encoded at once by few threads each, which is faster than one batch by all threads.

    Args:
        codecs: one codec, on each device a replica.
        books: how many of its books.
        seen: id by digest of clips that earlier runs did; `plan.dedupe` refuses what is among them.
    """

    def __init__(self, codecs: Sequence[Codec], books: int, plan: Plan, seen: dict[str, str] | None = None):
        self.plan, self.books, self.sample_rate = plan, books, codecs[0].sample_rate
        self.hop, self.reach = codecs[0].hop, codecs[0].reach
        self.delay = codecs[0].encoder_delay if self.reach else 0
        most = math.inf if self.reach else WHOLE_SECONDS
        self.limits = replace(plan.limits, max_seconds=min(plan.limits.max_seconds, most))
        on_cpu = codecs[0].device.type == "cpu"
        self._threads, self._replicas = torch.get_num_threads(), len(codecs)
        self._encoders_count = max(len(codecs), min(CPU_ENCODERS, self._threads) if on_cpu else 0)
        self._batch = round(
            (plan.batch_seconds or (CPU_BATCH_SECONDS if on_cpu else CUDA_BATCH_SECONDS)) * self.sample_rate
        )
        self._window = max(self._batch, round(WINDOW_SECONDS * self.sample_rate))
        self._seen = dict(seen or {})
        self._lock = threading.Lock()
        self._held = 0  # samples in memory that are not encoded yet
        self._busy = 0.0  # seconds of all encoders together
        self._began = self._ended = 0.0
        self._stop, self._wake = threading.Event(), threading.Event()
        self._free: queue.SimpleQueue[Codec] = queue.SimpleQueue()
        for codec in itertools.islice(itertools.cycle(codecs), self._encoders_count):
            self._free.put(codec)
        self._decoders = ThreadPoolExecutor(plan.workers, "decode")
        self._encoders = ThreadPoolExecutor(self._encoders_count, "encode")
        self._dividers = ThreadPoolExecutor(LONG_AT_ONCE, "divide")

    def __enter__(self) -> "Engine":
        torch.set_num_threads(max(1, self._threads // self._encoders_count))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._decoders.shutdown(cancel_futures=True)
        self._dividers.shutdown(cancel_futures=True)
        self._encoders.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)

    @property
    def waited(self) -> float:
        """Share of the time since `run` began in which the codecs had nothing to do, 0 to 1."""
        elapsed = (self._ended or time.monotonic()) - self._began
        return max(0.0, 1 - self._busy / max(self._encoders_count * elapsed, 1e-9))

    def run(self, clips: Iterable[Clip]) -> Iterator[Window]:
        """The windows of a corpus, one after another.  To be called once."""
        self._began = time.monotonic()
        source: Iterator[Clip] | None = iter(clips)
        decoding: deque[Future[Decoded | Reject]] = deque()
        encoding: deque[Batches] = deque()
        planner = Planner(self.plan, self._batch, self._window)
        most_held = (1 + self._replicas) * self._window
        while source or decoding or planner.items or encoding:
            self._wake.clear()  # before anything is looked at: what is done meanwhile is seen now or wakes us
            room = AHEAD * self.plan.workers if len(encoding) < MOST_WINDOWS else 0
            while source and len(decoding) < room and self._held < most_held:
                if (clip := next(source, None)) is None:
                    source = None
                else:
                    decoding.append(self._submit(self._decoders, self._decode, clip))
            while decoding and decoding[0].done():
                if planner.add(self._refuse_double(decoding.popleft().result())):
                    encoding.append(self._start(*planner.take()))
            if planner.items and not source and not decoding:
                encoding.append(self._start(*planner.take()))
            if encoding and all(future.done() for future in encoding[0].futures):
                yield self._finish(encoding.popleft())
            elif decoding or encoding:
                self._wake.wait()
        self._ended = time.monotonic()

    def _submit(self, pool: ThreadPoolExecutor, job: Callable[[S], T], of: S) -> Future[T]:
        future = pool.submit(job, of)
        future.add_done_callback(lambda _: self._wake.set())
        return future

    def _start(self, items: list[Decoded | Reject], ends_shard: bool) -> Batches:
        """Hand a window to the codecs: long clips first, then the longest batches, so that replicas end together."""
        futures: dict[Future[list[Encoded | Reject]], list[int]] = {}
        decoded = {i: item for i, item in enumerate(items) if isinstance(item, Decoded)}
        lengths = {i: len(item.samples) for i, item in decoded.items() if item.audio}
        for i in decoded.keys() - lengths.keys():
            futures[self._submit(self._dividers, self._encode_long, decoded[i])] = [i]
        for batch in reversed(length_batches(lengths, self._batch)):
            futures[self._submit(self._encoders, self._encode_batch, [decoded[i] for i in batch])] = batch
        return Batches(items, ends_shard, futures)

    def _finish(self, window: Batches) -> Window:
        items: dict[int, Encoded | Reject] = {
            i: item for i, item in enumerate(window.items) if isinstance(item, Reject)
        }
        for future, batch in window.futures.items():
            items.update(zip(batch, future.result(), strict=True))
        for i, item in enumerate(window.items):
            if isinstance(item, Decoded) and not item.audio:
                items[i] = self._refuse_double(items[i])
        return Window([items[i] for i in range(len(items))], window.ends_shard)

    def _refuse_double(self, item: Any) -> Any:
        """The item, or a Reject in its place.  Clips come here in their order; long ones when they are encoded, and have a digest."""
        if isinstance(item, Reject) or not item.audio or not item.audio.digest:
            return item
        first = self._seen.setdefault(item.audio.digest, item.clip.id)
        if first == item.clip.id:
            return item
        if isinstance(item, Decoded):
            self._let_go(item)
        return Reject(item.clip, f"{item.clip.path} holds the same audio as clip {first}", "duplicate")

    def _let_go(self, item: Decoded) -> None:
        with self._lock:
            self._held -= len(item.samples)
        item.samples = NOTHING

    # ---- in threads -------------------------------------------------------------------------------------------------

    def _decode(self, clip: Clip) -> Decoded | Reject:
        """The whole clip, or as much of it as shows that it is long."""
        parts: list[Samples] = []
        audio: Source | None = None
        try:
            data = clip.data() if clip.data else None
            reader = AudioReader(clip.path, self.sample_rate, data, self.plan.dedupe, clip.span)
            for part in reader:
                parts.append(part)
                self.limits.check_long(reader)
                if self.reach and reader.source_seconds > LONG_SECONDS:
                    break
            else:
                self.limits.check(reader)
                audio = source_of(reader)
        except UserError as e:
            return rejected(clip, e)
        samples = np.concatenate(parts)
        with self._lock:
            self._held += len(samples)
        seconds = reader.source_seconds if audio else max(reader.source_seconds, reader.claimed_seconds)
        return Decoded(clip, samples, seconds, audio, reader)

    def _encode_batch(self, items: list[Decoded]) -> list[Encoded | Reject]:
        with self._a_codec() as codec, self._working():
            codes = encode_batch(codec, [item.samples for item in items], self.books)
        done: list[Encoded | Reject] = []
        for item, c in zip(items, codes, strict=True):
            assert item.audio
            self._let_go(item)
            done.append(Encoded(item.clip, item.audio, c))
        return done

    def _encode_long(self, item: Decoded) -> list[Encoded | Reject]:
        """Its parts go to the codecs as they are decoded, a few at a time, each with as much of the past as its codes depend on."""
        assert self.reach is not None
        parts: list[Future[NDArray[np.int64]]] = []
        part = self.reach * math.ceil(PART_SECONDS * self.sample_rate / self.hop / self.reach)  # frames
        begin = first = 0  # frames where the samples at hand and the next part begin
        have = item.samples
        self._let_go(item)
        try:
            for block in item.rest:
                self.limits.check_long(item.rest)
                have = np.concatenate([have, block])
                while len(have) > (first + part - begin) * self.hop + self.delay and not self._stop.is_set():
                    first += part
                    sound = have[: (first - begin) * self.hop + self.delay]
                    parts.append(self._encoders.submit(self._encode_part, sound, begin, first - part - begin, False))
                    have = have[(first - self.reach - begin) * self.hop :]
                    begin = first - self.reach
                    wait(parts[: -self._encoders_count - 1])
            self.limits.check(item.rest)
        except UserError as e:
            for future in parts:
                future.cancel()
            return [rejected(item.clip, e)]
        parts.append(self._encoders.submit(self._encode_part, have, begin, first - begin, True))
        return [Encoded(item.clip, source_of(item.rest), np.concatenate([future.result() for future in parts], axis=1))]

    def _encode_part(self, samples: Samples, begin: int, skip: int, ended: bool) -> NDArray[np.int64]:
        with self._a_codec() as codec, self._working():
            return codec.encode_part(torch.from_numpy(samples), self.books, begin, ended).cpu().numpy()[:, skip:]

    @contextmanager
    def _a_codec(self) -> Iterator[Codec]:
        codec = self._free.get()
        try:
            yield codec
        except torch.OutOfMemoryError:
            raise UserError(f"{codec.device} ran out of memory: give a smaller --batch-seconds") from None
        finally:
            self._free.put(codec)

    @contextmanager
    def _working(self) -> Iterator[None]:
        """The time in here is the codec's."""
        began = time.monotonic()
        yield
        with self._lock:
            self._busy += time.monotonic() - began


def encode_corpus(
    codec: Codec,
    clips: Iterable[Clip],
    books: int,
    batch_seconds: float | None = None,
    workers: int = 2,
    limits: Limits = Limits(),  # noqa: B008
) -> Iterator[Encoded | Reject]:
    """Codes of each clip, in the order of the clips; those that cannot be used come back as `Reject`."""
    with Engine([codec], books, Plan(batch_seconds, workers, limits=limits)) as engine:
        for window in engine.run(clips):
            yield from window.items


def length_batches(lengths: dict[int, int], budget: int) -> list[list[int]]:
    """Group keys by length so that each padded batch holds at most `budget` samples (or a single longer clip)."""
    batches: list[list[int]] = []
    for key in sorted(lengths, key=lambda k: (lengths[k], k)):
        if batches and (len(batches[-1]) + 1) * lengths[key] <= budget:
            batches[-1].append(key)
        else:
            batches.append([key])
    return batches


def encode_batch(codec: Codec, waves: Sequence[Samples], books: int) -> list[NDArray[np.int64]]:
    """Waveforms (n,) at the codec's rate -> codes (books, frames) of each."""
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.zeros(len(waves), int(lengths.max()))
    for row, wave in zip(padded, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    codes = codec.encode(padded, codec.sample_rate, lengths=lengths, books=books).cpu().numpy()
    return [c[:, : -(-len(wave) // codec.hop)] for c, wave in zip(codes, waves, strict=True)]


def source_of(reader: AudioReader) -> Source:
    return Source(reader.source_samples, reader.source_rate, reader.digest)


def rejected(clip: Clip, error: UserError) -> Reject:
    return Reject(clip, str(error), error.kind if isinstance(error, BadAudio) else "corrupt")
