"""Whatever lies in a corpus is either tokenized or listed: damaged, truncated, mislabelled, tiny, odd, oddly named."""

import io
import json
import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from solfa.tokenizers.audio.audio_file import AUDIO_SUFFIXES
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands.clip_results import Encoded, Limits, Plan
from solfa.tokenizers.datasets.commands.engine import encode_corpus
from solfa.tokenizers.datasets.commands.tokenize_corpus import tokenize_corpus
from solfa.tokenizers.datasets.readers.clip import Clip
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset

FORMATS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("AIFF", "PCM_16"), ("CAF", "PCM_16"), ("W64", "PCM_24"), ("AU", "ULAW")]  # fmt: skip
CONTAINERS = [("m4a", "aac"), ("mka", "flac"), ("webm", "libopus")]


def wave(n: int, channels: int = 1) -> np.ndarray:
    t = np.arange(n)[:, None]
    return (0.3 * np.sin(t * (0.05 + 0.01 * np.arange(channels)))).astype(np.float32)


def encoded(kind: str, subtype: str | None, n: int = 3000, rate: int = 16_000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave(n, channels), rate, format=kind, subtype=subtype)
    return file.getvalue()


def by_ffmpeg(folder: Path, suffix: str, codec: str) -> bytes:
    path = folder / f"made.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout="stereo")
        assert isinstance(stream, av.AudioStream)
        samples = np.ascontiguousarray(wave(9600, 2).T)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        convert = av.AudioResampler(
            format=stream.format.name, layout="stereo", rate=48_000, frame_size=stream.frame_size or 1024
        )
        for part in [*convert.resample(frame), *convert.resample(None), None]:
            for packet in stream.encode(part):
                container.mux(packet)
    data = path.read_bytes()
    path.unlink()
    return data


