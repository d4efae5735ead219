"""`solfa demo`: a page with two tabs.  Speak: text, style and voice -> speech.  Reconstruct: audio through any number of books.

It uses solfa by its public names; the handlers below take the models first and return what the page shows.
"""

import dataclasses
import html
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple, cast

import gradio as gr
import numpy as np
import torch
import typer
from matplotlib.figure import Figure

from solfa import TTS, AudioTokenizer, UserError
from solfa.demos.pictures import code_map, comparison, spectrogram
from solfa.tokenizers.audio.audio_file import AudioReader
from solfa.tokenizers.audio.codec import Codec
from solfa.tts.synthesizer import SPEAKING, check_seed

MAX_CHARS = 1000
MAX_SECONDS = 60.0  # of an upload that are decoded
MAX_UPLOAD = 50 * 2**20  # bytes
FOLDERS = re.compile(r"(?<![^\s'\"(])(?:[A-Za-z]:)?[\\/](?:[^\\/\s'\"]+[\\/])+")  # those of a path in a sentence
BY_STYLE = "as the style describes"
TEXT = "It's snowing! The whole street has gone white, and nobody has walked on it yet."
STYLES = (
    "a cheerful young woman, speaking fast",
    "an old man, tired, almost whispering",
    "calm, low and slow, with long pauses",
    "loud and bright, like a market crier",
    "a child telling a secret",
    "flat and bored",
)
THEME = gr.themes.Soft(primary_hue="teal", secondary_hue="teal", neutral_hue="slate")
CSS = """
.gradio-container { width: 100%; max-width: 1080px !important; margin: 0 auto !important; }
.facts p { font-size: 1.02em; margin: 0; }
.bottom { align-items: flex-end; }
"""

Sound = tuple[int, np.ndarray]  # rate, int16 (n,): floats would be brought to full scale by the page, and loudness lost


class Recording(NamedTuple):
    """The state of the Reconstruct tab between two moves of its slider."""

    samples: np.ndarray  # (n,) at the codec's rate
    codes: np.ndarray  # (books, frames)
    speed: float  # seconds of audio encoded in a second


def speak(
    tts: TTS,
    text: str,
    style: str,
    voice: str,
    seed: float,
    temperature: float,
    liveliness: float,
    progress: gr.Progress,
) -> tuple[Sound, str, list[list[str]], Figure]:
    """-> (sound, facts in Markdown, rows of (word, start, end), spectrogram)."""
    with sentences_for_the_user():
        if len(text) > MAX_CHARS:
            raise UserError(f"the text has {len(text):,} characters; the demo speaks up to {MAX_CHARS:,} at a time")
        began = time.perf_counter()
        progress(0.0, desc="planning")
        pieces = tts.stream(
            text,
            style,
            None if voice == BY_STYLE else voice,
            whole_seed(seed),
            dataclasses.replace(SPEAKING, temperature=temperature),
            liveliness,
        )
        speech = next(pieces)
        for piece in pieces:
            progress(
                min(0.95, len(" ".join(w.word for w in speech.words)) / len(text)),
                desc=f"{speech.duration:.0f} s spoken",
            )
            speech = speech + piece
        took = time.perf_counter() - began
    for warning in speech.warnings:
        gr.Info(html.escape(warning))
    facts = (
        f"**{speech.duration:.1f} s** in voice **{speech.voice}**, made in {took:.1f} s (real-time factor **{took / speech.duration:.2f}**)  ·  "
        f"style understood as **{speech.style}**"
    )
    rows = [[w.word, f"{w.start:.2f}", f"{w.end:.2f}"] for w in speech.words]
    return (
        (speech.sample_rate, pcm(speech.samples)),
        facts,
        rows,
        spectrogram(speech.samples, speech.sample_rate, speech.words),
    )


def whole_seed(value: float | None) -> int:
    """The seed field's value; an empty field is 0.  Raises: UserError for one that is no whole number or out of range."""
    seed = 0 if value is None else int(value) if float(value).is_integer() else value
    return check_seed(cast(int, seed))


