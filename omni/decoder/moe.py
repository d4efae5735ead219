"""Mixture of experts: a router picks `top_k` of many small feed-forward networks for each step.

As in DeepSeek-V3 and MiMo-V2-Flash (arXiv 2412.19437, 2601.02780) experts are picked by sigmoid score plus a bias that no
gradient reaches: `MoE.rebalance` moves it after each training step so that all experts are used, and no auxiliary loss is
needed.  Softmax over the picked scores instead, with biases everywhere, is gpt-oss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _clamped(gate: Tensor, up: Tensor) -> Tensor:
    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)


ACTIVATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "silu": lambda gate, up: F.silu(gate) * up,
    "gelu_tanh": lambda gate, up: F.gelu(gate, approximate="tanh") * up,  # Gemma
    "clamped": _clamped,  # gpt-oss
}
"""Activations of gated feed-forward networks: gate (..., F), up (..., F) -> (..., F)."""


@dataclass(frozen=True)
class MoEConfig:
    """`experts` networks of width `ffn_dim`, of which each step uses `top_k`.

    score: "sigmoid", or "softmax" over the logits of the experts picked.
    groups, top_groups: experts are picked within the `top_groups` best of `groups` equal groups; a group's score is the sum
        of its two highest.
    normalise: whether the sigmoid scores of the experts picked are divided by their sum.
    scale: factor of the weights.
    bias: whether router and experts have biases.

    Raises: ValueError for an unknown score, or numbers of groups and experts that do not fit.
    """

    experts: int = 8
    top_k: int = 2
    ffn_dim: int = 192
    score: str = "sigmoid"
    groups: int = 1
    top_groups: int = 1
    normalise: bool = True
    scale: float = 1.0
    bias: bool = False

    def __post_init__(self) -> None:
        if self.score not in ("sigmoid", "softmax"):
            raise ValueError(f"router score {self.score!r} is neither sigmoid nor softmax")
        if self.experts % self.groups or self.experts < 2 * self.groups > 2 or not 1 <= self.top_groups <= self.groups:
            raise ValueError(
                f"{self.experts} experts do not make {self.groups} groups of which {self.top_groups} are used"
            )
        if not 1 <= self.top_k <= self.experts // self.groups * self.top_groups:
            raise ValueError(f"top_k {self.top_k} is not within the {self.experts} experts that may be picked")


class MoE(nn.Module):
    """The mixture in place of a dense feed-forward network.

    balance (experts,): float32, added to the scores when experts are picked, not when they are weighted.
    load (experts,): int64, steps of each expert since the last `rebalance`.
    """

    balance: Tensor
    load: Tensor

    def __init__(self, dim: int, config: MoEConfig, activation: str = "silu"):
        super().__init__()
        self.config = c = config
        self.activation = ACTIVATIONS[activation]
        self.router = nn.Linear(dim, c.experts, bias=c.bias)
        self.gate_up = nn.Parameter(torch.empty(c.experts, 2 * c.ffn_dim, dim))
        self.down = nn.Parameter(torch.empty(c.experts, dim, c.ffn_dim))
        self.gate_up_bias = nn.Parameter(torch.zeros(c.experts, 2 * c.ffn_dim)) if c.bias else None
        self.down_bias = nn.Parameter(torch.zeros(c.experts, dim)) if c.bias else None
        nn.init.normal_(self.gate_up, std=dim**-0.5)
        nn.init.normal_(self.down, std=c.ffn_dim**-0.5)
        # float32 whatever the weights are: `rebalance` moves it by less than the precision of bfloat16
        self.register_buffer("balance", torch.zeros(c.experts))
        self.register_buffer("load", torch.zeros(c.experts, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (B, T, D); mask: bool (B, T), False at padding, which goes through no expert.  -> (B, T, D), zeros at padding."""
        if mask is not None:
            y = torch.zeros_like(x)
            if mask.any():
                y[mask] = self(x[mask][None])[0].to(y.dtype)
            return y
        c, rows = self.config, x.flatten(0, 1)
        weights, chosen = self.route(rows)
        # sorted by expert: entry s of `chosen.flatten()` is choice s % top_k of step s // top_k
        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=c.experts)
        if torch._C._current_graph_task_id() == -1:  # not when activation checkpointing recomputes the forward pass
            self.load += counts
        parts = rows[order // c.top_k].split(counts.tolist())
        outputs = [expert(part) for expert, part in zip(self._experts(), parts, strict=True) if len(part)]
        by_step = torch.cat(outputs)[order.argsort()].unflatten(0, (-1, c.top_k))
        return (by_step * weights[..., None].to(x.dtype)).sum(1).view(x.shape)

    def route(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Steps (N, D) -> weights float32 (N, top_k) and indices of experts int64 (N, top_k)."""
        c = self.config
        with torch.autocast(
            rows.device.type, enabled=False
        ):  # rounding the scores would change which experts are picked
            bias = None if self.router.bias is None else self.router.bias.float()
            logits = F.linear(rows.float(), self.router.weight.float(), bias)
        if c.score == "softmax":
            chosen = (logits + self.balance).topk(c.top_k, dim=-1).indices
            return logits.gather(1, chosen).softmax(-1) * c.scale, chosen
        scores = logits.sigmoid()
        biased = scores + self.balance
        if c.groups > 1:
            grouped = biased.unflatten(-1, (c.groups, -1))
            best = grouped.topk(2, dim=-1).values.sum(-1).topk(c.top_groups, dim=-1).indices
            unused = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(1, best, False)
            biased = grouped.masked_fill(unused[..., None], float("-inf")).flatten(1)
        chosen = biased.topk(c.top_k, dim=-1).indices
        weights = scores.gather(1, chosen)
        if c.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * c.scale, chosen

    def _experts(self) -> list[Callable[[Tensor], Tensor]]:
        nothing = [None] * self.config.experts
        # unbind, not an index per expert: each index would have a gradient as large as all experts
        weights = zip(
            self.gate_up.unbind(),
            self.down.unbind(),
            nothing if self.gate_up_bias is None else self.gate_up_bias.unbind(),
            nothing if self.down_bias is None else self.down_bias.unbind(),
            strict=True,
        )

        def expert(w_in: Tensor, w_out: Tensor, b_in: Tensor | None, b_out: Tensor | None, x: Tensor) -> Tensor:
            return F.linear(self.activation(*F.linear(x, w_in, b_in).chunk(2, dim=-1)), w_out, b_out)

        return [partial(expert, *w) for w in weights]

    @torch.no_grad()
    def rebalance(self, rate: float) -> None:
        """After a training step: add `rate` to the balance of experts with less load than the mean, subtract it from others'.

        `load` counts the steps of each expert in all forward passes since the last call, summed over all processes.
        """
        load = self.load.float()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(load)
        self.balance += rate * (load.mean() - load).sign()
        self.load.zero_()

    def train(self, mode: bool = True) -> "MoE":
        """Also resets `load` when the mode changes, so that evaluation does not move the balance."""
        if mode != self.training:
            self.load.zero_()
        return super().train(mode)
