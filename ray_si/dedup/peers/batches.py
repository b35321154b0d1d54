"""Batches that are yet to be decided, and what is known of their texts among each other."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ray_si.dedup.cosine.host import HostRows
from ray_si.dedup.peers.join import Near, RougeJoin
from ray_si.dedup.peers.walk import (
    BY_ROUGE,
    Close,
    linked,
    tell_all_by_cosine,
    tell_all_by_rouge,
    walk,
)
from ray_si.dedup.rouge_index import no_match
from ray_si.dedup.segment import Best
from ray_si.dedup.tokens import Tokenizer

MOST_PAIRS = 1 << 23
"""Pairs, by ROUGE-L and by cosine each, that are kept for a batch: 128 MiB of them at most."""

logger = logging.getLogger(__name__)


@dataclass
class _Batch:
    """The texts of a batch that have come in, numbered as they did.

    ``groups`` and ``rows``: the group of each text, and the text of each row of ``cosine``.
    ``near`` and ``close`` hold pairs with texts of this batch (None) and of earlier ones, by those.
    Once it is decided, ``group_ids`` and ``ids`` say what was accepted, from ``first`` on.
    """

    rouge: RougeJoin
    cosine: HostRows | None = None
    size: int = 0
    groups: list[np.ndarray] = field(default_factory=list)
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    near: dict[int | None, list[Near]] = field(default_factory=dict)
    close: dict[int | None, list[Close]] = field(default_factory=dict)
    near_room: int = field(default_factory=lambda: MOST_PAIRS)
    close_room: int = field(default_factory=lambda: MOST_PAIRS)
    first: int = -1
    group_ids: np.ndarray | None = None
    ids: np.ndarray | None = None


class Peers:
    """Finds, as texts come in, the pairs of them that are too near; then decides batch by batch.

    Batches are numbered in the order in which they are decided; their texts may come in any order,
    those of several batches by turns. A text is compared with all that came before it, of its own
    batch and of the others that are held, so that whatever comes last, all pairs are known. A batch
    with more than `MOST_PAIRS` of them is given up: it has to be decided without. The first one is
    told of by a warning. Not for several threads at once.
    """

    def __init__(self, rouge: float, cosine: float | None, tokenizer: Tokenizer) -> None:
        self._rouge, self._cosine, self._tokenizer = rouge, cosine, tokenizer
        self._batches: dict[int, _Batch | None] = {}  # None: given up
        self._told = False

    def add(
        self, batch: int, texts: Sequence[str], settled: np.ndarray, vectors: np.ndarray | None
    ) -> np.ndarray:
        """Take texts of a batch; their numbers in it, int64, shape (n,).

        ``settled`` are those that a pool refuses by ROUGE-L whatever comes; ``vectors`` the
        normalized embeddings of the others, None where no cosines are compared.
        """
        if batch not in self._batches:
            self._batches[batch] = _Batch(RougeJoin(self._rouge, self._tokenizer))
        own = self._batches[batch]
        if own is None:
            return np.full(len(texts), -1)
        assert own.ids is None, "texts of a batch that was decided"
        numbers = np.arange(own.size, own.size + len(texts))
        own.size += len(texts)
        self._add_by_rouge(batch, own, texts, settled)
        if vectors is not None and len(vectors):
            self._add_by_cosine(batch, own, numbers[~settled], vectors)
        return numbers

    def has(self, batch: int | None) -> bool:
        """Whether all pairs of a batch that is yet to be decided are known."""
        own = None if batch is None else self._batches.get(batch)
        return own is not None and own.ids is None

    def decided(self) -> set[int]:
        """The first ids of decided batches whose pairs with later ones are known."""
        return {held.first for _, held in self._held() if held.ids is not None}

    def decide(
        self,
        batch: int,
        numbers: np.ndarray,
        by_rouge: Best,
        by_cosine: tuple[np.ndarray, np.ndarray] | None,
        first_id: int,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Decide on a batch, given the numbers of its texts in order.

        ``by_rouge`` and ``by_cosine`` are what the pool says of them, the latter of those that have
        no match by the former. Returns reasons, int8 (see `ray_si.dedup.peers.walk`), the ids of
        the texts that refuse the refused, int64, and their cosines, float64. Accepted texts get ids
        from ``first_id`` on. ``by_rouge`` becomes what the texts were decided by.
        """
        own = self._batches[batch]
        assert own is not None
        assert all(held.ids is None for number, held in self._held() if number >= batch), "order"
        places = np.full(own.size, -1)
        places[numbers] = np.arange(len(numbers))
        groups = np.concatenate([np.zeros(0, np.int64), *own.groups])[numbers]
        of_groups = no_match(len(own.rouge))
        ids, cosines = np.full(len(numbers), -1), np.full(len(numbers), -1.0)
        if by_cosine is not None:
            rows = np.flatnonzero(by_rouge.ids < 0)
            ids[rows], cosines[rows] = by_cosine
        for number, other in self._held():
            if number < batch and other.ids is not None and other.group_ids is not None:
                tell_all_by_rouge(Near.of(own.near.pop(number, [])), other.group_ids, of_groups)
                close = _all_close(own.close.pop(number, []))
                tell_all_by_cosine(close, places, other.ids, ids, cosines)
        near, close = Near.of(own.near.pop(None, [])), _all_close(own.close.pop(None, []))
        close = Close(places[close.left], places[close.right], close.cosines)
        present = (close.left >= 0) & (close.right >= 0)
        close = Close(*(column[present] for column in close))
        reasons, accepted = walk(
            groups, by_rouge, of_groups, own.rouge.twice,
            near, linked(near.left, near.right, len(own.rouge)),
            ids, cosines, close, linked(close.left, close.right, len(numbers)), first_id,
        )  # fmt: skip
        own.first, own.ids = first_id, np.full(own.size, -1)
        own.ids[numbers] = accepted
        own.group_ids = np.full(len(own.rouge), -1)
        own.group_ids[groups[accepted >= 0]] = accepted[accepted >= 0]
        own.near, own.close = {}, {}
        if not (accepted >= 0).any():
            del self._batches[batch]  # nobody is near to it
        return reasons, np.where(reasons == BY_ROUGE, by_rouge.ids, ids), cosines

    def forget(self, before: int) -> None:
        """Let go of batches that were decided before the pool had this size."""
        self._batches = {
            number: held
            for number, held in self._batches.items()
            if held is None or held.ids is None or held.first >= before
        }

    def _held(self) -> Iterator[tuple[int, _Batch]]:
        return ((number, held) for number, held in self._batches.items() if held is not None)

    def _others(self, batch: int) -> list[tuple[int, _Batch]]:
        return [(number, held) for number, held in self._held() if number != batch]

    def _add_by_rouge(
        self, batch: int, own: _Batch, texts: Sequence[str], settled: np.ndarray
    ) -> None:
        """Find the pairs of texts by ROUGE-L, and have them found."""
        begun = len(own.rouge)
        groups, near = own.rouge.add(texts, settled, own.near_room)
        own.groups.append(groups)
        self._keep_near(batch, None, near)
        new, where = np.unique(groups[groups >= begun], return_index=True)
        firsts = np.flatnonzero(groups >= begun)[where]
        asking = [texts[i] for i in firsts.tolist()]
        for number, other in self._others(batch):
            later = max(batch, number)
            held = self._batches[later]
            if held is None:
                continue
            near = other.rouge.near(asking, settled[firsts], held.near_room)
            if near is not None:
                near = near._replace(left=new[near.left].astype(np.int32))
                near = near if later == batch else near.turned()
            self._keep_near(later, min(batch, number), near)

    def _add_by_cosine(
        self, batch: int, own: _Batch, numbers: np.ndarray, vectors: np.ndarray
    ) -> None:
        """The same by cosine; ``numbers`` are those of the texts with these ``vectors``."""
        assert self._cosine is not None
        if own.cosine is None:
            own.cosine = HostRows(vectors.shape[1])
        own.cosine.add(vectors)
        own.rows = np.concatenate([own.rows, numbers])
        for number, other in [(batch, own), *self._others(batch)]:
            later = max(batch, number)
            held = self._batches[later]
            if held is None or other.cosine is None:
                continue
            # a row of its own batch finds itself, and what came with it twice
            room = 2 * held.close_room + len(vectors) if other is own else held.close_room
            found = other.cosine.pairs(vectors, self._cosine, room)
            close = None
            if found is not None:
                pairs, cosines = found
                left = numbers[pairs[:, 0]].astype(np.int32)
                right = other.rows[pairs[:, 1]].astype(np.int32)
                pair = (left, right) if later == batch else (right, left)
                close = Close(*pair, cosines)
                if other is own:  # and of equal texts ROUGE-L accepts one, whatever their cosine
                    groups = np.concatenate(own.groups)
                    counted = (right < left) & (groups[left] != groups[right])
                    close = Close(*(column[counted] for column in close))
                if len(close.left) > held.close_room:
                    close = None
            self._keep_close(later, None if other is own else min(batch, number), close)

    def _keep_near(self, batch: int, other: int | None, near: Near | None) -> None:
        """Note pairs of a batch with an earlier one; None: more of them than there is room for."""
        held = self._batches[batch]
        if held is None:
            return
        if near is None:
            self._give_up(batch)
        elif len(near.left):
            held.near.setdefault(other, []).append(near)
            held.near_room -= len(near.left)

    def _keep_close(self, batch: int, other: int | None, close: Close | None) -> None:
        held = self._batches[batch]
        if held is None:
            return
        if close is None:
            self._give_up(batch)
        elif len(close.left):
            held.close.setdefault(other, []).append(close)
            held.close_room -= len(close.left)

    def _give_up(self, batch: int) -> None:
        self._batches[batch] = None
        if not self._told:
            self._told = True
            logger.warning(
                "batch %d, in a build a round, has more than %s pairs of texts that are too near: "
                "they are compared again as it is decided, which takes longer and changes no "
                "decision. Smaller batches (bootstrap.prompts_per_round) have fewer; told once",
                batch,
                f"{MOST_PAIRS:,}",
            )


def _all_close(parts: list[Close]) -> Close:
    none = np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0)
    return Close(*map(np.concatenate, zip(none, *parts, strict=True)))
