"""Train the letter-to-phone network and write the text checkpoint (build time; needs no Flite itself).

    python -m solfa.tokenizers.training.train_g2p PRONUNCIATIONS.tsv --out FOLDER

PRONUNCIATIONS.tsv has `word TAB phones [TAB phones as a verb]`, the most useful word first (see `pronunciations.py`).
Letters and phones are first aligned by expectation maximization over zero to three phones a letter; then the network
learns the chunk of each letter.  Every 50th word by hash is held out from the network.  The lexicon takes words from the
top, and among the rest those that the network gets wrong, up to `--lexicon-bytes`.
"""

import argparse
import itertools
import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from solfa.core import checkpoints
from solfa.core.torchaudio_functional import functional
from solfa.tokenizers.text.g2p import LETTERS, LetterToPhone, LetterToPhoneConfig, Speller
from solfa.tokenizers.text.tokenizer import VOCABULARY

MAX_CHUNK = 3
RARE = 5  # a chunk seen less often than this teaches noise
Pair = tuple[str, tuple[str, ...]]


def read_pronunciations(path: Path) -> dict[str, list[str]]:
    """Word -> its readings, each phones with spaces between; the file's order is kept."""
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return {row[0]: row[1:] for row in rows if len(row) > 1 and row[1]}


def held_out(word: str) -> bool:
    return zlib.crc32(word.encode()) % 50 == 0


def align(pairs: list[Pair], rounds: int = 4) -> list[tuple[str, ...] | None]:
    """The likeliest split of each pronunciation into one chunk per letter; None where more than three a letter are needed.

    Hard expectation maximization, vectorized over words of equal shape.
    """
    shapes = defaultdict(list)
    for i, (word, phones) in enumerate(pairs):
        shapes[len(word), len(phones)].append(i)
    score: dict[tuple[str, str], float] = {}
    chosen: list[tuple[str, ...] | None] = [None] * len(pairs)
    for _ in range(rounds):
        counts: Counter[tuple[str, str]] = Counter()
        for (letters, length), members in shapes.items():
            if length > MAX_CHUNK * letters:
                continue
            for i, cuts in zip(members, _cuts([pairs[i] for i in members], letters, length, score), strict=True):
                word, said = pairs[i]
                chosen[i] = tuple(" ".join(said[a:b]) for a, b in zip([0, *cuts[:-1]], cuts, strict=True))
                counts.update(zip(word, chosen[i] or (), strict=True))
        per_letter: Counter[str] = Counter()
        for (letter, _), n in counts.items():
            per_letter[letter] += n
        score = {(c, chunk): math.log(n / per_letter[c]) for (c, chunk), n in counts.items()}
    return chosen


def _gain(letter: str, said: tuple[str, ...], score: dict[tuple[str, str], float], off_diagonal: float) -> float:
    """Log probability of a chunk; before there are counts, even spread and vowels for vowel letters."""
    if score:
        return score.get((letter, " ".join(said)), -15.0 - len(said))
    odd = sum((phone[0] in "aeiou") != (letter in "aeiouy") for phone in said)
    return -4 * abs(off_diagonal) - (0, 0, 3, 6)[len(said)] - odd


def _cuts(group: list[Pair], letters: int, phones: int, score: dict[tuple[str, str], float]) -> list[list[int]]:
    """For words of one shape, how many phones are said after each letter on the best path.  -> per word (letters,)"""
    best = np.full((len(group), phones + 1), -np.inf)
    best[:, 0] = 0
    back = np.zeros((letters, len(group), phones + 1), np.int8)
    for t in range(letters):
        ahead = np.full_like(best, -np.inf)
        for size in range(min(MAX_CHUNK, phones) + 1):
            for p in range(size, phones + 1):
                gain = np.array([_gain(w[t], s[p - size : p], score, p / phones - (t + 1) / letters) for w, s in group])
                candidate = best[:, p - size] + gain
                better = candidate > ahead[:, p]
                ahead[better, p] = candidate[better]
                back[t, better, p] = size
        best = ahead
    cuts = np.zeros((len(group), letters), int)
    end, rows = np.full(len(group), phones), np.arange(len(group))
    for t in reversed(range(letters)):
        cuts[:, t] = end
        end = end - back[t, rows, end]
    return cuts.tolist()


