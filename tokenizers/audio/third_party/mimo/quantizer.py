"""Residual vector quantization with full-width codebooks of their own sizes: no projections, one best path."""

import torch
from torch import Tensor, nn


class Codebook(nn.Module):
    """`size` vectors, and the moving averages that they were trained by: kept as in the file, and not used."""

    embed: Tensor

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.register_buffer("inited", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("embed", torch.zeros(size, dim))
        self.register_buffer("embed_avg", torch.zeros(size, dim))


class ResidualVectorQuantizer(nn.Module):
    """Each book codes what the books before it left over; Euclidean distance, in float32."""

    def __init__(self, sizes: tuple[int, ...], dim: int):
        super().__init__()
        # Nested as the published names are: vq.layers.0._codebook.embed
        layers = nn.ModuleList(nn.ModuleDict({"_codebook": Codebook(size, dim)}) for size in sizes)
        self.vq = nn.ModuleDict({"layers": layers})

    @property
    def codebooks(self) -> list[Tensor]:
        """(size, dim) each, in float32."""
        return [book.embed.float() for book in self.modules() if isinstance(book, Codebook)]

    def encode(self, x: Tensor, books: int) -> Tensor:
        """(B, T, dim) -> int64 (B, books, T)."""
        residual, codes = x.float(), []
        for book in self.codebooks[:books]:
            distance = residual.square().sum(-1, keepdim=True) - 2 * residual @ book.T + book.square().sum(-1)
            codes.append(distance.argmin(-1))
            residual = residual - book[codes[-1]]
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """int64 (B, k, T) of the first k books -> float32 (B, T, dim), their sum."""
        total = torch.zeros((), device=codes.device)
        for book, index in zip(self.codebooks, codes.unbind(1), strict=False):
            total = total + book[index]
        return total
