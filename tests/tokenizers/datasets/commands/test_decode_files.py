"""Codes -> blocks of sound -> files: the same samples as in one go, the length of the source, whole files only."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import encode_audio
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.container.sfa import Recording, pack, read_header
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.resample import Samples, resample, resampled_length
from solfa.tokenizers.audio.streaming import BLOCK
from solfa.tokenizers.datasets.commands.decode_files import check_recording, decode_blocks, write_blocks

FRAMES = 2 * BLOCK + 60  # more than a minute


@pytest.fixture(scope="module")
def long_codes() -> torch.Tensor:
    return torch.randint(0, 32, (4, FRAMES), generator=torch.Generator().manual_seed(0))


def joined(codec: Codec, recording: Recording, sample_rate: int | None = None) -> Samples:
    return np.concatenate(list(decode_blocks(codec, recording, sample_rate)))


def test_blocks_joined_are_what_decode_gives(tiny_codec: AudioTokenizer, long_codes: torch.Tensor) -> None:
    samples = FRAMES * 960 - 123
    recording = Recording(long_codes, samples, 24_000)
    blocks = list(decode_blocks(tiny_codec, recording))
    assert max(map(len, blocks)) <= (BLOCK + 1) * 960
    assert np.array_equal(np.concatenate(blocks), tiny_codec.decode(long_codes[None])[0, :samples].numpy())


def test_a_codec_that_cannot_stream_decodes_wholes(
    tiny_codec: AudioTokenizer, long_codes: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = Recording(long_codes[:, : BLOCK + 9], (BLOCK + 9) * 960, 24_000)
    want = joined(tiny_codec, recording)
    monkeypatch.setattr(AudioTokenizer, "stream_decoder", Codec.stream_decoder)
    blocks = list(decode_blocks(tiny_codec, recording))
    assert len(blocks) == 1 and np.array_equal(blocks[0], want)


@pytest.mark.parametrize("frames", [1, 2, BLOCK, BLOCK + 1, BLOCK + 2, 2 * BLOCK + 1, 2 * BLOCK + 60])
def test_packed_codes_give_the_same_blocks(tiny_codec: AudioTokenizer, long_codes: torch.Tensor, frames: int) -> None:
    whole = Recording(long_codes[:, :frames], frames * 960 - 5, 24_000)
    packed = read_header(pack(tiny_codec, whole), tiny_codec)
    check_recording(tiny_codec, packed)
    for one, other in zip(decode_blocks(tiny_codec, packed), decode_blocks(tiny_codec, whole), strict=True):
        assert np.array_equal(one, other)


@given(samples=st.integers(1, 3000), rate=st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]))
def test_the_sources_rate_gives_the_sources_samples(tiny_codec: AudioTokenizer, samples: int, rate: int) -> None:
    frames = -(-resampled_length(samples, rate, 24_000) // 960)
    codes = torch.randint(0, 32, (4, frames), generator=torch.Generator().manual_seed(samples))
    recording = Recording(codes, samples, rate)
    check_recording(tiny_codec, recording)
    made = joined(tiny_codec, recording, rate)
    assert len(made) == samples
    want = resample(tiny_codec.decode(codes[None])[0].numpy(), 24_000, rate)[:samples]
    assert np.abs(made[: len(want)] - want).max() < 1e-5
    assert len(want) >= samples - 1


def test_codes_that_cannot_be_are_refused(tiny_codec: AudioTokenizer) -> None:
    codes = torch.zeros(4, 10, dtype=torch.long)
    check_recording(tiny_codec, Recording(codes, 9_600, 24_000))
    with pytest.raises(UserError, match="10 frames of codec tiny are too short for 9601 samples"):
        check_recording(tiny_codec, Recording(codes, 9_601, 24_000))
    codes[3, 9] = 32
    with pytest.raises(UserError, match="codes should lie in"):
        check_recording(tiny_codec, Recording(codes, 9_600, 24_000))


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_files_hold_what_encode_audio_gives(suffix: str, tmp_path: Path) -> None:
    sound = np.random.default_rng(0).normal(0, 0.5, 700_001).astype(np.float32)  # some of it clips
    path = tmp_path / "new" / f"a{suffix}"
    write_blocks(path, np.array_split(sound, 3), 24_000)
    whole = tmp_path / f"whole{suffix}"
    whole.write_bytes(encode_audio(sound, 24_000, suffix))
    assert np.array_equal(soundfile.read(path, dtype="int16")[0], soundfile.read(whole, dtype="int16")[0])


def test_half_a_file_is_never_seen(tmp_path: Path) -> None:
    def breaking() -> Iterator[Samples]:
        yield np.zeros(1000, np.float32)
        assert not (tmp_path / "a" / "b.wav").exists()
        raise UserError("the codes end here")

    with pytest.raises(UserError, match="end here"):
        write_blocks(tmp_path / "a" / "b.wav", breaking(), 24_000)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="should end in"):
        write_blocks(tmp_path / "a.mp3", [], 24_000)
