"""The audio tokenizer: 24 kHz mono waveform <-> residual-VQ codes at 25 frames per second.

log-mel front end -> convolutions at 100 Hz -> stride 4 -> windowed Transformer at 25 Hz -> residual VQ
-> windowed Transformer -> convolutions at 100 Hz -> harmonic-plus-noise source shaped in the STFT -> inverse STFT.

Every layer is causal, except that encoder and decoder each look one frame ahead, and what their STFT windows reach.  With the
default hops a code hears 1232 samples past the end of its frame, and changes no sample earlier than 1575 before its start.
The first `lm_books` books are what language models speak; all of them give the best reconstruction.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torchaudio.functional as AF
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from solfa import checkpoints, recipe
from solfa.errors import UserError
from solfa.tokenizers.audio.blocks import ConvBlock, TransformerBlock
from solfa.tokenizers.audio.quantizer import ResidualQuantizer
from solfa.tokenizers.audio.source import SourceFilterHead

KIND = "audio_tokenizer"
MEAN_F0 = 140.0  # Hz; the network predicts log F0 relative to it


@dataclass(frozen=True)
class AudioTokenizerConfig:
    """The default is the bundled checkpoint `codec-24khz`."""

    sample_rate: int = 24_000
    feature_hop: int = 240  # samples per feature frame: 100 Hz
    stride: int = 4  # feature frames per code frame: 25 Hz
    books: int = 16
    lm_books: int = 8  # 8 books x 10 bits x 25 Hz = 2 kbps
    codebook_size: int = 1024
    codebook_dim: int = 64
    dim: int = 256  # width at 100 Hz
    frame_dim: int = 384  # width at 25 Hz
    heads: int = 6
    window: int = 50  # frames: 2 s
    encoder_blocks: int = 3
    encoder_layers: int = 1
    decoder_layers: int = 2
    decoder_blocks: int = 5
    mels: int = 100  # of the coarse spectrogram (1024-sample window)
    fine_mels: int = 60  # of the fine one (512-sample window, twice per feature frame)
    bands: int = 80  # of the filters that shape pulses and noise
    subframes: int = 2  # filters per feature frame: 200 Hz
    head_n_fft: int = 512

    @property
    def hop(self) -> int:  # samples per code frame
        return self.feature_hop * self.stride

    @property
    def frame_rate(self) -> float:  # code frames per second
        return self.sample_rate / self.hop


class Decoded(NamedTuple):
    """What the decoder predicts before synthesis, one per feature frame (100 Hz)."""

    hidden: Tensor  # (B, T, dim)
    log_f0: Tensor  # (B, T), relative to MEAN_F0


class SpectralFrontEnd(nn.Module):
    """log-mel at two window lengths: long for harmonics, short for onsets.  (B, n) -> (B, n / hop, features)."""

    coarse_bank: Tensor
    coarse_window: Tensor
    fine_bank: Tensor
    fine_window: Tensor

    def __init__(self, config: AudioTokenizerConfig):
        super().__init__()
        self.hop = config.feature_hop
        self.features = config.mels + 2 * config.fine_mels
        for name, n_fft, mels in (("coarse", 1024, config.mels), ("fine", 512, config.fine_mels)):
            bank = AF.melscale_fbanks(n_fft // 2 + 1, 0.0, config.sample_rate / 2, mels, config.sample_rate)
            self.register_buffer(f"{name}_bank", bank, persistent=False)
            self.register_buffer(f"{name}_window", torch.hann_window(n_fft), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[1] // self.hop
        with torch.autocast(x.device.type, enabled=False):  # log magnitudes need more than 8 bits
            coarse = self._log_mel(x, self.hop, self.coarse_window, self.coarse_bank)[:, :frames]
            fine = self._log_mel(x, self.hop // 2, self.fine_window, self.fine_bank)[:, : 2 * frames]
        return torch.cat([coarse, rearrange(fine, "b (t two) m -> b t (two m)", two=2)], dim=-1)

    @staticmethod
    def _log_mel(x: Tensor, hop: int, window: Tensor, bank: Tensor) -> Tensor:
        spectrum = torch.stft(x, len(window), hop, window=window, return_complex=True, pad_mode="constant")
        # 0.25 brings typical log magnitudes of speech near unit scale.
        return (spectrum.abs().transpose(1, 2) @ bank).clamp_min(1e-5).log() * 0.25 + 1


def with_next(x: Tensor) -> Tensor:
    """Each frame beside the one after it, the only look-ahead there is: (B, T + 1, D) -> (B, T, 2 D)."""
    return torch.cat([x[:, :-1], x[:, 1:]], dim=-1)


class AudioTokenizer(nn.Module):
    """Waveform <-> codes.  `encode` and `decode` are the public pair; the rest serves training."""

    def __init__(self, config: AudioTokenizerConfig):
        super().__init__()
        self.config = config
        self.name, self.fingerprint = "untrained", ""
        c = config
        self.front_end = SpectralFrontEnd(c)
        self.encoder_in = nn.Linear(self.front_end.features, c.dim)
        self.encoder_conv = nn.Sequential(*(ConvBlock(c.dim, 2**i) for i in range(c.encoder_blocks)))
        self.down = nn.Linear(2 * c.stride * c.dim, c.frame_dim)
        self.encoder_attention = nn.Sequential(*(TransformerBlock(c.frame_dim, c.heads, c.window) for _ in range(c.encoder_layers)))
        self.encoder_out = nn.Sequential(nn.LayerNorm(c.frame_dim), nn.Linear(c.frame_dim, c.codebook_dim))

        self.quantizer = ResidualQuantizer(c.books, c.codebook_size, c.codebook_dim)

        self.decoder_in = nn.Linear(2 * c.codebook_dim, c.frame_dim)
        self.decoder_attention = nn.Sequential(*(TransformerBlock(c.frame_dim, c.heads, c.window) for _ in range(c.decoder_layers)))
        self.up = nn.Linear(c.frame_dim, c.stride * c.dim)
        self.decoder_conv = nn.Sequential(*(ConvBlock(c.dim, 2 ** (i % 3)) for i in range(c.decoder_blocks)))
        self.decoder_out = nn.LayerNorm(c.dim)
        self.pitch = nn.Linear(c.dim, 1)
        self.head = SourceFilterHead(c.dim, c.sample_rate, c.feature_hop, c.head_n_fft, c.bands, c.subframes)

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def hop(self) -> int:
        return self.config.hop

    @property
    def frame_rate(self) -> float:
        return self.config.frame_rate

    @property
    def books(self) -> int:
        return self.config.books

    @property
    def lm_books(self) -> int:
        return self.config.lm_books

    @property
    def codebook_size(self) -> int:
        return self.config.codebook_size

    def bitrate(self, books: int | None = None) -> float:
        """Bits per second of the first `books` books (default all)."""
        return self.frame_rate * (books or self.books) * (self.codebook_size - 1).bit_length()

    # ---- the parts, for training ------------------------------------------------------------------------------------

    def latents(self, x: Tensor) -> Tensor:
        """x: (B, frames * hop) -> (B, frames, codebook_dim), before quantization."""
        features = self.front_end(F.pad(x, (0, self.hop)))  # a frame of silence for the last one to look at
        h = self.encoder_conv(self.encoder_in(features))
        h = self.down(with_next(rearrange(h, "b (t s) d -> b t (s d)", s=self.config.stride)))
        return self.encoder_out(self.encoder_attention(h)).float()

    def decode_latents(self, z: Tensor) -> Decoded:
        """z: (B, frames, codebook_dim) -> predictions at 100 Hz, T = frames * stride."""
        h = self.decoder_in(with_next(F.pad(z, (0, 0, 0, 1))))
        h = self.up(self.decoder_attention(h))
        h = self.decoder_out(self.decoder_conv(rearrange(h, "b t (s d) -> b (t s) d", s=self.config.stride)))
        return Decoded(h, self.pitch(h)[..., 0].float())

    def synthesize(self, decoded: Decoded, f0: Tensor | None = None) -> Tensor:
        """-> (B, T * feature_hop) samples; `f0` (B, T) Hz overrides the predicted one (teacher forcing)."""
        if f0 is None:
            f0 = MEAN_F0 * decoded.log_f0.clamp(-1.4, 1.8).exp()  # 35 to 850 Hz
        return self.head(decoded.hidden, f0)

    # ---- the public pair --------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, wav: Tensor, sample_rate: int, lengths: Tensor | None = None) -> Tensor:
        """Waveform -> int64 codes (B, books, frames), frames = ceil(samples at 24 kHz / hop).

        Args:
            wav: float (samples,) or (B, samples), mono, about -1..1, at any rate.
            sample_rate: of `wav`, in Hz.
            lengths: (B,) true samples per row of a padded batch; frames past a row's own end are to be ignored.

        Raises: UserError for empty, non-float or non-finite audio.
        """
        if not isinstance(wav, Tensor) or not wav.is_floating_point() or wav.dim() not in (1, 2):
            raise UserError("audio to encode should be a float tensor (samples,) or (batch, samples)")
        if wav.numel() == 0:
            raise UserError("audio to encode is empty")
        if sample_rate <= 0:
            raise UserError(f"sample rate should be positive, not {sample_rate}")
        wav = torch.atleast_2d(wav).float()
        if not torch.isfinite(wav).all():
            raise UserError("audio to encode has NaN or infinite samples")
        if lengths is not None:
            wav = keep(wav, lengths)
        if sample_rate != self.sample_rate:
            wav = AF.resample(wav, sample_rate, self.sample_rate)
            if lengths is not None:  # the filter rings past a row's end, where the row alone would have been cut
                wav = keep(wav, -(-lengths * self.sample_rate // sample_rate))
        wav = F.pad(wav, (0, -wav.shape[1] % self.hop)).to(self.encoder_in.weight.device)
        return self.quantizer.encode(self.latents(wav))

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """int64 codes (B, k, frames) of the first k books -> float32 (B, frames * hop) at `sample_rate`.

        Raises: UserError for a wrong shape, too many books, or ids outside the codebook.
        """
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise UserError(f"codes should be integers, not {codes.dtype}")
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.books or codes.numel() == 0:
            raise UserError(f"codes should be (batch, 1..{self.books} books, frames), not {tuple(codes.shape)}")
        if codes.min() < 0 or codes.max() >= self.codebook_size:
            raise UserError(f"codes should lie in 0..{self.codebook_size - 1}; found {int(codes.min())}..{int(codes.max())}")
        z = self.quantizer.decode(codes.long().to(self.encoder_in.weight.device))  # int16 does not index, uint8 would mask
        return self.synthesize(self.decode_latents(z))

    # ---- files ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None) -> "AudioTokenizer":
        """A bundled name, a folder or a hub id; None is the bundled default.  Returned in evaluation mode."""
        folder = checkpoints.resolve(name, KIND)
        values, tensors = checkpoints.load(folder, KIND)
        model = cls(recipe.build(AudioTokenizerConfig, values, str(folder / "config.json")))
        checkpoints.load_into(model, tensors, folder)
        model.name, model.fingerprint = folder.name, checkpoints.fingerprint(folder)
        return model.eval()

    def save_pretrained(self, folder: Path) -> None:
        checkpoints.save(folder, KIND, dataclasses.asdict(self.config), self.state_dict())


def keep(wav: Tensor, lengths: Tensor) -> Tensor:
    """(B, n) with silence after each row's `lengths` samples."""
    return wav * (torch.arange(wav.shape[1], device=wav.device) < lengths[:, None])
