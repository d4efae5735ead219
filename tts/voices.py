"""`solfa voices`: who can speak."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from solfa.core import checkpoints, recipe
from solfa.tts.model import TTSConfig


def voices(
    checkpoint: Annotated[
        str | None, typer.Option(help="TTS checkpoint: a bundled name, a folder, or hf:owner/name.")
    ] = None,
) -> None:
    """List the voices of a TTS checkpoint.  Without --voice, solfa say picks the one that the style describes."""
    folder: Path = checkpoints.resolve(checkpoint, "tts")
    config = recipe.build(TTSConfig, checkpoints.read_config(folder, "tts"), str(folder / "config.json"))
    table = Table("voice", "median pitch", "about", title=f"voices of {folder.name}")
    for voice in config.voices:
        table.add_row(voice.name, f"{voice.pitch:.0f} Hz" if voice.name != "described" else "", voice.about)
    Console().print(table)
