import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig, HybridDecoder, hybrid_pattern
from solfa.omni.decoder.moe import MoEConfig

SMALL = DecoderConfig(
    dim=32,
    layers=4,
    ffn_dim=48,
    full_layers=(0, 3),
    full=AttentionConfig(heads=4, kv_heads=1, qk_dim=12, v_dim=8, rotary_dim=4, rotary_base=1e6),
    sliding=AttentionConfig(
        window=8, heads=4, kv_heads=2, qk_dim=12, v_dim=8, rotary_dim=4, sink=True, value_scale=0.7
    ),
)


@pytest.fixture
def decoder() -> HybridDecoder:
    torch.manual_seed(0)
    model = HybridDecoder(SMALL).eval()
    for name, p in model.named_parameters():
        if name.endswith("sink"):
            torch.nn.init.normal_(p)
    return model


@pytest.mark.parametrize("chunks", [[1] * 61, [61], [40] + [1] * 21, [3, 20, 1, 1, 9, 27], [8, 8, 7, 9, 1, 8, 20]])
@torch.no_grad()
def test_any_chunking_equals_the_whole(decoder, chunks):
    x = torch.randn(2, sum(chunks), 32)
    cache = decoder.new_cache()
    parts = torch.cat([decoder(part, cache=cache) for part in x.split(chunks, dim=1)], dim=1)
    torch.testing.assert_close(parts, decoder(x), atol=1e-5, rtol=1e-5)
    assert cache.length == 61


@torch.no_grad()
def test_sliding_layers_hold_a_window_ever(decoder):
    cache = decoder.new_cache()
    sizes = []
    for _ in range(5):
        decoder(torch.randn(1, 50, 32), cache=cache)
        sizes.append([layer.keys.shape[2] for layer in cache.layers])
    assert all(s[1] == s[2] == 8 for s in sizes) and sizes[-1][0] >= 250
    rings = 2 * 2 * 8 * (12 + 8) * 4  # layers, KV heads, window, sizes, bytes
    assert cache.nbytes == rings + 2 * 1 * sizes[-1][0] * (12 + 8) * 4


@torch.no_grad()
def test_full_layers_grow_in_leaps(decoder):
    cache, grown = decoder.new_cache(), set()
    for _ in range(300):
        decoder(torch.randn(1, 1, 32), cache=cache)
        grown.add(cache.layers[0].keys.shape[2])
    assert sorted(grown) == [64, 128, 192, 256, 320]