def read_recording(codec: Codec, path: str | None) -> Recording | None:
    """Read and encode an upload; of a long one only the first `MAX_SECONDS` are decoded."""
    if path is None:
        return None
    with sentences_for_the_user(path):
        size = Path(path).stat().st_size
        if size > MAX_UPLOAD:
            raise UserError(f"the file has {size / 2**20:.0f} MiB; the demo takes up to {MAX_UPLOAD / 2**20:.0f}")
        samples = read_start(path, codec.sample_rate, MAX_SECONDS)
        began = time.perf_counter()
        codes = codec.encode(torch.from_numpy(samples), codec.sample_rate)[0]
    return Recording(samples, codes.cpu().numpy(), len(samples) / codec.sample_rate / (time.perf_counter() - began))


def read_start(path: str, sample_rate: int, seconds: float) -> np.ndarray:
    """The first seconds of a file, (n,) at `sample_rate`, with a note on the page where there are more."""
    reader = AudioReader(path, sample_rate)
    longest, length, blocks = int(seconds * sample_rate), 0, []
    for block in reader:
        blocks.append(block)
        length += len(block)
        if length > longest:
            reader.close()
            gr.Info(f"Only the first {seconds:g} seconds are used.")
            break
    return np.concatenate(blocks)[:longest]


def reconstruct(
    codec: Codec, recording: Recording | None, books: float
) -> tuple[Sound | None, str, Figure | None, Figure | None]:
    """-> (sound from the first `books` books, facts in Markdown, codes, spectrograms); all empty without a recording."""
    if recording is None:
        return None, "", None, None
    k, seconds = int(books), len(recording.samples) / codec.sample_rate
    began = time.perf_counter()
    with sentences_for_the_user():
        decoded = codec.decode(torch.from_numpy(recording.codes[None, :k]))[0, : len(recording.samples)].cpu().numpy()
    speed = seconds / (time.perf_counter() - began)
    rate = codec.bitrate(k)
    facts = (
        f"**{rate / 1000:.2f} kbps** with {k} of {codec.books} books, 1/{16 * codec.sample_rate / rate:.0f} of 16-bit samples  ·  "
        f"{recording.codes[:k].size:,} codes for {seconds:.1f} s  ·  {recording.speed:.0f} and {speed:.0f} times real time to encode and decode"
    )
    pictures = (
        code_map(recording.codes, k, codec.codebook_size, codec.frame_rate),
        comparison(
            recording.samples,
            decoded,
            codec.sample_rate,
            f"{k} {'book' if k == 1 else 'books'}, {rate / 1000:.2f} kbps",
        ),
    )
    return (codec.sample_rate, pcm(decoded)), facts, *pictures


def pcm(samples: np.ndarray) -> np.ndarray:
    """(n,) float -> int16, clipped to full scale."""
    return (np.clip(samples, -1, 1) * 32767).astype(np.int16)


@contextmanager
def sentences_for_the_user(upload: str = "") -> Iterator[None]:
    """A mistake appears on the page as one sentence that stays until it is closed, without folders of this machine.

    upload: path of the file that the sentence may be about.
    """
    try:
        yield
    except (UserError, OSError) as e:
        sentence = str(e).replace(upload, Path(upload).name) if upload else str(e)
        sentence = html.escape(FOLDERS.sub("", sentence))
        raise gr.Error(sentence, duration=None, title="That did not work", print_exception=False) from e


