"""Latents -> features (`Decoder`) -> waveform (`Vocoder`)."""

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.tokenizers.audio.layers import Chain, ConvBlock, Correction, Linear, TransformerBlock, with_next
from solfa.tokenizers.audio.model.config import AudioTokenizerConfig
from solfa.tokenizers.audio.model.features import MEAN_F0, Features
from solfa.tokenizers.audio.model.source_filter import SourceFilterHead
from solfa.tokenizers.audio.stream_state import WHOLE, Past, Stream


@dataclass
class LastFrame:
    """frame: (B, 1, D), which waits for the one after it."""

    frame: Past = field(default_factory=Past)


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