def batches(
    items: list[tuple[str, list[int]]], size: int, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch in random order; each batch holds words of one length.  -> letters (B, T), chunks (B, T)"""
    by_length = defaultdict(list)
    for i in rng.permutation(len(items)):
        by_length[len(items[i][0])].append(items[i])
    groups = [same[i : i + size] for same in by_length.values() for i in range(0, len(same), size)]
    for g in rng.permutation(len(groups)):
        words, chunks = zip(*groups[g], strict=True)
        yield torch.tensor([[LETTERS.index(c) for c in w] for w in words]), torch.tensor(chunks)


def evaluate(model: LetterToPhone, truth: dict[str, str]) -> dict[str, float]:
    """Phone and word error rate, with stress and without, in percent."""
    guesses = Speller(model)(list(truth))
    scores: dict[str, float] = {}
    for name, keep in (("", "1"), ("_no_stress", "")):
        wrong = total = words = 0
        for said, guess in zip(truth.values(), guesses, strict=True):
            a, b = said.replace("1", keep).split(), guess.replace("1", keep).split()
            wrong, total, words = wrong + functional.edit_distance(a, b), total + len(a), words + (a != b)
        scores |= {f"per{name}": round(100 * wrong / total, 2), f"wer{name}": round(100 * words / len(truth), 2)}
    return scores


def train(items: list[tuple[str, list[int]]], config: LetterToPhoneConfig, steps: int, seed: int = 0) -> LetterToPhone:
    """Cross entropy of each letter's chunk; the learning rate warms up, then falls to zero."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = LetterToPhone(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
    warm_up = min(300, steps // 8 + 1)
    endless = (batch for _ in itertools.count() for batch in batches(items, 256, rng))
    for step, (letters, chunks) in enumerate(itertools.islice(endless, steps)):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / warm_up, 1.15 * (1 - step / steps))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(letters, chunks)
        loss = F.cross_entropy(logits.float().flatten(0, 1), chunks.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step} of {steps} loss {loss.item():.3f}", flush=True)
    return model.eval()


def write_lexicon(path: Path, table: dict[str, list[str]], model: LetterToPhone, limit: int, surely: int) -> int:
    """The first `surely` words, then those that the network would get wrong, then the rest, up to `limit` bytes."""
    words = [w for w in table if not w.endswith("'s")]
    guesses = dict(zip(words, Speller(model)(words), strict=True))
    order = sorted(range(len(words)), key=lambda i: (i >= surely and guesses[words[i]] == table[words[i]][0], i))
    lines: list[str] = []
    size = 0
    for i in order:
        line = "\t".join([words[i], *table[words[i]]]) + "\n"
        if size + len(line) > limit:
            break
        lines.append(line)
        size += len(line)
    path.write_text("".join(sorted(lines)), encoding="utf-8")
    return len(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pronunciations", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500, help="batches of 256 words")
    parser.add_argument("--words", type=int, default=150_000, help="train on this many words from the top")
    parser.add_argument("--lexicon-bytes", type=int, default=1_500_000)
    parser.add_argument("--lexicon-surely", type=int, default=30_000, help="words from the top that are always listed")
    args = parser.parse_args(argv)
    table = read_pronunciations(args.pronunciations)
    usable = [w for w in table if set(w) <= set(LETTERS) and 1 < len(w) <= 24][: args.words]
    pairs = [(w, tuple(table[w][0].split())) for w in usable]
    aligned = [(w, cut) for (w, _), cut in zip(pairs, align(pairs), strict=True) if cut]
    counts = Counter(chunk for _, cut in aligned for chunk in cut)
    chunks = ("<start>", *sorted(c for c, n in counts.items() if n >= RARE))
    ids = {c: i for i, c in enumerate(chunks)}
    items = [(w, [ids[c] for c in cut]) for w, cut in aligned if not held_out(w) and all(c in ids for c in cut)]
    print(f"{len(items)} words to train on, {len(chunks)} chunks", flush=True)
    model = train(items, LetterToPhoneConfig(chunks), args.steps)
    scores = evaluate(model, {w: table[w][0] for w in usable if held_out(w)})
    print(scores, f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    config = {"vocab": VOCABULARY, "g2p": model.config.to_dict(), "held_out_error_percent": scores}
    checkpoints.save(args.out, "text", config, model.state_dict())
    listed = write_lexicon(args.out / "lexicon.txt", table, model, args.lexicon_bytes, args.lexicon_surely)
    print(f"{listed} words in {args.out / 'lexicon.txt'}")


if __name__ == "__main__":
    main()
