"""Generating audio with an `OmniModel`, patch by patch, as an iterator: patches can be played as they come."""

from collections.abc import Iterator

import torch
from torch import Tensor

from solfa.omni.decoder.cache import DecoderCache
from solfa.omni.generation.sampling import Sampler, SamplingConfig, sample
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
    slot_embeds: Tensor | None = None,
    sampling: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
    cache: DecoderCache | None = None,
) -> Iterator[Tensor]:
    """Continue a prompt that ends with `<|sostm|>`, and yield codes (frames, n_books) as they come.

    All yields have patch_size frames; the last may have fewer when the number of frames is given.

    Args:
        prompt: one sequence, or the next part of it when a cache is given.
        cond: (frames, cond_dim), which fixes the number of frames.
        n_frames: the number of frames, where there is no cond.  With neither, the text head's `<|eostm|>` ends it.
        max_frames: the most frames where `<|eostm|>` does not come.
        prompt_cond: (T, patch_size, cond_dim) for audio in the prompt.
        slot_embeds: (T, D) for slots in the prompt, zeros elsewhere.
        generator: the random generator; the same seed gives the same codes.
        cache: earlier parts of the sequence; afterwards it holds this one too, if the iterator is run to its end.
    """
    grid, keep_cache = model.grid, cache is not None
    sampling, cache = sampling or SamplingConfig(), cache or model.decoder.new_cache()
    sampler = Sampler(sampling, generator)
    if cond is not None:
        n_frames = len(cond)
    steps = grid.patches(n_frames if n_frames is not None else max_frames)
    conds = None if cond is None else grid.fold_frames(cond)[:, None]  # (steps, 1, patch, cond_dim)

    def cond_of(i: int) -> Tensor | None:
        return conds[i] if conds is not None and i < steps else None

    # 1. Prefill: the prompt in one forward pass
    inputs = _embed_prompt(model, prompt.batched(), prompt_cond, cond_of(0), slot_embeds)
    state = model.decoder(inputs, cache=cache)[:, -1]
    for i in range(steps):
        if n_frames is None and i > 0 and _ends(model, state, sampling, generator):
            return
        # 2. The patch decoder samples a patch from the decoder's state
        frames = grid.patch_size if n_frames is None else min(grid.patch_size, n_frames - i * grid.patch_size)
        patch = model.patch_decoder.generate(state, sampler, cond_of(i), frames)
        yield patch[0, :frames]
        # 3. The patch is the decoder's next input
        if keep_cache or i + 1 < steps:
            own, following = (None if c is None else c[:, None] for c in (cond_of(i), cond_of(i + 1)))
            state = model.decoder(model.embed(grid.audio_step(patch), own, following), cache=cache)[:, -1]


def _embed_prompt(
    model: OmniModel, prompt: Grid, cond: Tensor | None, first_cond: Tensor | None, slot_embeds: Tensor | None
) -> Tensor:
    """Decoder inputs of a prompt (1, T) whose next step is audio with the condition `first_cond` (1, patch, cond_dim)."""
    slots = None if slot_embeds is None else slot_embeds[None]
    if cond is not None:
        own = cond[None]
    elif first_cond is not None:
        own = first_cond.new_zeros(1, prompt.text.shape[1], *first_cond.shape[1:])
    else:
        return model.embed(prompt, slot_embeds=slots)
    next_cond = next_step(own, 0)
    if first_cond is not None:
        next_cond[:, -1] = first_cond
    return model.embed(prompt, own, next_cond, slots)


def _ends(model: OmniModel, state: Tensor, sampling: SamplingConfig, generator: torch.Generator | None) -> bool:
    """Whether the text head ends the audio after state (1, D), sampled between more audio and the end alone."""
    ids = [model.grid.id("<|empty|>"), model.grid.id("<|eostm|>")]
    return bool(sample(model.text_head(state)[0, ids], SamplingConfig(sampling.temperature, 0, 1.0), generator))
