"""Corpora: which clips a source names, under which ids, and which mistakes in it are told."""

import json
import os
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import BadAudio, read_audio, write_wav
from solfa.tokenizers.datasets.readers.corpus import Clip, Corpus, read_corpus, safe_id


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


def test_a_name_that_looks_like_another_with_its_suffix_is_still_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "a.flac", "a.wav.mp3", "b\\c.wav", "b/c.wav")
    assert ids(read_corpus(tmp_path)) == ["a.flac", "a.wav", "a.wav#2", "b/c", "b/c#2"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.wav", "set/b.wav", ".cache/c.wav")
    (tmp_path / "set/link").symlink_to(tmp_path / "real")
    (tmp_path / "real/round").symlink_to(tmp_path / "set")
    assert ids(read_corpus(tmp_path / "set")) == ["b", "link/a"]


def test_what_is_no_plain_file_is_still_a_clip_that_can_be_told(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / "gone.wav").symlink_to("nowhere.wav")
    (tmp_path / "round.wav").symlink_to("round.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    kinds = {}
    for corpus in (read_corpus(tmp_path), read_corpus(f"{tmp_path}/*.wav", exclude=tmp_path.parent / "out")):
        assert ids(corpus) == ["a", "gone", "pipe", "round"]
        kinds = {clip.id: clip.path for clip in corpus}
    for name, words in (("gone", "does not exist"), ("round", "cannot be read"), ("pipe", "not a regular file")):
        assert ids(read_corpus(tmp_path / f"{name}.wav")) == [name]
        with pytest.raises(UserError, match=words):
            read_audio(kinds[name])


def test_the_output_folder_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "out/a.wav")
    assert ids(read_corpus(tmp_path, exclude=tmp_path / "out")) == ["a"]


def test_glob_gives_ids_below_its_fixed_part(tmp_path: Path) -> None:
    touch(tmp_path, "set/x/1.wav", "set/y/2.wav", "set/y/3.flac", "other/4.wav")
    assert ids(read_corpus(f"{tmp_path}/set/**/*.wav")) == ["x/1", "y/2"]


@pytest.mark.parametrize("pattern", ["s-{08..11}.wav", "s-{08,09,10,11}.wav", "s-{0{8,9},1?}.wav"])
def test_braces_name_a_range_or_a_list(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, *(f"s-{n:02}.wav" for n in range(8, 12)), "s-x.wav")
    assert ids(read_corpus(tmp_path / pattern)) == ["s-08", "s-09", "s-10", "s-11"]


def test_a_gap_in_a_range_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "s-0.wav", "s-2.wav")
    with pytest.raises(UserError, match="s-1.wav, which .* does not exist"):
        read_corpus(tmp_path / "s-{0..2}.wav")


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


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_csv_may_have_other_delimiters(tmp_path: Path, delimiter: str) -> None:
    (tmp_path / "m.csv").write_text(f'text{delimiter}audio\n"a, b"{delimiter}1.wav\n')
    (clip,) = read_corpus(tmp_path / "m.csv")
    assert (clip.id, clip.row) == ("1", {"text": "a, b"})


