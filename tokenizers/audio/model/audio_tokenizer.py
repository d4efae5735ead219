"""The audio tokenizer: 24 kHz mono waveform <-> residual-VQ codes at 25 frames per second.

waveform -> acoustic features at 100 Hz (`features.py`) -> Encoder, 25 Hz latents -> residual VQ -> Decoder -> features
-> Vocoder: a harmonic-plus-noise source shaped in the STFT (`source.py`) -> waveform.

Every layer is causal, except that encoder and decoder each look one code frame ahead, the vocoder one feature frame, and what
their STFT windows reach: `encoder_delay` and `decoder_delay` in samples.  Sound may come in pieces (`streaming.py`).
The first `lm_books` books are what language models speak; all of them sound best.
"""

import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.core import checkpoints
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.layers import Chain, ConvBlock, Correction, Linear, TransformerBlock, WindowedAttention
from solfa.tokenizers.audio.model.features import (
    MEAN_F0,
    PITCH_SCALE,
    VOICING_SCALE,
    AcousticFeatures,
    from_loudness,
    loudness,
)
from solfa.tokenizers.audio.model.quantizer import ResidualQuantizer
from solfa.tokenizers.audio.model.source_filter import SourceFilterHead
from solfa.tokenizers.audio.model.waveform import WaveformBooks
from solfa.tokenizers.audio.streaming import WHOLE, Stream, StreamDecoder, StreamEncoder
from solfa.tokenizers.audio.third_party import transformers_codecs as foreign

KIND = "audio_tokenizer"


@dataclass(frozen=True)
class AudioTokenizerConfig:
    """The default is the bundled checkpoint `codec-24khz`."""

    sample_rate: int = 24_000
    feature_hop: int = 240  # samples per feature frame: 100 Hz
    stride: int = 4  # feature frames per code frame: 25 Hz
    books: int = 12  # of the residual VQ
    lm_books: int = 8  # 8 books x 10 bits x 25 Hz = 2 kbps
    codebook_size: int = 1024
    codebook_dim: int = 128
    beam: int = 3  # partial sums that the search for codes keeps
    dim: int = 256  # width at 100 Hz
    frame_dim: int = 384  # width at 25 Hz
    heads: int = 6
    window: int = 50  # frames: 2 s
    encoder_blocks: int = 3
    encoder_layers: int = 1
    decoder_layers: int = 2
    decoder_blocks: int = 4
    vocoder_blocks: int = 8
    mels: int = 100  # of the coarse spectrogram (1024-sample window)
    fine_mels: int = 60  # of the fine one (512-sample window, twice per feature frame)
    pitch_bins: int = 96
    bands: int = 80  # of the filters that shape pulses and noise
    subframes: int = 2  # filters per feature frame: 200 Hz
    head_n_fft: int = 512
    wave_books: int = 52  # beyond `books`, for the waveform itself: 13 kbps
    wave_values: int = 8  # coefficients that one of them codes
    wave_step: int = 320  # samples per step of their transform: 13 ms
    wave_refine: int = 24  # width of the network that refines what they say
    wave_past: int = 3  # steps before its own that it sees
    wave_from: int = 7  # fewer of them sound worse than none, and are passed over

    @property
    def hop(self) -> int:  # samples per code frame
        return self.feature_hop * self.stride

    @property
    def frame_rate(self) -> float:  # code frames per second
        return self.sample_rate / self.hop


class Features(NamedTuple):
    """What codes stand for, one row per feature frame (100 Hz)."""

    spectra: Tensor  # (B, T, mels) log-mel, see `features.py`
    log_f0: Tensor  # (B, T), relative to MEAN_F0; a guess where unvoiced
    voicing: Tensor  # (B, T), 0 to 1

    def stacked(self) -> Tensor:
        """(B, T, mels + 2), all in one tensor."""
        return torch.cat([self.spectra, self.log_f0[..., None], self.voicing[..., None]], dim=-1)

    def audible(self) -> Tensor:
        """(B, T, mels + 2), scaled so that equal errors are about equally audible."""
        return Features(loudness(self.spectra), PITCH_SCALE * self.log_f0, VOICING_SCALE * self.voicing).stacked()

    @classmethod
    def from_audible(cls, x: Tensor) -> "Features":
        return cls(from_loudness(x[..., :-2]), x[..., -2] / PITCH_SCALE, x[..., -1] / VOICING_SCALE)


