"""The same codes, and the same samples to 1e-4, however a sound comes: in pieces, in batches, padded, short or long."""

import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solfa.core.errors import UserError
from solfa.info import codec_lines
from solfa.tokenizers.audio import streaming
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.stream_state import Stream

HOP = 960
PIECES = st.lists(st.one_of(st.sampled_from([0, 1, HOP, 2192, 2193]), st.integers(0, 5000)), max_size=12)


def sound(samples: int, seed: int = 0) -> Tensor:
    """Noise that swells and fades, (samples,)."""
    x = torch.randn(samples, generator=torch.Generator().manual_seed(seed))
    return 0.1 * x * (1.2 + torch.sin(torch.arange(samples) / 1500))


def some_codes(codec: AudioTokenizer, frames: int) -> Tensor:
    """(books, frames)."""
    return torch.randint(codec.codebook_size, (codec.books, frames), generator=torch.Generator().manual_seed(frames))


def encoded(codec: AudioTokenizer, pieces: list[Tensor], sample_rate: int = 24_000) -> Tensor:
    encoder = codec.stream_encoder(sample_rate=sample_rate)
    return torch.cat([*(encoder.push(piece) for piece in pieces), encoder.finish()], dim=1)


def decoded(codec: AudioTokenizer, pieces: list[Tensor]) -> Tensor:
    decoder = codec.stream_decoder()
    return torch.cat([*(decoder.push(piece) for piece in pieces), decoder.finish()])


# ---- pieces -----------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(PIECES)
def test_codes_of_pieces_are_those_of_the_whole(lively_codec: AudioTokenizer, sizes: list[int]) -> None:
    x, encoder, codes, heard = sound(sum(sizes)), lively_codec.stream_encoder(), [], 0
    for piece in x.split(sizes):
        codes.append(encoder.push(piece))
        heard += len(piece)
        assert sum(c.shape[1] for c in codes) == max(0, heard - lively_codec.encoder_delay) // HOP, "as soon as known"
    codes.append(encoder.finish())
    whole = lively_codec.encode(x, 24_000)[0] if heard else torch.zeros(lively_codec.books, 0, dtype=torch.long)
    assert torch.equal(torch.cat(codes, dim=1), whole)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 5), max_size=12))
def test_samples_of_pieces_are_those_of_the_whole(lively_codec: AudioTokenizer, sizes: list[int]) -> None:
    codes, decoder, wav, read = some_codes(lively_codec, sum(sizes)), lively_codec.stream_decoder(), [], 0
    for piece in codes.split(sizes, dim=1):
        wav.append(decoder.push(piece))
        read += piece.shape[1]
        assert sum(len(w) for w in wav) == max(0, read * HOP - lively_codec.decoder_delay), "as soon as known"
    wav.append(decoder.finish())
    whole = lively_codec.decode(codes[None])[0] if read else torch.zeros(0)
    torch.testing.assert_close(torch.cat(wav), whole, atol=1e-4, rtol=1e-6)  # random weights are loud


def test_books_for_the_waveform_wait_a_little_longer(waving_codec: AudioTokenizer) -> None:
    codes, decoder, known = some_codes(waving_codec, 9), waving_codec.stream_decoder(), 0
    for read, piece in enumerate(codes.split(1, dim=1), 1):
        known += len(decoder.push(piece))
        assert known == max(0, read * HOP - waving_codec.wave_delay)


