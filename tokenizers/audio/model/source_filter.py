"""The decoder's last step: an excitation whose phase is known (pulses at F0, and noise), shaped in the STFT; then the
inverse STFT.

A network trained for minutes learns magnitudes but not phase.  A harmonic-plus-noise source (as in NSF, arXiv 1810.11946,
and DDSP, arXiv 2001.04643) supplies the phase of speech; what is not a single voice goes through the noise.  Phase and
noise run on from piece to piece of a stream (`stream_state.py`).
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.tokenizers.audio.stream_state import WHOLE, Past, Stream

NOISE_PERIOD = 1 << 18  # samples until the fixed noise repeats: 11 s at 24 kHz
NOISE_LEVEL = 0.3  # standard deviation; the pulses' is 1
SILENCE = -14.0  # log gain below which a band is inaudible
TYPICAL, SPREAD = -4.0, 4.0  # log gain of speech and its range: what the network's zero and one stand for


@dataclass
class PulseState:
    """f0: (B, 1) Hz, of the last frame; half_phase: (B, 1) radians, half of the phase at the last sample, in float64."""

    f0: Tensor | None = None
    half_phase: Tensor | float = 0.0


def pulse_train(f0: Tensor, hop: int, sample_rate: int, state: PulseState | None = None, ended: bool = True) -> Tensor:
    """Band-limited unit-variance pulses (a Dirichlet kernel along the running phase).

    F0 glides from the middle of a frame to that of the next, so half a frame waits for the next piece.

    Args:
        f0: (B, T) Hz, one per `hop` samples.
        state: what went before, brought up to date; None for a whole sound.
        ended: whether this is the last piece.

    Returns: (B, T * hop), for the first of several pieces half a `hop` less, for the last half a `hop` more.
    """
    state = state or PulseState()
    first = state.f0 is None
    f0 = torch.cat([f0[:, :1] if state.f0 is None else state.f0, f0] + [f0[:, -1:]] * ended, dim=1)
    state.f0 = f0[:, -1:].clone()
    toward = (torch.arange(hop, device=f0.device) + 0.5) / hop
    hz = torch.lerp(f0[:, :-1, None], f0[:, 1:, None], toward).flatten(1)
    hz = hz[:, hop // 2 if first else 0 : hz.shape[1] - (hop // 2 if ended else 0)]
    # In float32 the phase would drift within seconds.
    half = (state.half_phase + torch.cumsum(math.pi / sample_rate * hz.double(), 1)) % (2 * math.pi)
    state.half_phase = half[:, -1:].clone()
    harmonics = torch.floor(0.475 * sample_rate / hz.clamp_min(50.0))
    bottom = torch.sin(half)
    near_zero = bottom.abs() < 1e-4
    ratio = torch.sin((2 * harmonics + 1) * half) / torch.where(near_zero, 1.0, bottom)
    # At whole multiples of pi the kernel's limit is 2N + 1 (both signs agree, because 2N + 1 is odd).
    kernel = torch.where(near_zero, (2 * harmonics + 1).double(), ratio) - 1
    return (kernel / torch.sqrt(2 * harmonics)).float()


def fixed_noise() -> Tensor:
    """(NOISE_PERIOD,) white noise that is the same on every machine."""
    return torch.from_numpy(
        np.random.Generator(np.random.PCG64(0)).standard_normal(NOISE_PERIOD, dtype=np.float32) * NOISE_LEVEL
    )


def band_matrix(bands: int, n_fft: int, sample_rate: int) -> Tensor:
    """(bins, bands) linear interpolation from mel-spaced band centres to STFT bins."""
    mel = np.linspace(0, 2595 * np.log10(1 + sample_rate / 2 / 700), bands)
    centres = 700 * (10 ** (mel / 2595) - 1)
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    return torch.from_numpy(np.stack([np.interp(bins, centres, row) for row in np.eye(bands)], 1).astype(np.float32))


@dataclass
class HeadState:
    """What the excitation, its spectra and the inverse STFT need of the pieces before.

    noise_from: the next sample of the fixed noise; pulses, noise: (B, n) and (1, n) samples that later STFT frames begin
    with; gains: (B, T, 2, bands) of frames whose excitation is not known yet; frames, weights: (B, parts - 1, parts, step)
    and (1, ...), those to which the next ones add.
    """

    excitation: PulseState = field(default_factory=PulseState)
    noise_from: int | None = None
    pulses: Past = field(default_factory=Past)
    noise: Past = field(default_factory=Past)
    gains: Past = field(default_factory=Past)
    frames: Past = field(default_factory=Past)
    weights: Past = field(default_factory=Past)


class SourceFilterHead(nn.Module):
    """Gains -> waveform through shaped pulses and shaped noise.

    forward: gains (B, T, subframes * 2 * bands), f0 (B, T) Hz, both one per `hop` samples -> (B, T * hop) samples.
    A gain of g is a log amplitude of TYPICAL + SPREAD * g; pulses before noise.
    In a stream f0 runs one frame ahead of the gains, and the sound stays `delay` samples behind them.
    """

    to_bins: Tensor
    window: Tensor
    noise: Tensor

    def __init__(self, sample_rate: int, hop: int, n_fft: int, bands: int, subframes: int):
        super().__init__()
        assert hop % subframes == 0 and hop % 2 == 0
        self.sample_rate, self.hop, self.n_fft, self.bands, self.subframes = sample_rate, hop, n_fft, bands, subframes
        self.step = hop // subframes  # samples from one STFT frame to the next
        self.parts = -(-n_fft // self.step)  # steps that a frame spans
        # A frame waits until half a window of pulses follow its centre, which are known half a hop past the gains; a sample
        # waits until the next frame would start after it.
        waits = -(-(n_fft - hop) // (2 * self.step))
        self.delay = n_fft // 2 + (waits - 1) * self.step
        self.gains = subframes * 2 * bands  # per frame
        self.register_buffer("to_bins", band_matrix(bands, n_fft, sample_rate), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("noise", fixed_noise(), persistent=False)

    def excitation(self, f0: Tensor, stream: Stream = WHOLE) -> tuple[Tensor, Tensor]:
        """Pulses (B, n) and noise (1, n), n = T * hop in a whole sound; in training the noise starts at a random place."""
        state = stream.state(self, HeadState)
        pulses = pulse_train(f0, self.hop, self.sample_rate, state.excitation, stream.ended)
        if state.noise_from is None:
            state.noise_from = int(torch.randint(NOISE_PERIOD, ())) if self.training else 0
        start, state.noise_from = state.noise_from, state.noise_from + pulses.shape[1]
        return pulses, self.noise[(start + torch.arange(pulses.shape[1], device=f0.device)) % NOISE_PERIOD][None]

    def forward(self, gains: Tensor, f0: Tensor, stream: Stream = WHOLE) -> Tensor:
        state = stream.state(self, HeadState)
        with torch.autocast(gains.device.type, enabled=False):
            pulses, noise = self.excitation(f0, stream)
            pulses, noise = self._stft(pulses, stream, state.pulses), self._stft(noise, stream, state.noise)
            gains = gains.unflatten(-1, (self.subframes, 2, self.bands)).flatten(1, 2)
            gains = (TYPICAL + SPREAD * gains).clamp(SILENCE, 6.0)
            if stream.ended:
                gains = torch.cat([gains, gains[:, -1:]], dim=1)  # a centred STFT of n hops has n + 1 frames
            gains = stream.recall(state.gains, gains)
            stream.keep(state.gains, gains[:, pulses.shape[1] :])
            voiced, unvoiced = (gains[:, : pulses.shape[1]] @ self.to_bins.T).exp().unbind(2)
            return self._inverse_stft(pulses * voiced + noise * unvoiced, stream, state)

    @torch.no_grad()
    def levels(self, x: Tensor) -> Tensor:
        """The gains at which pulses alone, or noise alone, have the spectral envelope of `x`: (B, n) -> (B, n / hop, gains)."""
        bands = self._stft(x, WHOLE, Past()).abs()[:, :-1] @ (self.to_bins / self.to_bins.sum(0))  # (B, frames, bands)
        flat = self.window.square().sum().sqrt() * torch.tensor([1.0, NOISE_LEVEL], device=x.device)  # of each source
        levels = (bands[:, :, None] / flat[:, None] + math.exp(SILENCE + 3)).log()
        return ((levels - TYPICAL) / SPREAD).unflatten(1, (-1, self.subframes)).flatten(2)

    def _stft(self, x: Tensor, stream: Stream, past: Past) -> Tensor:
        """(B, n) -> (B, frames, bins), centred on every `step` samples from the first to the end."""
        if stream.ended:
            x = F.pad(x, (0, self.n_fft // 2))
        x = stream.recall(past, x, zeros=self.n_fft // 2)
        frames = x.unfold(1, self.n_fft, self.step)
        stream.keep(past, x[:, frames.shape[1] * self.step :])
        return torch.fft.rfft(frames * self.window)

    def _inverse_stft(self, spectrum: Tensor, stream: Stream, state: HeadState) -> Tensor:
        """Weighted overlap-add: (B, frames, bins) -> (B, n), from the centre of the first frame to that of the last."""
        frames = torch.fft.irfft(spectrum, self.n_fft) * self.window
        before = self.n_fft // 2 if state.frames.frames is None else 0
        added = self._overlap_add(frames, stream, state.frames)
        weight = self._overlap_add(self.window.square().expand(1, *frames.shape[1:]), stream, state.weights)
        beyond = self.parts * self.step - self.n_fft // 2 if stream.ended else 0
        kept = slice(before, added.shape[1] - beyond)
        return added[:, kept] / weight[:, kept]

    def _overlap_add(self, frames: Tensor, stream: Stream, past: Past) -> Tensor:
        """(B, frames, n_fft) -> (B, n) from the start of the first frame; in a stream, those to which no later frame adds."""
        frames = F.pad(frames, (0, self.parts * self.step - self.n_fft)).unflatten(-1, (self.parts, self.step))
        if stream.ended:
            frames = F.pad(frames, (0, 0, 0, 0, 0, self.parts - 1))
        n = frames.shape[1]
        frames = stream.recall(past, frames, zeros=self.parts - 1)
        stream.keep(past, frames[:, n:])
        return torch.stack([frames[:, self.parts - 1 - i :][:, :n, i] for i in range(self.parts)]).sum(0).flatten(1)
