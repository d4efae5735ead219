"""Sampling codes from logits: temperature, top-k, top-p, a penalty on repetition, and a seed."""

from collections import deque
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from solfa.core.errors import UserError


@dataclass(frozen=True)
class SamplingConfig:
    """Temperature 0 is greedy; top_k 0 and top_p 1 keep everything.

    The repetition penalty: once a code of book 0 has come more than `repeat_limit` times in the last `repeat_window` frames,
    each time above the limit takes `repeat_penalty` nats from its logit.  A limit of 0 turns it off.

    Raises: UserError for values out of range.
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


def sample(logits: Tensor, config: SamplingConfig, generator: torch.Generator | None = None) -> Tensor:
    """One index per row: logits (..., n) -> int64 (...)."""
    if config.temperature == 0:
        return logits.argmax(-1)
    probs, index = _truncate(logits, config)
    sampled = multinomial(probs, generator)
    return sampled if index is None else index.gather(-1, sampled[..., None])[..., 0]


def probabilities(logits: Tensor, config: SamplingConfig) -> Tensor:
    """The distribution that `sample` draws from: logits (..., n) -> float32 (..., n)."""
    if config.temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    probs, index = _truncate(logits, config)
    probs = probs / probs.sum(-1, keepdim=True)
    if index is None:
        return probs
    return torch.zeros(logits.shape, device=logits.device).scatter_(-1, index, probs)


def multinomial(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One index per row, with chances in proportion to probs (..., n), which need not sum to one -> int64 (...)."""
    # with e ~ Exp(1), argmax(p / e) is distributed as p
    return (probs / torch.empty_like(probs).exponential_(generator=generator)).argmax(-1)


def _truncate(logits: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor | None]:
    """Temperature, top-k and top-p: probabilities (..., k), not summing to one, and their indices (..., k); None: 0..n-1."""
    logits = logits.float() / config.temperature
    n = logits.shape[-1]
    k = min(config.top_k or n, n)
    index: Tensor | None = None
    if k < n or config.top_p < 1:
        logits, index = logits.topk(k, dim=-1)  # sorted, largest first
    probs = logits.softmax(-1)
    if config.top_p < 1:  # keep the fewest whose sum reaches top_p, and at least one
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= config.top_p, 0.0)
    return probs, index


class Sampler:
    """Samples the codes of one utterance (or a batch) in order, with the repetition penalty on book 0."""

    def __init__(self, config: SamplingConfig, generator: torch.Generator | None = None):
        self.config, self.generator = config, generator
        self._recent: deque[Tensor] = deque()
        self._counts: Tensor | None = None  # (N, codes) within the window

    def __call__(self, logits: Tensor, first: int) -> Tensor:
        """Logits (N, A, codes) of books first..first+A-1 -> codes (N, A)."""
        penalised = first == 0 and self.config.repeat_limit > 0
        if penalised:
            logits = self._penalise(logits)
        codes = sample(logits, self.config, self.generator)
        if penalised:
            self._count(codes[:, :1])
        return codes

    def _penalise(self, logits: Tensor) -> Tensor:
        if self._counts is None:
            self._counts = torch.zeros_like(logits[:, 0], dtype=torch.float32)
        if len(self._recent) < self.config.repeat_limit:
            return logits
        excess = (self._counts - (self.config.repeat_limit - 1)).clamp(min=0) * self.config.repeat_penalty
        return torch.cat([(logits[:, 0] - excess)[:, None].to(logits.dtype), logits[:, 1:]], dim=1)

    def _count(self, codes: Tensor) -> None:
        """Add codes (N, 1) of book 0 to the window."""
        assert self._counts is not None
        self._counts.scatter_add_(1, codes, torch.ones_like(codes, dtype=torch.float32))
        self._recent.append(codes)
        if len(self._recent) > self.config.repeat_window:
            old = self._recent.popleft()
            self._counts.scatter_add_(1, old, torch.full_like(old, -1, dtype=torch.float32))
