"""MiMo-Audio-Tokenizer, 24 kHz mono <-> 25 frames of 20 codes per second (XiaomiMiMo/MiMo-Audio, technical report section 2.1).

waveform -> log-mel at 100 Hz -> Encoder: convolutions and a Transformer at 50 Hz, 25 Hz latents -> residual VQ -> Decoder: a
Transformer at 50 Hz, a coarse mel at 100 Hz -> Vocoder: a Transformer with a short window and an inverse STFT -> waveform.

Our own modules under the published names, so that the published state dict loads as it is; plain PyTorch attention.  As the
reference's program does, audio is encoded and decoded in segments of a minute, each on its own.  The encoder attends to the whole
segment, so codes depend on where audio begins and ends; a row of a padded batch is encoded up to its own end, as if it were alone.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.core import checkpoints
from solfa.core.guarded_build import limited_to
from solfa.core.torchaudio_functional import functional as AF
from solfa.tokenizers.audio.codec import AudioLike, Codec
from solfa.tokenizers.audio.resample import resample, resampled_length
from solfa.tokenizers.audio.third_party.mimo.config import NORMS, SEGMENT, MiMoAudioTokenizerConfig, read_config
from solfa.tokenizers.audio.third_party.mimo.quantizer import ResidualVectorQuantizer
from solfa.tokenizers.audio.third_party.mimo.transformer import TransformerLayer
from solfa.tokenizers.audio.third_party.mimo.weights import OPTIONAL, load_weights, read_headers

LM_BOOKS = 8  # that MiMo's language models write
LOUDEST = 1e2  # STFT magnitude that the vocoder may ask for


def log_mel(x: Tensor, c: MiMoAudioTokenizerConfig) -> Tensor:
    """(samples,) -> (n_mels, samples // hop_length + 1): natural log of mel magnitudes, centred frames, reflected ends."""
    x = F.pad(x, (0, max(0, c.nfft // 2 + 1 - len(x))))  # shorter than that cannot be reflected
    window = torch.hann_window(c.window_size, device=x.device)
    spectrum = torch.stft(x, c.nfft, c.hop_length, c.window_size, window, pad_mode="reflect", return_complex=True)
    fmax = c.sampling_rate // 2 if c.fmax is None else c.fmax
    bank = AF.melscale_fbanks(c.nfft // 2 + 1, c.fmin, fmax, c.n_mels, c.sampling_rate)
    return (spectrum.abs().T @ bank.to(x.device)).T.clamp_min(1e-7).log()


class Encoder(nn.Module):
    """Log-mel -> latents; holds the quantizer, as the published names do."""

    def __init__(self, c: MiMoAudioTokenizerConfig):
        super().__init__()
        self.stride, self.pool, self.skip = c.stride_size, c.avg_pooler, c.encoder_skip_layer_id
        self.conv1 = nn.Conv1d(c.n_mels, c.d_model, c.kernel_size, padding=1)
        self.conv2 = nn.Conv1d(c.d_model, c.d_model, c.kernel_size, stride=c.stride_size, padding=1)
        shape = (c.d_model, c.encoder_attention_heads, c.encoder_ffn_dim, c.encoder_window)
        self.layers = nn.ModuleList(TransformerLayer(c, *shape) for _ in range(c.encoder_layers))
        self.layer_norm = NORMS[c.ln_type](c.d_model)
        if self.pool > 1:
            pool = nn.Conv1d(c.d_model, c.d_model, self.pool, stride=self.pool, bias=False)
            self.down_sample_layer = nn.Sequential(pool, nn.GELU())
            self.down_sample_norm = NORMS[c.ln_type](c.d_model)
        self.quantizer = ResidualVectorQuantizer(c.codebook_sizes, c.d_model)

    def forward(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """mel: (B, n_mels, T), zeros past each row's `lengths` (B,) -> (B, code frames, d_model)."""
        # Zeros past a row's own end at each step: what the convolutions pad with when it is alone.
        x = F.gelu(self.conv1(mel.to(self.conv1.weight.dtype)))
        x = F.gelu(self.conv2(x * _frames(x.shape[2], lengths)[:, None])).mT
        lengths = -(-lengths // self.stride)
        valid = _frames(x.shape[1], lengths)
        padded = None if valid.all() else valid
        skipped: Tensor | float = 0.0
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, padded)
            if number == self.skip:
                skipped = x
        x = self.layer_norm(x + skipped)
        if self.pool > 1:
            x = F.pad(x * valid[..., None], (0, 0, 0, -x.shape[1] % self.pool))
            x = self.down_sample_norm(self.down_sample_layer(x.mT).mT)
        return x


def _frames(steps: int, lengths: Tensor) -> Tensor:
    """(B, steps), true where a row has not ended."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]


class CausalUpsample(nn.Module):
    """Transposed convolution and a norm over the whole clip: (B, T, dim) -> (B, T * stride, out)."""

    def __init__(self, dim: int, out: int, kernel: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv, self.norm = nn.ConvTranspose1d(dim, out, kernel, stride), nn.GroupNorm(1, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.mT))[..., : x.shape[1] * self.stride].mT  # cut what is ahead of the last frame


class InverseSTFT(nn.Module):
    """Complex (B, bins, T) -> (B, T * hop), windows overlapped and added, `same` padding (Vocos, arXiv 2306.00814)."""

    window: Tensor

    def __init__(self, n_fft: int, hop: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft))

    def forward(self, spectrum: Tensor) -> Tensor:
        window = self.window.float()[:, None]
        frames = torch.fft.irfft(spectrum, self.n_fft, dim=1) * window
        envelope = window.square().expand(1, -1, frames.shape[2])
        return (self._overlap_add(frames) / self._overlap_add(envelope))[:, 0, 0]

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """(B, n_fft, T) -> (B, 1, 1, T * hop), less half an overlap at either end."""
        size, cut = (frames.shape[2] - 1) * self.hop + self.n_fft, (self.n_fft - self.hop) // 2
        return F.fold(frames, (1, size), (1, self.n_fft), stride=(1, self.hop))[..., cut : size - cut]


class STFTHead(nn.Module):
    """(B, T, dim) -> (B, T * hop): log magnitude and phase of each bin, then the inverse STFT."""

    def __init__(self, dim: int, n_fft: int, hop: int):
        super().__init__()
        self.out, self.istft = nn.Linear(dim, n_fft + 2), InverseSTFT(n_fft, hop)

    def forward(self, x: Tensor) -> Tensor:
        magnitude, phase = self.out(x).mT.float().chunk(2, dim=1)
        return self.istft(torch.polar(magnitude.exp().clamp_max(LOUDEST), phase))


class Vocoder(nn.Module):
    """Coarse mel (B, T, n_mels) -> waveform (B, T * hop_length): Vocos with a Transformer for its ConvNeXt."""

    def __init__(self, c: MiMoAudioTokenizerConfig):
        super().__init__()
        self.embeddings = nn.Linear(c.n_mels, c.vocoder_dim, bias=False)
        shape = (c.vocoder_dim, c.vocoder_attention_heads, c.vocoder_intermediate_dim, c.vocoder_attn_window_size)
        self.layers = nn.Sequential(*(TransformerLayer(c, *shape) for _ in range(c.vocoder_num_layers)))
        self.layer_norm = NORMS[c.ln_type](c.vocoder_dim)
        self.head = STFTHead(c.vocoder_dim, c.nfft, c.hop_length)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer_norm(self.layers(self.embeddings(x))))


class Decoder(nn.Module):
    """Latents (B, T, d_model) -> waveform (B, T * hop)."""

    def __init__(self, c: MiMoAudioTokenizerConfig):
        super().__init__()
        if c.avg_pooler > 1:
            self.dconv1: nn.Module = CausalUpsample(c.d_model, c.d_model, c.avg_pooler, c.avg_pooler)
        else:
            self.dconv1 = nn.Identity()
        shape = (c.d_model, c.decoder_attention_heads, c.decoder_ffn_dim, c.decoder_window)
        self.layers = nn.Sequential(*(TransformerLayer(c, *shape) for _ in range(c.decoder_layers)))
        self.layer_norm = NORMS[c.ln_type](c.d_model)
        self.dconv2 = CausalUpsample(c.d_model, c.n_mels, c.decoder_kernel_size, c.decoder_stride_size)
        self.vocoder = Vocoder(c)

    def forward(self, z: Tensor) -> Tensor:
        x = self.dconv1(z.to(self.dconv2.conv.weight.dtype))
        return self.vocoder(self.dconv2(self.layer_norm(self.layers(x))))


class MiMoAudioTokenizer(Codec):
    """Waveform <-> codes, by the published weights."""

    def __init__(self, config: MiMoAudioTokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    @classmethod
    def from_folder(cls, folder: Path) -> "MiMoAudioTokenizer":
        """A folder as published: `config.json` and `model.safetensors`, or shards with their index.  In evaluation mode.

        Raises: UserError for files that are missing, unreadable or another model's, or a setting that is not supported.
        """
        config, header = read_config(folder / "config.json"), read_headers(folder)
        path = folder / checkpoints.WEIGHTS
        # Without memory or time for first values, which the file replaces.  Some of its tensors may be left out (OPTIONAL).
        with limited_to(header, lambda reason: checkpoints.misfit(path, reason), exact=False), torch.device("meta"):
            model = cls(config)
        model.to_empty(device="cpu")
        load_weights(model, folder)
        model.name = folder.name
        deciding = (k for k in model.state_dict() if k.startswith("encoder.") and not k.endswith(OPTIONAL))
        model.fingerprint = checkpoints.fingerprint({k: model.state_dict()[k] for k in deciding})
        return model.eval()

    @property
    def sample_rate(self) -> int:
        return self.config.sampling_rate

    @property
    def hop(self) -> int:
        return self.config.hop_length * self.config.stride

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return self.config.codebook_sizes

    @property
    def lm_books(self) -> int:
        return min(LM_BOOKS, self.books)

    @torch.inference_mode()
    def encode(
        self, wav: AudioLike, sample_rate: int, lengths: Tensor | None = None, books: int | None = None
    ) -> Tensor:
        """As `Codec.encode`, each row up to its own last sample: silence after it would change the codes."""
        samples, sample_rate, lengths = self.check_audio(wav, sample_rate, lengths)
        books = self.check_books(books)
        ends = [samples.shape[1]] * len(samples) if lengths is None else lengths.tolist()
        rows = [row[:end] for row, end in zip(samples, ends, strict=True)]
        if sample_rate != self.sample_rate:
            rows = [torch.from_numpy(resample(row.cpu().numpy(), sample_rate, self.sample_rate)) for row in rows]
        longest = resampled_length(samples.shape[1], sample_rate, self.sample_rate)
        x = torch.stack([F.pad(row, (0, longest + -longest % self.hop - len(row))) for row in rows])
        with torch.autocast(self.device.type, enabled=False):
            return self._encode(x.to(self.device), books, [len(row) for row in rows])

    def _encode(self, x: Tensor, books: int, ends: Sequence[int] | None = None) -> Tensor:
        """`ends`: samples that each row has; all of them by default.

        The reference gives a clip of exactly n code frames one frame more, which codes nothing but the edge; it is left out.
        """
        c, hop = self.config, self.hop
        ends = [x.shape[1]] * len(x) if ends is None else ends
        mels = [log_mel(row[:end].float(), c).T for row, end in zip(x, ends, strict=True)]
        lengths = torch.tensor([len(mel) for mel in mels], device=x.device)
        mel = nn.utils.rnn.pad_sequence(mels, batch_first=True).mT
        frames = torch.tensor([-(-end // hop) for end in ends], device=x.device)
        codes = torch.zeros(len(x), books, x.shape[1] // hop, dtype=torch.long, device=x.device)
        for start in range(0, codes.shape[2], SEGMENT // c.stride):
            rows = (frames > start).nonzero()[:, 0]
            first = start * c.stride
            segment = (lengths[rows] - first).clamp_max(SEGMENT)
            z = self.encoder(mel[rows, :, first : first + int(segment.max())], segment)
            found = self.encoder.quantizer.encode(z, books)[..., : codes.shape[2] - start]
            codes[rows, :, start : start + found.shape[2]] = found
        return codes

    def _decode(self, codes: Tensor) -> Tensor:
        segments = codes.split(SEGMENT // self.config.stride, dim=2)
        return torch.cat([self.decoder(self.encoder.quantizer.decode(segment)) for segment in segments], dim=1)
