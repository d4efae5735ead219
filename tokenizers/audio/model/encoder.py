"""Waveform -> features -> latents at the code frame rate, before quantization."""

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.tokenizers.audio.layers import Chain, ConvBlock, Correction, Linear, TransformerBlock, with_next
from solfa.tokenizers.audio.model.config import AudioTokenizerConfig
from solfa.tokenizers.audio.model.features import AcousticFeatures, Features
from solfa.tokenizers.audio.stream_state import WHOLE, Past, Stream


@dataclass
class EncoderState:
    """hidden: (B, 1, stride * dim), the last code frame; the others: (B, stride, ...), what it still lacks its latent for."""

    hidden: Past = field(default_factory=Past)
    spectra: Past = field(default_factory=Past)
    log_f0: Past = field(default_factory=Past)
    voicing: Past = field(default_factory=Past)
    logits: Past = field(default_factory=Past)


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
