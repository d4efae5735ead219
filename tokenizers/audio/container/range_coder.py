"""A range coder (G. N. N. Martin 1979): symbols <-> bytes, at the size that integer frequencies give them.

A symbol is a span of `size` out of `total`, beginning at `start`; what the spans mean is the caller's business.  Python's
integers do all of it, so the bytes are the same on every machine; libraries that take probabilities as floats round
them by rules of their own, which then belong to the file format.
"""

from typing import NamedTuple

BITS = 64
FULL = 1 << BITS
LEAST = 1 << BITS - 8  # the range never stays below, so totals should stay well below: up to 2^44 little is lost


class Span(NamedTuple):
    start: int
    size: int
    total: int


class RangeEncoder:
    """`encode` each symbol, then `finish` for the bytes."""

    def __init__(self) -> None:
        self._low, self._range = 0, FULL
        self._out = bytearray()

    def encode(self, start: int, size: int, total: int) -> None:
        step = self._range // total
        self._low += step * start
        self._range = step * size
        self._carry()
        while self._range < LEAST:
            self._out.append(self._low >> BITS - 8)
            self._low = (self._low & LEAST - 1) << 8
            self._range <<= 8

    def finish(self) -> bytes:
        """All bytes; the last are the fewest that end inside the range, for the decoder reads zeros past the end."""
        for last in range(BITS // 8 + 1):
            unit = 1 << BITS - 8 * last
            number = -(-self._low // unit) * unit
            if number < self._low + self._range:
                break
        self._low = number
        self._carry()
        return bytes(self._out) + self._low.to_bytes(BITS // 8, "big")[:last]

    def _carry(self) -> None:
        if self._low >= FULL:
            self._low -= FULL
            at = len(self._out) - 1
            while self._out[at] == 255:
                self._out[at] = 0
                at -= 1
            self._out[at] += 1


class RangeDecoder:
    """For each symbol in turn: `point` tells where in 0..total it lies, `take` tells its span back."""

    def __init__(self, data: bytes):
        self._data, self._next = data, BITS // 8
        self._code = int.from_bytes(data[: self._next].ljust(self._next, b"\0"), "big")
        self._range = FULL

    def point(self, total: int) -> int:
        self._step = self._range // total
        return min(self._code // self._step, total - 1)  # bytes that no encoder wrote may point past the end

    def take(self, start: int, size: int) -> None:
        """After `point`, with the span that holds the point."""
        self._code -= self._step * start
        self._range = self._step * size
        while self._range < LEAST:
            byte = self._data[self._next] if self._next < len(self._data) else 0
            self._next += 1
            self._code = self._code << 8 | byte
            self._range <<= 8
