"""How long an audio file should be by its own header: what shows that a file was cut off, and nothing is decoded for it.

libsndfile and FFmpeg give what is there of most files that were cut off without a word.  Formats with chunks state the bytes of
their sound, MP3 may state its frames, Ogg ends in a page that says so.  Where nothing is stated, nothing is concluded.
"""

import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

HEAD = 1 << 12  # bytes that are read of an MP3's first frame
TAIL = 1 << 17  # bytes at the end of an Ogg file: two of its longest pages
UNKNOWN_32, UNKNOWN_64 = 0x7FFF_F000, 1 << 62  # and more: what is written where the length is not known yet
LONGEST_HEADER = 1 << 10  # chunks before the sound; a file with more of them is let pass


class Chunk(NamedTuple):
    """Of a file made of chunks: its name, where its content begins, and how many bytes that should have."""

    name: bytes
    start: int
    size: int


def stated_share(file: BinaryIO) -> float:
    """How much of its sound a file holds, by the bytes: 1 for all that its header states, .5 for half of it.

    1 also where the header states no length.  The place in the file is lost.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(40)
    sound = next((chunk for chunk in _chunks(file, head) if chunk.name in (b"data", b"SSND", b".snd")), None)
    if sound is None or sound.size <= 0:
        return 1.0
    return min(1.0, max(0, size - sound.start) / sound.size)


def states_frames(file: BinaryIO) -> bool:
    """Whether an MP3 file's first frame states how many there are (Xing, Info or VBRI); else its length is an estimate."""
    file.seek(0)
    head = file.read(10)
    skip = 0
    if len(head) == 10 and head[:3] == b"ID3":
        skip = 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    file.seek(skip)
    frame = file.read(HEAD)
    return any(name in frame for name in (b"Xing", b"Info", b"VBRI"))


def ends_in_a_page(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file is whole; one that marks the end may have anything behind it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    tail = file.read(TAIL)
    at = tail.rfind(b"OggS\0")
    if at < 0:
        return True
    page = tail[at:]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    end = 27 + page[26] + sum(page[27 : 27 + page[26]])
    last = bool(page[5] & 4)
    return len(page) >= end if last else len(page) == end


def open_bytes(path: Path, data: bytes | None) -> BinaryIO:
    """The file, or the bytes that stand for it."""
    return path.open("rb") if data is None else io.BytesIO(data)


def _chunks(file: BinaryIO, head: bytes) -> Iterator[Chunk]:
    """Of WAV (RIFF, RF64), Wave64, AIFF, CAF and AU files; none of others, nor those of unknown size."""
    kind, form = head[:4], head[8:12]
    if kind in (b"RIFF", b"RF64", b"BW64") and form == b"WAVE":
        yield from _riff(file)
    elif kind == b"RIFX" and form == b"WAVE":
        yield from _walk(file, 12, ">4sI", 2, UNKNOWN_32)
    elif kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        yield from _walk(file, 12, ">4sI", 2, UNKNOWN_32)
    elif kind == b"caff":
        yield from _walk(file, 8, ">4sq", 1, UNKNOWN_64)
    elif kind == b"riff" and head[24:28] == b"wave":
        yield from (
            Chunk(chunk.name[:4], chunk.start, chunk.size - 24) for chunk in _walk(file, 40, "<16sQ", 8, UNKNOWN_64)
        )
    elif kind == b".snd" and len(head) >= 12:
        start, size = struct.unpack(">II", head[4:12])
        if size < UNKNOWN_32:
            yield Chunk(b".snd", start, size)


def _riff(file: BinaryIO) -> Iterator[Chunk]:
    """Chunks of a WAV file; RF64 keeps the length of its sound, which is too long for the chunk itself, in a chunk before."""
    long = None
    for chunk in _walk(file, 12, "<4sI", 2, 1 << 32):
        if chunk.name == b"ds64":
            file.seek(chunk.start)
            sizes = file.read(16)
            long = struct.unpack("<QQ", sizes)[1] if len(sizes) == 16 else None
        elif chunk.name == b"data" and chunk.size >= UNKNOWN_32:
            if long is not None and long < UNKNOWN_64:
                yield chunk._replace(size=long)
            return
        else:
            yield chunk


def _walk(file: BinaryIO, start: int, layout: str, align: int, unknown: int) -> Iterator[Chunk]:
    """Chunks from byte `start` on, their name and size laid out as `layout` (`struct`), up to one of `unknown` size."""
    fields = struct.Struct(layout)
    whole = align == 8  # Wave64 counts the name and the size as well
    for _ in range(LONGEST_HEADER):
        file.seek(start)
        header = file.read(fields.size)
        if len(header) < fields.size:
            return
        name, size = fields.unpack(header)
        if size < 0 or size >= unknown:
            return
        yield Chunk(name, start + fields.size, size)
        length = max(size, fields.size) if whole else fields.size + size
        start += length + -length % align
