"""Training that stays up: what is watched, what is repaired at once, and when to skip a step or go back.

`Monitor` reads activations, attention logits, and the load of experts; `qk_clip` takes back heads whose logits explode
(MuonClip, arXiv 2507.20534); `revive_routers` takes back routers that send everything to one expert; `Guard` judges each
step by its loss and the norm of its gradient.  `omni_task.py` acts on the verdicts; all processes of a run
have the same numbers, so they reach the same ones.
"""

import math
import statistics
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from solfa.core.errors import UserError
from solfa.omni.decoder.decoder import DecoderLayer, HybridDecoder, SelfAttention


@dataclass(frozen=True)
class StabilityConfig:
    """When training interferes.

    monitor_every: steps between looks inside the model; a bad step is followed by one in any case.
    qk_clip: the largest attention logit that a head may have before its queries and keys shrink; None never.
    spike: a loss is bad that is so many standard deviations (by the median absolute deviation) above what the last good
        ones let expect, and `spike_floor` nats at least.
    gradient_spike: a gradient is bad whose norm is so many times the median of the last good ones.
    history, warmup: how many good steps are remembered, and how many of them any judgement but "not finite" needs.
    patience: this many bad steps in a row, all of them skipped, and the last good checkpoint comes back.
    collapse: a router has collapsed that sends more than this share of all steps to one expert.
    """

    monitor_every: int = 10
    qk_clip: float | None = 100.0
    spike: float = 8.0
    spike_floor: float = 0.5
    gradient_spike: float = 20.0
    history: int = 64
    warmup: int = 16
    patience: int = 3
    collapse: float = 0.9


class Verdict(Enum):
    GOOD = "good"
    SKIP = "skip"
    ROLL_BACK = "roll back"


class Guard:
    """Judges steps by what the good ones before them were like; `state` and `restore` keep that in checkpoints."""

    SMOOTHING = 0.1  # weight of a new loss in the running mean
    ROLL_BACKS = 5  # to the same checkpoint, after which going on makes no sense

    def __init__(self, config: StabilityConfig):
        self.config = config
        self.mean: float | None = None  # of the good losses, running
        self.surprises: deque[float] = deque(maxlen=config.history)  # good losses less the running mean before them
        self.norms: deque[float] = deque(maxlen=config.history)
        self.streak = 0  # bad steps since the last good one
        self.roll_backs = 0  # since the last checkpoint

    def loss_limit(self) -> float:
        """The largest loss that is not a spike.  While the loss falls, the running mean lags: so does the median surprise."""
        if self.mean is None or len(self.surprises) < self.config.warmup:
            return math.inf
        middle = statistics.median(self.surprises)
        spread = 1.4826 * statistics.median(abs(x - middle) for x in self.surprises)
        return self.mean + middle + max(self.config.spike * spread, self.config.spike_floor)

    def norm_limit(self) -> float:
        """The largest norm of a gradient that is not a spike."""
        if len(self.norms) < self.config.warmup:
            return math.inf
        return self.config.gradient_spike * statistics.median(self.norms)

    def judge(self, loss: float, norm: float) -> Verdict:
        """The verdict on a step before it changes any weight."""
        if math.isfinite(loss) and math.isfinite(norm) and loss <= self.loss_limit() and norm <= self.norm_limit():
            if self.mean is None:
                self.mean = loss
            self.surprises.append(loss - self.mean)
            self.mean += self.SMOOTHING * (loss - self.mean)
            self.norms.append(norm)
            self.streak = 0
            return Verdict.GOOD
        self.streak += 1
        return Verdict.ROLL_BACK if self.streak >= self.config.patience else Verdict.SKIP

    def rolled_back(self, state: dict[str, Any]) -> None:
        """Take the memory of the checkpoint that came back.

        From the second time on loss and gradient have no yardstick: weights that were good before are no worse now, so it
        must be the data that has changed.

        Raises: UserError when coming back does not help.
        """
        roll_backs = self.roll_backs + 1
        if roll_backs > self.ROLL_BACKS:
            raise UserError(
                f"training went wrong {roll_backs} times after the same checkpoint: lower learning_rate, or look at the data"
            )
        self.restore(state)
        self.roll_backs = roll_backs
        if roll_backs > 1:
            self.mean = None
            self.surprises.clear()
            self.norms.clear()

    def state(self) -> dict[str, Any]:
        """Its memory, as JSON values."""
        return {"mean": self.mean, "surprises": list(self.surprises), "norms": list(self.norms), "streak": self.streak}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.mean, self.streak, self.roll_backs = state["mean"], state["streak"], 0
        self.surprises = deque(state["surprises"], self.config.history)
        self.norms = deque(state["norms"], self.config.history)


