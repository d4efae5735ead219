"""What blocks of multi-token prediction learn of text and audio: the right steps, rightly weighed, until their drafts hold."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.generation.generate import generate_audio
from solfa.omni.generation.sampling import SamplingConfig
from solfa.omni.model.grid import IGNORE, Grid, TokenGrid
from solfa.omni.model.omni_model import OmniConfig
from solfa.omni.model.patches import LocalConfig
from solfa.omni.training.flops import decoder_flops
from solfa.omni.training.objectives import OmniObjective, shift_labels
from solfa.omni.training.packing import Packed, PackedRows

HEADS: dict[str, Any] = {"heads": 2, "kv_heads": 1, "qk_dim": 16, "v_dim": 16, "rotary_dim": 8}
LOCAL = LocalConfig(dim=32, layers=1, heads=2, ffn_dim=64)
GRID = TokenGrid(text_size=20, books=(6, 6), patch_size=2)
CONFIG = OmniConfig(
    GRID,
    DecoderConfig(
        dim=32, layers=2, ffn_dim=48, full_layers=(0,), full=AttentionConfig(**HEADS),
        sliding=AttentionConfig(window=8, sink=True, **HEADS),
    ),
    LOCAL, LOCAL, mtp=2,
)  # fmt: skip


class Clips:
    """Documents of a few words, a clip, and a few words, of which only what comes after the first words is learned."""

    too_long = 0

    def __init__(self, shapes: list[tuple[int, int, int]]):
        rng = torch.Generator().manual_seed(0)
        self.documents = []
        for before, frames, after in shapes:
            words, codes = (
                torch.randint(20, (before + after,), generator=rng),
                torch.randint(6, (2, frames), generator=rng),
            )
            self.documents.append(GRID.build([words[:before], codes, words[before:]], loss_from=1))
        self.lengths = np.array([len(d.text) for d in self.documents])

    def write(self, index: int, row: Grid, start: int) -> None:
        d = self.documents[index]
        place = slice(start, start + len(d.text))
        row.text[place], row.audio[place], row.loss_mask[place] = d.text, d.audio, d.loss_mask


CLIPS = Clips([(2, 7, 1), (4, 0, 3), (1, 1, 0), (3, 12, 4), (1, 3, 1)])


def packed(clips: Clips, rows: int, steps: int) -> Packed:
    return PackedRows(GRID, [clips], [1.0], steps, seed=0).rows(0, rows)


@pytest.fixture
def objective() -> OmniObjective:
    torch.manual_seed(0)
    return OmniObjective(CONFIG, 0.5, (3.0, 1.0), mtp_weight=0.3)


def test_block_k_learns_what_comes_k_steps_later_in_its_document():
    batch = packed(CLIPS, 2, 24)
    g, segments = batch.grid, batch.segments
    own = GRID.labels(g)
    assert len(segments.unique()) > 3
    for k, (text, audio) in enumerate(
        zip(shift_labels(own.text, segments, 3), shift_labels(own.audio, segments, 3), strict=True)
    ):
        for b in range(2):
            for t in range(24):
                then = t + k + 1
                if then < 24 and segments[b, then] == segments[b, t] and g.loss_mask[b, then]:
                    assert text[b, t] == g.text[b, then]
                    assert torch.equal(audio[b, t], g.audio[b, then].masked_fill(g.audio[b, then] == 6, IGNORE))
                else:
                    assert text[b, t] == IGNORE and (audio[b, t] == IGNORE).all()


@torch.no_grad()
def test_packed_documents_are_learned_as_if_alone(objective):
    batch = packed(CLIPS, 1, 48)
    assert int(batch.segments.max()) == 4, "all in one row"
    counts = objective.counts(batch)
    sums = counts * objective(batch)
    apart, labels = torch.zeros_like(sums), torch.zeros_like(sums)
    for d in CLIPS.documents:
        alone = Packed(d.batched(), torch.zeros(1, len(d.text), dtype=torch.int64))
        labels += objective.counts(alone)
        apart += objective.counts(alone) * objective(alone)
    assert torch.equal(counts, labels) and (counts > 0).all()
    torch.testing.assert_close(sums, apart, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_blocks_weigh_text_and_books_as_the_decoder_does(objective):
    means = objective(packed(CLIPS, 1, 48))
    told = objective.report(means)
    assert list(told) == ["text", "book 0", "book 1", "mtp 1", "mtp 2"]
    text, coarse, fine = means[3:6].tolist()
    assert told["mtp 1"] == pytest.approx(0.5 * text + 0.75 * coarse + 0.25 * fine)
    loss = 0.5 * told["text"] + 0.75 * told["book 0"] + 0.25 * told["book 1"] + 0.15 * (told["mtp 1"] + told["mtp 2"])
    assert float(objective.weights @ means) == pytest.approx(loss)


def test_blocks_count_as_operations(objective):
    """What torch counts outside the stacks of layers, where it counts pairs as well that no query may see."""
    batch = packed(CLIPS, 1, int(CLIPS.lengths.sum()))
    with FlopCounterMode(display=False) as counter:
        objective(batch)
    stacks = ["decoder", "mtp.0.decoder", "mtp.1.decoder"]
    counted = counter.get_total_flops()
    expected = objective.flops(batch)
    for name in stacks:
        counted -= sum(counter.get_flop_counts()[f"OmniObjective.model.{name}"].values())
        expected -= decoder_flops(objective.model.get_submodule(name), CLIPS.lengths.tolist())
    assert counted == expected


def test_a_memorised_stream_is_generated_and_predicted_by_the_block():
    torch.manual_seed(0)
    objective = OmniObjective(dataclasses.replace(CONFIG, mtp=1), 1.0, (1.0, 1.0), mtp_weight=0.5)
    tune = torch.randint(6, (2, 10)).repeat(1, 6)
    marks = [GRID.id("<|bos|>"), GRID.id("<|sostm|>")]
    grids = [GRID.build([marks, tune[:, s : s + 40]]).batched() for s in range(0, 10, 2)]
    rows = Grid(*(torch.cat([vars(g)[name] for g in grids]) for name in ("text", "audio", "loss_mask")))
    batch = Packed(rows, torch.zeros(5, 22, dtype=torch.int64))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    for _ in range(60):
        loss = objective.weights @ objective(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert objective.report(objective(batch))["mtp 1"] < 0.3, "the block predicts the patch after the next one"
    greedy = SamplingConfig(temperature=0, repeat_limit=0)
    prompt = GRID.build([marks, tune[:, :12]])
    codes = torch.cat(list(generate_audio(objective.model.eval(), prompt, n_frames=24, sampling=greedy)))
    assert torch.equal(codes.T, tune[:, 12:36])