def with_next(x: Tensor, stream: Stream, key: Hashable) -> Tensor:
    """Each frame beside the one after it, the only look-ahead there is: (B, T + 1, D) -> (B, T, 2 D).

    In a stream the last frame waits for the next piece.
    """
    x = stream.recall(key, x)
    stream.keep(key, x[:, -1:])
    return torch.cat([x[:, :-1], x[:, 1:]], dim=-1)


class Encoder(nn.Module):
    """Waveform -> latents: a linear transform of the features, and a network's correction to it.

    The transform starts as the features' principal components (`learning.fit_transforms`), so that the codec works before it
    has learned anything; the network learns what is better.
    """

    def __init__(self, c: AudioTokenizerConfig):
        super().__init__()
        self.hop, self.stride = c.hop, c.stride
        self.features = AcousticFeatures(c.sample_rate, c.feature_hop, c.mels, c.fine_mels, c.pitch_bins)
        self.delay = c.hop + self.features.delay  # samples past the end of a frame that its latent hears
        self.enter = Linear(self.features.mels + c.pitch_bins, c.dim)
        self.conv = Chain(*(ConvBlock(c.dim, 2**i) for i in range(c.encoder_blocks)))
        self.pitch = Linear(c.dim + c.pitch_bins, c.pitch_bins + 1)  # logits of F0, and of voicing
        self.down = Linear(2 * c.stride * c.dim, c.frame_dim)
        self.attention = Chain(*(TransformerBlock(c.frame_dim, c.heads, c.window) for _ in range(c.encoder_layers)))
        self.transform = Linear(c.stride * (self.features.mels + 2), c.codebook_dim)
        self.leave = Correction(c.frame_dim, c.codebook_dim)

    def forward(
        self, x: Tensor, known: tuple[Tensor, Tensor] | None = None, stream: Stream = WHOLE
    ) -> tuple[Tensor, Features, Tensor]:
        """x: (B, frames * hop) -> latents (B, frames, codebook_dim), features heard, logits of F0 and voicing.

        `known`: measured log F0 and voicing, (B, T) each, to use in place of the estimate.
        In a stream the first piece has `delay` samples more.
        """
        if stream.ended:
            x = F.pad(x, (0, self.hop))  # a frame of silence for the last one to look at
        spectra, correlation = self.features(x, stream)
        h = self.conv(self.enter(torch.cat([spectra, correlation], dim=-1)), stream)
        logits = self.pitch(torch.cat([h, correlation.to(h.dtype)], dim=-1)).float()
        estimate = self.features.pitch(logits[..., :-1]).detach(), logits[..., -1].sigmoid().detach()
        parts = [stream.hold((self, i), part, self.stride) for i, part in enumerate((spectra, *estimate, logits))]
        heard, logits = Features(*parts[:3]), parts[3]
        if known is not None:
            heard = Features(heard.spectra, *known)
        h = self.down(with_next(rearrange(h, "b (t s) d -> b t (s d)", s=self.stride), stream, self))
        with torch.autocast(x.device.type, enabled=False):
            z = self.transform(rearrange(heard.audible(), "b (t s) d -> b t (s d)", s=self.stride))
        return z + self.leave(self.attention(h, stream)).float(), heard, logits


class Decoder(nn.Module):
    """Latents -> features: the transform back, and a network's correction.  (B, frames, codebook_dim) -> Features."""

    def __init__(self, c: AudioTokenizerConfig):
        super().__init__()
        self.stride, size = c.stride, c.mels + 2 * c.fine_mels + 2
        self.transform = Linear(c.codebook_dim, c.stride * size)
        self.enter = Linear(2 * c.codebook_dim, c.frame_dim)
        self.attention = Chain(*(TransformerBlock(c.frame_dim, c.heads, c.window) for _ in range(c.decoder_layers)))
        self.up = Linear(c.frame_dim, c.stride * c.dim)
        self.conv = Chain(*(ConvBlock(c.dim, 2**i) for i in range(c.decoder_blocks)))
        self.leave = Correction(c.dim, size)

    def forward(self, z: Tensor, stream: Stream = WHOLE) -> Features:
        if stream.ended:
            z = F.pad(z, (0, 0, 0, 1))
        pairs = with_next(z, stream, self)
        h = self.up(self.attention(self.enter(pairs), stream))
        h = self.leave(self.conv(rearrange(h, "b t (s d) -> b (t s) d", s=self.stride), stream))
        with torch.autocast(z.device.type, enabled=False):
            now, _ = pairs.chunk(2, dim=-1)
            base = rearrange(self.transform(now), "b t (s d) -> b (t s) d", s=self.stride)
        return Features.from_audible(base + h.float())


