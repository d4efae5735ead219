"""`solfa train tts`: train the TTS model on tokenized speech (`solfa prepare tts`, then `solfa tokenize`).

One step: a batch of whole utterances of similar length -> the planner's likelihood of the measured prosody, and the
cross entropy of the audio codes, the true plan being given.  Sources are mixed by weight; the weights move from `mix` to
`finish` over the last part of the run.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, nn

from solfa.core import checkpoints
from solfa.core import recipe as recipes
from solfa.core.errors import UserError
from solfa.core.training import WeightAverage, cosine_rate
from solfa.core.training_loop import StepReport, TaskState, TrainingLoop, TrainingTask
from solfa.omni.model.omni_model import BOOK_WEIGHTS, omni_loss
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.text.tokenizer import TextTokenizer
from solfa.tts import planner
from solfa.tts.model import TTSConfig, TTSModel, Voice
from solfa.tts.training.tts_data import (
    Batch,
    Batches,
    Utterance,
    collate,
    digest,
    make_voices,
    read_utterances,
    to_device,
)
from solfa.tts.training.tts_recipe import TTSRecipe

KIND = "tts"
PANELS = (
    ("loss (nats)", ("audio", "planner", "heldout/"), False),
    ("loss of each book (nats)", ("book",), False),
)


def losses(model: TTSModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """-> (audio loss, planner loss, per-book losses)."""
    grid = model.config.grid
    start, end = model.prompt().text, [grid.id("<|eostm|>")]
    sequences = grid.collate([grid.build([start, codes, end], loss_from=1) for codes in batch.codes])
    longest = max(c.shape[1] for c in batch.codes)
    prediction = model.plan(batch.phones, batch.conditions, batch.mask)
    cond = model.frames(prediction.context, batch.prosody, batch.conditions, grid.patches(longest) * grid.patch_size)
    steps = sequences.text.shape[1]
    folded = cond.unflatten(1, (-1, grid.patch_size))
    aligned = torch.cat([folded.new_zeros(len(folded), len(start), *folded.shape[2:]), folded], dim=1)
    aligned = torch.cat([aligned, aligned.new_zeros(len(aligned), steps - aligned.shape[1], *aligned.shape[2:])], dim=1)
    aligned = aligned * grid.is_audio(sequences.text)[..., None, None]
    output = model.omni(sequences, aligned, model.slot_embeds(batch.conditions, steps))
    made = omni_loss(output, text_weight=0.0, book_weights=BOOK_WEIGHTS[: model.config.books])
    return made.total, planner.loss(prediction, batch.prosody, batch.mask), made.books


class TTSInTraining(nn.Module):
    """The model and its losses as one module, whose gradients processes share."""

    def __init__(self, model: TTSModel):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return losses(self.model, batch)


@torch.inference_mode()
def evaluate(
    model: TTSModel, utterances: list[Utterance], voices: tuple[Voice, ...], most: int = 64
) -> dict[str, float]:
    """Mean losses on up to `most` of the utterances, in nats."""
    model.eval()
    items = sorted(utterances, key=lambda u: u.codes.shape[1])[:: max(1, len(utterances) // most)]
    sums = np.zeros(3)
    groups = [items[i : i + 16] for i in range(0, len(items), 16)]
    for group in groups:
        audio, plan, books = losses(model, collate(group, voices, np.zeros(len(group), bool)))
        sums += [float(audio), float(plan), float(books[0])]
    model.train()
    return dict(zip(("audio", "planner", "book 0"), (sums / len(groups)).tolist(), strict=True))


class TTSTask(TrainingTask):
    """Training `model` on `batches`, and measuring it on the utterances `heldout`."""

    panels = PANELS
    average: WeightAverage
    averaged: TTSModel

    def __init__(
        self, loop: TrainingLoop, recipe: TTSRecipe, model: TTSModel, batches: Batches, heldout: list[Utterance]
    ):
        self.loop, self.recipe, self.batches, self.heldout = loop, recipe, batches, heldout
        self.config, self.averaged = model.config, model
        optimizer = torch.optim.AdamW(
            model.parameters(), recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
        )
        self.optimizers = {"optimizer": optimizer}
        self.training, self.optimizer = loop.accelerator.prepare(TTSInTraining(model), optimizer)
        self.average = WeightAverage(model, recipe.average_decay)
        self.training.train()

    def train_step(self, progress: float) -> StepReport:
        recipe, loop = self.recipe, self.loop
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * cosine_rate(progress)
        index = loop.step * loop.processes + loop.process
        torch.manual_seed(recipe.seed * 1_000_003 + index)
        items, described = self.batches.draw(index, progress)
        batch = to_device(collate(items, self.config.voices, described), loop.device)
        with loop.accelerator.autocast():
            audio, plan, books = self.training(batch)
        self.optimizer.zero_grad()
        loop.accelerator.backward(audio + recipe.planner_weight * plan)
        loop.accelerator.clip_grad_norm_(self.averaged.parameters(), 1.0)
        self.optimizer.step()
        losses = {"audio": audio.item(), "planner": plan.item()}
        return StepReport(losses | {f"book {i}": loss for i, loss in enumerate(books.tolist())})

    def evaluate(self) -> dict[str, float]:
        if not (self.loop.main and self.heldout):
            return {}
        twin = TTSModel(self.config)
        twin.load_state_dict({k: v.cpu() for k, v in self.average.state.items()})
        found = evaluate(twin.eval(), self.heldout, self.config.voices)
        return {f"heldout/{name}": value for name, value in found.items()}

    def state(self) -> TaskState:
        return TaskState({}, {"model": self.averaged.state_dict()})

    def load_tensors(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        self.averaged.load_state_dict(tensors["model"])

    def save_checkpoint(self, folder: Path, state: TaskState) -> None:
        save_pretrained(folder, self.config, self.average.state)


def save_pretrained(folder: Path, config: TTSConfig, tensors: dict[str, Tensor]) -> None:
    checkpoints.save(folder, KIND, dataclasses.asdict(config), tensors)


def make_model(recipe: TTSRecipe, config: TTSConfig, learned: list[Utterance], tokenizer: AudioTokenizer) -> TTSModel:
    """The model to begin with: of the checkpoint `init`, with heads for this tokenizer's codes where those of `init` are others."""
    model = TTSModel(config)
    codes_known = adopt_weights(model, checkpoints.resolve(recipe.init, KIND)) if recipe.init else None
    if codes_known != config.codec_fingerprint:
        codes = torch.cat([u.codes for u in learned], 1).long()
        counts = torch.stack([torch.bincount(row, minlength=config.codebook_size) for row in codes])
        model.adopt_codebooks(tokenizer.quantizer.codebooks[: config.books], counts)
    return model


