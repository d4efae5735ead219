import pytest
import torch

from solfa.omni.model.patches import BookEmbedding, BookHeads, LocalConfig, PatchDecoder, PatchEncoder

BOOKS, PATCH = (12, 12, 7), 4
CONFIG = LocalConfig(dim=16, layers=2, heads=2, ffn_dim=32)


def codes(n: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, size, (n, PATCH), generator=g) for size in BOOKS], dim=-1)


@pytest.fixture
def decoder() -> PatchDecoder:
    torch.manual_seed(0)
    return PatchDecoder(CONFIG, BOOKS, PATCH, state_dim=10, cond_dim=3).eval()


def test_embedding_sums_books_and_empty_adds_nothing():
    embed = BookEmbedding(BOOKS, 5)
    rows = embed.weight.detach()
    torch.testing.assert_close(embed(torch.tensor([[1, 2, 3]])), (rows[1] + rows[12 + 2] + rows[24 + 3])[None])
    torch.testing.assert_close(embed(torch.tensor([[1, 12, 7]])), rows[1][None])
    torch.testing.assert_close(embed(torch.tensor([[4, 3]]), first=1), (rows[12 + 4] + rows[24 + 3])[None])


@torch.no_grad()
def test_incremental_equals_teacher_forced(decoder):
    """Feed `generate` codes that a sampler reads from a script; it must see the logits of `forward`."""
    state, cond, want = torch.randn(3, 10), torch.randn(3, PATCH, 3), codes(3)
    logits = decoder(state, want, cond)
    assert logits.shape == (3, PATCH, 3, 12)
    calls = 0

    def script(seen: torch.Tensor, first: int) -> torch.Tensor:
        nonlocal calls
        books = torch.arange(first, first + seen.shape[1])
        frames = calls - books
        torch.testing.assert_close(seen, logits[:, frames, books], atol=1e-5, rtol=1e-5)
        calls += 1
        return want[:, frames, books]

    assert torch.equal(decoder.generate(state, script, cond), want)
    assert calls == PATCH + len(BOOKS) - 1


@torch.no_grad()
def test_delay_pattern_decides_who_knows_whom(decoder):
    """Book k of frame f depends on the code (f', k') exactly when it is written earlier, f' + k' < f + k."""
    state, base = torch.randn(1, 10), codes(1)
    before = decoder(state, base)
    for f in range(PATCH):
        for k in range(3):
            other = base.clone()
            other[0, f, k] = (other[0, f, k] + 1) % BOOKS[k]
            changed = ((decoder(state, other) - before).nan_to_num().abs().amax(-1)[0] > 1e-7).nonzero().tolist()
            later = [[i, j] for i in range(PATCH) for j in range(3) if i + j > f + k]
            assert changed == later


@torch.no_grad()
def test_smaller_books_never_get_codes_beyond_their_size(decoder):
    logits = decoder(torch.randn(5, 10), codes(5))
    assert logits[:, :, 2, 7:].isneginf().all() and logits[:, :, :2].isfinite().all()


@torch.no_grad()
def test_encoder_reads_all_of_a_patch_and_nothing_else():
    torch.manual_seed(0)
    encoder = PatchEncoder(CONFIG, BOOKS, PATCH, out_dim=6, cond_dim=3).eval()
    base, cond = codes(2), torch.randn(2, PATCH, 3)
    out = encoder(base, cond)
    for f in range(PATCH):
        other = base.clone()
        other[0, f, 1] = (other[0, f, 1] + 1) % 12
        new = encoder(other, cond)
        assert (new[0] - out[0]).abs().max() > 1e-5 and torch.equal(new[1], out[1])
    assert (encoder(base, cond + 1) - out).abs().max() > 1e-4
    assert torch.equal(encoder(base), encoder(base, torch.zeros_like(cond)))


def test_trains_in_bfloat16(decoder):
    decoder.train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = decoder(torch.randn(3, 10), codes(3), torch.randn(3, PATCH, 3))
        assert logits.dtype == torch.bfloat16
        logits.float().log_softmax(-1)[..., :7].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())


def test_heads_start_at_the_codes_frequencies_and_prefer_neighbours():
    torch.manual_seed(0)
    heads, embed = BookHeads(2, 8, 16, code_dim=4), BookEmbedding((16, 16), 8)
    books, counts = torch.randn(2, 16, 4), torch.randint(1, 50, (2, 16)).float()
    heads.init_from_codebooks(books, counts)
    embed.init_from_codebooks(books)
    with torch.no_grad():
        frequency = (counts + 1) / (counts + 1).sum(1, keepdim=True)
        torch.testing.assert_close(heads(torch.zeros(1, 8)).softmax(-1)[:, 0], frequency)
        heads.enter.copy_(torch.eye(8, 4))
        heads.bias.zero_()
        toward = torch.cat([books[1, 5], torch.zeros(4)])[None]
        logits = heads(10 * toward, 1, 1)[0, 0]
        distance = (books[1] @ books[1, 5]).argsort()
        assert torch.equal(logits.argsort(), distance), "what points the same way gains most"
        rows = embed.weight[16:32]
        near = torch.cdist(books[1], books[1]).fill_diagonal_(9).argmin(1)
        assert (rows - rows[near]).norm(dim=1).mean() < 0.8 * torch.cdist(rows, rows).sum() / (16 * 15)
    assert embed.weight[:32].detach().view(2, 16, 8).var((1, 2)).sum().sqrt() == pytest.approx(0.5, rel=0.1)
    torch.testing.assert_close(heads(torch.ones(3, 8))[1:], heads(torch.ones(3, 8), 1, 1))
