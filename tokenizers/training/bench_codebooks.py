"""The trainer's quantizer beside `ResidualVQ` of vector-quantize-pytorch, on the latents of real speech, at the same settings.

    pip install vector-quantize-pytorch
    python -m solfa.tokenizers.training.bench_codebooks RECORDINGS

Both learn the bundled codec's books from nothing, as the trainer does: k-means of many vectors, then moving averages over steps.
Reported are the processor time of a step, forward and backward, and the share of the latents' variance that is left on clips
that were not learned from.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from solfa.tokenizers.audio.model.audio_tokenizer import AudioTokenizer
from solfa.tokenizers.datasets.readers.corpus import read_corpus
from solfa.tokenizers.training.ema_codebooks import EMAResidualVQ


def library_vq(books: int, size: int, dim: int, decay: float, **settings: Any) -> Any:
    """`ResidualVQ` with the trainer's settings: no projection, no dropout of books, gradients by the commitment alone."""
    from vector_quantize_pytorch import ResidualVQ

    plain = {
        "kmeans_init": True,
        "kmeans_iters": 12,
        "rotation_trick": False,
        "eps": 1e-9,
        "threshold_ema_dead_code": 0,
    }
    return ResidualVQ(dim=dim, num_quantizers=books, codebook_size=size, decay=decay, **plain | settings)


def latents(model: AudioTokenizer, folder: str, clips: int) -> list[Tensor]:
    """Latents before the books of the first `clips` clips, (T, dim) each, up to 20 s."""
    found = []
    with torch.inference_mode():
        for clip in read_corpus(folder):
            wav = torch.from_numpy(clip.read(model.sample_rate).samples)
            wav = wav[: min(len(wav), 20 * model.sample_rate) // model.hop * model.hop]
            found.append(model.encoder(wav[None])[0][0].clone())
            if len(found) == clips:
                break
    return found


def train(step: Callable[[Tensor], Tensor], x: Tensor, steps: int, rows: int, frames: int) -> list[float]:
    """Seconds of each step on random crops of x (N, dim); `step` gives the loss of (rows, frames, dim)."""
    rng, seconds = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        at = torch.randint(len(x) - frames, (rows,), generator=rng)
        z = torch.stack([x[i : i + frames] for i in at.tolist()]).requires_grad_()
        torch.manual_seed(0)
        began = time.process_time()
        step(z).backward()
        seconds.append(time.process_time() - began)
    return seconds


def start_library(vq: Any, x: Tensor, per_step: int) -> None:
    """First codebooks by k-means of x (N, dim), with the uses that `per_step` vectors would give."""
    vq.train()
    with torch.no_grad():
        vq(x[None])
    for layer in vq.layers:
        for moving in (layer._codebook.cluster_size, layer._codebook.embed_avg):
            moving *= per_step / len(x)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="recordings, as any corpus")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", type=int, default=16)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    model = AudioTokenizer.own(None)
    c = model.config
    clips = latents(model, args.folder, args.clips)
    x, unseen = torch.cat(clips[len(clips) // 10 :]), torch.cat(clips[: len(clips) // 10])
    own = EMAResidualVQ(c.books, c.codebook_size, c.codebook_dim)
    per_step = args.rows * 32
    threshold = own.dead_below * per_step / c.codebook_size
    library = library_vq(c.books, c.codebook_size, c.codebook_dim, own.decay, threshold_ema_dead_code=threshold)
    quantizers: dict[str, tuple[Any, Callable[[], None], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "EMAResidualVQ": (
            own, lambda: own.kmeans_init(x, per_step), lambda z: own(z).commitment, lambda z: own(z).per_book.sum(0),
        ),
        "ResidualVQ": (
            library, lambda: start_library(library, x, per_step), lambda z: library(z)[2].sum(), lambda z: library(z)[0],
        ),
    }  # fmt: skip
    print(f"{len(x)} vectors, {args.rows * 32} a step, {c.books} books of {c.codebook_size} codes of {c.codebook_dim}")
    for name, (module, start, loss, decode) in quantizers.items():
        torch.manual_seed(0)
        start()
        module.train()
        seconds = sorted(train(loss, x, args.steps, args.rows, 32)[1:])
        module.eval()
        with torch.inference_mode():
            left = float((decode(unseen[None])[0] - unseen).square().sum() / (unseen - x.mean(0)).square().sum())
        print(f"{name}: {1000 * seconds[len(seconds) // 2]:.1f} ms a step, {left:.4f} of the variance left", flush=True)


if __name__ == "__main__":
    main()
