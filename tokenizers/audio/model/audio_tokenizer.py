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

import torch
from torch import Tensor
from torch.nn import functional as F

from solfa.core import checkpoints, hub
from solfa.tokenizers.audio.codec import Codec
from solfa.tokenizers.audio.layers import AttentionState, WindowedAttention
from solfa.tokenizers.audio.model.config import AudioTokenizerConfig
from solfa.tokenizers.audio.model.decoder import Decoder, Vocoder
from solfa.tokenizers.audio.model.encoder import Encoder
from solfa.tokenizers.audio.model.quantizer import ResidualQuantizer
from solfa.tokenizers.audio.model.waveform import WaveformBooks
from solfa.tokenizers.audio.stream_state import Past, Stream
from solfa.tokenizers.audio.streaming import StreamDecoder, StreamEncoder
from solfa.tokenizers.audio.third_party.transformers_codecs import load_third_party, model_type

KIND = "audio_tokenizer"
CARD = "README.md"
PRIOR = "prior.safetensors"  # a side file, see `container/prior.py`: it belongs to the codebooks


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
        """One window more than attention spans, for the convolutions and the features."""
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

        Files beside the weights that the codec was loaded from are written too where they still hold: the prior of `solfa
        compress` with the same codebooks, the model card with the same weights.  Raises: UserError when the folder cannot be
        written.
        """
        checkpoints.save(
            folder, KIND, dataclasses.asdict(self.config), self.state_dict(), side_files=self._side_files()
        )

    def _side_files(self) -> dict[str, bytes]:
        """Those of the folder that it was loaded from, by name."""
        source = self.folder
        if source is None or not source.is_dir() or self._fingerprints() != (self.fingerprint, self.wave_fingerprint):
            return {}
        names = [PRIOR]
        stored = checkpoints.read_tensors(source / checkpoints.WEIGHTS)
        if checkpoints.fingerprint(stored) == checkpoints.fingerprint(self.state_dict()):
            names.append(CARD)
        return {name: (source / name).read_bytes() for name in names if (source / name).is_file()}

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload with solfa",
    ) -> str:
        """Upload what `save_pretrained` writes to `owner/name` on the hub; -> the address of the commit.

        Where there is no model card, a short one is added; see `hub.push` for the arguments.

        Raises: UserError with the hub's reason.
        """
        return hub.push(self.save_pretrained, repo_id, private, token, commit_message)

    def _fingerprints(self) -> tuple[str, str]:
        """Of the books of the residual VQ, and of those for the waveform."""
        tensors = self.state_dict()
        return (
            checkpoints.fingerprint({k: v for k, v in tensors.items() if k.startswith(("encoder.", "quantizer."))}),
            checkpoints.fingerprint({k: v for k, v in tensors.items() if k in ("wave.prior", "wave.codebooks")}),
        )
