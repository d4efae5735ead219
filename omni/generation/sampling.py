"""Choosing codes from logits: temperature, top-k, top-p, a guard against loops, and a seed."""

from collections import deque
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from solfa.core.errors import UserError


@dataclass(frozen=True)
class SamplingConfig:
    """Temperature 0 is greedy; top_k 0 and top_p 1 keep everything.

    The guard: when a code of book 0 has been written more than `repeat_limit` times in the last `repeat_window` frames,
    each time too many takes `repeat_penalty` nats from its logit.  A limit of 0 turns it off.
    """

    temperature: float = 0.9
    top_k: int = 100
    top_p: float = 0.95
    repeat_window: int = 50
    repeat_limit: int = 25
    repeat_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UserError(f"temperature {self.temperature} should be 0 or more")
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UserError(f"top_k {self.top_k} should be 0 or more and top_p {self.top_p} within (0, 1]")


def choose(logits: Tensor, config: SamplingConfig, generator: torch.Generator | None = None) -> Tensor:
    """One index per row: logits (..., n) -> (...)."""
    if config.temperature == 0:
        return logits.argmax(-1)
    probs, index = _kept(logits, config)
    chosen = draw(probs, generator)
    return chosen if index is None else index.gather(-1, chosen[..., None])[..., 0]


def probabilities(logits: Tensor, config: SamplingConfig) -> Tensor:
    """The distribution that `choose` draws from: logits (..., n) -> float32 (..., n)."""
    if config.temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    probs, index = _kept(logits, config)
    probs = probs / probs.sum(-1, keepdim=True)
    if index is None:
        return probs
    return torch.zeros(logits.shape, device=logits.device).scatter_(-1, index, probs)


def draw(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """An index per row with chances in proportion to probs (..., n) -> (...)."""
    # a race of exponentials: argmax(p / e) is distributed as p, and needs neither a sum of one nor a loop over rows
    return (probs / torch.empty_like(probs).exponential_(generator=generator)).argmax(-1)


def _kept(logits: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor | None]:
    """What temperature, top-k and top-p leave: probabilities, not summing to one, and whose they are (None: of all)."""
    logits = logits.float() / config.temperature
    n = logits.shape[-1]
    k = min(config.top_k or n, n)
    index: Tensor | None = None
    if k < n or config.top_p < 1:
        logits, index = logits.topk(k, dim=-1)  # sorted, largest first
    probs = logits.softmax(-1)
    if config.top_p < 1:  # keep the fewest that reach top_p; the first is always kept
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= config.top_p, 0.0)
    return probs, index


class Sampler:
    """Chooses the codes of one utterance (or a batch), and remembers book 0 for the guard."""

    def __init__(self, config: SamplingConfig, generator: torch.Generator | None = None):
        self.config, self.generator = config, generator
        self._recent: deque[Tensor] = deque()
        self._counts: Tensor | None = None  # (N, codes) within the window

    def __call__(self, logits: Tensor, first: int) -> Tensor:
        """Logits (N, A, codes) of books first..first+A-1 -> codes (N, A)."""
        guarded = first == 0 and self.config.repeat_limit > 0
        if guarded:
            logits = self._guard(logits)
        codes = choose(logits, self.config, self.generator)
        if guarded:
            self._remember(codes[:, :1])
        return codes

    def _guard(self, logits: Tensor) -> Tensor:
        if self._counts is None:
            self._counts = torch.zeros_like(logits[:, 0], dtype=torch.float32)
        if len(self._recent) < self.config.repeat_limit:
            return logits
        excess = (self._counts - (self.config.repeat_limit - 1)).clamp(min=0) * self.config.repeat_penalty
        return torch.cat([(logits[:, 0] - excess)[:, None].to(logits.dtype), logits[:, 1:]], dim=1)

    def _remember(self, codes: Tensor) -> None:
        """codes: (N, 1) just written to book 0."""
        assert self._counts is not None
        self._counts.scatter_add_(1, codes, torch.ones_like(codes, dtype=torch.float32))
        self._recent.append(codes)
        if len(self._recent) > self.config.repeat_window:
            old = self._recent.popleft()
            self._counts.scatter_add_(1, old, torch.full_like(old, -1, dtype=torch.float32))
