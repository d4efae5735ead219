"""`solfa train codec`: train the audio tokenizer on folders of audio, on a CPU or a GPU.

Stages, one after the other (`CodecRecipe.stages`):

tokens   encoder, quantizer and decoder learn to carry acoustic features through a random number of books.  No sound is made,
         so a step is cheap.  From here on codes mean what they will mean for ever.
vocoder  measured features -> waveform, under mel losses.
decoder  codes -> waveform: decoder and vocoder together, the encoder frozen; late in the run with discriminators on short crops.
waveform all codes -> waveform: the network that refines what the books for the waveform say, everything else frozen.

Those books are not trained but fitted, before their stage or else at the end, where the codes before them are new or they are missing.

The run's folder holds `state/` (resume), `checkpoint/` (averaged weights), `samples/` and TensorBoard logs.
"""

import dataclasses
import json
import re
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from solfa.core import recipe as recipes
from solfa.core.errors import UserError
from solfa.core.training import Clock, WeightAverage, cosine_rate, find_state, load_state, save_state
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.model.config import AudioTokenizerConfig
from solfa.tokenizers.training.clips import Batch, ClipStore, is_heldout, list_sources
from solfa.tokenizers.training.discriminator import Discriminators, discriminator_loss, generator_losses
from solfa.tokenizers.training.ema_codebooks import fit_waveform
from solfa.tokenizers.training.heldout import heldout_clips, report
from solfa.tokenizers.training.stages import CodecInTraining

STAGES = ("tokens", "vocoder", "decoder", "waveform")
POSITIVE = "steps minutes batch crop_seconds learning_rate fit_crops wave_crops save_every evaluate_every threads workers".split()
WARMUP = (
    0.1  # of each stage: codebooks are moving averages, and an encoder that is faster than they undoes what was fitted
)


@dataclass(frozen=True)
class CodecRecipe:
    """Settings of one training run.  Progress is counted in steps, or in minutes where `minutes` is given."""

    data: tuple[str, ...]
    out: str = "runs/codec"
    model: AudioTokenizerConfig = AudioTokenizerConfig()
    init: str | None = None  # checkpoint to continue from
    grow: dict[str, int] = field(default_factory=dict)  # its numbers of blocks, layers or wave_books to raise
    init_vocoder: str | None = None  # checkpoint to take the vocoder from, where stages were trained side by side
    heldout_percent: float = 8.0  # of the speakers
    always_train: tuple[str, ...] = ()  # speakers that are never held out
    stages: dict[str, float] = field(
        default_factory=lambda: {"tokens": 0.4, "vocoder": 0.2, "decoder": 0.4}
    )  # shares of the run
    steps: int = 100_000
    minutes: float | None = None
    batch: int = 16
    crop_seconds: float = 1.28
    learning_rate: float = 7e-4
    fit_crops: int = 800  # from which the linear transforms and the first codebooks are fitted
    wave_crops: int = 1500  # from which the books for the waveform are fitted
    known_pitch: int = 300  # steps in which the codec is told the measured F0 while the encoder learns to estimate it
    commitment: float = 0.05
    auditory_weight: float = 0.0  # of the loss that hears as PESQ does, wherever sound is made
    adversarial_from: float = 1.0  # share of the decoder stage after which the discriminators join; 1 = never
    adversarial_weight: float = 0.1
    feature_weight: float = 0.5
    adversarial_seconds: float = 0.32
    average_decay: float = 0.995  # a window of 200 steps: a longer one drags the start of a short run along
    save_every: int = 250
    evaluate_every: int = 1000
    evaluate_clips: int = 12
    precision: str = "bf16"
    seed: int = 0
    threads: int | None = None
    workers: int = 2


