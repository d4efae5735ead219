"""`.sfa` files: the very codes back, refusals in one sentence, nothing believed unchecked, and a format that stays."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from solfa.core.errors import UserError
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.container import sfa as container
from solfa.tokenizers.audio.container.prior import LearnedPrior
from solfa.tokenizers.audio.container.sfa import FIELDS, Recording, pack, read_header, read_sfa, unpack, write_sfa
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer

# Files of version 1, as hex digits: those out there have to stay readable.
ADAPTIVE = "5346410103d2694a077371756172657303ac674216f3e15c0000000003401f0000b3040000001fa22a6eee496fc46faec37a"
LEARNED = "53464101b282804f077371756172657303ac674216f3e15c4a302afe03401f0000800c0000752b8c"
LIKELY = torch.tensor(
    [[int(code) for code in book] for book in ("00000000000000000000", "11000000000000111100", "00111111111111110011")]
)
"""What `learned` expects."""


class Squares(Codec):
    """A codec of three uneven books that says how loud each frame is, and no more."""

    name, fingerprint = "squares", "1234"
    sample_rate, hop, codebook_sizes = 8_000, 160, (300, 7, 2)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))

    def _encode(self, x: Tensor, books: int) -> Tensor:
        level = x.unflatten(1, (-1, self.hop)).abs().amax(-1)
        return torch.stack([(level * (size - 1)).long() for size in self.codebook_sizes[:books]], dim=1)

    def _decode(self, codes: Tensor) -> Tensor:
        return (codes[:, 0] / self.codebook_sizes[0]).repeat_interleave(self.hop, dim=1)


class Cubes(Squares):
    name, fingerprint = "cubes", "4321"


def recording(frames: int = 50, books: int = 3, sample_rate: int = 8_000) -> Recording:
    """The last frame is not full."""
    codes = np.arange(3 * frames).reshape(3, frames) ** 2 % np.array(Squares.codebook_sizes)[:, None]
    return Recording(torch.from_numpy(codes[:books]), frames * 160 * sample_rate // 8_000 - 77, sample_rate)


def learned(books: int = 3, size: int = 2, dim: int = 4, rank: int = 3) -> LearnedPrior:
    """Some prior over two codes in each book; its numbers follow from their places."""

    def numbers(*shape: int) -> np.ndarray:
        return (np.arange(np.prod(shape)) * 37 % 255 - 127).reshape(shape).astype(np.int8)

    tables = {
        "unit": np.array([8], np.int32), "project": numbers(books, dim, rank), "weight": numbers(books, rank, 2 * dim + 1),
        "bias": numbers(books, size).astype(np.int16), "logit_shift": np.full(books, 10, np.int32),
        "project_shift": np.full((books, rank), 9, np.int32), "weight_shift": np.full((books, rank), 7, np.int32),
    }  # fmt: skip
    return LearnedPrior((numbers(books, size, dim) / 16).astype(np.float32), (size,) * books, tables)


@pytest.mark.parametrize(("frames", "books", "sample_rate"), [(1, 1, 8_000), (50, 3, 44_100), (700, 2, 11_025)])
def test_what_was_written_is_read(frames: int, books: int, sample_rate: int, tmp_path: Path) -> None:
    given = recording(frames, books, sample_rate)
    size = write_sfa(tmp_path / "deep" / "a.sfa", Squares(), given)
    assert (tmp_path / "deep" / "a.sfa").stat().st_size == size
    codes, samples, rate = read_sfa(tmp_path / "deep" / "a.sfa", Squares())
    assert codes.dtype == torch.int64
    assert torch.equal(codes, given.codes)
    assert (samples, rate) == given[1:]


def test_a_real_codecs_codes_come_back(tiny_codec: AudioTokenizer) -> None:
    wav = torch.sin(torch.arange(30_000) / 20)
    codes = tiny_codec.encode(wav, 22_050)[0]
    assert torch.equal(unpack(pack(tiny_codec, Recording(codes, 30_000, 22_050)), tiny_codec).codes, codes)


def test_the_format_stays() -> None:
    assert pack(Squares(), recording(8)).hex() == ADAPTIVE
    codec = Squares()
    codec.codebook_sizes = (2, 2, 2)
    assert pack(codec, Recording(LIKELY, 3200, 8_000), learned()).hex() == LEARNED
    assert torch.equal(unpack(bytes.fromhex(LEARNED), codec, learned()).codes, LIKELY)


def test_damage_anywhere_is_noticed() -> None:
    data = pack(Squares(), recording(20))
    for end in range(len(data)):
        with pytest.raises(UserError, match=r"^a\.sfa (is not an|is damaged|has another)"):
            unpack(data[:end], Squares(), path="a.sfa")
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 0x10
        with pytest.raises(UserError, match=r"^a\.sfa (is not an|is damaged|has another)"):
            unpack(bytes(bad), Squares(), path="a.sfa")
    with pytest.raises(UserError, match="damaged"):
        unpack(data + b"\0", Squares())


def forged(data: bytes, **changes: int) -> bytes:
    """`data` with another header, and the checksum that belongs to it."""
    at = 9 + data[8]
    digest, prior, books, sample_rate, samples = FIELDS.unpack_from(data, at)
    fields = {"books": books, "sample_rate": sample_rate, "samples": samples} | changes
    body = data[8:at] + FIELDS.pack(digest, prior, *fields.values()) + data[at + FIELDS.size :]
    return data[:4] + zlib.crc32(body).to_bytes(4, "little") + body


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": 0},
        {"samples": (1 << 32) - 1},
        {"samples": 20 * 3600 * 8_000},
        {"sample_rate": 1},
        {"books": 0},
        {"books": 4},
    ],
)
def test_headers_are_not_believed(changes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    data = forged(pack(Squares(), recording()), **changes)
    monkeypatch.setattr(container, "RangeDecoder", None)  # nothing is to be decoded, or room made for it
    with pytest.raises(UserError):
        unpack(data, Squares())


def test_other_codecs_and_priors_are_refused() -> None:
    data = pack(Squares(), recording())
    with pytest.raises(UserError, match=r"^a\.sfa holds codes of codec 'squares', not 'cubes': .* --codec$"):
        unpack(data, Cubes(), path="a.sfa")
    retrained = Squares()
    retrained.fingerprint = "new"
    with pytest.raises(UserError, match="another codec 'squares'"):
        unpack(data, retrained)


def test_the_smaller_of_two_priors_is_taken() -> None:
    codec, prior = Squares(), learned()
    codec.codebook_sizes = (2, 2, 2)
    likely, unlikely = Recording(LIKELY, 3200, 8_000), Recording(1 - LIKELY, 3200, 8_000)
    data = pack(codec, likely, prior)
    assert len(data) < len(pack(codec, likely))
    assert torch.equal(unpack(data, codec, prior).codes, LIKELY)
    with pytest.raises(UserError, match=f"needs the learned prior {prior.digest.hex()}"):
        unpack(data, codec)
    assert pack(codec, unlikely, prior) == pack(codec, unlikely)


@pytest.mark.parametrize(
    ("codes", "samples", "told"),
    [
        (torch.zeros(3, 5, dtype=torch.int64), 961, "961 samples at 8000 Hz are 7 frames of codec squares, not 5"),
        (torch.full((3, 1), 7), 100, "codes should lie in"),
        (torch.zeros(4, 1, dtype=torch.int64), 100, "books"),
        (torch.zeros(3, 0, dtype=torch.int64), 0, "0 samples"),
        (torch.zeros(3, 1, dtype=torch.int64), 1 << 32, "up to a day"),
    ],
)
def test_impossible_recordings_are_refused(codes: Tensor, samples: int, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        write_sfa(tmp_path / "a.sfa", Squares(), Recording(codes, samples, 8_000))
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_read_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"b\.sfa cannot be read: no such file"):
        read_sfa(tmp_path / "b.sfa", Squares())
    with pytest.raises(UserError, match="cannot be read"):
        read_sfa(tmp_path, Squares())
    with pytest.raises(UserError, match="is a folder"):
        write_sfa(tmp_path, Squares(), recording())
    size = write_sfa(tmp_path / "a.sfa", Squares(), recording())
    monkeypatch.setattr(container, "MAX_BYTES", size - 1)
    with pytest.raises(UserError, match="too large"):
        read_sfa(tmp_path / "a.sfa", Squares())


def constant(seconds: int, books: int = 3) -> bytes:
    """What only silence makes: one code all through."""
    return pack(Squares(), Recording(torch.zeros(books, 50 * seconds, dtype=torch.int64), 8_000 * seconds, 8_000))


def test_a_length_that_only_silence_could_fill_is_not_believed_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = constant(600), constant(601)
    assert read_header(short, Squares()).seconds == 600
    with monkeypatch.context() as patch:
        patch.setattr(container, "RangeDecoder", None)  # nothing is decoded
        with pytest.raises(
            UserError, match=rf"^a\.sfa claims 10:01 of sound in {len(long)} bytes, .*silence.* --max-seconds 601 "
        ):
            read_header(long, Squares(), path="a.sfa")
        with pytest.raises(UserError, match="more than --max-seconds 60: give --max-seconds 600"):
            read_header(short, Squares(), max_seconds=60)
        assert read_header(long, Squares(), max_seconds=601).seconds == 601
    assert read_header(pack(Squares(), recording(50 * 700)), Squares()).seconds > 699  # which is no silence


def test_codes_are_unpacked_as_they_are_asked_for() -> None:
    given = recording(310)
    packed = read_header(pack(Squares(), given), Squares())
    calls = []
    blocks = packed.blocks([100, 100, 110], lambda: calls.append(1))
    assert torch.equal(next(blocks), given.codes[:, :100])
    assert len(calls) == 4
    assert torch.equal(torch.cat(list(blocks), dim=1), given.codes[:, 100:])
    assert torch.equal(next(packed._replace(take=2).blocks([310])), given.codes[:2])

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(packed.blocks([310], stop))
