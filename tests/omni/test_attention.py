import pytest
import torch

from solfa.omni.attention import attention, rotary, rotate, visible


def naive(q, k, v, mask, sink):
    """The formula, one query at a time, in float64."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=torch.float64)
    group = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                seen = mask[i].nonzero()[:, 0]
                logits = k[b, h // group, seen].double() @ q[b, h, i].double() / q.shape[-1] ** 0.5
                total = logits.exp().sum() + (sink[h].double().exp() if sink is not None else 0)
                out[b, h, i] = (logits.exp() / total) @ v[b, h // group, seen].double()
    return out


@pytest.mark.parametrize("window", [None, 1, 5])
@pytest.mark.parametrize("with_sink", [False, True])
def test_matches_the_formula_beyond_the_window(window, with_sink):
    torch.manual_seed(0)
    n = 23
    q, k, v = torch.randn(2, 6, n, 12), torch.randn(2, 2, n, 12), torch.randn(2, 2, n, 8)
    sink = torch.randn(6) if with_sink else None
    mask = visible(torch.arange(n), torch.arange(n), window)
    want = naive(q, k, v, mask, sink)
    torch.testing.assert_close(attention(q, k, v, mask, sink=sink), want.float(), atol=1e-6, rtol=1e-5)
    if window is None:
        torch.testing.assert_close(attention(q, k, v, causal=True, sink=sink), want.float(), atol=1e-6, rtol=1e-5)


def test_a_large_sink_takes_all_attention_and_a_small_one_none():
    q, k, v = (torch.randn(1, 2, 4, 8) for _ in range(3))
    assert attention(q, k, v, causal=True, sink=torch.full((2,), 50.0)).abs().max() < 1e-6
    without = attention(q, k, v, causal=True)
    torch.testing.assert_close(attention(q, k, v, causal=True, sink=torch.full((2,), -50.0)), without)


def test_gradients_reach_the_sink():
    q, k, v = (torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    sink = torch.randn(2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda *a: attention(*a[:3], causal=True, sink=a[3]), (q, k, v, sink))


def test_rotary_is_relative_and_partial():
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(i: int, j: int) -> torch.Tensor:
        return (rotate(q, *rotary(torch.tensor([i]), 8, 1e4)) * rotate(k, *rotary(torch.tensor([j]), 8, 1e4))).sum()

    torch.testing.assert_close(product(3, 1), product(103, 101), atol=1e-4, rtol=1e-4)
    assert (product(3, 1) - product(3, 2)).abs() > 1e-3
    assert torch.equal(rotate(q, *rotary(torch.tensor([7]), 8, 1e4))[..., 8:], q[..., 8:])
