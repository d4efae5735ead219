"""Drafting patches of audio: greedy codes are those of plain writing, sampled ones have the same distribution."""

import itertools
from typing import Any

import pytest
import torch

from solfa.core.errors import UserError
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.generation.generate import generate_audio
from solfa.omni.generation.sampling import SamplingConfig, draw
from solfa.omni.generation.speculative_audio import Sketch, _keep, generate_audio_with_drafts
from solfa.omni.model.grid import TokenGrid
from solfa.omni.model.mtp import MTPBlock
from solfa.omni.model.omni_model import OmniConfig, OmniModel
from solfa.omni.model.patches import LocalConfig

HEADS: dict[str, Any] = {"heads": 2, "kv_heads": 1, "qk_dim": 8, "v_dim": 8, "rotary_dim": 4}
GREEDY = SamplingConfig(temperature=0, repeat_limit=0)
FREE = SamplingConfig(1.0, 0, 1.0, repeat_limit=0)


def make(books: tuple[int, ...], patch_size: int, cond_dim: int = 0) -> tuple[OmniModel, object]:
    """Blocks that guess well now and then: they add little to the state that they start from."""
    torch.manual_seed(0)
    grid = TokenGrid(text_size=10, books=books, patch_size=patch_size)
    decoder = DecoderConfig(
        dim=16, layers=2, ffn_dim=24, full_layers=(0,), full=AttentionConfig(**HEADS),
        sliding=AttentionConfig(window=4, sink=True, **HEADS),
    )  # fmt: skip
    local = LocalConfig(dim=16, layers=1, heads=2, ffn_dim=24)
    model = OmniModel(OmniConfig(grid, decoder, local, local, cond_dim, mtp=2)).eval()
    torch.nn.init.normal_(model.patch_decoder.heads.weight, std=0.4)
    for block in model.mtp:
        assert isinstance(block, MTPBlock)
        torch.nn.init.zeros_(block.join.weight)
        block.join.weight.data += torch.cat([torch.randn(16, 16) * 0.1, torch.eye(16)], 1)
    return model, grid.build([[grid.id("<|bos|>"), 4, 7, grid.id("<|sostm|>")]])


@pytest.mark.parametrize("drafts", [1, 2])
@pytest.mark.parametrize("conditioned", [False, True])
def test_greedy_codes_are_the_same(drafts, conditioned):
    model, prompt = make((6, 6), 2, cond_dim=3 if conditioned else 0)
    more = {"cond": torch.randn(81, 3)} if conditioned else {"n_frames": 81}
    plain = torch.cat(list(generate_audio(model, prompt, sampling=GREEDY, **more)))
    rounds = list(generate_audio_with_drafts(model, prompt, drafts=drafts, sampling=GREEDY, **more))
    assert torch.equal(torch.cat([r.codes for r in rounds]), plain)
    sizes = [len(r.codes) for r in rounds]
    assert all(n % 2 == 0 for n in sizes[:-1]) and max(sizes) == 2 * (drafts + 1), (
        "all drafts of a round are kept at times"
    )
    assert len(sizes) < 41, "and rounds are fewer than patches"


def test_the_text_head_ends_it():
    model, prompt = make((6, 6), 2)
    lengths = set()
    for seed in range(4):
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.text_head.weight)
        plain = torch.cat(list(generate_audio(model, prompt, max_frames=24, sampling=GREEDY)))
        drafted = list(generate_audio_with_drafts(model, prompt, drafts=2, max_frames=24, sampling=GREEDY))
        assert torch.equal(torch.cat([r.codes for r in drafted]), plain)
        lengths.add(len(plain))
    assert len(lengths) > 1, "at different places"


def test_a_code_that_is_kept_or_replaced_has_the_decoder_s_distribution():
    probs, guess = torch.tensor([0.1, 0.2, 0.0, 0.7]), torch.tensor([0.4, 0.1, 0.3, 0.2])
    generator, many = torch.Generator().manual_seed(0), 40_000
    drawn = draw(guess.expand(many, 1, 4), generator)
    kept, codes = _keep(Sketch(drawn, guess.expand(many, 1, 4), torch.empty(0)), probs.expand(many, 1, 4), generator)
    torch.testing.assert_close(codes[:, 0].bincount(minlength=4) / many, probs, atol=0.01, rtol=0)
    assert float(kept.float().mean()) == pytest.approx(float(torch.minimum(probs, guess).sum()), abs=0.01)


@pytest.mark.slow
def test_sampled_codes_have_the_same_distribution():
    """Chi-square of the codes of two patches of two frames and two books, drawn with and without drafts."""
    model, prompt = make((2, 2), 2)
    n, tables, kept = 800, [], 0
    for drafts in (0, 2):
        generator = torch.Generator().manual_seed(7)
        counts = dict.fromkeys(itertools.product(range(2), repeat=5), 0)
        for _ in range(n):
            more = {"n_frames": 6, "sampling": FREE, "generator": generator}
            if drafts:
                rounds = [r.codes for r in generate_audio_with_drafts(model, prompt, drafts=drafts, **more)]
                kept += sum(len(r) > 2 for r in rounds)
            else:
                rounds = list(generate_audio(model, prompt, **more))
            # the second patch whole, and the parity of the third, which its drafts decide
            codes = torch.cat(rounds)
            counts[(*codes[2:4].flatten().tolist(), int(codes[4:].sum()) % 2)] += 1
        tables.append(torch.tensor(list(counts.values()), dtype=torch.float32))
    a, b = tables
    seen = a + b > 10
    score = ((a - b).square() / (a + b))[seen].sum()
    freedom = int(seen.sum()) - 1
    # the 99.9% point of chi-square, by Wilson and Hilferty
    assert score < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert kept > n / 10, "and drafts were kept, or nothing was tested"


def test_the_guard_is_refused():
    model, prompt = make((6, 6), 2)
    with pytest.raises(UserError, match="repeat_limit"):
        next(generate_audio_with_drafts(model, prompt, drafts=1, n_frames=4, sampling=SamplingConfig()))
