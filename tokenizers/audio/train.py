"""`solfa train codec`: train the audio tokenizer on folders of audio, on a CPU or a GPU.

One step: crops -> latents -> residual VQ (moving-average codebooks) -> a random number of books per
crop -> waveform, with the source driven by the measured F0 -> mel, F0 and commitment losses, and late in the run adversarial
ones on short crops.  The run's folder holds `state/` (resume), `checkpoint/` (averaged weights), `samples/` and TensorBoard logs.
"""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from torch import Tensor, nn

from solfa import recipe as recipes
from solfa.errors import UserError
from solfa.tokenizers.audio.clips import Batch, ClipStore, is_heldout, list_sources
from solfa.tokenizers.audio.discriminator import Discriminators, discriminator_loss, generator_losses
from solfa.tokenizers.audio.learning import LearningQuantizer
from solfa.tokenizers.audio.losses import MultiResolutionMelLoss
from solfa.tokenizers.audio.model import MEAN_F0, AudioTokenizer, AudioTokenizerConfig
from solfa.tokenizers.audio_io import write_wav
from solfa.training import WeightAverage, cosine_rate, find_state, load_state, save_state


@dataclass(frozen=True)
class CodecRecipe:
    """Settings of one training run.  Progress is counted in steps, or in minutes where `minutes` is given."""

    data: tuple[str, ...]
    out: str = "runs/codec"
    model: AudioTokenizerConfig = AudioTokenizerConfig()
    init: str | None = None  # checkpoint to fine-tune
    heldout_percent: float = 8.0  # of the speakers
    always_train: tuple[str, ...] = ()  # speakers that are never held out
    steps: int = 100_000
    minutes: float | None = None
    batch: int = 8
    crop_seconds: float = 1.28
    learning_rate: float = 7e-4
    quantize_after: int = 200  # steps in which the latents settle before the codebooks are placed among them
    commitment: float = 0.05
    pitch_weight: float = 3.0
    adversarial_from: float = 1.0  # share of the run after which the discriminators join; 1 = never
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


class Reconstruction(NamedTuple):
    wav: Tensor  # (B, n)
    log_f0: Tensor  # (B, T)
    commitment: Tensor  # scalar


class CodecInTraining(nn.Module):
    """The tokenizer with the learning quantizer in place of the fixed one."""

    def __init__(self, model: AudioTokenizer, quantize_after: int):
        super().__init__()
        c = model.config
        self.model, self.quantize_after = model, quantize_after
        self.learning = LearningQuantizer(c.books, c.codebook_size, c.codebook_dim)

    def forward(self, batch: Batch, step: int, rng: np.random.Generator) -> Reconstruction:
        z = self.model.latents(batch.wav)
        commitment = z.new_zeros(())
        if step >= self.quantize_after:
            with torch.autocast(z.device.type, enabled=False):
                per_book, commitment = self.learning(z)
            z = z + (self._drop_books(per_book, rng) - z).detach()
        decoded = self.model.decode_latents(z)
        return Reconstruction(self.model.synthesize(decoded, batch.f0), decoded.log_f0, commitment)

    def _drop_books(self, per_book: Tensor, rng: np.random.Generator) -> Tensor:
        """Quantizer dropout per crop: half keep the language model's books, a quarter all, a quarter any number."""
        books, size = per_book.shape[:2]
        kind = rng.random(size)
        keep = np.where(kind < 0.5, self.model.lm_books, np.where(kind < 0.75, books, rng.integers(1, books + 1, size)))
        mask = torch.arange(books)[:, None] < torch.from_numpy(keep)[None]
        return (per_book * mask.to(per_book)[:, :, None, None]).sum(0)

    def export_codebooks(self) -> None:
        self.model.quantizer.codebooks.copy_(self.learning.codebooks)


@torch.inference_mode()
def heldout_metrics(model: AudioTokenizer, waves: list[Tensor], books: int) -> dict[str, float]:
    """Mel loss, PESQ-WB and STOI over held-out clips at `books` books."""
    from solfa.tokenizers.audio.metrics import pesq_wb, stoi

    mel_loss = MultiResolutionMelLoss(model.sample_rate)
    rows = []
    for wav in waves:
        guess = model.decode(model.encode(wav, model.sample_rate)[:, :books])[0, : len(wav)]
        pair = wav.numpy(), guess.numpy(), model.sample_rate
        rows.append((mel_loss(guess[None], wav[None]).item(), pesq_wb(*pair), stoi(*pair)))
    mel, pesq, intelligibility = np.nanmean(np.array(rows, float), axis=0)
    return {"mel": float(mel), "pesq_wb": float(pesq), "stoi": float(intelligibility)}


