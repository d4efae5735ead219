"""Audio that libsndfile cannot read, by FFmpeg (PyAV): a file -> its rate, its length by the header, and blocks of mono samples."""

import io
import itertools
import sys
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from solfa.tokenizers.audio.bad_audio import BadAudio
from solfa.tokenizers.audio.file_length import open_bytes, stated_share
from solfa.tokenizers.audio.resample import Samples

STATE_LENGTH = (
    "mov,mp4",
    "matroska",
    "asf",
    "caf",
)  # formats whose headers state the length; of others it is estimated


class Opened(NamedTuple):
    """A file to decode: rate in Hz; claimed: seconds by the header, 0 unknown; stated: the same where it is no estimate."""

    rate: int
    claimed: float
    stated: float
    blocks: Generator[Samples, None, None]


def open_ffmpeg(path: Path, data: bytes | None, begin: float) -> Opened:
    """Mono blocks from second `begin` on; `data`: the bytes, where `path` is only a name.  Raises: BadAudio, also from the blocks."""
    container = _open(path, data)
    try:
        stream = _audio_stream(path, container)
    except BadAudio:
        container.close()
        raise
    rate, claimed = stream.codec_context.sample_rate, _claimed(stream, container)
    stated = 0.0
    if container.format.name.startswith(STATE_LENGTH) and (stream.duration or len(container.streams) == 1):
        stated = claimed  # beside a video the length of the file need not be that of its sound
        if container.format.name == "caf":
            with open_bytes(path, data) as file:
                stated = claimed / max(stated_share(file), 1e-9)
    return Opened(rate, claimed, stated, after(round(begin * rate), _blocks(path, container, rate)))


def probe_ffmpeg(path: Path, data: bytes | None) -> tuple[float, int, int]:
    """-> seconds, sample rate and channels; a length that no header states is that of the packets.  Raises: BadAudio."""
    with _open(path, data) as container:
        stream = _audio_stream(path, container)
        seconds = _claimed(stream, container)
        if not seconds and stream.time_base:
            try:
                seconds = float(sum(packet.duration or 0 for packet in container.demux(stream)) * stream.time_base)
            except (av.FFmpegError, OSError, ValueError):
                raise BadAudio("corrupt", f"{path} is damaged: its audio cannot be read") from None
        return seconds, stream.codec_context.sample_rate, stream.codec_context.channels


def after(skip: int, blocks: Generator[Samples, None, None]) -> Generator[Samples, None, None]:
    """Without the first `skip` samples."""
    try:
        for block in blocks:
            yield block[skip:]
            skip = max(0, skip - len(block))
    finally:
        blocks.close()


def _open(path: Path, data: bytes | None) -> "av.container.InputContainer":
    """FFmpeg is kept from following a playlist that poses as audio to other places than files."""
    place = str(path.absolute()) if data is None else io.BytesIO(data)  # "a:b.mka" would be a protocol
    try:
        return av.open(place, "r", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError):
        raise BadAudio("corrupt", f"{path} is damaged or not an audio file") from None


def _blocks(path: Path, container: "av.container.InputContainer", rate: int) -> Generator[Samples, None, None]:
    with container:
        stream = container.streams.audio[0]
        left = sys.maxsize
        if "mp4" in container.format.name and stream.duration and stream.time_base == Fraction(1, rate):
            left = stream.duration  # AAC fills its last frame up; FFmpeg leaves that padding in
        planar = av.AudioResampler(format="fltp", rate=rate)  # one sample format; channels stay, we mix them
        try:
            for frame in itertools.chain(container.decode(stream), [None]):  # None: flush
                for part in planar.resample(frame):
                    block = part.to_ndarray().mean(axis=0, dtype=np.float32)[:left]
                    left -= len(block)
                    yield block
        except (av.FFmpegError, OSError, ValueError):
            raise BadAudio("corrupt", f"{path} is damaged: its audio cannot be decoded") from None


def _audio_stream(path: Path, container: "av.container.InputContainer") -> "av.AudioStream":
    if not container.streams.audio or container.streams.audio[0].codec_context is None:
        raise BadAudio("corrupt", f"{path} holds no audio")
    return container.streams.audio[0]


def _claimed(stream: "av.AudioStream", container: "av.container.InputContainer") -> float:
    """Seconds by the header."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base  # Matroska keeps one duration for the whole file
