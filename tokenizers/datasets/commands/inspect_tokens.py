"""`solfa inspect`: what a folder of token shards holds, as tables, JSON or a picture; and any one row of it to show, decode or play."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from solfa.core import device as devices
from solfa.core.errors import UserError
from solfa.core.progress import clock
from solfa.tokenizers.audio.audio_file import check_writable
from solfa.tokenizers.audio.container.sfa import Recording
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.play import play as play_sound
from solfa.tokenizers.datasets.commands.decode_files import check_recording, decode_blocks, write_blocks
from solfa.tokenizers.datasets.commands.shared_options import CodecOption, DeviceOption, check_books, output_path
from solfa.tokenizers.datasets.shards.shard_by_shard import Damaged, shard_by_shard
from solfa.tokenizers.datasets.shards.token_dataset import check_row
from solfa.tokenizers.datasets.shards.token_statistics import TokenStatistics, gather

SHOWN = 10  # speakers, and problems
WIDTH = 60  # characters of an example


def inspect(
    tokens: Annotated[Path, typer.Argument(help="A folder of token shards, as solfa tokenize makes it.")],
    row: Annotated[str | None, typer.Option(help="Show one row, by its id or its number from 0.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", parser=output_path, metavar="FILE", help="Decode that row to a .wav, .flac or .ogg file.", show_default=False)] = None,
    play: Annotated[bool, typer.Option("--play", help="Decode that row and play it (needs the extra play).")] = False,
    books: Annotated[int | None, typer.Option(help="Decode the first N books.", show_default="all")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw durations, speakers and use of codes: .png, .pdf or .svg (needs the extra demo).", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    codec: CodecOption = None,
    device: DeviceOption = "auto",
) -> int:  # fmt: skip
    """Show the schema of token shards, their hours and speakers, and how each book's codes are used.

    Damaged shards and rows are listed, the rest is counted, and the exit code is 1.  Entropy is that of the codes one by one: a
    book whose entropy is far below its bits wastes some, or was trained on other sound than this.

    Examples:

        solfa inspect tokens/
        solfa inspect tokens/ --plot tokens.png
        solfa inspect tokens/ --row speaker1/utterance7 --play
        solfa inspect tokens/ --row 0 -o first.wav --books 8
    """
    if row is not None:
        if plot is not None:
            raise UserError("--plot draws all rows: leave out --row")
        return show_row(tokens, row, out, play, books, as_json, codec, device)
    if out is not None or play or books is not None:
        raise UserError("--out, --play and --books are for one row: name it by --row")
    if plot is not None:
        from solfa.tokenizers.datasets.shards.token_plot import check_picture, save_plot

        check_picture(plot)
    found = gather(tokens)
    if as_json:
        print(standard_json(as_dict(found)))
    else:
        show(found)
    if plot is not None:
        save_plot(plot, found, f"{tokens.resolve().name}: {_in_short(found)}")
    return 1 if found.problems else 0


def show(found: TokenStatistics) -> None:
    """Print tables."""
    header, console = found.header, Console(width=max(100, Console().width))
    schema = Table("column", "type", "first row", title="schema", title_justify="left")
    for column in found.columns:
        schema.add_row(*map(Text, (column.name, column.type, _shown(column.example))))
    console.print(schema)
    facts = Table(show_header=False, title="tokens", title_justify="left")
    q = found.quantiles()
    for name, value in (
        ("codec", f"{header.codec}, fingerprint {header.fingerprint}"),
        ("books", f"{header.books} of {header.codebook_size} codes at {header.frame_rate:g} Hz, {header.kbps:g} kbps"),
        ("rows", f"{found.rows:,} in {found.shards:,} shards, {found.frames:,} frames"),
        ("audio", f"{found.seconds / 3600:.2f} hours ({clock(found.seconds)})"),
        ("duration", "; ".join(f"{_quantile(k)} {v:.2f} s" for k, v in q.items())),
        ("entropy", f"{found.entropy_kbps:.3f} kbps of {header.kbps:g}"),
    ):
        facts.add_row(name, Text(value))
    console.print(facts)
    if found.speakers:
        speakers = Table(
            "speaker", "clips", "hours", "share", title=f"speakers: {len(found.speakers)}", title_justify="left"
        )
        for name, share in list(found.speakers.items())[:SHOWN]:
            speakers.add_row(
                Text(name),
                f"{share.clips:,}",
                f"{share.seconds / 3600:.3f}",
                f"{share.seconds / max(found.seconds, 1e-9):.1%}",
            )
        console.print(speakers)
    bits = np.log2(header.codebook_size)
    use = Table(
        "book", "codes used", "entropy", "of most", "perplexity", "most frequent", title="books", title_justify="left"
    )
    for book, values in enumerate(
        zip(found.used, found.entropy, found.perplexity, found.most_frequent, strict=True), 1
    ):
        used, entropy, perplexity, most = values
        use.add_row(
            str(book), f"{used:.1%}", f"{entropy:.3f} bits", f"{entropy / bits:.1%}", f"{perplexity:.0f}", f"{most:.2%}"
        )
    console.print(use)
    for problem in found.problems[:SHOWN]:
        print(f"left out: {problem}")
    if len(found.problems) > SHOWN:
        print(f"... and {len(found.problems) - SHOWN} more")


def as_dict(found: TokenStatistics) -> dict[str, Any]:
    """What `show` prints, and all of what it cuts short."""
    per_book = zip(found.used, found.entropy, found.perplexity, found.most_frequent, strict=True)
    names = ("used", "entropy", "perplexity", "most_frequent")
    return {
        **dataclasses.asdict(found.header),
        "kbps": found.header.kbps,
        "entropy_kbps": found.entropy_kbps,
        "shards": found.shards,
        "rows": found.rows,
        "frames": found.frames,
        "hours": found.seconds / 3600,
        "duration_quantiles": {str(k): v for k, v in found.quantiles().items()},
        "columns": {column.name: column.type for column in found.columns},
        "speakers": {name: dataclasses.asdict(share) for name, share in found.speakers.items()},
        "codebooks": [dict(zip(names, map(float, values), strict=True)) for values in per_book],
        "problems": found.problems,
    }


def standard_json(values: dict[str, Any]) -> str:
    """JSON that any reader takes: null where Python would write NaN."""
    return json.dumps(json.loads(json.dumps(values), parse_constant=lambda _: None), indent=2)


def show_row(
    folder: Path, wanted: str, out: Path | None, play: bool, books: int | None, as_json: bool, codec: str | None, device: str
) -> int:  # fmt: skip
    """Print one row; decode it where it is to be written or played."""
    if out is not None:
        check_writable(out)
    if out is None and not play:
        row = find_row(folder, wanted, books=books)
    else:
        model = AudioTokenizer.from_pretrained(codec).to(devices.pick(device))
        row = find_row(folder, wanted, model.fingerprint_of(check_books(model, books)), books)
        check_row(row)
        recording = Recording(row["codes"], row["samples"], row["sample_rate"])
        check_recording(model, recording)
        sound = np.concatenate(list(decode_blocks(model, recording)))
        if out is not None:
            write_blocks(out, [sound], model.sample_rate)
        if play:
            play_sound(sound, model.sample_rate)
    if as_json:
        print(standard_json({**row, "codes": row["codes"].tolist()}))
        return 0
    table = Table(show_header=False)
    for name, value in row.items():
        table.add_row(name, Text(_shown(value, cut=False)))
    Console().print(table)
    if out is not None:
        print(f"{out}: {row['samples'] / row['sample_rate']:.2f} s")
    return 0


def find_row(folder: Path, wanted: str, fingerprint: str | None = None, books: int | None = None) -> dict[str, Any]:
    """The row with that id, or else with that number among those that can be read; other arguments as `TokenDataset`'s.

    Raises: UserError when there is neither.
    """
    numbered: dict[str, Any] | None = None
    count = 0
    for part in shard_by_shard(folder, fingerprint, books):
        if isinstance(part, Damaged):
            continue
        ids = part.column("id")
        if wanted in ids:
            return part[ids.index(wanted)]
        if wanted.isdecimal() and count <= int(wanted) < count + len(ids):
            numbered = part[int(wanted) - count]
        count += len(ids)
    if numbered is None:
        raise UserError(f"{folder} has no row {wanted!r}: give an id, or a number from 0 to {count - 1}")
    return numbered


def _shown(value: Any, cut: bool = True) -> str:
    """A value in one line; codes by their shape and the first frames of each of the first books."""
    if isinstance(value, Tensor):
        books, frames = value.shape
        rows = [" ".join(map(str, book[:6].tolist())) + (" ..." if frames > 6 else "") for book in value[:2]]
        return f"{books} books x {frames} frames: " + " | ".join(rows) + (" | ..." if books > 2 else "")
    text = str(value)
    return f"{text[: WIDTH - 3]}..." if cut and len(text) > WIDTH else text


def _in_short(found: TokenStatistics) -> str:
    header = found.header
    amount = f"{found.rows:,} clips, {found.seconds / 3600:.1f} hours"
    return f"{amount}, {header.books} books of {header.codec} at {header.kbps:g} kbps"


def _quantile(q: float) -> str:
    return {0.0: "least", 0.5: "median", 1.0: "most"}.get(q, f"{100 * q:g}%")
