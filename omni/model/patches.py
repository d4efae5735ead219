"""Patches: `patch_size` audio frames become one decoder step, and one decoder step becomes `patch_size` frames.

The encoder is a small Transformer inside each patch.  The decoder generates a patch with MusicGen's delay pattern (arXiv
2306.05284) as in MiMo-Audio: local step t predicts book k of frame t - k, so a patch takes patch_size + n_books - 1 steps
and a book is conditioned on the books before it of the same frame.

Both stacks use LayerNorm without bias, and GELU: on CPUs, where they are trained, both are fused, and an RMSNorm of thousands
of short rows costs four times as much.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CodeSampler = Callable[[Tensor, int], Tensor]
"""(logits (N, A, codes) of books first..first+A-1, first) -> codes (N, A)."""


@dataclass(frozen=True)
class LocalConfig:
    """Sizes of a Transformer inside one patch.

    code_dim: rank of each book's output matrix; 0 is full rank.
    """

    dim: int = 256
    layers: int = 3
    heads: int = 4
    ffn_dim: int = 1024
    code_dim: int = 0

    def __post_init__(self) -> None:
        if self.heads < 1 or self.dim % self.heads:
            raise ValueError(f"dim {self.dim} cannot be shared by {self.heads} heads evenly")


class BookEmbedding(nn.Module):
    """One table per book, kept in one; the sum over books is the frame's vector, and empty ids add nothing."""

    def __init__(self, books: tuple[int, ...], dim: int):
        super().__init__()
        sizes = torch.tensor(books)
        self.padding = int(sizes.sum())
        self.weight = nn.Parameter(torch.randn(self.padding + 1, dim) * 0.5 * len(books) ** -0.5)
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("offsets", sizes.cumsum(0) - sizes, persistent=False)

    sizes: Tensor
    offsets: Tensor

    def forward(self, codes: Tensor, first: int = 0) -> Tensor:
        """Sum of the embeddings: codes (..., A) of books first..first+A-1 -> (..., dim)."""
        n = codes.shape[-1]
        rows = torch.where(codes < self.sizes[first : first + n], codes + self.offsets[first : first + n], self.padding)
        bags = F.embedding_bag(rows.view(-1, n), self.weight, mode="sum", padding_idx=self.padding)
        return bags.view(*codes.shape[:-1], self.weight.shape[1])

    @torch.no_grad()
    def init_from_codebooks(self, codebooks: Tensor) -> None:
        """Initialise as a random projection of the audio tokenizer's codebooks (n_books, codes, D).

        Codes that are close in a codebook then have embeddings that are close.
        """
        vectors = codebooks.flatten(0, 1)
        projected = vectors @ torch.randn(vectors.shape[1], self.weight.shape[1])
        self.weight[:-1] = projected * (0.5 / projected.view(*codebooks.shape[:2], -1).var((1, 2)).sum().sqrt())


