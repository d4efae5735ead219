"""`TTS`: text, style and voice -> speech, sentence by sentence.  The command around it is `say.py`.

A sentence is spoken in three steps: the text front end gives its phones, the planner decides how long, how high and how loud
each of them is (`TTS.plan`), and the decoder writes audio codes along that plan (`TTS.write`), which the audio tokenizer
turns into sound.
"""

import dataclasses
import difflib
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from solfa.core import checkpoints, hub
from solfa.core.device import pick
from solfa.core.errors import UserError
from solfa.omni.generation.generate import generate_audio
from solfa.omni.generation.sampling import SamplingConfig
from solfa.omni.model.grid import Grid
from solfa.tokenizers.audio.audio_file import write_wav
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.text.sentences import split_sentences
from solfa.tokenizers.text.tokenizer import Phones, TextTokenizer
from solfa.tts.model import Conditions, TTSConfig, TTSModel, Voice, style_vector
from solfa.tts.planner import REFERENCE_PITCH, Prosody, unscaled
from solfa.tts.style.style_encoder import Style, StyleEncoder
from solfa.tts.text_pieces import checked, split_style, style_and_sentences
from solfa.tts.word_times import WordTime, word_times

KIND = "tts"
CARD = "README.md"
LEVEL = 1.4  # gain from the training level, -23 dB, to -20 dB RMS
LOUDNESS_DB = 6.0  # gain for one unit of the style's loudness
LINEAR, FULL = 0.8, 0.99  # samples above LINEAR are bent so that none exceeds FULL
SPEAKING = SamplingConfig(
    temperature=0.15, top_k=50, top_p=0.9
)  # more chance in the sound costs words, see docs/decisions.md
LONG_PAUSE = 60  # slots that a [pause] tag lasts at least
MAX_SEED = 2**64 - 1  # what torch.Generator takes
MAX_VOICES_LISTED = 20  # in the message about an unknown voice


@dataclass
class Speech:
    """Samples (n,) float32 at `sample_rate` Hz, the words in them, who speaks and how."""

    samples: np.ndarray
    sample_rate: int
    words: list[WordTime]
    voice: str
    style: Style
    warnings: list[str] = field(default_factory=list)

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.sample_rate

    def save(self, path: str | Path) -> None:
        """Write a .wav, .flac or .ogg file.  Raises: UserError for another ending or a place that cannot be written."""
        write_wav(path, self.samples, self.sample_rate)

    def __add__(self, other: "Speech") -> "Speech":
        """This speech, then the other."""
        shift = self.duration
        shifted = [WordTime(w, round(a + shift, 3), round(b + shift, 3)) for w, a, b in other.words]
        return dataclasses.replace(
            self,
            samples=np.concatenate([self.samples, other.samples]),
            words=self.words + shifted,
            warnings=self.warnings + other.warnings,
        )


class Plan(NamedTuple):
    """A sentence before its codes are written: its prosody (1, N) on the CPU, and arguments of `generate_audio`."""

    prosody: Prosody
    prompt: Grid
    cond: Tensor  # (frames, cond_dim)
    slot_embeds: Tensor  # (T, D)


