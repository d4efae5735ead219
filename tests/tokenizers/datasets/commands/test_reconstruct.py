"""`solfa reconstruct`: names, folders and durations of the source; any mix of files in one command."""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from solfa.cli import run
from solfa.core import progress
from solfa.tokenizers.audio.container.sfa import Recording, write_sfa
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands.output_journal import JOURNAL
from solfa.tokenizers.datasets.commands.reconstruct import LEFT_OVER, write_all
from solfa.tokenizers.datasets.commands.reconstruct_plans import Output, plan_tokens
from solfa.tokenizers.datasets.commands.shared_options import header_of
from solfa.tokenizers.datasets.shards.shard_formats import Header
from solfa.tokenizers.datasets.shards.shards import ShardWriter
from solfa.tokenizers.datasets.shards.token_dataset import find_shards

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
    files = [path for path in output.rglob("*") if path.is_file() and path.name != JOURNAL]
    found = {str(path.relative_to(output)): soundfile.info(path) for path in files}
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


def tokens(folder: Path, codec: AudioTokenizer, *shards: list[dict[str, Any]], size: int = 32) -> Path:
    """A folder of tokens, each list of rows a shard; size: of the books that they claim to be from."""
    with ShardWriter(folder, dataclasses.replace(header_of(codec, codec.books), codebook_size=size)) as writer:
        for rows in shards:
            for row in rows:
                writer.add(row)
            writer.flush()
    return folder


def row(name: str, frames: int, sample_rate: int = 16_000, seed: int = 0) -> dict[str, Any]:
    """Random codes; the source ends within their last frame."""
    samples = frames * sample_rate // 25 - 7
    codes = np.random.default_rng(seed).integers(0, 32, (4, frames))
    own = {"id": name, "audio": f"{name}.flac", "duration": samples / sample_rate, "samples": samples}
    return {**own, "sample_rate": sample_rate, "frames": frames, "codes": codes}


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != JOURNAL]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def open_output(folder: Path, clips: int) -> Output:
    return Output(folder, "tokens", clips, {}, False)


def test_any_number_of_workers_and_copies_of_the_codec_write_the_same_bytes(
    tmp_path: Path, tiny_codec: AudioTokenizer
) -> None:
    rows = [row(f"deep/{i}", 1 + 37 * i % 91, seed=i) for i in range(24)]
    folder = tokens(tmp_path / "tokens", tiny_codec, rows[:10], rows[10:])
    for name, codecs, workers in (("one", [tiny_codec], 1), ("many", [tiny_codec, copy.deepcopy(tiny_codec)], 4)):
        plan = plan_tokens(tiny_codec, folder, None, partial(open_output, tmp_path / name))
        done = write_all(codecs, plan, 24_000, workers)
        assert (done.clips, done.lost) == (24, [])
        assert done.seconds == pytest.approx(sum(r["duration"] for r in rows))
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    assert len(contents(tmp_path / "one")) == 24


def test_each_file_has_its_sources_rate_and_samples_again(
    tmp_path: Path, tiny_codec: AudioTokenizer, tiny_codec_folder: Path
) -> None:
    rows = [row(str(rate), 30, rate) for rate in (8_000, 11_025, 22_050, 24_000, 44_100, 48_000)]
    folder = tokens(tmp_path / "tokens", tiny_codec, rows)
    words = ["reconstruct", str(folder), "--codec", str(tiny_codec_folder)]
    assert run([*words, "-o", str(tmp_path / "own"), "--sample-rate", "source"]) == 0
    for r in rows:
        info = soundfile.info(tmp_path / "own" / f"{r['id']}.wav")
        assert (info.samplerate, info.frames) == (r["sample_rate"], r["samples"])
    assert run([*words, "-o", str(tmp_path / "low"), "--sample-rate", "16000"]) == 0
    for r in rows:
        info = soundfile.info(tmp_path / "low" / f"{r['id']}.wav")
        assert (info.samplerate, info.frames) == (16_000, round(r["samples"] * 16_000 / r["sample_rate"]))
    assert run([*words, "-o", str(tmp_path / "no"), "--sample-rate", "fast"]) == 2


