"""What `solfa train omni` can train, and the losses that it minimises.

An objective holds a model, names the terms of its loss, and says how many labels of each a batch has, so that a mean over
all labels of a step can be put together from the parts that processes and passes see.
"""

import dataclasses
from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solfa import checkpoints
from solfa.omni import text
from solfa.omni.decoder import DecoderConfig, HybridDecoder
from solfa.omni.flops import decoder_flops, matrices, patch_flops
from solfa.omni.grid import IGNORE, TokenGrid, next_step
from solfa.omni.model import OmniConfig, OmniModel, loss
from solfa.omni.mtp import MTPBlock, copied
from solfa.omni.packing import Packed
from solfa.omni.text import TextConfig, TextModel


class Objective(nn.Module, ABC):
    """A model and its losses as one module, so that sharding gathers whatever of the model a loss uses.

    names, weights (K,): the terms of the loss; auxiliary losses of the model are further terms at their end.
    """

    kind: str  # of checkpoint
    grid: TokenGrid
    config: TextConfig | OmniConfig
    model: nn.Module
    names: tuple[str, ...]
    weights: Tensor

    @property
    def decoder(self) -> HybridDecoder:
        decoder = self.model.decoder
        assert isinstance(decoder, HybridDecoder)
        return decoder

    @abstractmethod
    def counts(self, batch: Packed) -> Tensor:
        """How many labels each term has: float32 (K,), on the batch's device."""

    @abstractmethod
    def forward(self, batch: Packed) -> Tensor:
        """Each term's mean over its labels, 0 where there are none: (K,), with gradients."""

    @abstractmethod
    def flops(self, batch: Packed) -> float:
        """Operations of a forward pass that the model needs."""

    def save(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        """Write the model's checkpoint, `tensors` being its whole state."""
        checkpoints.save(folder, self.kind, dataclasses.asdict(self.config), tensors)

    def adopt(self, name: str) -> None:
        """Start from the weights of a checkpoint of the same shape, a folder or a hub id.

        A single block of multi-token prediction is copied to as many as the model has.
        """
        folder = checkpoints.resolve(name, self.kind)
        tensors = copied(checkpoints.load(folder, self.kind)[1], getattr(self.config, "mtp", 0))
        checkpoints.load_into(self.model, tensors, folder)


class TextObjective(Objective):
    """Text alone."""

    kind = text.KIND
    config: TextConfig
    model: TextModel

    def __init__(self, grid: TokenGrid, decoder: DecoderConfig, tied: bool, mtp: int, mtp_weight: float):
        super().__init__()
        bos, eot, pad = (grid.id(name) for name in ("<|bos|>", "<|eot|>", "<|pad|>"))
        self.grid, self.config = grid, TextConfig(grid.vocab_size, decoder, tied, bos=bos, eos=(eot,), pad=pad, mtp=mtp)
        self.model = TextModel(self.config)
        self.names = ("text", *(f"mtp {k + 1}" for k in range(mtp)))
        self.weights = torch.tensor([1.0] + [mtp_weight / max(mtp, 1)] * mtp)

    def _labels(self, batch: Packed) -> list[Tensor]:
        """What the decoder is to predict (B, T), and each block of multi-token prediction, one step later each time."""
        found, segments = [self.grid.labels(batch.grid).text], batch.segments
        later = segments
        for _ in range(self.config.mtp):
            later = next_step(later, -1)
            found.append(next_step(found[-1], IGNORE).masked_fill(later != segments, IGNORE))
        return found

    def counts(self, batch: Packed) -> Tensor:
        return torch.stack([(labels != IGNORE).sum() for labels in self._labels(batch)]).float()

    def forward(self, batch: Packed) -> Tensor:
        inputs = self.model.inputs(batch.grid.text)
        states = self.model.decoder(inputs, segments=batch.segments)
        ahead = self.model.mtp(states, inputs, batch.segments)
        means = []
        for x, labels in zip([states, *ahead], self._labels(batch), strict=True):
            logits = self.model.logits(x).flatten(0, 1)
            total = F.cross_entropy(logits.float(), labels.flatten(), ignore_index=IGNORE, reduction="sum")
            means.append(total / (labels != IGNORE).sum().clamp(min=1))
        return torch.stack(means)

    def flops(self, batch: Packed) -> float:
        lengths, head = batch.lengths(), self.grid.vocab_size * self.config.decoder.dim
        total = decoder_flops(self.decoder, lengths) + 2 * sum(lengths) * head
        for block in self.model.mtp:
            assert isinstance(block, MTPBlock)
            total += decoder_flops(block.decoder, lengths) + 2 * sum(lengths) * (matrices(block.join) + head)
        return total


class OmniObjective(Objective):
    """Text and audio: cross entropy of the text row and of each book."""

    kind = "omni"
    config: OmniConfig
    model: OmniModel

    def __init__(self, config: OmniConfig, text_weight: float, book_weights: tuple[float, ...]):
        super().__init__()
        self.grid, self.config = config.grid, config
        self.model = OmniModel(config)
        self.book_weights = book_weights
        books = torch.tensor(book_weights)
        self.names = ("text", *(f"book {k}" for k in range(config.grid.n_books)))
        self.weights = torch.cat([torch.tensor([text_weight]), books / books.sum()])

    def counts(self, batch: Packed) -> Tensor:
        labels = self.grid.labels(batch.grid)
        return torch.cat([(labels.text != IGNORE).sum()[None], (labels.audio != IGNORE).sum((0, 1, 2))]).float()

    def forward(self, batch: Packed) -> Tensor:
        found = loss(self.model(batch.grid, segments=batch.segments), book_weights=self.book_weights)
        return torch.cat([found.text[None], found.books])

    def flops(self, batch: Packed) -> float:
        lengths = batch.lengths()
        read = int(self.grid.is_audio(batch.grid.text).sum())
        written = int((self.grid.is_audio(batch.grid.text) & batch.grid.learn).sum())
        steps = decoder_flops(self.decoder, lengths) + 2 * sum(lengths) * matrices(self.model.text_head)
        return steps + patch_flops(self.model.patch_encoder, self.model.patch_decoder, read, written)