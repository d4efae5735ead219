"""`TTS`: text, style and voice -> speech; and the command `solfa say`."""

import dataclasses
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor

from solfa.core import checkpoints
from solfa.core.errors import UserError
from solfa.omni.generation.generate import generate_audio
from solfa.omni.generation.sampling import SamplingConfig
from solfa.omni.model.grid import Grid
from solfa.tokenizers.audio.audio_file import check_writable, write_wav
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.text.tokenizer import Phones, TextTokenizer, split_sentences
from solfa.tts.model import Conditions, TTSConfig, TTSModel, Voice, style_vector
from solfa.tts.planner import REFERENCE_PITCH, SLOTS_PER_SECOND, Prosody, unscaled
from solfa.tts.style.style_encoder import Style, StyleEncoder

KIND = "tts"
LEVEL = 1.4  # gain from the training level, -23 dB, to -20 dB RMS
LOUDNESS_DB = 6.0  # gain for one unit of the style's loudness
SPEAKING = SamplingConfig(
    temperature=0.15, top_k=50, top_p=0.9
)  # more chance in the sound costs words, see docs/decisions.md
LONG_PAUSE = 60  # slots that a [pause] tag lasts at least
TAG = re.compile(r"^\s*<style>(.*?)</style>", re.DOTALL | re.IGNORECASE)


class WordTime(NamedTuple):
    word: str
    start: float  # seconds
    end: float


@dataclass
class Speech:
    """Samples (n,) float32 at `sample_rate`, and what is known about them."""

    samples: np.ndarray
    sample_rate: int
    words: list[WordTime]
    voice: str
    style: Style
    warnings: list[str] = field(default_factory=list)

    @property
    def duration(self) -> float:  # seconds
        return len(self.samples) / self.sample_rate

    def save(self, path: str | Path) -> None:
        write_wav(path, self.samples, self.sample_rate)

    def __add__(self, other: "Speech") -> "Speech":
        later = [WordTime(w, round(a + self.duration, 3), round(b + self.duration, 3)) for w, a, b in other.words]
        samples = np.concatenate([self.samples, other.samples])
        return Speech(
            samples, self.sample_rate, self.words + later, self.voice, self.style, self.warnings + other.warnings
        )


class Plan(NamedTuple):
    """A sentence before its codes are written: its prosody (1, N), and the arguments of `generate_audio`."""

    prosody: Prosody
    prompt: Grid
    cond: Tensor  # (frames, cond_dim)
    soft: Tensor  # (T, D)


