"""A text language model: embeddings, the hybrid decoder, a head.  Ids in, logits out; it has no tokenizer.

`solfa.omni.convert.convert` turns checkpoints of `transformers` into checkpoints of this model, and back.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solfa.core import checkpoints
from solfa.omni.decoder.cache import DecoderCache
from solfa.omni.decoder.decoder import DecoderConfig, HybridDecoder
from solfa.omni.model.mtp import MTP

KIND = "text_lm"


@dataclass(frozen=True)
class TextConfig:
    """Sizes and special ids of a `TextModel`.

    tied: whether the embeddings are the head as well.
    embed_scale: factor of the embeddings.
    max_length: the longest sequence, in steps, that the model was trained for; not enforced here.
    bos, eos, pad: ids of the beginning, of the ends, and of padding.
    mtp: number of blocks of multi-token prediction.
    """

    vocab_size: int
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    tied: bool = False
    embed_scale: float = 1.0
    max_length: int = 32_768
    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None
    mtp: int = 0


class TextModel(nn.Module):
    """Embeddings, the hybrid decoder and a head: ids (B, T) -> logits (B, T, vocab_size)."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config, dim = config, config.decoder.dim
        self.embed = nn.Embedding(config.vocab_size, dim)
        self.decoder = HybridDecoder(config.decoder)
        self.mtp = MTP(config.decoder, config.mtp)
        self.head = None if config.tied else nn.Linear(dim, config.vocab_size, bias=False)
        # states have norm sqrt(dim): a tied table starts small, so that the first logits are small
        nn.init.normal_(self.embed.weight, std=0.2 * dim**-0.5 if config.tied else 0.5)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.2 * dim**-0.5)

    def forward(
        self,
        ids: Tensor,
        cache: DecoderCache | None = None,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """ids (B, T) -> logits (B, T, vocab_size) of the ids that follow; the rest as for `HybridDecoder.forward`."""
        return self.logits(self.decoder(self.inputs(ids), cache=cache, mask=mask, segments=segments))

    def inputs(self, ids: Tensor) -> Tensor:
        """Decoder inputs: ids (...) -> (..., D)."""
        return self.embed(ids) * self.config.embed_scale

    def logits(self, states: Tensor) -> Tensor:
        """The head: decoder states (..., D) -> logits (..., vocab_size)."""
        return F.linear(states, self.embed.weight if self.head is None else self.head.weight)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> "TextModel":
        """A model from a folder or `hf:owner/name` of the hub, in float32 and in evaluation mode.  Raises: UserError for another kind or none."""
        return checkpoints.restore(cls, TextConfig, name, KIND)[0]

    def save_pretrained(self, folder: Path | str, dtype: torch.dtype | None = None) -> None:
        """Write the folder that `from_pretrained` reads; dtype None keeps every tensor's own."""
        checkpoints.save(Path(folder), KIND, dataclasses.asdict(self.config), self.state_dict(), dtype)
