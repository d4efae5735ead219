"""Train short, use long: a small hybrid decoder finds needles at several times the length that it was trained on.

Facts are strewn over text, each an id that stands for a name and a value; at the end come the names, and the model says
the values.
"""

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from solfa.omni.decoder import AttentionConfig, DecoderConfig
from solfa.omni.text import TextConfig, TextModel

BYTES, NAMES, VALUES, FACTS, LENGTH = 256, 16, 16, 8, 256
HEADS: dict[str, Any] = {"heads": 4, "kv_heads": 2, "qk_dim": 32, "v_dim": 32}
TEXT = b" ".join(p.read_bytes() for p in sorted((Path(__file__).parents[2] / "omni").glob("*.py")))


def decoder(rotary_dim: int = 0, rotary_base: float = 640_000.0) -> DecoderConfig:
    """5:1, window 32; the full layer, the last but one, knows no positions unless it has a rotary_dim."""
    return DecoderConfig(
        dim=128, layers=6, ffn_dim=256, full_layers=(4,),
        full=AttentionConfig(rotary_dim=rotary_dim, rotary_base=rotary_base, **HEADS),
        sliding=AttentionConfig(window=32, sink=True, rotary_dim=16, **HEADS),
    )  # fmt: skip


def batch(rows: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Text with facts in it, and at the end their names, each with its value: ids (rows, length)."""
    draw = functools.partial(torch.randint, generator=generator)
    text, body = torch.frombuffer(bytearray(TEXT), dtype=torch.uint8).long(), length - 2 * FACTS
    found = []
    for start in draw(len(text) - length, (rows,)).tolist():
        row = text[start : start + length].clone()
        names, values = torch.randperm(NAMES, generator=generator)[:FACTS], draw(VALUES, (FACTS,))
        row[torch.randperm(body, generator=generator)[:FACTS]] = BYTES + NAMES + VALUES + VALUES * names + values
        row[body::2], row[body + 1 :: 2] = BYTES + names, BYTES + NAMES + values
        found.append(row)
    return torch.stack(found)


def trained(config: DecoderConfig, steps: int, say=lambda step, loss, right: None) -> TextModel:
    """Three fifths of the steps read short sequences, in which what is to be done shows sooner, the others `LENGTH` ids."""
    torch.manual_seed(0)
    model, generator = TextModel(TextConfig(BYTES + NAMES + VALUES + NAMES * VALUES, config)), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50, 2 * (steps - step) / steps)
        length = LENGTH // 4 if step < 0.6 * steps else LENGTH
        ids = batch(2048 // length, length, generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids)[:, :-1].float()
        losses = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        asked = losses[:, length - 2 * FACTS :: 2]
        loss = 0.2 * losses[:, : length - 2 * FACTS].mean() + asked.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        say(step, loss.item(), asked.mean().item())
    return model.eval()


@torch.no_grad()
def accuracy(model: TextModel, length: int, rows: int = 8) -> float:
    """The share of names whose value is right; the last ids are read through a cache."""
    ids, cache = batch(rows, length, torch.Generator().manual_seed(1)), model.decoder.new_cache()
    for part in ids[:, : -2 * FACTS].split(512, dim=1):
        model(part, cache=cache)
    guessed = model(ids[:, -2 * FACTS : -1], cache=cache)[:, ::2].argmax(-1)
    return float((guessed == ids[:, -2 * FACTS + 1 :: 2]).float().mean())
