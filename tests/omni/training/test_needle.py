"""Train short, use long: small hybrid decoders find needles at many times the length that they were trained on.

A needle is a name and its value, two ids somewhere in a text; at the end come the names again, and the model says the
values.  Windows are short here, so that the state before a full layer tells which id came last: with windows of 32 the
same training learns nothing in the same time.
"""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.model.text_model import TextConfig, TextModel

BYTES, NAMES, VALUES, NEEDLES, LENGTH, WINDOW = 256, 32, 32, 8, 256, 8
HEADS: dict[str, Any] = {"heads": 4, "kv_heads": 2, "qk_dim": 32, "v_dim": 32}
TEXT = torch.tensor(list((Path(__file__).parents[3] / "tts" / "style" / "heldout_sentences.txt").read_bytes()))
# ids in a row, of which names with values, rows, and different names: what is to be done shows soonest where it is dense
LESSONS = [
    (64, 32, 16, 4),
    (64, 32, 16, 8),
    (64, 24, 16, 8),
    (64, 16, 16, 8),
    (128, 24, 12, 8),
    (LENGTH, 24, 8, 8),
    (LENGTH, 16, 8, 8),
]
DESIGNS = {"full layer without positions": 0, "full layer with rotary positions": 16, "sliding layers alone": None}
LENGTHS = [LENGTH << i for i in range(7)]


def decoder(rotary_dim: int | None) -> DecoderConfig:
    """5:1; `rotary_dim` of the full layer, None for none at all."""
    return DecoderConfig(
        dim=128, layers=6, ffn_dim=256, full_layers=() if rotary_dim is None else (1,),
        full=AttentionConfig(rotary_dim=rotary_dim or 0, rotary_base=640_000.0, **HEADS),
        sliding=AttentionConfig(window=WINDOW, sink=True, rotary_dim=16, **HEADS),
    )  # fmt: skip


def rows(
    length: int, pairs: int, count: int, names: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Text in which names stand, each with its value: ids (count, length), and where a value follows from what was said."""
    draw = functools.partial(torch.randint, generator=generator)
    ids = torch.stack([text(length, start) for start in draw(len(TEXT), (count,)).tolist()])
    known = torch.zeros(count, length, dtype=torch.bool)
    for row in range(count):
        who, what = torch.randperm(NAMES, generator=generator)[:names], draw(VALUES, (names,))
        which = torch.cat([torch.arange(names), draw(names, (pairs - names,))])[
            torch.randperm(pairs, generator=generator)
        ]
        at = 2 * torch.randperm(length // 2, generator=generator)[:pairs].sort().values
        ids[row, at], ids[row, at + 1] = BYTES + who[which], BYTES + NAMES + what[which]
        known[row, at + 1] = (which[:, None] == which).tril(-1).any(1)
    return ids, known


def text(length: int, start: int) -> torch.Tensor:
    return TEXT[(start + torch.arange(length)) % len(TEXT)]


def trained(config: DecoderConfig, steps: int) -> TextModel:
    """Each lesson until most of it is right, and the last until the end."""
    torch.manual_seed(0)
    model, generator = TextModel(TextConfig(BYTES + NAMES + VALUES, config)), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    lesson, right = 0, 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50, 2 * (steps - step) / steps)
        ids, known = rows(*LESSONS[lesson], generator)
        logits, labels, known = model(ids)[:, :-1], ids[:, 1:], known[:, 1:]
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        (losses[known].mean() + 0.1 * losses[~known].mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        right = 0.95 * right + 0.05 * float((logits[known].argmax(-1) == labels[known]).float().mean())
        if right > 0.85 and lesson + 1 < len(LESSONS):
            lesson, right = lesson + 1, 0.0
    return model.eval()


@torch.no_grad()
def accuracy(model: TextModel, length: int, texts: int = 16) -> float:
    """The share of needles that are found, strewn over texts that are read through a cache."""
    generator, found = torch.Generator().manual_seed(1), 0.0
    for i in range(texts):
        ids = text(length - 2 * NEEDLES, i * 1000)[None]
        who = BYTES + torch.randperm(NAMES, generator=generator)[:NEEDLES]
        what = BYTES + NAMES + torch.randint(VALUES, (NEEDLES,), generator=generator)
        at = 2 * torch.randperm(ids.shape[1] // 2, generator=generator)[:NEEDLES]
        ids[0, at], ids[0, at + 1] = who, what
        cache = model.decoder.new_cache()
        for part in ids.split(512, dim=1):
            model.decoder(model.inputs(part), cache=cache)
        asked = torch.stack([who, what], 1).flatten()[None]
        found += float((model(asked, cache=cache)[0, ::2].argmax(-1) == what).float().mean())
    return found / texts


@pytest.mark.slow
def test_needles_are_found_at_many_times_the_length_of_training(capsys):
    """`pytest tests/omni/test_needle.py -m slow -s` prints the table of docs/decoder.md."""
    found = {}
    with capsys.disabled():
        print("\n" + "".join(f"{n:>8,}" for n in LENGTHS), "ids")
    for name, rotary_dim in DESIGNS.items():
        model = trained(decoder(rotary_dim), 2000)
        found[name] = [accuracy(model, n) for n in LENGTHS]
        with capsys.disabled():
            print("".join(f"{a:8.2f}" for a in found[name]), name)
    free, rotary, sliding = found.values()
    assert min(free[:4]) > 0.9
    assert max(sliding) < 0.5
