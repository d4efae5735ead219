import pytest
import torch

from solfa.omni.decoder.attention import (
    MANY_KEYS,
    AttentionMask,
    apply_rotary,
    attention,
    causal_mask,
    mask_to_bias,
    packed_attention,
    rotary_cos_sin,
    segment_spans,
    sliding_attention,
)


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
    mask = causal_mask(torch.arange(n), torch.arange(n), window)
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
        return (
            apply_rotary(q, *rotary_cos_sin(torch.tensor([i]), 8, 1e4))
            * apply_rotary(k, *rotary_cos_sin(torch.tensor([j]), 8, 1e4))
        ).sum()

    torch.testing.assert_close(product(3, 1), product(103, 101), atol=1e-4, rtol=1e-4)
    assert (product(3, 1) - product(3, 2)).abs() > 1e-3
    assert torch.equal(apply_rotary(q, *rotary_cos_sin(torch.tensor([7]), 8, 1e4))[..., 8:], q[..., 8:])


def same_with_gradients(got, want, inputs):
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    seed = torch.randn_like(want)
    for a, b in zip(torch.autograd.grad(got, inputs, seed), torch.autograd.grad(want, inputs, seed), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("n", "past", "window"), [(301, 0, 16), (64, 0, 8), (33, 31, 32), (200, 5, 128), (5, 40, 1), (97, 20, 7)]
)
@pytest.mark.parametrize("with_sink", [False, True])
def test_blocks_of_a_window_are_the_reference(n, past, window, with_sink, monkeypatch):
    monkeypatch.setattr("solfa.omni.decoder.attention.LOGITS_PER_BLOCK", 20_000)  # several passes over blocks
    torch.manual_seed(n)
    q, k, v = torch.randn(2, 6, n, 12), torch.randn(2, 2, past + n, 12), torch.randn(2, 2, past + n, 8)
    inputs = [x.requires_grad_() for x in (q, k, v)] + ([torch.randn(6, requires_grad=True)] if with_sink else [])
    sink = inputs[3] if with_sink else None
    mask = causal_mask(torch.arange(past, past + n), torch.arange(past + n), window)
    want = attention(q, k, v, mask, sink=sink, scale=0.3)
    same_with_gradients(sliding_attention(q, k, v, window, sink, scale=0.3), want, inputs)
    segments = torch.randint(-1, 4, (2, 7)).repeat_interleave(past + n, 1)[:, ::7]
    seen = mask & (segments[:, past:, None] == segments[:, None])
    want = attention(q, k, v, seen[:, None], sink=sink)
    same_with_gradients(sliding_attention(q, k, v, window, sink, segments=segments), want, inputs)


@pytest.mark.parametrize("with_sink", [False, True])
def test_packed_spans_are_the_reference(with_sink):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 6, 50, 12), torch.randn(2, 2, 50, 12), torch.randn(2, 2, 50, 8)
    inputs = [x.requires_grad_() for x in (q, k, v)] + ([torch.randn(6, requires_grad=True)] if with_sink else [])
    segments = torch.stack([torch.arange(50) // 17, torch.arange(50) // 30])
    mask = causal_mask(torch.arange(50), torch.arange(50), None) & (segments[:, :, None] == segments[:, None])
    segments[1, 30:] = -1
    got = packed_attention(q, k, v, segment_spans(segments), inputs[3] if with_sink else None)
    want = attention(q, k, v, mask[:, None], sink=inputs[3] if with_sink else None)
    assert got[1, :, 30:].abs().max() == 0
    same_with_gradients(got * (segments >= 0)[:, None, :, None], want * (segments >= 0)[:, None, :, None], inputs)


@pytest.mark.parametrize("window", [None, 1, 13, 300])
@pytest.mark.parametrize("kind", ["causal", "segments", "mask"])
def test_the_largest_logit_is_that_of_what_is_seen(window, kind):
    torch.manual_seed(0)
    n, past = 300, 9
    q, k = torch.randn(2, 4, n, 6), torch.randn(2, 2, past + n, 6)
    segments = (torch.arange(past + n) // 40).expand(2, -1) - 1 if kind == "segments" else None
    seen = causal_mask(torch.arange(past, past + n), torch.arange(past + n), window).expand(2, -1, -1)
    if segments is not None:
        seen = seen & (segments[:, past:, None] == segments[:, None]) & (segments[:, None] >= 0)
    attention_mask = AttentionMask(dense=seen[:, None]) if kind == "mask" else AttentionMask(window, segments=segments)
    logits = q @ k.repeat_interleave(2, 1).mT * 0.5
    want = logits.masked_fill(~seen[:, None], float("-inf")).amax(dim=(0, 2, 3))
    torch.testing.assert_close(attention_mask.max_logits(q, k, 0.5), want)


def test_long_full_attention_with_sinks_goes_in_parts(monkeypatch):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 50, 8), torch.randn(2, 2, 50, 8), torch.randn(2, 2, 50, 6)
    inputs = [x.requires_grad_() for x in (q, k, v)] + [torch.randn(4, requires_grad=True)]
    want = attention(q, k, v, causal=True, sink=inputs[3], scale=0.2)
    monkeypatch.setattr("solfa.omni.decoder.attention.LOGITS_PER_BLOCK", 7 * 2 * 4 * 50)
    same_with_gradients(AttentionMask().attend(q, k, v, inputs[3], 0.2), want, inputs)


@pytest.mark.parametrize("sink", [None, torch.randn(4)], ids=["no sink", "sink"])
def test_few_queries_of_many_keys_are_the_formula(sink):
    """The path of a decoding step after a long past, with its mask as a bias too."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 3, 8), torch.randn(2, 2, MANY_KEYS, 8), torch.randn(2, 2, MANY_KEYS, 6)
    mask = torch.rand(3, MANY_KEYS) < 0.5
    logits = q @ k.repeat_interleave(2, 1).mT * 8**-0.5
    weights = logits.masked_fill(~mask, float("-inf")).exp()
    rest = weights.sum(-1, keepdim=True) + (0 if sink is None else sink.exp().view(4, 1, 1))
    want = weights / rest @ v.repeat_interleave(2, 1)
    for given in (mask, mask_to_bias(mask, torch.float32)):
        torch.testing.assert_close(attention(q, k, v, given, sink=sink), want, atol=1e-5, rtol=1e-4)