class LocalBlock(nn.Module):
    """Pre-norm Transformer block over the few steps of a patch."""

    def __init__(self, config: LocalConfig):
        super().__init__()
        self.heads, self.head_dim = config.heads, config.dim // config.heads
        self.attention_norm = nn.LayerNorm(config.dim, bias=False)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.ffn_norm = nn.LayerNorm(config.dim, bias=False)
        self.up = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.down = nn.Linear(config.ffn_dim, config.dim, bias=False)
        for linear, scale in ((self.qkv, 1.0), (self.up, 1.0), (self.out, 2.0), (self.down, 2.0)):
            residual = scale * config.layers if scale > 1 else 1.0
            nn.init.normal_(linear.weight, std=(linear.in_features * residual) ** -0.5)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x: (N, S, dim); bias: (S, S) added to the logits, -inf where a step is masked.  -> (N, S, dim)."""
        n, s, _ = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(n, s, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        # for a dozen steps this is ten times as fast as the fused CPU kernel in bfloat16
        logits = q @ (k * self.head_dim**-0.5).transpose(-1, -2)
        weights = (logits if bias is None else logits + bias.to(logits.dtype)).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, s, x.shape[-1]))
        return x + self.down(F.gelu(self.up(self.ffn_norm(x))))

    def step(self, x: Tensor, keys: Tensor, values: Tensor, t: int) -> Tensor:
        """One causal step t: x (N, dim) -> (N, dim); keys and values (N, heads, S, dim / heads) are written at t."""
        q, k, v = self.qkv(self.attention_norm(x)).view(len(x), 3, self.heads, self.head_dim).unbind(1)
        keys[:, :, t] = k
        values[:, :, t] = v
        y = F.scaled_dot_product_attention(q[:, :, None], keys[:, :, : t + 1], values[:, :, : t + 1])
        x = x + self.out(y.reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.ffn_norm(x))))


class BookHeads(nn.Module):
    """One output matrix per book, all in one parameter; with `code_dim`, of that rank, and with a bias."""

    def __init__(self, n_books: int, dim: int, codes: int, code_dim: int = 0):
        super().__init__()
        self.enter = nn.Parameter(torch.randn(n_books, dim, code_dim) * 0.2 * dim**-0.5) if code_dim else None
        self.weight = nn.Parameter(torch.randn(n_books, code_dim or dim, codes) * 0.2 * (code_dim or dim) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(n_books, 1, codes)) if code_dim else None

    def forward(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """x: (n, M, dim) of books first..last, or (M, dim) for all of them -> logits (n, M, codes)."""
        books = slice(first, None if last is None else last + 1)
        if self.enter is None or self.bias is None:
            return x @ self.weight[books]
        return x @ self.enter[books] @ self.weight[books] + self.bias[books].to(x.dtype)

    @torch.no_grad()
    def init_from_codebooks(self, codebooks: Tensor, counts: Tensor) -> None:
        """Initialise from the audio tokenizer's codebooks, so that codes that are close in a codebook get similar logits.

        With codebook vectors e and m = x @ enter, code c has the probability p(c) exp(m . e_c / s^2) / Z, where p(c) is its
        frequency and s the spread of e: the posterior of a Gaussian of width s whose mean is moved by m.

        codebooks: (n_books, codes, code_dim); counts: (n_books, codes), how often each code is used.
        """
        assert self.enter is not None and self.bias is not None, "codebooks need code_dim"
        frequency = (counts + 1) / (counts + 1).sum(1, keepdim=True)
        mean = (frequency[..., None] * codebooks).sum(1, keepdim=True)
        spread = (frequency[..., None] * (codebooks - mean).square()).sum(1, keepdim=True).mean(-1, keepdim=True).sqrt()
        self.weight.copy_(((codebooks - mean) / spread).transpose(1, 2))
        self.enter.mul_(0.1)  # start close to the frequencies
        self.bias.copy_(frequency.log()[:, None])


class PatchEncoder(nn.Module):
    """Patches (N, patch, n_books) -> decoder inputs (N, out_dim)."""

    def __init__(self, config: LocalConfig, books: tuple[int, ...], patch_size: int, out_dim: int, cond_dim: int = 0):
        super().__init__()
        self.embed = BookEmbedding(books, config.dim)
        self.place = nn.Parameter(torch.randn(patch_size, config.dim) * 0.02)
        self.cond = nn.Linear(cond_dim, config.dim, bias=False) if cond_dim else None
        self.blocks = nn.ModuleList(LocalBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, bias=False)
        self.out = nn.Linear(patch_size * config.dim, out_dim, bias=False)

    def forward(self, codes: Tensor, cond: Tensor | None = None) -> Tensor:
        """codes (N, patch, n_books), cond (N, patch, cond_dim) of the same frames -> (N, out_dim)."""
        x = self.embed(codes) + self.place
        if self.cond is not None and cond is not None:
            x = x + self.cond(cond)
        for block in self.blocks:
            x = block(x, None)
        return self.out(self.norm(x).flatten(1))


class PatchDecoder(nn.Module):
    """Decoder states (N, state_dim) -> patches, by teacher forcing (`forward`) or by sampling (`generate`)."""

    def __init__(self, config: LocalConfig, books: tuple[int, ...], patch_size: int, state_dim: int, cond_dim: int = 0):
        super().__init__()
        self.config, self.books, self.patch_size = config, books, patch_size
        self.steps = patch_size + len(books) - 1
        self.embed = BookEmbedding(books, config.dim)
        self.state = nn.Linear(state_dim, config.dim, bias=False)
        self.cond = nn.Linear(cond_dim, config.dim, bias=False) if cond_dim else None
        self.place = nn.Parameter(torch.randn(self.steps, config.dim) * 0.02)
        self.blocks = nn.ModuleList(LocalBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, bias=False)
        self.heads = BookHeads(len(books), config.dim, max(books), config.code_dim)

        step, book = torch.arange(self.steps)[:, None], torch.arange(len(books))
        previous = step - 1 - book  # the frame whose code of a book was generated one step earlier; patch_size: none
        constants = {
            "previous_frame": torch.where((previous >= 0) & (previous < patch_size), previous, patch_size),
            "step_of": (
                torch.arange(patch_size) + book[:, None]
            ).flatten(),  # (n_books * patch,): local step of book k, frame f
            "book": book,
            "frame": torch.arange(self.steps).clamp(max=patch_size - 1),
            "causal": torch.full((self.steps, self.steps), float("-inf")).triu(1),
            "code_bias": torch.where(torch.arange(max(books)) < torch.tensor(books)[:, None], 0.0, float("-inf"))[
                :, None
            ],
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self.ragged = len(set(books)) > 1

    previous_frame: Tensor
    step_of: Tensor
    book: Tensor
    frame: Tensor
    causal: Tensor
    code_bias: Tensor

    def _inputs(self, state: Tensor, cond: Tensor | None) -> Tensor:
        """The part of each local step's input that depends on no code: (N, state_dim) -> (N, steps, dim)."""
        x = self.state(state)[:, None]
        x = x + self.place.to(x.dtype)
        return x if self.cond is None or cond is None else x + self.cond(cond)[:, self.frame]

    def forward(self, state: Tensor, codes: Tensor, cond: Tensor | None = None) -> Tensor:
        """Logits of given patches, by teacher forcing.

        Args:
            state: (N, state_dim).
            codes: (N, patch, n_books), empty ids allowed.
            cond: (N, patch, cond_dim), the condition of these frames.

        Returns: (N, patch, n_books, codes), -inf beyond a smaller book's size; contiguous by book.
        """
        x = self._inputs(state, cond)
        padded = torch.cat([codes, self.embed.sizes.expand(len(codes), 1, -1)], dim=1)
        previous_codes = padded[:, self.previous_frame, self.book]  # (N, steps, n_books)
        x = x + self.embed(previous_codes).to(x.dtype)
        for block in self.blocks:
            x = block(x, self.causal)
        # steps first: selecting each book's steps then copies contiguous blocks, forward and backward
        x = self.norm(x.transpose(0, 1)).index_select(0, self.step_of)  # (n_books * patch, N, dim)
        logits = self.heads(x.view(len(self.books), self.patch_size * len(codes), x.shape[-1]))
        if self.ragged:
            logits = logits + self.code_bias.to(logits.dtype)
        return logits.view(len(self.books), self.patch_size, len(codes), logits.shape[-1]).permute(2, 1, 0, 3)

    def generate(
        self, state: Tensor, sampler: CodeSampler, cond: Tensor | None = None, frames: int | None = None
    ) -> Tensor:
        """Sample patches: state (N, state_dim), cond (N, patch, cond_dim) -> codes (N, patch, n_books).

        At the end of a clip only the first `frames` frames are sampled, and the others are empty ids, as in training.
        """
        n, n_books, frames = len(state), len(self.books), frames or self.patch_size
        inputs = self._inputs(state, cond)
        heads, head_dim = self.config.heads, self.config.dim // self.config.heads
        cache = inputs.new_empty(len(self.blocks), 2, n, heads, self.steps, head_dim)
        blocks = [(cast(LocalBlock, block), kv[0], kv[1]) for block, kv in zip(self.blocks, cache, strict=True)]
        codes = self.embed.sizes.repeat(n, self.steps, 1)  # by local step and book; empty ids
        x, steps = inputs[:, 0], frames + n_books - 1
        for t in range(steps):
            for block, keys, values in blocks:
                x = block.step(x, keys, values, t)
            first, last = max(0, t - frames + 1), min(t, n_books - 1)
            logits = self.heads(self.norm(x), first, last)  # (A, N, codes)
            if self.ragged:
                logits = logits + self.code_bias[first : last + 1].to(logits.dtype)
            sampled = sampler(logits.transpose(0, 1), first)
            codes[:, t, first : last + 1] = sampled
            if t + 1 < steps:
                x = inputs[:, t + 1] + self.embed(sampled, first)
        return codes[:, self.step_of.view(n_books, -1).T, self.book]
