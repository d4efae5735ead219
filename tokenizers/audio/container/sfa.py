"""`.sfa`: the codes of one recording, entropy-coded, with what it takes to give its exact length back.

    4 bytes     "SFA" and the version of the format
    4 bytes     CRC-32 of all that follows
    1 + n bytes length and UTF-8 name of the codec
    21 bytes    `FIELDS`: digest of the codec's fingerprint, digest of the learned prior (zeros: adaptive), books, sample rate, samples
    the rest    range-coded codes, frame by frame, coarse books first

Little-endian.  The number of frames follows from samples and rate, so with a name like codec-24khz 42 bytes are no codes.
"""

import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from solfa.core.atomic import write_bytes
from solfa.core.errors import UserError
from solfa.core.progress import clock
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.container.prior import RARE, AdaptivePrior, Codes, LearnedPrior, Prior
from solfa.tokenizers.audio.container.range_coder import RangeDecoder, RangeEncoder
from solfa.tokenizers.audio.resample import RATES, resampled_length

SUFFIX = ".sfa"
START = b"SFA\x01"
FIELDS = struct.Struct("<8s4sBII")
MAX_SECONDS = 24 * 3600
MAX_BYTES = 1 << 30  # more than a day of any codec
CODES_PER_BYTE = 8 * RARE  # at most: a small file cannot claim to be a long one
LIKELY_CODES_PER_BYTE = 200  # at most, in a long file of anything but silence; speech has about one
LONG_SECONDS = 600.0  # a shorter file may be silence all through
FRAMES_AT_ONCE = 25  # decoded between two calls of `pause`


class Recording(NamedTuple):
    """codes: int64 (books, frames); samples: how many the recording has at its own sample_rate, in Hz."""

    codes: Tensor
    samples: int
    sample_rate: int


def pack(codec: Codec, recording: Recording, learned: LearnedPrior | None = None) -> bytes:
    """The content of a file.  The learned prior (`prior.load_prior`) is used where it makes the file smaller.

    Raises: UserError for codes or a length that the codec cannot have made, and for more than a day.
    """
    codes = codec.check_codes(recording.codes[None])[0].cpu().numpy()
    frames = count_frames(codec, recording.samples, recording.sample_rate)
    if codes.shape[1] != frames:
        heard = f"{recording.samples} samples at {recording.sample_rate} Hz"
        raise UserError(f"{heard} are {frames} frames of codec {codec.name}, not {codes.shape[1]}")
    priors: list[Prior] = [AdaptivePrior(codec.codebook_sizes), *([learned] if learned else [])]
    payloads = {prior.digest: encode(prior, codes) for prior in priors}
    prior = min(payloads, key=lambda digest: len(payloads[digest]))
    name = codec.name.encode()[:255]
    fields = FIELDS.pack(codec_digest(codec, len(codes)), prior, len(codes), recording.sample_rate, recording.samples)
    body = bytes([len(name)]) + name + fields + payloads[prior]
    return START + zlib.crc32(body).to_bytes(4, "little") + body


class Packed(NamedTuple):
    """A file whose header was read and checked, its codes still packed.

    books: in the file; frames: of codes; samples: of the recording at its own sample_rate, in Hz; take: how many of the first books
    to give, None for all.
    """

    books: int
    frames: int
    samples: int
    sample_rate: int
    prior: Prior
    payload: bytes
    take: int | None = None

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self.samples / self.sample_rate

    def blocks(self, sizes: Iterable[int], pause: Callable[[], None] = lambda: None) -> Iterator[Tensor]:
        """The codes, int64 (books, n) for each n of `sizes`, which add up to `frames`; they are unpacked only as they are asked for.

        pause: called every few frames; it may raise to end the work.
        """
        parts = [_parts(size) for size in sizes]
        found = self.prior.decode_blocks(
            RangeDecoder(self.payload), self.books, (size for some in parts for size in some)
        )
        for some in parts:
            block = []
            for _ in some:
                pause()
                block.append(next(found))
            yield torch.from_numpy(np.concatenate(block, axis=1)[: self.take])


def _parts(size: int) -> list[int]:
    return [min(FRAMES_AT_ONCE, size - start) for start in range(0, size, FRAMES_AT_ONCE)]


def unpack(
    data: bytes, codec: Codec, learned: LearnedPrior | None = None, path: str | Path = "this .sfa file"
) -> Recording:
    """What `pack` was given; errors name `path` and are those of `read_header`, but of no likely length."""
    packed = read_header(data, codec, learned, path, max_seconds=MAX_SECONDS)
    return Recording(next(packed.blocks([packed.frames])), packed.samples, packed.sample_rate)


