"""Which part of a corpus a run takes, where several runs fill one folder together (`--shard 3/8`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from solfa.core.errors import UserError
from solfa.tokenizers.datasets.readers.clip import Clip, Corpus


@dataclass(frozen=True)
class Share:
    """Which of `count` runs this one is, from 1; it takes every `count`-th clip."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """`3/8`.  Raises: UserError for anything else."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise UserError(f"--shard {text} makes no sense: give 1/8 to 8/8 to eight runs")
        return cls(int(index), int(count))

    @property
    def part(self) -> str:
        """What the files of this run have in their names."""
        width = max(3, len(str(self.count)))
        return f"{self.index:0{width}}of{self.count:0{width}}-" if self.count > 1 else ""

    def of(self, corpus: Corpus, limit: int | None) -> Iterator[Clip]:
        """Its clips, of the first `limit`."""
        return islice(corpus, self.index - 1, limit, self.count)

    def size(self, corpus: Corpus, limit: int | None) -> int:
        """How many `of` gives."""
        clips = len(corpus) if limit is None else min(limit, len(corpus))
        return len(range(self.index - 1, clips, self.count))
