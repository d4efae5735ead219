"""Reading and writing audio files: formats, rates, channels, exact lengths, and everything that can be wrong."""

import errno
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import probe, read_audio, write_wav
from solfa.tokenizers.audio.resample import resample, resampled_length


def sine(seconds: float, rate: int, frequency: float = 200.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_av(path: Path, samples: np.ndarray, rate: int, codec: str) -> None:
    """samples: (n,) -> a stereo file by FFmpeg."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.stack([samples, samples]), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff"])
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2), (48_000, 1)])
def test_reads_formats_that_libsndfile_knows(tmp_path: Path, name: str, rate: int, channels: int) -> None:
    x = sine(0.5, rate)
    soundfile.write(tmp_path / name, np.stack([x] * channels, axis=1), rate)
    audio = read_audio(tmp_path / name, 24_000)
    assert audio.samples.dtype == np.float32
    assert (len(audio.samples), audio.sample_rate) == (12_000, 24_000)
    assert (audio.source_samples, audio.source_rate) == (len(x), rate)
    assert np.abs(audio.samples - sine(0.5, 24_000))[500:-500].max() < 0.03
    assert probe(tmp_path / name) == (pytest.approx(0.5), rate, channels)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_reads_m4a_to_the_sample(tmp_path: Path, rate: int) -> None:
    write_av(tmp_path / "a.m4a", sine(0.7, rate), rate, "aac")
    audio = read_audio(tmp_path / "a.m4a", 24_000)
    assert audio.source_samples == round(0.7 * rate)  # neither AAC's lead-in nor its padding
    assert np.abs(audio.samples - sine(0.7, 24_000))[2000:-2000].max() < 0.05
    assert probe(tmp_path / "a.m4a").duration == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.m4a"])
def test_a_span_is_that_part_of_the_whole(tmp_path: Path, name: str) -> None:
    x = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * 16_000).astype(np.float32)
    write_av(tmp_path / name, x, 16_000, "aac") if name == "a.m4a" else soundfile.write(tmp_path / name, x, 16_000)
    whole = read_audio(tmp_path / name)
    part = read_audio(tmp_path / name, span=(1.25, 0.5))
    assert np.array_equal(part.samples, whole.samples[20_000:28_000])
    assert (part.source_samples, part.source_rate) == (8_000, 16_000)
    assert len(read_audio(tmp_path / name, 24_000, span=(1.25, 0.5)).samples) == 12_000
    assert (
        read_audio(tmp_path / name, span=(2.5, 0.55)).source_samples == len(whole.samples) - 40_000
    )  # manifests round
    for beyond in ((2.5, 1.0), (9.0, 0.01), (9.0, 1.0)):
        with pytest.raises(UserError, match=f"{name} ends before its part|{name} holds no samples"):
            read_audio(tmp_path / name, span=beyond)


def test_mixes_eight_channels_at_192_khz(tmp_path: Path) -> None:
    x = sine(0.25, 192_000)
    many = np.stack([x, *[np.zeros_like(x)] * 7], axis=1)
    soundfile.write(tmp_path / "a.wav", many, 192_000, subtype="FLOAT")
    audio = read_audio(tmp_path / "a.wav", 24_000)
    assert len(audio.samples) == 6_000
    assert np.abs(audio.samples - sine(0.25, 24_000) / 8)[200:-200].max() < 1e-3


def test_blocks_join_without_seams(tmp_path: Path) -> None:
    x = sine(14.0, 44_100)  # more than two blocks
    soundfile.write(tmp_path / "a.wav", x, 44_100, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav").samples, x)
    assert np.abs(read_audio(tmp_path / "a.wav", 24_000).samples - resample(x, 44_100, 24_000)).max() < 1e-6


@given(st.integers(1, 10**7), st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 192_000]))
def test_resampled_length_is_the_rounded_duration(n: int, rate: int) -> None:
    assert abs(resampled_length(n, rate, 24_000) - n * 24_000 / rate) <= (0.5 if n * 24_000 >= rate else 1)


@given(st.integers(1, 300), st.sampled_from([8_000, 22_050, 192_000]))
def test_resample_gives_that_length_however_short(n: int, rate: int) -> None:
    assert len(resample(np.ones(n, np.float32), rate, 24_000)) == resampled_length(n, rate, 24_000)


def test_sixteen_bit_audio_comes_back_bit_for_bit(tmp_path: Path) -> None:
    pcm = np.random.default_rng(0).integers(-32768, 32768, 5_000).astype(np.int16)
    for name in ("a.wav", "a.flac"):
        write_wav(tmp_path / name, (pcm / 32768).astype(np.float32), 24_000)
        assert np.array_equal(soundfile.read(tmp_path / name, dtype="int16")[0], pcm)


def test_write_clips_and_makes_the_folder(tmp_path: Path) -> None:
    write_wav(tmp_path / "new" / "deep" / "a.wav", np.array([2.0, -2.0, 0.5], np.float32), 24_000)
    assert np.allclose(read_audio(tmp_path / "new" / "deep" / "a.wav").samples, [1.0, -1.0, 0.5], atol=1e-4)


def test_long_vorbis_is_written_whole(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.ogg", sine(30.0, 24_000), 24_000)
    assert len(read_audio(tmp_path / "a.ogg").samples) == 720_000


def broken_files(folder: Path) -> dict[str, bytes]:
    x = sine(1.0, 24_000)
    soundfile.write(folder / "whole.flac", x, 24_000)
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan, 0.1], np.float32), 24_000, subtype="FLOAT")
    soundfile.write(folder / "inf.wav", np.array([0.0, np.inf], np.float32), 24_000, subtype="FLOAT")
    soundfile.write(folder / "none.wav", np.zeros(0, np.float32), 24_000)
    soundfile.write(folder / "rate.wav", x[:100], 24_000)
    flac, rate = (folder / "whole.flac").read_bytes(), bytearray((folder / "rate.wav").read_bytes())
    rate[24:28] = struct.pack("<I", 3)
    return {
        "zero-length.wav": b"",
        "text.mp3": b"this is no sound at all, only words\n" * 50,
        "damaged.flac": flac[:2000] + bytes(len(flac) - 4000) + flac[-2000:],
        "rate.wav": bytes(rate),
        "header.m4a": b"\0\0\0\x20ftypM4A " + bytes(100),
    }


BROKEN = [
    "zero-length.wav",
    "text.mp3",
    "damaged.flac",
    "rate.wav",
    "header.m4a",
    "nan.wav",
    "inf.wav",
    "none.wav",
    "missing.wav",
    "folder",
]


@pytest.mark.parametrize("name", BROKEN)
def test_bad_audio_is_one_sentence_that_names_the_file(tmp_path: Path, name: str) -> None:
    for other, data in broken_files(tmp_path).items():
        (tmp_path / other).write_bytes(data)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=name) as caught:
        read_audio(tmp_path / name, 24_000)
    assert "\n" not in str(caught.value)


def test_video_without_sound_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "silent.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(UserError, match="holds no audio"):
        read_audio(tmp_path / "silent.mp4")
    with pytest.raises(UserError, match="holds no audio"):
        probe(tmp_path / "silent.mp4")


def test_refuses_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.wav").mkdir()
    for path, words in [
        (tmp_path / "file" / "a.wav", "a file is in the way"),
        (tmp_path / "folder.wav", "is a folder"),
        (tmp_path / "a.xyz", "should end in .wav, .flac, .ogg"),
        (Path("/proc/solfa/a.wav"), "cannot be made"),
    ]:
        with pytest.raises(UserError, match=words):
            write_wav(path, sine(0.1, 24_000), 24_000)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the disk fills up between writing and flushing."""

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    write_wav(tmp_path / "a.wav", sine(0.1, 24_000), 24_000)
    before = (tmp_path / "a.wav").read_bytes()
    request.getfixturevalue("full_disk")
    for path in (tmp_path / "a.wav", tmp_path / "new" / "deep" / "b.wav"):
        with pytest.raises(UserError, match="No space left"):
            write_wav(path, sine(0.2, 24_000), 24_000)
    assert (tmp_path / "a.wav").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_integers_stored_as_floats_are_refused(tmp_path: Path) -> None:
    wave = 3000.0 * np.sin(np.arange(4800) / 20).astype(np.float32)
    soundfile.write(tmp_path / "unscaled.wav", wave, 24_000, subtype="FLOAT")
    with pytest.raises(UserError, match="samples up to 3000, where -1 to 1 is full scale"):
        read_audio(tmp_path / "unscaled.wav")
    soundfile.write(tmp_path / "loud.wav", wave / 1000, 24_000, subtype="FLOAT")
    assert np.abs(read_audio(tmp_path / "loud.wav").samples).max() > 2.9
