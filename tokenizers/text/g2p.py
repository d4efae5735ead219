"""Letters -> phones for words that no lexicon lists: a small network, greedy, deterministic, batched and cached.

Each letter stands for a chunk of zero to three phones ("x" -> "k s", silent "e" -> "").  A bidirectional Transformer reads the
letters; a recurrent cell then walks over them and picks chunks one by one, so that stress is decided once per word.
Words of one length form a batch, which needs no padding and no mask.  Trained by `train_g2p.py`.
"""

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from solfa.core import checkpoints

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
START = 0  # chunk ID before the first letter; never predicted


@dataclass(frozen=True)
class LetterToPhoneConfig:
    chunks: tuple[str, ...]  # phones that one letter can stand for, with spaces between; the first is START
    dim: int = 128
    layers: int = 3
    heads: int = 4
    max_letters: int = 32

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LetterToPhoneConfig":
        """From the `g2p` entry of a checkpoint's configuration; the inverse of `to_dict`."""
        return cls(**{**values, "chunks": tuple(values["chunks"])})

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a checkpoint's configuration."""
        return asdict(self)


class LetterToPhone(nn.Module):
    """Scores for the chunk of phones that each letter stands for.  All words of a batch have the same length."""

    def __init__(self, config: LetterToPhoneConfig) -> None:
        super().__init__()
        self.config = config
        d = config.dim
        self.letter = nn.Embedding(len(LETTERS), d)
        self.place = nn.Embedding(2 * config.max_letters, d)  # from the start, and from the end
        layer = nn.TransformerEncoderLayer(d, config.heads, 2 * d, 0.0, "relu", batch_first=True, norm_first=True)
        self.reader = nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(d), enable_nested_tensor=False)
        self.chunk = nn.Embedding(len(config.chunks), d)
        self.writer = nn.GRUCell(2 * d, d)
        self.head = nn.Linear(2 * d, len(config.chunks))

    def encode(self, letters: Tensor) -> Tensor:
        """Letter IDs (B, T) -> contextual vectors (B, T, D)."""
        t = torch.arange(letters.shape[1], device=letters.device)
        place = self.place(t) + self.place(self.config.max_letters + t.flip(0))
        return self.reader(self.letter(letters) + place)

    def forward(self, letters: Tensor, chunks: Tensor) -> Tensor:
        """Teacher forcing.  letters: (B, T), chunks: (B, T) -> logits (B, T, number of chunks)."""
        encoded = self.encode(letters)
        before = self.chunk(torch.cat([torch.full_like(chunks[:, :1], START), chunks[:, :-1]], 1))
        state = torch.zeros_like(encoded[:, 0])
        states = []
        for t in range(letters.shape[1]):
            state = self.writer(torch.cat([encoded[:, t], before[:, t]], -1), state)
            states.append(state)
        return self.head(torch.cat([torch.stack(states, 1), encoded], -1))

    @torch.inference_mode()
    def generate(self, letters: Tensor) -> Tensor:
        """The likeliest chunk at each letter, given those before it.  letters: (B, T) -> chunk IDs (B, T)."""
        encoded = self.encode(letters)
        state = torch.zeros_like(encoded[:, 0])
        chunk = torch.full_like(letters[:, 0], START)
        chosen = []
        for t in range(letters.shape[1]):
            state = self.writer(torch.cat([encoded[:, t], self.chunk(chunk)], -1), state)
            logits = self.head(torch.cat([state, encoded[:, t]], -1))
            logits[:, START] = float("-inf")
            chunk = logits.argmax(-1)
            chosen.append(chunk)
        return torch.stack(chosen, 1)


class Speller:
    """Words -> phones with a trained network; answers are cached."""

    def __init__(self, model: LetterToPhone) -> None:
        self.model = model.eval()
        self._cache: dict[str, str] = {}

    @classmethod
    def from_folder(cls, folder: Path) -> "Speller":
        """From a checkpoint of kind "text"."""
        config = checkpoints.read_config(folder, "text")
        return cls(checkpoints.fill(lambda: LetterToPhone(LetterToPhoneConfig.from_dict(config["g2p"])), folder))

    def __call__(self, words: list[str]) -> list[str]:
        """Words of letters and apostrophes -> phones with spaces between; "" for a word without any letter."""
        if len(self._cache) > 100_000:
            self._cache.clear()
        by_length = defaultdict(list)
        pieces = {word: self._pieces(word) for word in words}
        for piece in dict.fromkeys(p for ps in pieces.values() for p in ps):
            if piece not in self._cache:
                by_length[len(piece)].append(piece)
        for same in by_length.values():
            letters = torch.tensor([[LETTERS.index(c) for c in p] for p in same])
            for piece, chunks in zip(same, self.model.generate(letters).tolist(), strict=True):
                self._cache[piece] = " ".join(filter(None, (self.model.config.chunks[c] for c in chunks)))
        return [" ".join(filter(None, (self._cache[p] for p in pieces[word]))) for word in words]

    def _pieces(self, word: str) -> list[str]:
        """The letters that the network has embeddings for, in runs of at most `max_letters`."""
        letters, size = "".join(c for c in word.lower() if c in LETTERS), self.model.config.max_letters
        return [letters[i : i + size] for i in range(0, len(letters), size)]
