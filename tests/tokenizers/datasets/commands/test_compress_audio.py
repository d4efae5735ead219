"""`solfa compress` and the way back: every file's real size, exact lengths, and one sentence for what cannot be done."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from solfa.cli import run
from solfa.tokenizers.audio.container import sfa as container
from solfa.tokenizers.audio.container.sfa import read_sfa
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.commands.output_journal import JOURNAL

SOURCES = {"a.wav": (8_000, 3_001), "deep/b.flac": (44_100, 20_011), "deep/c d.ogg": (48_000, 30_000)}  # rate, samples
LINE = re.compile(r" *([\d.]+) s +(\d+) bytes +([\d.]+) kbps \(raw ([\d.]+)\)  (.*)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, (rate, samples) in SOURCES.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(samples), rate)
    return tmp_path / "source"


@pytest.fixture
def codec(tiny_codec_folder: Path) -> list[str]:
    return ["--codec", str(tiny_codec_folder)]


def test_there_and_back(folder: Path, codec: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through .sfa files comes what comes straight through the codec, in name, length and sample."""
    assert run(["compress", str(folder), "-o", str(tmp_path / "small"), *codec]) == 0
    shown = [line.groups() for line in map(LINE.fullmatch, capsys.readouterr().out.splitlines()) if line]
    files = sorted((tmp_path / "small").rglob("*.sfa"))
    assert [str(p.relative_to(tmp_path / "small")) for p in files] == [
        str(Path(n).with_suffix(".sfa")) for n in sorted(SOURCES)
    ]
    sizes = {str(path): path.stat().st_size for path in files}
    assert {path: int(size) for _, size, _, _, path in shown} == {**sizes, "all": sum(sizes.values())}
    for seconds, size, kbps, raw, _ in shown:
        assert float(kbps) == pytest.approx(8 * int(size) / float(seconds) / 1000, rel=0.05)
        assert raw == "0.50"  # 4 books of 5 bits at 25 Hz
    assert run(["reconstruct", str(tmp_path / "small"), "-o", str(tmp_path / "back"), *codec]) == 0
    assert run(["reconstruct", str(folder), "-o", str(tmp_path / "straight"), *codec]) == 0
    for name, (rate, samples) in SOURCES.items():
        back = (tmp_path / "back" / name).with_suffix(".wav")
        assert soundfile.info(back).frames == round(samples * 24_000 / rate)
        assert back.read_bytes() == (tmp_path / "straight" / name).with_suffix(".wav").read_bytes()


def test_one_file_and_fewer_books(
    folder: Path, codec: list[str], tiny_codec: AudioTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, back = tmp_path / "one.sfa", tmp_path / "one.wav"
    assert run(["compress", str(folder / "a.wav"), "-o", str(small), "--books", "3", *codec]) == 0
    codes, samples, sample_rate = read_sfa(small, tiny_codec)
    assert (len(codes), samples, sample_rate) == (3, 3_001, 8_000)
    assert run(["reconstruct", str(small), "-o", str(back), "--books", "2", *codec]) == 0
    assert soundfile.info(back).frames == 3 * 3_001
    assert run(["reconstruct", str(small), "-o", str(tmp_path / "many.wav"), "--books", "4", *codec]) == 2
    assert "holds 3 books, so 4 cannot be read" in capsys.readouterr().err


def test_several_sources_go_to_one_folder(
    folder: Path, codec: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compress", str(folder / "a.wav"), str(folder / "deep")]
    assert run([*words, "-o", str(tmp_path / "small"), *codec]) == 0
    names = sorted(path.name for path in (tmp_path / "small").iterdir())
    assert names == [JOURNAL, "a.sfa", "b.sfa", "c d.sfa"]
    assert run([*words, "-o", str(tmp_path / "one.sfa"), *codec]) == 2
    assert "holds 3 clips, so the output should be a folder" in capsys.readouterr().err
    shutil.copy(folder / "a.wav", folder / "deep")
    assert run([*words, "-o", str(tmp_path / "again"), *codec]) == 2
    assert "would both become" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_what_is_there_stays_and_a_run_continues(
    folder: Path, codec: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compress", str(folder), "-o", str(tmp_path / "small"), *codec]
    assert run(words) == 0
    (tmp_path / "small" / "a.sfa").write_bytes(b"mine")
    (tmp_path / "small" / "deep" / "b.sfa").unlink()
    capsys.readouterr()
    assert run(words) == 0
    assert "1 clips" in (out := capsys.readouterr().out) and "2 were there already" in out
    assert (tmp_path / "small" / "a.sfa").read_bytes() == b"mine"
    assert run([*words, "--overwrite"]) == 0
    assert (tmp_path / "small" / "a.sfa").read_bytes()[:3] == b"SFA"


def test_bad_recordings_are_told_and_the_rest_is_done(
    folder: Path, codec: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bad.wav").write_bytes(b"")
    monkeypatch.setattr(container, "MAX_SECONDS", 0.6)  # deep/c d.ogg has 0.625
    assert run(["compress", str(folder), "-o", str(tmp_path / "small"), *codec]) == 1
    out = capsys.readouterr().out
    assert "bad.wav is empty" in out
    assert "c d.ogg: 30000 samples" in out
    assert sorted(path.name for path in (tmp_path / "small").rglob("*.sfa")) == ["a.sfa", "b.sfa"]
    assert run(["compress", str(folder / "bad.wav"), "-o", str(tmp_path / "bad.sfa"), *codec]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run(["compress", str(folder), "-o", str(tmp_path / "small"), "--books", "9", *codec]) == 2
    assert run(["compress", str(tmp_path / "nowhere"), "-o", str(tmp_path / "small"), *codec]) == 2


def test_bad_files_are_told_and_the_rest_is_reconstructed(
    folder: Path, codec: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small"
    assert run(["compress", str(folder), "-o", str(small), *codec]) == 0
    data = (small / "a.sfa").read_bytes()
    (small / "cut.sfa").write_bytes(data[:-1])
    (small / "notes.sfa").write_text("Buy milk.")
    capsys.readouterr()
    assert run(["reconstruct", str(small), "-o", str(tmp_path / "back"), *codec]) == 1
    out = capsys.readouterr().out
    assert "cut.sfa is damaged or incomplete" in out
    assert "notes.sfa is not an .sfa file" in out
    assert len(list((tmp_path / "back").rglob("*.wav"))) == 3
    assert run(["reconstruct", str(small / "cut.sfa"), "-o", str(tmp_path / "cut.wav"), *codec]) == 2
    assert run(["reconstruct", str(small), "-o", str(tmp_path / "one.wav"), *codec]) == 2
    assert run(["reconstruct", str(small / "gone.sfa"), "-o", str(tmp_path / "gone.wav"), *codec]) == 2
    assert run(["reconstruct", str(small / "a.sfa"), "-o", str(tmp_path / "other.wav")]) == 2
    err = capsys.readouterr().err
    assert "holds codes of codec 'tiny', not 'codec-24khz'" in err
    assert not list(tmp_path.glob("*.wav"))
