"""A speaking style: nine numbers, and the encoder that reads them out of an instruction in natural language.

The encoder is a small Transformer over WordPiece tokens.  Its sentence vector was distilled from all-MiniLM-L6-v2
(`solfa.tts.train_style`), so that words which no labelled example contains still have a meaning; two heads turn that
vector into attributes and into how sure it is that each was asked for.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from tokenizers import Tokenizer
from torch import Tensor, nn

from solfa import checkpoints
from solfa.errors import UserError

ATTRIBUTES = ("rate", "pitch", "pitch_range", "loudness", "brightness", "breathiness", "pauses", "gender", "age")
LIMITS = {name: (-3.0, 3.0) for name in ATTRIBUTES} | {
    "breathiness": (0.0, 3.0),
    "gender": (-1.0, 1.0),
    "age": (-1.0, 1.0),
}
MAX_CHARACTERS = 2000

# attribute -> (less, more), for `str(style)`
_COMPARATIVES = {
    "rate": ("slower", "faster"),
    "pitch": ("lower", "higher"),
    "pitch_range": ("flatter", "livelier"),
    "loudness": ("quieter", "louder"),
    "brightness": ("darker", "brighter"),
    "breathiness": ("clearer", "breathier"),
    "pauses": ("more fluent", "more halting"),
}


@dataclass(frozen=True)
class Style:
    """Attributes of speech: 0 is neutral, +-1 plainly audible, about +-2 extreme.

    `gender` runs from -1 (male) to +1 (female), `age` from -1 (child) over 0 (adult) to +1 (old); `breathiness` from
    0 to 2 (whisper).  `asked` names the attributes that somebody asked for; left out, it is those that are not 0.
    """

    rate: float = 0.0
    pitch: float = 0.0
    pitch_range: float = 0.0
    loudness: float = 0.0
    brightness: float = 0.0
    breathiness: float = 0.0
    pauses: float = 0.0
    gender: float = 0.0
    age: float = 0.0
    asked: frozenset[str] | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise UserError(f"style attribute {name}={value} is outside {low:g} to {high:g}")
        given = self.asked if self.asked is not None else [name for name in ATTRIBUTES if getattr(self, name)]
        object.__setattr__(self, "asked", frozenset(given))

    def values(self) -> list[float]:
        """The nine numbers in the order of `ATTRIBUTES`."""
        return [getattr(self, name) for name in ATTRIBUTES]

    def mask(self) -> list[float]:
        """1.0 where an attribute was asked for, else 0.0, in the order of `ATTRIBUTES`."""
        assert self.asked is not None
        return [float(name in self.asked) for name in ATTRIBUTES]

    def over(self, other: "Style") -> "Style":
        """This style where it asks for something, `other` elsewhere."""
        assert self.asked is not None and other.asked is not None
        return replace(other, **{name: getattr(self, name) for name in self.asked}, asked=self.asked | other.asked)

    def __str__(self) -> str:
        words = []
        for name, pair in _COMPARATIVES.items():
            value = getattr(self, name)
            if name == "breathiness" and value >= 1.5:
                words.append("whispering")
            elif abs(value) >= 0.2:
                amount = "a little " if abs(value) < 0.6 else "much " if abs(value) >= 1.5 else ""
                words.append(amount + pair[value > 0])
        return "; ".join(part for part in (", ".join(words), _person(self.gender, self.age)) if part) or "neutral"


def _person(gender: float, age: float) -> str:
    """ "an old man", "a girl", ...; empty when nothing is known."""
    if abs(gender) < 0.3 and abs(age) < 0.5:
        return ""
    if abs(gender) < 0.3:
        return "a child" if age < 0 else "an old person"
    if age < -0.5:
        return "a girl" if gender > 0 else "a boy"
    return ("an old " if age > 0.5 else "a ") + ("woman" if gender > 0 else "man")


@dataclass(frozen=True)
class StyleEncoderConfig:
    vocab_size: int
    embed_dim: int = 192
    width: int = 192
    layers: int = 2
    heads: int = 4
    sentence_dim: int = 384
    """The teacher's width: the sentence vector is trained to equal all-MiniLM-L6-v2's."""
    hidden: int = 256
    window: int = 96
    """Longest text in tokens; longer ones are read in pieces."""
    threshold: float = 0.15
    """How sure the encoder must be that an attribute was asked for before it moves it."""
    hunch: float = 0.05
    """The same for the best guess about a text that surely is a style, when nothing reaches `threshold`."""


class StyleReading(NamedTuple):
    sentence: Tensor
    """(B, sentence_dim) of unit length."""
    odds: Tensor
    """(B, 9, 3) logits per attribute: less of it, not asked for, more of it."""
    strength: Tensor
    """(B, 9) how much less or more, if asked for."""
    about: Tensor
    """(B,) logit: is the text about a way of speaking at all?"""


class StyleHeads(nn.Module):
    """Features of a text -> what it asks for."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.3) -> None:
        super().__init__()
        n = len(ATTRIBUTES)
        self.net = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 4 * n + 1)
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """features: (B, dim) -> odds (B, 9, 3), strength (B, 9), about (B,)."""
        n = len(ATTRIBUTES)
        out = self.net(features).float()
        return out[:, : 3 * n].unflatten(1, (n, 3)), F.softplus(out[:, 3 * n : 4 * n]), out[:, -1]


class Layer(nn.Module):
    """Pre-norm Transformer layer over all tokens of a text."""

    def __init__(self, width: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ff = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """x: (B, T, width), seen: bool (B, 1, 1, T), False at padding -> (B, T, width)."""
        q, k, v = rearrange(self.qkv(self.norm1(x)), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        y = rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=seen), "b h t d -> b t (h d)")
        x = x + F.dropout(self.out(y), self.dropout, self.training)
        return x + F.dropout(self.ff(self.norm2(x)), self.dropout, self.training)


