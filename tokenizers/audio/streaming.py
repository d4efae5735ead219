"""The public pair for sound in pieces: `StreamEncoder` and `StreamDecoder`, which are pushed piece by piece.

`encode` and `decode` run through the same two classes: a short sound is a stream of one piece, a long one comes in blocks, so
that memory does not grow with it.  What layers remember between pieces is in `stream_state.py`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from solfa.core.errors import UserError
from solfa.tokenizers.audio.codec import AudioLike, CodesLike, audio_tensor, codes_tensor
from solfa.tokenizers.audio.resample import StreamResampler, check_rate
from solfa.tokenizers.audio.stream_state import Stream

if TYPE_CHECKING:
    from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer

BLOCK = 750  # code frames in the longest piece, 30 s


class _Pieces:
    """Cuts what is pushed into pieces that the layers can take: whole frames, and at the start `ahead` more."""

    def __init__(self, codec: "AudioTokenizer", frame: int, ahead: int):
        """frame: samples (or codes) per frame.

        Raises: UserError for weights that were turned into halves or doubles: the same sound would get other codes.
        """
        if other := {p.dtype for p in codec.parameters()} - {torch.float32}:
            raise UserError(
                f"{codec.name} has weights in {other.pop()}, but its codes mean what they do in float32: call .float()"
            )
        self.codec, self.frame, self.ahead = codec, frame, ahead
        self.stream = Stream()
        self.waiting: Tensor | None = None

    def check_open(self) -> None:
        """Raises: UserError after `finish`."""
        if self.stream.ended:
            raise UserError("this stream has ended: a new sound needs a new stream")

    def pieces(self, x: Tensor, ended: bool) -> Iterator[Tensor]:
        """x: (B, ..., n) -> pieces of at most `BLOCK` frames, to be run before the next is asked for."""
        if self.waiting is not None:
            x = torch.cat([self.waiting, x], dim=-1)
        while (left := x.shape[-1] - self.ahead) > BLOCK * self.frame or (left >= self.frame and not ended):
            cut = self.ahead + min(BLOCK, left // self.frame) * self.frame
            self.ahead = 0
            yield x[..., :cut]
            x = x[..., cut:]
        self.stream.ended = ended
        if not ended:
            self.waiting = x.clone()
        elif x.shape[-1] or not self.ahead:  # part of the sound is still to come, if there was any
            yield x


class StreamEncoder(_Pieces):
    """Waveform -> codes, as soon as they are known.  All that is pushed gives the codes that `encode` gives for the whole."""

    def __init__(self, codec: "AudioTokenizer", books: int, sample_rate: int):
        super().__init__(codec, codec.hop, codec.encoder_delay)
        self.books, self.samples = books, 0
        sample_rate = check_rate(sample_rate)
        self.resampler = None if sample_rate == codec.sample_rate else StreamResampler(sample_rate, codec.sample_rate)

    def push(self, samples: AudioLike) -> Tensor:
        """The next samples, float (n,), mono, any number of them -> int64 (books, frames), perhaps no frames.

        Args:
            samples: a tensor, a numpy array, or a list of numbers.

        Raises: UserError for audio that is not float, flat and finite, and after `finish`.
        """
        self.check_open()
        wanted = "audio to push should be finite float samples (n,)"
        x = audio_tensor(samples, wanted).detach().float()
        if x.dim() != 1 or not torch.isfinite(x).all():
            raise UserError(wanted)
        if self.resampler:
            x = torch.from_numpy(self.resampler.push(x.cpu().numpy()))
        return self.run(x[None])[0]

    def finish(self) -> Tensor:
        """The sound ends -> int64 (books, frames), the codes that are left."""
        self.check_open()
        rest = torch.from_numpy(self.resampler.finish()) if self.resampler else torch.zeros(0)
        return self.run(rest[None], ended=True)[0]

    @torch.inference_mode()
    def run(self, x: Tensor, ended: bool = False) -> Tensor:
        """The next samples (B, n) of B sounds of equal length -> int64 (B, books, frames)."""
        self.samples += x.shape[1]
        x = x.to(self.codec.device)
        codes = [torch.zeros(len(x), self.books, 0, dtype=torch.long, device=x.device)]
        with torch.autocast(x.device.type, enabled=False):
            for piece in self.pieces(x, ended):
                if self.stream.ended:
                    piece = F.pad(piece, (0, -self.samples % self.codec.hop))
                codes.append(self.codec.encode_piece(piece, self.books, self.stream))
        return torch.cat(codes, dim=2)


class StreamDecoder(_Pieces):
    """Codes -> waveform, as soon as it is known.  All that is pushed gives the samples that `decode` gives for the whole."""

    def __init__(self, codec: "AudioTokenizer"):
        super().__init__(codec, 1, 1)

    def push(self, codes: CodesLike) -> Tensor:
        """The next codes, integer (k, frames) of the first k books, always the same k -> float32 (samples,), perhaps none.

        Args:
            codes: a tensor, a numpy array, or nested lists.

        Raises: UserError for a wrong shape, ids outside a book, and after `finish`.
        """
        self.check_open()
        codes = self.codec.check_codes(codes_tensor(codes)[None])
        if self.waiting is not None and self.waiting.shape[1] != codes.shape[1]:
            raise UserError(
                f"this stream began with {self.waiting.shape[1]} books and cannot go on with {codes.shape[1]}"
            )
        return self.run(codes)[0]

    def finish(self) -> Tensor:
        """The sound ends -> float32 (samples,), what is left of it."""
        self.check_open()
        books = 1 if self.waiting is None else self.waiting.shape[1]
        return self.run(torch.zeros(1, books, 0, dtype=torch.long, device=self.codec.device), ended=True)[0]

    @torch.inference_mode()
    def run(self, codes: Tensor, ended: bool = False) -> Tensor:
        """The next codes (B, k, frames), all valid, of B sounds of equal length -> float32 (B, samples)."""
        wav = [torch.zeros(len(codes), 0, device=codes.device)]
        with torch.autocast(codes.device.type, enabled=False):
            for piece in self.pieces(codes, ended):
                wav.append(self.codec.decode_piece(piece, self.stream))
        return torch.cat(wav, dim=1)
