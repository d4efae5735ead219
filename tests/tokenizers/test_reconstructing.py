"""`solfa reconstruct`: names, folders and durations of the source; any mix of files in one command."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from solfa.cli import run
from solfa.tokenizers.audio.model import AudioTokenizer
from solfa.tokenizers.shards import Header, ShardWriter

SOURCES = {  # name -> (rate, channels, samples)
    "a.wav": (8_000, 1, 3_001),
    "deep/b.flac": (44_100, 2, 20_011),
    "deep/er/c.ogg": (48_000, 2, 30_000),
    "deep/d e.mp3": (22_050, 1, 11_025),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, (rate, channels, samples) in SOURCES.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal((samples, channels)), rate)
    return tmp_path / "source"


def check(output: Path) -> None:
    """Every source has its .wav of round(samples * 24000 / rate) samples, and there is nothing else."""
    expected = {str(Path(name).with_suffix(".wav")): round(n * 24_000 / rate) for name, (rate, _, n) in SOURCES.items()}
    found = {str(path.relative_to(output)): soundfile.info(path) for path in output.rglob("*") if path.is_file()}
    assert {name: info.frames for name, info in found.items()} == expected
    assert {(info.samplerate, info.channels) for info in found.values()} == {(24_000, 1)}


def test_tokens_and_audio_give_the_same_files(folder: Path, tmp_path: Path, tiny_codec_folder: Path) -> None:
    codec = ["--codec", str(tiny_codec_folder)]
    assert run(["tokenize", str(folder), "-o", str(tmp_path / "tokens"), *codec]) == 0
    assert run(["reconstruct", str(tmp_path / "tokens"), "-o", str(tmp_path / "from-tokens"), *codec]) == 0
    assert run(["reconstruct", str(folder), "-o", str(tmp_path / "direct"), *codec]) == 0
    for output in ("from-tokens", "direct"):
        check(tmp_path / output)
    for path in (tmp_path / "direct").rglob("*.wav"):
        assert path.read_bytes() == (tmp_path / "from-tokens" / path.relative_to(tmp_path / "direct")).read_bytes()


def test_it_is_what_the_codec_decodes(
    tmp_path: Path, speech_clip: Path, tiny_codec: AudioTokenizer, tiny_codec_folder: Path
) -> None:
    output = tmp_path / "out.wav"
    assert (
        run(["reconstruct", str(speech_clip), "-o", str(output), "--books", "2", "--codec", str(tiny_codec_folder)])
        == 0
    )
    wav = torch.from_numpy(soundfile.read(speech_clip, dtype="float32")[0])
    want = tiny_codec.decode(tiny_codec.encode(wav, 24_000)[:, :2])[0].numpy()
    assert np.abs(soundfile.read(output, dtype="float32")[0] - np.clip(want, -1, 1)).max() < 1e-3


def test_existing_files_stay_unless_asked(
    folder: Path, tmp_path: Path, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reconstruct", str(folder), "-o", str(tmp_path / "out"), "--codec", str(tiny_codec_folder)]
    assert run(words) == 0
    (tmp_path / "out" / "a.wav").write_bytes(b"mine")
    (tmp_path / "out" / "deep" / "b.wav").unlink()
    capsys.readouterr()
    assert run(words) == 0
    assert "3 were there already" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.wav").read_bytes() == b"mine"
    assert run([*words, "--overwrite"]) == 0
    check(tmp_path / "out")


def test_an_output_inside_the_source_is_not_a_source(folder: Path, tiny_codec_folder: Path) -> None:
    for _ in range(2):
        assert (
            run(
                [
                    "reconstruct",
                    str(folder),
                    "-o",
                    str(folder / "out"),
                    "--codec",
                    str(tiny_codec_folder),
                    "--overwrite",
                ]
            )
            == 0
        )
        check(folder / "out")


def test_originals_are_never_overwritten(
    folder: Path, tmp_path: Path, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "a.wav").read_bytes()
    words = ["--overwrite", "--codec", str(tiny_codec_folder)]
    assert run(["reconstruct", f"{folder}/*.wav", "-o", str(folder), *words]) == 2
    assert run(["reconstruct", str(folder), "-o", str(folder), *words]) == 2
    assert run(["reconstruct", str(folder / "a.wav"), "-o", str(folder / "a.wav"), *words]) == 2
    assert (folder / "a.wav").read_bytes() == before
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all("give another output folder" in error for error in errors)


def test_another_codecs_tokens_are_refused(
    tmp_path: Path, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ShardWriter(tmp_path / "tokens", Header("foreign", "f" * 16, 24_000, 25.0, 4, 32)) as writer:
        row = {"id": "a", "audio": "a.wav", "duration": 0.04, "samples": 960, "sample_rate": 24_000, "frames": 1}
        writer.add({**row, "codes": np.zeros((4, 1), np.int64)})
        writer.flush()
    assert (
        run(["reconstruct", str(tmp_path / "tokens"), "-o", str(tmp_path / "out"), "--codec", str(tiny_codec_folder)])
        == 2
    )
    assert "holds tokens of codec 'foreign'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_files_are_told_and_the_rest_is_done(
    folder: Path, tmp_path: Path, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.wav").write_bytes(b"")
    words = ["--codec", str(tiny_codec_folder)]
    assert run(["reconstruct", str(folder), "-o", str(tmp_path / "out"), *words]) == 1
    check(tmp_path / "out")
    assert "bad.wav is empty" in capsys.readouterr().out
    assert run(["reconstruct", str(folder / "bad.wav"), "-o", str(tmp_path / "bad-out"), *words]) == 2
    assert not (tmp_path / "bad-out").exists()
    assert run(["reconstruct", str(folder), "-o", str(tmp_path / "one.wav"), *words]) == 2
    assert "should be a folder" in capsys.readouterr().err
