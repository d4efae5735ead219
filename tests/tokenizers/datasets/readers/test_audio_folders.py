"""Layouts of known corpora: what each says about its clips, wherever it lies, and which mistakes are told."""

from pathlib import Path
from typing import Any

import pytest

from solfa.core.errors import UserError
from solfa.tokenizers.datasets.readers.corpus import read_corpus


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def rows(source: str | Path) -> dict[str, dict[str, Any]]:
    corpus = read_corpus(source)
    found = {clip.id: clip.row for clip in corpus}
    assert len(found) == len(corpus)
    return found


LJSPEECH = {
    "wavs/LJ001-0001.wav": "x",
    "wavs/LJ001-0002.flac": "x",
    "wavs/LJ001-0003.wav": "x",
    "metadata.csv": 'LJ001-0001|He said "12.|He said "twelve.\nLJ001-0002|Same.|Same.\n\nLJ009-0009|gone|gone\n',
}
LJSPEECH_ROWS = {
    "wavs/LJ001-0001": {"text": 'He said "twelve.', "original_text": 'He said "12.'},
    "wavs/LJ001-0002": {"text": "Same."},
    "wavs/LJ001-0003": {},
}
LIBRISPEECH = {
    "dev/84/121123/84-121123-0000.flac": "x",
    "dev/84/121123/84-121123-0001.flac": "x",
    "dev/84/121123/84-121123.trans.txt": "84-121123-0000 GO DO YOU HEAR\n",
}
LIBRISPEECH_ROWS = {
    "dev/84/121123/84-121123-0000": {"speaker": "84", "text": "GO DO YOU HEAR"},
    "dev/84/121123/84-121123-0001": {"speaker": "84"},
}
LIBRITTS = {
    "84/121123/84_121123_000007_000001.wav": "x",
    "84/121123/84_121123_000007_000001.normalized.txt": "Doctor Smith?",
    "84/121123/84_121123_000007_000001.original.txt": "Dr. Smith?\n",
}
LIBRITTS_ROWS = {
    "84/121123/84_121123_000007_000001": {"speaker": "84", "text": "Doctor Smith?", "original_text": "Dr. Smith?"}
}
VCTK = {
    "wav48_silence_trimmed/p225/p225_001_mic1.flac": "x",
    "wav48_silence_trimmed/p225/p225_001_mic2.flac": "x",
    "wav48_silence_trimmed/s5/s5_002_mic1.flac": "x",
    "txt/p225/p225_001.txt": "Please call Stella.\n",
    "speaker-info.txt": "ID  AGE  GENDER  ACCENTS  REGION COMMENTS\np225  23  F    English    Southern  England\n",
}
ABOUT = {"speaker": "p225", "age": "23", "gender": "F", "accent": "English", "text": "Please call Stella."}
VCTK_ROWS = {
    "wav48_silence_trimmed/p225/p225_001_mic1": {**ABOUT, "microphone": "mic1"},
    "wav48_silence_trimmed/p225/p225_001_mic2": {**ABOUT, "microphone": "mic2"},
    "wav48_silence_trimmed/s5/s5_002_mic1": {"speaker": "s5", "microphone": "mic1"},
}
OLD_VCTK = {
    "wav48/p225/p225_001.wav": "x",
    "txt/p225/p225_001.txt": "Hi.",
    "speaker-info.txt": "ID AGE\n225 23 F English\n",
}
OLD_VCTK_ROWS = {"wav48/p225/p225_001": {**ABOUT, "text": "Hi."}}
HEAD = "client_id\tpath\tsentence\tage\tlocale\n"
COMMON_VOICE = {
    "clips/cv_1.mp3": "x",
    "clips/cv_2.mp3": "x",
    "clips/cv_3.mp3": "x",
    "clips/cv_4.mp3": "x",
    "validated.tsv": HEAD + 'ab\tcv_1.mp3\t"Zo, zei hij.\t\tnl\ncd\tcv_2.mp3\tHoi "jij".\ttwenties\tnl\n',
    "train.tsv": HEAD + 'ab\tcv_1.mp3\t"Zo, zei hij.\t\tnl\n',
    "invalidated.tsv": HEAD + "cd\tcv_3.mp3\tWrong.\t\tnl\n",
    "clip_durations.tsv": "clip\tduration[ms]\ncv_1.mp3\t1000\n",
}
COMMON_VOICE_ROWS = {
    "clips/cv_1": {"speaker": "ab", "text": '"Zo, zei hij.', "age": "", "language": "nl", "split": "train"},
    "clips/cv_2": {"speaker": "cd", "text": 'Hoi "jij".', "age": "twenties", "language": "nl", "split": "validated"},
    "clips/cv_3": {"speaker": "cd", "rejected_text": "Wrong.", "age": "", "language": "nl", "split": "invalidated"},
    "clips/cv_4": {},
}
HEADER = {
    "audio/a.opus": "x",
    "audio/b.opus": "x",
    "metadata.csv": "file,speaker,text,style,language\n"
    'audio/a.opus,anna,"Two\nlines, ""so""",calm,nl\n./audio/b.opus,,,,en\n',
}
HEADER_ROWS = {
    "audio/a": {"speaker": "anna", "text": 'Two\nlines, "so"', "style": "calm", "language": "nl"},
    "audio/b": {"speaker": "", "text": "", "style": "", "language": "en"},
}
AUDIO_FOLDER = {
    "a/1.wav": "x",
    "metadata.jsonl": '{"file_name": "a/1.wav", "transcription": "Hi.", "speaker_id": 7, "tags": ["x"]}\n',
}
AUDIO_FOLDER_ROWS = {"a/1": {"text": "Hi.", "speaker": 7, "tags": ["x"]}}
PLAIN = {
    "a.wav": "x",
    "a.txt": "\ufeffOne.\n",
    "b/b.wav": "x",
    "b/b.lab": "Two.",
    "b/c.wav": "x",
    "b/c.lab": "0 500 sil\n500 900 a\n",
    "d.wav": "x",
    "d.txt": "1 2 3",
}
PLAIN_ROWS = {"a": {"text": "One."}, "b/b": {"text": "Two."}, "b/c": {}, "d": {"text": "1 2 3"}}

