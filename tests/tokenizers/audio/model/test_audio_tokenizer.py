"""The audio tokenizer's public pair: shapes, batches, look-ahead, errors, files."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from solfa.core import recipe
from solfa.core.errors import UserError
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.model.config import AudioTokenizerConfig

HOP = 960


@pytest.fixture
def codec(lively_codec: AudioTokenizer) -> AudioTokenizer:
    return lively_codec


def sound(samples: int, seed: int = 0) -> Tensor:
    """Noise that swells and fades, (samples,)."""
    x = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    return 0.1 * x * (1.2 + torch.sin(torch.arange(samples) / 1500))


@pytest.mark.parametrize("samples", [1, 239, 960, 961, 5000])
def test_frames_and_types(codec: AudioTokenizer, samples: int) -> None:
    frames = -(-samples // HOP)
    codes = codec.encode(sound(samples), 24_000)
    assert codes.shape == (1, codec.books, frames)
    assert codes.dtype == torch.int64
    assert codes.min() >= 0
    assert codes.max() < codec.codebook_size
    wav = codec.decode(codes)
    assert wav.shape == (1, frames * HOP)
    assert wav.dtype == torch.float32
    assert torch.isfinite(wav).all()


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_any_rate(codec: AudioTokenizer, rate: int) -> None:
    samples = rate // 3 + 7
    at_24k = -(-samples * 24_000 // rate)
    assert codec.encode(sound(samples), rate).shape[2] == -(-at_24k // HOP)


def test_every_number_of_books_decodes(codec: AudioTokenizer) -> None:
    codes = codec.encode(sound(4000), 24_000)
    made = [codec.decode(codes[:, :k]) for k in range(1, codec.books + 1)]
    assert all(m.shape == made[0].shape for m in made)
    assert not torch.equal(made[0], made[-1])


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.uint8])
def test_codes_of_any_integer_type(codec: AudioTokenizer, dtype: torch.dtype) -> None:
    codes = codec.encode(sound(3000), 24_000)
    assert torch.equal(codec.decode(codes.to(dtype)), codec.decode(codes))


@pytest.mark.parametrize("rate", [24_000, 16_000, 44_100])
def test_padded_batch_gives_each_clips_own_codes(codec: AudioTokenizer, rate: int) -> None:
    lengths = torch.tensor([rate // 2, rate // 5 + 11, 37])
    clips = [sound(int(n), seed) for seed, n in enumerate(lengths)]
    padded = torch.full((3, int(lengths.max())), 9.0)  # what lies past a row's end is nobody's business
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    together = codec.encode(padded, rate, lengths)
    for codes, clip in zip(together, clips, strict=True):
        alone = codec.encode(clip, rate)[0]
        assert torch.equal(codes[:, : alone.shape[1]], alone)


def test_batch_decodes_like_each_alone(codec: AudioTokenizer) -> None:
    codes = torch.randint(codec.codebook_size, (3, codec.books, 6), generator=torch.Generator().manual_seed(0))
    together = codec.decode(codes)
    for row, one in zip(together, codes, strict=True):
        torch.testing.assert_close(codec.decode(one[None])[0], row, rtol=1e-3, atol=1e-4)


def test_encoder_looks_ahead_by_its_bound_and_no_further(codec: AudioTokenizer) -> None:
    t, x = 5, sound(12 * HOP)[None]
    bound = (t + 1) * HOP + codec.encoder_delay
    beyond, within = x.clone(), x.clone()
    beyond[:, bound:] = sound(12 * HOP - bound, seed=1)
    within[:, bound - 64 :] = 2.0  # the window's last samples weigh next to nothing
    with torch.inference_mode():
        latents, unheard, heard = (codec.encoder(s)[0][0] for s in (x, beyond, within))
    assert torch.equal(codec.encode(x, 24_000)[..., : t + 1], codec.encode(beyond, 24_000)[..., : t + 1])
    torch.testing.assert_close(unheard[: t + 1], latents[: t + 1])
    assert (unheard[t + 1] - latents[t + 1]).abs().max() > 1e-3
    assert (heard[t] - latents[t]).abs().max() > 1e-3
    torch.testing.assert_close(heard[:t], latents[:t])


def test_decoder_looks_ahead_by_its_bound_and_no_further(codec: AudioTokenizer) -> None:
    u = 7
    codes = torch.randint(codec.codebook_size, (1, codec.books, 12), generator=torch.Generator().manual_seed(0))
    other = codes.clone()
    other[:, :, u:] = (other[:, :, u:] + 1) % codec.codebook_size
    change = (codec.decode(codes) - codec.decode(other))[0].abs()
    first = u * HOP - codec.decoder_delay
    assert change[:first].max() < 1e-6
    assert change[first : first + 240].max() > 1e-6


def test_start_of_a_clip_does_not_depend_on_its_length(codec: AudioTokenizer) -> None:
    x = sound(20 * HOP)
    long, short = codec.encode(x, 24_000), codec.encode(x[: 10 * HOP], 24_000)
    assert torch.equal(long[..., :8], short[..., :8])


@pytest.mark.parametrize(
    ("wav", "rate", "sentence"),
    [
        (torch.zeros(0), 24_000, "empty"),
        (torch.zeros(2, 0), 24_000, "empty"),
        (torch.zeros(100, dtype=torch.int16), 24_000, "float tensor"),
        (torch.zeros(1, 2, 100), 24_000, "float tensor"),
        (torch.full((100,), torch.nan), 24_000, "NaN or infinite"),
        (torch.full((100,), torch.inf), 24_000, "NaN or infinite"),
        (torch.zeros(100), 0, "1000 to 999999, not 0"),
        (torch.zeros(100), 1, "sample rate"),  # at which a minute of audio would be a month
        (torch.zeros(100), float("nan"), "sample rate"),
        (torch.zeros(100), "24000", "sample rate"),
    ],
)
def test_bad_audio(codec: AudioTokenizer, wav: Tensor, rate: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        codec.encode(wav, rate)


@pytest.mark.parametrize("lengths", [[5], [0, 100], [-1, 100], [1, 101], [1.0, 2.0], [[1], [2]], [True, True]])
def test_bad_lengths(codec: AudioTokenizer, lengths: list[Any]) -> None:
    with pytest.raises(UserError, match="lengths should be 2 integers from 1 to 100"):
        codec.encode(torch.zeros(2, 100), 24_000, lengths=torch.tensor(lengths))


def test_codes_and_sound_do_not_depend_on_the_callers_autocast_or_gradients(codec: AudioTokenizer) -> None:
    x = sound(4 * HOP)
    codes = codec.encode(x, 24_000)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.encode(x, 24_000), codes)
        wav = codec.decode(codes)
        encoder = codec.stream_encoder()
        pushed = torch.cat([encoder.push(x), encoder.finish()], dim=1)
    assert torch.equal(pushed, codes[0])
    assert torch.equal(wav, codec.decode(codes))
    assert torch.equal(codec.encode(x.double().requires_grad_(), 24_000.0), codes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("codes", "sentence"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), "should be .batch"),
        (torch.zeros(1, 5, 3, dtype=torch.int64), "1..4 books"),
        (torch.zeros(1, 0, 3, dtype=torch.int64), "1..4 books"),
        (torch.zeros(1, 4, 0, dtype=torch.int64), "should be .batch"),
        (torch.zeros(0, 4, 3, dtype=torch.int64), "should be .batch"),
        (torch.full((1, 4, 3), 32), "0..31; found 32..32"),
        (torch.full((1, 4, 3), -1), "0..31"),
        (torch.zeros(1, 4, 3), "integers"),
        (torch.zeros(1, 4, 3, dtype=torch.bool), "integers"),
    ],
)
def test_bad_codes(codec: AudioTokenizer, codes: Tensor, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        codec.decode(codes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_in_another_precision_are_refused(codec: AudioTokenizer, dtype: torch.dtype) -> None:
    other = copy.deepcopy(codec).to(dtype)
    with pytest.raises(UserError, match="call .float"):
        other.encode(torch.zeros(2400), 24_000)
    with pytest.raises(UserError, match="call .float"):
        other.decode(torch.zeros(1, 2, 3, dtype=torch.long))
    for stream in (other.stream_encoder, other.stream_decoder):
        with pytest.raises(UserError, match="call .float"):
            stream()


def test_files_give_the_same_codes(codec: AudioTokenizer, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path / "a")
    once = AudioTokenizer.own(tmp_path / "a")  # weights now rounded to bf16
    once.save_pretrained(tmp_path / "b")
    twice = AudioTokenizer.own(tmp_path / "b")
    x = sound(9000)
    assert torch.equal(once.encode(x, 24_000), twice.encode(x, 24_000))
    assert torch.equal(once.decode(once.encode(x, 24_000)), twice.decode(twice.encode(x, 24_000)))
    assert once.fingerprint == twice.fingerprint != ""
    assert (once.name, twice.name) == ("a", "b")
    assert not twice.training
    with torch.no_grad():
        twice.quantizer.codebooks[0, 0, 0] += 1
    twice.save_pretrained(tmp_path / "b")
    assert AudioTokenizer.from_pretrained(tmp_path / "b").fingerprint != once.fingerprint


def test_saved_by_a_plain_string_with_what_lies_beside_the_weights(tmp_path: Path) -> None:
    bundled = AudioTokenizer.own()
    bundled.save_pretrained(str(tmp_path / "copy"))
    again = AudioTokenizer.own(str(tmp_path / "copy"))
    assert (again.fingerprint, again.wave_fingerprint) == (bundled.fingerprint, bundled.wave_fingerprint)
    assert bundled.folder is not None
    for name in ("prior.safetensors", "README.md"):
        assert (tmp_path / "copy" / name).read_bytes() == (bundled.folder / name).read_bytes()
    with torch.no_grad():
        bundled.decoder.transform.bias.add_(1)  # which decides no code
        bundled.save_pretrained(tmp_path / "decoder")
        bundled.quantizer.codebooks[0, 0, 0] += 1
        bundled.save_pretrained(tmp_path / "codebooks")
    assert (tmp_path / "decoder" / "prior.safetensors").is_file()
    assert not (tmp_path / "decoder" / "README.md").exists(), "it describes other weights"
    assert not (tmp_path / "codebooks" / "prior.safetensors").exists(), "it was fitted to other codebooks"


def test_audio_and_codes_in_other_forms(codec: AudioTokenizer) -> None:
    x = sound(3000)
    codes = codec.encode(x, 24_000)
    array = x.numpy()
    frozen = array.copy()
    frozen.flags.writeable = False
    for same in (
        array,
        x.tolist(),
        array.astype(">f4"),
        array.astype(np.longdouble),
        frozen,
        array[None],
        [x],
        [array.tolist()],
        tuple(x.tolist()),
    ):
        assert torch.equal(codec.encode(same, 24_000), codes)
    two = codec.encode([x, x], 24_000)
    assert torch.equal(two, codes.repeat(2, 1, 1))
    backwards = np.ascontiguousarray(array[::-1])[::-1]  # negative strides
    assert torch.equal(codec.encode(backwards, 24_000), codes)
    wav = codec.decode(codes)
    for as_codes in (codes.numpy(), codes.numpy().astype(np.uint16), codes.numpy().astype(">i4"), codes.tolist()):
        assert torch.equal(codec.decode(as_codes), wav)
    encoder, decoder = codec.stream_encoder(), codec.stream_decoder()
    pushed = torch.cat([encoder.push(x[:1000].tolist()), encoder.push(array[1000:]), encoder.finish()], dim=1)
    assert torch.equal(pushed, codes[0])
    made = torch.cat([decoder.push(codes[0].tolist()), decoder.finish()])
    torch.testing.assert_close(made, wav[0], atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize(
    ("wav", "found"),
    [
        (np.zeros(5, np.int16), "torch.int16"),  # of which scale nothing is known
        ([0, 1, 2], "torch.int64"),
        ([[0.0], [0.0, 1.0]], "list"),
        (["a"], "list"),
        ("clip.wav", "str"),
        (None, "NoneType"),
        (np.array(["a"], object), "ndarray"),
        ([torch.zeros(2), torch.zeros(3)], "list"),
    ],
)
def test_what_is_no_audio(codec: AudioTokenizer, wav: Any, found: str) -> None:
    with pytest.raises(UserError, match=f"should be a float tensor, array or list .*, not {found}"):
        codec.encode(wav, 24_000)


@pytest.mark.parametrize("codes", [[[[0.5]]], [[[0], [0, 1]]], "codes", None, [["a"]]])
def test_what_is_no_codes(codec: AudioTokenizer, codes: Any) -> None:
    with pytest.raises(UserError, match="codes should be"):
        codec.decode(codes)


def test_a_better_decoder_keeps_the_fingerprint(codec: AudioTokenizer, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path / "a")
    better = AudioTokenizer.own(tmp_path / "a")
    before = better.fingerprint
    with torch.no_grad():
        better.vocoder.transform.bias.add_(1)
        better.decoder.transform.bias.add_(1)
    better.save_pretrained(tmp_path / "b")
    assert AudioTokenizer.from_pretrained(tmp_path / "b").fingerprint == before


def test_config_round_trip(codec: AudioTokenizer, tmp_path: Path) -> None:
    odd = dataclasses.replace(codec.config, stride=8, books=3, lm_books=1)
    assert recipe.build(AudioTokenizerConfig, json.loads(json.dumps(dataclasses.asdict(odd))), "here") == odd
    AudioTokenizer(odd).save_pretrained(tmp_path)
    read = AudioTokenizer.own(tmp_path)
    assert read.config == odd
    assert (read.frame_rate, read.hop, read.books, read.bitrate()) == (12.5, 1920, 3, 12.5 * 3 * 5)


def test_the_default_waits_less_than_a_tenth_of_a_second() -> None:
    codec = AudioTokenizer(AudioTokenizerConfig())
    assert (codec.encoder_delay, codec.decoder_delay) == (1232, 1576)
    assert codec.hop + codec.encoder_delay <= 2400
    assert max(codec.decoder_delay, codec.wave_delay) <= 2400


def test_default_is_two_kilobits_for_language_models() -> None:
    config = AudioTokenizerConfig()
    assert (config.sample_rate, config.frame_rate, config.hop, config.books, config.wave_books) == (
        24_000,
        25.0,
        960,
        12,
        52,
    )
    assert config.frame_rate * config.lm_books * (config.codebook_size - 1).bit_length() == 2000


def test_pitch_override_moves_the_voice(codec: AudioTokenizer) -> None:
    with torch.inference_mode():
        features = codec.decoder(torch.zeros(1, 10, codec.config.codebook_dim))
        low, high = (codec.vocoder(features._replace(log_f0=torch.full((1, 40), octaves))) for octaves in (-0.5, 0.5))
    assert low.shape == high.shape == (1, 10 * HOP)
    assert not torch.allclose(low, high, atol=1e-3)