class TTS:
    """Text to speech: the network, the audio tokenizer whose codes it writes, the text front end and the style encoder."""

    def __init__(self, model: TTSModel, codec: Codec, text: TextTokenizer, styles: StyleEncoder):
        self.model, self.codec, self.text, self.styles = model.eval(), codec.eval(), text, styles
        self.card: bytes | None = None  # README.md of the checkpoint

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        codec: str | Path | None = None,
        device: str | torch.device = "cpu",
    ) -> "TTS":
        """A bundled name, a folder, or hf:owner/name.

        Args:
            codec: replaces the audio tokenizer that the checkpoint names.
            device: where to speak: "cpu", "cuda", "auto"...  A seed gives other bytes on another device.

        Raises: UserError when the audio tokenizer is not the one whose codes the model learned, or the device is not there.
        """
        place = pick(str(device))
        model, folder = checkpoints.restore(TTSModel, TTSConfig, name, KIND)
        config = model.config
        tokenizer = AudioTokenizer.from_pretrained(codec or config.codec)
        if tokenizer.fingerprint != config.codec_fingerprint:
            raise UserError(
                f"{folder.name} learned the codes of {config.codec} with fingerprint {config.codec_fingerprint}, "
                f"but {tokenizer.name} has {tokenizer.fingerprint}"
            )
        tts = cls(model, tokenizer, TextTokenizer.from_pretrained(), StyleEncoder.from_pretrained())
        card = folder / CARD
        tts.card = card.read_bytes() if card.is_file() else None
        return tts.to(place)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the network's checkpoint, which `from_pretrained` reads, with its model card.

        The audio tokenizer is not copied: the checkpoint names it.  Raises: UserError when the folder cannot be written.
        """
        config, tensors = dataclasses.asdict(self.model.config), self.model.state_dict()
        checkpoints.save(folder, KIND, config, tensors, side_files={} if self.card is None else {CARD: self.card})

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload with solfa",
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub; -> the address of the commit.

        Args:
            repo_id: `owner/name`; made if it does not exist, and read by `from_pretrained("hf:owner/name")`.
            private: whether a new repository is; None is the owner's default.
            token: default is the one that `hf auth login` stored.

        Raises: UserError with the hub's reason, such as no token or no network.
        """
        return hub.push(self.save_pretrained, repo_id, private, token, commit_message)

    def to(self, device: str | torch.device) -> "TTS":
        """Move network, audio tokenizer and style encoder to a device.  Raises: UserError for one that is not there."""
        place = pick(str(device))
        for module in (self.model, self.codec, self.styles.net):
            module.to(place)
        return self

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.model.voice_embed.weight.device

    @property
    def sample_rate(self) -> int:
        """Hz of the speech."""
        return self.codec.sample_rate

    @property
    def voices(self) -> tuple[Voice, ...]:
        """Who can speak; the first one, `described`, follows the style's gender and age alone."""
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
            seed: 0 to 2**64 - 1; the same seed gives the same speech.
            sampling: how codes are drawn.
            liveliness: how far prosody may stray from its most likely course, 0..1.

        Raises: UserError for text without anything to say, a style that cannot be read, an unknown voice, an impossible seed.
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
        """Like `say`, sentence by sentence as each is ready.

        `text` may be an iterator of pieces of any size, such as the tokens of a language model: they are joined as they are,
        and each sentence is spoken when it is closed, before the next piece is asked for.  Joined, the speech is that of the
        whole text.  Errors in such a text are raised when its sentences come, all others at once.
        """
        seed = check_seed(seed)
        if not 0 <= liveliness <= 1:
            raise UserError(f"liveliness {liveliness} should be within 0 to 1")
        if voice is not None:
            self.find_voice(voice)
        generator = seeded(seed, self.device)
        sampling = sampling or SPEAKING
        if not isinstance(text, str):
            given = self.read_style(style)
            return self._speak_pieces(checked(text), given, voice, generator, sampling, liveliness)
        tag, text = split_style(text)
        style = self.read_style(style if tag is None else tag)
        person = self.choose_voice(voice, style)
        self.text.normalize(text)  # the whole text's errors, before anything is spoken
        return self._speak(split_sentences(text), style, person, generator, sampling, liveliness)

    def read_style(self, style: str | Style) -> Style:
        """Attributes that an instruction asks for; attributes stay as they are.  Raises: UserError for anything else."""
        if not isinstance(style, str | Style):
            raise UserError(f"a style should be an instruction in words, or a Style, not {type(style).__name__}")
        return self.styles.encode(style) if isinstance(style, str) else style

    def find_voice(self, name: str) -> Voice:
        """The voice of this name; case only matters where two names differ in nothing else.

        Raises: UserError for an unknown name, with those that are near.
        """
        name = name.strip()
        for same in (lambda v: v.name == name, lambda v: v.name.strip().casefold() == name.casefold()):
            for voice in self.voices:
                if same(voice):
                    return voice
        by_folded = {v.name.casefold(): v.name for v in self.voices}
        near = " or ".join(repr(by_folded[n]) for n in difflib.get_close_matches(name.casefold(), by_folded, n=3))
        listed = ", ".join(v.name for v in self.voices[:MAX_VOICES_LISTED])
        more = len(self.voices) - MAX_VOICES_LISTED
        raise UserError(
            f"unknown voice {name!r}{f', perhaps {near}' if near else ''}; "
            f"there are {listed}{f' and {more} more, see solfa voices' if more > 0 else ''}"
        )

    def choose_voice(self, name: str | None, style: Style) -> Voice:
        """The named voice, else the one that the style describes, else the default.  Raises: UserError as `find_voice`."""
        if name is not None:
            return self.find_voice(name)
        presets = self.voices[1:] or self.voices
        asked = style.asked or frozenset()
        if not asked & {"gender", "age"}:
            return presets[0]

        def distance(v: Voice) -> float:
            return 2 * abs(v.gender - style.gender) * ("gender" in asked) + abs(v.age - style.age) * ("age" in asked)

        return min(presets, key=distance)

    def _speak_pieces(
        self,
        pieces: Iterator[str],
        style: Style,
        voice: str | None,
        generator: torch.Generator,
        sampling: SamplingConfig,
        liveliness: float,
    ) -> Iterator[Speech]:
        """Text that arrives in pieces; a `<style>` at its beginning replaces the style."""
        tag, sentences = style_and_sentences(pieces)
        if tag is not None:
            style = self.read_style(tag)
        person = self.choose_voice(voice, style)
        spoken = False
        for speech in self._speak(sentences, style, person, generator, sampling, liveliness):
            spoken = True
            yield speech
        if not spoken:
            raise UserError("there is nothing to speak in the text")

    def _speak(
        self,
        sentences: Iterable[str],
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
            samples = limited(self.codec.decode(codes[None])[0].cpu().numpy() * gain)
            words = word_times(phones, plan.prosody)
            yield Speech(samples, self.sample_rate, words, voice.name, style, phones.warnings)

    @torch.inference_mode()
    def plan(
        self, phones: Phones, style: Style, voice: Voice, generator: torch.Generator, liveliness: float = 0.5
    ) -> Plan:
        """Durations, pitch and energy of a sentence's phones, and the decoder's inputs that follow from them."""
        model, device = self.model, self.device
        conditions = self.conditions(style, voice)
        ids = torch.tensor([self.text.encode(phones.symbols)], device=device)
        prediction = model.plan(ids, conditions, torch.ones_like(ids, dtype=torch.bool))
        prosody = self.draw(prediction.mean, prediction.log_sigma, liveliness, generator)
        for at in phones.long_pauses:
            prosody.slots[0, at] = prosody.slots[0, at].clamp_min(LONG_PAUSE)
        frames = max(1, -(-int(prosody.slots.sum()) // 4))
        cond = model.frames(prediction.context, prosody, conditions, frames)[0]
        prompt = model.prompt().to(device)
        slot_embeds = model.slot_embeds(conditions, len(prompt.text))[0]
        return Plan(Prosody(*(values.cpu() for values in prosody)), prompt, cond, slot_embeds)

    @torch.inference_mode()
    def write(self, plan: Plan, sampling: SamplingConfig, generator: torch.Generator) -> Iterator[Tensor]:
        """The codes of a sentence, (frames, books) patch by patch."""
        yield from generate_audio(
            self.model.omni,
            plan.prompt,
            cond=plan.cond,
            slot_embeds=plan.slot_embeds,
            sampling=sampling,
            generator=generator,
        )

    def conditions(self, style: Style, voice: Voice) -> Conditions:
        """The network's inputs for a voice, and for a style relative to the voice's ordinary reading."""
        octaves = float(np.log2(voice.pitch / REFERENCE_PITCH))
        conditions = Conditions(
            torch.tensor([self.voices.index(voice)]),
            torch.tensor([[octaves, voice.gender, voice.age]]),
            torch.tensor([style_vector(style)], dtype=torch.float32),
            torch.zeros(1),
        )
        return Conditions(*(values.to(self.device) for values in conditions))

    @staticmethod
    def draw(mean: Tensor, log_sigma: Tensor, liveliness: float, generator: torch.Generator) -> Prosody:
        """Sample a plan near its most likely course; the noise is smoothed over neighbouring phones."""
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        smooth = (noise + torch.roll(noise, 1, 1) + torch.roll(noise, -1, 1)) / 3**0.5
        return unscaled(mean + 0.6 * liveliness * log_sigma.exp() * smooth)


def check_seed(seed: SupportsIndex) -> int:
    """The seed as an int.  Raises: UserError when it is not a whole number from 0 to 2**64 - 1."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= MAX_SEED:
        raise UserError(f"seed {seed} should be a whole number from 0 to {MAX_SEED}")
    return number


def seeded(seed: int, device: torch.device) -> torch.Generator:
    """A source of chance for tensors on a device, which has to be on that device itself."""
    return torch.Generator(device).manual_seed(seed)


def limited(samples: np.ndarray) -> np.ndarray:
    """(n,) float -> the same with the peaks above LINEAR bent smoothly, so that loud speech does not clip."""
    over = np.abs(samples) > LINEAR
    room = FULL - LINEAR
    samples[over] = np.sign(samples[over]) * (LINEAR + room * np.tanh((np.abs(samples[over]) - LINEAR) / room))
    return samples
