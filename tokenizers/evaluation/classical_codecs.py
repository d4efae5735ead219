"""Classical codecs to compare with: Opus and MP3 through FFmpeg (PyAV), and Codec 2 through its programs.

`code` encodes and decodes a clip, and measures bitrate and time.  What is not installed is named (`missing`), not an error.
"""

import io
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, cast

import av
import numpy as np

from solfa.core.errors import UserError
from solfa.tokenizers.audio.resample import Samples, fit, resample


class Coded(NamedTuple):
    """samples: float32 (n,), as long as the original and aligned with it; kbps: the bitrate spent; times in seconds."""

    samples: Samples
    kbps: float
    encoding: float
    decoding: float


class Classical(ABC):
    """A codec by name; rates: the bitrates (kbps) that are common for speech."""

    name: ClassVar[str]
    rates: ClassVar[tuple[float, ...]]

    @abstractmethod
    def missing(self) -> str | None:
        """What to install before this codec can be used here; None when it can be."""

    @abstractmethod
    def code(self, samples: Samples, sample_rate: int, kbps: float) -> Coded:
        """Encode and decode mono float32 (n,) at `sample_rate` Hz.  Raises: UserError where that fails."""


class FFmpegCodec(Classical):
    """An encoder of FFmpeg, in a container that records how many samples of delay to drop.

    encoder, options: of FFmpeg; sample_rates: Hz, those that the encoder accepts.
    """

    encoder: ClassVar[str]
    container: ClassVar[str]
    sample_rates: ClassVar[tuple[int, ...]]
    options: ClassVar[dict[str, str]] = {}

    def missing(self) -> str | None:
        """See `Classical.missing`."""
        if self.encoder in av.codecs_available:
            return None
        return f"{self.name} needs a PyAV whose FFmpeg has {self.encoder}"

    def code(self, samples: Samples, sample_rate: int, kbps: float) -> Coded:
        """See `Classical.code`."""
        rate = next((r for r in self.sample_rates if r >= sample_rate), self.sample_rates[-1])
        pcm = to_int16(resample(samples, sample_rate, rate))
        file = io.BytesIO()
        bits = 0
        start = time.perf_counter()
        with av.open(file, "w", format=self.container) as writer:
            stream = cast(av.AudioStream, writer.add_stream(self.encoder, rate=rate, layout="mono"))
            stream.codec_context.bit_rate = round(1000 * kbps)
            stream.codec_context.options = self.options
            frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                bits += 8 * packet.size
                writer.mux(packet)
        encoded = time.perf_counter()
        file.seek(0)
        with av.open(file, "r") as reader:
            to_float = av.AudioResampler(format="flt", layout="mono")
            frames = [part.to_ndarray()[0] for frame in reader.decode(audio=0) for part in to_float.resample(frame)]
            decoded_rate = reader.streams.audio[0].codec_context.sample_rate  # Opus decodes to 48 kHz
        decoded = time.perf_counter()
        wav = fit(resample(np.concatenate(frames), decoded_rate, sample_rate), len(samples))
        return Coded(wav, bits * sample_rate / len(samples) / 1000, encoded - start, decoded - encoded)


class Opus(FFmpegCodec):
    """RFC 6716."""

    name, rates, encoder, container = "opus", (6.0, 12.0, 24.0), "libopus", "ogg"
    sample_rates = (8_000, 12_000, 16_000, 24_000, 48_000)
    options = {"vbr": "constrained"}  # with plain "vbr" the bitrate is 1.7 times the setting on some voices


class MP3(FFmpegCodec):
    """MPEG-2 layer III, by LAME."""

    name, rates, encoder, container = "mp3", (16.0, 32.0), "libmp3lame", "mp3"
    sample_rates = (16_000, 22_050, 24_000)  # above them MP3 is MPEG-1, of at least 32 kbps


class Codec2(Classical):
    """Rowe's sinusoidal vocoder at 8 kHz, by the programs `c2enc` and `c2dec`; times include their start."""

    name, rates = "codec2", (0.7, 1.2, 2.4, 3.2)
    modes: ClassVar[dict[float, str]] = {0.7: "700C", 1.2: "1200", 2.4: "2400", 3.2: "3200"}
    sample_rate = 8000
    frame = 320  # samples of the longest frame; the programs drop an incomplete one

    def missing(self) -> str | None:
        """See `Classical.missing`."""
        programs = [name for name in ("c2enc", "c2dec") if shutil.which(name) is None]
        return (
            f"codec2 needs the program {' and '.join(programs)} (on Debian: apt install codec2)" if programs else None
        )

    def code(self, samples: Samples, sample_rate: int, kbps: float) -> Coded:
        """See `Classical.code`."""
        mode = self.modes[kbps]
        # the delay of the programs, in samples, as measured on speech: STOI needs aligned signals
        delay = 240 if mode == "700C" else 160
        pcm = to_int16(resample(samples, sample_rate, self.sample_rate))
        pcm = np.pad(pcm, (0, delay + -(len(pcm) + delay) % self.frame))
        start = time.perf_counter()
        coded = run(["c2enc", mode, "-", "-"], pcm.astype("<i2").tobytes())
        encoded = time.perf_counter()
        wav = np.frombuffer(run(["c2dec", mode, "-", "-"], coded), "<i2")[delay:].astype(np.float32) / np.float32(32768)
        decoded = time.perf_counter()
        return Coded(
            fit(resample(wav, self.sample_rate, sample_rate), len(samples)), kbps, encoded - start, decoded - encoded
        )


CLASSICAL: dict[str, Classical] = {codec.name: codec for codec in (Opus(), MP3(), Codec2())}


def parse_classical(words: str) -> list[Classical]:
    """`opus,codec2` -> those codecs, whether they are installed or not.  Raises: UserError for an unknown name."""
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        if name not in CLASSICAL:
            raise UserError(f"--against takes {', '.join(CLASSICAL)}, not {name!r}")
    return [CLASSICAL[name] for name in names]


def to_int16(samples: Samples) -> np.ndarray:
    """float32 (n,) within -1..1 -> int16 (n,), clipped."""
    return (np.clip(samples, -1, 1) * 32767).astype(np.int16)


def run(command: list[str], given: bytes) -> bytes:
    """Standard output of a program that reads `given`.  Raises: UserError where it fails or writes nothing."""
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    if done.returncode or not done.stdout:
        raise UserError(f"{command[0]} failed: {done.stderr.decode(errors='replace').strip() or 'it wrote nothing'}")
    return done.stdout
