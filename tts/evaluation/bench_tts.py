"""`solfa bench tts`: how fast the speaker is, where its time goes, and what drafts would save it.

Two tables: texts of three lengths, each spoken in turns with the others; and, after fitting one block of multi-token
prediction to the speaker's own speech, sentences written with and without drafts, round by round in turns, so that whatever
else the machine does strikes all of them.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from solfa.core.progress import Progress, track
from solfa.core.training import cosine_rate
from solfa.omni.generation.generate import generate_audio
from solfa.omni.generation.sampling import SamplingConfig
from solfa.omni.generation.speculative_audio import Round, generate_audio_with_drafts
from solfa.omni.model.grid import next_step
from solfa.omni.model.mtp import MTP, MTPBlock
from solfa.omni.model.omni_model import OmniModel
from solfa.tokenizers.text.tokenizer import Phones
from solfa.tts.evaluation.evaluate_tts import heldout_sentences
from solfa.tts.model import Voice
from solfa.tts.style.style_encoder import Style
from solfa.tts.synthesizer import SPEAKING, TTS, Plan

PARTS = ("text and style", "planner", "decoder", "patch decoder", "codec")  # the decoder with the patch encoder
STYLES = ("a cheerful young woman, speaking fast", "", "an old man, tired", "calm, low, slow")
MEASURED = 8  # sentences that are written with drafts; the block learns from the others
RATE = 1e-3  # learning rate of the block


class Run(NamedTuple):
    """One text spoken: seconds of speech, seconds until the first of it could be played, seconds that each part took."""

    speech: float
    first: float
    parts: dict[str, float]

    @property
    def whole(self) -> float:
        return sum(self.parts.values())


class TimedTTS(TTS):
    """A speaker that counts where its time goes: what passes between two readings of the clock belongs to one part."""

    parts: dict[str, float]
    read: float  # when the clock was

    def count(self, part: str) -> None:
        now = time.perf_counter()
        self.parts[part] += now - self.read
        self.read = now

    def plan(
        self, phones: Phones, style: Style, voice: Voice, generator: torch.Generator, liveliness: float = 0.5
    ) -> Plan:
        self.count("text and style")
        found = super().plan(phones, style, voice, generator, liveliness)
        self.count("planner")
        return found

    def write(self, plan: Plan, sampling: SamplingConfig, generator: torch.Generator) -> Iterator[Tensor]:
        for patch in super().write(plan, sampling, generator):
            self.count("patch decoder")
            yield patch

    def run(self, text: str) -> Run:
        self.parts, speech, first = dict.fromkeys(PARTS, 0.0), 0.0, 0.0
        with self.model.omni.decoder.register_forward_hook(lambda *_: self.count("decoder")):
            began = self.read = time.perf_counter()
            for piece in self.stream(text, STYLES[0]):
                self.count("codec")
                first = first or self.read - began
                speech += piece.duration
        return Run(speech, first, self.parts)


def speed(tts: TTS, texts: dict[str, str], repeats: int) -> dict[str, Run]:
    """The fastest of `repeats` runs of each text, in turns, after one to warm up."""
    timed = TimedTTS(tts.model, tts.codec, tts.text, tts.styles)
    laps = [
        {name: timed.run(text) for name, text in texts.items()} for _ in track(range(1 + repeats), "speaking in turns")
    ]
    return {name: min((lap[name] for lap in laps[1:]), key=lambda run: run.whole) for name in texts}


def speed_table(found: dict[str, Run], repeats: int) -> Table:
    title = f"speaking; parts in ms per second of speech (share); the fastest of {repeats} in turns"
    made = Table("text", "speech", "made in", "real-time factor", "first sound", *PARTS, title=title)
    for name, run in found.items():
        parts = (f"{1000 * seconds / run.speech:.1f} ({seconds / run.whole:.0%})" for seconds in run.parts.values())
        made.add_row(
            name,
            f"{run.speech:.1f} s",
            f"{run.whole:.2f} s",
            f"{run.whole / run.speech:.2f}",
            f"{run.first:.2f} s",
            *parts,
        )
    return made


class Lesson(NamedTuple):
    """An utterance as a block reads it, with the n patches that may be drafted: all whole ones but the first."""

    inputs: Tensor  # (1, T, D) of the decoder
    states: Tensor  # (1, T, D) of the decoder
    before: int  # the step from which the first of those patches is drafted
    patches: Tensor  # (n, patch_size, n_books)
    conds: Tensor  # (n, patch_size, cond_dim)

    @property
    def true(self) -> Tensor:
        """The decoder's own states about the n patches: (n, D)."""
        return self.states[0, self.before + 1 :][: len(self.patches)]

    def foreseen(self, mtp: MTP) -> Tensor:
        """The block's, each from one step earlier: (n, D)."""
        return mtp(self.states, self.inputs)[0][0, self.before :][: len(self.patches)]