def mutations(data: bytes, rng: np.random.Generator, count: int) -> list[bytes]:
    """The file cut off, with bytes of its header or its body changed, with a hole, with rubbish before or after it."""
    found = []
    for i in range(count):
        cut, at = (int(rng.integers(len(data))) for _ in range(2))
        noise = rng.integers(0, 256, 8, dtype=np.uint8).tobytes()
        head = bytearray(data)
        for place in rng.integers(0, min(64, len(data)), 3):
            head[place] = rng.integers(256)
        found.append(
            (
                data[:cut],
                bytes(head),
                data[:at] + noise + data[at + 8 :],
                data[:at] + data[at + 100 :],
                noise + data,
                data + noise * 9,
            )[i % 6]
        )
    return found


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    rng = np.random.default_rng(0)
    whole = [(kind.lower(), encoded(kind, subtype)) for kind, subtype in FORMATS]
    whole += [(suffix, by_ffmpeg(folder, suffix, codec)) for suffix, codec in CONTAINERS]
    suffixes = sorted(AUDIO_SUFFIXES)
    for suffix, data in whole:
        for i, mutant in enumerate(mutations(data, rng, 12)):
            (folder / f"{suffix}-{len(data)}-{i}.{suffix}").write_bytes(mutant)
        wrong = suffixes[int(rng.integers(len(suffixes)))]
        (folder / f"wrong-{suffix}-{len(data)}{wrong}").write_bytes(data)
        (folder / f"rubbish-{suffix}-{len(data)}.{suffix}").write_bytes(
            rng.integers(0, 256, 4000, dtype=np.uint8).tobytes()
        )
        (folder / f"nothing-{suffix}-{len(data)}.{suffix}").write_bytes(b"")
    (folder / "playlist.mp3").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    (folder / "concat.wav").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    (folder / "folder.wav").mkdir()
    (folder / "folder.wav" / "x.txt").write_text("")
    (folder / "dangling.wav").symlink_to(folder / "gone.wav")
    os.mkfifo(folder / "pipe.wav")
    return folder


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound files, if strange ones: all of them can be tokenized."""
    folder = tmp_path_factory.mktemp("odd")
    for rate in (1_000, 7_350, 11_025, 22_051, 96_000, 192_000, 384_000):
        soundfile.write(folder / f"{rate}.wav", wave(rate // 20), rate)
    for channels in (2, 3, 6, 8, 32):
        soundfile.write(folder / f"{channels}-channels.wav", wave(800, channels), 16_000)
    for n in (1, 2, 239, 240, 241, 961):
        soundfile.write(folder / f"{n}-samples.wav", wave(n) + 0.1, 24_000)
    soundfile.write(folder / "one-sample-192k.wav", wave(1) + 0.1, 192_000)
    data = encoded("WAV", "PCM_16")
    names = [
        "Grüße 世界 🎙.wav",
        "ends with space .wav",
        "a:b.wav",
        "-o.wav",
        "100%s{}.wav",
        "new\nline.wav",
        "'\"$(x).wav",
        "x" * 251 + ".wav",
    ]
    for name in [*names, "NUMBER#1.WAV", "..two dots.wav", "#.wav"]:
        (folder / name).write_bytes(data)
    if sys.platform == "linux":
        Path(os.fsdecode(os.fsencode(folder) + b"/latin-\xe9.wav")).write_bytes(data)
    deep = folder.joinpath(*["d" * 100] * 8)
    deep.mkdir(parents=True)
    (deep / "deep.wav").write_bytes(data)
    return folder


def listed(output: Path) -> list[dict[str, str]]:
    path = output / "rejects.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_damaged_files_are_tokenized_or_listed(damaged: Path, tmp_path: Path, tiny_codec: AudioTokenizer) -> None:
    done = tokenize_corpus(tiny_codec, read_corpus(damaged), tmp_path / "t", plan=Plan(5.0))
    ids = [clip.id for clip in read_corpus(damaged)]
    rows = TokenDataset(tmp_path / "t").column("id")
    rejects = listed(tmp_path / "t")
    assert sorted([*rows, *(reject["id"] for reject in rejects)]) == sorted(ids)
    assert len(rows) == done.clips and len(rejects) == len(done.rejects)
    assert len(rows) > 40 and len(rejects) > 60
    assert all(reject["reason"] and "\n" not in reject["reason"] for reject in rejects)
    assert {reject.kind for reject in done.rejects} >= {"corrupt", "empty"}


def test_odd_files_are_tokenized(odd: Path, tmp_path: Path, tiny_codec: AudioTokenizer) -> None:
    done = tokenize_corpus(tiny_codec, read_corpus(odd), tmp_path / "t", plan=Plan(5.0))
    assert not done.rejects
    rows = list(TokenDataset(tmp_path / "t"))
    assert [row["id"] for row in rows] == [clip.id for clip in read_corpus(odd)]
    assert all(row["codes"].shape[1] == max(1, -(-round(row["duration"] * 24_000) // tiny_codec.hop)) for row in rows)


def test_bytes_are_read_as_files_are(damaged: Path, odd: Path, tiny_codec: AudioTokenizer) -> None:
    files = sorted([*damaged.glob("wrong-*"), *damaged.glob("nothing-*"), *odd.glob("*.wav")])
    assert len(files) > 50
    from_files = list(encode_corpus(tiny_codec, [Clip(path.name, path) for path in files], 4))
    from_bytes = list(
        encode_corpus(
            tiny_codec, [Clip(path.name, Path("shard.tar", path.name), data=path.read_bytes) for path in files], 4
        )
    )
    for file, data in zip(from_files, from_bytes, strict=True):
        assert type(file) is type(data), (file, data)
        if isinstance(file, Encoded) and isinstance(data, Encoded):
            assert np.array_equal(file.codes, data.codes)


def test_limits_name_what_is_wrong(tmp_path: Path, tiny_codec: AudioTokenizer) -> None:
    square = np.sign(wave(4000)).repeat(2, axis=1)
    sounds = {
        "good": wave(4000),
        "short": wave(10),
        "long": wave(40_000),
        "silent": 1e-6 * wave(4000),
        "clipped": square,
    }
    for name, samples in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000, subtype="FLOAT")
    clips = [Clip(name, tmp_path / f"{name}.wav") for name in [*sounds, "missing"]]
    limits = Limits(min_seconds=0.1, max_seconds=2.0, min_peak=1e-4, max_clipped=0.01)
    kinds = [
        item.kind if not isinstance(item, Encoded) else "good"
        for item in encode_corpus(tiny_codec, clips, 4, limits=limits)
    ]
    assert kinds == [*sounds, "missing"]
    anything = list(encode_corpus(tiny_codec, clips[:-1], 4))
    assert all(isinstance(item, Encoded) for item in anything)
