"""A speaking style: nine numbers, and the encoder that reads them out of an instruction in natural language.

The encoder is a small Transformer over WordPiece tokens.  Its sentence vector was distilled from all-MiniLM-L6-v2
(`solfa.tts.train_style`), so that words which no labelled example contains still have a meaning; two heads turn that
vector into attributes and into how sure it is that each was asked for.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from solfa import checkpoints
from solfa.errors import UserError

ATTRIBUTES = ("rate", "pitch", "pitch_range", "loudness", "brightness", "breathiness", "pauses", "gender", "age")
LIMITS = {name: (-3.0, 3.0) for name in ATTRIBUTES} | {"breathiness": (0.0, 3.0), "gender": (-1.0, 1.0), "age": (-1.0, 1.0)}
MAX_CHARACTERS = 2000

# attribute -> (less, more), for `str(style)`
_COMPARATIVES = {
    "rate": ("slower", "faster"),
    "pitch": ("lower", "higher"),
    "pitch_range": ("flatter", "livelier"),
    "loudness": ("quieter", "louder"),
    "brightness": ("darker", "brighter"),
    "breathiness": ("clearer", "breathier"),
    "pauses": ("fewer pauses", "more pauses"),
}


@dataclass(frozen=True)
class Style:
    """Attributes of speech: 0 is neutral, +-1 plainly audible, about +-2 extreme.

    `gender` runs from -1 (male) to +1 (female), `age` from -1 (child) over 0 (adult) to +1 (old); `breathiness` from
    0 to 2 (whisper).  `asked` names the attributes that somebody asked for, also where the answer is 0 ("at a normal
    pace"); left out, it is the attributes that are not 0.
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
            if abs(value) >= 0.2:
                how_much = "a little " if abs(value) < 0.6 else "" if abs(value) < 1.5 else "much "
                words.append(how_much.replace("much", "many") + pair[1] if pair[1] == "more pauses" and value > 0 else how_much + pair[value > 0])
        if self.breathiness >= 1.5:
            words = [w for w in words if not w.endswith("breathier")] + ["whispering"]
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
    width: int = 256
    layers: int = 3
    heads: int = 4
    sentence_dim: int = 384
    """The teacher's width: the sentence vector is trained to equal all-MiniLM-L6-v2's."""
    hidden: int = 384
    window: int = 96
    """Longest text in tokens; longer ones are read in pieces."""
    threshold: float = 0.5
    """How sure the encoder must be that an attribute was asked for before it moves it."""


class StyleReading(NamedTuple):
    sentence: Tensor
    """(B, sentence_dim), unit length."""
    values: Tensor
    """(B, 9) attributes in the order of `ATTRIBUTES`."""
    logits: Tensor
    """(B, 9) log odds that each was asked for."""


class StyleHeads(nn.Module):
    """Sentence vector -> attributes and the log odds that each was asked for."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, 2 * len(ATTRIBUTES))
        )

    def forward(self, sentence: Tensor) -> tuple[Tensor, Tensor]:
        """sentence: (B, dim) of unit length -> (B, 9), (B, 9)."""
        values, logits = self.net(sentence * sentence.shape[-1] ** 0.5).chunk(2, dim=-1)
        return values, logits


class StyleNet(nn.Module):
    """Tokens -> sentence vector and attributes."""

    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.embed_dim)
        self.project = nn.Linear(config.embed_dim, config.width)
        self.position = nn.Parameter(torch.zeros(config.window, config.width))
        layer = partial(nn.TransformerEncoderLayer, dropout=0.05, activation="gelu", batch_first=True, norm_first=True)
        self.layers = nn.ModuleList(
            layer(config.width, config.heads, 4 * config.width) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.attend = nn.Linear(config.width, config.heads)
        self.to_sentence = nn.Linear(config.heads * config.width, config.sentence_dim)
        self.heads = StyleHeads(config.sentence_dim, config.hidden)

    def forward(self, ids: Tensor) -> StyleReading:
        """ids: int64 (B, T), 0 where padded, T <= window."""
        padded = ids == 0
        x = self.project(self.embed(ids)) + self.position[: ids.shape[1]]  # (B, T, width)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padded)
        x = self.norm(x)
        weights = self.attend(x).masked_fill(padded[..., None], -1e4).softmax(dim=1)  # (B, T, heads)
        pooled = torch.einsum("bth,btd->bhd", weights, x).flatten(1)
        sentence = F.normalize(self.to_sentence(pooled), dim=-1)
        return StyleReading(sentence, *self.heads(sentence))


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
        known = {field.name for field in fields(StyleEncoderConfig)}
        if set(config) != known:
            raise UserError(f"{folder / 'config.json'} is not a style encoder's: {sorted(set(config) ^ known)[0]!r} does not fit")
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"checkpoint folder {folder} has no tokenizer.json")
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as e:  # tokenizers raises bare Exception
            raise UserError(f"{path} is not a readable tokenizer") from e
        net = StyleNet(StyleEncoderConfig(**config))
        checkpoints.load_into(net, tensors, folder)
        return cls(net, tokenizer)

    def encode(self, text: str) -> Style:
        """What an instruction asks for; an empty one, or one about something else, gives `Style()`."""
        if not text.strip():
            return Style()
        check(text)
        ids = self.tokenizer.encode(text).ids
        window = self.net.config.window
        values, sure = self.read([ids[i : i + window] for i in range(0, len(ids), window)])
        sure_max = sure.amax(dim=0)  # over the pieces of a long text
        values = (values * sure).sum(dim=0) / sure.sum(dim=0).clamp(min=1e-6)
        asked = [i for i in range(len(ATTRIBUTES)) if sure_max[i] >= self.net.config.threshold]
        found = {ATTRIBUTES[i]: round(min(max(float(values[i]), LIMITS[ATTRIBUTES[i]][0]), min(2.0, LIMITS[ATTRIBUTES[i]][1])), 3) for i in asked}
        return Style(**found, asked=frozenset(found))

    @torch.inference_mode()
    def read(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Lists of token ids -> (B, 9) attributes and (B, 9) probabilities that each was asked for."""
        batch = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.int64)
        for row, one in zip(batch, ids, strict=True):
            row[: len(one)] = torch.tensor(one)
        reading = self.net(batch)
        return reading.values, reading.logits.sigmoid()


def check(text: str) -> None:
    """Refuse an instruction that the encoder cannot read."""
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"the style has {len(text):,} characters; use at most {MAX_CHARACTERS:,}")
    letters = [c for c in text if c.isalpha()]
    latin = sum(unicodedata.name(c, "").startswith(("LATIN", "FULLWIDTH LATIN")) for c in letters)
    if not letters or 2 * latin < len(letters):
        shown = text.strip() if len(text.strip()) <= 30 else text.strip()[:30] + "..."
        raise UserError(f"the style {shown!r} has no words in Latin letters; describe it in English, as in 'a calm, low voice'")
