"""A speaking style: nine numbers, and the encoder from an instruction in natural language to them.

The encoder is all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957; Reimers & Gurevych 2019, arXiv:1908.10084), so that
words which no labelled example contains still have a meaning, with a head that `solfa.tts.training.train_style_encoder` trained with it: what a text
asks of each attribute, and how much.
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

from solfa.core import checkpoints, recipe
from solfa.core.errors import UserError

ATTRIBUTES = ("rate", "pitch", "pitch_range", "loudness", "brightness", "breathiness", "pauses", "gender", "age")
LIMITS = {name: (-3.0, 3.0) for name in ATTRIBUTES} | {
    "breathiness": (0.0, 3.0),
    "gender": (-1.0, 1.0),
    "age": (-1.0, 1.0),
}
MAX_CHARACTERS = 2000
CLS, SEP = 2, 3  # token numbers, after [PAD] and [UNK]

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
    width: int = 384
    layers: int = 6
    heads: int = 12
    pools: int = 2
    """How many ways of weighing a text's tokens its features are taken with, beside their mean."""
    hidden: int = 256
    window: int = 96
    """Longest text in tokens; longer ones are read in pieces."""
    gate: float = 1.0
    """Least logit of "about a way of speaking" at which a text is taken for a style at all."""
    threshold: float = 0.15
    """Least probability of "asked for" at which an attribute moves."""
    hunch: float = 0.05
    """The same for the likeliest attribute of a text that is a style, when none reaches `threshold`."""

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be shared by {self.heads} heads evenly")
        if self.window < 1:
            raise ValueError(f"window should be at least 1, not {self.window}")


class StyleReading(NamedTuple):
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

    def forward(self, features: Tensor) -> StyleReading:
        """features: (B, dim)."""
        n = len(ATTRIBUTES)
        out = self.net(features).float()
        return StyleReading(out[:, : 3 * n].unflatten(1, (n, 3)), F.softplus(out[:, 3 * n : 4 * n]), out[:, -1])


class Layer(nn.Module):
    """Transformer layer over all tokens of a text, normalised after each sum as in BERT (arXiv:1810.04805)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (B, T, width), mask: bool (B, 1, 1, T), False at padding -> (B, T, width)."""
        q, k, v = rearrange(self.qkv(x), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        y = rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h t d -> b t (h d)")
        x = self.norm1(x + F.dropout(self.out(y), self.dropout, self.training))
        return self.norm2(x + F.dropout(self.down(F.gelu(self.up(x))), self.dropout, self.training))


class StyleNet(nn.Module):
    """Tokens -> what the text asks for."""

    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.position = nn.Parameter(torch.zeros(config.window, config.width))
        self.norm = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(Layer(config.width, config.heads) for _ in range(config.layers))
        self.attend = nn.Linear(config.width, config.pools)
        self.reads = StyleHeads(2 * (1 + config.pools) * config.width, config.hidden)

    def forward(self, ids: Tensor, noise: float = 0.0) -> StyleReading:
        """ids: int64 (B, T <= window), 0 where padded; noise: added to the words' vectors in training, relative to their spread."""
        mask = ids != 0
        words = self.norm(self.embed(ids) + self.position[: ids.shape[1]])  # (B, T, width)
        if noise:
            words = words + noise * words.std() * torch.randn_like(words)
        x = words
        for layer in self.layers:
            x = layer(x, mask[:, None, None])
        # the vectors of the words alone keep what those in context have lost, and the other way round
        both = torch.cat([words, x.float()], dim=-1)  # (B, T, 2 width)
        equal = torch.zeros_like(both[..., :1])
        weights = torch.cat([equal, self.attend(x).float()], dim=-1)  # of the mean, and of the pools
        weights = weights.masked_fill(~mask[..., None], -1e4).softmax(dim=1)
        pooled = torch.einsum("btp,btd->bpd", weights, both)
        return self.reads(F.layer_norm(pooled, pooled.shape[-1:]).flatten(1))

    def packed(self) -> dict[str, Tensor]:
        """`state_dict` with every matrix in int8 and its `.scale` per row."""
        packed = {}
        for name, tensor in self.state_dict().items():
            if tensor.ndim == 2:
                # rounded to bfloat16 first, as checkpoints are saved
                scale = (tensor.abs().amax(dim=1).clamp(min=1e-12) / 127).bfloat16().float()
                packed[f"{name}.scale"] = scale
                tensor = (tensor / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
            packed[name] = tensor
        return packed


def unpacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The `state_dict` of which `StyleNet.packed` gave these tensors."""
    return {
        name: tensor * tensors[f"{name}.scale"][:, None] if f"{name}.scale" in tensors else tensor
        for name, tensor in tensors.items()
        if not name.endswith(".scale")
    }


class StyleEncoder:
    """Instruction -> `Style`."""

    def __init__(self, net: StyleNet, tokenizer: Tokenizer) -> None:
        self.net = net.eval()
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None) -> "StyleEncoder":
        """A bundled name, a folder, or hf:owner/name.  Raises: UserError for another kind, or a damaged one."""
        folder = checkpoints.resolve(name, "style")
        config = checkpoints.read_config(folder, "style")
        wrong = sorted(set(config) ^ {field.name for field in fields(StyleEncoderConfig)})
        if wrong:
            raise UserError(f"{folder / 'config.json'} is not a style encoder's: {wrong[0]!r} does not fit")
        settings = recipe.build(StyleEncoderConfig, config, str(folder / "config.json"))
        net = checkpoints.fill(lambda: StyleNet(settings), folder, unpacked)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"checkpoint folder {folder} has no tokenizer.json")
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as e:  # tokenizers raises bare Exception
            raise UserError(f"{path} is not a readable tokenizer") from e
        return cls(net, tokenizer)

    def encode(self, text: str) -> Style:
        """What an instruction asks for; an empty one, or one about something else, gives `Style()`."""
        if not text.strip():
            return Style()
        check(text)
        config = self.net.config
        pieces = [read(*one, config) for one in self._run(windows(self.tokenizer.encode(text).ids, config.window))]
        style = pieces[0]
        for piece in pieces[1:]:
            style = piece.over(style)
        return style

    @torch.inference_mode()
    def _run(self, ids: Sequence[Sequence[int]]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Token ids -> per text the odds (9, 3), strength (9) and about () of `StyleReading`."""
        reading = self.net(padded(ids).to(self.net.position.device))
        return list(zip(*(values.cpu() for values in reading), strict=True))


def padded(ids: Sequence[Sequence[int]]) -> Tensor:
    """-> int64 (B, T), 0 beyond each end."""
    batch = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.int64)
    for row, one in zip(batch, ids, strict=True):
        row[: len(one)] = torch.tensor(one)
    return batch


def windows(ids: list[int], window: int) -> list[list[int]]:
    """A text's token ids in pieces of at most `window`, each between [CLS] and [SEP]."""
    step = window - 2
    return [[CLS, *ids[i : i + step], SEP] for i in range(0, max(len(ids), 1), step)]


def read(odds: Tensor, strength: Tensor, about: Tensor, config: StyleEncoderConfig) -> Style:
    """One text's reading, (9, 3), (9,) and (), as a style: only what was probably asked for moves."""
    less, _, more = odds.softmax(-1).unbind(-1)
    asked = less + more
    sure = (asked >= config.threshold) & (about > config.gate)
    if not sure.any() and about > config.gate:
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
