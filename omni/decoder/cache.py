"""Key-value caches for decoding, at inference only (they write in place).

A sliding layer keeps a ring of `window` steps, however long the sequence gets; a full layer grows by about a quarter at a
time, so that appending costs O(1) on average.  The result does not depend on how the sequence was cut into chunks.  Rows of
a batch may differ in length, padding is never stored, the last steps can be taken back (`rollback`), and rows can be copied
(`fork`).  The size in bytes follows from configuration and length alone (`cache_bytes`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from solfa.omni.decoder.decoder import DecoderConfig

UNREACHED = 1 << 40  # the step number of padding: larger than that of any query, so causal masks leave it out


@dataclass(frozen=True)
class Chunk:
    """n consecutive steps that go through the decoder in one forward pass.

    past: how many steps came before, in the longest row.
    steps: int (B, n), step numbers, where rows differ in length or hold padding; None where all are past, past + 1...
    mask: bool (B, n), False at padding; present with `steps`.
    """

    past: int
    n: int
    steps: Tensor | None = None
    mask: Tensor | None = None

    def last_steps(self) -> Tensor:
        """The number of the last step of each row: int (B, 1)."""
        assert self.steps is not None
        return self.steps[:, -1:]

    def latest(self, room: int) -> tuple[Tensor, Tensor, Tensor]:
        """The steps, without padding, among the last `room` of each row: int (N,) rows, columns of this chunk, step numbers."""
        assert self.steps is not None and self.mask is not None
        rows, columns = (self.mask & (self.steps > self.last_steps() - room)).nonzero(as_tuple=True)
        return rows, columns, self.steps[rows, columns]


class RingCache:
    """The last `window` steps of one layer and `slack` more, which can be taken back: step s is in slot s % size.

    window, slack: in steps.
    """

    def __init__(self, window: int, slack: int = 0):
        self.size, self.slack = window + slack, slack
        self.keys: Tensor | None = None  # (B, Hkv, size, d)
        self.values: Tensor | None = None  # (B, Hkv, size, dv)

    def append(self, k: Tensor, v: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Store a chunk, and return all keys and values that its queries may attend to.

        Args:
            k: (B, Hkv, n, d).
            v: (B, Hkv, n, dv).

        Returns: (B, Hkv, m, d) and (B, Hkv, m, dv), in the order of `key_steps(chunk)`.
        """
        if self.keys is None or self.values is None:
            self.keys = k.new_zeros(*k.shape[:2], self.size, k.shape[3])
            self.values = v.new_zeros(*v.shape[:2], self.size, v.shape[3])
        if self._write_first(chunk):
            self._write(k, v, chunk)
            filled = min(chunk.past + chunk.n, self.size)
            return self.keys[:, :, :filled], self.values[:, :, :filled]
        filled = min(chunk.past, self.size)
        if filled:
            keys = torch.cat([self.keys[:, :, :filled], k], dim=2)
            values = torch.cat([self.values[:, :, :filled], v], dim=2)
        else:
            keys, values = k, v
        self._write(k, v, chunk)
        return keys, values

    def key_steps(self, chunk: Chunk) -> Tensor:
        """Step numbers of the keys that `append` returns: int (m,), or (B, m) where rows differ; negative in unused slots."""
        past, n = chunk.past, chunk.n
        if chunk.steps is None or past == 0:
            if self._write_first(chunk):
                return self._slot_steps(torch.tensor(past + n - 1), past + n)
            return torch.cat([self._slot_steps(torch.tensor(past - 1), past), torch.arange(past, past + n)])
        assert chunk.mask is not None
        if self._write_first(chunk):
            return self._slot_steps(chunk.last_steps(), past + n)
        last_before = chunk.last_steps() - chunk.mask.sum(1, keepdim=True)
        return torch.cat([self._slot_steps(last_before, past), chunk.steps.masked_fill(~chunk.mask, UNREACHED)], dim=1)

    def _write_first(self, chunk: Chunk) -> bool:
        """Whether the chunk can be written before the ring is read: it then overwrites no step that a query attends to."""
        return chunk.n <= self.slack + 1 and (chunk.steps is None or chunk.past > 0)

    def _slot_steps(self, last: Tensor, length: int) -> Tensor:
        """Step numbers in slot order when `last` (...) was the last step and the longest row has `length`: (..., slots)."""
        return last - (last - torch.arange(min(length, self.size), device=last.device)) % self.size

    def _write(self, k: Tensor, v: Tensor, chunk: Chunk) -> None:
        assert self.keys is not None and self.values is not None
        if chunk.steps is not None:
            rows, columns, steps = chunk.latest(self.size)
            self.keys[rows, :, steps % self.size] = k[rows, :, columns]
            self.values[rows, :, steps % self.size] = v[rows, :, columns]
            return
        n = min(chunk.n, self.size)
        start = (chunk.past + chunk.n - n) % self.size
        before_end = min(n, self.size - start)  # the rest goes to the ring's beginning
        for store, new in ((self.keys, k[:, :, chunk.n - n :]), (self.values, v[:, :, chunk.n - n :])):
            store[:, :, start : start + before_end] = new[:, :, :before_end]
            if before_end < n:
                store[:, :, : n - before_end] = new[:, :, before_end:]


