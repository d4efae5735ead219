"""`solfa train omni`: train the decoder on packed rows of text, audio tokens, or both.

One step: `rows` rows, spread over the processes and over passes of `rows_at_once` -> the mean cross entropy of each row of
the grid over all labels of the step -> `solfa.omni.training.stability` judges loss and gradient -> AdamW, or the step is skipped, or
the last good checkpoint comes back while the data goes on.  Several processes (`accelerate launch`, `torchrun`) shard the
model with FSDP2 and compute what one would.  The state on disk is all that a run is: continuing from it gives the same
bits as never having stopped.
"""

import dataclasses
import functools
import json
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import torch.distributed
import typer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from solfa.core import recipe as recipes
from solfa.core.errors import UserError
from solfa.core.progress import Progress
from solfa.core.training import Clock, cosine_rate, find_state, load_state, save_state, wsd_rate
from solfa.omni.decoder.decoder import DecoderConfig
from solfa.omni.model.grid import TokenGrid
from solfa.omni.model.omni_model import BOOK_WEIGHTS, OmniConfig
from solfa.omni.model.patches import LocalConfig
from solfa.omni.training.flops import TRAINING, peak_flops
from solfa.omni.training.metrics_log import Log
from solfa.omni.training.objectives import Objective, OmniObjective, TextObjective
from solfa.omni.training.packing import BYTES, Packed, PackedRows, SourceConfig, open_source
from solfa.omni.training.stability import (
    Guard,
    Monitor,
    Sight,
    StabilityConfig,
    Verdict,
    gradient_norm,
    qk_clip,
    revive_routers,
    shard_like,
    whole,
)


@dataclass(frozen=True)
class OmniRecipe:
    """Settings of one training run.  Progress is counted in steps, or in minutes where `minutes` is given.

    init: a checkpoint of the same shape to start from.
    tied: whether a model of text alone reads and writes with one table.
    mtp: blocks of multi-token prediction, whose losses weigh `mtp_weight` together.  One is trained first; a run whose `init`
        has one and that has more starts each from a copy.
    books: rows of audio in the grid, of `codebook_size` codes; 0 trains a model of text alone.
    row_steps, rows: a step of training reads `rows` rows of `row_steps` steps, `rows_at_once` in one pass of one process.
    schedule: "cosine", or "wsd" (warm up, stay, decay); `warmup` and `decay` are shares of the run.
    """

    data: dict[str, SourceConfig]
    out: str = "runs/omni"
    init: str | None = None
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    tied: bool = False
    mtp: int = 0
    mtp_weight: float = 0.3
    books: int = 0
    codebook_size: int = 1024
    patch_size: int = 4
    patch_encoder: LocalConfig = LocalConfig(layers=1)
    patch_decoder: LocalConfig = LocalConfig()
    text_weight: float = 1.0
    book_weights: tuple[float, ...] = BOOK_WEIGHTS
    row_steps: int = 512
    rows: int = 16
    rows_at_once: int = 16
    heldout: int = 100
    steps: int = 10_000
    minutes: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.02
    decay: float = 0.2
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    betas: tuple[float, ...] = (0.9, 0.95)
    clip_norm: float = 1.0
    balance_rate: float = 1e-3
    precision: str = "bf16"
    checkpointing: bool = False
    stability: StabilityConfig = StabilityConfig()
    log_every: int = 10
    save_every: int = 500
    evaluate_every: int = 500
    evaluate_rows: int = 32
    seed: int = 0
    threads: int | None = None

    def rate(self, progress: float) -> float:
        """The learning rate at `progress` in 0..1."""
        if self.schedule == "wsd":
            return self.learning_rate * wsd_rate(progress, self.warmup, self.decay)
        return self.learning_rate * cosine_rate(progress, self.warmup)

    def check(self) -> None:
        """Raises: UserError for settings that do not fit each other."""
        if self.schedule not in ("cosine", "wsd"):
            raise UserError(f"schedule should be cosine or wsd, not {self.schedule!r}")
        if self.precision not in ("no", "bf16"):
            raise UserError(f"precision should be bf16 or no, not {self.precision!r}")
        if self.books > len(self.book_weights):
            raise UserError(f"{self.books} books need as many book_weights, not {len(self.book_weights)}")


