"""The audio tokenizer: 24 kHz mono waveform <-> residual-VQ codes at 25 frames per second.

waveform -> acoustic features at 100 Hz (`features.py`) -> Encoder, 25 Hz latents -> residual VQ -> Decoder -> features
-> Vocoder: a harmonic-plus-noise source shaped in the STFT (`source_filter.py`) -> waveform.

Every layer is causal, except that encoder and decoder each look one code frame ahead, the vocoder one feature frame, and what
their STFT windows reach: `encoder_delay` and `decoder_delay` in samples.  Sound may come in pieces (`streaming.py`).
The first `lm_books` books (codebooks) are what language models write; with all of them the sound is best.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.core import checkpoints, hub
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.layers import (
    AttentionState,
    Chain,
    ConvBlock,
    Correction,
    Linear,
    TransformerBlock,
    WindowedAttention,
)
from solfa.tokenizers.audio.model.config import AudioTokenizerConfig
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
from solfa.tokenizers.audio.stream_state import WHOLE, Past, Stream
from solfa.tokenizers.audio.streaming import StreamDecoder, StreamEncoder
from solfa.tokenizers.audio.third_party.transformers_codecs import load_third_party, model_type

KIND = "audio_tokenizer"
PRIOR = "prior.safetensors"  # a side file, see `container/prior.py`: it belongs to the codebooks


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
        """The inverse of `audible`."""
        return cls(from_loudness(x[..., :-2]), x[..., -2] / PITCH_SCALE, x[..., -1] / VOICING_SCALE)


def with_next(x: Tensor, stream: Stream, last: Past) -> Tensor:
    """Each frame beside the one after it, the only look-ahead there is: (B, T + 1, D) -> (B, T, 2 D).

    In a stream the last frame waits for the next piece.
    """
    x = stream.recall(last, x)
    stream.keep(last, x[:, -1:])
    return torch.cat([x[:, :-1], x[:, 1:]], dim=-1)


@dataclass
class EncoderState:
    """hidden: (B, 1, stride * dim), the last code frame; the others: (B, stride, ...), what it still lacks its latent for."""

    hidden: Past = field(default_factory=Past)
    spectra: Past = field(default_factory=Past)
    log_f0: Past = field(default_factory=Past)
    voicing: Past = field(default_factory=Past)
    logits: Past = field(default_factory=Past)


@dataclass
class LastFrame:
    """frame: (B, 1, D), which waits for the one after it."""

    frame: Past = field(default_factory=Past)


class Encoder(nn.Module):
    """Waveform -> latents: a linear transform of the features, and a network's correction to it.

    The transform starts as the features' principal components (`ema_codebooks.fit_transforms`), so that the codec works before
    any training; the network learns what is better.
    """

    def __init__(self, c: AudioTokenizerConfig):
        super().__init__()
        self.hop, self.stride = c.hop, c.stride
        self.features = AcousticFeatures(c.sample_rate, c.feature_hop, c.mels, c.fine_mels, c.pitch_bins)
        self.delay = c.hop + self.features.delay  # samples past the end of a frame that its latent depends on
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
        """x: (B, frames * hop) -> latents (B, frames, codebook_dim), the features, logits of F0 and voicing.

        Args:
            known: measured log F0 and voicing, (B, T) each, to use in place of the estimate.
            stream: in which the first piece has `delay` samples more.
        """
        if stream.ended:
            x = F.pad(x, (0, self.hop))  # the last frame looks ahead at silence
        spectra, correlation = self.features(x, stream)
        h = self.conv(self.enter(torch.cat([spectra, correlation], dim=-1)), stream)
        logits = self.pitch(torch.cat([h, correlation.to(h.dtype)], dim=-1)).float()
        estimate = self.features.pitch(logits[..., :-1]).detach(), logits[..., -1].sigmoid().detach()
        state = stream.state(self, EncoderState)
        features = Features(
            stream.hold(state.spectra, spectra, self.stride),
            stream.hold(state.log_f0, estimate[0], self.stride),
            stream.hold(state.voicing, estimate[1], self.stride),
        )
        logits = stream.hold(state.logits, logits, self.stride)
        if known is not None:
            features = Features(features.spectra, *known)
        h = self.down(with_next(rearrange(h, "b (t s) d -> b t (s d)", s=self.stride), stream, state.hidden))
        with torch.autocast(x.device.type, enabled=False):
            z = self.transform(rearrange(features.audible(), "b (t s) d -> b t (s d)", s=self.stride))
        return z + self.leave(self.attention(h, stream)).float(), features, logits


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
        pairs = with_next(z, stream, stream.state(self, LastFrame).frame)
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
        pairs = with_next(x, stream, stream.state(self, LastFrame).frame)
        h = self.leave(self.conv(self.enter(pairs), stream))
        with torch.autocast(x.device.type, enabled=False):
            now, _ = pairs.chunk(2, dim=-1)
            gains = self.transform(now) + h.float()
        return self.head(gains, MEAN_F0 * features.log_f0.clamp(-1.0, 1.4).exp(), stream)  # 50 to 570 Hz


@dataclass
class WaveformState:
    """What the books for the waveform wait for: the sound that was encoded (B, n); in decoding the coarse sound (B, n),
    `expected` (B, T, hop) and `fine` codes (B, T, k) of frames that are not complete; `begun`: whether any sound was given.
    """

    encoded: Past = field(default_factory=Past)
    coarse: Past = field(default_factory=Past)
    expected: Past = field(default_factory=Past)
    fine: Past = field(default_factory=Past)
    begun: bool = False


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
        self.folder: Path | None = None  # where it was loaded from
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
        for layer in self.encoder.modules():
            if isinstance(layer, WindowedAttention):
                encoder.stream.state(layer, AttentionState).time = start
        return encoder.run(x[None], ended)[0]

    def encode_piece(self, x: Tensor, books: int, stream: Stream) -> Tensor:
        """(B, frames * hop), at the start of a stream `encoder_delay` more -> int64 (B, books, frames)."""
        latents, *_ = self.encoder(x, stream=stream)
        codes = self.quantizer.encode(latents, min(books, self.config.books))
        if books <= self.config.books or self.wave is None:
            return codes
        state = stream.state(self, WaveformState)
        x = stream.recall(state.encoded, x)
        end = latents.shape[1] * self.hop
        stream.keep(state.encoded, x[:, end:])
        expected = self.wave.expect(self.quantizer.vectors(codes), stream)
        fine = self.wave.encode(self.wave.analyse(x[:, :end], stream), expected, books - self.config.books)
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
        """The coarse sound (B, n) with the codes (B, T, k) of the books for the waveform: `wave.step` samples later."""
        assert self.wave is not None
        state = stream.state(self, WaveformState)
        sound, expected, fine = (
            stream.recall(past, part)
            for past, part in ((state.coarse, sound), (state.expected, expected), (state.fine, fine))
        )
        frames = sound.shape[1] // self.hop
        stream.keep(state.coarse, sound[:, frames * self.hop :])
        stream.keep(state.expected, expected[:, frames:])
        stream.keep(state.fine, fine[:, frames:])
        # The last step overlaps with silence.
        sound = F.pad(sound[:, : frames * self.hop], (0, self.hop if stream.ended else 0))
        if not sound.shape[1]:
            return sound
        coarse = self.wave.analyse(sound, stream)
        made = self.wave.decode(fine[:, :frames].mT, expected[:, :frames], coarse[:, :frames], stream)
        late = self.wave.synthesise(torch.cat([made, coarse[:, frames:]], dim=1), stream)
        begin = 0 if state.begun else self.wave.step
        state.begun = True
        return late[:, begin : late.shape[1] - (self.hop - self.wave.step if stream.ended else 0)]

    def _encode(self, x: Tensor, books: int) -> Tensor:
        return StreamEncoder(self, books, self.sample_rate).run(x, ended=True)

    def _decode(self, codes: Tensor) -> Tensor:
        return StreamDecoder(self).run(codes, ended=True)

    # ---- files ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None) -> Codec:
        """A bundled name, a folder, or `hf:owner/name` of the hub; None is the bundled default.  In evaluation mode.

        Codecs of others come by their folders or names on the hub too, such as `hf:kyutai/mimi` (`third_party/transformers_codecs.py`).
        Raises: UserError for a folder that holds no codec known here, and for one that is damaged.
        """
        folder = checkpoints.resolve(name, KIND)
        kind = model_type(folder)
        codec = cls.own(folder) if kind is None else load_third_party(folder, kind)
        # Of a name on the hub, neither the owner nor the revision.
        codec.name = Path(str(name).partition("@")[0] if str(name).startswith(hub.PREFIX) else name or folder).name
        return codec

    @classmethod
    def own(cls, name: str | Path | None = None) -> "AudioTokenizer":
        """As `from_pretrained`, for those who need the parts of this architecture.  Raises: UserError for any other codec."""
        model, folder = checkpoints.restore(cls, AudioTokenizerConfig, name, KIND)
        model.name, model.folder = folder.name, folder
        # Of what decides codes; so a better decoder keeps the tokens that exist.
        model.fingerprint, model.wave_fingerprint = model._fingerprints()
        return model

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the folder that `from_pretrained` reads, weights in bfloat16; other files in it stay.

        The prior of `solfa compress` is written too, where the codec was loaded from a folder that has one and its codebooks
        are as they were.  Raises: UserError when the folder cannot be written.
        """
        side_files = {}
        if (
            self.folder
            and (self.folder / PRIOR).is_file()
            and self._fingerprints() == (self.fingerprint, self.wave_fingerprint)
        ):
            side_files[PRIOR] = (self.folder / PRIOR).read_bytes()
        checkpoints.save(folder, KIND, dataclasses.asdict(self.config), self.state_dict(), side_files=side_files)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload with solfa",
    ) -> str:
        """Upload what `save_pretrained` writes to `owner/name` on the hub; -> the address of the commit.

        A README.md without measurements is added; see `hub.push` for the arguments.  Raises: UserError with the hub's reason.
        """
        return hub.push(self.save_pretrained, repo_id, private, token, commit_message)

    def _fingerprints(self) -> tuple[str, str]:
        """Of the books of the residual VQ, and of those for the waveform."""
        tensors = self.state_dict()
        return (
            checkpoints.fingerprint({k: v for k, v in tensors.items() if k.startswith(("encoder.", "quantizer."))}),
            checkpoints.fingerprint({k: v for k, v in tensors.items() if k in ("wave.prior", "wave.codebooks")}),
        )