def build(tts: TTS | None = None, codec: Codec | None = None) -> gr.Blocks:
    """The page, over the bundled models unless others are given; the codec of the Reconstruct tab defaults to that of the TTS model.

    Raises: UserError when a checkpoint is missing.
    """
    synthesizer = tts or TTS.from_pretrained()
    tokenizer = codec or synthesizer.codec
    with gr.Blocks(title="solfa", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(
            "# solfa\nSpeech from a sentence and a style in plain words, and the audio tokenizer that it is made of."
        )
        with gr.Tabs() as tabs:
            with gr.Tab("Speak"):
                spoken, onward = speak_tab(synthesizer)
            with gr.Tab("Reconstruct", id="reconstruct"):
                original = reconstruct_tab(tokenizer)
        onward.click(
            lambda sound: (sound, gr.Tabs(selected="reconstruct")), spoken, [original, tabs], api_visibility="private"
        )
    return page


def speak_tab(tts: TTS) -> tuple[gr.Audio, gr.Button]:
    """-> (the speech, the button that sends it to the other tab)."""

    def run(
        text: str,
        style: str,
        voice: str,
        seed: float,
        temperature: float,
        liveliness: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Sound, str, list[list[str]], Figure]:
        return speak(tts, text, style, voice, seed, temperature, liveliness, progress)

    with gr.Row():
        with gr.Column(scale=3):
            text = gr.Textbox(TEXT, label="Text", lines=3, max_length=MAX_CHARS, autofocus=True)
            style = gr.Textbox(STYLES[0], label="Style", info="Who speaks and how, in your own words.", max_length=300)
            gr.Examples([[s] for s in STYLES], style, label="Styles to try")
        with gr.Column(scale=2):
            voice = gr.Dropdown([BY_STYLE, *(v.name for v in tts.voices)], value=BY_STYLE, label="Voice")
            with gr.Row(elem_classes="bottom"):
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, min_width=120)
                another = gr.Button("Another", size="md", min_width=100)
            temperature = gr.Slider(
                0, 1.2, SPEAKING.temperature, step=0.05, label="Temperature", info="Chance in the sound."
            )
            liveliness = gr.Slider(0, 1, 0.5, step=0.05, label="Liveliness", info="Chance in the melody and timing.")
    go = gr.Button("Speak", variant="primary")
    spoken = gr.Audio(label="Speech", autoplay=True, interactive=False, buttons=["download"])
    facts = gr.Markdown(elem_classes="facts")
    picture = gr.Plot(label="Spectrogram", show_label=False)
    with gr.Accordion("Word timestamps", open=False):
        words = gr.Dataframe(
            headers=["word", "start (s)", "end (s)"], datatype="str", interactive=False, max_height=260
        )
    onward = gr.Button("Send this speech to Reconstruct", size="sm")

    gr.on(
        [go.click, text.submit, style.submit], run, [text, style, voice, seed, temperature, liveliness], [spoken, facts, words, picture],
        concurrency_id="model", concurrency_limit=1, api_name="speak",
    )  # fmt: skip
    another.click(lambda: random.randrange(2**31), None, seed, api_visibility="private")
    return spoken, onward


def reconstruct_tab(codec: Codec) -> gr.Audio:
    """-> the original recording."""
    with gr.Row():
        original = gr.Audio(label=f"Original (up to {MAX_SECONDS:.0f} s)", type="filepath", buttons=["download"])
        decoded = gr.Audio(label="Reconstruction", interactive=False, buttons=["download"])
    books = gr.Slider(  # out of sight where there is nothing to choose; gradio wants a range all the same
        1, max(2, codec.books), codec.lm_books, step=1, label="Books", info=f"Each adds {codec.bitrate(1):.0f} bits per second.",
        visible=codec.books > 1,
    )  # fmt: skip
    facts = gr.Markdown(elem_classes="facts")
    codes = gr.Plot(label="Codes", show_label=False)
    pictures = gr.Plot(label="Spectrograms", show_label=False)
    recording = gr.State()

    shown = [decoded, facts, codes, pictures]
    again = partial(reconstruct, codec)
    original.change(
        partial(read_recording, codec),
        original,
        recording,
        concurrency_id="model",
        concurrency_limit=1,
        api_visibility="private",
    ).then(again, [recording, books], shown, concurrency_id="model", api_visibility="private")
    books.release(again, [recording, books], shown, concurrency_id="model", api_visibility="private")
    return original


def demo(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets the whole network in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    share: Annotated[bool, typer.Option("--share", help="Also make a public link, through Gradio's servers.")] = False,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
    checkpoint: Annotated[
        str | None, typer.Option(help="TTS checkpoint: a bundled name, a folder, or hf:owner/name.")
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="Audio tokenizer to reconstruct with; default: that of the TTS model.")
    ] = None,
) -> None:
    """Serve a page to speak with and to listen to the audio tokenizer, on this machine only unless told otherwise.

    Example: solfa demo --port 8000
    """
    page = build(TTS.from_pretrained(checkpoint), AudioTokenizer.from_pretrained(codec) if codec else None)
    try:
        page.launch(
            server_name=host, server_port=port, share=share, inbrowser=browser, theme=THEME, css=CSS, max_file_size=MAX_UPLOAD,
            footer_links=[],
        )  # fmt: skip
    except OSError:
        raise UserError(f"port {port} of {host} cannot be opened; give another one with --port") from None