LAYOUTS: dict[str, tuple[dict[str, str], dict[str, dict[str, Any]]]] = {
    "ljspeech": (LJSPEECH, LJSPEECH_ROWS),
    "librispeech": (LIBRISPEECH, LIBRISPEECH_ROWS),
    "libritts": (LIBRITTS, LIBRITTS_ROWS),
    "vctk": (VCTK, VCTK_ROWS),
    "old vctk": (OLD_VCTK, OLD_VCTK_ROWS),
    "common voice": (COMMON_VOICE, COMMON_VOICE_ROWS),
    "header": (HEADER, HEADER_ROWS),
    "audio folder": (AUDIO_FOLDER, AUDIO_FOLDER_ROWS),
    "plain": (PLAIN, PLAIN_ROWS),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(tmp_path: Path, name: str) -> None:
    files, expected = LAYOUTS[name]
    write(tmp_path, files)
    assert rows(tmp_path) == expected


def test_layouts_in_subfolders_of_any_name(tmp_path: Path) -> None:
    """All of them side by side, two levels down."""
    everything = {}
    for name, (files, expected) in LAYOUTS.items():
        write(tmp_path / "data" / name, files)
        everything.update({f"data/{name}/{clip}": row for clip, row in expected.items()})
    assert rows(tmp_path) == everything


def test_a_part_of_a_layout(tmp_path: Path) -> None:
    for name, (files, _) in LAYOUTS.items():
        write(tmp_path / name, files)
    assert rows(tmp_path / "ljspeech/wavs")["LJ001-0002"] == {"text": "Same."}
    assert rows(f"{tmp_path}/ljspeech/wavs/*2.flac") == {"LJ001-0002": {"text": "Same."}}
    assert rows(tmp_path / "ljspeech/wavs/LJ001-0002.flac") == {"LJ001-0002": {"text": "Same."}}
    assert rows(tmp_path / "common voice/clips")["cv_1"]["split"] == "train"
    assert rows(tmp_path / "vctk/wav48_silence_trimmed/p225")["p225_001_mic1"] == {**ABOUT, "microphone": "mic1"}


def test_the_nearest_table_counts_and_the_first_of_two_rows(tmp_path: Path) -> None:
    table = "file,text\n"
    write(tmp_path, {"a/1.wav": "x", "a/2.wav": "x", "a/metadata.csv": f"{table}1.wav,near\n1.wav,again\n"})
    write(tmp_path, {"metadata.csv": f"{table}a/1.wav,far\na/2.wav,far\n"})
    assert rows(tmp_path) == {"a/1": {"text": "near"}, "a/2": {"text": "far"}}


@pytest.mark.parametrize("table", ["name,size\nx,1\n", "", "a single line", "a|b|c|d|e\n"])
def test_a_table_of_something_else_is_no_transcript(tmp_path: Path, table: str) -> None:
    write(tmp_path, {"a.wav": "x", "metadata.csv": table, "train.tsv": "/root/folder\na.wav\t1600\n"})
    assert rows(tmp_path) == {"a": {}}


@pytest.mark.parametrize(
    ("name", "table", "words"),
    [
        ("metadata.csv", b"a|one|one\nb\n", "metadata.csv, line 2: no | between"),
        ("metadata.csv", b"file,text\na.wav\n", "metadata.csv, line 2: the header has 2 fields"),
        ("metadata.csv", b"file,text\n,hello\n", "metadata.csv, line 2: column 'file' names no audio"),
        ("metadata.csv", b"file,text\na.wav,\xff\n", "metadata.csv is not readable UTF-8"),
        ("metadata.jsonl", b'{"file": "a.wav"}\n{"file": \n', "metadata.jsonl, line 2: not a JSON object"),
    ],
)
def test_a_damaged_table_is_told_before_any_work(tmp_path: Path, name: str, table: bytes, words: str) -> None:
    write(tmp_path, {"a.wav": "x"})
    (tmp_path / name).write_bytes(table)
    with pytest.raises(UserError) as caught:
        read_corpus(tmp_path)
    assert words in str(caught.value)


def test_a_broken_character_in_one_transcript_is_shown(tmp_path: Path) -> None:
    write(tmp_path, {"a.wav": "x"})
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    assert rows(tmp_path) == {"a": {"text": "caf\ufffd"}}
