"""The local engine: clips -> decoded ahead by threads -> windows -> batches of like length -> codes, in the clips' order.

A window is a stretch of the corpus whose clips are sorted into batches.  Where windows and shards end depends on the clips
alone, never on timing, so a run that goes on behind a finished shard makes the very batches that one left alone makes.  A
recording too long to be in memory goes through the codec's stream encoder as it is decoded.  When the engine is left early, all
threads stop within a second or so: at the next block of a file, or the next layer of a codec.  Nothing here writes files.
"""

import itertools
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import AudioReader
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.resample import Samples
from solfa.tokenizers.datasets.commands.clip_results import (
    Encoded,
    Limits,
    Plan,
    Reject,
    ShardState,
    Source,
    Window,
    rejected,
    source_of,
)
from solfa.tokenizers.datasets.readers.clip import Clip
from solfa.tokenizers.datasets.readers.source_stamp import stamp_of

CPU_BATCH_SECONDS, CUDA_BATCH_SECONDS = 20.0, 120.0  # on a CPU, what the caches hold is 40 % faster than larger batches
CPU_ENCODERS = 8  # at most; each has its share of the threads
WINDOW_SECONDS = 960.0  # of audio in a window, once a shard has begun with smaller ones
LONG_SECONDS = 120.0  # a longer clip is encoded as it is decoded, and never in memory as a whole
WHOLE_SECONDS = 3600.0  # unless the codec cannot stream: then a clip longer than this is refused
PART_SECONDS = 120.0  # of a long clip, encoded at once
LONG_AT_ONCE = 2  # long clips: the next is read while the codecs have the last of one
AHEAD = 8  # clips per worker that are being decoded, or wait for an earlier one
MOST_WINDOWS = 64  # on their way at once: behind a long clip their codes wait
STOP_SECONDS = 0.2  # between two looks at whether to stop
NOTHING: Samples = np.zeros(0, np.float32)
S = TypeVar("S")
T = TypeVar("T")


@dataclass
class Decoded:
    """A clip on its way to a codec.  Of a long one `samples` are the first, and `rest` gives the others."""

    clip: Clip
    samples: Samples  # (n,) at the codec's rate; `NOTHING` once they are encoded
    seconds: float  # of the source; of a long one by its header
    audio: Source | None  # None: long
    rest: AudioReader
    stamp: str = ""


class Stopped(Exception):
    """Raised in the threads when the engine is left before its work is done."""


@dataclass(frozen=True)
class Batches:
    """A window on its way through the codecs: which of its items come out of which batch."""

    items: list[Decoded | Reject]
    shard: ShardState | None
    futures: dict[Future[list[Encoded | Reject]], list[int]]


