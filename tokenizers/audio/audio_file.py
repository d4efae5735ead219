"""Audio files <-> float32 mono arrays: libsndfile first, FFmpeg (PyAV) for what it cannot open, soxr to resample.

Reading goes block by block, so that eight channels at 192 kHz never stand in memory at once.
"""

import hashlib
import io
import itertools
import math
import os
import stat
import sys
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import av
import numpy as np
import soundfile

from solfa.core.atomic import write_bytes
from solfa.core.errors import UserError
from solfa.tokenizers.audio.resample import RATES, Samples, StreamResampler

AUDIO_SUFFIXES = frozenset(  # not .ts, which mostly is TypeScript
    ".wav .flac .ogg .oga .opus .spx .mp3 .mp2 .mpga .m4a .m4b .aac .ac3 .eac3 .dts .aif .aiff .aifc .au .snd .caf .w64 .rf64 .bwf "
    ".sph .wma .amr .ape .wv .tta .mka .mp4 .m4v .3gp .mov .mkv .webm .ogv .avi .flv .mpg .mpeg .m2ts .mts .vob .wmv .asf".split()
)  # fmt: skip
WRITABLE = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
SEEKABLE = {"WAV", "WAVEX", "W64", "RF64", "AIFF", "AU", "FLAC"}  # to the sample
SPAN_SLACK = 0.1  # seconds by which a file may end before its span: manifests round
BLOCK = 1 << 18  # samples read at once, of all channels together
FULL_SCALE = 32_767 / 32_768  # the largest sample that 16 bits hold

Kind = Literal[
    "missing", "unreadable", "empty", "corrupt", "nan", "short", "long", "silent", "clipped", "duplicate", "other"
]  # fmt: skip


class BadAudio(UserError):
    """Audio that cannot be used: the reason in one sentence, and as a word."""

    def __init__(self, kind: Kind, sentence: str):
        super().__init__(sentence)
        self.kind = kind


class Audio(NamedTuple):
    """samples: (n,) float32 mono, full scale 1; sample_rate: Hz; source_samples, source_rate: as in the file."""

    samples: Samples
    sample_rate: int
    source_samples: int
    source_rate: int


class Probe(NamedTuple):
    """What a header says, without decoding; duration in seconds."""

    duration: float
    sample_rate: int
    channels: int


class AudioReader:
    """A file being decoded: an iterator of mono float32 blocks (n,) at `sample_rate`, of a few seconds each.

    `source_samples`, `source_rate`, `peak` (full scale 1) and `at_full_scale` (samples) are of what was read so far, at the
    source's rate; `claimed_seconds` is what the header says, perhaps nothing.  The blocks joined are as long as
    `resampled_length` says.

    Args:
        path: the file, or with `data` only a name to show.
        sample_rate: in Hz; None keeps the file's own.
        data: the encoded bytes, where there is no file.
        fingerprint: whether `digest` is to be worked out.
        span: begin and length in seconds of the part to read; all else is as if the file held nothing but it.

    Raises: BadAudio, also while it is iterated, for a file that is missing, unreadable, damaged or empty, that holds NaN or
    infinite samples, or that ends before its span.
    """

    def __init__(
        self,
        path: str | Path,
        sample_rate: int | None = None,
        data: bytes | None = None,
        fingerprint: bool = False,
        span: tuple[float, float] | None = None,
    ):
        self.path, self.span = Path(path), span
        self.source_rate, self.claimed_seconds, self._blocks = _open(self.path, data, span[0] if span else 0.0)
        if span:
            self.claimed_seconds = span[1]
        _check_rate(self.path, self.source_rate)
        self.sample_rate = sample_rate or self.source_rate
        self.source_samples = self.at_full_scale = 0
        self.peak = 0.0
        self._hash = hashlib.sha1(str(self.source_rate).encode(), usedforsecurity=False) if fingerprint else None
        self._resampled = self._resample()

    def __iter__(self) -> Iterator[Samples]:
        return self._resampled

    def __next__(self) -> Samples:
        return next(self._resampled)

    @property
    def source_seconds(self) -> float:
        return self.source_samples / self.source_rate

    @property
    def digest(self) -> str:
        """Equal where sample rate and decoded samples are, whatever the files: 40 hex digits, or none."""
        return self._hash.hexdigest() if self._hash else ""

    def close(self) -> None:
        """Let go of the file before its end."""
        self._resampled.close()
        self._blocks.close()

    def _resample(self) -> Generator[Samples, None, None]:
        stream = StreamResampler(self.source_rate, self.sample_rate) if self.sample_rate != self.source_rate else None
        left = round(self.span[1] * self.source_rate) if self.span else sys.maxsize
        for block in self._blocks:
            if not len(block := block[:left]):
                continue
            left -= len(block)
            loudest = float(max(block.max(), -block.min()))
            if not math.isfinite(loudest):
                raise BadAudio("nan", f"{self.path} holds NaN or infinite samples")
            self.source_samples += len(block)
            self.peak = max(self.peak, loudest)
            if loudest >= FULL_SCALE:
                self.at_full_scale += int(np.count_nonzero(np.abs(block) >= FULL_SCALE))
            if self._hash is not None:
                self._hash.update(block.tobytes())
            yield block if stream is None else stream.push(block)
            if not left:
                self._blocks.close()
        if self.span and left > SPAN_SLACK * self.source_rate:
            begin, seconds = self.span
            raise BadAudio("short", f"{self.path} ends before its part from {begin:g} s to {begin + seconds:g} s does")
        if not self.source_samples:
            raise BadAudio("empty", f"{self.path} holds no samples")
        if stream is not None:
            yield stream.finish()


