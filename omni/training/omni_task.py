"""The decoder's training as a task of the loop: packed rows, losses over all processes, and what keeps it stable.

One step: `rows` rows, spread over the processes and over passes of `rows_at_once` -> the mean cross entropy of each row of
the grid over all labels of the step -> `stability` judges loss and gradient -> AdamW, or the step is skipped, or the last good
state comes back while the data go on.  Several processes shard the model with FSDP2 and compute what one would.
"""

import functools
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from solfa.core.errors import UserError
from solfa.core.training_loop import StepReport, TaskState, TrainingLoop, TrainingTask
from solfa.omni.model.grid import TokenGrid
from solfa.omni.model.omni_model import OmniConfig
from solfa.omni.training.flops import TRAINING
from solfa.omni.training.objectives import Objective, OmniObjective, TextObjective
from solfa.omni.training.omni_recipe import OmniRecipe
from solfa.omni.training.packing import BYTES, Packed, PackedRows, open_source
from solfa.omni.training.stability import (
    DecoderStatistics,
    Guard,
    Monitor,
    Verdict,
    gradient_norm,
    qk_clip,
    revive_routers,
    shard_like,
    whole,
)

PANELS = (  # title, beginnings of the names, logarithmic
    ("loss (nats)", ("loss", "text", "book", "mtp", "heldout/"), False),
    ("gradient norm", ("norm",), True),
    ("largest activation of each layer", ("activation/",), True),
    ("largest attention logit of each layer", ("logit/",), True),
    ("entropy of the experts' load, 1 is even", ("load entropy/",), False),
    ("tokens per second", ("tokens_per_second",), False),
    ("learning rate", ("learning_rate",), False),
)


def make_objective(recipe: OmniRecipe) -> Objective:
    if not recipe.books:
        grid = TokenGrid(BYTES, books=(), patch_size=1)
        return TextObjective(grid, recipe.decoder, recipe.tied, recipe.mtp, recipe.mtp_weight)
    grid = TokenGrid(BYTES, (recipe.codebook_size,) * recipe.books, recipe.patch_size)
    config = OmniConfig(grid, recipe.decoder, recipe.patch_encoder, recipe.patch_decoder, mtp=recipe.mtp)
    return OmniObjective(config, recipe.text_weight, recipe.book_weights[: recipe.books], recipe.mtp_weight)


