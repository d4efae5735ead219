"""Corpora: which clips a source names, under which ids, and which mistakes in it are told."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solfa.errors import UserError
from solfa.tokenizers.corpus import Corpus, read_corpus, safe_id


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def ids(corpus: Corpus) -> list[str]:
    found = [clip.id for clip in corpus]
    assert len(found) == len(corpus) == len(set(found))
    return found


def test_folder_is_recursive_sorted_and_takes_audio_only(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.flac", "b/1.MP3", "a.wav", "notes.txt", ".hidden.wav", "b/.writing-1-x.wav", "c d/é.m4a")
    assert ids(read_corpus(tmp_path)) == ["a", "b/1", "b/2", "c d/é"]
    assert all(clip.path.exists() for clip in read_corpus(tmp_path))


def test_names_that_differ_in_their_suffix_keep_it(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "a.flac", "b.wav")
    assert ids(read_corpus(tmp_path)) == ["a.flac", "a.wav", "b"]


def test_the_output_folder_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "out/a.wav")
    assert ids(read_corpus(tmp_path, exclude=tmp_path / "out")) == ["a"]


def test_glob_gives_ids_below_its_fixed_part(tmp_path: Path) -> None:
    touch(tmp_path, "set/x/1.wav", "set/y/2.wav", "set/y/3.flac", "other/4.wav")
    assert ids(read_corpus(f"{tmp_path}/set/**/*.wav")) == ["x/1", "y/2"]


def test_one_file(tmp_path: Path) -> None:
    touch(tmp_path, "set/one.wav")
    assert ids(read_corpus(tmp_path / "set" / "one.wav")) == ["one"]


@pytest.mark.parametrize("column", ["audio", "file", "path"])
def test_csv_carries_every_other_column(tmp_path: Path, column: str) -> None:
    (tmp_path / "m.csv").write_text(
        f'\ufeff{column},speaker,text\naudio/1.wav,anna,"a, ""b""\nc"\n../2.wav,007,\n', encoding="utf-8"
    )
    first, second = read_corpus(tmp_path / "m.csv")
    assert (first.id, first.path) == ("audio/1", tmp_path / "audio/1.wav")
    assert first.row == {"speaker": "anna", "text": 'a, "b"\nc'}
    assert (second.id, second.row["speaker"]) == ("2", "007")


def test_jsonl_keeps_types_and_ids(tmp_path: Path) -> None:
    rows = [
        {"id": "x/1", "audio": "1.wav", "durations": [1, 2], "rate": 3.5, "label": None},
        {"id": "x/1", "audio": "2.wav"},
        {"audio": "/abs/3.wav", "path": "carried"},
    ]
    (tmp_path / "m.jsonl").write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    clips = list(read_corpus(tmp_path / "m.jsonl"))
    assert [clip.id for clip in clips] == ["x/1", "x/1#2", "abs/3"]
    assert clips[0].row == {"durations": [1, 2], "rate": 3.5, "label": None}
    assert clips[2].path == Path("/abs/3.wav")
    assert clips[2].row == {"path": "carried"}


def test_a_corpus_can_be_read_twice(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav"}\n{"audio": "a.wav"}\n', encoding="utf-8")
    corpus = read_corpus(tmp_path / "m.jsonl")
    assert ids(corpus) == ids(corpus) == ["a", "a#2"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("m.csv", "clip,text\na.wav,hello\n", "no column audio or file or path; its columns are clip, text"),
        ("m.csv", "audio,text\n,hello\n", "line 2: column 'audio' names no audio file"),
        ("m.csv", "audio,text\na.wav\n", "line 2"),
        ("m.csv", "audio,text\na.wav,b,c\n", "line 2"),
        ("m.csv", "audio,text\n", "holds no rows"),
        ("m.csv", "", "holds no rows"),
        ("m.jsonl", '{"audio": "a.wav"}\n{"audio": "b.wav"\n', "line 2: not a JSON object"),
        ("m.jsonl", '{"audio": "a.wav"}\n["b.wav"]\n', "line 2: not a JSON object"),
        ("m.jsonl", '{"audio": "a.wav"}\n{"text": "b"}\n', "line 2: column 'audio'"),
        ("m.jsonl", '{"audio": 3}\n', "line 1: column 'audio'"),
    ],
)
def test_mistakes_in_a_manifest_are_told_before_any_work(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words) as caught:
        read_corpus(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_binary_manifest_missing_source_and_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"audio\n\xff\xfe\n")
    cases = {"m.csv": "UTF-8", "gone": "does not exist", ".": "no audio files"}
    for name, words in cases.items():
        with pytest.raises(UserError, match=words):
            read_corpus(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):  # an unset shell variable is not the current folder
        read_corpus("")


@given(st.text())
def test_ids_stay_inside_any_folder(name: str) -> None:
    inside = (Path("/out") / safe_id(name)).parts
    assert inside[:2] == ("/", "out")
    assert len(inside) > 2
    assert ".." not in inside
    assert safe_id(safe_id(name)) == safe_id(name)
