"""`solfa bench codec` on tiny codecs: every row, positive figures, the published sizes.  Nothing here is timed."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from solfa.cli import run
from solfa.core.errors import UserError
from solfa.tokenizers.audio.third_party.transformers_codecs import untrained
from solfa.tokenizers.evaluation.bench_codec import OTHERS, BenchedCodec, Figures, bench, measure, table


def test_a_row_for_each_codec(
    tiny_codec_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_codec_folder, tmp_path / "second")
    monkeypatch.setattr("solfa.tokenizers.evaluation.bench_codec.OURS", BenchedCodec(str(tiny_codec_folder)))
    monkeypatch.setattr(
        "solfa.tokenizers.evaluation.bench_codec.OTHERS", (BenchedCodec(str(tmp_path / "second"), books=4),)
    )
    monkeypatch.setattr("solfa.tokenizers.evaluation.bench_codec.find_spec", lambda name: True)
    bench(seconds=0.5, repeats=1, threads=1, device="cpu", out=tmp_path / "figures.csv")
    printed = capsys.readouterr().out
    assert "cpu, 1 thread, 0.5 s of sound, median of 1" in printed
    assert "tiny" in printed
    assert "second" in printed
    with (tmp_path / "figures.csv").open(newline="") as file:
        ours, other = csv.DictReader(file)
    assert (ours["codec"], ours["device"], ours["books"], ours["kbps"]) == ("tiny", "cpu", "2", "0.25")
    assert (other["codec"], other["books"], other["kbps"]) == ("second", "4", "0.5")
    for row in (ours, other):
        assert all(float(row[name]) > 0 for name in ("kbps", "parameters", "encode", "decode", "memory"))


def test_an_untrained_codec_is_built_by_its_kind() -> None:
    pytest.importorskip("transformers")
    codec = BenchedCodec("small one", "encodec", {"num_filters": 4, "hidden_size": 8}).build()
    assert (codec.name, codec.bitrate(2)) == ("small one", 1500)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seconds", "nan"], "--seconds nan should lie in 0.1..600"),
        (["--seconds", "0"], "--seconds 0 should lie in 0.1..600"),
        (["--seconds", "1e9"], "should lie in 0.1..600"),
        (["--threads", "0"], "--threads"),
        (["--threads", "-1"], "--threads"),
        (["--repeats", "0"], "--repeats"),
        (["--device", "tpu"], "device 'tpu' is not available"),
        (["-o", "."], "is a folder"),
        (["-o", "/dev/null/figures.csv"], "cannot be written"),
    ],
)
def test_mistakes_are_one_sentence_before_any_work(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "codec", *words]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_a_codec_that_breaks_down() -> None:
    with pytest.raises(UserError, match="failed on cpu"):
        measure([BenchedCodec("/no/such/folder")], torch.device("cpu"), 0.1, 1, 1)


def test_ratios_are_ours_over_theirs() -> None:
    ours, other = (
        Figures(name, "cpu", 8, 2.0, 10**6, encode, decode, 2**20)
        for name, encode, decode in (("a", 60, 30), ("b", 4, 20))
    )
    cells = [list(column.cells) for column in table([ours, other], "title").columns]
    assert cells[5] == ["(1.0 x)", "(15.0 x)"]
    assert cells[7] == ["(1.0 x)", "(1.5 x)"]


@pytest.mark.parametrize(
    ("benched", "millions", "kbps", "rate"),
    list(zip(OTHERS, (79.3, 14.9, 74.7), (1.1, 6.0, 24.0), (12.5, 75.0, 75.0), strict=True)),
    ids=[str(other.name) for other in OTHERS],
)
def test_published_sizes(benched: BenchedCodec, millions: float, kbps: float, rate: float) -> None:
    pytest.importorskip("transformers")
    assert benched.kind is not None
    with torch.device("meta"):
        codec = untrained(benched.kind, **benched.config)
    assert sum(p.numel() for p in codec.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert codec.bitrate(benched.books) == pytest.approx(1000 * kbps)
    assert (codec.sample_rate, codec.frame_rate) == (24_000, rate)
