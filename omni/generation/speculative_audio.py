"""Writing audio with drafts: `solfa.omni.generation.speculative` with patches in the place of ids.

A block of multi-token prediction foresees the decoder's next state, from which the patch decoder writes a draft.  The decoder
reads several drafts at once, the patch decoder says in one pass what it would have written, and each code is kept or
replaced as in rejection sampling.  The first patch with a replaced code is finished by the patch decoder itself, and ends the
round.  Greedy codes are those of `generate_audio`; sampled ones have their distribution.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from solfa.core.errors import UserError
from solfa.omni.generation.generate import _embed_prompt, _ends
from solfa.omni.generation.sampling import SamplingConfig, draw, probabilities
from solfa.omni.model.grid import Grid
from solfa.omni.model.mtp import Drafter
from solfa.omni.model.omni_model import OmniModel


class Sketch(NamedTuple):
    """A drafted patch: codes (patch_size, n_books), what each was drawn from (patch_size, n_books, codes), and the decoder's
    input of it (1, 1, D)."""

    codes: Tensor
    guesses: Tensor
    input: Tensor


class Round(NamedTuple):
    """What a round has made certain: codes (frames, n_books), one patch or more.

    fits: bool (patch_size, n_books) of each draft up to the first that was not kept whole: which of its codes the model
        agreed to, given the draft's codes before them.
    """

    codes: Tensor
    fits: list[Tensor]


class Pen:
    """A sampler of one patch that writes the codes known beforehand, draws the others, and remembers the distributions.

    known: (patch_size, n_books), of which it takes those that are written in local steps before `free`.
    """

    def __init__(
        self, sampling: SamplingConfig, generator: torch.Generator | None, known: Tensor | None = None, free: int = 0
    ):
        self.sampling, self.generator, self.known, self.free = sampling, generator, known, free
        self.t, self.probs = 0, list[tuple[int, Tensor]]()

    def __call__(self, logits: Tensor, first: int) -> Tensor:
        """Logits (1, A, codes) of books first..first+A-1 -> codes (1, A)."""
        t, books = self.t, torch.arange(first, first + logits.shape[1])
        self.t += 1
        if self.known is not None and t < self.free:
            return self.known[t - books, books][None]
        probs = probabilities(logits, self.sampling)
        self.probs.append((first, probs[0]))
        return draw(probs, self.generator)

    def guesses(self, patch_size: int, n_books: int) -> Tensor:
        """The distributions by frame and book: (patch_size, n_books, codes)."""
        found = self.probs[0][1].new_empty(patch_size, n_books, self.probs[0][1].shape[-1])
        for t, (first, probs) in enumerate(self.probs):
            books = torch.arange(first, first + len(probs))
            found[t - books, books] = probs
        return found


@torch.no_grad()
def generate_audio_with_drafts(
    model: OmniModel,
    prompt: Grid,
    *,
    drafts: int,
    cond: Tensor | None = None,
    n_frames: int | None = None,
    max_frames: int = 750,
    prompt_cond: Tensor | None = None,
    soft: Tensor | None = None,
    sampling: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Round]:
    """`generate_audio` of one utterance with `drafts` patches drafted in each round.

    The mean length of the rounds' codes in patches is the acceptance length; the first round, which reads the prompt, has no
    drafts.  The arguments are those of `generate_audio`; the guard against loops must be off (repeat_limit=0), for it makes
    each code depend on all that were kept before.
    """
    grid, sampling = model.grid, sampling or SamplingConfig(repeat_limit=0)
    if sampling.repeat_limit:
        raise UserError("drafts go with repeat_limit=0 only")
    size, n_books = grid.patch_size, grid.n_books
    n_frames = n_frames if cond is None else len(cond)
    n_all = n_frames if n_frames is not None else max_frames
    steps = grid.patches(n_all)
    conds = None if cond is None else grid.fold_frames(cond)[:, None]  # (steps, 1, patch, cond_dim)
    # in which local step a code is written
    step_of = (torch.arange(size)[:, None] + torch.arange(n_books)).to(model.text_embed.weight.device)

    def at(i: int) -> Tensor | None:
        return conds[i] if conds is not None and i < steps else None

    def read(codes: Tensor, i: int) -> Tensor:
        """The decoder's input of patch i: (1, 1, D)."""
        now, then = at(i), at(i + 1)
        return model.embed(
            grid.audio_step(codes[None]), None if now is None else now[:, None], None if then is None else then[:, None]
        )

    def pen(known: Tensor | None = None, free: int = 0) -> Pen:
        return Pen(sampling, generator, known, free)

    def over(state: Tensor, i: int) -> bool:
        return i == steps or n_frames is None and _ends(model, state, sampling, generator, may=i > 0)

    inputs = _embed_prompt(model, prompt.batched(), prompt_cond, at(0), soft)
    cache, drafter = model.decoder.new_cache(slack=drafts), Drafter(model.mtp, drafts)
    states = model.decoder(inputs, cache=cache)
    inputs, done = inputs[:, 1:], steps  # where the text head ends it
    if over(states[:, -1], 0):
        return
    frames = min(size, n_all) if n_frames is not None else size
    codes = model.patch_decoder.generate(states[:, -1], pen(), at(0), frames)[0]
    yield Round(codes[:frames], [])
    i = 0  # the last patch that is certain; the decoder has read those before it
    while i + 1 < done:
        x = read(codes, i)
        ahead = [i]

        def write(state: Tensor, ahead: list[int] = ahead) -> tuple[Sketch, Tensor]:
            ahead[0] += 1
            own = pen()
            drafted = model.patch_decoder.generate(state, own, at(ahead[0]))[0]
            sketch = Sketch(drafted, own.guesses(size, n_books), read(drafted, ahead[0]))
            return sketch, sketch.input[:, 0]

        counts = torch.tensor([states.shape[1]], device=states.device)
        whole = n_all // size if n_frames is not None else steps  # a patch that the end cuts short is not drafted
        sketches = drafter.draft(states, torch.cat([inputs, x], dim=1), counts, write)[: max(whole - i - 1, 0)]
        inputs = torch.cat([x[:, :0], *(s.input for s in sketches)], dim=1)
        states, past = model.decoder(torch.cat([x, inputs], dim=1), cache=cache), cache.length
        kept, certain, judgements = 0, [], list[Tensor]()
        judged = _judge(model, states, sketches, [at(i + 1 + j) for j in range(len(sketches))], sampling)
        for j in range(len(sketches) + 1):
            state = states[:, j]
            if over(state, i + 1 + j):
                done = i + 1 + j
                break
            frames = size if n_frames is None else min(size, n_all - (i + 1 + j) * size)
            if j == len(sketches):
                codes = model.patch_decoder.generate(state, pen(), at(i + 1 + j), frames)[0]
            else:
                fits, replaced = _keep(sketches[j], judged[j], generator)
                judgements.append(fits)
                codes = sketches[j].codes
                if not fits.all():
                    free = int(step_of[~fits].min()) + 1
                    codes = model.patch_decoder.generate(state, pen(replaced, free), at(i + 1 + j))[0]
            certain.append(codes[:frames])
            kept += j < len(sketches) and bool(fits.all())
            if kept <= j:
                break
        if certain:
            yield Round(torch.cat(certain), judgements)
        cache.rollback(past - len(sketches) + kept)
        states, inputs = states[:, : kept + 1], inputs[:, :kept]
        i += len(certain)


def _judge(
    model: OmniModel, states: Tensor, sketches: list[Sketch], conds: list[Tensor | None], sampling: SamplingConfig
) -> Tensor:
    """What the patch decoder makes of drafts, given the true states before them: (K, patch_size, n_books, codes)."""
    if not sketches:
        return states.new_empty(0)
    known = [c for c in conds if c is not None]
    logits = model.patch_decoder(
        states[0, : len(sketches)], torch.stack([s.codes for s in sketches]), torch.cat(known) if known else None
    )
    return probabilities(logits, sampling)


def _keep(sketch: Sketch, probs: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Each code by itself, given those before it: whether it is kept (patch_size, n_books), and the codes, others replaced."""
    own, guessed = (x.gather(-1, sketch.codes[..., None])[..., 0] for x in (probs, sketch.guesses))
    kept = torch.rand(own.shape, device=own.device, generator=generator) * guessed < own
    rest = (probs - sketch.guesses).clamp(min=0)
    return kept, torch.where(
        kept, sketch.codes, draw(torch.where(rest.sum(-1, keepdim=True) > 0, rest, probs), generator)
    )
