"""What the audio tokenizer fits rather than trains, from statistics of the data: linear transforms, the books for the waveform."""

import dataclasses
import re

import torch
from einops import rearrange
from torch import Tensor

from solfa.core.errors import UserError
from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.audio.model.features import Features
from solfa.tokenizers.audio.model.quantizer import BLOCK
from solfa.tokenizers.audio.model.waveform import LATENT_UNIT, SHIFT, UNIT, WaveformBooks, fall
from solfa.tokenizers.training.clips import ClipStore
from solfa.tokenizers.training.ema_codebooks import kmeans, nearest


@torch.no_grad()
def fit_transforms(model: AudioTokenizer, wav: Tensor, log_f0: Tensor, voicing: Tensor) -> None:
    """Set the linear parts from statistics of `wav` (B, n) with its measured F0 and voicing (B, T).

    Encoder and decoder: principal components of stacked features, the best linear code (Karhunen-Loeve transform).
    Vocoder: the least-squares map from features to the spectral envelope.
    """
    encoder, decoder, vocoder = model.encoder, model.decoder, model.vocoder
    spectra, _ = encoder.features(wav)
    x = Features(spectra, log_f0, voicing).audible()
    stacked = rearrange(x, "b (t s) d -> (b t) (s d)", s=encoder.stride).double()
    mean = stacked.mean(0)
    basis = torch.linalg.eigh((stacked - mean).T @ (stacked - mean)).eigenvectors.flip(1)[
        :, : model.config.codebook_dim
    ]
    encoder.transform.weight.copy_(basis.T)
    encoder.transform.bias.copy_(-mean @ basis)
    decoder.transform.weight.copy_(basis)
    decoder.transform.bias.copy_(mean)
    # Spectra alone: F0 and voicing would explain what is a matter of pulses or noise, which the network decides.
    a = torch.cat([spectra, torch.ones_like(spectra[..., :1])], dim=-1).flatten(0, 1).double()
    b = vocoder.head.levels(wav).flatten(0, 1).double()
    solution = torch.linalg.solve(a.T @ a + 1e-2 * len(a) * torch.eye(a.shape[1]).to(a), a.T @ b)
    vocoder.transform.weight.zero_()
    vocoder.transform.weight[:, : spectra.shape[-1]].copy_(solution[:-1].T)
    vocoder.transform.bias.copy_(solution[-1])


@torch.no_grad()
def fit_waveform(books: WaveformBooks, coefficients: Tensor, vectors: Tensor) -> None:
    """Prior by least squares, codebooks by k-means of what the books before left over.

    coefficients: (B, T, hop); vectors: (k, B, T, dim), what each book of the residual VQ adds to the latents.
    """
    context = books.context(vectors).flatten(0, 1)
    target = coefficients.flatten(0, 1).double().abs().pow(1 / 3) * UNIT
    ridge = 1e-4 * len(context) * LATENT_UNIT**2 * torch.eye(context.shape[1]).to(context)
    weights = torch.linalg.solve(context.T @ context + ridge, context.T @ target) * SHIFT
    books.prior.copy_(weights.round().clamp(-(1 << 15), (1 << 15) - 1))
    left, due = coefficients.flatten(0, 1).clone(), books.expect(vectors).flatten(0, 1)
    for book in books.codebooks:
        chosen, scale = books.choose(due)
        x = left.gather(1, chosen) / scale
        kmeans(x, book)
        book.copy_(book.bfloat16())  # as checkpoints hold it
        index = torch.cat([nearest(some, book) for some in x.split(BLOCK)])
        left.scatter_add_(1, chosen, -book[index] * scale)
        fall(due, chosen)


@torch.no_grad()
def fit_waveform_books(
    model: AudioTokenizer, clips: ClipStore, seed: int, crops: int, frames: int
) -> dict[str, Tensor]:
    """The books for the waveform, from `crops` crops of `frames` feature frames, as `model` (the average) codes them.

    -> what was fitted, by its name in the model.
    """
    assert model.wave is not None
    torch.manual_seed(seed)  # alike in all processes
    vectors, coefficients = [], []
    for i in range(max(1, crops // 50)):
        wav = clips.batch(seed + 2, i, 50, frames).wav.to(model.device)
        vectors.append(model.quantizer.vectors(model.encode(wav, model.sample_rate, books=model.config.books)))
        coefficients.append(model.wave.analyse(wav))
    fit_waveform(model.wave, torch.cat(coefficients), torch.cat(vectors, dim=1))
    return {"wave.prior": model.wave.prior, "wave.codebooks": model.wave.codebooks}


def grow(model: AudioTokenizer, sizes: dict[str, int]) -> AudioTokenizer:
    """The same function with more blocks to learn with, whose output matrices are zero, or with books for the waveform.

    sizes: settings of the model by name.  Raises: UserError for a size that changes what is there.
    """
    deeper = AudioTokenizer(dataclasses.replace(model.config, **sizes))
    before, after = model.state_dict(), deeper.state_dict()
    new = re.compile(r"\w+\.(conv|attention)\.|wave\.")
    wrong = [k for k, v in before.items() if k not in after or after[k].shape != v.shape] + [
        k for k in after if k not in before and not new.match(k)
    ]
    if wrong:
        raise UserError(f"grow can only add blocks, layers and books for the waveform; {sizes} would change {wrong[0]}")
    deeper.load_state_dict(after | before)
    return deeper