@pytest.mark.parametrize("books", [1, 3])
def test_a_stream_of_fewer_books(lively_codec: AudioTokenizer, books: int) -> None:
    x, encoder = sound(9000), lively_codec.stream_encoder(books)
    codes = torch.cat([encoder.push(x), encoder.finish()], dim=1)
    assert torch.equal(codes, lively_codec.encode(x, 24_000, books=books)[0])
    wav = decoded(lively_codec, list(codes.split(3, dim=1)))
    torch.testing.assert_close(wav, lively_codec.decode(codes[None])[0], atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("samples", [1, 3, 20_011])
def test_pieces_at_another_rate(lively_codec: AudioTokenizer, rate: int, samples: int) -> None:
    x = sound(samples)
    assert torch.equal(encoded(lively_codec, list(x.split(777)), rate), lively_codec.encode(x, rate)[0])


def test_numpy_and_other_floats_are_taken(lively_codec: AudioTokenizer) -> None:
    x = sound(5000)
    expected = lively_codec.encode(x, 24_000)[0]
    for samples in (x.numpy(), x.double(), x.double().numpy()):
        encoder = lively_codec.stream_encoder()
        assert torch.equal(torch.cat([encoder.push(samples), encoder.finish()], dim=1), expected)


def test_what_a_stream_remembers_does_not_grow(lively_codec: AudioTokenizer) -> None:
    def size(stream: Stream) -> int:
        return sum(tensor.numel() for tensor in stream.tensors())

    encoder, decoder, sizes = lively_codec.stream_encoder(), lively_codec.stream_decoder(), []
    piece = sound(lively_codec.config.window * HOP)  # attention remembers up to twice its window, as blocks fill
    for _ in range(6):
        decoder.push(encoder.push(piece))
        sizes.append(size(encoder.stream) + size(decoder.stream))
    assert sizes[2] == sizes[5]


def test_bundled_codec_streams_what_it_does_offline(speech_clip: Path) -> None:
    codec = AudioTokenizer.own()
    second, rate = sf.read(speech_clip, dtype="float32")
    x = torch.from_numpy(np.concatenate([second * gain for gain in np.linspace(0.2, 1.5, 4)]).astype(np.float32))
    codes = codec.encode(x, rate)
    for pieces in (x.split(1920), x.split(7001)):
        assert torch.equal(encoded(codec, list(pieces)), codes[0])
    wav = codec.decode(codes)[0]
    torch.testing.assert_close(decoded(codec, list(codes[0].split(2, dim=1))), wav, atol=1e-4, rtol=0)


def test_info_tells_the_latency() -> None:
    page = "\n".join(text for _, text in codec_lines())
    assert "encoder 91 ms (frame 40, look-ahead 51), decoder 66 ms" in page


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (torch.zeros(3, dtype=torch.int16), "float samples"),
        (torch.zeros(1, 3), "float samples"),
        (torch.tensor([0.0, torch.nan]), "finite"),
        (np.array([0.0, np.inf]), "finite"),
    ],
)
def test_bad_samples(lively_codec: AudioTokenizer, samples: Tensor, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        lively_codec.stream_encoder().push(samples)


def test_samples_of_any_float_kind(lively_codec: AudioTokenizer) -> None:
    x = np.linspace(-0.1, 0.1, 4000, dtype=np.float32)
    wanted = lively_codec.stream_encoder(sample_rate=16_000).push(x)
    for same in (x.astype(">f4"), x.astype(np.longdouble), torch.from_numpy(x).requires_grad_()):
        assert torch.equal(lively_codec.stream_encoder(sample_rate=16_000).push(same), wanted)


def test_bad_streams(lively_codec: AudioTokenizer) -> None:
    with pytest.raises(UserError, match="5 makes no sense"):
        lively_codec.stream_encoder(books=5)
    with pytest.raises(UserError, match="sample rate should be"):
        lively_codec.stream_encoder(sample_rate=0)
    decoder = lively_codec.stream_decoder()
    decoder.push(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(UserError, match="began with 2 books"):
        decoder.push(torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(UserError, match=r"0\.\.31"):
        decoder.push(torch.full((2, 1), 32))
    for ended in (decoder, lively_codec.stream_encoder(), lively_codec.stream_encoder(sample_rate=16_000)):
        ended.finish()
        with pytest.raises(UserError, match="has ended"):
            ended.finish()
        with pytest.raises(UserError, match="has ended"):
            ended.push(torch.zeros(2, 3, dtype=torch.int64) if ended is decoder else torch.zeros(2))


# ---- batches ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    st.lists(st.one_of(st.integers(1, 40), st.integers(1, 12_000)), min_size=1, max_size=6),
    st.integers(0, 3000),
    st.randoms(),
)
def test_codes_do_not_depend_on_batch_padding_or_order(
    lively_codec: AudioTokenizer, lengths: list[int], more: int, random: Random
) -> None:
    clips = [sound(length, seed) for seed, length in enumerate(lengths)]
    random.shuffle(clips)
    padded = torch.full((len(clips), max(lengths) + more), 9.0)  # what lies past a row's end is nobody's business
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    together = lively_codec.encode(padded, 24_000, torch.tensor([len(clip) for clip in clips]))
    for codes, clip in zip(together, clips, strict=True):
        alone = lively_codec.encode(clip, 24_000)[0]
        assert torch.equal(codes[:, : alone.shape[1]], alone)


@settings(max_examples=5)
@given(st.lists(st.integers(1, 60_000), min_size=2, max_size=4))
def test_bundled_codec_does_not_depend_on_the_batch(lengths: list[int]) -> None:
    codec = AudioTokenizer.own()
    padded = torch.stack([sound(max(lengths), seed) for seed in range(len(lengths))])
    together = codec.encode(padded, 24_000, torch.tensor(lengths))
    for codes, clip, length in zip(together, padded, lengths, strict=True):
        alone = codec.encode(clip[:length], 24_000)[0]
        assert torch.equal(codes[:, : alone.shape[1]], alone)


# ---- blocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [100, 3 * HOP, 5 * HOP + 1, 20 * HOP - 7])
def test_long_sounds_in_blocks_give_what_they_give_in_one_piece(
    lively_codec: AudioTokenizer, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.stack([sound(samples), sound(samples, 1)])
    codes = lively_codec.encode(x, 24_000)
    wav = lively_codec.decode(codes)
    monkeypatch.setattr(streaming, "BLOCK", 3)
    assert torch.equal(lively_codec.encode(x, 24_000), codes)
    torch.testing.assert_close(lively_codec.decode(codes), wav, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("books", [4, 8])
def test_parts_of_a_long_sound_have_the_codes_of_the_whole(waving_codec: AudioTokenizer, books: int) -> None:
    codec, frames = waving_codec, 5 * waving_codec.reach
    x = 0.1 * torch.randn(frames * codec.hop + 321, generator=torch.Generator().manual_seed(3))
    whole = codec.encode(x, 24_000, books=books)[0]
    for start in range(0, frames, codec.reach):
        ended = start + 3 * codec.reach >= frames
        end = len(x) if ended else (start + 3 * codec.reach) * codec.hop + codec.encoder_delay
        part = codec.encode_part(x[start * codec.hop : end], books, start, ended)
        skip = codec.reach if start else 0
        assert torch.equal(part[:, skip:], whole[:, start + skip : start + part.shape[1]])
        assert part.shape[1] == (whole.shape[1] - start if ended else 3 * codec.reach)


HOUR = """
import resource, torch
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
codec = AudioTokenizer.own()
second = torch.randn(24_000, generator=torch.Generator().manual_seed(0)) * torch.linspace(0, 0.2, 24_000)
def at(n):
    return second.roll(n * 331) * (n % 7 + 1) / 7
# What comes out, in pages that are taken now.
streamed, codes = torch.ones(3600 * 24_000), torch.ones(codec.books, 90_000, dtype=torch.int16)
encoder, decoder = codec.stream_encoder(), codec.stream_decoder()
frames, samples = 0, 0
def put(new_codes, last=False):
    global frames, samples
    codes[:, frames : frames + new_codes.shape[1]] = new_codes
    frames += new_codes.shape[1]
    for wav in ([decoder.push(new_codes), decoder.finish()] if last else [decoder.push(new_codes)]):
        streamed[samples : samples + len(wav)] = wav
        samples += len(wav)
for n in range(3600):
    put(encoder.push(at(n)))
    if n == 60:
        start = peak()
put(encoder.finish(), last=True)
print("streaming", peak() - start)
wav = torch.cat([at(n) for n in range(3600)])
codec.encode(wav[: 24_000 * 60], 24_000)
start = peak()
offline = codec.encode(wav, 24_000)
print("encoding", peak() - start)
print("differing", int((offline[0] != codes).sum()), frames)
made = codec.decode(offline)[0]
print("decoding", peak() - start)
print("apart", max((a - b).abs().max().item() for a, b in zip(made.split(24_000), streamed.split(24_000), strict=True)))
"""


@pytest.mark.slow
def test_an_hour_takes_no_more_memory_than_a_minute() -> None:
    done = subprocess.run([sys.executable, "-c", HOUR], capture_output=True, text=True, check=True)
    print(done.stdout)
    lines = {line.split()[0]: [float(word) for word in line.split()[1:]] for line in done.stdout.splitlines()}
    sound = 3600 * 24_000 * 4 / 2**20  # MiB
    assert lines["differing"] == [0, 90_000]
    assert lines["apart"][0] < 1e-4
    assert lines["streaming"][0] < 10
    assert lines["encoding"][0] < 200, "the codes themselves are 44, in blocks and joined"
    assert lines["decoding"][0] < 2 * sound + 200, "the sound, in blocks and joined"