def test_a_killed_run_leaves_whole_files_and_continues(
    tmp_path: Path, tiny_codec: AudioTokenizer, tiny_codec_folder: Path
) -> None:
    folder = tokens(tmp_path / "tokens", tiny_codec, [row(f"{i}", 40, seed=i) for i in range(90)])
    words = ["reconstruct", str(folder), "--codec", str(tiny_codec_folder), "-o"]
    assert run([*words, str(tmp_path / "whole")]) == 0
    output = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-m", "solfa", *words, str(output), "--workers", "1"])
    while not any(output.glob("[0-9]*.wav")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    want, found = contents(tmp_path / "whole"), contents(output)
    visible = {name: data for name, data in found.items() if not name.startswith(".")}
    assert 1 <= len(visible) < 90
    assert visible.items() <= want.items()
    for half in set(found) - set(visible):
        os.utime(output / half, (0, time.time() - LEFT_OVER - 60))
    assert run([*words, str(output)]) == 0
    assert contents(output) == want


def test_bad_rows_and_shards_are_told_and_the_rest_is_done(
    tmp_path: Path, tiny_codec: AudioTokenizer, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside, short = row("outside", 9), row("short", 9)
    outside["codes"][2, 5] = 32
    short["samples"] = 16_000
    rows = [row("good", 9), outside, short, row("fine", 9)]
    folder = tokens(tmp_path / "tokens", tiny_codec, rows, [row("lost", 9)], [row("last", 9)], size=64)
    torn = find_shards(folder)[1]
    torn.write_bytes(torn.read_bytes()[:-100])
    words = ["reconstruct", str(folder), "--codec", str(tiny_codec_folder), "-o"]
    assert run([*words, str(tmp_path / "out")]) == 1
    assert set(contents(tmp_path / "out")) == {"good.wav", "fine.wav", "last.wav"}
    out = capsys.readouterr().out
    assert f"token shard {torn} is damaged" in out
    assert "outside: codes should lie in 0..31; found 0..32" in out
    assert "short: 9 frames of codec tiny are too short for 16000 samples at 16000 Hz" in out
    many = [{**outside, "id": f"bad/{i}"} for i in range(12)]
    folder = tokens(tmp_path / "many", tiny_codec, [*many, row("good", 9)], size=64)
    words[1] = str(folder)
    assert run([*words, str(tmp_path / "few")]) == 1
    assert "... and 2 more were rejected" in capsys.readouterr().out
    lines = (tmp_path / "few" / "reconstruct-rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [r["id"] for r in many]


def test_one_row_may_be_named(tmp_path: Path, tiny_codec: AudioTokenizer, tiny_codec_folder: Path) -> None:
    folder = tokens(tmp_path / "tokens", tiny_codec, [row("a", 9)])
    assert run(["reconstruct", str(folder), "-o", str(tmp_path / "b.flac"), "--codec", str(tiny_codec_folder)]) == 0
    assert soundfile.info(tmp_path / "b.flac").frames == round(row("a", 9)["samples"] * 1.5)


def test_what_cannot_be_written_ends_the_run(
    tmp_path: Path, tiny_codec: AudioTokenizer, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tokens(tmp_path / "tokens", tiny_codec, [row(str(i), 9) for i in range(40)])
    (tmp_path / "out" / "5.wav").mkdir(parents=True)
    words = ["reconstruct", str(folder), "-o", str(tmp_path / "out"), "--codec", str(tiny_codec_folder), "--overwrite"]
    assert run(words) == 2
    assert "5.wav is a folder" in capsys.readouterr().err
    assert len(contents(tmp_path / "out")) < 40


def test_a_small_file_that_claims_hours_is_refused_or_shows_how_far_it_is(
    tmp_path: Path,
    tiny_codec: AudioTokenizer,
    tiny_codec_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = 1200
    silence = Recording(torch.zeros(4, 25 * seconds, dtype=torch.int64), 24_000 * seconds, 24_000)
    size = write_sfa(tmp_path / "s" / "giant.sfa", tiny_codec, silence)
    write_sfa(tmp_path / "s" / "small.sfa", tiny_codec, Recording(silence.codes[:, :50], 48_000, 24_000))
    assert size < 1500
    words = ["reconstruct", str(tmp_path / "s"), "-o", str(tmp_path / "w"), "--codec", str(tiny_codec_folder)]
    assert run(words) == 1
    out = capsys.readouterr().out
    assert f"giant.sfa claims 20:00 of sound in {size} bytes" in out and "--max-seconds 1200" in out
    assert [path.name for path in (tmp_path / "w").glob("*.wav")] == ["small.wav"]
    monkeypatch.setattr(progress, "LOG_EVERY", 0.2)
    assert run([*words, "--max-seconds", "1200"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("reconstructing: ")]
    assert any("/1200 s of audio" in line and " left" in line for line in lines[:-1])
    assert soundfile.info(tmp_path / "w" / "giant.wav").frames == 24_000 * seconds
