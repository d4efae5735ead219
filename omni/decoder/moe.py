"""Mixture of experts: a router picks `top_k` of many small feed-forward networks for each step.

As in DeepSeek-V3 and MiMo-V2-Flash (arXiv 2412.19437, 2601.02780) experts are picked by sigmoid score plus a bias that no
gradient reaches: `MoE.rebalance` moves it after each training step so that all experts get work, and no auxiliary loss is
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
"""What joins the two halves of a gated feed-forward network."""


@dataclass(frozen=True)
class MoEConfig:
    """`experts` networks of width `ffn_dim`, of which each step uses `top_k`.

    score: "sigmoid", or "softmax" over the logits of the experts picked.
    groups, top_groups: experts are picked within the `top_groups` best of `groups` equal groups, a group being as good as
        its two best experts together.
    normalise: whether the sigmoid scores of the experts picked are divided by their sum.
    scale: what the weights are multiplied by.
    bias: whether router and experts have biases.
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
    """The mixture in place of a dense feed-forward network."""

    balance: Tensor
    load: Tensor

    def __init__(self, dim: int, config: MoEConfig, activation: str = "silu"):
        super().__init__()
        self.config = c = config
        self.join = ACTIVATIONS[activation]
        self.router = nn.Linear(dim, c.experts, bias=c.bias)
        self.gate_up = nn.Parameter(torch.empty(c.experts, 2 * c.ffn_dim, dim))
        self.down = nn.Parameter(torch.empty(c.experts, dim, c.ffn_dim))
        self.gate_up_bias = nn.Parameter(torch.zeros(c.experts, 2 * c.ffn_dim)) if c.bias else None
        self.down_bias = nn.Parameter(torch.zeros(c.experts, dim)) if c.bias else None
        nn.init.normal_(self.gate_up, std=dim**-0.5)
        nn.init.normal_(self.down, std=c.ffn_dim**-0.5)
        # float32 whatever the weights are: its steps are far below what bfloat16 tells apart
        self.register_buffer("balance", torch.zeros(c.experts))
        self.register_buffer("load", torch.zeros(c.experts, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x: (B, T, D); real: bool (B, T), False at padding, which no expert sees.  -> (B, T, D), zeros at padding."""
        if real is not None:
            y = torch.zeros_like(x)
            if real.any():
                y[real] = self(x[real][None])[0].to(y.dtype)
            return y
        c, rows = self.config, x.flatten(0, 1)
        weights, chosen = self.route(rows)
        # steps of one expert side by side: slot s of `order` is choice s % top_k of step s // top_k
        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=c.experts)
        if torch._C._current_graph_task_id() == -1:  # not in a backward pass, where checkpointing runs us again
            self.load += counts
        parts = rows[order // c.top_k].split(counts.tolist())
        done = [run(part) for run, part in zip(self._experts(), parts, strict=True) if len(part)]
        sorted_back = torch.cat(done)[order.argsort()].unflatten(0, (-1, c.top_k))
        return (sorted_back * weights[..., None].to(x.dtype)).sum(1).view(x.shape)

    def route(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (N, D) -> weights float32 (N, top_k) and experts (N, top_k)."""
        c = self.config
        with torch.autocast(rows.device.type, enabled=False):  # a rounded score picks another expert
            bias = None if self.router.bias is None else self.router.bias.float()
            logits = F.linear(rows.float(), self.router.weight.float(), bias)
        if c.score == "softmax":
            chosen = (logits + self.balance).topk(c.top_k, dim=-1).indices
            return logits.gather(1, chosen).softmax(-1) * c.scale, chosen
        scores = logits.sigmoid()
        ranked = scores + self.balance
        if c.groups > 1:
            grouped = ranked.unflatten(-1, (c.groups, -1))
            best = grouped.topk(2, dim=-1).values.sum(-1).topk(c.top_groups, dim=-1).indices
            closed = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(1, best, False)
            ranked = grouped.masked_fill(closed[..., None], float("-inf")).flatten(1)
        chosen = ranked.topk(c.top_k, dim=-1).indices
        weights = scores.gather(1, chosen)
        if c.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * c.scale, chosen

    def _experts(self) -> list[Callable[[Tensor], Tensor]]:
        nothing = [None] * self.config.experts
        # unbound once: the gradient of an index would be as large as all experts, for each of them
        weights = zip(
            self.gate_up.unbind(),
            self.down.unbind(),
            nothing if self.gate_up_bias is None else self.gate_up_bias.unbind(),
            nothing if self.down_bias is None else self.down_bias.unbind(),
            strict=True,
        )

        def expert(w_in: Tensor, w_out: Tensor, b_in: Tensor | None, b_out: Tensor | None, x: Tensor) -> Tensor:
            return F.linear(self.join(*F.linear(x, w_in, b_in).chunk(2, dim=-1)), w_out, b_out)

        return [partial(expert, *w) for w in weights]

    @torch.no_grad()
    def rebalance(self, rate: float) -> None:
        """After a training step: experts with less load than the mean become easier to pick, by `rate`, and others harder.

        `load` counts the steps that each expert got in all forward passes since; all processes of a group count together.
        """
        load = self.load.float()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(load)
        self.balance += rate * (load.mean() - load).sign()
        self.load.zero_()

    def train(self, mode: bool = True) -> "MoE":
        """The count starts anew between training and evaluation, so that the latter does not move the balance."""
        if mode != self.training:
            self.load.zero_()
        return super().train(mode)
