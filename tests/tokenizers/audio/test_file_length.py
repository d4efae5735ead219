"""Files that were cut off are damaged, whatever their format; whole files, and those that state no length, are read to their end."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import AudioReader, probe, read_audio
from solfa.tokenizers.audio.file_length import ends_in_a_page, stated_share, states_frames

SECONDS, RATE = 6.0, 24_000
SNDFILE = {"wav": ("WAV", "PCM_16"), "w64": ("W64", "PCM_24"), "rf64": ("RF64", "PCM_16"), "aiff": ("AIFF", "PCM_16"),
           "au": ("AU", "PCM_16"), "caf": ("CAF", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"),
           "opus": ("OGG", "OPUS"), "mp3": ("MP3", None)}  # fmt: skip
FFMPEG = {"m4a": "aac", "mka": "flac", "webm": "libopus"}


def sound() -> np.ndarray:
    """(n,) something that no encoder makes very small."""
    rng = np.random.default_rng(0)
    t = np.arange(round(SECONDS * RATE))
    return (0.3 * np.sin(t / 20) * (1 + 0.2 * rng.standard_normal(len(t)))).astype(np.float32)


def by_ffmpeg(path: Path, codec: str, options: dict[str, str] | None = None) -> bytes:
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=48_000, layout="stereo")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.stack([sound()] * 2), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        convert = av.AudioResampler(stream.format.name, "stereo", 48_000, frame_size=stream.frame_size or 1024)
        for part in [*convert.resample(frame), *convert.resample(None), None]:
            for packet in stream.encode(part):
                container.mux(packet)
    return path.read_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One whole file of each format."""
    folder = tmp_path_factory.mktemp("whole")
    found = {}
    for name, (kind, subtype) in SNDFILE.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, sound(), RATE, format=kind, subtype=subtype)
        found[name] = buffer.getvalue()
    for name, codec in FFMPEG.items():
        found[name] = by_ffmpeg(folder / f"a.{name}", codec)
    found["faststart.m4a"] = by_ffmpeg(folder / "b.m4a", "aac", {"movflags": "faststart"})
    return found


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("name", [*SNDFILE, *FFMPEG, "faststart.m4a"])
def test_a_file_that_was_cut_off_is_damaged(files: dict[str, bytes], name: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"a.{name}"
    path.write_bytes(files[name])
    assert read_audio(path, RATE).samples.shape[0] == pytest.approx(SECONDS * RATE, abs=0.02 * RATE)
    path.write_bytes(files[name][: round(share * len(files[name]))])
    with pytest.raises(UserError, match="is cut off|is damaged") as caught:
        read_audio(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is cut off|is damaged"):
        read_audio("shard.tar/a", data=path.read_bytes())


def test_the_sentence_states_both_lengths(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(files["wav"][: len(files["wav"]) // 2])
    with pytest.raises(UserError, match=r"a.wav is cut off: its header states 6.00 s, it holds 3.00 s"):
        read_audio(tmp_path / "a.wav")
    assert read_audio(tmp_path / "a.wav", span=(1.0, 1.5)).source_samples == 36_000  # that part is there


def streamed_flac(data: bytes) -> bytes:
    """As an encoder writes it that cannot go back: no number of samples in STREAMINFO."""
    changed = bytearray(data)
    changed[21] &= 0xF0
    changed[22:26] = bytes(4)
    return bytes(changed)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF800])
def test_a_wav_file_whose_recorder_was_not_closed_is_read(files: dict[str, bytes], size: int, tmp_path: Path) -> None:
    data = bytearray(files["wav"])
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(data)
    assert read_audio(tmp_path / "a.wav").source_samples == SECONDS * RATE
    assert probe(tmp_path / "a.wav").duration == pytest.approx(SECONDS, abs=0.01)


def test_a_flac_stream_without_a_length_is_read(files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(streamed_flac(files["flac"]))
    assert soundfile.info(path).frames > 2**60  # what libsndfile makes of it
    for source in (read_audio(path), read_audio("x", data=path.read_bytes())):
        assert source.source_samples == SECONDS * RATE
        assert np.abs(source.samples - sound()).max() < 1e-4
    assert read_audio(path, span=(1.0, 2.0)).source_samples == 2 * RATE
    assert probe(path).duration == pytest.approx(SECONDS)
    reader = AudioReader(path)
    assert sum(map(len, reader)) == SECONDS * RATE


def test_a_video_whose_sound_is_shorter_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=5)
        video.width = video.height = 32
        audio = container.add_stream("flac", rate=RATE, layout="mono")
        for i in range(20):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            picture.pts = i
            for packet in video.encode(picture):
                container.mux(packet)
        frame = av.AudioFrame.from_ndarray((sound()[None, :RATE] * 2**15).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        for packet in [*audio.encode(frame), *audio.encode(None), *video.encode(None)]:
            container.mux(packet)
    assert read_audio(path).source_samples == RATE


def test_the_headers_themselves(files: dict[str, bytes]) -> None:
    for name in ("wav", "w64", "rf64", "aiff", "au", "caf"):
        data = files[name]
        assert stated_share(io.BytesIO(data)) == 1.0
        assert stated_share(io.BytesIO(data[: len(data) // 2])) == pytest.approx(0.5, abs=0.01)
    for other in (b"", b"RIFF", b"RIFF\0\0\0\0WAVEdata", b"FORM", files["mp3"], bytes(100)):
        assert stated_share(io.BytesIO(other)) == 1.0
    assert states_frames(io.BytesIO(files["mp3"]))
    tagged = b"ID3\x04\0\0\0\0\x02\x00" + bytes(256) + files["mp3"]
    assert states_frames(io.BytesIO(tagged))
    assert not states_frames(io.BytesIO(files["mp3"][2000:]))
    assert ends_in_a_page(io.BytesIO(files["ogg"])) and ends_in_a_page(io.BytesIO(files["ogg"] + b"TAG and more"))
    assert not any(ends_in_a_page(io.BytesIO(files["ogg"][:-cut])) for cut in (1, 10, 1000))
