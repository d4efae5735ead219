"""The dataset card: a README.md beside the tokens that the Hub, `datasets` and people can read.

Written from the finished files alone, so it can be written again at any time.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from solfa.core.atomic import write_bytes
from solfa.tokenizers.datasets.shards.folder_locks import FolderLock
from solfa.tokenizers.datasets.shards.shard_formats import EXTRA, FORMATS, MERGING, Header, is_json

MARK = "<!-- written by solfa tokenize: remove this line to keep your own text -->"
LANGUAGES = ("language", "lang")  # columns that may name it
SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
)
MEANINGS = {
    "id": "name of the clip, unique in the folder: its path below the corpus without the suffix, or the manifest's `id`",
    "audio": "where the source was",
    "duration": "seconds",
    "samples": "length of the source, at its own rate",
    "sample_rate": "of the source, Hz",
    "speaker": "as in the manifest",
    "text": "as in the manifest",
    "frames": "length of each book's list",
    "source_stamp": "digests of the source's place, metadata and content, with its size and time: whether it has changed since",
    EXTRA: "JSON object: what came with the row and fits no column of the first shard",
}


def write_card(folder: Path, header: Header, source: str, command: str, format: str = "parquet") -> None:
    """Write or renew `README.md` in a folder of tokens; one that solfa did not write is left alone.

    Args:
        source: what was tokenized, as the user named it.
        command: the command line that did it.

    Raises: UserError for a damaged shard, or when it cannot be written.
    """
    path = folder / "README.md"
    with FolderLock(folder / MERGING):
        if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
            return
        write_bytes(path, card(folder, header, source, command, format).encode("utf-8", "replace"))


def card(folder: Path, header: Header, source: str, command: str, format: str = "parquet") -> str:
    """The text of the card."""
    layout = FORMATS[format](folder, header)
    files = layout.files()
    clips, seconds, frames = 0, 0.0, 0
    speakers: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    for file in files:
        for row in layout.read(file, ["duration", "frames", "speaker", *LANGUAGES])[1]:
            clips, seconds, frames = clips + 1, seconds + (row["duration"] or 0), frames + (row["frames"] or 0)
            speakers["" if row["speaker"] is None else str(row["speaker"])] += 1
            languages[next((str(row[name]) for name in LANGUAGES if row[name]), "")] += 1
    people = len(speakers.keys() - {""})
    named = [name for name, _ in languages.most_common() if name]
    rejected = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in folder.glob("rejects*.jsonl"))
    front: dict[str, Any] = {
        "pretty_name": f"{Path(source).name or source} as tokens of {header.codec}",
        "tags": ["audio", "audio-tokens", "speech", "solfa"],
        "size_categories": [next((name for most, name in SIZES if clips < most), "100M<n<1B")],
    }
    if codes := [name.lower() for name in named if re.fullmatch("[A-Za-z]{2,3}", name)]:
        front["language"] = codes
    if format != "npz":
        front["configs"] = [{"config_name": "default", "data_files": f"data/*{files[0].suffix}"}]
    facts = [
        ("Source", f"`{source}`"),
        ("Clips", f"{clips:,}" + (f" ({rejected:,} more could not be read: `rejects*.jsonl`)" if rejected else "")),
        ("Hours", f"{seconds / 3600:,.2f}"),
        ("Speakers", f"{people:,}" if people else "not named"),
        ("Languages", ", ".join(f"{name} ({languages[name]:,})" for name in named[:20]) if named else "not named"),
        ("Codec", f"`{header.codec}`, fingerprint `{header.fingerprint}`"),
        (
            "Codes",
            f"{header.books} books of up to {header.codebook_size:,} codes, {header.frame_rate:g} frames per second, {header.kbps:.4g} kbps",
        ),
        ("Sound decoded from them", f"{header.sample_rate:,} Hz"),
        ("Codes in all", f"{frames * header.books:,}, in {len(files):,} files"),
        ("Made by", f"`{command}`"),
    ]
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in facts)
    yaml_text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    name = folder.resolve().name
    return f"---\n{yaml_text}---\n\n{MARK}\n\n# {front['pretty_name']}\n\n| | |\n|---|---|\n{table}\n\n{READING[format].replace('FOLDER', name)}\n{_columns(files, header, format)}"


READING = {
    "parquet": """## Reading

```python
datasets.load_dataset("FOLDER", split="train")
pandas.read_parquet("FOLDER/data")
polars.read_parquet("FOLDER/data")
pyarrow.parquet.read_table("FOLDER/data")
solfa.tokenizers.datasets.shards.token_dataset.TokenDataset("FOLDER")  # random access, codes as int64 tensors (books, frames)
```

`solfa reconstruct FOLDER -o wavs/` makes sound of them again.
""",
    "webdataset": """## Reading

```python
datasets.load_dataset("FOLDER", split="train")
webdataset.WebDataset("FOLDER/data/tokens-00000.tar").decode()  # ["npy"]: (books, frames), ["json"]: the rest
```
""",
    "npz": """## Reading

```python
arrays = numpy.load("FOLDER/data/ID.npz")
arrays["codes"], json.loads(str(arrays["metadata"]))  # (books, frames), the rest
```
""",
}


def _columns(files: list[Path], header: Header, format: str) -> str:
    """What each column means."""
    codes = f"the codes, book-major: `codes[book][frame]`, {header.books} lists of `frames` integers from 0, one frame being 1/{header.frame_rate:g} s"
    if format == "parquet":
        columns = [
            (field.name, str(field.type).replace("element: ", ""), is_json(field)) for field in pq.read_schema(files[0])
        ]
    else:
        columns = [(name, "", False) for name in [*MEANINGS, "codes"] if name != EXTRA]
    lines = []
    for name, kind, as_json in columns:
        meaning = codes if name == "codes" else MEANINGS.get(name, "came with the row" + ", as JSON" * as_json)
        lines.append(f"| `{_cell(name)}` | {_cell(kind)} | {meaning} |")
    return "## Columns\n\n| name | type | meaning |\n|---|---|---|\n" + "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
