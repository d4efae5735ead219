"""What `solfa train omni` can train, and the losses that it minimises.

An objective holds a model, names the terms of its loss, and counts the labels that a batch has for each, so that a mean over
all labels of a step can be put together from the parts that processes and passes compute.
"""

import dataclasses
from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solfa.core import checkpoints
from solfa.omni.decoder.decoder import DecoderConfig, HybridDecoder
from solfa.omni.model import omni_model as omni
from solfa.omni.model import text_model as text
from solfa.omni.model.grid import IGNORE, Labels, TokenGrid, next_step
from solfa.omni.model.mtp import MTPBlock, repeat_mtp_block
from solfa.omni.model.omni_model import OmniConfig, OmniModel, omni_loss
from solfa.omni.model.text_model import TextConfig, TextModel
from solfa.omni.training.flops import decoder_flops, matrices, patch_flops
from solfa.omni.training.packing import Packed


class Objective(nn.Module, ABC):
    """A model and its losses as one module, so that sharding gathers whatever of the model a loss uses.

    weights (K,): of the terms of the loss; names: of what `report` makes of them.
    """

    kind: str  # of checkpoint
    grid: TokenGrid
    config: TextConfig | OmniConfig
    model: TextModel | OmniModel
    names: tuple[str, ...]
    weights: Tensor

    @property
    def decoder(self) -> HybridDecoder:
        return self.model.decoder

    @abstractmethod
    def counts(self, batch: Packed) -> Tensor:
        """How many labels each term has: float32 (K,), on the batch's device."""

    @abstractmethod
    def forward(self, batch: Packed) -> Tensor:
        """Each term's mean over its labels, 0 where there are none: (K,), with gradients."""

    def report(self, means: Tensor) -> dict[str, float]:
        """Losses for the log, by name, from the means of the terms: (K,)."""
        return dict(zip(self.names, means.tolist(), strict=True))

    def flops(self, batch: Packed) -> float:
        """Operations of a forward pass that the model needs."""
        lengths, head = batch.lengths(), self.grid.vocab_size * self.config.decoder.dim
        total = decoder_flops(self.decoder, lengths) + 2 * sum(lengths) * head
        for block in self.model.mtp:
            assert isinstance(block, MTPBlock)
            total += decoder_flops(block.decoder, lengths) + 2 * sum(lengths) * (matrices(block.join) + head)
        return total

    def save(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        """Write the model's checkpoint, `tensors` being its whole state."""
        checkpoints.save(folder, self.kind, dataclasses.asdict(self.config), tensors)

    def init_from(self, name: str) -> None:
        """Start from the weights of a checkpoint of the same shape, a folder or `hf:owner/name`.

        A single block of multi-token prediction is copied to as many as the model has.
        """
        folder = checkpoints.resolve(name, self.kind)
        tensors = repeat_mtp_block(checkpoints.load(folder, self.kind)[1], self.config.mtp)
        checkpoints.load_into(self.model, tensors, folder)


def shift_labels(labels: Tensor, segments: Tensor, blocks: int) -> list[Tensor]:
    """Labels of the decoder, and of each block of multi-token prediction, one step later each time: (B, T, ...) each.

    labels: (B, T, ...) of the decoder; segments: (B, T), which document a step is of: it predicts nothing of another one.
    """
    found, owner = [labels], segments
    for _ in range(blocks):
        owner = next_step(owner, -1)
        other = (owner != segments).view(*segments.shape, *[1] * (labels.dim() - 2))
        found.append(next_step(found[-1], IGNORE).masked_fill(other, IGNORE))
    return found


class TextObjective(Objective):
    """Text alone: cross entropy of the decoder and of each block of multi-token prediction."""

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
        return shift_labels(self.grid.labels(batch.grid).text, batch.segments, self.config.mtp)

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


class OmniObjective(Objective):
    """Text and audio: cross entropy of the text row and of each book, by the decoder and by each block of multi-token prediction.

    So the terms are those of the decoder and then those of each block, which `report` sums up in one number: text and books
    together, weighed as the decoder's are.
    """

    kind = omni.KIND
    config: OmniConfig
    model: OmniModel

    def __init__(self, config: OmniConfig, text_weight: float, book_weights: tuple[float, ...], mtp_weight: float):
        super().__init__()
        self.grid, self.config = config.grid, config
        self.model = OmniModel(config)
        self.book_weights = book_weights
        books = torch.tensor(book_weights)
        self.own_weights = torch.cat([torch.tensor([text_weight]), books / books.sum()])
        self.names = (
            "text",
            *(f"book {k}" for k in range(config.grid.n_books)),
            *(f"mtp {k + 1}" for k in range(config.mtp)),
        )
        self.weights = torch.cat([self.own_weights, *[self.own_weights * mtp_weight / max(config.mtp, 1)] * config.mtp])

    def _labels(self, batch: Packed) -> list[Labels]:
        own = self.grid.labels(batch.grid)
        texts, audio = (shift_labels(labels, batch.segments, self.config.mtp) for labels in own)
        return [Labels(*both) for both in zip(texts, audio, strict=True)]

    def counts(self, batch: Packed) -> Tensor:
        return torch.cat(
            [
                n
                for x in self._labels(batch)
                for n in ((x.text != IGNORE).sum()[None], (x.audio != IGNORE).sum((0, 1, 2)))
            ]
        ).float()

    def forward(self, batch: Packed) -> Tensor:
        inputs = self.model.embed(batch.grid)
        states = self.model.decoder(inputs, segments=batch.segments)
        ahead = self.model.mtp(states, inputs, batch.segments)
        means = []
        for x, labels in zip([states, *ahead], self._labels(batch), strict=True):
            found = omni_loss(self.model.predict(x, labels), book_weights=self.book_weights)
            means += [found.text[None], found.books]
        return torch.cat(means)

    def report(self, means: Tensor) -> dict[str, float]:
        own, *blocks = means.cpu().split(len(self.own_weights))
        values = own.tolist() + [float(self.own_weights @ block) for block in blocks]
        return dict(zip(self.names, values, strict=True))

    def flops(self, batch: Packed) -> float:
        read = int(self.grid.is_audio(batch.grid.text).sum())
        written = sum(int((labels.audio != IGNORE).flatten(2).any(-1).sum()) for labels in self._labels(batch))
        return super().flops(batch) + patch_flops(self.model.patch_encoder, self.model.patch_decoder, read, written)