class Planner:
    """Collects clips until they make a window, and windows until they make a shard; `batch` and `most` (in a window): samples."""

    def __init__(self, plan: Plan, batch: int, most: int, begun: ShardState = ShardState()):  # noqa: B008
        self.plan, self.batch, self.most = plan, batch, most
        self.items: list[Decoded | Reject] = []
        self.samples = 0  # in the window
        self.windows, self.rows, self.seconds = begun.windows, begun.rows, begun.seconds  # in the shard

    @property
    def shard_is_full(self) -> bool:
        """Whether the clip that came last fills the shard."""
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

    def take(self) -> tuple[list[Decoded | Reject], ShardState | None]:
        """The window, and how far the shard is behind it: None where that ends it."""
        items = self.items
        self.items, self.samples, self.windows = [], 0, self.windows + 1
        if self.shard_is_full:
            self.windows, self.rows, self.seconds = 0, 0, 0.0
            return items, None
        return items, ShardState(self.windows, self.rows, self.seconds)


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
        layers = {id(layer): layer for codec in codecs for layer in codec.modules()}
        self._hooks = [layer.register_forward_pre_hook(self._before_layer) for layer in layers.values()]
        self._thread = threading.local()  # `encodes`: in those that encode; others may use the same codec
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
        for pool in (self._decoders, self._dividers, self._encoders):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (self._decoders, self._dividers, self._encoders):
            pool.shutdown()
        for hook in self._hooks:
            hook.remove()
        torch.set_num_threads(self._threads)

    @property
    def waited(self) -> float:
        """Share of the time since `run` began in which the codecs had nothing to do, 0 to 1."""
        elapsed = (self._ended or time.monotonic()) - self._began
        return max(0.0, 1 - self._busy / max(self._encoders_count * elapsed, 1e-9))

    def run(self, clips: Iterable[Clip], begun: ShardState = ShardState()) -> Iterator[Window]:  # noqa: B008
        """The windows of a corpus, one after another.  To be called once.

        begun: how far the shard is that an earlier run has left open.
        """
        self._began = time.monotonic()
        source: Iterator[Clip] | None = iter(clips)
        decoding: deque[Future[Decoded | Reject]] = deque()
        encoding: deque[Batches] = deque()
        planner = Planner(self.plan, self._batch, self._window, begun)
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

    def _start(self, items: list[Decoded | Reject], shard: ShardState | None) -> Batches:
        """Hand a window to the codecs: long clips first, then the longest batches, so that replicas end together."""
        futures: dict[Future[list[Encoded | Reject]], list[int]] = {}
        decoded = {i: item for i, item in enumerate(items) if isinstance(item, Decoded)}
        lengths = {i: len(item.samples) for i, item in decoded.items() if item.audio}
        for i in decoded.keys() - lengths.keys():
            futures[self._submit(self._dividers, self._encode_long, decoded[i])] = [i]
        for batch in reversed(length_batches(lengths, self._batch)):
            futures[self._submit(self._encoders, self._encode_batch, [decoded[i] for i in batch])] = batch
        return Batches(items, shard, futures)

    def _finish(self, window: Batches) -> Window:
        items: dict[int, Encoded | Reject] = {
            i: item for i, item in enumerate(window.items) if isinstance(item, Reject)
        }
        for future, batch in window.futures.items():
            items.update(zip(batch, future.result(), strict=True))
        for i, item in enumerate(window.items):
            if isinstance(item, Decoded) and not item.audio:
                items[i] = self._refuse_double(items[i])
        return Window([items[i] for i in range(len(items))], window.shard)

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

    def _check(self) -> None:
        """Raises: Stopped once the engine is being left."""
        if self._stop.is_set():
            raise Stopped

    def _before_layer(self, *_: object) -> None:
        if getattr(self._thread, "encodes", False):
            self._check()

    # ---- in threads -------------------------------------------------------------------------------------------------

    def _decode(self, clip: Clip) -> Decoded | Reject:
        """The whole clip, or as much of it as shows that it is long."""
        parts: list[Samples] = []
        audio: Source | None = None
        try:
            data = clip.data() if clip.data else None
            reader = AudioReader(clip.path, self.sample_rate, data, self.plan.dedupe, clip.span)
            stamp = stamp_of(clip).recorded(clip, data, self._check) if self.plan.stamp else ""
            for part in reader:
                self._check()
                parts.append(part)
                self.limits.check_long(reader)
                if self.reach and reader.source_seconds > LONG_SECONDS:
                    break
            else:
                self.limits.check(reader)
                audio = source_of(reader, stamp)
        except UserError as e:
            return rejected(clip, e)
        samples = np.concatenate(parts)
        with self._lock:
            self._held += len(samples)
        seconds = reader.source_seconds if audio else max(reader.source_seconds, reader.claimed_seconds)
        return Decoded(clip, samples, seconds, audio, reader, stamp)

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
        have, waiting = [item.samples], len(item.samples)
        self._let_go(item)
        try:
            for block in item.rest:
                self._check()
                self.limits.check_long(item.rest)
                have.append(block)
                waiting += len(block)
                while waiting > (first + part - begin) * self.hop + self.delay:
                    first += part
                    joined = np.concatenate(have)
                    sound = joined[: (first - begin) * self.hop + self.delay]
                    parts.append(self._encoders.submit(self._encode_part, sound, begin, first - part - begin, False))
                    have = [joined[(first - self.reach - begin) * self.hop :]]
                    waiting, begin = len(have[0]), first - self.reach
                    self._wait_for(parts[: -self._encoders_count - 1])
            self.limits.check(item.rest)
        except UserError as e:
            for future in parts:
                future.cancel()
            return [rejected(item.clip, e)]
        finally:
            item.rest.close()
        parts.append(self._encoders.submit(self._encode_part, np.concatenate(have), begin, first - begin, True))
        self._wait_for(parts)
        codes = np.concatenate([future.result() for future in parts], axis=1)
        return [Encoded(item.clip, source_of(item.rest, item.stamp), codes)]

    def _wait_for(self, futures: list[Future[NDArray[np.int64]]]) -> None:
        """Raises: Stopped once the engine is being left, for then some of them will never be done."""
        waiting = set(futures)
        while waiting:
            self._check()
            waiting = wait(waiting, STOP_SECONDS, FIRST_COMPLETED).not_done

    def _encode_part(self, samples: Samples, begin: int, skip: int, ended: bool) -> NDArray[np.int64]:
        with self._a_codec() as codec, self._working():
            return codec.encode_part(torch.from_numpy(samples), self.books, begin, ended).cpu().numpy()[:, skip:]

    @contextmanager
    def _a_codec(self) -> Iterator[Codec]:
        codec = self._free.get()
        self._thread.encodes = True
        try:
            yield codec
        except torch.OutOfMemoryError:
            raise UserError(f"{codec.device} ran out of memory: give a smaller --batch-seconds") from None
        finally:
            self._thread.encodes = False
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
