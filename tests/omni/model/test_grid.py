import pytest
import torch

from solfa.omni.model.grid import IGNORE, TokenGrid, next_step

GRID = TokenGrid(text_size=20, books=(16, 16, 8), patch_size=4)


def codes(frames: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, size, (frames,), generator=g) for size in GRID.books])


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_fold_and_unfold_are_inverse(frames, patch_size):
    grid = TokenGrid(20, GRID.books, patch_size)
    folded = grid.fold(codes(frames))
    assert folded.shape == (-(-frames // patch_size), patch_size, 3)
    assert torch.equal(grid.unfold(folded), codes(frames))


def test_build_and_split_are_inverse():
    parts = [[GRID.id("<|bos|>"), 3, 5], codes(6), [GRID.id("<|sostm|>")], codes(9, 1), [GRID.id("<|eostm|>")]]
    grid = GRID.build(parts, loss_from=3)
    assert grid.text.shape == (3 + 2 + 1 + 3 + 1,) and grid.audio.shape == (10, 4, 3)
    assert grid.loss_mask.tolist() == [False] * 6 + [True] * 4
    back = GRID.split(grid)
    assert all(torch.equal(torch.as_tensor(a), b) for a, b in zip(parts, back, strict=True))
    # padding on either side changes nothing
    longer = GRID.build([[1] * 17])
    for left in (False, True):
        batch = GRID.collate([grid, longer], left=left)
        row = type(grid)(batch.text[0], batch.audio[0], batch.loss_mask[0])
        assert all(torch.equal(a, b) for a, b in zip(back, GRID.split(row), strict=True))


def test_text_steps_hold_empty_codes_and_audio_steps_empty_text():
    grid = GRID.build([[1, 2], codes(5)])
    assert torch.equal(grid.audio[:2], GRID.empty_ids().expand(2, 4, 3))
    assert grid.text.tolist() == [1, 2] + [GRID.id("<|empty|>")] * 2
    assert torch.equal(grid.audio[3, 1:], GRID.empty_ids().expand(3, 3))


def test_labels_are_the_next_step_once():
    ids = [GRID.id("<|sostm|>")]
    a, b = GRID.build([[1, 2], ids, codes(5), [GRID.id("<|eostm|>")]], loss_from=2), GRID.build([[1, 2, 3]])
    batch = GRID.collate([a, b])
    text, audio = GRID.labels(batch)
    empty, end = GRID.id("<|empty|>"), GRID.id("<|eostm|>")
    assert text[0].tolist() == [IGNORE, IGNORE, empty, empty, end, IGNORE]
    assert text[1].tolist() == [2, 3, IGNORE, IGNORE, IGNORE, IGNORE]
    assert torch.equal(audio[0, 2], codes(5).T[:4])
    assert torch.equal(audio[0, 3, 0], codes(5).T[4]) and (audio[0, 3, 1:] == IGNORE).all()
    assert (audio[1] == IGNORE).all() and (audio[0, [0, 1, 4, 5]] == IGNORE).all()


def test_next_step_fills_the_end():
    assert next_step(torch.arange(6).view(2, 3), -1).tolist() == [[1, 2, -1], [4, 5, -1]]


def test_frame_vectors_land_on_their_frames():
    grid = GRID.build([[1], codes(3), [2], codes(6), [3]])
    x = torch.randn(6, 5)
    placed = GRID.place_frames(grid, x)
    assert torch.equal(placed[3:5].flatten(0, 1)[:6], x) and placed.count_nonzero() == x.count_nonzero()
    with pytest.raises(ValueError, match="do not fit"):
        GRID.place_frames(grid, torch.randn(9, 5))


@pytest.mark.parametrize(
    "parts, words",
    [
        ([codes(3) + 16], "outside its book"),
        ([[99]], "outside its vocabulary"),
        ([codes(3)[:2]], "2 books"),
        ([codes(3), codes(3)], "text part between"),
        ([[]], "not empty"),
    ],
)
def test_wrong_parts_are_refused(parts, words):
    with pytest.raises(ValueError, match=words):
        GRID.build(parts)
