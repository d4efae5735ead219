"""The token grid: text and audio codes as one sequence of steps.

A sequence of T steps has one text row and `n_books` audio rows.  A text token takes one step.  Audio takes one step for
each *patch* of `patch_size` consecutive frames, so an audio cell holds `patch_size` codes:

    text   (T,)                       `<|empty|>` where the step is audio
    audio  (T, patch_size, n_books)   each book's empty id (its size) where the step is text, or past the clip's end

This is MiMo-Audio's layout (its technical report) with the patch folded into an axis of its own.  `TokenGrid` is the only
place that knows ids, and `next_step` the only function that shifts targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # a label that no loss counts; the default of F.cross_entropy

SPECIALS = (
    "<|pad|>",
    "<|empty|>",  # the text row's filler under audio
    "<|bos|>",
    "<|eot|>",  # end of a turn
    "<|sosp|>",  # speech that is read: start, end
    "<|eosp|>",
    "<|sostm|>",  # speech that is written: start, end
    "<|eostm|>",
    "<|style|>",  # slots to which the caller adds a vector of its own
    "<|voice|>",
)


def next_step(x: Tensor, fill: float | bool) -> Tensor:
    """What follows each step: (B, T, ...) -> (B, T, ...) with row t taken from t + 1, and `fill` after the last."""
    return torch.cat([x[:, 1:], torch.full_like(x[:, :1], fill)], dim=1)


@dataclass(frozen=True)
class Grid:
    """One sequence, or a right-padded batch of them with a leading axis B.

    text: int64 (T,); audio: int64 (T, patch_size, n_books); learn: bool (T,), False for steps that are only context
    (the prompt) and for padding.
    """

    text: Tensor
    audio: Tensor
    learn: Tensor

    def to(self, device: torch.device | str) -> "Grid":
        return Grid(self.text.to(device), self.audio.to(device), self.learn.to(device))

    def batched(self) -> "Grid":
        """With the leading axis, B = 1 where there was none."""
        return self if self.text.dim() == 2 else Grid(self.text[None], self.audio[None], self.learn[None])


class Labels(NamedTuple):
    """Targets of every step, `IGNORE` where there is none.  text: (B, T); audio: (B, T, patch_size, n_books)."""

    text: Tensor
    audio: Tensor


@dataclass(frozen=True)
class TokenGrid:
    """The layout: ordinary text ids 0..text_size-1, then the special tokens; book k's codes 0..books[k]-1, then its empty id."""

    text_size: int
    books: tuple[int, ...] = (1024,) * 8
    patch_size: int = 4
    specials: tuple[str, ...] = SPECIALS

    @property
    def n_books(self) -> int:
        return len(self.books)

    @property
    def vocab_size(self) -> int:
        return self.text_size + len(self.specials)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: self.text_size + i for i, name in enumerate(self.specials)}

    def id(self, special: str) -> int:
        """The text id of a special token such as `<|sostm|>`."""
        return self._ids[special]

    def empties(self, device: torch.device | str | None = None) -> Tensor:
        """Each book's empty id: (n_books,)."""
        return torch.tensor(self.books, device=device)

    def is_audio(self, text: Tensor) -> Tensor:
        """Which steps hold audio: bool, shaped as the text row."""
        return text == self.id("<|empty|>")

    # Frames <-> patches

    def patches(self, n_frames: int) -> int:
        """Steps that so many frames take."""
        return -(-n_frames // self.patch_size)

    def fold(self, codes: Tensor) -> Tensor:
        """Codes (n_books, frames) -> patches (steps, patch_size, n_books), the last one filled up with empty ids."""
        n_books, n = codes.shape
        if n_books != self.n_books:
            raise ValueError(f"audio part has {n_books} books, the grid {self.n_books}")
        out = self.empties(codes.device).repeat(self.patches(n) * self.patch_size, 1)
        out[:n] = codes.T
        return out.view(-1, self.patch_size, self.n_books)

    def unfold(self, patches: Tensor) -> Tensor:
        """Inverse of `fold`: patches (steps, patch_size, n_books) -> codes (n_books, frames) without the filling."""
        frames = patches.reshape(-1, self.n_books)
        real = (frames != self.empties(frames.device)).any(-1)
        return frames[real].T.contiguous()

    def fold_frames(self, x: Tensor) -> Tensor:
        """Vectors, one per frame (frames, d) -> (steps, patch_size, d), filled up with zeros."""
        n, d = x.shape
        return F.pad(x, (0, 0, 0, self.patches(n) * self.patch_size - n)).view(-1, self.patch_size, d)

    def place_frames(self, grid: Grid, x: Tensor) -> Tensor:
        """Vectors for the last audio part of a sequence (frames, d) -> (T, patch_size, d), zeros on all other steps."""
        folded = self.fold_frames(x)
        steps = self.is_audio(grid.text).nonzero()[:, 0][-len(folded) :]
        if len(steps) != len(folded) or steps[-1] - steps[0] != len(steps) - 1:
            raise ValueError(f"{len(x)} frames do not fit the last audio part of the grid")
        out = x.new_zeros(len(grid.text), self.patch_size, x.shape[1])
        out[steps] = folded
        return out

    # Parts <-> grid

    def build(self, parts: Sequence[Sequence[int] | Tensor], learn_from: int = 0) -> Grid:
        """A sequence from its parts, in order; the parts before `learn_from` are context only.

        A part is text (ids, 1-D) or audio (codes, (n_books, frames)).  Two audio parts need a text part between them.
        """
        rows: list[Grid] = []
        was_audio = False
        for i, part in enumerate(parts):
            part = torch.as_tensor(part, dtype=torch.long)
            if part.dim() not in (1, 2):
                raise ValueError(f"a part is 1-D text or 2-D audio, not {part.dim()}-D")
            if part.numel() == 0:
                continue
            is_audio = part.dim() == 2
            limit = self.empties()[:, None] if is_audio else torch.tensor(self.vocab_size)
            if is_audio and len(part) != self.n_books:
                raise ValueError(f"audio part has {len(part)} books, the grid {self.n_books}")
            if ((part < 0) | (part >= limit)).any():
                raise ValueError(f"part {i} holds ids outside its {'book' if is_audio else 'vocabulary'}")
            if is_audio and was_audio:
                raise ValueError("two audio parts need a text part between them")
            was_audio = is_audio
            if is_audio:
                audio = self.fold(part)
                text = torch.full((len(audio),), self.id("<|empty|>"))
            else:
                text, audio = part, self._no_audio(len(part))
            rows.append(Grid(text, audio, torch.full((len(text),), i >= learn_from)))
        if not rows:
            raise ValueError("a grid needs at least one part that is not empty")
        return Grid(*(torch.cat([getattr(r, f) for r in rows]) for f in ("text", "audio", "learn")))

    def split(self, grid: Grid) -> list[Tensor]:
        """Inverse of `build`: the parts of one sequence, neighbouring text parts joined, padding left out."""
        real = grid.text != self.id("<|pad|>")
        text, audio = grid.text[real], grid.audio[real]
        is_audio = self.is_audio(text)
        edges = [0, *(1 + (is_audio[1:] != is_audio[:-1]).nonzero()[:, 0]).tolist(), len(text)]
        return [
            self.unfold(audio[a:b]) if is_audio[a] else text[a:b]
            for a, b in zip(edges[:-1], edges[1:], strict=True)
            if b > a
        ]

    def audio_step(self, patch: Tensor) -> Grid:
        """A batch of one-step sequences from patches just written: (B, patch_size, n_books) -> T = 1."""
        text = torch.full((len(patch), 1), self.id("<|empty|>"), device=patch.device)
        return Grid(text, patch[:, None], torch.ones_like(text, dtype=torch.bool))

    def _no_audio(self, steps: int) -> Tensor:
        return self.empties().expand(steps, self.patch_size, -1)

    # Batches

    def collate(self, grids: Sequence[Grid], left: bool = False) -> Grid:
        """Sequences of any length -> a batch, padded on the right (to train) or left (to go on writing)."""
        longest = max(len(g.text) for g in grids)
        rows = []
        for g in grids:
            n = longest - len(g.text)
            pad = Grid(torch.full((n,), self.id("<|pad|>")), self._no_audio(n), torch.zeros(n, dtype=torch.bool)).to(
                g.text.device
            )
            rows.append((pad, g) if left else (g, pad))
        return Grid(
            *(
                torch.stack([torch.cat([getattr(r, f) for r in row]) for row in rows])
                for f in ("text", "audio", "learn")
            )
        )

    def labels(self, batch: Grid) -> Labels:
        """Next-step targets of a batch; the one caller of `next_step` for targets.

        A text target is the next step's text id, `<|empty|>` included: that is how the text head says "audio goes on".
        """
        learn = next_step(batch.learn, False)
        text = next_step(batch.text, self.id("<|pad|>"))
        audio = next_step(batch.audio, 0)
        keep_text = learn & (text != self.id("<|pad|>"))
        keep_audio = learn[..., None, None] & (audio != self.empties(audio.device))
        return Labels(text.masked_fill(~keep_text, IGNORE), audio.masked_fill(~keep_audio, IGNORE))
