"""A `Deduplicator` over shards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ray.util.placement_group import PlacementGroup

from ray_si.build.sharding.pool import Restore, ShardedPool
from ray_si.dedup import Deduplicator, DedupResult, RougeIndex
from ray_si.dedup.deduplicator import Encoder
from ray_si.dedup.layers import Screened
from ray_si.dedup.pool import EXACT
from ray_si.dedup.tokens import Tokenizer


class ShardedDeduplicator(Deduplicator):
    """A `Deduplicator` whose pool is spread over ``shards`` actors; ``with`` ends them.

    Decisions, matches and scores equal those of a `Deduplicator`, for any number of shards, but
    with FAISS's approximate kinds of embedding_index.
    ``restore`` is what a dead shard is rebuilt from: see `ShardedPool`. With ``cards``, of
    `reserved_gpus`, shards compare embeddings on GPUs; GateError where one is not seen there. Needs
    a running Ray.
    """

    def __init__(
        self,
        shards: int,
        rouge: float = 0.7,
        cosine: float | None = 0.9,
        encoder: Encoder | None = None,
        *,
        tokenizer: Tokenizer = "auto",
        embedding_index: str = EXACT,
        most_similar: int = 0,
        layers: int | None = None,
        restore: Restore | None = None,
        cards: PlacementGroup | None = None,
    ) -> None:
        RougeIndex(rouge, tokenizer)  # refuses what the shards would refuse, before they start
        self._shards = ShardedPool(
            shards,
            restore,
            cards,
            device="cuda" if cards else "cpu",
            rouge=rouge,
            tokenizer=tokenizer,
            embedding_index=embedding_index,
        )
        self.free_bytes = self._shards.free_bytes() if cards else None
        """The least that a shard's GPU had at the beginning; None without."""
        super().__init__(
            rouge,
            cosine,
            encoder,
            tokenizer=tokenizer,
            embedding_index=embedding_index,
            most_similar=most_similar,
            pool=self._shards,
            layers=layers,
        )

    def rely_on_restore(self) -> None:
        """``restore`` yields by now all that the pool has, so nothing else is kept of it."""
        self._shards.rely_on_restore()

    def filter(
        self,
        texts: Sequence[str],
        embeddings: np.ndarray | None = None,
        screened: Screened | None = None,
    ) -> DedupResult:
        """See `Deduplicator`."""
        self.rely_on_restore()
        return super().filter(texts, embeddings, screened)

    def __enter__(self) -> ShardedDeduplicator:
        return self

    def __exit__(self, *_: object) -> None:
        self._shards.close()
