"""Residual vector quantization for inference: each book codes what the books before it left over (SoundStream, arXiv 2107.03312).

Training moves the codebooks, see `training/ema_codebooks.py`.
"""

import torch
from torch import Tensor, nn

from solfa.tokenizers.audio.layers import linear

BLOCK = 4096  # frames searched at a time, which bounds the memory of an hour's distances


class ResidualQuantizer(nn.Module):
    """`books` codebooks of `size` vectors; Euclidean distance.

    The search keeps the best `beam` partial sums after each book instead of one: what is nearest now is often not
    what leaves the least in the end.  After the books in `ends` it keeps one, so that those prefixes are good in themselves.
    """

    codebooks: Tensor

    def __init__(self, books: int, size: int, dim: int, beam: int = 1, ends: tuple[int, ...] = ()):
        super().__init__()
        self.beam, self.ends = beam, {*ends, books}
        self.register_buffer("codebooks", torch.randn(books, size, dim))

    def encode(self, x: Tensor, books: int | None = None) -> Tensor:
        """(B, T, dim) -> int64 (B, books, T), by default of all books; fewer are the first of all."""
        books = books or len(self.codebooks)
        searched = min(end for end in self.ends if end >= books)
        codes = torch.cat([self._search(block, searched) for block in x.float().flatten(0, 1).split(BLOCK)])
        return codes.unflatten(0, x.shape[:2]).transpose(1, 2)[:, :books]

    def _search(self, x: Tensor, books: int) -> Tensor:
        """(N, dim) -> (N, books)."""
        residual, codes = x[:, None], x.new_zeros(len(x), 1, 0, dtype=torch.long)
        for number, book in enumerate(self.codebooks[:books], 1):
            # |r - c|^2 of each path r and code c, as one product: (r, |r|^2, 1) . (-2 c, 1, |c|^2)
            ones = residual.new_ones(*residual.shape[:2], 1)
            paths = torch.cat([residual, residual.square().sum(-1, keepdim=True), ones], dim=-1)
            codewords = torch.cat([-2 * book, book.new_ones(len(book), 1), book.square().sum(-1, keepdim=True)], dim=-1)
            cost = linear(paths, codewords).flatten(1)
            best = (
                cost.argmin(1, keepdim=True)
                if self.beam == 1 or number in self.ends
                else cost.topk(self.beam, largest=False).indices
            )
            path, index = best // len(book), best % len(book)
            residual = residual.gather(1, path[..., None].expand(-1, -1, x.shape[1])) - book[index]
            codes = torch.cat([codes.gather(1, path[..., None].expand(-1, -1, number - 1)), index[..., None]], dim=2)
        return codes[:, 0]

    def decode(self, codes: Tensor) -> Tensor:
        """int64 (B, k <= books, T) -> (B, T, dim), the sum over the first k books."""
        return self.vectors(codes).sum(0)

    def vectors(self, codes: Tensor) -> Tensor:
        """int64 (B, k, T) -> (k, B, T, dim), what each book adds."""
        return torch.stack([book[index] for book, index in zip(self.codebooks, codes.unbind(1), strict=False)])
