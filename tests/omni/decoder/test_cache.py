"""The cache holds what a fresh one would: after any appending, taking back and copying, in rows of any length."""

import dataclasses
from typing import Any

import pytest
import torch

from solfa.omni.decoder.cache import cache_bytes, capacity
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig, HybridDecoder, hybrid_pattern
from solfa.omni.decoder.moe import MoEConfig

HEADS: dict[str, Any] = {"heads": 4, "qk_dim": 12, "v_dim": 8, "rotary_dim": 4}
SMALL = DecoderConfig(
    dim=32, layers=3, ffn_dim=48, full_layers=(0,),
    full=AttentionConfig(kv_heads=1, rotary_base=1e6, **HEADS),
    sliding=AttentionConfig(window=8, kv_heads=2, sink=True, **HEADS),
)  # fmt: skip
CONFIGS = {
    "hybrid": SMALL,
    "sliding": dataclasses.replace(SMALL, full_layers=()),
    "full, sinks": dataclasses.replace(SMALL, full_layers=(0, 1, 2), full=dataclasses.replace(SMALL.full, sink=True)),
    "experts": dataclasses.replace(SMALL, moe=MoEConfig(experts=4, top_k=2, ffn_dim=16)),
}


def make(config: DecoderConfig) -> HybridDecoder:
    torch.manual_seed(0)
    decoder = HybridDecoder(config).eval()
    for name, p in decoder.named_parameters():
        if name.endswith("sink"):
            torch.nn.init.normal_(p)
    return decoder


