"""Key-value caches for decoding, at inference only (they write in place).

A sliding layer keeps a ring of `window` steps, however long the sequence gets; a full layer grows by about a quarter at a
time, so that appending costs O(1) on average.  What comes back is the same whatever the sequence was cut into.  Rows of a
batch may differ in length, padding is never stored, the last steps can be taken back (`rollback`), and rows can be copied
(`fork`).  The size in bytes follows from configuration and length alone (`cache_bytes`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from solfa.omni.decoder.decoder import DecoderConfig

NEVER = 1 << 40  # a step number that no query has reached


@dataclass(frozen=True)
class Turn:
    """n steps that are read at once.

    past: how many steps came before, in the longest row.
    at: int (B, n), the step number of each, where rows differ in length or hold padding; None where all are past, past + 1...
    real: bool (B, n), False at padding; present with `at`.
    """

    past: int
    n: int
    at: Tensor | None = None
    real: Tensor | None = None

    def lasts(self) -> Tensor:
        """The number of the last step of each row: (B, 1)."""
        assert self.at is not None
        return self.at[:, -1:]

    def newest(self, room: int) -> tuple[Tensor, Tensor, Tensor]:
        """The real steps among the last `room` of each row: (N,) rows, (N,) places in this turn, (N,) step numbers."""
        assert self.at is not None and self.real is not None
        rows, places = (self.real & (self.at > self.lasts() - room)).nonzero(as_tuple=True)
        return rows, places, self.at[rows, places]


class RingCache:
    """The last `window` steps of one layer and `slack` more, so that so many can be taken back: step s is in slot s % size."""

    def __init__(self, window: int, slack: int = 0):
        self.size, self.slack = window + slack, slack
        self.keys: Tensor | None = None  # (B, Hkv, size, d)
        self.values: Tensor | None = None

    def append(self, k: Tensor, v: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        """Store the steps of a turn: k (B, Hkv, n, d), v (B, Hkv, n, dv) -> keys and values, all that they may see included.

        The order of what comes back is that of `steps(turn)`.
        """
        if self.keys is None or self.values is None:
            self.keys = k.new_zeros(*k.shape[:2], self.size, k.shape[3])
            self.values = v.new_zeros(*v.shape[:2], self.size, v.shape[3])
        if self._in_place(turn):
            self._write(k, v, turn)
            held = min(turn.past + turn.n, self.size)
            return self.keys[:, :, :held], self.values[:, :, :held]
        held = min(turn.past, self.size)
        if held:
            seen = torch.cat([self.keys[:, :, :held], k], dim=2), torch.cat([self.values[:, :, :held], v], dim=2)
        else:
            seen = k, v
        self._write(k, v, turn)
        return seen

    def steps(self, turn: Turn) -> Tensor:
        """Step numbers of the keys that `append` returns: (m,), or (B, m) where rows differ; never-seen slots are negative."""
        past, n = turn.past, turn.n
        if turn.at is None or past == 0:
            if self._in_place(turn):
                return self._slots(torch.tensor(past + n - 1), past + n)
            return torch.cat([self._slots(torch.tensor(past - 1), past), torch.arange(past, past + n)])
        assert turn.real is not None
        if self._in_place(turn):
            return self._slots(turn.lasts(), past + n)
        firsts = turn.lasts() - turn.real.sum(1, keepdim=True)
        return torch.cat([self._slots(firsts, past), turn.at.masked_fill(~turn.real, NEVER)], dim=1)

    def _in_place(self, turn: Turn) -> bool:
        """Whether the steps can be written before they are read, since nothing that any of them sees is lost by it."""
        return turn.n <= self.slack + 1 and (turn.at is None or turn.past > 0)

    def _slots(self, last: Tensor, length: int) -> Tensor:
        """Step numbers in slot order when `last` was the last step; `length` is that of the longest row."""
        return last - (last - torch.arange(min(length, self.size), device=last.device)) % self.size

    def _write(self, k: Tensor, v: Tensor, turn: Turn) -> None:
        assert self.keys is not None and self.values is not None
        if turn.at is not None:
            rows, places, steps = turn.newest(self.size)
            self.keys[rows, :, steps % self.size] = k[rows, :, places]
            self.values[rows, :, steps % self.size] = v[rows, :, places]
            return
        kept = min(turn.n, self.size)
        end = turn.past + turn.n
        slot = (end - kept) % self.size
        ahead = min(kept, self.size - slot)  # before the ring's end; what is left begins it again
        for store, new in ((self.keys, k[:, :, turn.n - kept :]), (self.values, v[:, :, turn.n - kept :])):
            store[:, :, slot : slot + ahead] = new[:, :, :ahead]
            if ahead < kept:
                store[:, :, : kept - ahead] = new[:, :, ahead:]


class GrowingCache:
    """All steps of one layer; step s is in slot s."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None  # (B, Hkv, capacity, d)
        self.values: Tensor | None = None

    def append(self, k: Tensor, v: Tensor, turn: Turn) -> tuple[Tensor, Tensor]:
        """Store the steps of a turn and return keys and values in the order of `steps(turn)`."""
        length = turn.past + turn.n
        self.keys, self.values = self._put(self.keys, k, turn, length), self._put(self.values, v, turn, length)
        if turn.at is not None and turn.past == 0:
            return k, v
        return self.keys[:, :, :length], self.values[:, :, :length]

    def steps(self, turn: Turn) -> Tensor:
        """Step numbers of the keys that `append` returns: (m,), the same in all rows."""
        return torch.arange(turn.past + turn.n)

    @staticmethod
    def _put(store: Tensor | None, new: Tensor, turn: Turn, length: int) -> Tensor:
        if store is None or store.shape[2] < length:
            # zeros, for a shorter row's slots are read with weight 0, and 0 times not-a-number is no 0
            grown = new.new_zeros(*new.shape[:2], capacity(length), new.shape[3])
            if store is not None:
                grown[:, :, : turn.past] = store[:, :, : turn.past]
            store = grown
        if turn.at is None:
            store[:, :, turn.past : length] = new
        else:
            rows, places, steps = turn.newest(length)
            store[rows, :, steps] = new[rows, :, places]
        return store