class GrowingCache:
    """All steps of one full-attention layer; step s is in slot s."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None  # (B, Hkv, capacity, d)
        self.values: Tensor | None = None  # (B, Hkv, capacity, dv)

    def append(self, k: Tensor, v: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Store a chunk, and return the keys and values of all steps; shapes as for `RingCache.append`."""
        length = chunk.past + chunk.n
        self.keys, self.values = self._put(self.keys, k, chunk, length), self._put(self.values, v, chunk, length)
        if chunk.steps is not None and chunk.past == 0:
            return k, v
        return self.keys[:, :, :length], self.values[:, :, :length]

    def key_steps(self, chunk: Chunk) -> Tensor:
        """Step numbers of the keys that `append` returns: int (m,), the same in all rows."""
        return torch.arange(chunk.past + chunk.n)

    @staticmethod
    def _put(store: Tensor | None, new: Tensor, chunk: Chunk, length: int) -> Tensor:
        if store is None or store.shape[2] < length:
            # zeros: a shorter row's unused slots get weight 0, and 0 * NaN would be NaN
            grown = new.new_zeros(*new.shape[:2], capacity(length), new.shape[3])
            if store is not None:
                grown[:, :, : chunk.past] = store[:, :, : chunk.past]
            store = grown
        if chunk.steps is None:
            store[:, :, chunk.past : length] = new
        else:
            rows, columns, steps = chunk.latest(length)
            store[rows, :, steps] = new[rows, :, columns]
        return store


