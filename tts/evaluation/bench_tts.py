"""`solfa bench tts`: how fast speech is made on this machine, and which part of the model takes the time.

Texts of three lengths are spoken in turns, so that whatever else the machine does slows all of them alike.
"""

import time
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from solfa.core.progress import track
from solfa.omni.generation.sampling import SamplingConfig
from solfa.tokenizers.text.tokenizer import Phones
from solfa.tts.evaluation.evaluate_tts import heldout_sentences
from solfa.tts.model import Voice
from solfa.tts.style.style_encoder import Style
from solfa.tts.synthesizer import TTS, Plan

PARTS = ("text and style", "planner", "decoder", "patch decoder", "codec")  # the decoder with the patch encoder
STYLE = "a cheerful young woman, speaking fast"


class Run(NamedTuple):
    """One text spoken: seconds of speech, seconds until the first of it could be played, seconds that each part took."""

    speech: float
    first: float
    parts: dict[str, float]

    @property
    def whole(self) -> float:
        """Seconds that all parts took together."""
        return sum(self.parts.values())


class TimedTTS(TTS):
    """A `TTS` that measures its parts: the time between two calls of `lap` belongs to one part."""

    parts: dict[str, float]
    last: float  # time of the previous call of `lap`

    def lap(self, part: str) -> None:
        """Add the seconds since the previous call to `part`."""
        now = time.perf_counter()
        self.parts[part] += now - self.last
        self.last = now

    def plan(
        self, phones: Phones, style: Style, voice: Voice, generator: torch.Generator, liveliness: float = 0.5
    ) -> Plan:
        """As in `TTS`, with the time before and in it measured."""
        self.lap("text and style")
        plan = super().plan(phones, style, voice, generator, liveliness)
        self.lap("planner")
        return plan

    def write(self, plan: Plan, sampling: SamplingConfig, generator: torch.Generator) -> Iterator[Tensor]:
        """As in `TTS`; the time of a patch that the decoder's hook did not take is the patch decoder's."""
        for patch in super().write(plan, sampling, generator):
            self.lap("patch decoder")
            yield patch

    def run(self, text: str) -> Run:
        """Speak a text and measure it."""
        self.parts, speech, first = dict.fromkeys(PARTS, 0.0), 0.0, 0.0
        with self.model.omni.decoder.register_forward_hook(lambda *_: self.lap("decoder")):
            began = self.last = time.perf_counter()
            for piece in self.stream(text, STYLE):
                self.lap("codec")
                first = first or self.last - began
                speech += piece.duration
        return Run(speech, first, self.parts)


def speed(tts: TTS, texts: dict[str, str], repeats: int) -> dict[str, Run]:
    """name -> the fastest of `repeats` runs of each text, in turns, after one to warm up."""
    timed = TimedTTS(tts.model, tts.codec, tts.text, tts.styles)
    laps = [
        {name: timed.run(text) for name, text in texts.items()} for _ in track(range(1 + repeats), "speaking in turns")
    ]
    return {name: min((lap[name] for lap in laps[1:]), key=lambda run: run.whole) for name in texts}


def speed_table(found: dict[str, Run], repeats: int) -> Table:
    """One row per text: lengths, real-time factor, first sound and parts."""
    title = f"speaking; parts in ms per second of speech (share); the fastest of {repeats} in turns"
    table = Table("text", "speech", "made in", "real-time factor", "first sound", *PARTS, title=title)
    for name, run in found.items():
        parts = (f"{1000 * seconds / run.speech:.1f} ({seconds / run.whole:.0%})" for seconds in run.parts.values())
        table.add_row(
            name,
            f"{run.speech:.1f} s",
            f"{run.whole:.2f} s",
            f"{run.whole / run.speech:.2f}",
            f"{run.first:.2f} s",
            *parts,
        )
    return table


def bench(
    repeats: Annotated[
        int, typer.Option(min=1, help="Times that each text is spoken, of which the fastest counts.")
    ] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="as torch chooses")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="TTS checkpoint: a bundled name, a folder, or hf:owner/name.", show_default="ours"),
    ] = None,
) -> None:
    """Print how fast speech is made on this machine and which part of the model takes the time.

    Example: solfa bench tts --threads 1
    """
    if threads:
        torch.set_num_threads(threads)
    began = time.perf_counter()
    tts = TTS.from_pretrained(checkpoint)
    loading = time.perf_counter() - began
    console, sentences = Console(width=max(150, Console().width)), heldout_sentences()
    texts = {"two words": "Good morning.", "a sentence": sentences[0], "five sentences": " ".join(sentences[:5])}
    console.print(speed_table(speed(tts, texts, repeats), repeats))
    count = torch.get_num_threads()
    print(f"{count} CPU {'thread' if count == 1 else 'threads'}; loading took {loading:.1f} s, which is not counted.")
    print("first sound: the first sentence, which `solfa say --stream` writes as soon as it is ready.")