@torch.no_grad()
def fit_waveform_books(model: AudioTokenizer, clips: ClipStore, recipe: CodecRecipe, frames: int) -> dict[str, Tensor]:
    """As the averaged model speaks, not the one in training.  -> what was fitted, by its name in the model."""
    assert model.wave is not None
    torch.manual_seed(recipe.seed)  # alike in all processes
    vectors, coefficients = [], []
    for i in range(max(1, recipe.wave_crops // 50)):
        wav = clips.batch(recipe.seed + 2, i, 50, frames).wav.to(model.device)
        vectors.append(model.quantizer.vectors(model.encode(wav, model.sample_rate, books=model.config.books)))
        coefficients.append(model.wave.analyse(wav))
    fit_waveform(model.wave, torch.cat(coefficients), torch.cat(vectors, dim=1))
    return {"wave.prior": model.wave.prior, "wave.codebooks": model.wave.codebooks}


def run(recipe: CodecRecipe) -> Path:
    """Train, or continue a run found in `recipe.out`.  -> the folder of the averaged checkpoint."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, set_seed
    from torch.utils.tensorboard import SummaryWriter

    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    parts_at_a_time = DistributedDataParallelKwargs(find_unused_parameters=True)  # no stage trains all of the model
    patient = InitProcessGroupKwargs(timeout=timedelta(days=1))  # the others wait for one that decodes the data
    if recipe.precision not in ("no", "fp16", "bf16"):
        raise UserError(f"precision should be no, fp16 or bf16, not {recipe.precision}")
    accelerator = Accelerator(
        mixed_precision=recipe.precision, cpu=not torch.cuda.is_available(), kwargs_handlers=[parts_at_a_time, patient]
    )
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    set_seed(recipe.seed)

    for name in POSITIVE:
        if (value := getattr(recipe, name)) is not None and not value > 0:
            raise UserError(f"{name} should be more than 0, not {value}")
    if set(recipe.stages) - set(STAGES) or not sum(recipe.stages.values()) > 0:
        raise UserError(f"stages should be shares of {', '.join(STAGES)}, not {recipe.stages}")
    model = grown(AudioTokenizer.own(recipe.init), recipe.grow) if recipe.init else AudioTokenizer(recipe.model)
    if recipe.stages.get("waveform") and not (model.wave and model.wave.refinement):
        raise UserError(
            "the waveform stage trains what this model lacks: set wave_books and wave_refine, in model or grow"
        )
    if recipe.init_vocoder:
        model.vocoder.load_state_dict(AudioTokenizer.own(recipe.init_vocoder).vocoder.state_dict())
    c = model.config
    sources = list_sources(recipe.data)
    speakers = {s.speaker for s in sources if s.speech} - set(recipe.always_train)
    heldout = {s for s in speakers if is_heldout(s, recipe.heldout_percent)}
    train = [s for s in sources if s.speaker not in heldout]
    with accelerator.main_process_first():  # it writes the files that the others open
        if accelerator.is_main_process:
            (out / "split.json").write_text(json.dumps({"heldout_speakers": sorted(heldout)}, indent=1))
        clips = ClipStore.build(out / "clips" / "train", train, c.sample_rate, c.feature_hop, recipe.workers)
        tests = heldout_clips(
            out / "clips" / "heldout", [s for s in sources if s.speaker in heldout], recipe.evaluate_clips, c
        )
    accelerator.print(
        f"{clips.hours:.2f} h of {len(clips.frames)} clips; {len(heldout)} of {len(speakers)} speakers held out; "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters"
    )

    codec = CodecInTraining(model, recipe.commitment, recipe.auditory_weight)
    frames = round(recipe.crop_seconds * c.sample_rate / c.hop) * c.stride
    if not frames:
        raise UserError(
            f"crop_seconds should be at least a frame of codes, {c.hop / c.sample_rate:g}, not {recipe.crop_seconds}"
        )
    state = find_state(out / "state")
    if recipe.init:
        codec.adopt_codebooks()
    elif not state:
        accelerator.print("fitting linear transforms and first codebooks")
        codec.fit(clips, recipe.seed, recipe.fit_crops, frames, recipe.batch)
    discriminators = Discriminators()
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, betas=(0.8, 0.98), weight_decay=0.01, fused=True
    )
    critic_optimizer = torch.optim.AdamW(
        discriminators.parameters(), recipe.learning_rate / 4, betas=(0.8, 0.98), fused=True
    )
    average = WeightAverage(model, recipe.average_decay)
    optimizers: dict[str, torch.optim.Optimizer] = {"optimizer": optimizer, "critic_optimizer": critic_optimizer}
    step, elapsed = 0, 0.0
    unfitted = bool(c.wave_books and (recipe.stages.get("tokens") or not recipe.init or "wave_books" in recipe.grow))
    if state:
        facts, tensors = load_state(state, optimizers)
        codec.load_state_dict(tensors["codec"])
        discriminators.load_state_dict(tensors["discriminators"])
        average.state, average.updates = tensors["average"], facts["updates"]
        step, elapsed, unfitted = facts["step"], facts["elapsed"], facts["unfitted"]
        accelerator.print(f"resuming at step {step}")
    device = accelerator.device
    average.state = {k: v.to(device) for k, v in average.state.items()}
    codec, discriminators, optimizer, critic_optimizer = accelerator.prepare(
        codec, discriminators, optimizer, critic_optimizer
    )
    inner = accelerator.unwrap_model(codec)
    writer = SummaryWriter(str(out / "logs")) if accelerator.is_main_process else None

    short = round(recipe.adversarial_seconds * c.sample_rate)
    clock, shown = Clock(recipe.steps, recipe.minutes, elapsed), time.time()
    sums: dict[str, float] = {}

    def checkpoint() -> None:
        facts = {"step": step, "elapsed": clock.elapsed(), "updates": average.updates, "unfitted": unfitted}
        parts = {
            "codec": inner.state_dict(),
            "discriminators": accelerator.unwrap_model(discriminators).state_dict(),
            "average": average.state,
        }
        save_state(out / "state", facts, parts, {k: getattr(o, "optimizer", o) for k, o in optimizers.items()})
        averaged(inner.model, average).save_pretrained(out / "checkpoint")

    def fit_waveform_now() -> None:
        nonlocal unfitted
        accelerator.print("fitting the books for the waveform")
        fitted = fit_waveform_books(averaged(inner.model, average), clips, recipe, frames)
        inner.model.load_state_dict(fitted, strict=False)
        average.state |= {k: v.to(device) for k, v in fitted.items()}
        unfitted = False

    loader = ThreadPoolExecutor(1)  # so that no step waits for its crops

    def load(step: int) -> Future[Batch]:
        index = step * accelerator.num_processes + accelerator.process_index
        return loader.submit(clips.batch, recipe.seed, index, recipe.batch, frames)

    codec.train()
    coming = load(step)
    stage, _ = stage_at(
        clock.progress(step, device), recipe.stages
    )  # a finished run that is started again has no more steps
    while (done := clock.progress(step, device)) < 1:
        stage, done_stage = stage_at(done, recipe.stages)
        if stage == "waveform" and unfitted:
            fit_waveform_now()
        rate = recipe.learning_rate * cosine_rate(done_stage, WARMUP)
        adversarial = stage == "decoder" and done_stage >= recipe.adversarial_from
        torch.manual_seed(recipe.seed * 1_000_003 + step * accelerator.num_processes + accelerator.process_index)
        rng = np.random.default_rng((recipe.seed, step, accelerator.process_index, 1))
        batch = Batch(*(t.to(device) for t in coming.result()))
        coming = load(step + 1)
        made = codec(stage, batch, step < recipe.known_pitch and not recipe.init, rng)
        losses, wav = made.losses, made.wav
        loss = torch.stack(list(losses.values())).sum()
        if adversarial:
            at = int(rng.integers(0, wav.shape[1] - short + 1))
            real, fake = batch.wav[:, at : at + short], wav[:, at : at + short]
            for group in critic_optimizer.param_groups:
                group["lr"] = rate / 4
            critic_optimizer.zero_grad()
            losses["critic"] = discriminator_loss(discriminators(real), discriminators(fake.detach()))
            accelerator.backward(losses["critic"])
            critic_optimizer.step()
            losses["adversarial"], losses["features"] = generator_losses(discriminators(real), discriminators(fake))
            loss = loss + recipe.adversarial_weight * losses["adversarial"] + recipe.feature_weight * losses["features"]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(inner.model.parameters(), 1.0)
        optimizer.step()
        if stage == "tokens":
            inner.export_codebooks()
        average.update(inner.model)
        step += 1

        for k, v in losses.items():
            sums[k] = sums.get(k, 0.0) + float(v.detach())
        if step % 50 == 0 and writer:
            speed = (time.time() - shown) / 50
            left = clock.left(step, speed)
            means = {k: v / 50 for k, v in sums.items()}
            print(
                f"step {step}  "
                + "  ".join(f"{k} {v:.3f}" for k, v in means.items())
                + f"  {speed:.2f} s/step  {left / 60:.0f} min left",
                flush=True,
            )
            for k, v in means.items():
                writer.add_scalar(f"train/{k}", v, step)
            sums, shown = {}, time.time()
        if not accelerator.is_main_process:
            continue
        if step % recipe.save_every == 0:
            checkpoint()
        if step % recipe.evaluate_every == 0:
            report(averaged(inner.model, average), tests, stage, step, out, writer)
    loader.shutdown(cancel_futures=True)
    if accelerator.is_main_process:
        if unfitted:
            fit_waveform_now()
        checkpoint()
        report(averaged(inner.model, average), tests, stage, step, out, writer)
    return out / "checkpoint"


def grown(model: AudioTokenizer, sizes: dict[str, int]) -> AudioTokenizer:
    """The same function with more blocks to learn with, whose output matrices are zero, or with books for the waveform."""
    deeper = AudioTokenizer(dataclasses.replace(model.config, **sizes))
    theirs, own = model.state_dict(), deeper.state_dict()
    new = re.compile(r"\w+\.(conv|attention)\.|wave\.")
    wrong = [k for k, v in theirs.items() if k not in own or own[k].shape != v.shape] + [
        k for k in own if k not in theirs and not new.match(k)
    ]
    if wrong:
        raise UserError(f"grow can only add blocks, layers and books for the waveform; {sizes} would change {wrong[0]}")
    deeper.load_state_dict(own | theirs)
    return deeper


def averaged(model: AudioTokenizer, average: WeightAverage) -> AudioTokenizer:
    twin = AudioTokenizer(model.config)
    twin.load_state_dict({k: v.cpu() for k, v in average.state.items()})
    return twin.eval()


def stage_at(progress: float, shares: dict[str, float]) -> tuple[str, float]:
    """The stage that the run is in at `progress` (0 to 1), and the progress within it."""
    total, began = sum(shares.values()), 0.0
    present = [name for name in STAGES if shares.get(name)]
    for name in present:
        share = shares[name] / total
        if progress < began + share or name == present[-1]:
            return name, min(1.0, (progress - began) / share)
        began += share
    raise AssertionError("unreachable: the last stage takes the rest")


def train(
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value pairs that override the recipe", show_default=False)
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML recipe", show_default=False)] = None,
) -> None:
    """Train or fine-tune the audio tokenizer.  Running the same command again continues where it stopped.

    Example: solfa train codec --config docs/recipes/codec-cpu.yaml data=[my_recordings] minutes=60
    """
    recipe = recipes.load(CodecRecipe, config, settings or [])
    if not recipe.data:
        raise UserError("the recipe names no data; add data=[FOLDER, ...]")
    folder = run(recipe)
    Path(recipe.out, "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1))
    print(f"checkpoint: {folder}")
