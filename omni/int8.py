"""Weights in 8 bits, for speaking on a CPU.

Writing one stream of audio multiplies single vectors by matrices, so much of the time goes into reading weights: with the
caches shared with other work, a product with 12 matrices of 256 x 1024 in turn took 36 instead of 170 microseconds each on
one Xeon core.  Each output row has its own scale (symmetric, rounded to nearest); activations are multiplied in bfloat16
and are of the caller's type around it.  Not for training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solfa.omni.patches import BookHeads

FEW_ROWS = 8  # from here on unpacking the weights once and multiplying in bfloat16 is faster


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (out, in) -> int8 (out, in), bfloat16 scales (out,)."""
    scale = (weight.abs().amax(-1).clamp(min=1e-8) / 127).bfloat16()
    return (weight / scale[:, None].float()).round().clamp(-127, 127).to(torch.int8), scale


def multiply(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x (M, in) times the transpose of a rounded weight -> (M, out)."""
    if len(x) <= FEW_ROWS:
        return torch._weight_int8pack_mm(x.bfloat16(), weight, scale).to(x.dtype)
    return (F.linear(x.bfloat16(), weight.bfloat16()) * scale).to(x.dtype)


class Int8Linear(nn.Module):
    """A bias-free linear layer with rounded weights."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight, scale = rounded(linear.weight.detach().float())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return multiply(x.reshape(-1, x.shape[-1]), self.weight, self.scale).view(*x.shape[:-1], -1)


class Int8BookHeads(nn.Module):
    """`BookHeads` with rounded weights."""

    weight: Tensor
    scale: Tensor

    def __init__(self, heads: BookHeads):
        super().__init__()
        pairs = [rounded(w.detach().float().T) for w in heads.weight]
        self.register_buffer("weight", torch.stack([w.contiguous() for w, _ in pairs]))  # (n_books, codes, dim)
        self.register_buffer("scale", torch.stack([s for _, s in pairs]))

    def forward(self, x: Tensor) -> Tensor:
        """x (n_books, M, dim), each book's own -> logits (n_books, M, codes)."""
        return torch.stack([multiply(*row) for row in zip(x, self.weight, self.scale, strict=True)])

    def some(self, x: Tensor, first: int, last: int) -> Tensor:
        """x (N, dim) -> logits (last - first + 1, N, codes) of books first..last."""
        return torch.stack([multiply(x, self.weight[k], self.scale[k]) for k in range(first, last + 1)])


def round_weights(model: nn.Module) -> nn.Module:
    """Replace, in place, every bias-free linear layer and the book heads; embeddings and norms stay as they are."""
    for name, child in model.named_children():
        if isinstance(child, nn.Linear) and child.bias is None and child.in_features % 16 == 0:  # what the kernel takes
            setattr(model, name, Int8Linear(child))
        elif isinstance(child, BookHeads) and child.weight.shape[1] % 16 == 0:
            setattr(model, name, Int8BookHeads(child))
        else:
            round_weights(child)
    return model
