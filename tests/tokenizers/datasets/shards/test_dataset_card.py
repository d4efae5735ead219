"""The dataset card: front matter that the Hub reads, true counts, and nobody else's text overwritten."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from solfa.cli import run
from solfa.core.errors import UserError
from solfa.tokenizers.datasets.shards.dataset_card import MARK, card, write_card
from solfa.tokenizers.datasets.shards.shard_formats import FORMATS, Header
from solfa.tokenizers.datasets.shards.shards import ShardWriter

HEADER = Header("tiny", "0123456789abcdef", 24_000, 25.0, 8, 1024)


def tokens(folder: Path, count: int, format: str = "parquet", more: dict[str, Any] | None = None) -> Path:
    with ShardWriter(folder, HEADER, format=format) as writer:
        for i in range(count):
            own = {
                "id": f"{i}",
                "duration": 36.0,
                "frames": 900,
                "codes": np.zeros((8, 900), np.int64),
                "speaker": i % 3,
            }
            writer.add({**own, **(more or {}), "language": "en" if i % 4 else "de"})
        writer.reject("bad", "bad.wav", "it is empty")
        writer.flush()
        writer.write_manifest(complete=True)
    return folder


def parsed(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """-> (front matter, the cells of all two-column tables)."""
    _, front, body = text.split("---\n", 2)
    cells = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("| ")]
    return yaml.safe_load(front), {row[0]: row[1] for row in cells if len(row) == 2}


@pytest.mark.parametrize("format", FORMATS)
def test_says_what_is_there(tmp_path: Path, format: str) -> None:
    write_card(tokens(tmp_path, 10, format), HEADER, "corpora/radio", "solfa tokenize corpora/radio -o t", format)
    front, facts = parsed((tmp_path / "README.md").read_text())
    assert front["language"] == ["en", "de"]
    assert front["size_categories"] == ["n<1K"]
    assert front["pretty_name"] == "radio as tokens of tiny"
    assert (
        front.get("configs")
        == {
            "parquet": [{"config_name": "default", "data_files": "data/*.parquet"}],
            "webdataset": [{"config_name": "default", "data_files": "data/*.tar"}],
            "npz": None,
        }[format]
    )
    assert facts["Source"] == "`corpora/radio`"
    assert facts["Clips"] == "10 (1 more could not be read: `rejects*.jsonl`)"
    assert (facts["Hours"], facts["Speakers"], facts["Languages"]) == ("0.10", "3", "en (7), de (3)")
    assert facts["Codec"] == "`tiny`, fingerprint `0123456789abcdef`"
    assert facts["Codes"] == "8 books of up to 1,024 codes, 25 frames per second, 2 kbps"
    assert facts["Made by"] == "`solfa tokenize corpora/radio -o t`"


def test_every_column_is_told(tmp_path: Path) -> None:
    text = card(tokens(tmp_path, 2, more={"pitch": [1.5], "a|b": 1}), HEADER, "x", "y")
    for name, kind in {
        "codes": "fixed_size_list<list<int16>>[8]",
        "pitch": "list<double>",
        "a\\|b": "int64",
        "extra": "string",
    }.items():
        assert f"| `{name}` | {kind} |" in text


def test_renewed_unless_it_is_somebody_elses(tmp_path: Path) -> None:
    tokens(tmp_path, 1)
    write_card(tmp_path, HEADER, "x", "first command")
    write_card(tmp_path, HEADER, "x", "second command")
    path = tmp_path / "README.md"
    assert "second command" in path.read_text()
    path.write_text(path.read_text().replace(MARK, "My own words."))
    write_card(tmp_path, HEADER, "x", "third command")
    assert "third command" not in path.read_text()


def test_tokenize_writes_one(speech_clip: Path, tiny_codec_folder: Path, tmp_path: Path) -> None:
    assert (
        run(
            ["tokenize", str(speech_clip), "-o", str(tmp_path / "t"), "--codec", str(tiny_codec_folder), "--books", "2"]
        )
        == 0
    )
    _, facts = parsed((tmp_path / "t" / "README.md").read_text())
    assert (facts["Source"], facts["Clips"]) == (f"`{speech_clip}`", "1")
    assert facts["Codes"].startswith("2 books")
    assert facts["Made by"].startswith("`solfa")


def test_a_damaged_shard_is_told(tmp_path: Path) -> None:
    tokens(tmp_path, 1)
    (tmp_path / "data" / "tokens-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="tokens-00001.parquet is damaged"):
        write_card(tmp_path, HEADER, "x", "y")
