import dataclasses

import pytest
import torch

from solfa.omni.decoder import AttentionConfig, DecoderConfig, HybridDecoder, hybrid

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
def test_full_layers_grow_by_doubling(decoder):
    cache, grown = decoder.new_cache(), set()
    for _ in range(300):
        decoder(torch.randn(1, 1, 32), cache=cache)
        grown.add(cache.layers[0].keys.shape[2])
    assert sorted(grown) == [64, 128, 256, 512]


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
    assert hybrid(48, 6) == (0, 5, 11, 17, 23, 29, 35, 41, 47)
    assert DecoderConfig().full_layers == (0, 5)


def test_trains_in_bfloat16():
    decoder = HybridDecoder(SMALL)
    with torch.autocast("cpu", torch.bfloat16):
        decoder(torch.randn(2, 20, 32)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


@torch.no_grad()
def test_agrees_with_transformers_on_mimo_v2_flash():
    hf = pytest.importorskip("transformers", reason="transformers is not installed")
    if not hasattr(hf, "MiMoV2FlashConfig"):
        pytest.skip(f"transformers {hf.__version__} has no mimo_v2_flash")
    torch.manual_seed(0)
    theirs_config = hf.MiMoV2FlashConfig(
        vocab_size=40, hidden_size=64, intermediate_size=96, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=2, head_dim=24, v_head_dim=16, sliding_window=16, mlp_layer_types=["dense"] * 6,
        attn_implementation="eager",
    )  # fmt: skip
    theirs = hf.MiMoV2FlashModel(theirs_config).eval()
    ours = HybridDecoder(mimo_v2_flash(theirs_config)).eval()
    state = theirs.state_dict()
    ours.norm.weight.copy_(state["norm.weight"])
    for i, layer in enumerate(ours.layers):
        p = f"layers.{i}."
        qkv = torch.cat([state[f"{p}self_attn.{n}_proj.weight"] for n in "qkv"])
        layer.attention.qkv.weight.copy_(qkv)
        layer.attention.out.weight.copy_(state[p + "self_attn.o_proj.weight"])
        if layer.attention.sink is not None:
            layer.attention.sink.normal_()
            theirs.layers[i].self_attn.sinks.copy_(layer.attention.sink)
        layer.ffn.gate_up.weight.copy_(torch.cat([state[f"{p}mlp.{n}_proj.weight"] for n in ("gate", "up")]))
        layer.ffn.down.weight.copy_(state[p + "mlp.down_proj.weight"])
        layer.attention_norm.weight.copy_(state[p + "input_layernorm.weight"])
        layer.ffn_norm.weight.copy_(state[p + "post_attention_layernorm.weight"])
    ids = torch.randint(0, 40, (2, 50))
    want = theirs(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(ours(theirs.embed_tokens(ids)), want, atol=1e-5, rtol=1e-5)


def mimo_v2_flash(c) -> DecoderConfig:
    """Ours for a dense MiMo-V2-Flash of theirs."""

    def attention(kind: str, kv_heads: int, window: int | None, sink: bool) -> AttentionConfig:
        rope = c.rope_parameters[kind]
        rotary_dim = int(c.head_dim * rope["partial_rotary_factor"])
        return AttentionConfig(
            window, c.num_attention_heads, kv_heads, c.head_dim, c.v_head_dim, rotary_dim, rope["rope_theta"], sink,
            c.attention_value_scale,
        )  # fmt: skip

    return DecoderConfig(
        dim=c.hidden_size,
        layers=c.num_hidden_layers,
        ffn_dim=c.intermediate_size,
        full_layers=hybrid(c.num_hidden_layers, 6),
        full=attention("full_attention", c.num_key_value_heads, None, False),
        sliding=attention("sliding_attention", 2 * c.num_key_value_heads, c.sliding_window, True),
        norm_eps=c.rms_norm_eps,
    )