class Vocoder(nn.Module):
    """Features -> waveform (B, T * feature_hop): gains of pulses and noise, linear in the features plus a network's correction."""

    def __init__(self, c: AudioTokenizerConfig):
        super().__init__()
        size = c.mels + 2 * c.fine_mels + 2
        self.head = SourceFilterHead(c.sample_rate, c.feature_hop, c.head_n_fft, c.bands, c.subframes)
        self.transform = Linear(size, self.head.gains)
        self.enter = Linear(2 * size, c.dim)
        self.conv = Chain(*(ConvBlock(c.dim, 2 ** (i % 3)) for i in range(c.vocoder_blocks)))
        self.leave = Correction(c.dim, self.head.gains)

    def forward(self, features: Features, stream: Stream = WHOLE) -> Tensor:
        x = features.stacked()
        if stream.ended:
            x = torch.cat([x, x[:, -1:]], dim=1)
        pairs = with_next(x, stream, self)
        h = self.leave(self.conv(self.enter(pairs), stream))
        with torch.autocast(x.device.type, enabled=False):
            now, _ = pairs.chunk(2, dim=-1)
            gains = self.transform(now) + h.float()
        return self.head(gains, MEAN_F0 * features.log_f0.clamp(-1.0, 1.4).exp(), stream)  # 50 to 570 Hz