@torch.no_grad()
def lesson(model: OmniModel, plan: Plan, codes: Tensor) -> Lesson:
    """codes: (frames, n_books), what the speaker wrote along the plan."""
    grid = model.grid
    whole = grid.build([plan.prompt.text, codes.T])
    cond = grid.place_frames(whole, plan.cond)[None]
    soft = F.pad(plan.soft, (0, 0, 0, len(whole.text) - len(plan.soft)))[None]
    inputs = model.embed(whole.batched(), cond, next_step(cond, 0), soft)
    drafted = slice(1, len(codes) // grid.patch_size)
    patches, conds = grid.fold(codes.T)[drafted], grid.fold_frames(plan.cond)[drafted]
    return Lesson(inputs, model.decoder(inputs), len(plan.prompt.text) - 1, patches, conds)


def planned(tts: TTS, sentence: str, seed: int) -> Plan:
    style = tts.styles.encode(STYLES[seed % len(STYLES)])
    return tts.plan(
        tts.text.phones(sentence), style, tts.choose_voice(None, style), torch.Generator().manual_seed(seed)
    )


class Fitted(NamedTuple):
    mtp: MTP
    sentences: int  # spoken to learn from
    steps: int


def fit(tts: TTS, sentences: list[str], minutes: float) -> Fitted:
    """A block that learns to foresee the frozen speaker's next state: half of the time it speaks, half of it the block learns."""
    model, half = tts.model.omni.requires_grad_(False), 30 * minutes
    torch.manual_seed(0)
    dim = model.config.decoder.dim
    mtp = MTP(model.config.decoder, 1)
    join = cast(MTPBlock, mtp[0]).join.weight
    with torch.no_grad():  # at first it foresees hardly more than the state that there is
        join.mul_(0.1)[:, dim:] += torch.eye(dim)
    lessons, began = list[Lesson](), time.monotonic()
    with Progress("speaking for the block", None, "sentences") as bar:
        for seed, sentence in enumerate(itertools.cycle(sentences)):
            if lessons and time.monotonic() - began > half:
                break
            plan = planned(tts, sentence, seed)
            codes = torch.cat(list(tts.write(plan, SPEAKING, torch.Generator().manual_seed(seed))))
            lessons.append(lesson(model, plan, codes))
            bar.advance()
    optimizer, steps, done, began = torch.optim.AdamW(mtp.parameters(), RATE), 0, 0.0, time.monotonic()
    with Progress("the block learns", None, "steps") as bar:
        while done < 1:
            optimizer.param_groups[0]["lr"] = RATE * cosine_rate(done)
            x = lessons[int(torch.randint(len(lessons), ()))]
            states = x.foreseen(mtp)
            with torch.no_grad():
                p = model.patch_decoder(x.true, x.patches, x.conds).log_softmax(-1)
            q = model.patch_decoder(states, x.patches, x.conds).log_softmax(-1)
            loss = F.kl_div(q, p, reduction="none", log_target=True).sum(-1).mean() + F.mse_loss(states, x.true)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            bar.advance(note=f"loss {float(loss.detach()):.3f}")
            steps, done = steps + 1, (time.monotonic() - began) / half
    return Fitted(mtp, len(lessons), steps)


class Drafting(NamedTuple):
    """What one draft in each round does to writing at one temperature.

    books: (n_books,) share of the drafted codes that the speaker agreed to; length: acceptance length, patches in a round;
    speedup: times as fast as writing plainly; same: utterances with the same codes, of so many.
    """

    temperature: float
    books: Tensor
    length: float
    speedup: float
    same: int
    utterances: int


Written = TypeVar("Written", Tensor, Round)


def timed(rounds: Iterator[Written]) -> Iterator[tuple[Written, float]]:
    """What is written, and the seconds that it took."""
    began = time.perf_counter()
    for written in rounds:
        yield written, time.perf_counter() - began
        began = time.perf_counter()


@torch.inference_mode()
def draft(model: OmniModel, mtp: MTP, plans: list[Plan], sampling: SamplingConfig) -> Drafting:
    model.mtp = mtp
    counts, fits, took, took_drafted, same = list[int](), list[Tensor](), 0.0, 0.0, 0
    for seed, plan in enumerate(track(plans, f"writing at temperature {sampling.temperature:g}")):
        settings: dict[str, Any] = {"cond": plan.cond, "soft": plan.soft, "sampling": sampling}
        plain = generate_audio(model, plan.prompt, generator=torch.Generator().manual_seed(seed), **settings)
        drafted = generate_audio_with_drafts(
            model, plan.prompt, drafts=1, generator=torch.Generator().manual_seed(seed), **settings
        )
        codes, rounds = list[Tensor](), list[Round]()
        for one, other in itertools.zip_longest(timed(plain), timed(drafted)):
            if one is not None:
                codes.append(one[0])
                took += one[1]
            if other is not None:
                rounds.append(other[0])
                took_drafted += other[1]
        same += torch.equal(torch.cat(codes), torch.cat([r.codes for r in rounds]))
        counts += [model.grid.patches(len(r.codes)) for r in rounds[1:]]  # the first round drafts nothing
        fits += [x for r in rounds for x in r.fits]
    books = torch.stack(fits).float().mean((0, 1))
    return Drafting(sampling.temperature, books, sum(counts) / len(counts), took / took_drafted, same, len(plans))


def draft_table(found: list[Drafting], fitted: Fitted) -> Table:
    title = f"writing with one draft and plainly, in turns; the block learned from {fitted.sentences} sentences in {fitted.steps} steps"
    columns = ("temperature", "speed-up", "acceptance length in patches", "acceptance of codes, by book", "same codes")
    made = Table(*columns, title=title)
    for d in found:
        books, same = " ".join(f"{float(x):.2f}" for x in d.books), f"{d.same} of {d.utterances} sentences"
        made.add_row(
            f"{d.temperature:g}", f"{d.speedup:.2f} x", f"{d.length:.2f}", books, "-" if d.temperature else same
        )
    return made


def bench(
    repeats: Annotated[
        int, typer.Option(min=1, help="Times that each text is spoken, of which the fastest counts.")
    ] = 3,
    drafts_minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Also fit a block of multi-token prediction for so long, and write with it.",
            show_default="no drafts",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="as torch chooses")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="TTS checkpoint: a bundled name, a folder or a hub id.", show_default="ours")
    ] = None,
) -> None:
    """Print how fast the speaker is on this machine and where its time goes, and, with --drafts-minutes, what drafts would save.

    Example: solfa bench tts --threads 1 --drafts-minutes 4
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
    if drafts_minutes is not None:
        fitted = fit(tts, sentences[MEASURED:], drafts_minutes)
        plans = [planned(tts, sentence, seed) for seed, sentence in enumerate(sentences[:MEASURED])]
        samplings = [dataclasses.replace(SPEAKING, temperature=t, repeat_limit=0) for t in (0.0, SPEAKING.temperature)]
        console.print(draft_table([draft(tts.model.omni, fitted.mtp, plans, s) for s in samplings], fitted))