class TTS:
    """Speaks.  Holds the network, the audio tokenizer whose codes it writes, the text front end and the style encoder."""

    def __init__(self, model: TTSModel, codec: Codec, text: TextTokenizer, styles: StyleEncoder):
        self.model, self.codec, self.text, self.styles = model.eval(), codec.eval(), text, styles

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None, codec: str | Path | None = None) -> "TTS":
        """A bundled name, a folder or a hub id.  `codec` overrides the audio tokenizer that the checkpoint names.

        Raises: UserError when the audio tokenizer is not the one whose codes the model learned.
        """
        model, folder = checkpoints.restore(TTSModel, TTSConfig, name, KIND)
        config = model.config
        tokenizer = AudioTokenizer.from_pretrained(codec or config.codec)
        if tokenizer.fingerprint != config.codec_fingerprint:
            raise UserError(
                f"{folder.name} learned the codes of {config.codec} with fingerprint {config.codec_fingerprint}, "
                f"but {tokenizer.name} has {tokenizer.fingerprint}"
            )
        return cls(model, tokenizer, TextTokenizer.from_pretrained(), StyleEncoder.from_pretrained())

    @property
    def sample_rate(self) -> int:
        return self.codec.sample_rate

    @property
    def voices(self) -> tuple[Voice, ...]:
        return self.model.config.voices

    def say(
        self,
        text: str,
        style: str | Style = "",
        voice: str | None = None,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        liveliness: float = 0.5,
    ) -> Speech:
        """Speak a text of any length.

        Args:
            text: English; a leading `<style>...</style>` is an instruction and is not read, `[pause]` is a pause.
            style: an instruction in plain words ("an old man, tired, almost whispering"), or attributes.
            voice: a name from `voices`; without one the style chooses who speaks.
            seed: the same seed gives the same speech.
            sampling: how codes are drawn.
            liveliness: how far prosody may stray from its most likely course, 0..1.

        Raises: UserError for text without anything to say, a style that cannot be read, an unknown voice.
        """
        pieces = list(self.stream(text, style, voice, seed, sampling, liveliness))
        whole = pieces[0]
        for piece in pieces[1:]:
            whole = whole + piece
        return whole

    def stream(
        self,
        text: str | Iterable[str],
        style: str | Style = "",
        voice: str | None = None,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        liveliness: float = 0.5,
    ) -> Iterator[Speech]:
        """Like `say`, sentence by sentence as each is ready; `text` may be an iterator of pieces of text."""
        if not isinstance(text, str):
            text = " ".join(text)
        if tag := TAG.match(text):
            text, style = text[tag.end() :], tag[1]
        style = self.styles.encode(style) if isinstance(style, str) else style
        speaker = self.choose_voice(voice, style)
        self.text.normalize(text)  # the whole text's errors, before anything is spoken
        generator = torch.Generator().manual_seed(seed)
        return self._speak(split_sentences(text), style, speaker, generator, sampling or SPEAKING, liveliness)

    def choose_voice(self, name: str | None, style: Style) -> Voice:
        """The named voice, else the one that the style describes, else the default."""
        if name is not None:
            for v in self.voices:
                if v.name == name.strip().lower():
                    return v
            raise UserError(f"unknown voice {name!r}; there are {', '.join(v.name for v in self.voices)}")
        presets = self.voices[1:] or self.voices
        asked = style.asked or frozenset()
        if not asked & {"gender", "age"}:
            return presets[0]

        def distance(v: Voice) -> float:
            return 2 * abs(v.gender - style.gender) * ("gender" in asked) + abs(v.age - style.age) * ("age" in asked)

        return min(presets, key=distance)

    def _speak(
        self,
        sentences: list[str],
        style: Style,
        voice: Voice,
        generator: torch.Generator,
        sampling: SamplingConfig,
        liveliness: float,
    ) -> Iterator[Speech]:
        gain = LEVEL * 10 ** (LOUDNESS_DB * style.loudness / 20)
        for sentence in sentences:
            try:
                phones = self.text.phones(sentence)
            except UserError:  # a piece without words, such as "..."; the whole text has some
                continue
            plan = self.plan(phones, style, voice, generator, liveliness)
            codes = torch.cat(list(self.write(plan, sampling, generator))).T  # (books, frames)
            samples = self.codec.decode(codes[None])[0].numpy() * gain
            # Above 0.8 full scale the gain bends smoothly, so that loud speech does not clip.
            over = np.abs(samples) > 0.8
            samples[over] = np.sign(samples[over]) * (0.8 + 0.19 * np.tanh((np.abs(samples[over]) - 0.8) / 0.19))
            yield Speech(
                samples, self.sample_rate, word_times(phones, plan.prosody), voice.name, style, phones.warnings
            )

    @torch.inference_mode()
    def plan(
        self, phones: Phones, style: Style, voice: Voice, generator: torch.Generator, liveliness: float = 0.5
    ) -> Plan:
        """How long each phone of a sentence takes and how it sounds, and what the decoder is told of it."""
        model = self.model
        conditions = self.conditions(style, voice)
        ids = torch.tensor([self.text.encode(phones.symbols)])
        real = torch.ones_like(ids, dtype=torch.bool)
        prediction = model.plan(ids, conditions, real)
        prosody = self.draw(prediction.mean, prediction.log_sigma, liveliness, generator)
        for at in phones.long_pauses:
            prosody.slots[0, at] = prosody.slots[0, at].clamp_min(LONG_PAUSE)
        frames = max(1, -(-int(prosody.slots.sum()) // 4))
        cond = model.frames(prediction.context, prosody, conditions, frames)[0]
        prompt = model.prompt()
        return Plan(prosody, prompt, cond, model.soft(conditions, len(prompt.text))[0])

    @torch.inference_mode()
    def write(self, plan: Plan, sampling: SamplingConfig, generator: torch.Generator) -> Iterator[Tensor]:
        """The codes of a sentence, (frames, books) patch by patch."""
        yield from generate_audio(
            self.model.omni, plan.prompt, cond=plan.cond, soft=plan.soft, sampling=sampling, generator=generator
        )

    def conditions(self, style: Style, voice: Voice) -> Conditions:
        """What the network is told: the voice, and the style relative to its ordinary reading."""
        values = style_vector(style)
        octaves = float(np.log2(voice.pitch / REFERENCE_PITCH))
        return Conditions(
            torch.tensor([self.voices.index(voice)]),
            torch.tensor([[octaves, voice.gender, voice.age]]),
            torch.tensor([values], dtype=torch.float32),
            torch.zeros(1),
        )

    @staticmethod
    def draw(mean: Tensor, log_sigma: Tensor, liveliness: float, generator: torch.Generator) -> Prosody:
        """Sample a plan near its most likely course; the noise is smoothed over neighbouring phones."""
        noise = torch.randn(mean.shape, generator=generator)
        smooth = (noise + torch.roll(noise, 1, 1) + torch.roll(noise, -1, 1)) / 3**0.5
        return unscaled(mean + 0.6 * liveliness * log_sigma.exp() * smooth)


def word_times(phones: Phones, prosody: Prosody) -> list[WordTime]:
    """When each word is spoken: exact, because the plan decides it."""
    ends = prosody.slots[0].cumsum(0) / SLOTS_PER_SECOND
    starts = ends - prosody.slots[0] / SLOTS_PER_SECOND
    times = []
    for i, word in enumerate(phones.words):
        own = [n for n, w in enumerate(phones.word_index) if w == i]
        times.append(WordTime(word, round(float(starts[own[0]]), 3), round(float(ends[own[-1]]), 3)))
    return times


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
        bool, typer.Option("--play", help="Play each sentence as it is ready (needs solfa[play]).")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Write raw 16-bit mono PCM to standard output as it is made.")
    ] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="TTS checkpoint: a bundled name, a folder or a hub id.")
    ] = None,
) -> None:
    """Speak a text in a style described in plain words.

    Examples:

      solfa say "It's snowing!" --style "a cheerful young woman, speaking fast" -o snow.wav

      echo "Good night." | solfa say - --style "a calm, low voice" --voice kathleen --play
    """
    began = time.perf_counter()
    if text == "-":
        text = sys.stdin.read()
    path = out if out is not None else None if play or stream else Path("speech.wav")
    if path is not None:
        check_writable(path)
    tts = TTS.from_pretrained(checkpoint)
    loaded = time.perf_counter()
    sampling = dataclasses.replace(SPEAKING, temperature=temperature)
    speech: Speech | None = None
    for piece in tts.stream(text, style, voice, seed, sampling, liveliness):
        if stream:
            sys.stdout.buffer.write((np.clip(piece.samples, -1, 1) * 32767).astype("<i2").tobytes())
            sys.stdout.buffer.flush()
        if play:
            import sounddevice

            sounddevice.play(piece.samples, piece.sample_rate, blocking=True)
        speech = piece if speech is None else speech + piece
    assert speech is not None
    if path is not None:
        speech.save(path)
    took = time.perf_counter() - loaded
    for warning in speech.warnings:
        print(f"note: {warning}", file=sys.stderr)
    print(
        f"{path or 'spoken'}: {speech.duration:.1f} s in voice {speech.voice} ({speech.style}), made in {took:.1f} s + {loaded - began:.1f} s loading, "
        f"real-time factor {took / speech.duration:.2f} ({(took + loaded - began) / speech.duration:.2f} with loading)",
        file=sys.stderr,
    )