def run(recipe: TTSRecipe) -> Path:
    """Train, or continue a run found in `recipe.out`.  -> the folder of the averaged checkpoint.

    Raises: UserError for data that do not fit the recipe, or a run that cannot be continued so.
    """
    from accelerate.utils import DistributedDataParallelKwargs

    recipe.check()
    some_unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # text is read, not written
    loop = TrainingLoop(recipe, recipe.precision, [some_unused], default_steps=20_000)
    text = TextTokenizer.from_pretrained()
    utterances, codec, fingerprint = read_utterances(recipe, text)
    loop.check_data(digest(utterances))
    config = dataclasses.replace(
        recipe.model,
        voices=make_voices(utterances, recipe.voices),
        codec=codec,
        codec_fingerprint=fingerprint,
        planner=dataclasses.replace(recipe.model.planner, symbols=text.vocab_size),
    )
    heldout = [u for u in utterances if u.heldout]
    learned = [u for u in utterances if not u.heldout]
    if not learned:
        raise UserError(f"all clips in {recipe.data} are held out: there is nothing to learn from")
    batches = Batches(learned, recipe)
    tokenizer = AudioTokenizer.own(recipe.codec or codec)  # its codebooks are what heads start from
    if tokenizer.fingerprint != fingerprint:
        raise UserError(
            f"{recipe.data} was made by another {codec} (fingerprint {fingerprint}); name its folder with codec="
        )
    model = make_model(recipe, config, learned, tokenizer)
    loop.print(
        f"{batches.seconds.sum() / 3600:.2f} h of {len(batches.utterances)} clips, {len(heldout)} held out; "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters; voices: {', '.join(v.name for v in config.voices)}"
    )
    return loop.run(TTSTask(loop, recipe, model, batches, heldout))


def adopt_weights(model: TTSModel, folder: Path) -> str:
    """Take a checkpoint's weights; voices by name, so that the presets may differ.  -> fingerprint of the codec that it wrote for."""
    values, tensors = checkpoints.load(folder, KIND)
    before = {v["name"]: i for i, v in enumerate(values["voices"])}
    embed = model.voice_embed.weight.detach().clone()
    for i, voice in enumerate(model.config.voices):
        if voice.name in before:
            embed[i] = tensors["voice_embed.weight"][before[voice.name]]
    checkpoints.load_into(model, tensors | {"voice_embed.weight": embed}, folder)
    return values["codec_fingerprint"]


def train(
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value pairs that override the recipe", show_default=False)
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML recipe", show_default=False)] = None,
) -> None:
    """Train the TTS model.  Running the same command again continues where it stopped.

    Example: solfa train tts --config docs/recipes/tts-cpu.yaml data=TOKENS minutes=60
    """
    recipe = recipes.load(TTSRecipe, config, settings or [])
    folder = run(recipe)
    Path(recipe.out, "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1))
    print(f"checkpoint: {folder}")