def run(recipe: CodecRecipe) -> Path:
    """Train, or continue a run found in `recipe.out`.  -> the folder of the averaged checkpoint."""
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from torch.utils.tensorboard import SummaryWriter

    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    accelerator = Accelerator(mixed_precision=recipe.precision, cpu=not torch.cuda.is_available())
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    set_seed(recipe.seed)

    model = AudioTokenizer.from_pretrained(recipe.init) if recipe.init else AudioTokenizer(recipe.model)
    c = model.config
    sources = list_sources(recipe.data)
    speakers = {s.speaker for s in sources if s.speech} - set(recipe.always_train)
    heldout = {s for s in speakers if is_heldout(s, recipe.heldout_percent)}
    train = [s for s in sources if s.speaker not in heldout]
    (out / "split.json").write_text(json.dumps({"heldout_speakers": sorted(heldout)}, indent=1))
    clips = ClipStore.build(out / "clips" / "train", train, c.sample_rate, c.feature_hop, recipe.workers)
    tests = heldout_waves(out, [s for s in sources if s.speaker in heldout], recipe, c)
    accelerator.print(
        f"{clips.hours:.2f} h of {len(clips.frames)} clips; {len(heldout)} of {len(speakers)} speakers held out; "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters"
    )

    codec = CodecInTraining(model, recipe.quantize_after if not recipe.init else 0)
    if recipe.init:
        adopt_codebooks(codec)
    discriminators = Discriminators()
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, betas=(0.8, 0.98), weight_decay=0.01, fused=True)
    critic_optimizer = torch.optim.AdamW(discriminators.parameters(), recipe.learning_rate / 4, betas=(0.8, 0.98), fused=True)
    average = WeightAverage(model, recipe.average_decay)
    optimizers: dict[str, torch.optim.Optimizer] = {"optimizer": optimizer, "critic_optimizer": critic_optimizer}
    step, elapsed = 0, 0.0
    if state := find_state(out / "state"):
        facts, tensors = load_state(state, optimizers)
        codec.load_state_dict(tensors["codec"])
        discriminators.load_state_dict(tensors["discriminators"])
        average.state, average.updates = tensors["average"], facts["updates"]
        step, elapsed = facts["step"], facts["elapsed"]
        accelerator.print(f"resuming at step {step}")
    device = accelerator.device
    mel_loss = MultiResolutionMelLoss(c.sample_rate).to(device)
    average.state = {k: v.to(device) for k, v in average.state.items()}
    codec, discriminators, optimizer, critic_optimizer = accelerator.prepare(codec, discriminators, optimizer, critic_optimizer)
    inner = accelerator.unwrap_model(codec)
    writer = SummaryWriter(str(out / "logs")) if accelerator.is_main_process else None

    frames = round(recipe.crop_seconds * c.sample_rate / c.hop) * c.stride
    short = round(recipe.adversarial_seconds * c.sample_rate)
    began, shown = time.time() - elapsed, time.time()
    sums: dict[str, float] = {}

    def progress() -> float:
        return (time.time() - began) / (60 * recipe.minutes) if recipe.minutes else step / recipe.steps

    def checkpoint() -> None:
        facts = {"step": step, "elapsed": time.time() - began, "updates": average.updates}
        parts = {"codec": inner.state_dict(), "discriminators": accelerator.unwrap_model(discriminators).state_dict(), "average": average.state}
        save_state(out / "state", facts, parts, {k: getattr(o, "optimizer", o) for k, o in optimizers.items()})
        averaged(inner.model, average).save_pretrained(out / "checkpoint")

    codec.train()
    while (done := progress()) < 1:
        rate = recipe.learning_rate * cosine_rate(done)
        adversarial = done >= recipe.adversarial_from
        torch.manual_seed(recipe.seed * 1_000_003 + step * accelerator.num_processes + accelerator.process_index)
        rng = np.random.default_rng((recipe.seed, step, accelerator.process_index, 1))
        index = step * accelerator.num_processes + accelerator.process_index
        batch = Batch(*(t.to(device) for t in clips.batch(recipe.seed, index, recipe.batch, frames)))
        made = codec(batch, step, rng)
        wav = made.wav.float()
        losses = {
            "mel": mel_loss(wav, batch.wav),
            "pitch": ((made.log_f0 - (batch.f0 / MEAN_F0).log()) * batch.voiced).abs().sum() / batch.voiced.sum().clamp_min(1),
            "commitment": made.commitment,
        }
        weights = {"mel": 1.0, "pitch": recipe.pitch_weight, "commitment": recipe.commitment}
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
            weights |= {"adversarial": recipe.adversarial_weight, "features": recipe.feature_weight}
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        accelerator.backward(sum(w * losses[k] for k, w in weights.items()))
        accelerator.clip_grad_norm_(inner.model.parameters(), 1.0)
        optimizer.step()
        if step >= inner.quantize_after:
            inner.export_codebooks()
        average.update(inner.model)
        step += 1

        for k, v in losses.items():
            sums[k] = sums.get(k, 0.0) + float(v.detach())
        if step % 50 == 0 and writer:
            speed = (time.time() - shown) / 50
            left = (1 - done) * (60 * recipe.minutes if recipe.minutes else speed * recipe.steps)
            means = {k: v / 50 for k, v in sums.items()}
            print(f"step {step}  " + "  ".join(f"{k} {v:.3f}" for k, v in means.items()) + f"  {speed:.2f} s/step  {left / 60:.0f} min left", flush=True)
            for k, v in means.items():
                writer.add_scalar(f"train/{k}", v, step)
            sums, shown = {}, time.time()
        if not accelerator.is_main_process:
            continue
        if step % recipe.save_every == 0:
            checkpoint()
        if step % recipe.evaluate_every == 0:
            report(averaged(inner.model, average), tests, step, out, writer)
    if accelerator.is_main_process:
        checkpoint()
        report(averaged(inner.model, average), tests, step, out, writer)
    return out / "checkpoint"


