"""`solfa say`: speak a text, into a file, to the loudspeaker, or as raw samples to standard output."""

import codecs
import dataclasses
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import typer

from solfa.core.errors import UserError
from solfa.core.output import check_output
from solfa.tokenizers.audio import play as loudspeaker
from solfa.tokenizers.audio.audio_file import check_writable
from solfa.tokenizers.text.tokenizer import TextTokenizer
from solfa.tts.synthesizer import SPEAKING, TTS, Speech, check_seed
from solfa.tts.text_pieces import split_style


def say(
    text: Annotated[str, typer.Argument(help="What to say; - reads standard input.")],
    style: Annotated[str, typer.Option("--style", "-s", help="How to say it, in plain words.")] = "",
    voice: Annotated[
        str | None, typer.Option(help="Who says it (solfa voices lists them); default: as the style describes.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File to write: .wav, .flac or .ogg.", show_default="speech.wav")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, help="Chance in the sound; 0 is greedy.")] = SPEAKING.temperature,
    liveliness: Annotated[float, typer.Option(min=0, max=1, help="Chance in the prosody.")] = 0.5,
    play: Annotated[
        bool, typer.Option("--play", help="Play each sentence as it is ready (needs the extra play).")
    ] = False,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Write raw 16-bit mono PCM to standard output as it is made."),
    ] = False,
    show_text: Annotated[
        bool, typer.Option("--show-text", help="Print what would be read, with its phones, and make no sound.")
    ] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="TTS checkpoint: a bundled name, a folder, or hf:owner/name.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda...; a seed gives other bytes on another device.")
    ] = "cpu",
) -> None:
    """Speak a text in a style described in plain words.

    With --stream or --play, standard input is spoken sentence by sentence while it arrives.

    Examples:

      solfa say "It's snowing!" --style "a cheerful young woman, speaking fast" -o snow.wav

      echo "Good night." | solfa say - --style "a calm, low voice" --voice kathleen --play
    """
    began = time.perf_counter()
    check_seed(seed)
    if show_text:
        if out is not None or play or stream:
            raise UserError("--show-text makes no sound: leave out -o, --play and --stream")
        print_reading("".join(read_stdin()) if text == "-" else text)
        return
    if play and not loudspeaker.can_play():
        raise UserError(f"--play needs sounddevice and PortAudio, which are not both there: {loudspeaker.REMEDIES}")
    path = out if out is not None else None if play or stream else Path("speech.wav")
    if path is not None:
        check_output(check_writable(path))
    words: str | Iterator[str] = text
    if text == "-":
        words = read_stdin() if play or stream else "".join(read_stdin())
    tts = TTS.from_pretrained(checkpoint, device=device)
    loaded = time.perf_counter()
    sampling = dataclasses.replace(SPEAKING, temperature=temperature)
    pieces = tts.stream(words, style, voice, seed, sampling, liveliness)
    speech = deliver(pieces, stream, play)
    if path is not None:
        speech.save(path)
    took, loading = time.perf_counter() - loaded, loaded - began
    for warning in speech.warnings:
        print(f"note: {warning}", file=sys.stderr)
    print(
        f"{path or 'spoken'}: {speech.duration:.1f} s in voice {speech.voice} ({speech.style}), made in {took:.1f} s "
        f"+ {loading:.1f} s loading, real-time factor {took / speech.duration:.2f} "
        f"({(took + loading) / speech.duration:.2f} with loading)",
        file=sys.stderr,
    )


def deliver(pieces: Iterator[Speech], stream: bool, play: bool) -> Speech:
    """All pieces joined; each is first written to standard output as 16-bit samples, or played, as it comes."""
    whole: Speech | None = None
    for piece in pieces:
        if stream:
            sys.stdout.buffer.write((np.clip(piece.samples, -1, 1) * 32767).astype("<i2").tobytes())
            sys.stdout.buffer.flush()
        if play:
            loudspeaker.play(piece.samples, piece.sample_rate)
        whole = piece if whole is None else whole + piece
    assert whole is not None
    return whole


def print_reading(text: str) -> None:
    """Print, sentence by sentence, the words that are read for a text and their phones.  Raises: UserError as `TTS.say`."""
    for sentence in TextTokenizer.from_pretrained().explain(split_style(text)[1]):
        print(sentence)


def read_stdin() -> Iterator[str]:
    """Standard input as text, each piece as soon as it arrives.  Raises: UserError when it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while data := cast(io.BufferedReader, sys.stdin.buffer).read1(4096):
            yield decoder.decode(data)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise UserError("standard input is not text in UTF-8") from None
