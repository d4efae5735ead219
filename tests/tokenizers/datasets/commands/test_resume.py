"""What was made from other input, or with other settings, is never taken for the new: each command refuses it in one sentence."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from solfa.cli import run
from solfa.tokenizers.datasets.commands.output_journal import JOURNAL
from solfa.tokenizers.datasets.readers.clip import Clip
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.datasets.readers.source_stamp import changed, stamp_of
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset, find_shards

Capture = pytest.CaptureFixture[str]


def noise(path: Path, seed: int = 0, seconds: float = 0.3, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.2 * np.random.default_rng(seed).standard_normal(round(seconds * rate))
    soundfile.write(path, np.clip(samples, -1, 1), rate)
    return path


@pytest.fixture
def codec(tiny_codec_folder: Path) -> list[str]:
    return ["--codec", str(tiny_codec_folder)]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for i, name in enumerate(("x.wav", "deep/y.wav", "z.flac")):
        noise(tmp_path / "A" / name, i)
    return tmp_path / "A"


def refused(words: list[str], capsys: Capture) -> str:
    """The one sentence."""
    capsys.readouterr()
    assert run(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("solfa: ")
    return error


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(folder: Path) -> dict[str, list[list[int]]]:
    return {row["id"]: row["codes"].tolist() for row in TokenDataset(folder)}


def test_two_folders_with_equal_names_do_not_share_an_output(
    clips: Path, codec: list[str], tmp_path: Path, capsys: Capture
) -> None:
    other, output = noise(tmp_path / "B" / "x.wav", 9), tmp_path / "t"
    assert run(["tokenize", str(clips), "-o", str(output), *codec]) == 0
    before = contents(output)
    for more in ([], ["--dry-run"], ["--shard", "1/1"]):
        error = refused(["tokenize", str(other.parent), "-o", str(output), *codec, *more], capsys)
        assert f"clip 'x' in {output} was made from {clips / 'x.wav'}, not from {other}" in error
        assert "--overwrite" in error
    assert contents(output) == before
    other.rename(other.with_name("w.wav"))  # a name of its own: now both fit
    assert run(["tokenize", str(other.parent), "-o", str(output), *codec]) == 0
    assert sorted(rows(output)) == ["deep/y", "w", "x", "z"]
    assert run(["tokenize", str(clips), "-o", str(output), *codec]) == 0
    assert "(3 more were there already)" in capsys.readouterr().out


def test_equal_size_and_time_do_not_make_two_files_one(
    clips: Path, codec: list[str], tmp_path: Path, capsys: Capture
) -> None:
    """As of archives that keep no times."""
    other = noise(tmp_path / "B" / "x.wav", 9)
    for path in (other, clips / "x.wav"):
        os.utime(path, (0, 0))
    assert other.stat().st_size == (clips / "x.wav").stat().st_size
    assert run(["tokenize", str(clips), "-o", str(tmp_path / "t"), *codec]) == 0
    assert "not from" in refused(["tokenize", str(other.parent), "-o", str(tmp_path / "t"), *codec], capsys)


def test_an_edited_or_deleted_source_is_noticed(clips: Path, codec: list[str], tmp_path: Path, capsys: Capture) -> None:
    words = ["tokenize", str(clips), "-o", str(tmp_path / "t"), *codec]
    assert run(words) == 0
    before = rows(tmp_path / "t")
    noise(clips / "x.wav", 5)
    assert f"{clips / 'x.wav'} has changed since {tmp_path / 't'} was made" in refused(words, capsys)
    assert run([*words, "--overwrite"]) == 0
    after = rows(tmp_path / "t")
    assert after["x"] != before["x"] and after["z"] == before["z"]
    (clips / "x.wav").unlink()
    assert f"holds clip 'x', which is not in {clips} any more" in refused(words, capsys)
    assert run([*words, "--overwrite"]) == 0
    assert sorted(rows(tmp_path / "t")) == ["deep/y", "z"]


def test_a_corpus_that_moved_or_is_named_otherwise_is_the_same(
    clips: Path, codec: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert run(["tokenize", str(clips), "-o", str(tmp_path / "t"), *codec]) == 0
    monkeypatch.chdir(tmp_path)
    assert run(["tokenize", "./A", "-o", "t", *codec]) == 0
    clips.rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", tmp_path / "copied")  # other times
    capsys.readouterr()
    for name in ("moved", "copied"):
        assert run(["tokenize", name, "-o", "t", *codec]) == 0
        assert "0 clips" in (out := capsys.readouterr().out) and "3 more were there already" in out


def test_changed_metadata_are_noticed(clips: Path, codec: list[str], tmp_path: Path, capsys: Capture) -> None:
    (clips / "x.txt").write_text("Hello.")
    words = ["tokenize", str(clips), "-o", str(tmp_path / "t"), *codec]
    assert run(words) == 0 == run(words)
    (clips / "x.txt").write_text("Good bye.")
    assert "metadata of clip 'x' have changed" in refused(words, capsys)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--min-seconds", "0.2"], "--min-seconds 0.1, not 0.2"),
        (["--max-seconds", "9"], "--max-seconds left out, not 9.0"),
        (["--min-peak", "-40"], "--min-peak -80.0, not -40.0"),
        (["--max-clipped", "5"], "--max-clipped 100.0, not 5.0"),
        (["--dedupe"], "--dedupe left out, not given"),
    ],
)
def test_other_limits_are_refused(
    option: list[str], told: str, clips: Path, codec: list[str], tmp_path: Path, capsys: Capture
) -> None:
    words = ["tokenize", str(clips), "-o", str(tmp_path / "t"), *codec]
    assert run(words) == 0
    for more in ([], ["--dry-run"]):
        assert told in refused([*words, *option, *more], capsys)
    assert run([*words, *option, "--overwrite"]) == 0
    assert told.split(" ")[0] in refused(words, capsys)


def test_limits_are_noted_before_the_first_shard(
    clips: Path, codec: list[str], tmp_path: Path, capsys: Capture
) -> None:
    """A run that was killed right behind it has left no other trace of them than the manifest."""
    words = ["tokenize", str(clips), "-o", str(tmp_path / "t"), *codec]
    assert run([*words, "--shard", "1/2"]) == 0  # of the parts, none has finished the whole
    assert "--min-seconds" in refused([*words, "--shard", "2/2", "--min-seconds", "0.2"], capsys)
    assert run([*words, "--shard", "2/2"]) == 0


def test_a_folder_of_an_older_solfa_is_continued(
    clips: Path, codec: list[str], tmp_path: Path, capsys: Capture
) -> None:
    """Without stamps, settings and corpora."""
    import pyarrow.parquet as pq

    output, words = tmp_path / "t", ["tokenize", str(clips), "-o", str(tmp_path / "t"), *codec]
    assert run([*words, "--limit", "2"]) == 0
    (shard,) = find_shards(output)
    pq.write_table(pq.read_table(shard).drop_columns(["source_stamp"]), shard)
    manifest = json.loads((output / "manifest.json").read_text())
    (output / "manifest.json").write_text(
        json.dumps({k: v for k, v in manifest.items() if k not in ("settings", "corpora")})
    )
    assert run(words) == 0
    assert sorted(rows(output)) == ["deep/y", "x", "z"]
    assert run(words) == 0
    noise(clips / "z.flac", 7)  # made by this solfa, so it is known what from
    assert "z.flac has changed" in refused(words, capsys)
    noise(tmp_path / "B" / "x.wav", 8)
    assert "was made from" in refused(["tokenize", str(tmp_path / "B"), "-o", str(output), *codec], capsys)


@pytest.mark.parametrize("name", ["manifest.json", "rejects.jsonl"])
@pytest.mark.parametrize("text", ['{"mine":1}', "not even JSON", "[]"])
def test_a_users_own_file_is_never_replaced(
    name: str, text: str, clips: Path, codec: list[str], capsys: Capture
) -> None:
    (clips / name).write_text(text)
    before = contents(clips)
    for more in ([], ["--overwrite"]):
        error = refused(["tokenize", f"{clips}/**/*.wav", "-o", str(clips), *codec, *more], capsys)
        assert f"{clips / name} was not written by solfa tokenize" in error
    assert contents(clips) == before


@pytest.mark.parametrize("command", ["tokenize", "reconstruct", "compress"])
def test_an_empty_output_is_refused(
    command: str, clips: Path, codec: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for empty in ("", " "):
        assert "it is empty" in refused([command, str(clips), "-o", empty, *codec], capsys)
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("kind", ["tokens", "sfa", "audio"])
def test_reconstruct_with_other_settings_is_refused(
    kind: str, clips: Path, codec: list[str], tmp_path: Path, capsys: Capture
) -> None:
    source = {"tokens": tmp_path / "t", "sfa": tmp_path / "s", "audio": clips}[kind]
    if kind != "audio":
        assert run([{"tokens": "tokenize", "sfa": "compress"}[kind], str(clips), "-o", str(source), *codec]) == 0
    words = ["reconstruct", str(source), "-o", str(tmp_path / "w"), *codec]
    assert run([*words, "--books", "4"]) == 0
    before = contents(tmp_path / "w")
    assert "--books 4, not 1" in refused([*words, "--books", "1"], capsys)
    assert "--sample-rate 24000, not source" in refused([*words, "--sample-rate", "source"], capsys)
    assert run(words) == 0  # all books are four
    assert "3 were there already" in capsys.readouterr().out
    assert contents(tmp_path / "w") == before
    assert run([*words, "--books", "1", "--overwrite"]) == 0
    assert run([*words, "--books", "1"]) == 0
    assert contents(tmp_path / "w")["x.wav"] != before["x.wav"]
    (tmp_path / "w" / JOURNAL).unlink()
    assert "is not known" in refused([*words, "--books", "1"], capsys)


def test_reconstruct_from_other_input_is_refused(
    clips: Path, codec: list[str], tmp_path: Path, capsys: Capture
) -> None:
    for source, changes in (("t", ["tokenize", "--overwrite"]), ("s", ["compress", "--overwrite"]), ("A", [])):
        if changes:
            assert run([changes[0], str(clips), "-o", str(tmp_path / source), *codec]) == 0
        words = ["reconstruct", str(tmp_path / source), "-o", str(tmp_path / f"from-{source}"), *codec]
        assert run(words) == 0
        noise(clips / "x.wav", len(source) + ord(source))
        if changes:
            assert run([changes[0], str(clips), "-o", str(tmp_path / source), *codec, changes[1]]) == 0
        assert "x.wav was made from other input" in refused(words, capsys)
        assert run([*words, "--overwrite"]) == 0 == run(words)


def test_compress_with_other_settings_or_input_is_refused(
    clips: Path, codec: list[str], tmp_path: Path, capsys: Capture
) -> None:
    words = ["compress", str(clips), "-o", str(tmp_path / "s"), *codec]
    assert run(words) == 0
    before = contents(tmp_path / "s")
    assert "--books 4, not 1" in refused([*words, "--books", "1"], capsys)
    assert contents(tmp_path / "s") == before
    noise(clips / "x.wav", 3)
    assert "x.sfa was made from other input" in refused(words, capsys)
    assert run([*words, "--overwrite"]) == 0 == run(words)
    assert contents(tmp_path / "s")["x.sfa"] != before["x.sfa"]


@pytest.mark.parametrize(("command", "name"), [("reconstruct", "one.wav"), ("compress", "one.sfa")])
def test_a_single_file_that_is_there_is_not_replaced_unasked(
    command: str, name: str, clips: Path, codec: list[str], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / name).write_bytes(b"mine")
    words = [command, str(clips / "x.wav"), "-o", str(tmp_path / name), *codec]
    assert "is there already: give another name, or --overwrite" in refused(words, capsys)
    assert (tmp_path / name).read_bytes() == b"mine"
    assert run([*words, "--overwrite"]) == 0
    assert len((tmp_path / name).read_bytes()) > 30


def test_stamps_compare_content_only_where_place_size_or_time_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Clip("x", noise(tmp_path / "x.wav"), {"text": "a"})
    stamp = stamp_of(clip).recorded(clip)
    monkeypatch.setattr("solfa.tokenizers.datasets.readers.source_stamp.content_of", None)  # is not to be called
    assert changed(clip, stamp) == ""
    assert changed(Clip("x", clip.path, {"text": "b"}), stamp) == "metadata"
    monkeypatch.undo()
    os.utime(clip.path, (1, 1))
    assert changed(clip, stamp) == ""
    assert changed(Clip("x", clip.path, {"text": "a"}, span=(0.0, 0.1)), stamp) == "file"
    clip.path.unlink()
    assert changed(clip, stamp) == "content"
    (tmp_path / "m.jsonl").write_text(
        '{"audio": "x.wav", "offset": 0.1, "duration": 0.1}\n{"audio": "x.wav", "offset": 0, "duration": 0.1}'
    )
    one, two = read_corpus(tmp_path / "m.jsonl")
    assert stamp_of(one).state != stamp_of(two).state
