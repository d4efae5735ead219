"""WebDataset shards: samples, their notes and bytes, ids over several shards, and damage that is told."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest

from solfa.core.errors import UserError
from solfa.tokenizers.datasets.readers.corpus import Clip, read_corpus


def shard(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_samples_and_their_notes(tmp_path: Path) -> None:
    long = "d/" + 150 * "é"  # needs a header of its own
    note = {"speaker_id": "anna", "text": "from json", "n": [1, {"a": None}]}
    shard(
        tmp_path / "s.tar",
        {
            "./a/001.FLAC": b"one",
            "./a/001.json": json.dumps(note).encode(),
            "./a/001.jpg": b"no note",
            "a/002.mic1.wav": b"left",
            "a/002.mic2.wav": b"right",
            "a/002.txt": b"Both.\n",
            "a/002.cls": b"3",
            "a/._002.wav": b"hidden",
            "notes.txt": b"of no clip",
            f"{long}.opus": b"long",
        },
    )
    corpus = read_corpus(tmp_path / "s.tar")
    clips = pickle.loads(pickle.dumps(list(corpus)))
    assert [clip.id for clip in clips[:3]] == ["a/001", "a/002.mic1.wav", "a/002.mic2.wav"]
    assert clips[3].id.startswith(long[:90])
    assert len(corpus) == 4
    assert [clip.data() for clip in clips] == [b"one", b"left", b"right", b"long"]
    assert clips[0].row == {"speaker": "anna", "text": "from json", "n": [1, {"a": None}]}
    assert clips[1].row == clips[2].row == {"text": "Both.", "cls": 3}
    assert clips[1].path == tmp_path / "s.tar/a/002.mic1.wav"


def test_shards_that_repeat_names(tmp_path: Path) -> None:
    for i in range(3):
        shard(tmp_path / f"set/s-{i}.tar", {"1.wav": b"%d" % i, "2.wav": b"x"})
    folder, pattern = read_corpus(tmp_path / "set"), read_corpus(f"{tmp_path}/set/s-{{0..2}}.tar")
    assert [c.id for c in folder] == ["s-0/1", "s-0/2", "s-1/1", "s-1/2", "s-2/1", "s-2/2"]
    assert list(folder) == list(pattern) == list(folder)
    assert [read_bytes(c) for c in folder][::2] == [b"0", b"1", b"2"]


def read_bytes(clip: Clip) -> bytes:
    assert clip.data is not None
    return clip.data()


def test_the_same_sample_twice_in_a_shard(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for _ in range(2):
            for name in ("1.wav", "2.wav"):
                tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert [c.id for c in read_corpus(tmp_path / "s.tar")] == ["1", "2", "1#2", "2#2"]


def test_loose_audio_and_shards_are_both_read(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", {"1.wav": b"x"})
    shard(tmp_path / "old.tar.gz", {"9.wav": b"x"}, "w:gz")
    (tmp_path / "b.wav").write_bytes(b"x")
    assert [c.id for c in read_corpus(tmp_path)] == ["b", "a/1"]


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tgz", "s.tar.zst"])
def test_compressed_shards_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(UserError, match="is compressed: unpack it"):
            read_corpus(source)


def test_damaged_shards_are_told(tmp_path: Path) -> None:
    whole = shard(tmp_path / "s.tar", {f"{i}.wav": 2000 * b"x" for i in range(5)})
    data = bytearray(whole.read_bytes())
    damages = {
        "cut off in the audio": bytes(data[:7000]),
        "cut off in a header": bytes(data[: 2 * 2560 + 200]),
        "a broken header": bytes(data[:5120] + b"?" + data[5121:]),
        "no tar": b"RIFF" * 1000,
        "empty": b"",
    }
    for damage, content in damages.items():
        whole.write_bytes(content)
        with pytest.raises(UserError, match="s.tar is damaged, cut off or not a plain .tar"):
            read_corpus(whole)
            pytest.fail(damage)


@pytest.mark.parametrize(("kind", "note"), [("json", b"{"), ("json", b"[1]"), ("json", b"3"), ("txt", b"\xff")])
def test_a_damaged_note_is_told_before_any_work(tmp_path: Path, kind: str, note: bytes) -> None:
    path = shard(tmp_path / "s.tar", {"a/1.wav": b"x", f"a/1.{kind}": note})
    with pytest.raises(UserError, match=f"a/1.{kind} is damaged"):
        read_corpus(path)


def test_a_shard_that_changes_is_told(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {"1.wav": 20_000 * b"x"})
    (clip,) = read_corpus(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(UserError, match="became shorter"):
        read_bytes(clip)


def test_a_shard_without_audio(tmp_path: Path) -> None:
    shard(tmp_path / "s.tar", {"1.jpg": b"x", "1.txt": b"x"})
    with pytest.raises(UserError, match="no audio files"):
        read_corpus(tmp_path)
