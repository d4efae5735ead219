"""What each stage of the audio tokenizer's training computes: a batch -> sound and losses, but for the discriminators'.

See `train_codec.py` for what the stages are."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.model.features import Features, loudness
from solfa.tokenizers.training.clips import Batch, ClipStore
from solfa.tokenizers.training.ema_codebooks import EMAResidualVQ, processes
from solfa.tokenizers.training.fitting import fit_transforms
from solfa.tokenizers.training.losses import AuditoryLoss, MultiResolutionMelLoss

STAGES = ("tokens", "vocoder", "decoder", "waveform")


def stage_at(progress: float, shares: dict[str, float]) -> tuple[str, float]:
    """The stage that the run is in at `progress` (0 to 1), and the progress within it."""
    total, began = sum(shares.values()), 0.0
    present = [name for name in STAGES if shares.get(name)]
    for name in present:
        share = shares[name] / total
        if progress < began + share or name == present[-1]:
            return name, min(1.0, (progress - began) / share)
        began += share
    raise AssertionError("unreachable: the last stage takes the rest")


class Reconstruction(NamedTuple):
    wav: Tensor | None  # (B, n), where the stage makes sound
    losses: dict[str, Tensor]


class CodecInTraining(nn.Module):
    """The tokenizer with a quantizer that learns in place of the fixed one, and the losses of each stage but the adversarial ones.

    commitment, auditory_weight: weights of these losses.
    """

    def __init__(self, model: AudioTokenizer, commitment: float, auditory_weight: float = 0.0):
        super().__init__()
        c = model.config
        self.model, self.commitment, self.auditory_weight = model, commitment, auditory_weight
        self.vq = EMAResidualVQ(c.books, c.codebook_size, c.codebook_dim)
        self.mel_loss, self.auditory_loss = MultiResolutionMelLoss(c.sample_rate), AuditoryLoss(c.sample_rate)

    def forward(self, stage: str, batch: Batch, give_pitch: bool, rng: np.random.Generator) -> Reconstruction:
        """One step of `stage`.

        give_pitch: whether the encoder takes the measured F0 instead of its own estimate.
        """
        if stage == "waveform":
            with torch.autocast(batch.wav.device.type, enabled=False):
                wav = self._refined(batch.wav, rng)
                return Reconstruction(wav, self._sound_losses(wav, batch.wav))
        measured = batch.measured
        losses: dict[str, Tensor] = {}
        if stage == "vocoder":
            with torch.no_grad():
                features = Features(self.model.encoder.features(batch.wav)[0], *measured)
        else:
            with torch.set_grad_enabled(stage == "tokens"):
                z, target, logits = self.model.encoder(batch.wav, measured if give_pitch else None)
            if stage == "tokens":
                losses |= self._pitch_losses(logits, *measured)
                with torch.autocast(z.device.type, enabled=False):
                    per_book, commitment = self.vq(z)
                losses["commitment"] = self.commitment * commitment
            else:  # the codes as they will be, with the wider search
                per_book = self.model.quantizer.vectors(self.model.quantizer.encode(z))
            z = z + (self._drop_books(per_book, rng) - z).detach()
            features = self.model.decoder(z)
            losses |= self._feature_losses(features, target, *measured)
        if stage == "tokens":
            return Reconstruction(None, losses)
        # F0 steers the source, but its gradient through hundreds of pulses is of no use.
        wav = self.model.vocoder(features._replace(log_f0=features.log_f0.detach())).float()
        return Reconstruction(wav, losses | self._sound_losses(wav, batch.wav))

    def _sound_losses(self, made: Tensor, wav: Tensor) -> dict[str, Tensor]:
        losses = {"mel": self.mel_loss(made, wav)}
        if self.auditory_weight:
            losses["auditory"] = self.auditory_weight * self.auditory_loss(made, wav)
        return losses

    def _refined(self, wav: Tensor, rng: np.random.Generator) -> Tensor:
        """Through all the first books and a random number of those for the waveform, half of the time few: (B, n) -> (B, n)."""
        wave = self.model.wave
        assert wave is not None
        most = len(wave.codebooks)
        books = int(rng.integers(1, most + 1) if rng.random() < 0.5 else rng.integers(1, most // 3 + 2))
        with torch.no_grad():
            vectors = self.model.quantizer.vectors(self.model.quantizer.encode(self.model.encoder(wav)[0]))
            expected = wave.expect(vectors)
            codes = wave.encode(wave.analyse(wav), expected, books)
            coarse = wave.analyse(self.model.vocoder(self.model.decoder(vectors.sum(0))))
        made = wave.decode(codes, expected, coarse)
        silence = made.new_zeros(len(made), 1, self.model.hop)  # the last step overlaps with it
        return wave.synthesise(torch.cat([made, silence], dim=1))[:, wave.step : wave.step + wav.shape[1]]

    def _pitch_losses(self, logits: Tensor, log_f0: Tensor, voiced: Tensor) -> dict[str, Tensor]:
        """Of the encoder's estimate: cross-entropy to bins around the measured F0 (as CREPE), and voicing."""
        bins = self.model.encoder.features.log_f0
        target = (-0.5 * ((log_f0[..., None] - bins) / (bins[1] - bins[0])).square()).softmax(-1)
        cross_entropy = -(target * logits[..., :-1].log_softmax(-1)).sum(-1)
        weight = voiced + 0.05  # between voiced stretches F0 is interpolated: a guess that keeps it smooth
        return {
            "estimate": 0.2 * (cross_entropy * weight).sum() / weight.sum(),
            "estimate_voicing": 0.2 * F.binary_cross_entropy_with_logits(logits[..., -1], voiced),
        }

    def _feature_losses(self, made: Features, target: Features, log_f0: Tensor, voiced: Tensor) -> dict[str, Tensor]:
        weight = voiced + 0.05
        loud = loudness(target.spectra)
        return {
            "loudness": 10 * (loudness(made.spectra) - loud).abs().mean() / loud.mean(),
            "spectra": (made.spectra - target.spectra).abs().mean(),
            "pitch": 20 * ((made.log_f0 - log_f0).abs() * weight).sum() / weight.sum(),
            "voicing": 0.3 * (made.voicing - voiced).abs().mean(),
        }

    def _drop_books(self, per_book: Tensor, rng: np.random.Generator) -> Tensor:
        """Quantizer dropout per crop: half keep the language model's books, a quarter all, a quarter any number."""
        books, size = per_book.shape[:2]
        kind = rng.random(size)
        keep = np.where(kind < 0.5, self.model.lm_books, np.where(kind < 0.75, books, rng.integers(1, books + 1, size)))
        mask = torch.arange(books)[:, None] < torch.from_numpy(keep)[None]
        return (per_book * mask.to(per_book)[:, :, None, None]).sum(0)

    def export_codebooks(self) -> None:
        """Give the tokenizer the codebooks as they are now."""
        self.model.quantizer.codebooks.copy_(self.vq.codebooks)

    def import_codebooks(self) -> None:
        """Start learning from the codebooks of a trained tokenizer."""
        self.vq.codebooks.copy_(self.model.quantizer.codebooks)
        self.vq.initialized.fill_(True)

    @torch.no_grad()
    def fit(self, clips: ClipStore, seed: int, crops: int, frames: int, batch: int) -> None:
        """Linear transforms and first codebooks from statistics of crops, so that learning starts at a codec that works.

        crops: how many, of `frames` feature frames each; batch: how many a step of training has in each process.
        """
        rows = [clips.batch(seed + 1, i, 50, frames) for i in range(max(1, crops // 50))]
        whole = Batch(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
        fit_transforms(self.model, whole.wav, *whole.measured)
        z = [self.model.encoder(b.wav, b.measured)[0] for b in rows]
        per_step = processes() * batch * frames // self.model.config.stride
        self.vq.kmeans_init(torch.cat(z).flatten(0, 1), per_step)
        self.export_codebooks()