class OmniTask(TrainingTask):
    """A decoder's training: its weights whole in one process, or shards of them (FSDP2) in several."""

    panels = PANELS

    def __init__(self, loop: TrainingLoop, recipe: OmniRecipe):
        self.loop, self.recipe, self.device, self.processes = loop, recipe, loop.device, loop.processes
        for name in ("rows", "evaluate_rows"):
            if getattr(recipe, name) % (self.processes * recipe.rows_at_once):
                raise UserError(
                    f"{name}={getattr(recipe, name)} is no multiple of {self.processes} processes x rows_at_once={recipe.rows_at_once}"
                )
        self.objective = make_objective(recipe)
        if recipe.init is not None:
            self.objective.init_from(recipe.init)
        self.data = self._read(heldout=False)
        self.heldout = self._read(heldout=True) if recipe.heldout else None
        loop.check_data(self.data.digest())
        self.model = self.objective.model.to(self.device)
        self.decoder = self.objective.decoder
        self.guard = Guard(recipe.stability)
        self.monitor = Monitor(self.decoder)
        self.parameters = self._prepare()
        self.optimizer = self._optimizer()
        self.offset = 0  # how far the data are ahead of the steps, since some were rolled back
        self.collapsed = 0  # looks in a row at a router that has collapsed
        self.model.train()

    @property
    def healthy(self) -> bool:
        return self.guard.streak == 0

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

    def batch(self, position: int) -> Packed:
        """This process's rows of the step at `position` of the data."""
        share = self.recipe.rows // self.processes
        return self.data.rows(position * self.recipe.rows + self.loop.process * share, share)

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
            if backward:  # sharding averages gradients over the processes, and their sum is needed
                (self.processes * (weights * share) @ means).backward()
            sums += share * means.detach()
        sums = self._sum(sums)
        return {"loss": float(sums @ weights), **self.objective.report(sums)}

    def train_step(self, progress: float) -> StepReport:
        """Train on one step of the data, or not, if the guard forbids it."""
        looking = (
            self.loop.step % self.recipe.stability.monitor_every == 0 or self.guard.streak > 0 or self.collapsed > 0
        )
        batch = self.batch(self.loop.step + self.offset)
        if looking:
            self.monitor.start()
        metrics: dict[str, Any] = self.losses(batch, backward=True)
        statistics = self.monitor.read() if looking else None
        norm = gradient_norm(self.parameters)
        verdict = self.guard.judge(metrics["loss"], float(norm))
        rate = self.recipe.rate(progress)
        self._update(verdict, norm, rate)
        events = [] if verdict is Verdict.GOOD else [verdict.value]
        if statistics is not None:
            events += self._repair(statistics)
            metrics |= statistics.scalars()
        metrics |= {"norm": float(norm), "learning_rate": rate} | ({"event": ", ".join(events)} if events else {})
        flops = self.processes * TRAINING * self.objective.flops(batch)
        return StepReport(metrics, self.processes * sum(batch.lengths()), flops, "roll back" in events)

    def _update(self, verdict: Verdict, norm: Tensor, rate: float) -> None:
        """Change the weights by the gradient, if the step was good; forget the gradient."""
        if verdict is Verdict.GOOD:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.recipe.clip_norm, norm)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        for mixture in self.decoder.moe_layers():
            mixture.rebalance(self.recipe.balance_rate if verdict is Verdict.GOOD else 0.0)
        self.optimizer.zero_grad()

    def _repair(self, statistics: DecoderStatistics) -> list[str]:
        """Repair what a look inside shows to be broken.  -> what was done."""
        stability, events = self.recipe.stability, []
        if stability.qk_clip is not None and (n := qk_clip(self.decoder, statistics.logits, stability.qk_clip)):
            events.append(f"clipped {n} heads")
        if n := revive_routers(self.decoder, statistics.loads, stability.collapse):
            events.append(f"revived {n} routers")
        self.collapsed = self.collapsed + 1 if n else 0
        if self.collapsed >= stability.patience:
            events.append("roll back")
        return events

    # State

    def state(self) -> TaskState:
        names: dict[Tensor, str] = {p: n for n, p in self.model.named_parameters()}
        moments = {f"{names[p]}|{k}": whole(v) for p, values in self.optimizer.state.items() for k, v in values.items()}
        tensors = {k: whole(v) for k, v in self.model.state_dict().items()}
        facts = {"offset": self.offset, "collapsed": self.collapsed, "guard": self.guard.state()}
        return TaskState(facts, {"model": tensors, "optimizer": moments})

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        own, saved = self.model.state_dict(), tensors["model"]
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in saved.items()}:
            raise RuntimeError("the names or shapes differ")
        for name, value in own.items():
            value.copy_(shard_like(saved[name], value))
        parameters = dict(self.model.named_parameters())
        self.optimizer.state.clear()
        for key, value in tensors["optimizer"].items():
            name, _, what = key.partition("|")
            p = parameters[name]
            self.optimizer.state[p][what] = shard_like(value.to(p.device), p).clone() if value.dim() else value

    def resumed(self, facts: dict[str, Any]) -> None:
        self.offset, self.collapsed = facts["offset"], facts["collapsed"]
        self.guard.restore(facts["guard"])

    def rolled_back(self, facts: dict[str, Any], lost: int) -> None:
        """The data go on from where they are."""
        self.offset, self.collapsed = self.offset + lost, 0
        self.guard.rolled_back(facts["guard"])

    def saved(self) -> None:
        self.guard.roll_backs = 0

    def save_checkpoint(self, folder: Path, state: TaskState) -> None:
        self.objective.save(folder, state.tensors["model"])

    # Measuring

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Losses on documents that are held out; {} where none are."""
        if self.heldout is None:
            return {}
        share = self.recipe.evaluate_rows // self.processes
        self.model.eval()
        losses = self.losses(self.heldout.rows(self.loop.process * share, share), backward=False)
        self.model.train()
        return {f"heldout/{name}": value for name, value in losses.items()}
