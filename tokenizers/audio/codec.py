"""What every audio tokenizer offers: waveform <-> codes, and the numbers that describe them.

A "book" is a codebook: `books` here is `num_codebooks` or `n_q` in the configurations of Hugging Face's codecs.
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.core.errors import UserError
from solfa.tokenizers.audio.resample import check_rate, resample, resampled_length

if TYPE_CHECKING:
    from solfa.tokenizers.audio.streaming import StreamDecoder, StreamEncoder

AudioLike: TypeAlias = Tensor | NDArray[np.floating] | Sequence[Any]
"""Float samples: a tensor, a numpy array, or a list of numbers, of lists or of arrays."""
CodesLike: TypeAlias = Tensor | NDArray[np.integer] | Sequence[Any]
"""Integer codes: a tensor, a numpy array, or nested lists."""


class Codec(nn.Module):
    """An audio tokenizer.  A subclass describes itself in the class's fields and implements `_encode` and `_decode`."""

    name: str = "untrained"
    fingerprint: str = ""
    """Equal where the same audio gives the same codes, at least in the books that language models write."""
    rows_apart: bool = False
    """Whether the rows of a padded batch are encoded one by one, because padding would change their codes."""

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Hz of the audio inside."""

    @property
    @abstractmethod
    def hop(self) -> int:
        """Samples per code frame."""

    @property
    @abstractmethod
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes in each book (codebook)."""

    @property
    def lm_books(self) -> int:
        """How many of the books language models write."""
        return self.books

    @abstractmethod
    def _encode(self, x: Tensor, books: int) -> Tensor:
        """float32 (B, frames * hop) at `sample_rate` -> int64 (B, books, frames)."""

    @abstractmethod
    def _decode(self, codes: Tensor) -> Tensor:
        """int64 (B, k, frames) of the first k books, all valid -> float32 (B, frames * hop)."""

    @property
    def reach(self) -> int | None:
        """Frames before a frame that decide its codes; None for a codec that cannot encode a long sound in parts."""
        return None

    @property
    def encoder_delay(self) -> int:
        """Samples past the end of a frame that its codes wait for."""
        raise NotImplementedError

    def encode_part(self, x: Tensor, books: int, start: int, ended: bool) -> Tensor:
        """A part of a longer sound, where `reach` is not None -> int64 (books, frames), those that are known.

        Args:
            x: (n,) at the codec's rate, from frame `start` on, a multiple of `reach`; the codes of the first `reach` frames
                are right only at the beginning of the sound.
            ended: whether the sound ends here.  Otherwise `encoder_delay` samples after a frame are needed.
        """
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter([*self.parameters(), *self.buffers()])).device

    @property
    def books(self) -> int:
        """Codebooks in all; num_codebooks or n_q elsewhere."""
        return len(self.codebook_sizes)

    @property
    def codebook_size(self) -> int:
        """Codes in the largest book."""
        return max(self.codebook_sizes)

    @property
    def frame_rate(self) -> float:
        """Code frames per second."""
        return self.sample_rate / self.hop

    def fingerprint_of(self, books: int) -> str:
        """The fingerprint of the first `books` books; compare by `checkpoints.same_codes`."""
        return self.fingerprint

    def bitrate(self, books: int | None = None) -> float:
        """Bits per second of the first `books` books (default all)."""
        return self.frame_rate * sum((size - 1).bit_length() for size in self.codebook_sizes[: books or self.books])

    @torch.inference_mode()
    def encode(
        self, wav: AudioLike, sample_rate: int, lengths: Tensor | None = None, books: int | None = None
    ) -> Tensor:
        """Waveform -> int64 codes (B, books, frames), frames = ceil(samples at the codec's rate / hop).

        Args:
            wav: float (samples,) or (B, samples), mono, about -1..1, at any rate; a tensor, a numpy array, or a list.
            sample_rate: of `wav`, in Hz.
            lengths: (B,) true samples per row of a padded batch; frames past a row's own end are to be ignored.
            books: how many codebooks to search (num_quantizers or n_q elsewhere), default all; the codes are the same as
                the first of all.

        Raises: UserError for empty, non-float or non-finite audio, and for impossible rates, lengths or books.
        """
        x, sample_rate, lengths = self.check_audio(wav, sample_rate, lengths)
        books = self.check_books(books)
        if lengths is not None and self.rows_apart:
            alone = [
                self.encode(row[:end], sample_rate, books=books)[0]
                for row, end in zip(x, lengths.tolist(), strict=True)
            ]
            frames = -(-resampled_length(x.shape[1], sample_rate, self.sample_rate) // self.hop)
            return torch.stack([F.pad(codes, (0, frames - codes.shape[1])) for codes in alone])
        if lengths is not None:
            x = silence_after(x, lengths)
        if sample_rate != self.sample_rate:
            ends = [x.shape[1]] * len(x) if lengths is None else lengths.tolist()
            rows = [
                resample(row[:end].cpu().numpy(), sample_rate, self.sample_rate)
                for row, end in zip(x, ends, strict=True)
            ]
            longest = resampled_length(x.shape[1], sample_rate, self.sample_rate)
            x = torch.stack([F.pad(torch.from_numpy(row), (0, longest - len(row))) for row in rows])
        with torch.autocast(self.device.type, enabled=False):  # codes do not depend on what the caller is in
            return self._encode(F.pad(x, (0, -x.shape[1] % self.hop)).to(self.device), books)

    @torch.inference_mode()
    def decode(self, codes: CodesLike) -> Tensor:
        """int64 codes (B, k, frames) of the first k books -> float32 (B, frames * hop) at `sample_rate`.

        Args:
            codes: a tensor, a numpy array, or nested lists.

        Raises: UserError for a wrong shape, too many books, or ids outside a book.
        """
        codes = self.check_codes(codes)
        if codes.numel() == 0:
            raise UserError(f"codes should be (batch, books, frames), not {tuple(codes.shape)}, which is none")
        with torch.autocast(self.device.type, enabled=False):
            return self._decode(codes)

    def stream_encoder(self, books: int | None = None, sample_rate: int | None = None) -> "StreamEncoder":
        """What `encode` does, for audio that comes piece by piece: an object with `push` and `finish`.

        Args:
            books: how many to search for; default all.
            sample_rate: of what is pushed, in Hz; default the codec's own.  Resampling takes 15 to 75 ms more.

        Raises: UserError for a codec that cannot, or impossible books or rate.
        """
        raise UserError(f"{self.name} cannot encode a stream")

    def stream_decoder(self) -> "StreamDecoder":
        """What `decode` does, for codes that come piece by piece: an object with `push` and `finish`.

        Raises: UserError for a codec that cannot.
        """
        raise UserError(f"{self.name} cannot decode a stream")

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the folder that `AudioTokenizer.from_pretrained` reads.  Raises: UserError for a codec that cannot."""
        raise UserError(f"{self.name} cannot be saved here: keep the folder that it was loaded from")

    def check_audio(
        self, wav: AudioLike, sample_rate: int, lengths: Tensor | None
    ) -> tuple[Tensor, int, Tensor | None]:
        """Arguments of `encode` -> float32 (B, samples), rate in Hz, int64 (B,) where there are lengths.  Raises: UserError as there."""
        wanted = "audio to encode should be a float tensor, array or list (samples,) or (batch, samples), about -1..1"
        x = audio_tensor(wav, wanted)
        if x.dim() not in (1, 2):
            raise UserError(f"{wanted}, not {tuple(x.shape)}")
        if x.numel() == 0:
            raise UserError("audio to encode is empty")
        sample_rate = check_rate(sample_rate)
        x = torch.atleast_2d(x).detach().float()
        if not torch.isfinite(torch.stack(x.aminmax())).all():
            raise UserError("audio to encode has NaN or infinite samples")
        if lengths is not None:
            most, given = x.shape[1], lengths
            try:
                lengths = torch.as_tensor(given, device=x.device)
            except (TypeError, ValueError, RuntimeError):
                raise UserError(f"lengths should be {len(x)} integers from 1 to {most}, not {given!r}") from None
            whole = not (lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool)
            if not whole or lengths.shape != (len(x),) or ((lengths < 1) | (lengths > most)).any():
                raise UserError(f"lengths should be {len(x)} integers from 1 to {most}, not {lengths.tolist()}")
        return x, sample_rate, lengths

    def check_books(self, books: int | None) -> int:
        """`books`, or all of them.  Raises: UserError for none or more than there are."""
        if books is not None and not (isinstance(books, (int, np.integer)) and 1 <= books <= self.books):
            raise UserError(f"{self.name} has {self.books} books, so asking for {books!r} makes no sense")
        return self.books if books is None else int(books)

    def check_codes(self, codes: CodesLike) -> Tensor:
        """(B, k, frames) as int64 on the codec's device.  Raises: UserError as `decode`, but for no frames."""
        codes = codes_tensor(codes)
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise UserError(f"codes should be integers, not {codes.dtype}")
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.books:
            raise UserError(f"codes should be (batch, 1..{self.books} books, frames), not {tuple(codes.shape)}")
        codes = codes.long().to(self.device)  # int16 does not index, uint8 would mask
        sizes = torch.tensor(self.codebook_sizes[: codes.shape[1]], device=codes.device)[:, None]
        if codes.numel() and (codes.min() < 0 or (codes >= sizes).any()):
            raise UserError(
                f"codes should lie in 0..{self.codebook_size - 1}; found {int(codes.min())}..{int(codes.max())}"
            )
        return codes


def silence_after(wav: Tensor, lengths: Tensor) -> Tensor:
    """(B, n) with zeros after each row's `lengths` samples."""
    return wav * (torch.arange(wav.shape[1], device=wav.device) < lengths[:, None])


def audio_tensor(samples: AudioLike, wanted: str) -> Tensor:
    """Samples in any of the forms of `AudioLike` as a float tensor of the same shape.

    Raises: UserError, beginning with `wanted`, for integers, whose scale is unknown, and for what makes no rectangle of numbers.
    """
    x = _tensor(samples)
    if x is None or not x.is_floating_point():
        raise UserError(f"{wanted}, not {type(samples).__name__ if x is None else f'{x.dtype} {tuple(x.shape)}'}")
    return x


def codes_tensor(codes: CodesLike) -> Tensor:
    """Codes in any of the forms of `CodesLike` as a tensor of the same shape.  Raises: UserError for what makes none."""
    x = _tensor(codes)
    if x is None:
        raise UserError(
            f"codes should be an integer tensor, array or nested list (batch, books, frames), not {type(codes).__name__}"
        )
    return x


def _tensor(values: Any) -> Tensor | None:
    """A tensor of what is an array of numbers in one of several forms, else None."""
    if isinstance(values, Tensor):
        return values
    if not isinstance(values, (list, tuple, np.ndarray)):
        return None
    try:
        if isinstance(values, (list, tuple)) and values and all(isinstance(v, Tensor) for v in values):
            return torch.stack(list(values))
        array = np.asarray(values)
        if array.dtype.kind == "f" and (array.dtype.itemsize > 8 or not isinstance(values, np.ndarray)):
            array = array.astype(np.float32)  # long doubles, which torch does not have, and Python's numbers
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError, RuntimeError):  # ragged, words, or types that torch does not have
        return None
