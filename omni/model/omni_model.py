"""The omni model: token grid in, logits of the next step's text and audio out."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solfa.core import checkpoints
from solfa.omni.decoder.decoder import DecoderConfig, HybridDecoder
from solfa.omni.model.grid import IGNORE, Grid, Labels, TokenGrid, next_step
from solfa.omni.model.mtp import MTP
from solfa.omni.model.patches import LocalConfig, PatchDecoder, PatchEncoder

KIND = "omni"

# MiMo-Audio's loss weights of the books (technical report): the first books carry more of the sound
BOOK_WEIGHTS = (12.0, 8.0, 6.0, 4.0, 2.0, 2.0, 1.0, 1.0)


@dataclass(frozen=True)
class OmniConfig:
    """Sizes of an `OmniModel`.

    cond_dim: size of the vectors that condition each audio frame; 0 for none.
    mtp: number of blocks of multi-token prediction.
    """

    grid: TokenGrid
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    patch_encoder: LocalConfig = field(default_factory=lambda: LocalConfig(layers=1))
    patch_decoder: LocalConfig = field(default_factory=LocalConfig)
    cond_dim: int = 0
    mtp: int = 0


@dataclass(frozen=True)
class OmniOutput:
    """The logits of a teacher-forced pass, for the next step or a later one.

    text: (B, T, vocab), of that step's text id; audio: (N, patch_size, n_books, codes), of the N patches that count in the
    loss; audio_mask: bool (B, T), the N steps whose label is such a patch, in row-major order; labels: of all steps.
    """

    text: Tensor
    audio: Tensor
    audio_mask: Tensor
    labels: Labels


@dataclass(frozen=True)
class Losses:
    """Cross entropies in nats: `text`; `books` (n_books,), each the mean over its codes; `total` is their weighted sum."""

    total: Tensor
    text: Tensor
    books: Tensor


class OmniModel(nn.Module):
    """Patch encoder and text embeddings, the hybrid decoder, text head and patch decoder."""

    def __init__(self, config: OmniConfig):
        super().__init__()
        self.config, self.grid = config, config.grid
        g, dim = config.grid, config.decoder.dim
        self.text_embed = nn.Embedding(g.vocab_size, dim)
        self.patch_encoder = PatchEncoder(config.patch_encoder, g.books, g.patch_size, dim, config.cond_dim)
        self.cond = nn.Linear(g.patch_size * config.cond_dim, dim, bias=False) if config.cond_dim else None
        self.decoder = HybridDecoder(config.decoder)
        self.mtp = MTP(config.decoder, config.mtp)
        self.text_head = nn.Linear(dim, g.vocab_size, bias=False)
        self.patch_decoder = PatchDecoder(config.patch_decoder, g.books, g.patch_size, dim, config.cond_dim)
        nn.init.normal_(self.text_embed.weight, std=0.5)
        nn.init.normal_(self.text_head.weight, std=0.2 * dim**-0.5)

    def embed(
        self,
        batch: Grid,
        cond: Tensor | None = None,
        next_cond: Tensor | None = None,
        slot_embeds: Tensor | None = None,
    ) -> Tensor:
        """Decoder inputs of a batch.

        Args:
            batch: B by T.
            cond, next_cond: (B, T, patch_size, cond_dim), the condition of each step's frames and of the next step's.
            slot_embeds: (B, T, D), added to the embeddings.

        Returns: (B, T, D).
        """
        x = self.text_embed(batch.text)
        audio = self.grid.is_audio(batch.text)
        if self.training or audio.any():  # in training always, so that all parameters have gradients in every process
            patches = self.patch_encoder(batch.audio[audio], None if cond is None else cond[audio])
            x = x.index_put((audio,), patches.to(x.dtype), accumulate=True)
        if self.cond is not None and next_cond is not None:
            x = x + self.cond(next_cond.flatten(2))
        return x if slot_embeds is None else x + slot_embeds

    def forward(
        self, batch: Grid, cond: Tensor | None = None, slot_embeds: Tensor | None = None, segments: Tensor | None = None
    ) -> OmniOutput:
        """Predict the next step of each step by teacher forcing.

        Args:
            batch: right-padded sequences, B by T.
            cond: (B, T, patch_size, cond_dim), aligned with the grid: a step's vectors condition its own frames, zeros where
                it is text (`TokenGrid.place_frames`).  They enter one step earlier, where those frames are predicted,
                and where the frames are input.
            slot_embeds: (B, T, D), added to the embeddings at `<|style|>` and `<|voice|>` slots; zeros elsewhere.
            segments: int (B, T), for rows of several sequences: see `HybridDecoder.forward`.
        """
        next_cond = None if cond is None else next_step(cond, 0)
        states = self.decoder(self.embed(batch, cond, next_cond, slot_embeds), segments=segments)
        return self.predict(states, self.grid.labels(batch), next_cond)

    def predict(self, states: Tensor, labels: Labels, cond: Tensor | None = None) -> OmniOutput:
        """Logits from states (B, T, D) for the steps that are their labels; cond (B, T, patch_size, cond_dim) of those steps."""
        audio_mask = (labels.audio != IGNORE).flatten(2).any(-1)
        codes = labels.audio[audio_mask]
        codes = torch.where(codes == IGNORE, self.grid.empty_ids(codes.device), codes)  # past the clip's end
        audio = self.patch_decoder(states[audio_mask], codes, None if cond is None else cond[audio_mask])
        return OmniOutput(self.text_head(states), audio, audio_mask, labels)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> "OmniModel":
        """A model from a folder or `hf:owner/name` of the hub, in float32 and in evaluation mode.  Raises: UserError for another kind or none."""
        return checkpoints.restore(cls, OmniConfig, name, KIND)[0]

    def save_pretrained(self, folder: Path | str, dtype: torch.dtype | None = None) -> None:
        """Write the folder that `from_pretrained` reads; dtype None keeps every tensor's own."""
        checkpoints.save(Path(folder), KIND, dataclasses.asdict(self.config), self.state_dict(), dtype)


def omni_loss(output: OmniOutput, text_weight: float = 1.0, book_weights: tuple[float, ...] = BOOK_WEIGHTS) -> Losses:
    """total = text_weight * text + the mean of the books' losses weighted by `book_weights` (one per book, of any scale).

    Raises: ValueError for another number of weights.
    """
    targets = output.labels.audio[output.audio_mask]  # (N, patch, n_books)
    n_books = targets.shape[-1]
    if len(book_weights) != n_books:
        raise ValueError(f"{len(book_weights)} book weights for {n_books} books")
    text = _mean_cross_entropy(output.text.flatten(0, 1), output.labels.text.flatten())
    # (patch, N, codes) of one book are contiguous in memory
    by_book = zip(output.audio.permute(2, 1, 0, 3), targets.permute(2, 1, 0), strict=True)
    books = torch.stack([_mean_cross_entropy(x.flatten(0, 1), y.flatten()) for x, y in by_book])
    weights = torch.tensor(book_weights, device=books.device)
    return Losses(text_weight * text + books @ (weights / weights.sum()), text, books)


def _mean_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Zero, not NaN, when there is nothing to predict."""
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="sum") / (
        targets != IGNORE
    ).sum().clamp(min=1)
