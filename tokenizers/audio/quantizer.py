"""Residual vector quantization for inference: each book codes what the books before it left over (SoundStream, arXiv 2107.03312).

Training uses vector-quantize-pytorch (see `train.py`), whose learned codebooks end up here.
"""

import torch
from torch import Tensor, nn


class ResidualQuantizer(nn.Module):
    """`books` codebooks of `size` vectors; nearest neighbour by Euclidean distance.

    `encode` and `decode` are a pair: decode(encode(x)) is the nearest sum that the greedy search finds.
    """

    codebooks: Tensor

    def __init__(self, books: int, size: int, dim: int):
        super().__init__()
        self.register_buffer("codebooks", torch.randn(books, size, dim))

    def encode(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> int64 (B, books, T)."""
        residual, codes = x.float(), []
        for book in self.codebooks:
            # |x - c|^2 up to |x|^2, which does not change the nearest neighbour
            index = (book.square().sum(-1) - 2 * residual @ book.T).argmin(-1)
            residual = residual - book[index]
            codes.append(index)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """int64 (B, k <= books, T) -> (B, T, dim), the sum over the first k books."""
        vectors = [book[index] for book, index in zip(self.codebooks, codes.unbind(1), strict=False)]
        return torch.stack(vectors).sum(0)
