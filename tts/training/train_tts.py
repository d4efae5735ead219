"""`solfa train tts`: train the speaker on tokenized speech (`solfa prepare tts`, then `solfa tokenize`).

One step: a batch of whole utterances of similar length -> the planner's likelihood of the measured prosody, and the
cross entropy of the audio codes, the true plan being given.  Sources are mixed by weight; the weights move from `mix` to
`finish` over the last part of the run.
"""

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor, nn

from solfa.core import checkpoints
from solfa.core import recipe as recipes
from solfa.core.errors import UserError
from solfa.core.progress import track
from solfa.core.training import Clock, WeightAverage, cosine_rate, find_state, load_state, save_state
from solfa.omni.model.omni_model import BOOK_WEIGHTS, omni_loss
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset
from solfa.tokenizers.text.tokenizer import TextTokenizer
from solfa.tts import planner
from solfa.tts.model import REFERENCE_PITCH, SLOTS_PER_FRAME, STYLES, Conditions, TTSConfig, TTSModel, Voice
from solfa.tts.planner import Prosody

KIND = "tts"


@dataclass(frozen=True)
class TTSRecipe:
    """Settings of one training run.  Progress is counted in steps, or in minutes where `minutes` is given."""

    data: str
    codec: str | None = None  # folder of the audio tokenizer that made the data, where it is not a bundled one
    init: str | None = (
        None  # checkpoint to start from; one that wrote another tokenizer's codes keeps all but their meaning
    )
    out: str = "runs/tts"
    model: TTSConfig = TTSConfig()
    voices: dict[str, str] = field(default_factory=dict)  # preset voices to learn: name -> what to say about them
    mix: dict[str, float] = field(default_factory=dict)  # weight of each source or voice (default 1)
    finish: dict[str, float] = field(default_factory=dict)  # weights over the last part
    finish_from: float = 0.7
    steps: int = 20_000
    minutes: float | None = None
    batch_seconds: float = 96.0
    max_seconds: float = 12.0
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    planner_weight: float = 1.0
    describe_share: float = 0.15  # of the clips of preset voices, shown as the described voice
    average_decay: float = 0.99  # a window of 100 steps: a longer one drags the start of a short run along
    save_every: int = 200
    evaluate_every: int = 500
    precision: str = "bf16"
    seed: int = 0
    threads: int | None = None


class Utterance(NamedTuple):
    phones: list[int]
    slots: list[int]
    pitch: list[float]  # Hz per phone, 0 unvoiced
    energy: list[float]
    codes: Tensor  # int16 (books, frames)
    voice: str | None
    source: str
    median_pitch: float
    person: tuple[float, float]  # gender, age
    style: list[float]
    resynthesised: float
    heldout: bool


class Batch(NamedTuple):
    phones: Tensor  # (B, N)
    real: Tensor  # (B, N)
    prosody: Prosody
    conditions: Conditions
    codes: list[Tensor]  # (books, frames) each


def read(recipe: TTSRecipe, text: TextTokenizer) -> tuple[list[Utterance], str, str]:
    """-> (utterances, codec name, codec fingerprint)."""
    data = TokenDataset(recipe.data, books=recipe.model.books)
    if data.header.frame_rate != planner.SLOTS_PER_SECOND / SLOTS_PER_FRAME:
        raise UserError(f"{recipe.data} has {data.header.frame_rate} frames per second; the speaker needs 25")
    out = []
    for row in track(data, "reading tokens", total=len(data)):
        if "durations" not in row or "phones" not in row:
            raise UserError(f"{recipe.data} has no phones and durations: make it from a manifest of solfa prepare tts")
        seconds = sum(row["durations"]) / planner.SLOTS_PER_SECOND
        if not 0.3 < seconds <= recipe.max_seconds:
            continue
        z = row["voice_z"]
        out.append(
            Utterance(
                text.encode(row["phones"]),
                row["durations"],
                row["pitch"],
                row["energy"],
                row["codes"].to(torch.int16),
                row["voice"],
                row["source"],
                row["median_pitch"] or REFERENCE_PITCH,
                (row["gender"] or 0.0, row["age"] or 0.0),
                [z[name] for name in STYLES],
                float(row["made"] == "world"),
                row["split"] == "heldout",
            )  # fmt: skip
        )
    if not out:
        raise UserError(f"{recipe.data} has no utterance of at most {recipe.max_seconds:g} s")
    return out, data.header.codec, data.header.fingerprint.partition("+")[0]  # of the books that are spoken


