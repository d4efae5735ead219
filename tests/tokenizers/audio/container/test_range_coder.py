"""The range coder: what goes in comes out, at the size that the frequencies promise."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solfa.tokenizers.audio.container.range_coder import RangeDecoder, RangeEncoder, Span


@st.composite
def spans(draw: st.DrawFn) -> Span:
    total = draw(st.sampled_from([1, 2, 3, 1024, 1 << 20, 1 << 44]) | st.integers(1, 1 << 44))
    size = draw(st.sampled_from([1, total]) | st.integers(1, total))
    start = draw(st.sampled_from([0, total - size]) | st.integers(0, total - size))
    return Span(start, size, total)


def encoded(symbols: list[Span]) -> bytes:
    encoder = RangeEncoder()
    for symbol in symbols:
        encoder.encode(*symbol)
    return encoder.finish()


@given(st.lists(spans(), max_size=60))
def test_symbols_come_back_at_the_size_of_their_information(symbols: list[Span]) -> None:
    data = encoded(symbols)
    bits = sum(math.log2(s.total / s.size) for s in symbols)
    assert bits - 8 <= 8 * len(data) <= bits + 8 + 0.01 * len(symbols)
    decoder = RangeDecoder(data)
    for start, size, total in symbols:
        assert start <= decoder.point(total) < start + size
        decoder.take(start, size)


@pytest.mark.parametrize(
    "symbols",
    [
        [
            Span((1 << 43) - 1, 2, 1 << 44),
            Span(1, 1, 2),
        ],  # just below the middle, then above it: a carry through 7F FF FF...
        [Span(2, 1, 3)] * 3000,
        [Span(1, (1 << 44) - 1, 1 << 44)] * 3000,
    ],
)
def test_carries_run_through_what_was_written(symbols: list[Span]) -> None:
    decoder = RangeDecoder(encoded(symbols))
    for start, size, total in symbols:
        assert start <= decoder.point(total) < start + size
        decoder.take(start, size)


def test_any_bytes_give_some_symbols() -> None:
    """Damage is for a checksum to find; here it must only not fail."""
    noise = random.Random(0)
    for length in (0, 1, 7, 40):
        decoder = RangeDecoder(noise.randbytes(length))
        for _ in range(200):
            total = noise.randint(1, 1 << 30)
            point = decoder.point(total)
            assert 0 <= point < total
            decoder.take(point, 1)
