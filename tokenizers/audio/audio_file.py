"""Audio files <-> float32 mono arrays: libsndfile first, FFmpeg (PyAV) for what it cannot open, soxr to resample.

Reading goes block by block, so that eight channels at 192 kHz never stand in memory at once.  A file that holds less than its
header states (`file_length.py`) was cut off, and is damaged.
"""

import hashlib
import io
import math
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from solfa.core.atomic import write_bytes
from solfa.core.errors import UserError
from solfa.tokenizers.audio.bad_audio import BadAudio as BadAudio
from solfa.tokenizers.audio.bad_audio import Kind as Kind
from solfa.tokenizers.audio.bad_audio import check_file
from solfa.tokenizers.audio.ffmpeg_audio import Opened, after, open_ffmpeg, probe_ffmpeg
from solfa.tokenizers.audio.file_length import ends_in_a_page, open_bytes, stated_share, states_frames
from solfa.tokenizers.audio.resample import RATES, Samples, StreamResampler

AUDIO_SUFFIXES = frozenset(  # not .ts, which mostly is TypeScript
    ".wav .flac .ogg .oga .opus .spx .mp3 .mp2 .mpga .m4a .m4b .aac .ac3 .eac3 .dts .aif .aiff .aifc .au .snd .caf .w64 .rf64 .bwf "
    ".sph .wma .amr .ape .wv .tta .mka .mp4 .m4v .3gp .mov .mkv .webm .ogv .avi .flv .mpg .mpeg .m2ts .mts .vob .wmv .asf".split()
)  # fmt: skip
WRITABLE = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
SEEKABLE = {"WAV", "WAVEX", "W64", "RF64", "AIFF", "AU", "FLAC"}  # to the sample
SPAN_SLACK = 0.1  # seconds by which a file may end before its span: manifests round
CUT_SLACK, CUT_SHARE = (
    0.1,
    0.01,
)  # seconds, and share of its length, by which a whole file may be shorter than it states
UNKNOWN_FRAMES = 1 << 62  # and more: what libsndfile gives for a FLAC stream that states no length
BLOCK = 1 << 18  # samples read at once, of all channels together
FULL_SCALE = 32_767 / 32_768  # the largest sample that 16 bits hold
LOUDEST = 64.0  # 36 dB above full scale: beyond it, floats are integers that nobody scaled


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
    source's rate; `claimed_seconds` is the length by the header, perhaps 0.  The blocks joined are as long as
    `resampled_length` gives.

    Args:
        path: the file, or with `data` only a name to show.
        sample_rate: in Hz; None keeps the file's own.
        data: the encoded bytes, where there is no file.
        fingerprint: whether `digest` is to be worked out.
        span: begin and length in seconds of the part to read; all else is as if the file held nothing but it.

    Raises: BadAudio, also while it is iterated, for a file that is missing, unreadable, damaged, cut off or empty, that holds
    NaN or infinite samples, or that ends before its span.
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
        opened = _open(self.path, data, span[0] if span else 0.0)
        self.source_rate, self.claimed_seconds, self._blocks = opened.rate, opened.claimed, opened.blocks
        self._stated = opened.stated
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
            if loudest > LOUDEST:
                raise BadAudio("other", f"{self.path} has samples up to {loudest:.4g}, where -1 to 1 is full scale")
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
        if not self.span:
            self._check_end()
        if stream is not None:
            yield stream.finish()

    def _check_end(self) -> None:
        """Raises: BadAudio for a file that ended before its header's length."""
        missing = self._stated - self.source_seconds
        if missing > CUT_SLACK + CUT_SHARE * self._stated:
            raise BadAudio(
                "corrupt",
                f"{self.path} is cut off: its header states {self._stated:.2f} s, it holds {self.source_seconds:.2f} s",
            )


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
    check_file(path, data)
    try:
        with _open_sndfile(path, data) as file:
            found = Probe(file.frames / file.samplerate, file.samplerate, file.channels)
            unknown = file.frames >= UNKNOWN_FRAMES or not file.frames
    except soundfile.LibsndfileError:
        found, unknown = None, True
    if found is None or unknown:
        try:
            found = Probe(*probe_ffmpeg(path, data))
        except BadAudio:
            if found is None:
                raise
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


def _open(path: Path, data: bytes | None, begin: float) -> Opened:
    """Mono blocks from second `begin` on.

    A format that libsndfile knows but cannot decode is damaged, not FFmpeg's turn; only a length that libsndfile needs and the
    header lacks makes it so (a FLAC stream from a pipe, a WAV file whose recorder was not closed).
    """
    check_file(path, data)
    file = None
    try:
        file = _open_sndfile(path, data)
    except soundfile.LibsndfileError:
        return open_ffmpeg(path, data, begin)
    if file.frames >= UNKNOWN_FRAMES or not file.frames:
        try:
            opened = open_ffmpeg(path, data, begin)
        except BadAudio:  # it holds nothing for FFmpeg either
            pass
        else:
            file.close()
            return opened
    seconds = file.frames / file.samplerate
    stated = _stated_seconds(path, data, file.format, seconds)
    skip = round(begin * file.samplerate)
    if skip and file.format in SEEKABLE and file.seekable():
        file.seek(min(skip, file.frames))
        skip = 0
    return Opened(file.samplerate, seconds, stated, after(skip, _blocks(path, file)))


def _stated_seconds(path: Path, data: bytes | None, format: str, seconds: float) -> float:
    """The length that the header states, where libsndfile found `seconds`, cut at the end of the file; 0 where it states none.

    Raises: BadAudio for an Ogg file that ends within a page.
    """
    with open_bytes(path, data) as file:
        if format == "OGG" and not ends_in_a_page(file):
            raise BadAudio("corrupt", f"{path} is cut off: it ends within a page of its Ogg stream")
        if format in ("MP3", "MPEG"):
            return seconds if states_frames(file) else 0.0
        return seconds / max(stated_share(file), 1e-9)


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


def _check_rate(path: Path, rate: int) -> None:
    if rate not in RATES:
        raise BadAudio(
            "corrupt", f"{path} claims a sample rate of {rate} Hz; {RATES.start} to {RATES.stop - 1} can be read"
        )
