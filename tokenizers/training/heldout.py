"""Speakers that the codec does not learn from: metrics of how well it codes them, and samples to listen to."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from solfa.tokenizers.audio.audio_file import write_wav
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.model.config import AudioTokenizerConfig
from solfa.tokenizers.audio.model.features import MEAN_F0, Features
from solfa.tokenizers.training.clips import ClipStore, NothingUsable, Source, bridge_gaps
from solfa.tokenizers.training.losses import MultiResolutionMelLoss


class HeldoutClip(NamedTuple):
    wav: Tensor  # (n,)
    log_f0: Tensor  # (T,)
    voiced: Tensor  # (T,)


@torch.inference_mode()
def heldout_metrics(model: AudioTokenizer, clips: list[HeldoutClip], books: int) -> dict[str, float]:
    """Mel loss, PESQ-WB and STOI over held-out clips at `books` books; 0 books is the vocoder on measured features."""
    from solfa.tokenizers.evaluation.metrics import pesq_wb, stoi

    mel_loss = MultiResolutionMelLoss(model.sample_rate)
    rows = []
    for clip in clips:
        if books:
            guess = model.decode(model.encode(clip.wav, model.sample_rate, books=books))[0, : len(clip.wav)]
        else:
            spectra, _ = model.encoder.features(clip.wav[None])
            guess = model.vocoder(Features(spectra, clip.log_f0[None], clip.voiced[None]))[0]
        pair = clip.wav.numpy(), guess.numpy(), model.sample_rate
        rows.append((mel_loss(guess[None], clip.wav[None]).item(), pesq_wb(*pair), stoi(*pair)))
    mel, pesq, intelligibility = np.nanmean(np.array(rows, float), axis=0)
    return {"mel": float(mel), "pesq_wb": float(pesq), "stoi": float(intelligibility)}


def heldout_clips(
    folder: Path, sources: Sequence[Source], most: int, c: AudioTokenizerConfig
) -> tuple[list[HeldoutClip], Sequence[dict[str, str]]]:
    """At most one clip of each speaker, `most` in all, up to 8 seconds of each; decoded into `folder`.

    -> (clips, those that could not be used, as `ClipStore.rejects`)
    """
    one_each = list({s.speaker: s for s in sources if s.speech}.values())[:most]
    if not one_each:
        return [], []
    try:
        store = ClipStore.build(folder, one_each, c.sample_rate, c.feature_hop, 1)
    except NothingUsable as e:
        return [], e.rejects
    found = []
    for start, frames in zip(store.start, store.frames, strict=True):
        stop = int(start) + min(int(frames), 8 * c.sample_rate // c.feature_hop)
        wav = torch.from_numpy(store.samples[start * c.feature_hop : stop * c.feature_hop].astype(np.float32))
        f0, voiced = bridge_gaps(store.f0[start:stop])
        found.append(HeldoutClip(wav, torch.from_numpy(f0 / MEAN_F0).log(), torch.from_numpy(voiced)))
    return found, store.rejects


def evaluate(model: AudioTokenizer, clips: list[HeldoutClip], stage: str, step: int, samples: Path) -> dict[str, float]:
    """Metrics by `heldoutBOOKS/NAME`, and sounds of the first three clips, written to the folder `samples`."""
    metrics: dict[str, float] = {}
    if clips:
        for books in (0,) if stage == "vocoder" else sorted({model.lm_books, model.config.books, model.books}):
            metrics |= {f"heldout{books}/{k}": v for k, v in heldout_metrics(model, clips, books).items()}
    for i, clip in enumerate(clips[:3]):
        with torch.inference_mode():
            made = model.decode(model.encode(clip.wav, model.sample_rate, books=model.lm_books))[0, : len(clip.wav)]
        write_wav(samples / f"{i}-original.wav", clip.wav.numpy(), model.sample_rate)
        write_wav(samples / f"{i}-step{step}.wav", made.numpy(), model.sample_rate)
    return metrics
