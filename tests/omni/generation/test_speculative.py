"""Drafting changes nothing but the speed: greedy ids are the same, sampled ids have the same distribution."""

import itertools
from typing import Any

import pytest
import torch

from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.generation.sampling import SamplingConfig, probabilities
from solfa.omni.generation.speculative import generate_text, verify
from solfa.omni.model.mtp import MTPBlock
from solfa.omni.model.text_model import TextConfig, TextModel

HEADS: dict[str, Any] = {"heads": 2, "kv_heads": 1, "qk_dim": 8, "v_dim": 8, "rotary_dim": 4}
SMALL = DecoderConfig(
    dim=16, layers=2, ffn_dim=24, full_layers=(0,), full=AttentionConfig(**HEADS),
    sliding=AttentionConfig(window=6, sink=True, **HEADS),
)  # fmt: skip


def make(vocab: int, eos: tuple[int, ...] = (), scale: float = 0.7) -> TextModel:
    """Blocks that guess well now and then: they add little to the state that they start from."""
    torch.manual_seed(0)
    model = TextModel(TextConfig(vocab_size=vocab, decoder=SMALL, mtp=3, eos=eos)).eval()
    assert model.head
    torch.nn.init.normal_(model.head.weight, std=scale)
    for block in model.mtp:
        assert isinstance(block, MTPBlock)
        torch.nn.init.zeros_(block.join.weight)
        block.join.weight.data += torch.cat([torch.randn(16, 16) * 0.1, torch.eye(16)], 1)
    return model


def write(model, prompts, **more) -> tuple[list[list[int]], float]:
    """-> ids of each row, and the mean acceptance length."""
    rounds = list(generate_text(model, prompts, **more))
    rows = [torch.cat([found[i] for found in rounds]).tolist() for i in range(len(prompts))]
    lengths = [len(new) for found in rounds[1:] for new in found if len(new)]
    return rows, sum(lengths) / max(len(lengths), 1)


@pytest.fixture
def prompts() -> list[torch.Tensor]:
    return [torch.randint(12, (n,), generator=torch.Generator().manual_seed(n)) for n in (1, 5, 40, 2)]


@torch.no_grad()
def test_plain_greedy_ids_are_what_the_model_would_choose(prompts):
    model = make(12)
    rows, length = write(model, prompts, steps=20)
    for prompt, row in zip(prompts, rows, strict=True):
        logits = model(torch.cat([prompt, torch.tensor(row)])[None])[0]
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == row
    assert length == 1


@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_greedy_ids_are_the_same_with_drafts(prompts, drafts):
    model = make(12, eos=(9,))
    plain, _ = write(model, prompts, steps=60)
    drafted, length = write(model, prompts, steps=60, drafts=drafts)
    assert drafted == plain and len({len(row) for row in plain}) > 1, "rows end at different steps"
    assert 1.1 < length < drafts + 1
    # a batch is as each row alone, and chunks as the whole
    assert write(model, prompts[2:3], steps=60, drafts=drafts, chunk=7)[0] == plain[2:3]


def test_rows_end_with_an_end_or_after_so_many_steps(prompts):
    model = make(12, eos=(3, 7))
    for row in write(model, prompts * 4, steps=15, drafts=3, sampling=SamplingConfig(1.0, 0, 1.0))[0]:
        assert len(row) == 15 or row[-1] in (3, 7)
        assert not {3, 7} & set(row[:-1])


@pytest.mark.parametrize("config", [SamplingConfig(1.0, 0, 1.0), SamplingConfig(0.6, 3, 0.9)], ids=["plain", "cut"])
@torch.no_grad()
def test_sampled_ids_have_the_model_s_distribution(config):
    """Chi-square of all 4-grams that 4,000 rows begin with, against their exact probabilities."""
    vocab, rows, n = 4, 4_000, 4
    model, prompt = make(vocab), torch.tensor([1, 2])
    found, length = write(
        model, [prompt] * rows, steps=n, drafts=3, sampling=config, generator=torch.Generator().manual_seed(0)
    )
    grams = torch.tensor(list(itertools.product(range(vocab), repeat=n)))
    probs = probabilities(model(torch.cat([prompt.expand(len(grams), -1), grams], 1))[:, 1:-1], config)
    expected = probs.gather(-1, grams[..., None])[..., 0].prod(1) * rows
    seen = (torch.tensor(found) @ (vocab ** torch.arange(n - 1, -1, -1))).bincount(minlength=vocab**n)
    assert seen[expected == 0].sum() == 0, "what top-k and top-p cut off never comes"
    often = expected >= 5
    rest = torch.tensor([float(expected[~often].sum()), float(seen[~often].sum())])
    score = ((seen - expected).square() / expected)[often].sum() + (rest[1] - rest[0]).square() / rest[0].clamp(min=1)
    freedom = int(often.sum())
    # the 99.9% point of chi-square, by Wilson and Hilferty
    assert score < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert length > 1.3, "and drafts were kept, or nothing was tested"


def test_impossible_drafts_are_rejected_and_certain_ones_accepted():
    probs = torch.tensor([[[0.0, 1.0, 0.0], [0.2, 0.3, 0.5], [0.0, 0.0, 1.0]]]).expand(500, -1, -1)
    draft_probs = torch.tensor([[[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]]).expand(500, -1, -1)
    plain = SamplingConfig(1.0, 0, 1.0)
    accepted, new = verify(probs.log(), torch.tensor([[0, 1]]).expand(500, -1), draft_probs, plain)
    assert (accepted == 0).all() and (new == 1).all()
    accepted, new = verify(probs.log(), torch.tensor([[1, 1]]).expand(500, -1), draft_probs, plain)
    assert (accepted == 2).all() and (new == 2).all()


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="at least one id"):
        next(generate_text(make(12), [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)], steps=3))
