"""Training clips: found, decoded once, split by speaker, and cropped as a function of seed and step."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import read_audio, write_wav
from solfa.tokenizers.training import clips
from solfa.tokenizers.training.clips import ClipStore, is_heldout, list_sources

RATE, HOP = 24_000, 240


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three speakers' folders, one clip each: a tone, a shorter and quieter tone, and a file that is no audio."""
    for name, hz, seconds, level in (("ann", 220, 0.5, 0.9), ("bob", 110, 0.3, 0.05)):
        tone = level * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)
        write_wav(tmp_path / "data" / name / "one.wav", tone, RATE)
    (tmp_path / "data" / "eve").mkdir()
    (tmp_path / "data" / "eve" / "broken.wav").write_bytes(b"RIFF")
    return tmp_path / "data"


def store(frames: tuple[int, ...] = (50, 7, 30)) -> ClipStore:
    """Clips in memory: sample = its position, F0 = 100 + the clip's number on every other ten frames."""
    total = sum(frames)
    f0 = np.concatenate([np.where(np.arange(n) // 10 % 2 == 0, 100.0 + i, 0.0) for i, n in enumerate(frames)])
    samples = np.sin(np.arange(total * HOP) / 20).astype(np.float16)
    start = np.concatenate([[0], np.cumsum(frames)[:-1]])
    return ClipStore(samples, f0.astype(np.float32), start, np.array(frames), HOP, RATE)


def test_sources_take_speakers_from_folders_or_tables(folder: Path, tmp_path: Path) -> None:
    found = list_sources([str(folder)])
    assert [(s.clip.path.name, s.speaker, s.speech) for s in found] == [
        ("one.wav", "ann", True), ("one.wav", "bob", True), ("broken.wav", "eve", True),
    ]  # fmt: skip
    (folder / "metadata.csv").write_text("file,speaker,language\nann/one.wav,Anna,en\nbob/one.wav,,none\n")
    listed = list_sources([str(folder)])
    assert [(s.speaker, s.speech) for s in listed] == [("Anna", True), ("bob", False), ("eve", True)]
    with pytest.raises(UserError, match="nowhere' does not exist"):
        list_sources([str(tmp_path / "nowhere")])
    (tmp_path / "hollow").mkdir()
    with pytest.raises(UserError, match="no audio files under"):
        list_sources([str(tmp_path / "hollow")])


def test_store_is_built_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = list_sources([str(folder)])
    first = ClipStore.build(tmp_path / "store", sources, RATE, HOP, workers=1)
    assert first.frames.tolist() == [50, 30]
    assert first.start.tolist() == [0, 50]
    assert first.hours == pytest.approx(0.8 / 3600)
    assert len(first.samples) == 80 * HOP
    loudest = [np.abs(first.samples[a * HOP : b * HOP]).max() for a, b in ((0, 50), (50, 80))]
    assert loudest == pytest.approx([clips.PEAK, clips.PEAK], rel=1e-2)
    assert np.median(first.f0[:50]) == pytest.approx(220, rel=0.02)
    assert np.median(first.f0[50:]) == pytest.approx(110, rel=0.02)

    monkeypatch.setattr(clips, "ProcessPoolExecutor", None)  # a second build would fail
    again = ClipStore.build(tmp_path / "store", sources, RATE, HOP, workers=1)
    assert np.array_equal(again.samples, first.samples)
    assert np.array_equal(again.f0, first.f0)


def test_an_ljspeech_folder_is_read_as_tokenize_reads_it(folder: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "LJSpeech-1.1"
    shutil.copytree(folder / "ann", corpus / "wavs")
    (corpus / "metadata.csv").write_text("one|It is 5 p.m.|It is five p m\n")
    (found,) = list_sources([str(corpus)])
    assert (found.clip.id, found.speaker, found.speech) == ("wavs/one", "LJSpeech-1.1", True)
    assert ClipStore.build(tmp_path / "store", [found], RATE, HOP, workers=1).frames.tolist() == [50]


def test_clips_that_cannot_be_used_are_listed_with_the_reason(folder: Path, tmp_path: Path) -> None:
    bad = folder / "eve"
    (bad / "empty.wav").write_bytes(b"")
    (bad / "text.wav").write_text("no audio")
    write_wav(bad / "short.wav", np.full(100, 0.1, np.float32), RATE)
    write_wav(bad / "silent.wav", np.zeros(RATE, np.float32), RATE)
    soundfile.write(bad / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    made = ClipStore.build(tmp_path / "store", list_sources([str(folder)]), RATE, HOP, workers=1)
    assert made.frames.tolist() == [50, 30]
    found = {Path(row["audio"]).name: row["kind"] for row in made.rejects}
    assert found.pop("broken.wav") and found.pop("text.wav")
    assert found == {"empty.wav": "empty", "short.wav": "short", "silent.wav": "silent", "nan.wav": "nan"}
    assert all(Path(row["audio"]).name in row["reason"] for row in made.rejects)
    again = ClipStore.build(tmp_path / "store", list_sources([str(folder)]), RATE, HOP, workers=1)
    assert again.rejects == made.rejects, "of a store that was there already as well"


def test_an_edited_file_is_decoded_anew(folder: Path, tmp_path: Path) -> None:
    first = ClipStore.build(tmp_path / "store", list_sources([str(folder)]), RATE, HOP, workers=1)
    wav = folder / "ann" / "one.wav"
    write_wav(wav, read_audio(wav).samples[::-1].copy(), RATE)
    second = ClipStore.build(tmp_path / "store", list_sources([str(folder)]), RATE, HOP, workers=1)
    assert second.digest != first.digest


def test_store_of_nothing_readable(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the training files could be used; the first: .*broken.wav"):
        ClipStore.build(tmp_path / "store", list_sources([str(folder / "eve")]), RATE, HOP, workers=1)


def test_batch_is_a_function_of_seed_and_step() -> None:
    clip_store = store()
    first, again = (clip_store.batch(3, 17, 8, 20) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for seed, step in ((3, 18), (4, 17)):
        assert not torch.equal(clip_store.batch(seed, step, 8, 20).wav, first.wav)


def test_batch_shapes_and_bounds() -> None:
    wav, f0, voiced = store().batch(0, 0, 64, 20)
    assert (wav.shape, f0.shape, voiced.shape) == ((64, 20 * HOP), (64, 20), (64, 20))
    assert {t.dtype for t in (wav, f0, voiced)} == {torch.float32}
    assert torch.isfinite(wav).all()
    assert wav.abs().max() <= 1.6
    assert set(voiced.unique().tolist()) == {0.0, 1.0}
    assert f0.min() > 60, "gaps are bridged"
    assert f0.max() < 102 * 1.22 + 20
    speeds = (f0[voiced.bool()] / 100).round(decimals=1)
    assert len(speeds.unique()) > 3, "some crops are sped up or slowed down"


def test_silent_f0_gets_a_constant() -> None:
    quiet = store()
    quiet.f0 = np.zeros_like(quiet.f0)
    _, f0, voiced = quiet.batch(0, 0, 4, 20)
    assert voiced.sum() == 0
    assert f0.unique().tolist() == [120.0]


def test_heldout_speakers_are_fixed_and_few() -> None:
    names = [f"speaker{i}" for i in range(2000)]
    chosen = [n for n in names if is_heldout(n, 8.0)]
    assert chosen == [n for n in names if is_heldout(n, 8.0)]
    assert 0.06 < len(chosen) / len(names) < 0.10
    assert set(chosen) <= {n for n in names if is_heldout(n, 20.0)}, "a larger share keeps the smaller one"
    assert not any(is_heldout(n, 0.0) for n in names)
    assert all(is_heldout(n, 100.0) for n in names)
    assert chosen[:3] == ["speaker11", "speaker25", "speaker28"]
