"""Residual quantization: the fixed quantizer; the one that learns is tested in tests/tokenizers/training/test_ema_codebooks.py."""

import pytest
import torch
from torch import Tensor

from solfa.tokenizers.audio.model.quantizer import ResidualQuantizer


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fixed(books: int = 4, size: int = 8, dim: int = 6, shrink: float = 0.1) -> ResidualQuantizer:
    quantizer = ResidualQuantizer(books, size, dim)
    quantizer.codebooks.copy_(noise(books, size, dim) * shrink ** torch.arange(books)[:, None, None])
    return quantizer


def test_codes_are_the_nearest_of_each_residual() -> None:
    quantizer, x = fixed(shrink=0.5), noise(2, 5, 6, seed=1)
    codes = quantizer.encode(x)
    assert codes.shape == (2, 4, 5)
    assert codes.dtype == torch.int64
    residual = x
    for book, index in zip(quantizer.codebooks, codes.unbind(1), strict=True):
        distance = (residual[..., None, :] - book).square().sum(-1)
        assert torch.equal(distance.argmin(-1), index)
        residual = residual - book[index]
    torch.testing.assert_close(quantizer.decode(codes), x - residual)


def test_a_wider_search_leaves_less_and_keeps_the_prefixes() -> None:
    greedy, x = fixed(books=6, shrink=0.9), noise(3, 40, 6, seed=1)
    wide = ResidualQuantizer(6, 8, 6, beam=4, ends=(3,))
    wide.codebooks.copy_(greedy.codebooks)
    first = ResidualQuantizer(3, 8, 6, beam=4)
    first.codebooks.copy_(greedy.codebooks[:3])
    found = wide.encode(x)
    assert torch.equal(found[:, :3], first.encode(x)), "the books up to an end are searched as if there were no more"
    assert all(torch.equal(wide.encode(x, k), found[:, :k]) for k in (1, 3, 5, 6))
    left = [(x - q.decode(q.encode(x))).square().mean() for q in (greedy, wide)]
    assert left[1] < 0.97 * left[0]
    alone = (
        torch.cat([wide.encode(row[None, t : t + 1]) for row in x for t in range(40)]).view(3, 40, 6).transpose(1, 2)
    )
    assert torch.equal(found, alone), "frames do not influence each other"


@pytest.mark.parametrize("seed", range(4))
def test_sums_of_codes_come_back(seed: int) -> None:
    """Where each book is much finer than the one before, encode inverts decode."""
    quantizer = fixed(shrink=0.02)
    codes = torch.randint(8, (1, 4, 7), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_fewer_books_are_a_prefix() -> None:
    quantizer, x = fixed(), noise(1, 5, 6)
    codes = quantizer.encode(x)
    assert torch.equal(quantizer.decode(codes[:, :1]), quantizer.codebooks[0][codes[:, 0]])
    torch.testing.assert_close(
        quantizer.decode(codes[:, :2]) + quantizer.codebooks[2][codes[:, 2]], quantizer.decode(codes[:, :3])
    )
