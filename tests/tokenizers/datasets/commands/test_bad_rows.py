"""Token shards that something else wrote, or damaged: bad rows are listed, the rest is done, and clips of one id do not share a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from solfa.cli import run
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands.output_journal import JOURNAL
from solfa.tokenizers.datasets.commands.shared_options import header_of
from solfa.tokenizers.datasets.shards.shard_formats import FORMATS
from solfa.tokenizers.datasets.shards.shards import ShardWriter

Capture = pytest.CaptureFixture[str]


def row(name: str, frames: int = 9) -> dict[str, Any]:
    codes = np.random.default_rng(frames).integers(0, 32, (4, frames))
    samples = frames * 960 - 7
    own = {"id": name, "audio": f"{name}.wav", "duration": samples / 24_000, "samples": samples, "sample_rate": 24_000}
    return {**own, "codes": codes, "frames": frames}


def with_first(folder: Path, codec: AudioTokenizer, **changes: Any) -> Path:
    """Three rows in two shards, the first with other values."""
    with ShardWriter(folder, header_of(codec, codec.books)) as writer:
        for names in ("xy", "z"):
            for i, name in enumerate(names):
                writer.add(row(name, 9 + i))
            writer.flush()
    shard = sorted((folder / "data").iterdir())[0]
    table = pq.read_table(shard, partitioning=None)
    rows = table.to_pylist()
    for key, value in changes.items():
        rows[0][key] = value(rows[0][key]) if callable(value) else value
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)
    return folder


def lacking(codes: list[list[Any]]) -> list[list[Any]]:
    return [codes[0], [*codes[1][:3], None, *codes[1][4:]], *codes[2:]]


def ragged(codes: list[list[int]]) -> list[list[int]]:
    return [codes[0], codes[1][:-3], *codes[2:]]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"id": None}, "it has no id"),
    "no codes": ({"codes": None}, "it has no codes"),
    "a code missing": ({"codes": lacking}, "1 of its codes are missing"),
    "a book missing": ({"codes": lambda codes: [*codes[:3], None]}, "it has codes of 3 books, not of 4"),
    "ragged": ({"codes": ragged}, "its books hold 6 to 9 codes, where all should hold as many"),
    "duration": ({"duration": float("nan")}, "its duration is nan"),
    "no duration": ({"duration": None}, "its duration is None"),
    "no samples": ({"samples": None}, "its number of samples is None"),
    "negative samples": ({"samples": -5}, "its number of samples is -5"),
    "rate 0": ({"sample_rate": 0}, "its sample rate is 0"),
    "negative rate": ({"sample_rate": -1}, "its sample rate is -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_listed_and_the_rest_is_done(
    name: str, tmp_path: Path, tiny_codec: AudioTokenizer, tiny_codec_folder: Path, capsys: Capture
) -> None:
    changes, told = BAD[name]
    folder = with_first(tmp_path / "t", tiny_codec, **changes)
    words = ["reconstruct", str(folder), "-o", str(tmp_path / "w"), "--codec", str(tiny_codec_folder)]
    for done in ("2 clips", "2 were there already"):
        assert run(words) == 1
        out = capsys.readouterr().out
        assert f"rejected: row 0 of tokens-00000.parquet is left out: {told}" in out and done in out
    assert sorted(path.name for path in (tmp_path / "w").glob("*.wav")) == ["y.wav", "z.wav"]
    assert run(["inspect", str(folder), "--json"]) == 1
    printed = capsys.readouterr().out
    assert "NaN" not in printed
    found = json.loads(printed)
    assert found["rows"] == 2 and found["problems"] == [
        f"row 0 of tokens-00000.parquet: {found['problems'][0].split(': ', 1)[1]}"
    ]
    assert told in found["problems"][0]
    assert run(["inspect", str(folder)]) == 1
    assert told in capsys.readouterr().out.replace("\n", " ")


def test_a_single_bad_row_is_a_mistake(
    tmp_path: Path, tiny_codec: AudioTokenizer, tiny_codec_folder: Path, capsys: Capture
) -> None:
    folder = with_first(tmp_path / "t", tiny_codec, sample_rate=0)
    words = ["inspect", str(folder), "--row", "0", "-o", str(tmp_path / "a.wav"), "--codec", str(tiny_codec_folder)]
    assert run(words) == 2
    assert "its sample rate is 0" in capsys.readouterr().err


def test_clips_of_one_id_have_files_of_their_own(
    tmp_path: Path, tiny_codec: AudioTokenizer, tiny_codec_folder: Path, capsys: Capture
) -> None:
    folder = with_first(tmp_path / "t", tiny_codec, id="y")
    words = ["reconstruct", str(folder), "-o", str(tmp_path / "w"), "--codec", str(tiny_codec_folder)]
    assert run(words) == 0
    frames = {path.name: soundfile.info(path).frames for path in (tmp_path / "w").glob("*.wav")}
    assert frames == {"y.wav": 9 * 960 - 7, "y#2.wav": 10 * 960 - 7, "z.wav": 9 * 960 - 7}
    assert run(words) == 0
    assert "3 were there already" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "w" / JOURNAL).read_text())["files"]) == 3


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_shard_names_itself_and_the_remedy(
    format: str, tmp_path: Path, speech_clip: Path, tiny_codec_folder: Path, capsys: Capture
) -> None:
    words = [
        "tokenize",
        str(speech_clip),
        "-o",
        str(tmp_path / "t"),
        "--codec",
        str(tiny_codec_folder),
        "--format",
        format,
    ]
    assert run(words) == 0
    (shard,) = (tmp_path / "t" / "data").iterdir()
    whole = shard.read_bytes()
    for damage in (b"", whole[:700], b"rubbish", bytes(len(whole))):
        shard.write_bytes(damage)
        for more in ([], ["--dry-run"]):
            capsys.readouterr()
            assert run([*words, *more]) == 2
            error = capsys.readouterr().err
            assert str(shard) in error and "delete that file, and its clips are tokenized again" in error
            assert error.count("\n") == 1
    shard.unlink()
    assert run(words) == 0
    assert shard.read_bytes() == whole


@pytest.mark.parametrize("changes", [{"id": None}, {"duration": None}, {"duration": float("nan")}])
def test_tokenize_goes_on_behind_no_bad_row(
    changes: dict[str, Any],
    tmp_path: Path,
    speech_clip: Path,
    tiny_codec: AudioTokenizer,
    tiny_codec_folder: Path,
    capsys: Capture,
) -> None:
    folder = with_first(tmp_path / "t", tiny_codec, **changes)
    assert run(["tokenize", str(speech_clip), "-o", str(folder), "--codec", str(tiny_codec_folder)]) == 2
    error = capsys.readouterr().err
    assert "tokens-00000.parquet is damaged" in error and "delete that file" in error
