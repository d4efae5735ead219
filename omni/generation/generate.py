"""Writing audio with an `OmniModel`, patch by patch, as an iterator: whoever consumes it may play while it writes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from solfa.omni.decoder.cache import DecoderCache
from solfa.omni.generation.sampling import Sampler, SamplingConfig, choose
from solfa.omni.model.grid import Grid, next_step
from solfa.omni.model.omni_model import OmniModel


@torch.no_grad()
def generate_audio(
    model: OmniModel,
    prompt: Grid,
    *,
    cond: Tensor | None = None,
    n_frames: int | None = None,
    max_frames: int = 750,
    prompt_cond: Tensor | None = None,
    soft: Tensor | None = None,
    sampling: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
    cache: DecoderCache | None = None,
) -> Iterator[Tensor]:
    """Go on after a prompt that ends with `<|sostm|>`, and yield codes (frames, n_books) as they come.

    All yields have patch_size frames; the last may have fewer when the number of frames is given.

    Args:
        prompt: one sequence, or the next part of it when a cache is given.
        cond: (frames, cond_dim), which fixes the number of frames.
        n_frames: the number of frames, where there is no cond.  With neither, the text head's `<|eostm|>` ends it.
        max_frames: the end when `<|eostm|>` does not come.
        prompt_cond: (T, patch_size, cond_dim) for audio in the prompt.
        soft: (T, D) for slots in the prompt.
        generator: the source of chance; the same seed gives the same codes.
        cache: earlier parts of the sequence; afterwards it holds this one too, if the iterator is run to its end.
    """
    grid, keep = model.grid, cache is not None
    sampling, cache = sampling or SamplingConfig(), cache or model.decoder.new_cache()
    sampler = Sampler(sampling, generator)
    if cond is not None:
        n_frames = len(cond)
    steps = grid.patches(n_frames if n_frames is not None else max_frames)
    conds = None if cond is None else grid.fold_frames(cond)[:, None]  # (steps, 1, patch, cond_dim)

    def at(i: int) -> Tensor | None:
        return conds[i] if conds is not None and i < steps else None

    state = model.decoder(_embed_prompt(model, prompt.batched(), prompt_cond, at(0), soft), cache=cache)[:, -1]
    for i in range(steps):
        if n_frames is None and _ends(model, state, sampling, generator, may=i > 0):
            return
        frames = grid.patch_size if n_frames is None else min(grid.patch_size, n_frames - i * grid.patch_size)
        patch = model.patch_decoder.generate(state, sampler, at(i), frames)
        yield patch[0, :frames]
        if keep or i + 1 < steps:
            now, then = at(i), at(i + 1)
            x = model.embed(
                grid.audio_step(patch), None if now is None else now[:, None], None if then is None else then[:, None]
            )
            state = model.decoder(x, cache=cache)[:, -1]


def _embed_prompt(
    model: OmniModel, prompt: Grid, cond: Tensor | None, first: Tensor | None, soft: Tensor | None
) -> Tensor:
    """Decoder inputs of a prompt (1, T) whose next step is audio described by `first` (1, patch, cond_dim)."""
    if cond is None and first is None:
        return model.embed(prompt, soft=None if soft is None else soft[None])
    if cond is None:
        assert first is not None
        own = first.new_zeros(1, prompt.text.shape[1], *first.shape[1:])
    else:
        own = cond[None]
    ahead = next_step(own, 0)
    if first is not None:
        ahead[:, -1] = first
    return model.embed(prompt, own, ahead, None if soft is None else soft[None])


def _ends(
    model: OmniModel, state: Tensor, sampling: SamplingConfig, generator: torch.Generator | None, may: bool
) -> bool:
    """Whether the text head ends the audio here, audio and end being the only choices."""
    if not may:
        return False
    ids = [model.grid.id("<|empty|>"), model.grid.id("<|eostm|>")]
    return bool(choose(model.text_head(state)[0, ids], SamplingConfig(sampling.temperature, 0, 1.0), generator))