def make_objective(recipe: OmniRecipe) -> Objective:
    if not recipe.books:
        grid = TokenGrid(BYTES, books=(), patch_size=1)
        return TextObjective(grid, recipe.decoder, recipe.tied, recipe.mtp, recipe.mtp_weight)
    grid = TokenGrid(BYTES, (recipe.codebook_size,) * recipe.books, recipe.patch_size)
    config = OmniConfig(grid, recipe.decoder, recipe.patch_encoder, recipe.patch_decoder, mtp=recipe.mtp)
    return OmniObjective(config, recipe.text_weight, recipe.book_weights[: recipe.books], recipe.mtp_weight)


class Step(NamedTuple):
    """metrics: for the log, `event` being what was done about trouble; tokens, flops: of all processes, about."""

    metrics: dict[str, Any]
    tokens: int
    flops: float


class Trainer:
    """A run: `step` until `progress` is 1, with `save` and `evaluate` in between."""

    def __init__(self, recipe: OmniRecipe):
        from accelerate import Accelerator
        from accelerate.utils import set_seed

        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        recipe.check()
        self.recipe = recipe
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.device, self.processes, self.process = (
            self.accelerator.device,
            self.accelerator.num_processes,
            self.accelerator.process_index,
        )
        self.main = self.accelerator.is_main_process
        for name in ("rows", "evaluate_rows"):
            if getattr(recipe, name) % (self.processes * recipe.rows_at_once):
                raise UserError(
                    f"{name}={getattr(recipe, name)} is no multiple of {self.processes} processes x rows_at_once={recipe.rows_at_once}"
                )
        self.out = Path(recipe.out)
        set_seed(recipe.seed)  # the same weights in every process
        self.objective = make_objective(recipe)
        if recipe.init is not None:
            self.objective.adopt(recipe.init)
        self.data = self._read(heldout=False)
        self.heldout = self._read(heldout=True) if recipe.heldout else None
        self.model = self.objective.model.to(self.device)
        self.decoder = self.objective.decoder
        self.step_number, self.offset, self.clock = 0, 0, Clock(recipe.steps, recipe.minutes)
        self.collapsed = 0  # looks in a row at a router that has collapsed
        self.guard = Guard(recipe.stability)
        self.monitor = Monitor(self.decoder)
        self.parameters = self._prepare()
        self.optimizer = self._optimizer()
        self.saved_at = -1

    def _sum(self, x: Tensor) -> Tensor:
        """Over all processes."""
        if self.processes > 1:
            torch.distributed.all_reduce(x)
        return x

    # Setting up

    def _read(self, heldout: bool) -> PackedRows:
        r = self.recipe
        sources = [open_source(s, self.objective.grid, r.row_steps, heldout, r.heldout) for s in r.data.values()]
        return PackedRows(self.objective.grid, sources, [s.weight for s in r.data.values()], r.row_steps, r.seed)

    def _prepare(self) -> list[nn.Parameter]:
        """Gradient checkpointing, then sharding, layer by layer."""
        if self.recipe.checkpointing:
            for layer in self.decoder.layers:
                layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
        if self.processes > 1:
            # accelerate 1.15 takes its own FSDP plugin on GPUs only; this is what that plugin calls
            from torch.distributed.fsdp import fully_shard

            mesh = torch.distributed.device_mesh.init_device_mesh(self.device.type, (self.processes,))
            for layer in self.decoder.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(self.objective, mesh=mesh)
        return list(self.model.parameters())

    def _optimizer(self) -> torch.optim.AdamW:
        decayed = [p for n, p in self.model.named_parameters() if p.dim() > 1 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if p.dim() <= 1 or "embed" in n]
        groups = [
            {"params": decayed, "weight_decay": self.recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, self.recipe.learning_rate, betas=(self.recipe.betas[0], self.recipe.betas[1]))

    # One step

    def progress(self) -> float:
        """How much of the run is done, the same in every process."""
        return self.clock.progress(self.step_number, self.device)

    def batch(self, position: int) -> Packed:
        """This process's rows of the step at `position` of the data."""
        share = self.recipe.rows // self.processes
        return self.data.rows(position * self.recipe.rows + self.process * share, share)

    def losses(self, batch: Packed, backward: bool) -> dict[str, float]:
        """Mean losses over all labels of all processes' batches, `loss` being what is minimised; gradients with `backward`."""
        counts = self._sum(self.objective.counts(batch).to(self.device))
        weights = self.objective.weights.to(self.device)
        sums = torch.zeros_like(weights)
        for first in range(0, len(batch.segments), self.recipe.rows_at_once):
            part = batch.rows(first, first + self.recipe.rows_at_once).to(self.device)
            share = self.objective.counts(part) / counts.clamp(min=1)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
                means = self.objective(part)
            if backward:  # sharding averages gradients over the processes, and we want their sum
                (self.processes * (weights * share) @ means).backward()
            sums += share * means.detach()
        sums = self._sum(sums)
        return {"loss": float(sums @ weights), **self.objective.report(sums)}

    def step(self) -> "Step":
        """Train on one step of the data, or not, if the guard forbids it."""
        stability, done = self.recipe.stability, self.progress()
        looking = self.step_number % stability.monitor_every == 0 or self.guard.streak > 0 or self.collapsed > 0
        batch = self.batch(self.step_number + self.offset)
        if looking:
            self.monitor.start()
        metrics: dict[str, Any] = self.losses(batch, backward=True)
        sight = self.monitor.read() if looking else None
        norm = gradient_norm(self.parameters)
        verdict = self.guard.judge(metrics["loss"], float(norm))
        rate = self.recipe.rate(done)
        if verdict is Verdict.GOOD:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.recipe.clip_norm, norm)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        for mixture in self.decoder.moe_layers():
            mixture.rebalance(self.recipe.balance_rate if verdict is Verdict.GOOD else 0.0)
        self.optimizer.zero_grad()
        self.step_number += 1
        events = [] if verdict is Verdict.GOOD else [verdict.value]
        if sight is not None:
            events += self._mend(sight)
            metrics |= sight.scalars()
        if "roll back" in events:
            self.roll_back()
        metrics |= {"norm": float(norm), "learning_rate": rate} | ({"event": ", ".join(events)} if events else {})
        return Step(
            metrics, self.processes * sum(batch.lengths()), self.processes * TRAINING * self.objective.flops(batch)
        )

    def _mend(self, sight: Sight) -> list[str]:
        """Repair what a look inside shows to be broken.  -> what was done."""
        stability, events = self.recipe.stability, []
        if stability.qk_clip is not None and (n := qk_clip(self.decoder, sight.logits, stability.qk_clip)):
            events.append(f"clipped {n} heads")
        if n := revive_routers(self.decoder, sight.loads, stability.collapse):
            events.append(f"revived {n} routers")
        self.collapsed = self.collapsed + 1 if n else 0
        if self.collapsed >= stability.patience:
            events.append("roll back")
        return events

    # State

    def save(self) -> None:
        """Write the state, from which the run goes on or back, and the checkpoint, which others load."""
        tensors = {k: whole(v) for k, v in self.model.state_dict().items()}
        names: dict[Tensor, str] = {p: n for n, p in self.model.named_parameters()}
        moments = {f"{names[p]}|{k}": whole(v) for p, values in self.optimizer.state.items() for k, v in values.items()}
        facts = {
            "step": self.step_number, "offset": self.offset, "elapsed": self.clock.elapsed(), "collapsed": self.collapsed,
            "guard": self.guard.state(),
        }  # fmt: skip
        if self.main:
            save_state(self.out / "state", facts, {"model": tensors, "optimizer": moments}, {})
            self.objective.save(self.out / "checkpoint", tensors)
        self.accelerator.wait_for_everyone()
        self.saved_at, self.guard.roll_backs = self.step_number, 0

    def restore(self) -> bool:
        """Continue from the state in the run's folder.  -> whether there is one."""
        folder = find_state(self.out / "state")
        if folder is None:
            return False
        facts = self._load(folder)
        self.step_number, self.offset = facts["step"], facts["offset"]
        self.clock = Clock(self.recipe.steps, self.recipe.minutes, facts["elapsed"])
        self.collapsed, self.saved_at = facts["collapsed"], facts["step"]
        self.guard.restore(facts["guard"])
        return True

    def roll_back(self) -> None:
        """Take back weights and optimizer from the last good checkpoint; the data goes on from where it is."""
        folder = find_state(self.out / "state")
        assert folder is not None, "a run saves its state before the first step"
        facts = self._load(folder)
        self.offset += self.step_number - facts["step"]
        self.step_number, self.collapsed = facts["step"], 0
        self.guard.rolled_back(facts["guard"])

    @torch.no_grad()
    def _load(self, folder: Path) -> dict[str, Any]:
        facts, parts = load_state(folder, {})
        own, saved = self.model.state_dict(), parts["model"]
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in saved.items()}:
            raise UserError(f"the saved state in {folder} belongs to another model; choose another output folder")
        for name, value in own.items():
            value.copy_(shard_like(saved[name], value))
        parameters = dict(self.model.named_parameters())
        self.optimizer.state.clear()
        for key, value in parts["optimizer"].items():
            name, _, what = key.partition("|")
            p = parameters[name]
            self.optimizer.state[p][what] = shard_like(value.to(p.device), p).clone() if value.dim() else value
        return facts

    # Around the steps

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Losses on documents that training does not see."""
        assert self.heldout is not None, "the recipe holds nothing out"
        share = self.recipe.evaluate_rows // self.processes
        self.model.eval()
        losses = self.losses(self.heldout.rows(self.process * share, share), backward=False)
        self.model.train()
        return {f"heldout/{name}": value for name, value in losses.items()}

    def run(self) -> Path:
        """Train to the end.  -> the folder of the checkpoint."""
        r = self.recipe
        self.model.train()
        if self.restore():
            self.accelerator.print(f"continuing at step {self.step_number}")
        else:
            self.save()
        peak, origin = peak_flops(self.device, torch.bfloat16 if r.precision == "bf16" else torch.float32)
        self.accelerator.print(
            f"{sum(p.numel() for p in self.parameters) / 1e6:.1f}M parameters; rows {self.data.filled():.0%} full of "
            f"{' + '.join(f'{len(s.lengths):,}' for s in self.data.sources)} documents; peak {peak / 1e9:,.0f} GFLOPS ({origin})"
        )
        if left_out := sum(s.too_long for s in self.data.sources):
            self.accelerator.print(f"{left_out:,} clips are longer than a row of {r.row_steps} steps and are left out")
        log = Log(self.out, self.step_number, r.log_every, peak * self.processes) if self.main else None
        if in_steps := r.minutes is None:
            progress = Progress("training", r.steps, "steps", self.step_number)
        else:
            progress = Progress("training", round(60 * r.minutes), "s", round(self.clock.elapsed()))
        with progress if self.main else nullcontext() as bar:
            while self.progress() < 1:
                began, number = time.monotonic(), self.step_number + 1
                metrics, tokens, flops = self.step()
                seconds = time.monotonic() - began
                if self.guard.streak == 0 and self.step_number - self.saved_at >= r.save_every:
                    self.save()
                if self.heldout is not None and self.step_number % r.evaluate_every == 0:
                    metrics |= self.evaluate()
                if log is None or bar is None:
                    continue
                log.add(number, metrics, tokens, flops, seconds)
                if "event" in metrics:
                    bar.say(
                        f"step {number}: {metrics['event']} (loss {metrics['loss']:.3f}, gradient {metrics['norm']:.3g})"
                    )
                if any(name.startswith("heldout/") for name in metrics):
                    bar.say(
                        f"step {number}: "
                        + ", ".join(f"{k} {v:.3f}" for k, v in metrics.items() if k.startswith("heldout/"))
                    )
                bar.advance(1 if in_steps else round(self.clock.elapsed()) - bar.done, log.note)
            if self.saved_at != self.step_number and self.guard.streak == 0:
                self.save()
            if log is not None and bar is not None:
                log.close(bar)
        return self.out / "checkpoint"


def train(
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value pairs that override the recipe", show_default=False)
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML recipe", show_default=False)] = None,
) -> None:
    """Train the decoder on text, audio tokens, or both.  Running the same command again continues where it stopped.

    Several processes shard the model: torchrun --nproc-per-node 8 -m solfa train omni ...

    Example: solfa train omni --config docs/recipes/omni-cpu.yaml minutes=5
    """
    try:
        recipe = recipes.load(OmniRecipe, config, settings or [])
    except ValueError as e:  # what the model's own settings complain about
        raise UserError(str(e)) from None
    trainer = Trainer(recipe)
    folder = trainer.run()
    if trainer.main:
        Path(recipe.out, "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1))
        print(f"checkpoint: {folder}")
    if trainer.processes > 1:
        torch.distributed.destroy_process_group()
