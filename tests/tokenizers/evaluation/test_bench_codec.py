"""`solfa bench codec` on tiny codecs: every row, positive figures, the published sizes.  Nothing here is timed."""

import csv
from pathlib import Path

import pytest
import torch

from solfa import UserError
from solfa.tokenizers.audio.third_party import transformers_codecs as foreign
from solfa.tokenizers.evaluation import bench_codec as bench
from solfa.tokenizers.evaluation.bench_codec import OTHERS, Contestant, Figures, race, table

pytest.importorskip("transformers")

TINY_ENCODEC = Contestant("small one", "encodec", {"num_filters": 4, "hidden_size": 8}, books=2)


def test_a_row_for_each_codec(
    tiny_codec_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "OURS", Contestant(str(tiny_codec_folder)))
    monkeypatch.setattr(bench, "OTHERS", (TINY_ENCODEC,))
    bench.bench(seconds=0.5, repeats=1, threads=1, device="cpu", out=tmp_path / "figures.csv")
    printed = capsys.readouterr().out
    assert "cpu, 1 thread, 0.5 s of sound, median of 1" in printed
    assert "tiny" in printed
    assert "small one" in printed
    with (tmp_path / "figures.csv").open(newline="") as file:
        ours, other = csv.DictReader(file)
    assert (ours["codec"], ours["device"], ours["books"]) == ("tiny", "cpu", "2")
    assert (other["codec"], other["books"], other["kbps"]) == ("small one", "2", "1.5")
    for row in (ours, other):
        assert all(float(row[name]) > 0 for name in ("kbps", "parameters", "encode", "decode", "memory"))


def test_a_codec_that_breaks_down() -> None:
    with pytest.raises(UserError, match="broke down on cpu"):
        race([Contestant("/no/such/folder")], torch.device("cpu"), 0.1, 1, 1)


def test_ratios_are_ours_over_theirs() -> None:
    ours, other = (
        Figures(name, "cpu", 8, 2.0, 10**6, encode, decode, 2**20)
        for name, encode, decode in (("a", 60, 30), ("b", 4, 20))
    )
    cells = [list(column.cells) for column in table([ours, other], "title").columns]
    assert cells[5] == ["(1.0 x)", "(15.0 x)"]
    assert cells[7] == ["(1.0 x)", "(1.5 x)"]


@pytest.mark.parametrize(
    ("contestant", "millions", "kbps", "rate"),
    list(zip(OTHERS, (79.3, 14.9, 74.7), (1.1, 6.0, 24.0), (12.5, 75.0, 75.0), strict=True)),
    ids=[str(other.name) for other in OTHERS],
)
def test_published_sizes(contestant: Contestant, millions: float, kbps: float, rate: float) -> None:
    assert contestant.kind is not None
    with torch.device("meta"):
        codec = foreign.untrained(contestant.kind, **contestant.config)
    assert sum(p.numel() for p in codec.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert codec.bitrate(contestant.books) == pytest.approx(1000 * kbps)
    assert (codec.sample_rate, codec.frame_rate) == (24_000, rate)
