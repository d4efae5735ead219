import pytest
import torch

from solfa.core.errors import UserError
from solfa.omni.decoder.decoder import AttentionConfig, DecoderConfig
from solfa.omni.generation.generate import generate_audio
from solfa.omni.generation.sampling import Sampler, SamplingConfig, sample
from solfa.omni.model.grid import TokenGrid
from solfa.omni.model.omni_model import OmniConfig, OmniModel
from solfa.omni.model.patches import LocalConfig

GRID = TokenGrid(text_size=30, books=(64, 64, 64))
LOCAL = LocalConfig(dim=32, layers=2, heads=2, ffn_dim=64)
GREEDY = SamplingConfig(temperature=0, repeat_limit=0)
PROMPT = GRID.build([[GRID.id("<|bos|>"), 4, 7, GRID.id("<|sostm|>")]])


@pytest.fixture
def model() -> OmniModel:
    torch.manual_seed(0)
    decoder = DecoderConfig(
        dim=48, layers=2, ffn_dim=64, full_layers=(0,), sliding=AttentionConfig(window=6, sink=True)
    )
    model = OmniModel(OmniConfig(GRID, decoder, LOCAL, LOCAL, cond_dim=5)).eval()
    torch.nn.init.normal_(model.patch_decoder.heads.weight)  # far from uniform, so that codes are worth comparing
    return model


def write(model, **more) -> torch.Tensor:
    return torch.cat(list(generate_audio(model, PROMPT, **more)))


def seed(n: int) -> torch.Generator:
    return torch.Generator().manual_seed(n)


@torch.no_grad()
def test_greedy_codes_are_what_teacher_forcing_would_choose(model):
    cond, slot_embeds = torch.randn(46, 5), torch.randn(4, 48)
    codes = write(model, cond=cond, slot_embeds=slot_embeds, sampling=GREEDY)
    assert codes.shape == (46, 3)
    whole = GRID.build([PROMPT.text, codes.T])
    more = torch.cat([slot_embeds, torch.zeros(len(whole.text) - 4, 48)])[None]
    out = model(whole.batched(), GRID.place_frames(whole, cond)[None], more)
    assert torch.equal(out.audio.argmax(-1).flatten(0, 1)[:46], codes)


def test_same_seed_same_codes(model):
    a, b, c = (write(model, n_frames=30, generator=seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_codes_come_patch_by_patch(model):
    sizes = [len(p) for p in generate_audio(model, PROMPT, n_frames=10, sampling=GREEDY)]
    assert sizes == [4, 4, 2]


def test_the_text_head_ends_it(model):
    torch.nn.init.zeros_(model.text_head.weight)
    assert len(write(model, max_frames=40, sampling=GREEDY)) == 40
    lengths = {len(write(model, max_frames=400, generator=seed(s))) for s in range(5)}
    assert len(lengths) > 1 and max(lengths) < 400


@torch.no_grad()
def test_a_cache_carries_what_was_said(model):
    cache = model.decoder.new_cache()
    first = write(model, n_frames=10, sampling=GREEDY, cache=cache)
    assert cache.length == len(PROMPT.text) + 3
    middle = GRID.build([[GRID.id("<|eostm|>"), 9, GRID.id("<|sostm|>")]])
    second = torch.cat(list(generate_audio(model, middle, n_frames=12, sampling=GREEDY, cache=cache)))
    whole = GRID.build([PROMPT.text, first.T, middle.text])
    assert torch.equal(second, torch.cat(list(generate_audio(model, whole, n_frames=12, sampling=GREEDY))))


def test_bfloat16_weights_write(model):
    codes = write(model.bfloat16(), cond=torch.randn(9, 5).bfloat16(), generator=seed(0))
    assert codes.shape == (9, 3) and codes.max() < 64


def test_top_k_and_top_p_bound_the_choice():
    logits = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1])).expand(4000, 4)
    for config, allowed in [
        (SamplingConfig(1.0, top_k=2, top_p=1.0), {0, 1}),
        (SamplingConfig(1.0, top_p=0.75), {0, 1, 2}),
        (SamplingConfig(1.0, top_p=0.4), {0}),
        (SamplingConfig(0.0), {0}),
    ]:
        assert set(sample(logits, config, seed(0)).tolist()) == allowed


def test_sampling_follows_the_distribution():
    p = torch.tensor([0.4, 0.3, 0.2, 0.1])
    drawn = sample(p.log().expand(40_000, 4), SamplingConfig(1.0, top_p=1.0), seed(0))
    torch.testing.assert_close(drawn.bincount() / 40_000, p, atol=0.01, rtol=0)
    hot = sample(p.log().expand(40_000, 4), SamplingConfig(2.0, top_p=1.0), seed(0))
    torch.testing.assert_close(hot.bincount() / 40_000, p.sqrt() / p.sqrt().sum(), atol=0.01, rtol=0)


def test_the_repetition_penalty_breaks_a_loop():
    logits = torch.zeros(1, 1, 8)
    logits[..., 3] = 4.0
    stuck = SamplingConfig(temperature=0, repeat_limit=5, repeat_window=20, repeat_penalty=2.0)
    sampler = Sampler(stuck, None)
    written = [int(sampler(logits, 0)) for _ in range(200)]
    assert written[:6] == [3] * 6 and written[6] != 3
    assert max(sum(c == 3 for c in written[i : i + 20]) for i in range(180)) < 20
    assert all(int(sampler(logits, 1)) == 3 for _ in range(30)), "only book 0 is penalised"


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}])
def test_wrong_sampling_is_refused(wrong):
    with pytest.raises(UserError):
        SamplingConfig(**wrong)