def read_audio(
    path: str | Path,
    sample_rate: int | None = None,
    data: bytes | None = None,
    span: tuple[float, float] | None = None,
) -> Audio:
    """Read a file, mix it down to mono and resample it to `sample_rate` (None: keep the file's own).

    `data`: the encoded bytes, where `path` is only a name.  `span`: begin and seconds of the part to read.
    Raises: BadAudio, a UserError, as `AudioReader` does.
    """
    reader = AudioReader(path, sample_rate, data, span=span)
    samples = np.concatenate(list(reader))
    return Audio(samples, reader.sample_rate, reader.source_samples, reader.source_rate)


def probe(path: str | Path, data: bytes | None = None) -> Probe:
    """Duration, sample rate and channels from the header.

    Raises: BadAudio as `AudioReader` does.
    """
    path = Path(path)
    _check_file(path, data)
    try:
        with _open_sndfile(path, data) as file:
            found = Probe(file.frames / file.samplerate, file.samplerate, file.channels)
    except soundfile.LibsndfileError:
        with _open_container(path, data) as container:
            stream = _audio_stream(path, container)
            found = Probe(_claimed(stream, container), stream.codec_context.sample_rate, stream.codec_context.channels)
    _check_rate(path, found.sample_rate)
    return found


def encode_audio(samples: Samples, sample_rate: int, suffix: str) -> bytes:
    """A whole file in memory; samples: (n,) float, clipped to full scale; suffix: one of `WRITABLE`."""
    kind, subtype = WRITABLE[suffix]
    data = np.clip(np.asarray(samples, np.float32), -1, 1)
    if subtype == "PCM_16":  # the scale that readers divide by: 16-bit audio comes back bit for bit
        data = np.clip(np.round(data * 32768), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", sample_rate, 1, format=kind, subtype=subtype) as file:
        for start in range(0, len(data), BLOCK):  # libsndfile's Vorbis encoder overflows its stack on long writes
            file.write(data[start : start + BLOCK])
    return buffer.getvalue()


def check_writable(path: str | Path) -> Path:
    """The path, after checking that its ending names a format we write and that it is not a folder."""
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise UserError(f"{path} should end in {', '.join(WRITABLE)} to say which kind of audio file to write")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file")
    return path


def write_wav(path: str | Path, samples: Samples, sample_rate: int) -> None:
    """Write mono 16-bit .wav or .flac, or .ogg (Vorbis), whole or not at all; makes the folder.

    samples: (n,) float, clipped to full scale.
    Raises: UserError for another ending, a folder in the way, or a place that cannot be written.
    """
    path = check_writable(path)
    write_bytes(path, encode_audio(samples, sample_rate, path.suffix.lower()))


def _open(path: Path, data: bytes | None, begin: float) -> tuple[int, float, Generator[Samples, None, None]]:
    """-> (sample rate, seconds by the header, mono blocks from second `begin` on).

    A format that libsndfile knows but cannot decode is damaged, not FFmpeg's turn.
    """
    _check_file(path, data)
    try:
        file = _open_sndfile(path, data)
    except soundfile.LibsndfileError:
        container = _open_container(path, data)
        try:
            stream = _audio_stream(path, container)
        except BadAudio:
            container.close()
            raise
        rate = stream.codec_context.sample_rate
        return rate, _claimed(stream, container), _after(round(begin * rate), _blocks_av(path, container, rate))
    skip = round(begin * file.samplerate)
    if skip and file.format in SEEKABLE and file.seekable():
        file.seek(min(skip, file.frames))
        skip = 0
    return file.samplerate, file.frames / file.samplerate, _after(skip, _blocks(path, file))


def _after(skip: int, blocks: Generator[Samples, None, None]) -> Generator[Samples, None, None]:
    """Without the first `skip` samples."""
    try:
        for block in blocks:
            yield block[skip:]
            skip = max(0, skip - len(block))
    finally:
        blocks.close()


def _open_sndfile(path: Path, data: bytes | None) -> soundfile.SoundFile:
    """Raises: LibsndfileError for what libsndfile does not know."""
    if data is not None:
        return soundfile.SoundFile(io.BytesIO(data))
    if sys.platform == "win32":
        return soundfile.SoundFile(str(path))
    # Not by its name, which need not be Unicode, and which makes libsndfile take any rubbish in a .au or .raw for samples.
    return soundfile.SoundFile(os.open(path, os.O_RDONLY), closefd=True)


def _blocks(path: Path, file: soundfile.SoundFile) -> Generator[Samples, None, None]:
    with file:
        size = max(1024, BLOCK // file.channels)
        try:
            while len(block := file.read(size, dtype="float32", always_2d=True)):
                yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
        except soundfile.LibsndfileError:
            raise BadAudio("corrupt", f"{path} is damaged: its audio cannot be decoded") from None


def _open_container(path: Path, data: bytes | None) -> "av.container.InputContainer":
    """FFmpeg is kept from following a playlist that poses as audio to other places than files."""
    place = str(path.absolute()) if data is None else io.BytesIO(data)  # "a:b.mka" would be a protocol
    try:
        return av.open(place, "r", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError):
        raise BadAudio("corrupt", f"{path} is damaged or not an audio file") from None


def _blocks_av(path: Path, container: "av.container.InputContainer", rate: int) -> Generator[Samples, None, None]:
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


def _check_file(path: Path, data: bytes | None) -> None:
    if data is not None:
        if not data:
            raise BadAudio("empty", f"audio file {path} is empty")
        return
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise BadAudio("unreadable", f"{path} is a folder, not an audio file")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for somebody to write to it
            raise BadAudio("unreadable", f"{path} is not a regular file")
        with path.open("rb") as file:
            empty = not file.read(1)
    except BadAudio:  # which is a ValueError
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise BadAudio("missing", f"audio file {path} does not exist") from None
    except OSError as e:
        raise BadAudio("unreadable", f"audio file {path} cannot be read: {e.strerror}") from None
    except ValueError:  # a NUL in its name
        raise BadAudio("missing", f"audio file {str(path)!r} cannot exist: its name holds a NUL") from None
    if empty:
        raise BadAudio("empty", f"audio file {path} is empty")


def _check_rate(path: Path, rate: int) -> None:
    if rate not in RATES:
        raise BadAudio(
            "corrupt", f"{path} claims a sample rate of {rate} Hz; {RATES.start} to {RATES.stop - 1} can be read"
        )