class Monitor:
    """Measures activations, attention logits and expert loads in the forward passes between `start` and `read`."""

    def __init__(self, decoder: HybridDecoder):
        self.decoder = decoder
        self.layers = [m for m in decoder.layers if isinstance(m, DecoderLayer)]
        self._largest: list[Tensor | None] = [None] * len(self.layers)
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def start(self) -> None:
        """Measure from now on."""
        for i, layer in enumerate(self.layers):
            layer.attention.track_max_logit, layer.attention.max_logit = True, None
            self._largest[i] = None
            self._hooks.append(layer.register_forward_hook(lambda _, __, x, i=i: self._record(i, x)))

    def _record(self, i: int, x: Tensor) -> None:
        now, before = x.detach().abs().amax().float(), self._largest[i]
        self._largest[i] = now if before is None else torch.maximum(before, now)

    def read(self) -> "DecoderStatistics":
        """What was measured since `start`, in all processes together; to be called in every one of them."""
        while self._hooks:
            self._hooks.pop().remove()
        activations, logits = [], []
        for layer, largest in zip(self.layers, self._largest, strict=True):
            largest_logit = layer.attention.max_logit
            layer.attention.track_max_logit, layer.attention.max_logit = False, None
            assert largest is not None and largest_logit is not None, "no forward pass since start"
            activations.append(_over_all(largest, torch.distributed.ReduceOp.MAX))
            logits.append(_over_all(largest_logit.detach().float(), torch.distributed.ReduceOp.MAX))
        loads = [_over_all(m.load.double(), torch.distributed.ReduceOp.SUM) for m in self.decoder.moe_layers()]
        return DecoderStatistics(
            [float(x) for x in activations], logits, [load / load.sum().clamp(min=1) for load in loads]
        )


@dataclass(frozen=True)
class DecoderStatistics:
    """What `Monitor` measured.  activations: the largest absolute value after each layer; logits: (H,) the largest of each head, per layer;
    loads: (experts,) each expert's share, per mixture.
    """

    activations: list[float]
    logits: list[Tensor]
    loads: list[Tensor]

    def entropies(self) -> list[float]:
        """Of each mixture's load, relative to an even one: 1 is even, 0 a single expert."""
        return [float(-torch.special.xlogy(p, p).sum() / math.log(len(p))) for p in self.loads]

    def scalars(self) -> dict[str, float]:
        """Flat, for a log: one value per layer or mixture."""
        out = {f"activation/{i}": x for i, x in enumerate(self.activations)}
        out |= {f"logit/{i}": float(x.max()) for i, x in enumerate(self.logits)}
        out |= {f"load entropy/{i}": x for i, x in enumerate(self.entropies())}
        return out | {f"load max/{i}": float(p.max() * len(p)) for i, p in enumerate(self.loads)}


def _over_all(x: Tensor, how: torch.distributed.ReduceOp.RedOpType) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(x, how)
    return x


def shard_like(full: Tensor, like: Tensor) -> Tensor:
    """`full`, the same in every process, laid out as `like` is: itself where that is no DTensor."""
    if not isinstance(like, DTensor):
        return full
    # every process has the whole, so nothing needs to be sent
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole(x: Tensor) -> Tensor:
    """The inverse: all of a tensor that may be sharded, on the CPU; to be called in every process."""
    return (x.full_tensor() if isinstance(x, DTensor) else x).detach().cpu()


@torch.no_grad()
def qk_clip(decoder: HybridDecoder, logits: list[Tensor], limit: float) -> int:
    """Shrink the query and key weights of heads whose largest logit was above `limit`, so that it would have been that.

    Keys serve all query heads of their group, so they take the square root of what the mildest of these needs, and each
    query head takes the rest: a head that was fine computes what it did, and where each head has its own keys both
    shrink by the square root.  Layers that normalise queries and keys are left alone.

    Args:
        logits: (H,) per layer, as in `DecoderStatistics`.

    Returns: how many heads were shrunk.
    """
    clipped = 0
    for layer, largest in zip(decoder.layers, logits, strict=True):
        attention = layer.attention
        assert isinstance(attention, SelfAttention)
        c = attention.config
        broken = (largest > limit) & largest.isfinite()
        if c.qk_norm or not bool(broken.any()):
            continue
        wanted = (limit / largest).where(broken, torch.ones_like(largest))
        keys = wanted.view(c.kv_heads, -1).amax(1).sqrt()
        queries = wanted / keys.repeat_interleave(c.heads // c.kv_heads)
        values = torch.ones(attention.sizes[1], device=wanted.device)
        rows = torch.cat([torch.cat([queries, keys]).repeat_interleave(c.qk_dim), values])
        for p in (attention.qkv.weight, attention.qkv.bias):
            if p is not None:
                p.mul_(shard_like(rows.view(-1, *[1] * (p.dim() - 1)).expand(p.shape).to(p.dtype), p))
        clipped += int(broken.sum())
    return clipped


@torch.no_grad()
def revive_routers(decoder: HybridDecoder, loads: list[Tensor], limit: float) -> int:
    """Forget the balance of mixtures in which more than `limit` of all steps go to one expert.  -> how many.

    The balance moves by small equal amounts, so one that is far off would take thousands of steps to come back.
    """
    revived = 0
    for mixture, load in zip(decoder.moe_layers(), loads, strict=True):
        c = mixture.config
        if c.top_k < c.experts and float(load.max()) * c.top_k > limit:
            mixture.balance.zero_()
            revived += 1
    return revived


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """The norm of all gradients, sharded or not, as a plain tensor."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
