"""Writing text with a `TextModel`: plainly, or by drafting a few ids, verifying them at once, and keeping what holds.

Drafts come from the model's blocks of multi-token prediction (`solfa.omni.model.mtp`).  Greedy output is that of plain decoding;
sampled output has its distribution (rejection sampling: Leviathan et al., arXiv 2211.17192), whatever the drafts are worth.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from solfa.omni.generation.sampling import SamplingConfig, draw, probabilities
from solfa.omni.model.mtp import Drafter
from solfa.omni.model.text_model import TextModel


@torch.no_grad()
def generate_text(
    model: TextModel,
    prompts: list[Tensor],
    *,
    steps: int,
    drafts: int = 0,
    sampling: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
    chunk: int = 512,
) -> Iterator[list[Tensor]]:
    """Go on after prompts of any length, and yield the new ids of each as they come: one round's at a time.

    A row ends with an id of `eos`, or after `steps` ids; the iterator ends with the last row.  The mean number of ids that a
    round yields for a row is the acceptance length: 1 without drafts, drafts + 1 at most.

    Args:
        prompts: (T,) int64 each, at least one id.
        drafts: how many ids to draft in each round, at most as many as the model has blocks; 0 decodes plainly.
        sampling: temperature, top-k and top-p; greedy by default.  Its guard against loops is for audio.
        generator: the source of chance.
        chunk: how many steps of the prompts are read at once.
    """
    sampling = sampling or SamplingConfig(temperature=0)
    if min(map(len, prompts)) == 0:
        raise ValueError("each prompt needs at least one id")
    device, batch = model.embed.weight.device, len(prompts)
    rows = torch.arange(batch, device=device)
    cache = model.decoder.new_cache(slack=drafts)
    drafter = Drafter(model.mtp, drafts) if drafts else None
    ends = set(model.config.eos)

    greedy = sampling.temperature == 0

    def write(state: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        guess = model.logits(state)
        guess = guess if greedy else probabilities(guess, sampling)
        drafted = guess.argmax(-1) if greedy else draw(guess, generator)
        return (drafted, guess), model.inputs(drafted)

    counts = torch.tensor([len(p) for p in prompts], device=device)
    ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(device)
    mask = torch.arange(ids.shape[1], device=device) < counts[:, None]
    parts = zip(ids.split(chunk, dim=1), mask.split(chunk, dim=1), strict=True)
    states = torch.cat([model.decoder(model.inputs(part), cache=cache, mask=real) for part, real in parts], dim=1)
    last = draw(probabilities(model.logits(states[rows, counts - 1]), sampling), generator)
    news = torch.cat([ids[:, 1:], last[:, None]], dim=1)  # what followed each step that is certain
    news[rows, counts - 1] = last
    found, left = last[:, None].tolist(), [steps] * batch
    while True:
        for i, new in enumerate(found):
            end = next((j + 1 for j, word in enumerate(new) if word in ends), None)
            found[i] = new[: min(left[i], len(new) if end is None else end)]
            left[i] = 0 if end is not None else left[i] - len(found[i])
        yield [torch.tensor(new, dtype=torch.int64) for new in found]
        if not any(left):
            return
        alive = torch.tensor([n > 0 for n in left], device=device)
        counts = counts * alive
        made = drafter.draft(states, model.inputs(news), counts, write) if drafter is not None else []
        fed = torch.stack([last, *(drafted for drafted, _ in made)], dim=1)
        past = cache.length if cache.lengths is None else cache.lengths
        states = model.decoder(
            model.inputs(fed), cache=cache, mask=None if all(left) else alive[:, None].expand_as(fed)
        )
        logits = model.logits(states)
        if greedy:
            chosen = logits.argmax(-1)
            accepted = (chosen[:, :-1] == fed[:, 1:]).cumprod(1).sum(1)
            last = chosen[rows, accepted]
        else:
            guesses = torch.stack([guess for _, guess in made], dim=1) if made else None
            accepted, last = verify(probabilities(logits, sampling), fed[:, 1:], guesses, generator)
        counts = (accepted + 1) * alive
        kept = counts.tolist()
        most = max(*kept, 1)
        if drafter is not None:
            cache.rollback(past + (counts if len(set(kept)) > 1 else kept[0]))
        states, news = states[:, :most], torch.cat([fed[:, 1:], last[:, None]], dim=1)[:, :most]
        news[rows, accepted.clamp(max=most - 1)] = last
        found = [row[:n] for row, n in zip(news.tolist(), kept, strict=True)]


def verify(
    probs: Tensor, drafts: Tensor, guesses: Tensor | None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Keep the first drafts, and say what comes after them, so that all together are distributed as `probs` says.

    Args:
        probs: (B, K + 1, vocab), the model's distribution at each of K drafts, given those before it, and after the last.
        drafts: (B, K).
        guesses: (B, K, vocab), the distributions that the drafts were drawn from; None without drafts.

    Returns: how many drafts are kept (B,), and the id that follows them (B,).
    """
    if guesses is None:
        return torch.zeros(len(probs), dtype=torch.int64, device=probs.device), draw(probs[:, 0], generator)
    own = probs[:, :-1].gather(-1, drafts[..., None])[..., 0]
    guessed = guesses.gather(-1, drafts[..., None])[..., 0]
    chance = torch.rand(own.shape, device=own.device, generator=generator)
    accepted = (chance * guessed < own).cumprod(1).sum(1)
    # after a rejected draft: what the model wants beyond what was offered
    rest = torch.cat([(probs[:, :-1] - guesses).clamp(min=0), probs[:, -1:]], dim=1)
    rows = torch.arange(len(probs), device=probs.device)
    rest, whole = rest[rows, accepted], probs[rows, accepted]
    return accepted, draw(torch.where(rest.sum(-1, keepdim=True) > 0, rest, whole), generator)
