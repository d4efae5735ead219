"""Speculative decoding of text: multi-token prediction drafts ids, and the decoder verifies them in one forward pass.

A round drafts K ids, runs the decoder over the last accepted id and the drafts, accepts the first drafts that agree with it,
and takes one more id from the decoder.  Greedy ids are those of plain decoding; sampled ids have the same distribution
(rejection sampling: Leviathan et al., arXiv 2211.17192), however good the drafts are.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from solfa.omni.decoder.cache import DecoderCache
from solfa.omni.generation.sampling import SamplingConfig, multinomial, probabilities
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
    """Continue prompts of any length, and yield the new ids (n,) of each row, one round at a time.

    A row ends with an id of `eos`, or after `steps` ids; the iterator ends with the last row.  The mean number of ids that a
    round yields for a row is the acceptance length: 1 without drafts, drafts + 1 at most.

    Args:
        prompts: int64 (T,) each, at least one id.
        drafts: ids to draft in each round, at most as many as the model has MTP blocks; 0 is plain decoding.
        sampling: temperature, top-k and top-p; greedy by default.  Its repetition penalty is for audio, and not used here.
        generator: the random generator; the same seed gives the same ids.
        chunk: steps of the prompts in one forward pass.

    Raises: ValueError for an empty prompt, or more drafts than blocks.
    """
    sampling = sampling or SamplingConfig(temperature=0)
    if min(map(len, prompts)) == 0:
        raise ValueError("each prompt needs at least one id")
    greedy = sampling.temperature == 0
    cache = model.decoder.new_cache(slack=drafts)
    drafter = Drafter(model.mtp, drafts) if drafts else None

    def propose(state: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        logits = model.logits(state)
        probs = logits if greedy else probabilities(logits, sampling)
        ids = probs.argmax(-1) if greedy else multinomial(probs, generator)
        return (ids, probs), model.inputs(ids)

    # 1. Prefill: run the prompts, sample the first id of each row
    states, next_ids, counts = _prefill(model, prompts, cache, chunk)
    rows = torch.arange(len(prompts), device=states.device)
    last = multinomial(probabilities(model.logits(states[rows, counts - 1]), sampling), generator)
    next_ids[rows, counts - 1] = last
    new_ids, left = last[:, None].tolist(), [steps] * len(prompts)
    while True:
        new_ids, left = _end_rows(new_ids, left, model.config.eos)
        yield [torch.tensor(ids, dtype=torch.int64) for ids in new_ids]
        if not any(left):
            return
        active = torch.tensor([n > 0 for n in left], device=states.device)
        # 2. Draft: the MTP blocks run over the steps accepted last, and propose the next ids
        counts = counts * active
        proposals = drafter.draft(states, model.inputs(next_ids), counts, propose) if drafter is not None else []
        # 3. Verify: one forward pass over the last id and the drafts, which keeps the first that are accepted
        input_ids = torch.stack([last, *(ids for ids, _ in proposals)], dim=1)  # (B, drafts + 1)
        length = cache.row_lengths
        mask = None if all(left) else active[:, None].expand_as(input_ids)
        states = model.decoder(model.inputs(input_ids), cache=cache, mask=mask)
        draft_ids = input_ids[:, 1:]
        draft_probs = torch.stack([probs for _, probs in proposals], dim=1) if proposals else None
        accepted, last = verify(model.logits(states), draft_ids, draft_probs, sampling, generator)
        # 4. Roll back: the cache drops the rejected drafts
        counts = (accepted + 1) * active
        kept = counts.tolist()
        longest = max(*kept, 1)
        if drafter is not None:
            cache.rollback(length + (counts if len(set(kept)) > 1 else kept[0]))
        states, next_ids = states[:, :longest], torch.cat([draft_ids, last[:, None]], dim=1)[:, :longest]
        next_ids[rows, accepted.clamp(max=longest - 1)] = last
        new_ids = [ids[:n] for ids, n in zip(next_ids.tolist(), kept, strict=True)]


def _prefill(model: TextModel, prompts: list[Tensor], cache: DecoderCache, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Run the prompts, padded on the right, in chunks.

    Returns: the decoder's states (B, T, D), the id after each step (B, T), whose last in each row is still to be sampled,
        and the prompts' lengths (B,).
    """
    device = model.embed.weight.device
    counts = torch.tensor([len(p) for p in prompts], device=device)
    ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(device)
    masks = (torch.arange(ids.shape[1], device=device) < counts[:, None]).split(chunk, dim=1)
    parts = zip(ids.split(chunk, dim=1), masks, strict=True)
    states = torch.cat([model.decoder(model.inputs(part), cache=cache, mask=mask) for part, mask in parts], dim=1)
    return states, ids.roll(-1, dims=1), counts


def _end_rows(new_ids: list[list[int]], left: list[int], eos: tuple[int, ...]) -> tuple[list[list[int]], list[int]]:
    """Cut the new ids of each row after its first `eos` or its last step.  -> the ids, and how many steps are left."""
    cut_ids, now_left = [], []
    for ids, steps in zip(new_ids, left, strict=True):
        end = next((i + 1 for i, id_ in enumerate(ids) if id_ in eos), None)
        cut_ids.append(ids[: min(steps, len(ids) if end is None else end)])
        now_left.append(0 if end is not None else steps - len(cut_ids[-1]))
    return cut_ids, now_left


def verify(
    logits: Tensor,
    draft_ids: Tensor,
    draft_probs: Tensor | None,
    sampling: SamplingConfig,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Accept the first drafts and sample the id after them, so that all together are distributed as without drafts.

    Args:
        logits: (B, K + 1, vocab), the model's at each of K drafts, given those before it, and after the last.
        draft_ids: int64 (B, K).
        draft_probs: (B, K, vocab), the distributions that the drafts were sampled from; unused if greedy, None without drafts.

    Returns: how many drafts are accepted, int64 (B,), and the id that follows them, int64 (B,).
    """
    rows = torch.arange(len(logits), device=logits.device)
    if sampling.temperature == 0:
        best = logits.argmax(-1)
        accepted = (best[:, :-1] == draft_ids).cumprod(1).sum(1)
        return accepted, best[rows, accepted]
    probs = probabilities(logits, sampling)
    if draft_probs is None:
        return torch.zeros_like(rows), multinomial(probs[:, 0], generator)
    p = probs[:, :-1].gather(-1, draft_ids[..., None])[..., 0]
    q = draft_probs.gather(-1, draft_ids[..., None])[..., 0]
    uniform = torch.rand(p.shape, device=p.device, generator=generator)
    accepted = (uniform * q < p).cumprod(1).sum(1)  # each with probability min(1, p / q)
    # after a rejected draft the distribution is max(0, p - q), normalised; after the last draft it is p
    residual = torch.cat([(probs[:, :-1] - draft_probs).clamp(min=0), probs[:, -1:]], dim=1)
    residual, whole = residual[rows, accepted], probs[rows, accepted]
    return accepted, multinomial(torch.where(residual.sum(-1, keepdim=True) > 0, residual, whole), generator)
