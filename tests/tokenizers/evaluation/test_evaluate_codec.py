"""`solfa eval codec --tokens`: stored codes against their sources, wherever these are now."""

import csv
import tarfile
from pathlib import Path

import pytest

from solfa.cli import run
from solfa.tokenizers.audio.audio_file import read_audio, write_wav

Figures = list[dict[str, str]]


@pytest.fixture
def corpus(tmp_path: Path, speech_clip: Path) -> Path:
    """Two clips of a voice."""
    voice = read_audio(speech_clip).samples
    for name, samples in (("a", voice), ("b", voice[::-1].copy())):
        write_wav(tmp_path / "corpus" / f"{name}.wav", samples, 24_000)
    return tmp_path / "corpus"


def figures(path: Path) -> Figures:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def evaluate(output: Path, *words: str | Path) -> tuple[int, Figures]:
    code = run(["eval", "codec", *map(str, words), "--out", str(output)])
    return code, figures(output) if output.exists() else []


def quality(rows: Figures) -> list[list[str]]:
    return [
        [row[name] for name in ("id", "books", "kbps", "PESQ-WB", "STOI", "mel distance", "SI-SDR dB")] for row in rows
    ]


def test_tokens_score_as_the_codec_does(
    corpus: Path, tmp_path: Path, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = ["--codec", str(tiny_codec_folder)]
    assert run(["tokenize", str(corpus), "-o", str(tmp_path / "tokens"), *codec]) == 0
    code, want = evaluate(tmp_path / "clips.csv", corpus, "--books", "1,4", *codec)
    assert (code, len(want)) == (0, 4)
    code, found = evaluate(tmp_path / "tokens.csv", "--tokens", tmp_path / "tokens", "--books", "1,4", *codec)
    assert (code, quality(found)) == (0, quality(want))
    assert {row["encode x"] for row in found} == {"nan"}
    assert all(float(row["decode x"]) > 0 for row in found)
    code, found = evaluate(tmp_path / "one.csv", "--tokens", tmp_path / "tokens", "--limit", "1", *codec)
    assert (code, {row["id"] for row in found}, {row["books"] for row in found}) == (0, {"a"}, {"1", "2", "4"})
    assert run(["eval", "codec", *codec]) == 2
    assert "name recordings to measure, or token shards" in capsys.readouterr().err


def test_sources_that_moved_are_found_by_their_ids(
    corpus: Path, tmp_path: Path, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tokens", str(tmp_path / "tokens"), "--books", "4", "--codec", str(tiny_codec_folder)]
    assert run(["tokenize", str(corpus), "-o", str(tmp_path / "tokens"), "--codec", str(tiny_codec_folder)]) == 0
    with tarfile.open(tmp_path / "corpus.tar", "w") as tar:
        for name in ("a.wav", "b.wav"):
            tar.add(corpus / name, name)
    code, want = evaluate(tmp_path / "there.csv", *words)
    assert code == 0
    (corpus / "a.wav").unlink()
    code, found = evaluate(tmp_path / "half.csv", *words)
    assert (code, quality(found)) == (1, quality(want)[1:])
    assert f"audio file {corpus / 'a.wav'} does not exist" in capsys.readouterr().out
    code, found = evaluate(tmp_path / "tar.csv", tmp_path / "corpus.tar", *words)
    assert (code, quality(found)) == (0, quality(want))


def test_a_source_that_changed_is_not_measured(
    corpus: Path, tmp_path: Path, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = ["--codec", str(tiny_codec_folder)]
    assert run(["tokenize", str(corpus), "-o", str(tmp_path / "tokens"), *codec]) == 0
    write_wav(corpus / "a.wav", read_audio(corpus / "a.wav").samples[:-1], 24_000)
    code, found = evaluate(tmp_path / "figures.csv", "--tokens", tmp_path / "tokens", "--books", "4", *codec)
    assert code == 1 and [row["id"] for row in found] == ["b"]
    assert "is not what was tokenized" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--books", "0"], "--books 0 should lie in 1..4"),
        (["--books", "1000"], "--books 1000 should lie in 1..4"),
        (["--books", "text"], "should be numbers with commas, not 'text'"),
        (["--seconds", "nan"], "--seconds nan should be a number of at least 0.5"),
        (["--seconds", "inf"], "--seconds inf should be a number of at least 0.5"),
        (["--limit", "0"], "--limit"),
        (["--against", "flac"], "not 'flac'"),
        (["-o", "."], "is a folder"),
        (["-o", "/dev/null/figures.csv"], "cannot be written"),
    ],
)
def test_mistakes_are_one_sentence_before_any_work(
    words: list[str],
    sentence: str,
    speech_clip: Path,
    tiny_codec_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_work(*_: object) -> None:
        raise AssertionError("a clip is measured before the mistake is found")

    monkeypatch.setattr("solfa.tokenizers.evaluation.evaluate_codec.measure", no_work)
    assert run(["eval", "codec", str(speech_clip), "--codec", str(tiny_codec_folder), *words]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
