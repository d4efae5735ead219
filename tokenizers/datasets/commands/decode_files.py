"""Codes -> audio files that are as long as their source to the sample: decoded block by block, so that hours fit in little memory.

Which clips to decode is `reconstruct_plans.py`; several at once, `reconstruct.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

from solfa.core.atomic import replacing
from solfa.core.errors import UserError
from solfa.tokenizers.audio.audio_file import BLOCK, WRITABLE, check_writable
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.container.sfa import Packed, Recording
from solfa.tokenizers.audio.resample import Samples, StreamResampler, resampled_length
from solfa.tokenizers.audio.streaming import BLOCK as FRAMES
from solfa.tokenizers.audio.streaming import StreamDecoder


def nothing() -> None:
    """What is called now and then where nobody wants to end the work."""


def check_recording(codec: Codec, recording: Recording | Packed) -> None:
    """Raises: UserError for codes outside their books, and for fewer frames than the recording is long."""
    if isinstance(recording, Packed):
        return  # its codes cannot be other than its header tells
    codec.check_codes(recording.codes[None])
    frames = recording.codes.shape[1]
    if frames * codec.hop < resampled_length(recording.samples, recording.sample_rate, codec.sample_rate):
        source = f"{recording.samples} samples at {recording.sample_rate} Hz"
        raise UserError(f"{frames} frames of codec {codec.name} are too short for {source}")


def decode_blocks(
    codec: Codec, recording: Recording | Packed, sample_rate: int | None = None, pause: Callable[[], None] = nothing
) -> Iterator[Samples]:
    """The sound in blocks (n,) of up to half a minute: at the codec's rate exactly what `codec.decode` gives, cut to length.

    Joined they have `resampled_length(samples, its sample_rate, sample_rate)` samples, so the source's own number at its own rate.
    `sample_rate`: in Hz, None for the codec's.  `pause`: called before each block, and between the frames of a packed recording,
    whose codes are unpacked as they are needed; it may raise to end the work.  The recording has passed `check_recording`.
    """
    target = sample_rate or codec.sample_rate
    left = resampled_length(recording.samples, recording.sample_rate, target)
    resampler = StreamResampler(codec.sample_rate, target) if target != codec.sample_rate else None
    for block in _blocks(codec, recording, pause):
        block = block if resampler is None else resampler.push(block)
        yield block[:left]
        left -= len(block[:left])
    if resampler is not None:
        tail = resampler.finish()[:left]
        yield np.pad(tail, (0, left - len(tail)))  # rounding to the codec's rate and back may have lost a sample


def write_blocks(path: Path, blocks: Iterable[Samples], sample_rate: int, aside_in: Path | None = None) -> None:
    """What `write_wav` does, for sound that comes in blocks (n,); arguments as in `replacing`.

    Raises: UserError for an ending that is not written, and where the file cannot be.
    """
    kind, subtype = WRITABLE[check_writable(path).suffix.lower()]
    with replacing(path, aside_in) as aside:
        try:
            with soundfile.SoundFile(aside, "w", sample_rate, 1, format=kind, subtype=subtype) as file:
                for block in blocks:
                    if subtype == "PCM_16":  # as `encode_audio` scales
                        data = np.clip(np.round(block * 32768), -32768, 32767).astype(np.int16)
                    else:
                        data = np.clip(block, -1, 1)
                    for start in range(
                        0, len(data), BLOCK
                    ):  # libsndfile's Vorbis encoder overflows its stack on long writes
                        file.write(data[start : start + BLOCK])
        except soundfile.LibsndfileError as e:
            raise UserError(f"{path} cannot be written: {str(e).rstrip('.').lower()} (is the disk full?)") from None


def _blocks(codec: Codec, recording: Recording | Packed, pause: Callable[[], None]) -> Iterator[Samples]:
    try:
        decoder = codec.stream_decoder()
    except UserError:  # this codec decodes nothing but wholes
        if isinstance(recording, Packed):
            codes = next(recording.blocks([recording.frames], pause))
        else:
            codes = recording.codes
        yield codec.decode(codec.check_codes(codes[None]))[0].cpu().numpy()
        return
    for piece in _pieces(decoder, recording, pause):  # those of `decode`, for the very same samples
        pause()
        with torch.inference_mode():
            sound = decoder.codec.decode_piece(piece, decoder.stream)
        yield sound[0].cpu().numpy()


def _pieces(decoder: StreamDecoder, recording: Recording | Packed, pause: Callable[[], None]) -> Iterator[torch.Tensor]:
    """The codes in the pieces (1, books, frames) that the decoder takes."""
    if isinstance(recording, Recording):
        yield from decoder.pieces(decoder.codec.check_codes(recording.codes[None]), ended=True)
        return
    left = recording.frames
    first = min(left, decoder.ahead + FRAMES)  # as long as the first piece, so that all are those of the whole
    sizes = [first, *[FRAMES] * ((left - first) // FRAMES), *[(left - first) % FRAMES] * ((left - first) % FRAMES > 0)]
    for codes in recording.blocks(sizes, pause):
        left -= codes.shape[1]
        yield from decoder.pieces(decoder.codec.check_codes(codes[None]), ended=not left)
