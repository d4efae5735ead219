"""Residual quantization: the fixed quantizer, and the one that learns."""

import pytest
import torch
from torch import Tensor

from solfa.tokenizers.audio.model.quantizer import ResidualQuantizer
from solfa.tokenizers.training.ema_codebooks import LearningQuantizer


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


def learned(steps: int = 60, **settings: float) -> tuple[LearningQuantizer, Tensor]:
    """A learning quantizer after some steps on one set of vectors around 12 centres; -> (quantizer, vectors)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        centres = 2 * noise(12, 6, seed=2)
        data = centres[torch.arange(240) % 12].view(4, 60, 6) + 0.3 * noise(4, 60, 6, seed=3)
        quantizer = LearningQuantizer(3, 16, 6, **settings).train()
        for _ in range(steps):
            quantizer(data)
    return quantizer.eval(), data


def test_each_book_improves_what_was_learned() -> None:
    quantizer, data = learned()
    partial = quantizer(data).per_book.cumsum(0)
    errors = [float((data - p).square().mean()) for p in partial]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.3 * data.var().item()
    assert errors[-1] < 0.5 * errors[0]


def test_codes_get_used_and_counted() -> None:
    quantizer, data = learned()
    resting = ResidualQuantizer(3, 16, 6)
    resting.codebooks.copy_(quantizer.codebooks)
    codes = resting.encode(data)
    assert all(len(codes[:, k].unique()) >= 12 for k in range(3))
    torch.testing.assert_close(quantizer.counts.sum(1), torch.full((3,), 240.0), rtol=0.1, atol=0)


def test_learning_and_fixed_search_alike() -> None:
    quantizer, data = learned(steps=5)
    resting = ResidualQuantizer(3, 16, 6)
    resting.codebooks.copy_(quantizer.codebooks)
    made = quantizer(data)
    torch.testing.assert_close(resting.decode(resting.encode(data)), made.per_book.sum(0))
    residual = data - made.per_book.cumsum(0)
    torch.testing.assert_close(made.commitment, residual.square().mean((1, 2, 3)).sum())


def test_placing_takes_fewer_vectors_than_codes_and_counts_per_step() -> None:
    quantizer, x = LearningQuantizer(2, 16, 6), noise(5, 6)
    quantizer.place(x, per_step=10)
    torch.testing.assert_close(quantizer.eval()(x[None]).per_book.sum(0)[0], x)
    torch.testing.assert_close(quantizer.counts.sum(1), torch.full((2,), 10.0))


def test_resting_quantizer_does_not_learn() -> None:
    quantizer, data = learned(steps=2)
    before = {k: v.clone() for k, v in quantizer.state_dict().items()}
    quantizer(data + 1)
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())


def test_dead_codes_restart_at_inputs() -> None:
    quantizer, data = learned(steps=3)
    quantizer.train()
    with torch.no_grad():
        quantizer.codebooks[0, 5] = 1000.0  # nothing is near
        quantizer.counts[0, 5] = 0.0
    quantizer(data)
    nearest = (data.flatten(0, 1) - quantizer.codebooks[0, 5]).abs().amax(-1).min()
    assert nearest == 0
    assert quantizer.counts[0, 5] == 240 / 16


def test_a_code_moves_to_the_mean_of_what_it_codes() -> None:
    quantizer = LearningQuantizer(1, 2, 1, decay=0.5, dead_below=0.0).train()
    quantizer.codebooks.copy_(torch.tensor([[[0.0], [10.0]]]))
    quantizer.counts.copy_(torch.tensor([[3.0, 1.0]]))
    quantizer.ready.fill_(True)
    quantizer(torch.tensor([[[1.0], [2.0], [3.0], [12.0]]]))
    # Each is (old sum * decay + new sum * (1 - decay)) / (old count * decay + new count * (1 - decay)).
    torch.testing.assert_close(
        quantizer.codebooks[0, :, 0], torch.tensor([(0 * 1.5 + 6 * 0.5) / 3, (10 * 0.5 + 12 * 0.5) / 1])
    )
    torch.testing.assert_close(quantizer.counts[0], torch.tensor([3.0, 1.0]))


def test_gradient_comes_through_the_commitment_only() -> None:
    quantizer, data = learned(steps=2)
    z = data.clone().requires_grad_()
    made = quantizer(z)
    assert not made.per_book.requires_grad
    made.commitment.backward()
    assert z.grad is not None
    # Each book's input falls with z, its code stands still: the gradient is the sum of what the books left over.
    left = (data - made.per_book.cumsum(0)).sum(0)
    torch.testing.assert_close(z.grad, 2 * left / data.numel())