def pad(parts: list[torch.Tensor], left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of any length -> (B, T, D) with junk at padding, and the mask."""
    n = max(map(len, parts))
    x, mask = torch.randn(len(parts), n, 32) * 9, torch.zeros(len(parts), n, dtype=torch.bool)
    for row, real, part in zip(x, mask, parts, strict=True):
        place = slice(n - len(part), n) if left else slice(0, len(part))
        row[place], real[place] = part, True
    return x, mask


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(2))
@torch.no_grad()
def test_any_history_equals_the_surviving_steps(name, seed):
    """Random turns of random lengths per row, taken back in part, rows copied and dropped; each output is the whole's."""
    decoder, slack = make(CONFIGS[name]), 4
    generator = torch.Generator().manual_seed(seed)

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    rows = [torch.zeros(0, 32) for _ in range(3)]
    cache = decoder.new_cache(slack)
    for _ in range(16):
        longest = (1, slack + 1, 7, 20)[below(4)]
        even = below(3) == 0
        counts = [longest if even else below(longest + 1) for _ in rows]
        if not any(counts):
            continue
        new = [torch.randn(n, 32) for n in counts]
        x, mask = pad(new, left=below(4) == 0)
        got = decoder(x, cache=cache, mask=None if even else mask)
        rows = [torch.cat([row, part]) for row, part in zip(rows, new, strict=True)]
        for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
            if count:
                want = decoder(row[None])[0, -count:]
                torch.testing.assert_close(got[i, mask[i]], want, atol=2e-5, rtol=1e-4)
        if below(2):
            taken = [min(below(slack + 1), n) for n in counts]
            rows = [row[: len(row) - n] for row, n in zip(rows, taken, strict=True)]
            cache.rollback(torch.tensor([len(row) for row in rows]))
        if below(4) == 0:
            kept = [below(len(rows)) for _ in range(2 + below(2))]
            cache, rows = cache.fork(torch.tensor(kept)), [rows[i] for i in kept]
    assert cache.length == max(map(len, rows)) > 8


@torch.no_grad()
def test_a_ragged_batch_is_as_each_row_alone():
    """Prompts of 3, 30 and 11 steps, padded on either side, then 12 single steps."""
    decoder = make(SMALL)
    rows = [torch.randn(n + 12, 32) for n in (3, 30, 11)]
    alone = [decoder(row[None])[0] for row in rows]
    for left in (False, True):
        cache = decoder.new_cache()
        x, mask = pad([row[:-12] for row in rows], left)
        out = decoder(x, cache=cache, mask=mask)
        for i, want in enumerate(alone):
            torch.testing.assert_close(out[i, mask[i]], want[:-12], atol=1e-5, rtol=1e-5)
        for step in range(12):
            out = decoder(torch.stack([row[step - 12] for row in rows])[:, None], cache=cache)
            torch.testing.assert_close(out[:, 0], torch.stack([y[step - 12] for y in alone]), atol=1e-5, rtol=1e-5)
        assert cache.lengths is not None and cache.lengths.tolist() == [15, 42, 23]


@torch.no_grad()
def test_samples_fork_from_one_prompt():
    decoder = make(SMALL)
    prompt, more = torch.randn(1, 21, 32), torch.randn(3, 14, 32)
    cache = decoder.new_cache()
    decoder(prompt, cache=cache)
    forked = cache.fork(torch.zeros(3, dtype=torch.int64))
    got = torch.cat([decoder(more[:, i : i + 1], cache=forked) for i in range(14)], dim=1)
    torch.testing.assert_close(
        got, decoder(torch.cat([prompt.expand(3, -1, -1), more], 1))[:, 21:], atol=1e-5, rtol=1e-5
    )
    assert cache.length == 21 and forked.length == 35, "the prompt's own cache is untouched"


@torch.no_grad()
def test_more_than_the_slack_is_not_taken_back():
    decoder = make(SMALL)
    cache = decoder.new_cache(slack=3)
    decoder(torch.randn(2, 20, 32), cache=cache)
    cache.rollback(18)
    decoder(torch.randn(2, 1, 32), cache=cache)
    with pytest.raises(ValueError, match="slack of 3"):
        cache.rollback(torch.tensor([17, 16]))
    with pytest.raises(ValueError, match="cannot be rolled back"):
        cache.rollback(20)
    cache.rollback(torch.tensor([17, 19]))
    assert cache.length == 19


@pytest.mark.parametrize("slack", [0, 4])
@torch.no_grad()
def test_size_is_what_the_function_says(slack):
    decoder = make(SMALL).bfloat16()
    for chunks in ([1] * 70, [65], [200, 1], [30, 500]):
        cache = decoder.new_cache(slack)
        for n in chunks:
            decoder(torch.randn(2, n, 32).bfloat16(), cache=cache)
        assert cache.nbytes == cache_bytes(SMALL, sum(chunks), 2, torch.bfloat16, slack)


def test_reserved_room_is_at_most_a_third():
    for steps in range(256, 100_000, 997):
        assert steps <= capacity(steps) <= 4 / 3 * steps


def test_one_full_layer_in_eight_caches_a_sixth_at_32k():
    config = DecoderConfig(layers=16, full_layers=hybrid_pattern(16, 8)[1:])
    whole = dataclasses.replace(config, full_layers=tuple(range(16)))
    assert 6 * cache_bytes(config, 32_768) <= cache_bytes(whole, 32_768)


@pytest.mark.slow
@torch.no_grad()
def test_memory_of_sliding_layers_is_constant_over_100k_steps():
    config = dataclasses.replace(SMALL, layers=2, full_layers=())
    decoder = make(config)
    cache = decoder.new_cache()
    x = torch.randn(1, 1, 32)
    decoder(x, cache=cache)
    size = cache.nbytes
    history = []
    for i in range(100_000):
        x = decoder(x, cache=cache) + torch.sin(torch.arange(32.0) * i)  # goes on from what it wrote
        assert cache.nbytes == size
        history = [*history[-15:], x]
    assert cache.length == 100_001 and x.isfinite().all()
    # two layers of window 8 see 15 steps: a fresh cache that reads the last ones goes on alike
    fresh = decoder.new_cache()
    got = decoder(torch.cat(history, dim=1), cache=fresh)[:, -1:]
    torch.testing.assert_close(got, decoder(x, cache=cache), atol=1e-3, rtol=1e-3)