class StyleNet(nn.Module):
    """Tokens -> sentence vector, and what the text asks for."""

    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.embed_dim)
        self.project = nn.Linear(config.embed_dim, config.width)
        self.position = nn.Parameter(torch.zeros(config.window, config.width))
        self.layers = nn.ModuleList(Layer(config.width, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.attend = nn.Linear(config.width, config.heads)
        self.to_sentence = nn.Linear(config.heads * config.width, config.sentence_dim)
        self.reads = StyleHeads(config.sentence_dim + config.heads * config.width, config.hidden)

    def forward(self, ids: Tensor, noise: float = 0.0) -> StyleReading:
        """ids: int64 (B, T <= window), 0 where padded; noise: how much to blur the words' vectors in training."""
        seen = ids != 0
        words = self.embed(ids)
        if noise:
            words = words + noise * torch.randn_like(words)
        x = self.project(words) + self.position[: ids.shape[1]]  # (B, T, width)
        for layer in self.layers:
            x = layer(x, seen[:, None, None])
        x = self.norm(x)
        weights = self.attend(x).masked_fill(~seen[..., None], -1e4).softmax(dim=1)  # (B, T, heads)
        pooled = torch.einsum("bth,btd->bhd", weights, x).flatten(1)
        sentence = F.normalize(self.to_sentence(pooled).float(), dim=-1)
        features = torch.cat([sentence * sentence.shape[-1] ** 0.5, pooled], dim=-1)
        return StyleReading(sentence, *self.reads(features))

    def packed(self) -> dict[str, Tensor]:
        """`state_dict` with the words' vectors in int8 and `embed.scale` per dimension, which halves the file."""
        state = self.state_dict()
        words = state.pop("embed.weight")
        scale = words.abs().amax(dim=0) / 127
        return state | {"embed.weight": (words / scale).round().to(torch.int8), "embed.scale": scale}

    def unpack(self, tensors: dict[str, Tensor], folder: Path) -> None:
        """Load what `packed` gave, read from the checkpoint in `folder`."""
        scale = tensors.pop("embed.scale", torch.ones(()))
        words = tensors.get("embed.weight", scale)
        checkpoints.load_into(self, tensors | {"embed.weight": words * scale}, folder)


class StyleEncoder:
    """Instruction -> `Style`."""

    def __init__(self, net: StyleNet, tokenizer: Tokenizer) -> None:
        self.net = net.eval()
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None) -> "StyleEncoder":
        """Load a checkpoint by bundled name, folder or hub id."""
        folder = checkpoints.resolve(name, "style")
        config, tensors = checkpoints.load(folder, "style")
        wrong = sorted(set(config) ^ {field.name for field in fields(StyleEncoderConfig)})
        if wrong:
            raise UserError(f"{folder / 'config.json'} is not a style encoder's: {wrong[0]!r} does not fit")
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"checkpoint folder {folder} has no tokenizer.json")
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as e:  # tokenizers raises bare Exception
            raise UserError(f"{path} is not a readable tokenizer") from e
        net = StyleNet(StyleEncoderConfig(**config))
        net.unpack(tensors, folder)
        return cls(net, tokenizer)

    def encode(self, text: str) -> Style:
        """What an instruction asks for; an empty one, or one about something else, gives `Style()`."""
        if not text.strip():
            return Style()
        check(text)
        ids = self.tokenizer.encode(text).ids
        window = self.net.config.window
        pieces = [
            read(*one, self.net.config) for one in self._run([ids[i : i + window] for i in range(0, len(ids), window)])
        ]
        style = pieces[0]
        for later in pieces[1:]:
            style = later.over(style)
        return style

    @torch.inference_mode()
    def _run(self, ids: Sequence[Sequence[int]]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Token ids -> per text the odds (9, 3), strength (9) and about () of `StyleReading`."""
        batch = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.int64)
        for row, one in zip(batch, ids, strict=True):
            row[: len(one)] = torch.tensor(one)
        _, odds, strength, about = self.net(batch)
        return list(zip(odds, strength, about, strict=True))


def read(odds: Tensor, strength: Tensor, about: Tensor, config: StyleEncoderConfig) -> Style:
    """One text's reading, (9, 3), (9,) and (), as a style: only what was probably asked for moves."""
    less, _, more = odds.softmax(-1).unbind(-1)
    asked = less + more
    sure = (asked >= config.threshold) & (about > 0)
    if not sure.any() and about > 0:
        sure = (asked == asked.max()) & (asked >= config.hunch)
    found: dict[str, Any] = {}
    for i in sure.nonzero().flatten().tolist():
        low, high = LIMITS[ATTRIBUTES[i]]
        value = float(strength[i]) * (1 if more[i] > less[i] else -1)
        found[ATTRIBUTES[i]] = round(min(max(value, low, -2.0), high, 2.0), 3)
    return Style(**found)


def check(text: str) -> None:
    """Refuse an instruction that the encoder cannot read."""
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"the style has {len(text):,} characters; use at most {MAX_CHARACTERS:,}")
    letters = [c for c in text if c.isalpha()]
    latin = sum(unicodedata.name(c, "").startswith(("LATIN", "FULLWIDTH LATIN")) for c in letters)
    if not letters or 2 * latin < len(letters):
        shown = text.strip() if len(text.strip()) <= 30 else text.strip()[:30] + "..."
        raise UserError(
            f"the style {shown!r} has no words in Latin letters; describe it in English, as in 'a calm, low voice'"
        )