def test_offset_and_duration_name_a_part(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("audio,offset,duration,text\na.wav,1.5,2,x\na.wav,,,y\n")
    part, whole = read_corpus(tmp_path / "m.csv")
    assert (part.span, whole.span) == ((1.5, 2.0), None)
    assert (part.id, part.row["offset"], whole.id) == ("a", 1.5, "a#2")
    for bad in ("-1,2", "1,0", "x,2", "nan,2", "1,inf"):
        (tmp_path / "m.csv").write_text(f"audio,offset,duration\na.wav,0,1\na.wav,{bad}\n")
        with pytest.raises(UserError, match="m.csv, line 3: .* not seconds"):
            read_corpus(tmp_path / "m.csv")


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


def test_a_table_of_common_voice_is_a_manifest_too(tmp_path: Path) -> None:
    touch(tmp_path, "clips/1.mp3")
    (tmp_path / "test.tsv").write_text('client_id\tpath\tsentence\tlocale\nab\t1.mp3\t"Hi, he said\ten\n')
    (clip,) = read_corpus(tmp_path / "test.tsv")
    assert clip == Clip("1", tmp_path / "clips/1.mp3", {"speaker": "ab", "text": '"Hi, he said', "language": "en"})


def test_nemo_and_other_names_of_columns(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 1.5, "transcript": "hi", "lang": "en"}')
    (clip,) = read_corpus(tmp_path / "m.jsonl")
    assert clip.row == {"duration": 1.5, "text": "hi", "language": "en"}


def test_clips_travel_between_processes(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav", "text": "hi"}', encoding="utf-8")
    clips = list(read_corpus(tmp_path / "m.jsonl"))
    assert pickle.loads(pickle.dumps(clips)) == clips


def test_a_large_manifest_is_not_held_in_memory(tmp_path: Path) -> None:
    row = '{"audio": "folder/%07d.wav", "text": "' + 2000 * "x" + '"}\n'
    (tmp_path / "m.jsonl").write_text("".join(row % i for i in range(10_000)))  # 20 MB
    tracemalloc.start()
    try:
        corpus = read_corpus(tmp_path / "m.jsonl")
        assert sum(1 for _ in corpus) == len(corpus) == 10_000
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("m.csv", "clip,text\na.wav,hello\n", "no column audio, file, .* its columns are clip, text"),
        ("m.csv", "audio,text\n,hello\n", "line 2: column 'audio' names no audio file"),
        ("m.csv", "audio,text\na.wav\n", "line 2"),
        ("m.csv", "audio,text\na.wav,b,c\n", "line 2"),
        ("m.csv", "audio,text\n", "holds no rows"),
        ("m.csv", "", "holds no rows"),
        ("m.jsonl", '{"audio": "a.wav"}\n{"audio": "b.wav"\n', "line 2: not a JSON object"),
        ("m.jsonl", '{"audio": "a.wav"}\n["b.wav"]\n', "line 2: not a JSON object"),
        ("m.jsonl", '{"audio": "a.wav"}\n{"text": "b"}\n', "line 2: column 'audio'"),
        ("m.jsonl", '{"audio": 3}\n', "line 1: column 'audio'"),
        ("m.jsonl", '{"audio": ' + 5000 * "1" + "}", "line 1: not a JSON object"),
        ("m.csv", 'audio,text\na.wav,"b\nc"\nd.wav\n', "line 4: the header has 2 fields, the row has 1"),
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


class Listed:
    """A part whose clips have these ids."""

    def __init__(self, names: list[str]):
        self._names = names

    def names(self) -> Iterator[str]:
        return iter(self._names)

    def clips(self) -> Iterator[Clip]:
        return (Clip(name, Path(name)) for name in self._names)


@given(st.lists(st.text("aé#2/.\\", max_size=5) | st.text(min_size=150, max_size=300), max_size=30))
def test_ids_are_unique_stable_and_short_enough_for_a_file_name(names: list[str]) -> None:
    corpus = Corpus([Listed(names[:7]), Listed(names[7:])])
    found = ids(corpus)
    assert found == ids(corpus)
    for name, clip_id in zip(names, found, strict=True):
        assert safe_id(clip_id) == clip_id
        assert max(len(part.encode()) for part in clip_id.split("/")) <= 200
        if sum(safe_id(other) == safe_id(name) for other in names) == 1:
            assert clip_id == safe_id(name)


def test_long_names_stay_apart_and_can_be_written(tmp_path: Path) -> None:
    long = 100 * "é"
    first, second = safe_id(f"a/{long}1/b"), safe_id(f"a/{long}2/b")
    assert first != second
    for name in (first, second, safe_id("/".join(20 * [long]))):
        touch(tmp_path, f"{name}.wav")


def test_clips_tell_what_trainers_need(tmp_path: Path) -> None:
    """LJSpeech and a manifest, as a trainer reads them; what cannot be read has its reason."""
    x = np.linspace(-0.5, 0.5, 1600).astype(np.float32)
    (tmp_path / "lj" / "wavs").mkdir(parents=True)
    for name in ("a", "b"):
        write_wav(tmp_path / "lj" / "wavs" / f"{name}.wav", x, 16_000)
    (tmp_path / "lj" / "wavs" / "text.wav").write_text("this is no sound")
    (tmp_path / "lj" / "wavs" / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "lj" / "wavs" / "nan.wav", np.full(100, np.nan), 16_000, subtype="FLOAT")
    (tmp_path / "lj" / "metadata.csv").write_text("a|One.|One.\nb|Two.|Two.\n")
    rows = [
        {"audio": "lj/wavs/a.wav", "speaker": 7, "duration": 0.1},
        {"audio": "lj/wavs/b.wav", "id": "wavs/b", "offset": 0.05, "duration": 0.025, "text": ""},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clips = {clip.id: clip for clip in read_corpus(tmp_path / "lj")}
    listed = {clip.id: clip for clip in read_corpus(tmp_path / "m.jsonl")}
    assert list(clips) == ["wavs/a", "wavs/b", "wavs/empty", "wavs/nan", "wavs/text"]

    def known(clip: Clip) -> tuple[str | None, str | None, float | None]:
        return clip.speaker, clip.text, clip.seconds

    assert known(clips["wavs/a"]) == (None, "One.", None)
    assert known(listed["lj/wavs/a"]) == ("7", None, 0.1)
    assert known(listed["wavs/b"]) == (None, None, 0.025)
    assert len(clips["wavs/a"].read(24_000).samples) == 2400
    assert np.array_equal(listed["wavs/b"].read().samples, clips["wavs/b"].read().samples[800:1200])
    for name, kind in (("wavs/empty", "empty"), ("wavs/nan", "nan"), ("wavs/text", "corrupt")):
        with pytest.raises(BadAudio) as caught:
            clips[name].read()
        assert caught.value.kind == kind
