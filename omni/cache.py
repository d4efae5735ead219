"""Key-value caches for decoding, at inference only (they write in place).

A sliding layer keeps a ring of `window` entries, however long the sequence gets; a full layer grows, doubling its storage
so that appending costs O(1) on average.  Both return the same keys whatever the sequence was cut into.
"""

import torch
from torch import Tensor


class RingCache:
    """The last `window` steps of one layer: step s lives in slot s % window."""

    def __init__(self, window: int):
        self.window = window
        self.keys: Tensor | None = None  # (B, Hkv, window, d)
        self.values: Tensor | None = None

    def append(self, k: Tensor, v: Tensor, past: int) -> tuple[Tensor, Tensor]:
        """Store steps past, past + 1, ...: k (B, Hkv, n, d), v (B, Hkv, n, dv) -> the keys and values that they may see.

        The order of what comes back is that of `steps(past, n)`.
        """
        if self.keys is None or self.values is None:
            self.keys = k.new_zeros(*k.shape[:2], self.window, k.shape[3])
            self.values = v.new_zeros(*v.shape[:2], self.window, v.shape[3])
        n = k.shape[2]
        if n == 1:
            slot, held = past % self.window, min(past + 1, self.window)
            self.keys[:, :, slot] = k[:, :, 0]
            self.values[:, :, slot] = v[:, :, 0]
            return self.keys[:, :, :held], self.values[:, :, :held]
        held = min(past, self.window)
        seen = torch.cat([self.keys[:, :, :held], k], dim=2), torch.cat([self.values[:, :, :held], v], dim=2)
        kept = min(n, self.window)
        slots = torch.arange(past + n - kept, past + n, device=k.device) % self.window
        self.keys[:, :, slots] = k[:, :, n - kept :]
        self.values[:, :, slots] = v[:, :, n - kept :]
        return seen

    def steps(self, past: int, n: int) -> Tensor:
        """Step numbers of the keys that `append` returns for n steps after `past`."""
        if n == 1:
            return self._slots(past + 1)
        return torch.cat([self._slots(past), torch.arange(past, past + n)])

    def _slots(self, length: int) -> Tensor:
        """Step numbers in slot order when `length` steps have been seen."""
        last = length - 1
        return last - (last - torch.arange(min(length, self.window))) % self.window


class GrowingCache:
    """All steps of one layer."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None  # (B, Hkv, capacity, d)
        self.values: Tensor | None = None

    def append(self, k: Tensor, v: Tensor, past: int) -> tuple[Tensor, Tensor]:
        """Store steps past, past + 1, ... and return keys and values of all steps so far."""
        length = past + k.shape[2]
        self.keys, self.values = self._put(self.keys, k, past, length), self._put(self.values, v, past, length)
        return self.keys[:, :, :length], self.values[:, :, :length]

    def steps(self, past: int, n: int) -> Tensor:
        """Step numbers of the keys that `append` returns."""
        return torch.arange(past + n)

    @staticmethod
    def _put(store: Tensor | None, new: Tensor, past: int, length: int) -> Tensor:
        if store is None or store.shape[2] < length:
            grown = new.new_empty(*new.shape[:2], max(length, 2 * past, 64), new.shape[3])
            if store is not None:
                grown[:, :, :past] = store[:, :, :past]
            store = grown
        store[:, :, past:length] = new
        return store


class DecoderCache:
    """One cache per layer of a `HybridDecoder`, and how many steps they have seen.

    windows: one per layer; None for a full layer.
    """

    def __init__(self, windows: list[int | None]):
        self.layers = [GrowingCache() if w is None else RingCache(w) for w in windows]
        self.length = 0
        self.real: Tensor | None = None  # (B, length) bool, False at padding; None while there was no padding

    def advance(self, n: int, mask: Tensor | None) -> Tensor | None:
        """Count n more steps of which `mask` (B, n) are real; returns the mask of all steps so far."""
        if mask is not None and self.real is None:
            self.real = mask.new_ones(len(mask), self.length)
        if self.real is not None:
            new = mask if mask is not None else self.real.new_ones(len(self.real), n)
            self.real = torch.cat([self.real, new], dim=1)
        self.length += n
        return self.real

    @property
    def nbytes(self) -> int:
        """Bytes that the keys and values occupy, reserved room included."""
        stores = [t for layer in self.layers for t in (layer.keys, layer.values) if t is not None]
        return sum(t.numel() * t.element_size() for t in stores)