class AudioTokenizer(Codec):
    """Waveform <-> codes.  `encode` and `decode` are the public pair; the parts serve training."""

    def __init__(self, config: AudioTokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = ResidualQuantizer(
            config.books, config.codebook_size, config.codebook_dim, config.beam, (config.lm_books,)
        )
        self.decoder = Decoder(config)
        self.vocoder = Vocoder(config)
        self.wave: WaveformBooks | None = None
        self.wave_fingerprint = ""
        if config.wave_books:
            size = config.codebook_size, config.wave_values
            self.wave = WaveformBooks(
                config.wave_books,
                *size,
                config.codebook_dim,
                config.hop,
                config.wave_step,
                config.wave_refine,
                config.wave_past,
            )

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def hop(self) -> int:
        return self.config.hop

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.config.codebook_size,) * (self.config.books + self.config.wave_books)

    @property
    def lm_books(self) -> int:
        return self.config.lm_books

    def fingerprint_of(self, books: int) -> str:
        return f"{self.fingerprint}+{self.wave_fingerprint}" if books > self.config.books else self.fingerprint

    @property
    def encoder_delay(self) -> int:
        """Samples past the end of a frame that its codes wait for."""
        return self.encoder.delay

    @property
    def decoder_delay(self) -> int:
        """Samples by which the sound of a stream stays behind the end of its last frame of codes."""
        return self.hop + self.config.feature_hop + self.vocoder.head.delay

    @property
    def wave_delay(self) -> int:
        """`decoder_delay` where books for the waveform are decoded: they take whole frames, and a step of their transform."""
        return -(-self.decoder_delay // self.hop) * self.hop + self.config.wave_step

    def stream_encoder(self, books: int | None = None, sample_rate: int | None = None) -> StreamEncoder:
        return StreamEncoder(self, self.check_books(books), self.sample_rate if sample_rate is None else sample_rate)

    def stream_decoder(self) -> StreamDecoder:
        return StreamDecoder(self)

    @property
    def reach(self) -> int:
        """One window more than attention sees, for the convolutions and the features."""
        return (self.config.encoder_layers + 1) * self.config.window

    @torch.inference_mode()
    def encode_part(self, x: Tensor, books: int, start: int, ended: bool) -> Tensor:
        encoder = StreamEncoder(self, self.check_books(books), self.sample_rate)
        times = {(layer, "time"): start for layer in self.encoder.modules() if isinstance(layer, WindowedAttention)}
        encoder.stream.update(times)
        return encoder.run(x[None], ended)[0]

    def encode_piece(self, x: Tensor, books: int, stream: Stream) -> Tensor:
        """(B, frames * hop), at the start of a stream `encoder_delay` more -> int64 (B, books, frames)."""
        latents, *_ = self.encoder(x, stream=stream)
        codes = self.quantizer.encode(latents, min(books, self.config.books))
        if books <= self.config.books or self.wave is None:
            return codes
        heard = stream.recall((self, "heard"), x)
        end = latents.shape[1] * self.hop
        stream.keep((self, "heard"), heard[:, end:])
        expected = self.wave.expect(self.quantizer.vectors(codes), stream)
        fine = self.wave.encode(self.wave.analyse(heard[:, :end], stream), expected, books - self.config.books)
        return torch.cat([codes, fine], dim=1)

    def decode_piece(self, codes: Tensor, stream: Stream) -> Tensor:
        """int64 (B, k, frames), at the start of a stream at least two -> the samples (B, n) that are known by then."""
        coarse, fine = codes[:, : self.config.books], codes[:, self.config.books :]
        sound = self.vocoder(self.decoder(self.quantizer.decode(coarse), stream), stream)
        if self.wave is None or fine.shape[1] < self.config.wave_from:
            return sound
        expected = self.wave.expect(self.quantizer.vectors(coarse), stream)
        return self._refine(sound, expected, fine.mT, stream)

    def _refine(self, sound: Tensor, expected: Tensor, fine: Tensor, stream: Stream) -> Tensor:
        """The coarse sound (B, n) with what the waveform's books say of it, (B, T, k): `wave.step` samples later."""
        assert self.wave is not None
        sound, expected, fine = (stream.recall((self, i), part) for i, part in enumerate((sound, expected, fine)))
        frames = sound.shape[1] // self.hop
        for i, (part, end) in enumerate(((sound, frames * self.hop), (expected, frames), (fine, frames))):
            stream.keep((self, i), part[:, end:])
        sound = F.pad(
            sound[:, : frames * self.hop], (0, self.hop if stream.ended else 0)
        )  # the last step overlaps with silence
        if not sound.shape[1]:
            return sound
        coarse = self.wave.analyse(sound, stream)
        made = self.wave.decode(fine[:, :frames].mT, expected[:, :frames], coarse[:, :frames], stream)
        late = self.wave.synthesise(torch.cat([made, coarse[:, frames:]], dim=1), stream)
        begin = 0 if (self, "begun") in stream else self.wave.step
        stream.keep((self, "begun"), True)
        return late[:, begin : late.shape[1] - (self.hop - self.wave.step if stream.ended else 0)]

    def _encode(self, x: Tensor, books: int) -> Tensor:
        return StreamEncoder(self, books, self.sample_rate).run(x, ended=True)

    def _decode(self, codes: Tensor) -> Tensor:
        return StreamDecoder(self).run(codes, ended=True)

    # ---- files ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None) -> Codec:
        """A bundled name, a folder or a hub id; None is the bundled default.  Returned in evaluation mode.

        Codecs of others come by their folders or hub ids too, such as `kyutai/mimi`: see `foreign.py`.
        Raises: UserError for a folder that holds no codec known here.
        """
        folder = checkpoints.resolve(name, KIND)
        kind = foreign.model_type(folder)
        codec = cls.own(folder) if kind is None else foreign.load(folder, kind)
        codec.name = Path(name or folder).name  # of a hub id, not of the revision in the cache
        return codec

    @classmethod
    def own(cls, name: str | Path | None = None) -> "AudioTokenizer":
        """As `from_pretrained`, for those who need the parts of this architecture.  Raises: UserError for any other codec."""
        model, folder = checkpoints.restore(cls, AudioTokenizerConfig, name, KIND)
        model.name = folder.name
        tensors = model.state_dict()
        # What decides codes; so a better decoder keeps the tokens that exist.
        model.fingerprint = checkpoints.fingerprint(
            {k: v for k, v in tensors.items() if k.startswith(("encoder.", "quantizer."))}
        )
        model.wave_fingerprint = checkpoints.fingerprint(
            {k: v for k, v in tensors.items() if k in ("wave.prior", "wave.codebooks")}
        )
        return model

    def save_pretrained(self, folder: Path) -> None:
        checkpoints.save(folder, KIND, dataclasses.asdict(self.config), self.state_dict())