def capacity(steps: int) -> int:
    """Steps that a full layer has room for once it has seen so many."""
    room = 64
    while room < steps:
        room += -(-room // 256) * 64
    return room


class DecoderCache:
    """One cache per layer of a `HybridDecoder`, and how many steps they have seen.

    windows: one per layer; None for a full layer.
    slack: how many of the last steps can be taken back; sliding layers keep so many more.
    length: steps of the longest row; lengths: (B,) of each, where they differ.
    """

    def __init__(self, windows: list[int | None], slack: int = 0):
        self.windows, self.slack = windows, slack
        self.layers = [GrowingCache() if w is None else RingCache(w, slack) for w in windows]
        self.length = 0
        self.lengths: Tensor | None = None
        self._most: int | Tensor = 0  # steps that rows had seen before any were taken back, and so overwrote older ones

    def advance(self, batch: int, n: int, mask: Tensor | None) -> Turn:
        """Count n more steps of `batch` rows.

        mask: bool (B, n), False at padding, which is neither counted nor stored; the real steps of a row are neighbours.
        """
        if self.lengths is None and (mask is None or bool(mask.all())):
            turn = Turn(self.length, n)
            self.length += n
        else:
            real = torch.ones(batch, n, dtype=torch.bool) if mask is None else mask
            before = torch.full((batch,), self.length) if self.lengths is None else self.lengths
            before = before.to(real.device)
            counted = real.cumsum(1)
            turn = Turn(self.length, n, before[:, None] + counted - 1, real)
            self._set(before + counted[:, -1])
        lengths = self.length if self.lengths is None else self.lengths
        if isinstance(lengths, int) and isinstance(self._most, int):
            self._most = max(self._most, lengths)
        else:
            self._most = torch.maximum(torch.as_tensor(self._most), torch.as_tensor(lengths))
        return turn

    def rollback(self, lengths: int | Tensor) -> None:
        """Forget all steps from `lengths` on, one number or one for each row (B,).

        Raises: ValueError for more steps than `slack`, counted from the most that a row has ever held.
        """
        if isinstance(lengths, Tensor) and bool((lengths == lengths[0]).all()):
            lengths = int(lengths[0])
        now = self.length if self.lengths is None else self.lengths
        if (
            isinstance(lengths, int) and isinstance(now, int) and isinstance(self._most, int)
        ):  # as it mostly is, so cheaply
            if self._most - self.slack <= lengths <= now:
                self.length = lengths
                return
        if bool((torch.as_tensor(lengths) > torch.as_tensor(now)).any()):
            raise ValueError(f"a cache of {now} steps cannot be rolled back to {lengths}")
        taken = int((torch.as_tensor(self._most) - torch.as_tensor(lengths)).max())
        if taken > self.slack and any(w is not None for w in self.windows):
            raise ValueError(f"{taken} steps are to be taken back, but the cache has a slack of {self.slack}")
        if isinstance(lengths, int):
            self.length, self.lengths = lengths, None
        else:
            self._set(lengths)

    def _set(self, lengths: Tensor) -> None:
        self.length = int(lengths.max())
        self.lengths = None if bool((lengths == self.length).all()) else lengths

    def fork(self, rows: Tensor) -> "DecoderCache":
        """A cache whose row i is a copy of row rows[i]: several samples after one prompt, or fewer rows than before."""
        copy = DecoderCache(self.windows, self.slack)
        for mine, new in zip(self.layers, copy.layers, strict=True):
            if mine.keys is not None and mine.values is not None:
                new.keys, new.values = mine.keys[rows], mine.values[rows]
        copy.length, copy._most = self.length, self._most if isinstance(self._most, int) else self._most[rows]
        if self.lengths is not None:
            copy._set(self.lengths[rows])
        return copy

    @property
    def nbytes(self) -> int:
        """Bytes that the keys and values occupy, reserved room included."""
        stores = [t for layer in self.layers for t in (layer.keys, layer.values) if t is not None]
        return sum(t.numel() * t.element_size() for t in stores)


def cache_parts(config: "DecoderConfig", dtype: torch.dtype = torch.float32, slack: int = 0) -> tuple[int, int]:
    """Bytes that the sliding layers take, however long the sequence, and those that a step takes in the full ones; per row."""
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
    """What `DecoderCache.nbytes` is after so many steps."""
    fixed, growing = cache_parts(config, dtype, slack)
    return batch * (fixed + growing * capacity(steps))
