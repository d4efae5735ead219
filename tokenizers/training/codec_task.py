"""The audio tokenizer's training as a task of the loop: what a step does, what is measured, and what is kept."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solfa.core.errors import UserError
from solfa.core.training import WeightAverage, cosine_rate
from solfa.core.training_loop import StepReport, TaskState, TrainingLoop, TrainingTask
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.training import heldout
from solfa.tokenizers.training.clips import Batch, ClipStore
from solfa.tokenizers.training.codec_recipe import CodecRecipe
from solfa.tokenizers.training.discriminator import Discriminators, discriminator_loss, generator_losses
from solfa.tokenizers.training.fitting import fit_waveform_books
from solfa.tokenizers.training.heldout import HeldoutClip
from solfa.tokenizers.training.stages import CodecInTraining, stage_at

WARMUP = 0.1  # of each stage: codebooks are moving averages; an encoder that is faster than they undoes what was fitted
PANELS = (
    ("losses", ("mel", "auditory", "loudness", "spectra", "commitment", "estimate"), True),
    ("pitch and voicing", ("pitch", "voicing"), True),
    ("discriminators", ("critic", "adversarial", "features"), False),
    ("held-out speakers", ("heldout",), False),
)


class CodecTask(TrainingTask):
    """Training `model` on `clips`, and measuring it on `tests`.

    coming: the crops of the next step, which a thread reads while this one is computed.
    unfitted: whether the books for the waveform are still to be fitted.
    """

    panels = PANELS
    average: WeightAverage
    averaged: AudioTokenizer

    def __init__(
        self,
        loop: TrainingLoop,
        recipe: CodecRecipe,
        model: AudioTokenizer,
        clips: ClipStore,
        tests: list[HeldoutClip],
    ):
        self.loop, self.recipe, self.clips, self.tests = loop, recipe, clips, tests
        c = model.config
        codec = CodecInTraining(model, recipe.commitment, recipe.auditory_weight)
        self.frames = round(recipe.crop_seconds * c.sample_rate / c.hop) * c.stride
        if not self.frames:
            frame = c.hop / c.sample_rate
            raise UserError(f"crop_seconds should be at least a frame of codes, {frame:g}, not {recipe.crop_seconds}")
        self.critic_samples = round(recipe.adversarial_seconds * c.sample_rate)
        if recipe.init:
            codec.import_codebooks()
        elif not loop.found:
            loop.print("fitting linear transforms and first codebooks")
            codec.fit(clips, recipe.seed, recipe.fit_crops, self.frames, recipe.batch)
        critics = Discriminators()
        rate, betas = recipe.learning_rate, (0.8, 0.98)
        optimizer = torch.optim.AdamW(model.parameters(), rate, betas=betas, weight_decay=0.01, fused=True)
        critic_optimizer = torch.optim.AdamW(critics.parameters(), rate / 4, betas=betas, fused=True)
        self.optimizers = {"optimizer": optimizer, "critic_optimizer": critic_optimizer}
        self.codec, self.critics, self.optimizer, self.critic_optimizer = loop.accelerator.prepare(
            codec, critics, optimizer, critic_optimizer
        )
        self.inner: CodecInTraining = loop.accelerator.unwrap_model(self.codec)
        self.averaged = self.inner.model
        self.average = WeightAverage(self.averaged, recipe.average_decay)
        new_codes = recipe.stages.get("tokens") or not recipe.init or "wave_books" in recipe.grow
        self.unfitted = bool(c.wave_books and new_codes)
        self.stage, _ = stage_at(0.0, recipe.stages)
        self.loader = ThreadPoolExecutor(1)
        self.coming: tuple[int, Future[Batch]] | None = None
        self.codec.train()

    def train_step(self, progress: float) -> StepReport:
        recipe, loop = self.recipe, self.loop
        self.stage, within = stage_at(progress, recipe.stages)
        if self.stage == "waveform" and self.unfitted:
            self._fit_waveform()
        rate = recipe.learning_rate * cosine_rate(within, WARMUP)
        torch.manual_seed(recipe.seed * 1_000_003 + loop.step * loop.processes + loop.process)
        rng = np.random.default_rng((recipe.seed, loop.step, loop.process, 1))
        batch = self._batch()
        give_pitch = loop.step < recipe.known_pitch and not recipe.init
        made = self.codec(self.stage, batch, give_pitch, rng)
        losses = made.losses
        loss = torch.stack(list(losses.values())).sum()
        if self.stage == "decoder" and within >= recipe.adversarial_from:
            start = int(rng.integers(0, made.wav.shape[1] - self.critic_samples + 1))
            crop = slice(start, start + self.critic_samples)
            against = self._adversarial_step(batch.wav[:, crop], made.wav[:, crop], rate / 4)
            losses |= against
            loss = loss + recipe.adversarial_weight * against["adversarial"]
            loss = loss + recipe.feature_weight * against["features"]
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        loop.accelerator.backward(loss)
        loop.accelerator.clip_grad_norm_(self.averaged.parameters(), 1.0)
        self.optimizer.step()
        if self.stage == "tokens":
            self.inner.export_codebooks()
        return StepReport({name: float(value.detach()) for name, value in losses.items()})

    def _batch(self) -> Batch:
        """The crops of this step; those of the next one are begun."""
        if self.coming is None or self.coming[0] != self.loop.step:
            self.coming = self._read(self.loop.step)
        batch = Batch(*(t.to(self.loop.device) for t in self.coming[1].result()))
        self.coming = self._read(self.loop.step + 1)
        return batch

    def _read(self, step: int) -> tuple[int, Future[Batch]]:
        index = step * self.loop.processes + self.loop.process
        return step, self.loader.submit(self.clips.batch, self.recipe.seed, index, self.recipe.batch, self.frames)

    def _adversarial_step(self, real: Tensor, fake: Tensor, rate: float) -> dict[str, Tensor]:
        """Train the discriminators on crops (B, n).  -> their loss and the two that the generator gets from them."""
        set_rate(self.critic_optimizer, rate)
        self.critic_optimizer.zero_grad()
        critic = discriminator_loss(self.critics(real), self.critics(fake.detach()))
        self.loop.accelerator.backward(critic)
        self.critic_optimizer.step()
        adversarial, features = generator_losses(self.critics(real), self.critics(fake))
        return {"critic": critic, "adversarial": adversarial, "features": features}

    def _fit_waveform(self) -> None:
        self.loop.print("fitting the books for the waveform")
        r = self.recipe
        fitted = fit_waveform_books(self._average_model(), self.clips, r.seed, r.wave_crops, self.frames)
        self.averaged.load_state_dict(fitted, strict=False)
        self.average.state |= {k: v.to(self.loop.device) for k, v in fitted.items()}
        self.unfitted = False

    def _average_model(self) -> AudioTokenizer:
        """On the CPU, as others will load it."""
        twin = AudioTokenizer(self.averaged.config)
        twin.load_state_dict({k: v.cpu() for k, v in self.average.state.items()})
        return twin.eval()

    def finish(self) -> bool:
        """Fit the books for the waveform, where no stage did: in the first process, which saves them."""
        if not self.unfitted:
            return False
        if self.loop.main:
            self._fit_waveform()
        self.unfitted = False
        return True

    def evaluate(self) -> dict[str, float]:
        if not self.loop.main:
            return {}
        samples = self.loop.out / "samples"
        return heldout.evaluate(self._average_model(), self.tests, self.stage, self.loop.step, samples)

    def state(self) -> TaskState:
        critics: Any = self.loop.accelerator.unwrap_model(self.critics)
        tensors = {"codec": self.inner.state_dict(), "discriminators": critics.state_dict()}
        return TaskState({"unfitted": self.unfitted}, tensors)

    def load_tensors(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        self.inner.load_state_dict(tensors["codec"])
        self.loop.accelerator.unwrap_model(self.critics).load_state_dict(tensors["discriminators"])

    def resumed(self, facts: dict[str, Any]) -> None:
        self.unfitted = facts["unfitted"]
        self.stage, _ = stage_at(min(1.0, self.loop.clock.progress(facts["step"])), self.recipe.stages)

    def save_checkpoint(self, folder: Path, state: TaskState) -> None:
        self._average_model().save_pretrained(folder)

    def close(self) -> None:
        """End the thread that reads ahead."""
        self.loader.shutdown(cancel_futures=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