def make_voices(utterances: list[Utterance], presets: Mapping[str, str]) -> tuple[Voice, ...]:
    """The described voice first, then the presets with their measured pitch."""
    voices = [Voice("described", about="nobody: as described by gender, age and pitch")]
    for name, about in presets.items():
        own = [u for u in utterances if u.voice == name]
        if not own:
            raise UserError(f"no clip in the data is of voice {name!r}")
        ordinary = [u for u in own if abs(u.style[1]) < 0.5] or own  # pitch unchanged
        pitch = float(np.median([u.median_pitch for u in ordinary]))
        voices.append(Voice(name, own[0].person[0], own[0].person[1], round(pitch, 1), about))
    return tuple(voices)


def collate(items: list[Utterance], voices: tuple[Voice, ...], described: np.ndarray) -> Batch:
    """`described`: bool per item, True to hide which preset voice it is."""
    index = {v.name: i for i, v in enumerate(voices)}
    longest = max(len(u.phones) for u in items)

    def padded(rows: list[list[Any]], fill: float, dtype: torch.dtype) -> Tensor:
        return torch.tensor([row + [fill] * (longest - len(row)) for row in rows], dtype=dtype)

    who = [0 if hide or u.voice not in index else index[u.voice] for u, hide in zip(items, described, strict=True)]
    # A described voice's own median is that of the clip; a preset's is that of its ordinary reading.
    median = [voices[w].pitch if w else u.median_pitch for u, w in zip(items, who, strict=True)]
    style = [
        [s if w or name != "pitch" else 0.0 for s, name in zip(u.style, STYLES, strict=True)]
        for u, w in zip(items, who, strict=True)
    ]
    semitones = [
        [12 * math.log2(p / m) if p > 0 else math.nan for p in u.pitch] for u, m in zip(items, median, strict=True)
    ]
    person = [[math.log2(m / REFERENCE_PITCH), *u.person] for u, m in zip(items, median, strict=True)]
    prosody = Prosody(
        padded([u.slots for u in items], 0, torch.long),
        padded(semitones, math.nan, torch.float32),
        padded([[e + 23 for e in u.energy] for u in items], 0.0, torch.float32).clamp(-50, 20),
    )
    phones = padded([u.phones for u in items], 0, torch.long)
    real = padded([[True] * len(u.phones) for u in items], False, torch.bool)
    conditions = Conditions(
        torch.tensor(who),
        torch.tensor(person, dtype=torch.float32),
        torch.tensor(style),
        torch.tensor([u.resynthesised for u in items]),
    )
    return Batch(phones, real, prosody, conditions, [u.codes.long() for u in items])


