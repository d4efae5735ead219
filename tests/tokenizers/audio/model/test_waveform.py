"""Books for the waveform: the transform, what is expected, and the greedy allocation."""

from pathlib import Path

import pytest
import torch

from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.model.waveform import UNIT, WaveformBooks
from solfa.tokenizers.audio.stream_state import Stream
from solfa.tokenizers.training.fitting import fit_waveform

HOP, STEP, DIM = 24, 8, 3


@pytest.fixture(scope="module")
def fitted() -> tuple[WaveformBooks, torch.Tensor, torch.Tensor]:
    """Books for coefficients whose size three latents tell, with such coefficients and latents."""
    torch.manual_seed(0)
    books = WaveformBooks(12, 64, 4, DIM, HOP, STEP)
    vectors = torch.randn(2, 8, 100, DIM) * 0.3
    shape = torch.rand(DIM, HOP)
    level = 1.0 + vectors.sum(0).clamp(-0.9, 3) @ shape * 0.5
    coefficients = torch.randn(8, 100, HOP) * level.clamp_min(0.05) ** 3
    fit_waveform(books, coefficients, vectors)
    return books, coefficients, vectors


def test_the_transform_gives_back_what_went_in():
    books = WaveformBooks(1, 4, 2, DIM, HOP, STEP)
    x = torch.randn(2, 5 * HOP)
    again = books.synthesise(books.analyse(torch.nn.functional.pad(x, (0, HOP))))
    torch.testing.assert_close(again[:, books.step : books.step + x.shape[1]], x, atol=1e-5, rtol=1e-5)
    assert float(books.analyse(x).square().sum()) == pytest.approx(float(x.square().sum()), rel=0.2), (
        "orthonormal but for the ends"
    )


def test_pieces_give_what_the_whole_gives(fitted):
    books, coefficients, vectors = fitted
    x = torch.randn(2, 6 * HOP)
    one, two = Stream(), Stream()
    pieces = [books.analyse(part, one) for part in x.split([HOP, 3 * HOP, 2 * HOP], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), books.analyse(x))
    sound = [books.synthesise(piece, two) for piece in pieces]
    torch.testing.assert_close(torch.cat(sound, 1), books.synthesise(books.analyse(x)))
    three = Stream()
    assert torch.equal(
        torch.cat([books.expect(part, three) for part in vectors.split([1, 40, 59], dim=2)], 1), books.expect(vectors)
    )


def test_what_is_expected_does_not_depend_on_the_company(fitted):
    books, _, vectors = fitted
    together = books.expect(vectors)
    assert together.dtype == torch.int64
    assert all(torch.equal(books.expect(vectors[:, i : i + 1])[0], together[i]) for i in range(8))


def test_the_prior_learns_what_latents_tell(fitted):
    books, coefficients, vectors = fitted
    expected = books.expect(vectors).float() / UNIT
    size = coefficients.abs().pow(1 / 3)
    assert (size - expected).var() < 0.8 * size.var()


def test_every_book_leaves_less(fitted):
    books, coefficients, vectors = fitted
    expected, nothing = books.expect(vectors), torch.zeros_like(coefficients)
    codes = books.encode(coefficients, expected, 12)
    assert codes.shape == (8, 12, 100) and codes.min() >= 0 and codes.max() < 64
    errors = [(coefficients - books.decode(codes[:, :k], expected, nothing)).square().sum() for k in range(1, 13)]
    assert all(b < a for a, b in zip(errors, errors[1:], strict=False))
    assert errors[-1] < 0.1 * coefficients.square().sum()
    assert torch.equal(books.encode(coefficients, expected, 5), codes[:, :5]), "fewer books are the first of all"


def test_codes_do_not_depend_on_the_company(fitted):
    books, coefficients, vectors = fitted
    together = books.encode(coefficients, books.expect(vectors), 12)
    alone = [books.encode(coefficients[i : i + 1], books.expect(vectors[:, i : i + 1]), 12)[0] for i in range(8)]
    assert torch.equal(torch.stack(alone), together)