def read_header(
    data: bytes,
    codec: Codec,
    learned: LearnedPrior | None = None,
    path: str | Path = "this .sfa file",
    max_seconds: float | None = None,
) -> Packed:
    """Check a file and its header; errors name `path`.

    max_seconds: the longest that is believed; None: any length that something other than silence could fill.
    Raises: UserError for a file that is no .sfa file or damaged, holds another codec's codes, needs another learned prior, or
    states a length that is not believed.
    """
    if data[:3] != START[:3]:
        raise UserError(f"{path} is not an .sfa file")
    if data[: len(START)] != START:
        raise UserError(f"{path} has another version of the .sfa format than the {START[3]} that this solfa reads")
    body = data[8:]
    if zlib.crc32(body).to_bytes(4, "little") != data[4:8] or len(body) < 1 + body[0] + FIELDS.size:
        raise UserError(f"{path} is damaged or incomplete")
    name = body[1 : 1 + body[0]].decode(errors="replace")
    digest, prior_digest, books, sample_rate, samples = FIELDS.unpack_from(body, 1 + body[0])
    payload = body[1 + body[0] + FIELDS.size :]
    if digest != codec_digest(codec, books):
        whose = f"another codec {name!r} than this one" if name == codec.name else f"codec {name!r}, not {codec.name!r}"
        raise UserError(f"{path} holds codes of {whose}: name its codec's folder with --codec")
    priors: list[Prior] = [AdaptivePrior(codec.codebook_sizes), *([learned] if learned else [])]
    prior = next((prior for prior in priors if prior.digest == prior_digest), None)
    if prior is None:
        raise UserError(
            f"{path} needs the learned prior {prior_digest.hex()} of codec {name!r}, which is not in its folder here"
        )
    frames = count_frames(codec, samples, sample_rate)
    if not 1 <= books <= codec.books or books * frames > CODES_PER_BYTE * (len(payload) + 1):
        raise UserError(f"{path} is damaged: its header and its size do not agree")
    packed = Packed(books, frames, samples, sample_rate, prior, payload)
    likely = max_seconds is not None or books * frames <= LIKELY_CODES_PER_BYTE * (len(payload) + 1)
    most = max_seconds if max_seconds is not None else MAX_SECONDS if likely else LONG_SECONDS
    if packed.seconds > most:
        raise UserError(
            f"{path} claims {clock(packed.seconds)} of sound in {len(data)} bytes"
            + (f", more than --max-seconds {most:g}" if likely else ", which could only be silence")
            + f": give --max-seconds {math.ceil(packed.seconds)} to decode it all the same"
        )
    return packed


def write_sfa(path: str | Path, codec: Codec, recording: Recording, learned: LearnedPrior | None = None) -> int:
    """Write the file, whole or not at all; -> its bytes.  Errors as in `pack`, and where it cannot be written."""
    data = pack(codec, recording, learned)
    write_bytes(Path(path), data)
    return len(data)


def read_sfa(path: str | Path, codec: Codec, learned: LearnedPrior | None = None) -> Recording:
    """Read what `write_sfa` wrote.  Errors as in `unpack`, and for a file that cannot be read."""
    return unpack(read_file(path), codec, learned, path)


def read_file(path: str | Path) -> bytes:
    """The bytes of a file.  Raises: UserError where it cannot be read, or is larger than any .sfa file."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as e:
        raise UserError(f"{path} cannot be read: {(e.strerror or str(e)).lower()}") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{path} is too large for an .sfa file")
    return data


def encode(prior: Prior, codes: Codes) -> bytes:
    """Codes (books, frames) -> their range-coded bytes."""
    encoder = RangeEncoder()
    for span in prior.spans(codes):
        encoder.encode(*span)
    return encoder.finish()


def count_frames(codec: Codec, samples: int, sample_rate: int) -> int:
    """Code frames of a recording.  Raises: UserError for none or more than a day of it."""
    if sample_rate not in RATES or not 1 <= samples <= MAX_SECONDS * sample_rate or samples >= 1 << 32:
        raise UserError(
            f"{samples} samples at {sample_rate} Hz do not go into an .sfa file, which holds up to a day at 48 kHz"
        )
    return -(-resampled_length(samples, sample_rate, codec.sample_rate) // codec.hop)


def codec_digest(codec: Codec, books: int) -> bytes:
    """8 bytes that stand for the codec of the first `books` books."""
    return hashlib.sha256(codec.fingerprint_of(books).encode()).digest()[:8]
