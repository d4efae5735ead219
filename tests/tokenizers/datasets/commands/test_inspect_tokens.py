"""`solfa inspect`: counts that can be checked by hand, damage that is told, rows to see and to hear."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from solfa.cli import run
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands.shared_options import header_of
from solfa.tokenizers.datasets.shards.shard_formats import Header
from solfa.tokenizers.datasets.shards.shards import ShardWriter
from solfa.tokenizers.datasets.shards.token_dataset import find_shards
from solfa.tokenizers.datasets.shards.token_statistics import gather

HEADER = Header("tiny", "0123456789abcdef", 24_000, 25.0, 2, 8)


def row(name: str, codes: Any, **more: Any) -> dict[str, Any]:
    codes = np.array(codes)
    frames = codes.shape[1]
    own = {"id": name, "audio": f"{name}.wav", "duration": frames / 25, "samples": frames * 960, "sample_rate": 24_000}
    return {**own, "codes": codes, "frames": frames, **more}


def write(folder: Path, *shards: list[dict[str, Any]], header: Header = HEADER) -> Path:
    with ShardWriter(folder, header) as writer:
        for rows in shards:
            for r in rows:
                writer.add(r)
            writer.flush()
    return folder


def figures(folder: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["inspect", str(folder), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_figures_are_those_of_the_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        row("a", [[0, 0, 1, 1], [5, 5, 5, 5]], speaker="x", pitch={"median": 1.5}),
        row("b", [[2, 2, 3, 3], [5, 5, 5, 5]], speaker="y"),
        row("c", [[0, 1, 2, 3] * 6, [5] * 24], speaker="y", surprise=[1, "two"]),
    ]
    found = figures(write(tmp_path, rows[:2], rows[2:]), capsys)
    assert (found["codec"], found["books"], found["kbps"]) == ("tiny", 2, 0.15)
    assert (found["rows"], found["shards"], found["frames"]) == (3, 2, 32)
    assert found["hours"] == pytest.approx(32 / 25 / 3600)
    assert found["codebooks"] == [
        {"used": 0.5, "entropy": 2.0, "perplexity": 4.0, "most_frequent": 0.25},
        {"used": 0.125, "entropy": 0.0, "perplexity": 1.0, "most_frequent": 1.0},
    ]
    assert found["entropy_kbps"] == 0.05
    assert list(found["speakers"]) == ["y", "x"]
    assert found["speakers"]["y"] == {"clips": 2, "seconds": pytest.approx(28 / 25)}
    assert found["duration_quantiles"]["0.5"] == pytest.approx(0.16)
    assert found["columns"]["speaker"] == "string"
    assert found["problems"] == []


def test_counts_do_not_depend_on_how_many_rows_are_counted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    rows = [row(str(i), rng.integers(0, 8, (2, 1 + i % 9))) for i in range(50)]
    folder = write(tmp_path, rows[:20], rows[20:])
    want = np.stack([np.bincount(np.concatenate([r["codes"][book] for r in rows]), minlength=8) for book in range(2)])
    assert np.array_equal(gather(folder).counts, want)
    monkeypatch.setattr("solfa.tokenizers.datasets.shards.token_statistics.COUNT_AT_ONCE", 30)
    assert np.array_equal(gather(folder).counts, want)


def test_damage_is_told_and_the_rest_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = row("good", [[1, 2], [3, 4]])
    folder = write(tmp_path / "tokens", [good], [row("torn", [[1], [1]])], [row("more", [[0], [0]])])
    torn = find_shards(folder)[1]
    torn.write_bytes(torn.read_bytes()[:-100])
    other = write(tmp_path / "other", [row("other", [[1], [1]])], header=Header("else", "f" * 16, 24_000, 25.0, 2, 8))
    mixed = find_shards(other)[0].rename(torn.parent / "tokens-00007.parquet")
    found = figures(folder, capsys, code=1)
    assert (found["rows"], found["frames"], found["shards"]) == (2, 3, 4)
    assert found["problems"][0] == f"token shard {torn} is damaged"
    assert found["problems"][1].startswith(f"{mixed} holds tokens of codec else")
    assert run(["inspect", str(folder)]) == 1
    assert "left out: token shard" in capsys.readouterr().out
    for shard in find_shards(folder):
        shard.write_bytes(b"PAR1")
    assert run(["inspect", str(folder)]) == 2
    assert run(["inspect", str(tmp_path)]) == 2
    assert "holds no token shards" in capsys.readouterr().err


def test_tables_show_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, [row("a[b]", [[0, 1], [5, 5]], speaker="[red]x", text="As it [is]")])
    assert run(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for words in ("a[b]", "[red]x", "As it [is]", "1.000 bits", "33.3%", "2 books x 2 frames: 0 1 | 5 5", "0.15 kbps"):
        assert words in out, words
    assert run(["inspect", str(tmp_path), "--row", "a[b]"]) == 0
    assert "As it [is]" in capsys.readouterr().out


def test_a_row_comes_by_id_or_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(name, [[i], [i]]) for i, name in enumerate(["x", "y", "0", "z"])]
    folder = write(tmp_path, rows[:2], rows[2:])
    for wanted, name in (("y", "y"), ("1", "y"), ("3", "z"), ("0", "0")):  # an id goes first
        assert run(["inspect", str(folder), "--row", wanted, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["id"] == name
    assert run(["inspect", str(folder), "--row", "4"]) == 2
    assert "has no row '4': give an id, or a number from 0 to 3" in capsys.readouterr().err


def test_a_row_is_decoded_as_reconstruct_does(
    tmp_path: Path, tiny_codec: AudioTokenizer, tiny_codec_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = np.random.default_rng(0).integers(0, 32, (4, 20))
    folder = write(tmp_path / "tokens", [row("a", codes)], header=header_of(tiny_codec, 4))
    codec = ["--books", "2", "--codec", str(tiny_codec_folder)]
    assert run(["inspect", str(folder), "--row", "a", "-o", str(tmp_path / "a.wav"), *codec]) == 0
    assert run(["reconstruct", str(folder), "-o", str(tmp_path / "back"), *codec]) == 0
    assert soundfile.info(tmp_path / "a.wav").frames == 20 * 960
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "back" / "a.wav").read_bytes()
    foreign = write(tmp_path / "foreign", [row("a", [[0], [1]])])
    assert run(["inspect", str(foreign), "--row", "a", "-o", str(tmp_path / "b.wav"), *codec]) == 2
    assert "which this codec" in capsys.readouterr().err


@pytest.mark.parametrize("speakers", [0, 3, 40])
def test_the_picture_is_drawn(tmp_path: Path, speakers: int) -> None:
    rng = np.random.default_rng(0)
    rows = [
        row(str(i), rng.integers(0, 8, (2, 5 + i)), **({"speaker": f"$s_{i % speakers}"} if speakers else {}))
        for i in range(50)
    ]
    folder = write(tmp_path / "tokens", rows)
    assert run(["inspect", str(folder), "--plot", str(tmp_path / "made" / "plot.png")]) == 0
    assert (tmp_path / "made" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_impossible_wishes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path, [row("a", [[0], [1]])])
    for words, told in (
        (["--play"], "name it by --row"),
        (["--plot", "a.jpg"], "should end in .png"),
        (["--row", "a", "--plot", "a.png"], "leave out --row"),
        (["--row", "a", "-o", "a.mp3"], "should end in .wav"),
    ):
        assert run(["inspect", str(folder), *words]) == 2
        assert told in capsys.readouterr().err


def test_json_is_standard_where_a_number_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "tokens", [row("a", [[1], [2]], score=float("nan")), row("b", [[1], [2]], score=0.5)])
    capsys.readouterr()
    assert run(["inspect", str(folder), "--row", "a", "--json"]) == 0
    printed = capsys.readouterr().out
    assert "NaN" not in printed
    assert json.loads(printed)["score"] is None


def test_playing_without_portaudio_is_one_sentence(
    tmp_path: Path,
    tiny_codec: AudioTokenizer,
    tiny_codec_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    codes = np.random.default_rng(0).integers(0, 32, (4, 5))
    folder = write(tmp_path / "tokens", [row("a", codes)], header=header_of(tiny_codec, 4))
    assert run(["inspect", str(folder), "--row", "0", "--play", "--codec", str(tiny_codec_folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install sounddevice" in error and "libportaudio2" in error
