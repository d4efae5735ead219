"""Audio files <-> float32 mono arrays: libsndfile first, FFmpeg (PyAV) for what it cannot open, soxr to resample.

Reading goes block by block, so that eight channels at 192 kHz never stand in memory at once.
"""

import io
import itertools
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import soundfile
import soxr

from solfa.atomic import write_bytes
from solfa.errors import UserError
from solfa.tokenizers.resampling import Samples, fit, resampled_length

AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .m4a .m4b .mp4 .aac .aif .aiff .aifc .au .caf .w64 .wma .amr .3gp .webm .mkv .mka .mov".split()
)  # fmt: skip
WRITABLE = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
RATES = range(1_000, 1_000_000)  # Hz; a header outside is damaged, and resampling from it would fill the memory
BLOCK = 1 << 18  # samples a channel read at once



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


def read_audio(path: str | Path, sample_rate: int | None = None) -> Audio:
    """Read a file, mix it down to mono and resample it to `sample_rate` (None: keep the file's own).

    Raises: UserError for a file that is missing, unreadable, damaged or empty, or that holds NaN or infinite samples.
    """
    path = Path(path)
    rate, blocks = _open(path)
    _check_rate(path, rate)
    target = sample_rate or rate
    stream = soxr.ResampleStream(rate, target, 1, dtype="float32") if target != rate else None
    parts: list[Samples] = []
    n = 0
    for block in blocks:
        if not np.isfinite(block).all():
            raise UserError(f"{path} holds NaN or infinite samples")
        n += len(block)
        parts.append(block if stream is None else stream.resample_chunk(block))
    if n == 0:
        raise UserError(f"{path} holds no samples")
    if stream is not None:
        parts.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    return Audio(fit(np.concatenate(parts), resampled_length(n, rate, target)), target, n, rate)


def probe(path: str | Path) -> Probe:
    """Duration, sample rate and channels from the header.

    Raises: UserError as `read_audio` does.
    """
    path = Path(path)
    _check_file(path)
    try:
        info = soundfile.info(path)
        found = Probe(info.frames / info.samplerate, info.samplerate, info.channels)
    except soundfile.LibsndfileError:
        try:
            with av.open(str(path)) as container:
                stream = _audio_stream(path, container)
                if stream.duration and stream.time_base:
                    seconds = float(stream.duration * stream.time_base)
                else:  # Matroska keeps one duration for the whole file
                    seconds = (container.duration or 0) / av.time_base
                found = Probe(seconds, stream.codec_context.sample_rate, stream.codec_context.channels)
        except (av.FFmpegError, OSError):
            raise UserError(f"{path} is damaged or not an audio file") from None
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


def _open(path: Path) -> tuple[int, Iterator[Samples]]:
    """-> (sample rate, mono blocks).  A format that libsndfile knows but cannot decode is damaged, not FFmpeg's turn."""
    _check_file(path)
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError:
        return _open_av(path)
    return file.samplerate, _blocks(path, file)


def _blocks(path: Path, file: soundfile.SoundFile) -> Iterator[Samples]:
    with file:
        try:
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
        except soundfile.LibsndfileError:
            raise UserError(f"{path} is damaged: its audio cannot be decoded") from None


def _open_av(path: Path) -> tuple[int, Iterator[Samples]]:
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError):
        raise UserError(f"{path} is damaged or not an audio file") from None
    try:
        rate = _audio_stream(path, container).codec_context.sample_rate
    except UserError:
        container.close()
        raise
    return rate, _blocks_av(path, container, rate)


def _blocks_av(path: Path, container: "av.container.InputContainer", rate: int) -> Iterator[Samples]:
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
        except (av.FFmpegError, OSError):
            raise UserError(f"{path} is damaged: its audio cannot be decoded") from None


def _audio_stream(path: Path, container: "av.container.InputContainer") -> "av.AudioStream":
    if not container.streams.audio:
        raise UserError(f"{path} holds no audio")
    return container.streams.audio[0]


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path} is a folder, not an audio file")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise UserError(f"audio file {path} does not exist") from None
    except OSError as e:
        raise UserError(f"audio file {path} cannot be read: {e.strerror}") from None
    if empty:
        raise UserError(f"audio file {path} is empty")


def _check_rate(path: Path, rate: int) -> None:
    if rate not in RATES:
        raise UserError(f"{path} claims a sample rate of {rate} Hz; {RATES.start} to {RATES.stop - 1} can be read")
