"""The token grid: text and audio codes as one sequence of steps.

A sequence of T steps has one text row and `n_books` audio rows.  A text token takes one step.  Audio takes one step for
each *patch* of `patch_size` consecutive frames, so an audio cell holds `patch_size` codes:

    text   (T,)                       `<|empty|>` where the step is audio
    audio  (T, patch_size, n_books)   each book's empty id (its size) where the step is text, or past the clip's end

This is MiMo-Audio's layout (its technical report) with the patch folded into an axis of its own.  All ids are defined in
`TokenGrid`, and all labels are shifted by `next_step`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # a label left out of the loss; the default ignore_index of F.cross_entropy

SPECIALS = (
    "<|pad|>",
    "<|empty|>",  # the text row's filler under audio
    "<|bos|>",
    "<|eot|>",  # end of a turn
    "<|sosp|>",  # speech as input: start, end
    "<|eosp|>",
    "<|sostm|>",  # speech as output: start, end
    "<|eostm|>",
    "<|style|>",  # slots: the caller adds its own embeddings (`slot_embeds`)
    "<|voice|>",
)


def next_step(x: Tensor, fill: float | bool) -> Tensor:
    """Shift one step to the left: (B, T, ...) -> (B, T, ...), step t being step t + 1 of x, and `fill` at the last."""
    return torch.cat([x[:, 1:], torch.full_like(x[:, :1], fill)], dim=1)


@dataclass(frozen=True)
class Grid:
    """One sequence, or a right-padded batch of them with a leading axis B.

    text: int64 (T,); audio: int64 (T, patch_size, n_books); loss_mask: bool (T,), False for steps that are only context
    (the prompt) and for padding.
    """

    text: Tensor
    audio: Tensor
    loss_mask: Tensor

    def to(self, device: torch.device | str) -> "Grid":
        """The same grid on a device."""
        return Grid(self.text.to(device), self.audio.to(device), self.loss_mask.to(device))

    def batched(self) -> "Grid":
        """With a leading axis B; B = 1 where there was none."""
        return self if self.text.dim() == 2 else Grid(self.text[None], self.audio[None], self.loss_mask[None])


class Labels(NamedTuple):
    """Labels of every step, `IGNORE` where there is none.  text: (B, T); audio: (B, T, patch_size, n_books)."""

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
        """Number of codebooks: audio rows of the grid."""
        return len(self.books)

    @property
    def vocab_size(self) -> int:
        """Number of text ids, special tokens included."""
        return self.text_size + len(self.specials)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: self.text_size + i for i, name in enumerate(self.specials)}

    def id(self, special: str) -> int:
        """The text id of a special token such as `<|sostm|>`.  Raises: KeyError for an unknown one."""
        return self._ids[special]

    def empty_ids(self, device: torch.device | str | None = None) -> Tensor:
        """Each book's empty id: int64 (n_books,)."""
        return torch.tensor(self.books, device=device)

    def is_audio(self, text: Tensor) -> Tensor:
        """Which steps hold audio: bool, shaped as the text row."""
        return text == self.id("<|empty|>")

    # Frames <-> patches

    def patches(self, n_frames: int) -> int:
        """Number of patches, and so of steps, of n_frames frames."""
        return -(-n_frames // self.patch_size)

    def fold(self, codes: Tensor) -> Tensor:
        """Codes (n_books, frames) -> patches (steps, patch_size, n_books), the last one padded with empty ids.

        Raises: ValueError for another number of books.
        """
        n_books, n = codes.shape
        if n_books != self.n_books:
            raise ValueError(f"audio part has {n_books} books, the grid {self.n_books}")
        out = self.empty_ids(codes.device).repeat(self.patches(n) * self.patch_size, 1)
        out[:n] = codes.T
        return out.view(-1, self.patch_size, self.n_books)

    def unfold(self, patches: Tensor) -> Tensor:
        """Inverse of `fold`: patches (steps, patch_size, n_books) -> codes (n_books, frames) without the padding."""
        frames = patches.reshape(-1, self.n_books)
        is_frame = (frames != self.empty_ids(frames.device)).any(-1)
        return frames[is_frame].T.contiguous()

    def fold_frames(self, x: Tensor) -> Tensor:
        """Vectors, one per frame (frames, d) -> (steps, patch_size, d), padded with zeros."""
        n, d = x.shape
        return F.pad(x, (0, 0, 0, self.patches(n) * self.patch_size - n)).view(-1, self.patch_size, d)

    def place_frames(self, grid: Grid, x: Tensor) -> Tensor:
        """Vectors for the last audio part of a sequence (frames, d) -> (T, patch_size, d), zeros on all other steps.

        Raises: ValueError where the part does not have so many frames.
        """
        folded = self.fold_frames(x)
        steps = self.is_audio(grid.text).nonzero()[:, 0][-len(folded) :]
        if len(steps) != len(folded) or steps[-1] - steps[0] != len(steps) - 1:
            raise ValueError(f"{len(x)} frames do not fit the last audio part of the grid")
        out = x.new_zeros(len(grid.text), self.patch_size, x.shape[1])
        out[steps] = folded
        return out

    # Parts <-> grid

    def build(self, parts: Sequence[Sequence[int] | Tensor], loss_from: int = 0) -> Grid:
        """A sequence from its parts, in order; the parts before `loss_from` are context only.

        A part is text (ids, 1-D) or audio (codes, (n_books, frames)).  Two audio parts need a text part between them.

        Raises: ValueError for parts of other shapes, ids outside the vocabulary or a book, or no part at all.
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
            limit = self.empty_ids()[:, None] if is_audio else torch.tensor(self.vocab_size)
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
            rows.append(Grid(text, audio, torch.full((len(text),), i >= loss_from)))
        if not rows:
            raise ValueError("a grid needs at least one part that is not empty")
        return Grid(*(torch.cat([getattr(r, f) for r in rows]) for f in ("text", "audio", "loss_mask")))

    def split(self, grid: Grid) -> list[Tensor]:
        """Inverse of `build`: the parts of one sequence, neighbouring text parts joined, padding left out."""
        is_data = grid.text != self.id("<|pad|>")
        text, audio = grid.text[is_data], grid.audio[is_data]
        is_audio = self.is_audio(text)
        edges = [0, *(1 + (is_audio[1:] != is_audio[:-1]).nonzero()[:, 0]).tolist(), len(text)]
        return [
            self.unfold(audio[a:b]) if is_audio[a] else text[a:b]
            for a, b in zip(edges[:-1], edges[1:], strict=True)
            if b > a
        ]

    def audio_step(self, patch: Tensor) -> Grid:
        """Patches (B, patch_size, n_books) -> a batch of sequences of one step each."""
        text = torch.full((len(patch), 1), self.id("<|empty|>"), device=patch.device)
        return Grid(text, patch[:, None], torch.ones_like(text, dtype=torch.bool))

    def _no_audio(self, steps: int) -> Tensor:
        return self.empty_ids().expand(steps, self.patch_size, -1)

    # Batches

    def collate(self, grids: Sequence[Grid], left: bool = False) -> Grid:
        """Sequences of any length -> a batch, padded on the right (to train) or left (to generate)."""
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
                for f in ("text", "audio", "loss_mask")
            )
        )

    def labels(self, batch: Grid) -> Labels:
        """Next-step labels of a batch (B, T).

        A text label is the next step's text id, `<|empty|>` included: with that id the text head predicts more audio.
        """
        loss_mask = next_step(batch.loss_mask, False)
        text = next_step(batch.text, self.id("<|pad|>"))
        audio = next_step(batch.audio, 0)
        keep_text = loss_mask & (text != self.id("<|pad|>"))
        keep_audio = loss_mask[..., None, None] & (audio != self.empty_ids(audio.device))
        return Labels(text.masked_fill(~keep_text, IGNORE), audio.masked_fill(~keep_audio, IGNORE))
