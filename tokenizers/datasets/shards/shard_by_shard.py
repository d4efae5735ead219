"""A folder of token shards, one shard at a time: what is damaged is told, and the rest is read in little memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from solfa.core.errors import UserError
from solfa.tokenizers.datasets.shards.shard_formats import Header, read_header
from solfa.tokenizers.datasets.shards.token_dataset import TokenDataset, find_shards


class Damaged(NamedTuple):
    """A shard that cannot be read, and the reason in one sentence."""

    shard: Path
    reason: str


def shard_by_shard(
    folder: Path, fingerprint: str | None = None, books: int | None = None
) -> Iterator[TokenDataset | Damaged]:
    """Each shard as a dataset of its own, in order; one of another codec than the first counts as damaged.

    Raises: UserError as `TokenDataset` does, but for damage only when no shard can be read.
    """
    shards = find_shards(folder)
    if not shards:
        TokenDataset(folder)  # says what is missing
    header: Header | None = None
    first: Damaged | None = None
    for shard in shards:
        try:
            found = read_header(shard)
        except UserError as e:
            damaged = Damaged(shard, str(e))
        else:
            header = header or found
            if found == header:
                yield TokenDataset(folder, fingerprint, books, cache_bytes=0, shards=[shard])
                continue
            damaged = Damaged(
                shard, f"{shard} holds tokens of codec {found.codec} ({found.fingerprint}), unlike the shards before it"
            )
        first = first or damaged
        yield damaged
    if header is None and first is not None:
        raise UserError(first.reason)