@torch.no_grad()
def test_left_padding_changes_nothing(decoder):
    """Rows of 20 and 13 steps, padded on the left, then 15 steps one by one."""
    a, b = torch.randn(1, 35, 32), torch.randn(1, 28, 32)
    x = torch.cat([a, torch.cat([torch.randn(1, 7, 32) * 9, b], dim=1)])
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1, :7] = False
    cache = decoder.new_cache()
    out = [decoder(x[:, :20], cache=cache, mask=mask)] + [decoder(x[:, i : i + 1], cache=cache) for i in range(20, 35)]
    got = torch.cat(out, dim=1)
    torch.testing.assert_close(got[:1], decoder(a), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1:, 7:], decoder(b), atol=1e-5, rtol=1e-5)
    full_mask = torch.cat([mask, torch.ones(2, 15, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(decoder(x, mask=full_mask)[1:, 7:], decoder(b), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_nothing_sees_the_future_nor_beyond_the_window():
    config = dataclasses.replace(SMALL, layers=1, full_layers=())
    decoder = HybridDecoder(config).eval()
    x = torch.randn(1, 30, 32)
    y = x.clone()
    y[:, 10] += 1
    changed = ((decoder(x) - decoder(y)).abs().amax(-1)[0] > 1e-6).nonzero()[:, 0]
    assert changed.tolist() == list(range(10, 18))


def test_pattern_is_the_paper_s():
    assert hybrid_pattern(48, 6) == (0, 5, 11, 17, 23, 29, 35, 41, 47)
    assert DecoderConfig().full_layers == (0, 5)


def test_trains_in_bfloat16():
    decoder = HybridDecoder(SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        decoder(torch.randn(2, 20, 32)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


EXPERTS = dataclasses.replace(SMALL, moe=MoEConfig(experts=6, top_k=2, ffn_dim=16), dense_layers=(0, 2))


@pytest.mark.parametrize("config", [SMALL, EXPERTS], ids=["dense", "experts"])
def test_packed_sequences_are_as_if_alone(config):
    """Rows of 20 + 9 + 30 and 37 + 1 + 13 steps and padding, ids reused: outputs and gradients."""
    torch.manual_seed(0)
    decoder = HybridDecoder(config)
    parts = [[torch.randn(n, 32, requires_grad=True) for n in row] for row in ((20, 9, 30), (37, 1, 13))]
    segments = torch.full((2, 61), -1)
    segments[0, :59] = torch.tensor([0, 1, 0]).repeat_interleave(torch.tensor([20, 9, 30]))
    segments[1, :51] = torch.tensor([5, 2, 7]).repeat_interleave(torch.tensor([37, 1, 13]))
    x = torch.stack([torch.cat([*row, torch.full((61 - sum(map(len, row)), 32), 9.0)]) for row in parts])
    y = decoder(x, segments=segments)
    packed = [part for i, row in enumerate(parts) for part in y[i, : sum(map(len, row))].split([len(p) for p in row])]
    alone = [decoder(p[None])[0] for row in parts for p in row]
    leaves = [p for row in parts for p in row] + list(decoder.parameters())
    seeds = [torch.randn_like(a) for a in alone]
    for got, want in zip(packed, alone, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    grads = zip(torch.autograd.grad(packed, leaves, seeds), torch.autograd.grad(alone, leaves, seeds), strict=True)
    for got, want in grads:
        torch.testing.assert_close(got, want, atol=1e-5 * max(1.0, want.abs().max().item()), rtol=1e-4)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that was made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.numel = max(self.numel, out.numel())
        return out


@pytest.mark.parametrize("way", ["whole", "trained", "packed", "in chunks"])
def test_no_table_of_all_pairs_is_made(way):
    """Full and sliding layers over 8192 steps, where a mask of all pairs would have 67 million entries."""
    n = 8192
    small = {"heads": 2, "kv_heads": 1, "qk_dim": 4, "v_dim": 4, "rotary_dim": 4}
    sliding = AttentionConfig(window=32, sink=True, **small)
    full = (0,) if way != "in chunks" else ()  # what follows a cache needs its mask, chunk by past
    decoder = HybridDecoder(DecoderConfig(8, 2, 8, full, AttentionConfig(**small), sliding))
    x, cache = torch.randn(1, n, 8), decoder.new_cache()
    with Largest() as largest, torch.set_grad_enabled(way == "trained"):
        if way == "in chunks":
            for part in x.split([100, n - 100], dim=1):
                decoder(part, cache=cache)
        else:
            y = decoder(x, segments=torch.arange(n)[None] // 1000 if way == "packed" else None)
            if way == "trained":
                y.sum().backward()
    assert largest.numel < 300 * n


def test_packed_sequences_do_not_go_on_from_a_cache(decoder):
    with pytest.raises(ValueError, match="whole"):
        decoder(torch.randn(1, 4, 32), cache=decoder.new_cache(), segments=torch.zeros(1, 4, dtype=torch.int64))


@torch.no_grad()
def test_left_padding_keeps_experts_and_long_windows_exact():
    torch.manual_seed(0)
    decoder = HybridDecoder(EXPERTS).eval()
    a = torch.randn(1, 40, 32)
    x, mask = torch.cat([torch.full((1, 11, 32), 7.0), a], dim=1), torch.arange(51)[None] >= 11
    want, cache = decoder(a), decoder.new_cache()
    torch.testing.assert_close(decoder(x, mask=mask)[:, 11:], want, atol=1e-5, rtol=1e-5)
    decoder.moe_layers()[0].load.zero_()
    parts = [decoder(x[:, s], cache=cache, mask=mask[:, s]) for s in (slice(0, 3), slice(3, 30), slice(30, 51))]
    torch.testing.assert_close(torch.cat(parts, dim=1)[:, 11:], want, atol=1e-5, rtol=1e-5)
    assert decoder.moe_layers()[0].load.sum() == 40 * 2


@pytest.mark.parametrize("segments", [None, torch.tensor([[0] * 20 + [1] * 15 + [-1] * 5])])
def test_tracking_the_largest_logit_does_not_change_the_output(decoder, segments):
    x = torch.randn(1, 40, 32)
    layers = [layer.attention for layer in decoder.layers]
    decoder(x, segments=segments)
    assert all(layer.max_logit is None for layer in layers)
    for layer in layers:
        layer.track_max_logit = True
    before = decoder(x, segments=segments)
    first = layers[0].max_logit
    torch.testing.assert_close(before, decoder(x, segments=segments))
    layers[0].max_logit = None
    with torch.no_grad():
        layers[0].qkv.weight[:12] *= 0.5  # the queries of head 0
    decoder(x, segments=segments)
    torch.testing.assert_close(layers[0].max_logit, first * torch.tensor([0.5, 1, 1, 1]))
    layers[0].max_logit.mul_(9)  # the largest since it was None
    decoder(x * 0.01, segments=segments)
    torch.testing.assert_close(layers[0].max_logit, 9 * first * torch.tensor([0.5, 1, 1, 1]))