def capacity(steps: int) -> int:
    """Slots that a full layer has reserved after so many steps."""
    slots = 64
    while slots < steps:
        slots += -(-slots // 256) * 64
    return slots


class DecoderCache:
    """One cache per layer of a `HybridDecoder`, and how many steps they hold.

    windows: one per layer, in steps; None for a full layer.
    slack: how many of the last steps can be taken back; sliding layers keep so many more.
    length: steps of the longest row; lengths: int (B,) of each, where they differ.
    """

    def __init__(self, windows: list[int | None], slack: int = 0):
        self.windows, self.slack = windows, slack
        self.layers = [GrowingCache() if w is None else RingCache(w, slack) for w in windows]
        self.length = 0
        self.lengths: Tensor | None = None
        self._peak: int | Tensor = 0  # the largest lengths so far: ring slots beyond a rollback are overwritten by then

    @property
    def row_lengths(self) -> int | Tensor:
        """Steps of every row: one number, or int (B,) where rows differ."""
        return self.length if self.lengths is None else self.lengths

    def advance(self, batch: int, n: int, mask: Tensor | None) -> Chunk:
        """Count n more steps of `batch` rows; the layers then `append` the chunk that it returns.

        mask: bool (B, n), False at padding, which is neither counted nor stored; padding is on one side of a row.
        """
        if self.lengths is None and (mask is None or bool(mask.all())):
            chunk = Chunk(self.length, n)
            self.length += n
        else:
            mask = torch.ones(batch, n, dtype=torch.bool) if mask is None else mask
            before = torch.full((batch,), self.length) if self.lengths is None else self.lengths
            before = before.to(mask.device)
            count = mask.cumsum(1)
            chunk = Chunk(self.length, n, before[:, None] + count - 1, mask)
            self._set(before + count[:, -1])
        if isinstance(self.row_lengths, int) and isinstance(self._peak, int):
            self._peak = max(self._peak, self.row_lengths)
        else:
            self._peak = torch.maximum(torch.as_tensor(self._peak), torch.as_tensor(self.row_lengths))
        return chunk

    def rollback(self, lengths: int | Tensor) -> None:
        """Drop all steps from `lengths` on, one number or one for each row, int (B,).

        Raises: ValueError for more steps than `slack`, counted from the largest length that a row has ever had.
        """
        if isinstance(lengths, Tensor) and bool((lengths == lengths[0]).all()):
            lengths = int(lengths[0])
        now, peak = self.row_lengths, self._peak
        # the common case without tensors, for speed
        if isinstance(lengths, int) and isinstance(now, int) and isinstance(peak, int):
            if peak - self.slack <= lengths <= now:
                self.length = lengths
                return
        if bool((torch.as_tensor(lengths) > torch.as_tensor(now)).any()):
            raise ValueError(f"a cache of {now} steps cannot be rolled back to {lengths}")
        dropped = int((torch.as_tensor(peak) - torch.as_tensor(lengths)).max())
        if dropped > self.slack and any(w is not None for w in self.windows):
            raise ValueError(f"{dropped} steps are to be taken back, but the cache has a slack of {self.slack}")
        if isinstance(lengths, int):
            self.length, self.lengths = lengths, None
        else:
            self._set(lengths)

    def _set(self, lengths: Tensor) -> None:
        self.length = int(lengths.max())
        self.lengths = None if bool((lengths == self.length).all()) else lengths

    def fork(self, rows: Tensor) -> "DecoderCache":
        """A cache whose row i is a copy of row rows[i], int (B',): several samples after one prompt, or fewer rows."""
        copy = DecoderCache(self.windows, self.slack)
        for layer, copied in zip(self.layers, copy.layers, strict=True):
            if layer.keys is not None and layer.values is not None:
                copied.keys, copied.values = layer.keys[rows], layer.values[rows]
        copy.length, copy._peak = self.length, self._peak if isinstance(self._peak, int) else self._peak[rows]
        if self.lengths is not None:
            copy._set(self.lengths[rows])
        return copy

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, reserved slots included."""
        stores = [t for layer in self.layers for t in (layer.keys, layer.values) if t is not None]
        return sum(t.numel() * t.element_size() for t in stores)


def cache_parts(config: "DecoderConfig", dtype: torch.dtype = torch.float32, slack: int = 0) -> tuple[int, int]:
    """Bytes per row of the sliding layers, however long the sequence, and bytes per row and step of the full layers."""
    fixed = growing = 0
    for i in range(config.layers):
        a = config.attention_of(i)
        step = a.kv_heads * (a.qk_dim + a.v_dim) * dtype.itemsize
        if a.window is None:
            growing += step
        else:
            fixed += step * (a.window + slack)
    return fixed, growing


def cache_bytes(
    config: "DecoderConfig", steps: int, batch: int = 1, dtype: torch.dtype = torch.float32, slack: int = 0
) -> int:
    """`DecoderCache.nbytes` after so many steps of `batch` rows."""
    fixed, growing = cache_parts(config, dtype, slack)
    return batch * (fixed + growing * capacity(steps))