def losses(model: TTSModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """-> (audio loss, planner loss, per-book losses)."""
    grid = model.config.grid
    start, end = model.prompt().text, [grid.id("<|eostm|>")]
    sequences = grid.collate([grid.build([start, codes, end], loss_from=1) for codes in batch.codes])
    longest = max(c.shape[1] for c in batch.codes)
    prediction = model.plan(batch.phones, batch.conditions, batch.real)
    cond = model.frames(prediction.context, batch.prosody, batch.conditions, grid.patches(longest) * grid.patch_size)
    steps = sequences.text.shape[1]
    folded = cond.unflatten(1, (-1, grid.patch_size))
    aligned = torch.cat([folded.new_zeros(len(folded), len(start), *folded.shape[2:]), folded], dim=1)
    aligned = torch.cat([aligned, aligned.new_zeros(len(aligned), steps - aligned.shape[1], *aligned.shape[2:])], dim=1)
    aligned = aligned * grid.is_audio(sequences.text)[..., None, None]
    output = model.omni(sequences, aligned, model.slot_embeds(batch.conditions, steps))
    made = omni_loss(output, text_weight=0.0, book_weights=BOOK_WEIGHTS[: model.config.books])
    return made.total, planner.loss(prediction, batch.prosody, batch.real), made.books


class TTSInTraining(nn.Module):
    """The model and its losses as one module, whose gradients processes share."""

    def __init__(self, model: TTSModel):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return losses(self.model, batch)


class Batches:
    """Batches of similar length; batch i depends on (seed, i) alone."""

    def __init__(self, utterances: list[Utterance], recipe: TTSRecipe):
        self.utterances, self.recipe = utterances, recipe
        self.seconds = np.array([u.codes.shape[1] / 25 for u in utterances])
        self.order = np.argsort(self.seconds, kind="stable")
        self.weights = {
            which: self._weights(table)
            for which, table in (("mix", recipe.mix), ("finish", recipe.finish or recipe.mix))
        }

    def _weights(self, table: Mapping[str, float]) -> np.ndarray:
        # the more specific name wins: a voice resynthesised by WORLD, a voice, a source
        def weight(u: Utterance) -> float:
            names = (f"{u.voice}-world" if u.resynthesised else "", u.voice or "", u.source)
            return next((table[name] for name in names if name in table), 1.0)

        return np.array([weight(u) for u in self.utterances])

    def draw(self, step: int, done: float) -> tuple[list[Utterance], np.ndarray]:
        rng = np.random.default_rng((self.recipe.seed, step))
        weights = self.weights["finish" if done >= self.recipe.finish_from else "mix"]
        first = rng.choice(len(self.utterances), p=weights / weights.sum())
        # neighbours in length, weighted as well
        rank = int(np.searchsorted(self.seconds[self.order], self.seconds[first]))
        span = max(200, len(self.order) // 10)
        low = max(0, min(rank - span // 2, len(self.order) - span))
        near = self.order[low : low + span]
        local = weights[near]
        count = max(2, int(self.recipe.batch_seconds / self.seconds[first]))
        count = min(count, int((local > 0).sum()))
        picks = rng.choice(near, count, replace=False, p=local / local.sum())
        return [self.utterances[i] for i in picks], rng.random(len(picks)) < self.recipe.describe_share


@torch.inference_mode()
def evaluate(
    model: TTSModel, utterances: list[Utterance], voices: tuple[Voice, ...], most: int = 64
) -> dict[str, float]:
    """Losses on held-out clips."""
    model.eval()
    items = sorted(utterances, key=lambda u: u.codes.shape[1])[:: max(1, len(utterances) // most)]
    sums = np.zeros(3)
    groups = [items[i : i + 16] for i in range(0, len(items), 16)]
    for group in groups:
        audio, plan, books = losses(model, collate(group, voices, np.zeros(len(group), bool)))
        sums += [float(audio), float(plan), float(books[0])]
    model.train()
    return dict(zip(("audio", "planner", "book 0"), (sums / len(groups)).tolist(), strict=True))


def save_pretrained(folder: Path, config: TTSConfig, tensors: dict[str, Tensor]) -> None:
    checkpoints.save(folder, KIND, dataclasses.asdict(config), tensors)


def run(recipe: TTSRecipe) -> Path:
    """Train, or continue a run found in `recipe.out`.  -> the folder of the averaged checkpoint."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, set_seed
    from torch.utils.tensorboard import SummaryWriter

    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    some_unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # text is read, not written
    accelerator = Accelerator(
        mixed_precision=recipe.precision, cpu=not torch.cuda.is_available(), kwargs_handlers=[some_unused]
    )
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    set_seed(recipe.seed)
    text = TextTokenizer.from_pretrained()
    utterances, codec, fingerprint = read(recipe, text)
    config = dataclasses.replace(
        recipe.model,
        voices=make_voices(utterances, recipe.voices),
        codec=codec,
        codec_fingerprint=fingerprint,
        planner=dataclasses.replace(recipe.model.planner, symbols=text.vocab_size),
    )
    heldout = [u for u in utterances if u.heldout]
    batches = Batches([u for u in utterances if not u.heldout], recipe)
    tokenizer = AudioTokenizer.own(recipe.codec or codec)  # its codebooks are what heads start from
    if tokenizer.fingerprint != fingerprint:
        raise UserError(
            f"{recipe.data} was made by another {codec} (fingerprint {fingerprint}); name its folder with codec="
        )
    model = TTSModel(config)
    codes_known = adopt_weights(model, checkpoints.resolve(recipe.init, KIND)) if recipe.init else None
    if codes_known != fingerprint:
        codes = torch.cat([u.codes for u in batches.utterances], 1).long()
        counts = torch.stack([torch.bincount(row, minlength=config.codebook_size) for row in codes])
        model.adopt_codebooks(tokenizer.quantizer.codebooks[: config.books], counts)
    accelerator.print(
        f"{batches.seconds.sum() / 3600:.2f} h of {len(batches.utterances)} clips, {len(heldout)} held out; "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters; voices: {', '.join(v.name for v in config.voices)}"
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
    )
    average = WeightAverage(model, recipe.average_decay)
    step, elapsed = 0, 0.0
    if state := find_state(out / "state"):
        facts, tensors = load_state(state, {"optimizer": optimizer})
        model.load_state_dict(tensors["model"])
        average.state, average.updates = tensors["average"], facts["updates"]
        step, elapsed = facts["step"], facts["elapsed"]
        accelerator.print(f"resuming at step {step}")
    average.state = {k: v.to(accelerator.device) for k, v in average.state.items()}
    training, optimizer = accelerator.prepare(TTSInTraining(model), optimizer)
    writer = SummaryWriter(str(out / "logs")) if accelerator.is_main_process else None
    clock, shown, sums = Clock(recipe.steps, recipe.minutes, elapsed), time.time(), np.zeros(2 + config.books)

    def checkpoint() -> None:
        facts = {"step": step, "elapsed": clock.elapsed(), "updates": average.updates}
        parts = {"model": model.state_dict(), "average": average.state}
        save_state(out / "state", facts, parts, {"optimizer": getattr(optimizer, "optimizer", optimizer)})
        save_pretrained(out / "checkpoint", config, average.state)

    training.train()
    while (done := clock.progress(step, accelerator.device)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * cosine_rate(done)
        index = step * accelerator.num_processes + accelerator.process_index
        torch.manual_seed(recipe.seed * 1_000_003 + index)
        items, described = batches.draw(index, done)
        batch = to_device(collate(items, config.voices, described), accelerator.device)
        with accelerator.autocast():
            audio, plan, books = training(batch)
        optimizer.zero_grad()
        accelerator.backward(audio + recipe.planner_weight * plan)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        step += 1
        sums += np.array([audio.item(), plan.item(), *books.tolist()])
        if writer is None:
            continue
        if step % 50 == 0:
            audio_mean, plan_mean, *book_means = sums / 50
            speed = (time.time() - shown) / 50
            print(
                f"step {step}  audio {audio_mean:.3f}  planner {plan_mean:.3f}  books {' '.join(f'{b:.2f}' for b in book_means)}  "
                f"{speed:.2f} s/step  {clock.left(step, speed) / 60:.0f} min left",
                flush=True,
            )
            writer.add_scalar("train/audio", audio_mean, step)
            writer.add_scalar("train/planner", plan_mean, step)
            sums[:], shown = 0, time.time()
        if step % recipe.save_every == 0:
            checkpoint()
        if step % recipe.evaluate_every == 0 and heldout:
            metrics = evaluate(averaged(config, average), heldout, config.voices)
            print(f"held out at step {step}: " + "  ".join(f"{k} {v:.3f}" for k, v in metrics.items()), flush=True)
            for k, v in metrics.items():
                writer.add_scalar(f"heldout/{k}", v, step)
    if accelerator.is_main_process:
        checkpoint()
        if heldout:
            print(
                "held out at the end: "
                + "  ".join(
                    f"{k} {v:.3f}" for k, v in evaluate(averaged(config, average), heldout, config.voices).items()
                )
            )
    return out / "checkpoint"


def adopt_weights(model: TTSModel, folder: Path) -> str:
    """Take a checkpoint's weights; voices by name, so that the presets may differ.  -> fingerprint of the codec that it wrote for."""
    values, tensors = checkpoints.load(folder, KIND)
    theirs = {v["name"]: i for i, v in enumerate(values["voices"])}
    embed = model.voice_embed.weight.detach().clone()
    for i, voice in enumerate(model.config.voices):
        if voice.name in theirs:
            embed[i] = tensors["voice_embed.weight"][theirs[voice.name]]
    checkpoints.load_into(model, tensors | {"voice_embed.weight": embed}, folder)
    return values["codec_fingerprint"]


def to_device(batch: Batch, device: torch.device) -> Batch:
    prosody = Prosody(*(t.to(device) for t in batch.prosody))
    conditions = Conditions(*(t.to(device) for t in batch.conditions))
    return Batch(
        batch.phones.to(device), batch.real.to(device), prosody, conditions, [c.to(device) for c in batch.codes]
    )


def averaged(config: TTSConfig, average: WeightAverage) -> TTSModel:
    twin = TTSModel(config)
    twin.load_state_dict({k: v.cpu() for k, v in average.state.items()})
    return twin.eval()


def train(
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value pairs that override the recipe", show_default=False)
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML recipe", show_default=False)] = None,
) -> None:
    """Train the speaker.  Running the same command again continues where it stopped.

    Example: solfa train tts --config docs/recipes/tts-cpu.yaml data=TOKENS minutes=60
    """
    recipe = recipes.load(TTSRecipe, config, settings or [])
    folder = run(recipe)
    Path(recipe.out, "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1))
    print(f"checkpoint: {folder}")