def test_what_was_not_coded_is_filled_from_the_coarse_sound(fitted):
    books, coefficients, vectors = fitted
    expected = books.expect(vectors)
    codes = books.encode(coefficients, expected, 1)
    bare = books.decode(codes, expected, torch.zeros_like(coefficients))
    filled = books.decode(codes, expected, coefficients)
    coded = bare != 0
    assert coded.float().mean() == pytest.approx(4 / HOP, abs=0.01)
    torch.testing.assert_close(filled[coded], bare[coded])
    assert (filled[~coded].abs() <= 0.7 * coefficients[~coded].abs() + 1e-6).all() and filled[~coded].abs().sum() > 0


def test_an_untrained_refinement_changes_nothing(fitted):
    books, coefficients, vectors = fitted
    refined = WaveformBooks(12, 64, 4, DIM, HOP, STEP, refine=5)
    refined.load_state_dict(books.state_dict(), strict=False)
    expected = books.expect(vectors)
    codes = books.encode(coefficients, expected, 6)
    assert torch.equal(
        refined.decode(codes, expected, 0.5 * coefficients), books.decode(codes, expected, 0.5 * coefficients)
    )
    assert refined.refinement
    torch.nn.init.ones_(refined.refinement.leave.weight)
    torch.nn.init.ones_(refined.refinement.place)
    assert not torch.equal(
        refined.decode(codes, expected, 0.5 * coefficients), books.decode(codes, expected, 0.5 * coefficients)
    )


# ---- in the codec -----------------------------------------------------------------------------------------------------


def noise(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("cuts", [[1, 5000, 3333, 4000], [700] * 17 + [434], [12_334]])
def test_a_stream_gives_what_the_whole_gives(waving_codec: AudioTokenizer, cuts: list[int]) -> None:
    x = noise(12_334)
    encoder, decoder = waving_codec.stream_encoder(), waving_codec.stream_decoder()
    codes = torch.cat([*(encoder.push(piece) for piece in x.split(cuts)), encoder.finish()], dim=1)
    assert torch.equal(codes, waving_codec.encode(x, 24_000)[0]) and codes.shape == (8, 13)
    sound = torch.cat([*(decoder.push(piece) for piece in codes.split([2, 1, 0, 7, 3], dim=1)), decoder.finish()])
    torch.testing.assert_close(sound, waving_codec.decode(codes[None])[0], atol=1e-4, rtol=0)


def test_a_clip_does_not_depend_on_its_batch(waving_codec: AudioTokenizer) -> None:
    lengths = torch.tensor([1, 959, 4000, 7001])
    codes = waving_codec.encode(noise(4, 9000), 24_000, lengths=lengths)
    for row, length, several in zip(noise(4, 9000), lengths.tolist(), codes, strict=True):
        alone = waving_codec.encode(row[:length], 24_000)[0]
        assert torch.equal(several[:, : alone.shape[1]], alone)


def test_few_books_for_the_waveform_are_passed_over(waving_codec: AudioTokenizer) -> None:
    codes = waving_codec.encode(noise(9600), 24_000)
    speech = waving_codec.decode(codes[:, :4])
    assert torch.equal(waving_codec.decode(codes[:, :5]), speech)
    assert waving_codec.decode(codes[:, :6]).shape == speech.shape and not torch.equal(
        waving_codec.decode(codes[:, :6]), speech
    )


def test_the_waveforms_books_have_a_fingerprint_of_their_own(waving_codec: AudioTokenizer, tmp_path: Path) -> None:
    waving_codec.save_pretrained(tmp_path / "a")
    twin = AudioTokenizer.own(tmp_path / "a")
    assert twin.fingerprint_of(4) == twin.fingerprint == twin.fingerprint_of(8).partition("+")[0]
    assert twin.wave and twin.wave.refinement
    torch.nn.init.ones_(twin.wave.refinement.place)
    twin.save_pretrained(tmp_path / "refined")
    assert AudioTokenizer.own(tmp_path / "refined").fingerprint_of(8) == twin.fingerprint_of(8), (
        "which decides nothing about codes"
    )
    twin.wave.codebooks += 1
    twin.save_pretrained(tmp_path / "b")
    other = AudioTokenizer.own(tmp_path / "b")
    assert other.fingerprint_of(4) == twin.fingerprint_of(4) and other.fingerprint_of(5) != twin.fingerprint_of(5)