def averaged(model: AudioTokenizer, average: WeightAverage) -> AudioTokenizer:
    twin = AudioTokenizer(model.config)
    twin.load_state_dict({k: v.cpu() for k, v in average.state.items()})
    return twin.eval()


def adopt_codebooks(codec: CodecInTraining) -> None:
    """Start the learning quantizer from the codebooks of a trained tokenizer."""
    codec.learning.codebooks.copy_(codec.model.quantizer.codebooks)
    codec.learning.ready.fill_(True)


def heldout_waves(out: Path, sources: list, recipe: CodecRecipe, c: AudioTokenizerConfig) -> list[Tensor]:
    """At most one clip of each held-out speaker, 2 to 8 seconds of each."""
    one_each = list({s.speaker: s for s in sources if s.speech}.values())[: recipe.evaluate_clips]
    if not one_each:
        return []
    store = ClipStore.build(out / "clips" / "heldout", one_each, c.sample_rate, c.feature_hop, 1)
    spans = [(int(a) * c.feature_hop, int(n) * c.feature_hop) for a, n in zip(store.start, store.frames, strict=True)]
    return [torch.from_numpy(store.samples[a : a + min(n, 8 * c.sample_rate)].astype(np.float32)) for a, n in spans]


def report(model: AudioTokenizer, waves: list[Tensor], step: int, out: Path, writer) -> None:
    """Print and log metrics on held-out speakers, and write samples to listen to."""
    for books in (model.lm_books, model.books):
        if waves:
            metrics = heldout_metrics(model, waves, books)
            print(f"held-out speakers at step {step}, {books} books: " + "  ".join(f"{k} {v:.3f}" for k, v in metrics.items()), flush=True)
            for k, v in metrics.items():
                writer.add_scalar(f"heldout{books}/{k}", v, step)
    for i, wav in enumerate(waves[:3]):
        with torch.inference_mode():
            made = model.decode(model.encode(wav, model.sample_rate)[:, : model.lm_books])[0, : len(wav)]
        write_wav(out / "samples" / f"{i}-original.wav", wav.numpy(), model.sample_rate)
        write_wav(out / "samples" / f"{i}-step{step}.wav", made.numpy(), model.sample_rate)


def train(
    settings: Annotated[list[str] | None, typer.Argument(help="key=value pairs that override the recipe", show_default=False)] = None,
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
