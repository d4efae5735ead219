"""Convolutions and windowed attention against plain versions, and that neither looks ahead."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.tokenizers.audio.layers import ConvBlock, TransformerBlock, WindowedAttention, linear, rotate
from solfa.tokenizers.audio.stream_state import Stream


def lively(module: nn.Module) -> nn.Module:
    """Fresh blocks are the identity (their last layer is zero): give every weight a value."""
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) / p.shape[-1] ** 0.5)
    return module.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def naive(attention: WindowedAttention, x: Tensor) -> Tensor:
    """All T x T scores, masked."""
    batch, steps, dim = x.shape
    q, k, v = attention.qkv(x).view(batch, steps, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
    at = torch.arange(steps)
    q, k = rotate(q, at, attention.frequency), rotate(k, at, attention.frequency)
    distance = at[:, None] - at
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=(distance >= 0) & (distance < attention.window))
    return attention.out(y.transpose(1, 2).reshape(batch, steps, dim))


@pytest.mark.parametrize("steps", [1, 3, 5, 6, 10, 23])  # window 5: shorter, equal, whole multiples, and not
def test_windowed_attention_equals_masked_attention(steps: int) -> None:
    attention = lively(WindowedAttention(16, 2, window=5))
    x = noise(2, steps, 16)
    assert isinstance(attention, WindowedAttention)
    torch.testing.assert_close(attention(x), naive(attention, x))


def test_attention_is_relative() -> None:
    """Rotary positions: the same frames later in time attend alike once the window is full."""
    attention = lively(WindowedAttention(16, 2, window=4))
    x = noise(1, 12, 16)
    later = torch.cat([noise(1, 7, 16), x], dim=1)
    torch.testing.assert_close(attention(later)[:, 7 + 3 :], attention(x)[:, 3:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "block", [ConvBlock(16, dilation=3), TransformerBlock(16, 2, window=5)], ids=["conv", "transformer"]
)
def test_reach(block: nn.Module) -> None:
    """A change at frame 20 alters nothing before it, and nothing past the bounded reach (6 and 4 frames)."""
    lively(block)
    reach = 6 if isinstance(block, ConvBlock) else 4
    x = noise(1, 40, 16)
    other = x.clone()
    other[:, 20] += noise(16)
    changed = (block(x) - block(other)).abs().amax(-1)[0] > 1e-6
    where = changed.nonzero().flatten()
    assert (where.min(), where.max()) == (20, 20 + reach)


def test_conv_block_equals_conv1d() -> None:
    block = ConvBlock(8, dilation=2, kernel=3)
    lively(block)
    x = noise(2, 11, 8)
    weight = block.conv.weight.view(16, 3, 8).transpose(1, 2)  # (out, in, kernel)
    padded = F.pad(block.norm(x).transpose(1, 2), (4, 0))
    hidden = F.conv1d(padded, weight, block.conv.bias, dilation=2).transpose(1, 2)
    torch.testing.assert_close(block(x), x + block.out(F.gelu(hidden)))


def test_fresh_blocks_are_the_identity() -> None:
    x = noise(1, 9, 16)
    for block in (ConvBlock(16, 1), TransformerBlock(16, 2, 4)):
        assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    "block", [ConvBlock(16, dilation=3), TransformerBlock(16, 2, window=5)], ids=["conv", "transformer"]
)
@pytest.mark.parametrize("pieces", [[1] * 23, [3, 7, 1, 12], [5, 5, 13], [22, 1]], ids=str)
def test_pieces_equal_the_whole(block: nn.Module, pieces: list[int]) -> None:
    lively(block)
    x, stream = noise(2, 23, 16), Stream()
    torch.testing.assert_close(torch.cat([block(piece, stream) for piece in x.split(pieces, dim=1)], dim=1), block(x))


def test_two_streams_do_not_mix() -> None:
    block = lively(TransformerBlock(16, 2, window=5))
    x, y = noise(2, 12, 16).split(1)
    one, other = Stream(), Stream()
    pieces = [(block(a, one), block(b, other)) for a, b in zip(x.split(4, dim=1), y.split(4, dim=1), strict=True)]
    for made, whole in zip(zip(*pieces, strict=True), (x, y), strict=True):
        torch.testing.assert_close(torch.cat(made, dim=1), block(whole))


@pytest.mark.parametrize(("dim", "out"), [(768, 512), (888, 128), (2048, 384), (352, 97), (130, 1024), (16, 16)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_does_not_depend_on_the_number_of_rows(dim: int, out: int, threads: int) -> None:
    x, weight, bias = noise(600, dim), noise(out, dim), noise(out)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = linear(x, weight, bias)
        for rows in (1, 2, 3, 7, 9, 15, 16, 17, 31, 33, 63, 65, 100, 513):
            assert torch.equal(linear(x[:rows], weight, bias), whole[:rows])
    finally:
        torch.set_num_threads(before)
