"""All pairs of texts with a ROUGE-L F above a threshold, found as the texts come in.

As in `ray_si.dedup.segment`, texts that are near enough share one of their first tokens, in any
order fixed for all. The order here is that of token ids, highest first: ids are given by first
appearance, so common words come last, and what is listed once never moves. Tokens that the listed
texts do not have come before all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from ray_si.dedup.rouge import (
    SLOTS,
    Threshold,
    lcs,
    load_block,
    popcount,
    signature,
    sort_tokens,
)
from ray_si.dedup.tokens import Tokenizer
from ray_si.dedup.vocabulary import Vocabulary

_UNKNOWN = np.iinfo(np.int32).max

_LONGEST = 64
"""Postings of a run at most."""

_MANY = 0xFFFF
"""From this length or place on, a posting does not tell them apart."""


class Near(NamedTuple):
    """Pairs above the threshold: who asked and whom it is near, LCS length, summed token counts.

    int32, shape (n,).
    """

    left: np.ndarray
    right: np.ndarray
    lcs: np.ndarray
    totals: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Near]) -> Near:
        """All of the parts."""
        columns = zip(*([np.zeros(0, np.int32)] * 4, *parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def turned(self) -> Near:
        """The pairs the other way round."""
        return Near(self.right, self.left, self.lcs, self.totals)


class _Listed(NamedTuple):
    """Texts, and for each token a list of postings: who has it among the first.

    A posting is two int64: the text's signature, and in 32, 16 and 16 bits the text, its length and
    the token's place. A list lies in runs, each twice as long as the one before, up to `_LONGEST`,
    so that memory is read in one piece: ``lists`` has where a token's last run starts, how many
    postings it holds and has room for; before it stands the same of the run before. ``size``: texts
    and postings in use.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    settled: np.ndarray
    seen: np.ndarray
    lists: np.ndarray
    postings: np.ndarray
    size: np.ndarray


class RougeJoin:
    """Distinct texts, by their tokens, and the pairs of them that are near.

    Texts with the same tokens are one here: a group. Pairs of two texts that are ``settled``, each
    refused whatever the other does, are left out.
    """

    def __init__(self, threshold: float, tokenizer: Tokenizer) -> None:
        self._threshold = Threshold(threshold)
        self._vocabulary = Vocabulary(tokenizer)
        self._listed = _Listed(
            tokens=np.zeros(0, np.int32), offsets=np.zeros(1, np.int64),
            settled=np.zeros(0, bool), seen=np.zeros(0, np.int32),
            lists=np.zeros((0, 3), np.int64), postings=np.zeros((0, 2), np.int64),
            size=np.zeros(2, np.int64),
        )  # fmt: skip

    def __len__(self) -> int:
        return int(self._listed.size[0])

    @property
    def twice(self) -> np.ndarray:
        """Summed token counts of a group with itself; 0 where even so it is not above."""
        lengths = np.diff(self._listed.offsets[: len(self) + 1])
        return np.where(self._threshold.need[2 * lengths] <= lengths, 2 * lengths, 0)

    def add(
        self, texts: Sequence[str], settled: np.ndarray, room: int
    ) -> tuple[np.ndarray, Near | None]:
        """The groups of some texts, int64, and the pairs of new groups with others.

        Groups are numbered as they come; in a pair the new one is the ``left``. Pairs are None
        where there are more than ``room``.
        """
        encoded = self._vocabulary.encode(texts, grow=True)
        self._threshold.cover(int(encoded.lengths.max(initial=0)))
        self._reserve(len(encoded), len(encoded.tokens))
        return self._join(encoded.tokens, encoded.offsets, settled, True, room)

    def near(self, texts: Sequence[str], settled: np.ndarray, room: int) -> Near | None:
        """The pairs of some texts, numbered from 0, with groups; None for more than ``room``."""
        encoded = self._vocabulary.encode(texts, grow=False)
        self._threshold.cover(int(encoded.lengths.max(initial=0)))
        return self._join(encoded.tokens, encoded.offsets, settled, False, room)[1]

    def _join(
        self, tokens: np.ndarray, offsets: np.ndarray, settled: np.ndarray, adds: bool, room: int
    ) -> tuple[np.ndarray, Near | None]:
        self._listed.seen[: len(self)] = -1
        threshold = self._threshold
        groups, pairs, count = _join(
            tokens, offsets, settled, threshold.need, threshold.shortest, threshold.prefix,
            self._listed, adds, room,
        )  # fmt: skip
        return groups, None if count > room else Near(*np.ascontiguousarray(pairs[:count].T))

    def _reserve(self, texts: int, tokens: int) -> None:
        """Room for so many more texts, tokens and postings."""
        listed, (size, postings) = self._listed, self._listed.size.tolist()
        used = int(listed.offsets[size])
        self._listed = listed._replace(
            tokens=_grown(listed.tokens, used, used + tokens),
            offsets=_grown(listed.offsets, size + 1, size + texts + 1),
            settled=_grown(listed.settled, size, size + texts),
            seen=_grown(listed.seen, size, size + texts),
            lists=_grown(listed.lists, len(listed.lists), len(self._vocabulary)),
            postings=_grown(listed.postings, postings, postings + (_LONGEST + 1) * tokens),
        )


def _grown(array: np.ndarray, used: int, size: int) -> np.ndarray:
    """The array, or a copy of what is used with room for ``size`` and half as much again."""
    if size <= len(array):
        return array
    grown = np.zeros((size + size // 2, *array.shape[1:]), array.dtype)
    grown[:used] = array[:used]
    return grown


@njit(cache=True, nogil=True)
def _sorted(text: Any) -> Any:
    """Its tokens, ascending, those that are unknown as the highest."""
    row = np.empty(len(text), np.int32)
    for i in range(len(text)):
        row[i] = text[i] if text[i] >= 0 else _UNKNOWN
    sort_tokens(row)
    return row


@njit(cache=True, nogil=True)
def _append(listed: Any, text: Any, row: Any, bits: Any, settled: Any, prefix: Any) -> None:
    """List a text, whose sorted tokens are ``row``, by the first ``prefix`` of them."""
    group, postings = listed.size[0], listed.size[1]
    start = listed.offsets[group]
    listed.tokens[start : start + len(text)] = text
    listed.offsets[group + 1] = start + len(text)
    listed.settled[group], listed.seen[group] = settled, -1
    for k in range(prefix):
        token = row[len(row) - 1 - k]
        if k > 0 and token == row[len(row) - k]:
            continue
        start, used, room = listed.lists[token, 0], listed.lists[token, 1], listed.lists[token, 2]
        if used == room:
            listed.postings[postings, 0], listed.postings[postings, 1] = start, used
            start, used, room = postings + 1, 0, min(max(1, 2 * room), _LONGEST)
            postings += 1 + room
        listed.postings[start + used, 0] = np.int64(bits)
        shape = min(len(text), _MANY) << 16 | min(k, _MANY)
        listed.postings[start + used, 1] = group << 32 | shape
        listed.lists[token, 0], listed.lists[token, 1] = start, used + 1
        listed.lists[token, 2] = room
    listed.size[0], listed.size[1] = group + 1, postings


@njit(cache=True, nogil=True)
def _possible(
    q: Any, row: Any, own: Any, settled: Any, need: Any, prefix: Any, listed: Any, found: Any
) -> Any:
    """Write the texts into ``found`` that may be near to one; their number.

    The text is called ``q``, its sorted tokens are ``row`` and its signature ``own``.
    """
    lists, postings, seen = listed.lists, listed.postings, listed.seen
    m, count = len(row), 0
    for k in range(prefix):
        token = row[m - 1 - k]
        if token >= len(lists) or (k > 0 and token == row[m - k]):
            continue
        start, used = lists[token, 0], lists[token, 1]
        while used > 0:
            for p in range(start, start + used):
                bits, shape = np.uint64(postings[p, 0]), postings[p, 1]
                n, place, text = shape >> 16 & _MANY, shape & _MANY, shape >> 32
                if n == _MANY:
                    n = listed.offsets[text + 1] - listed.offsets[text]
                required = need[m + n]
                if (
                    required <= min(m - k, n - place)  # what is shared comes from here on
                    and popcount(own & ~bits) <= m - required
                    and popcount(bits & ~own) <= n - required
                    and seen[text] != q
                    and (n == m or not (settled and listed.settled[text]))
                ):
                    seen[text], found[count] = q, text
                    count += 1
            start, used = postings[start - 1, 0], postings[start - 1, 1]
    return count


@njit(cache=True, nogil=True)
def _join(
    tokens: Any, offsets: Any, settled: Any, need: Any, shortest: Any, prefix: Any,
    listed: Any, adds: Any, room: Any,
) -> Any:  # fmt: skip
    """Groups (-1 without ``adds``), pairs, and their number, or ``room`` + 1."""
    keys, masks = np.empty(SLOTS, np.int32), np.empty(SLOTS, np.uint64)
    possible = np.empty(len(listed.seen), np.int64)
    groups = np.full(len(offsets) - 1, -1, np.int64)
    pairs, count = np.empty((256, 4), np.int32), 0
    for q in range(len(groups)):
        query = tokens[offsets[q] : offsets[q + 1]]
        m, own, row, begun = len(query), signature(query), _sorted(query), count
        places = prefix[m] if shortest[m] <= m else 0
        several = _possible(q, row, own, settled[q], need, places, listed, possible)
        if several and m <= 64:
            load_block(query, keys, masks)
        for text in possible[:several]:
            other = listed.tokens[listed.offsets[text] : listed.offsets[text + 1]]
            n, found = len(other), lcs(query, other, m <= 64, keys, masks)
            if adds and found == m and found == n:
                groups[q], count = text, begun
                break
            if found < need[m + n] or (settled[q] and listed.settled[text]):
                continue
            if count >= room:
                return groups, pairs, room + 1
            if count == len(pairs):
                pairs = np.concatenate((pairs, np.empty_like(pairs)))
            pairs[count, 0], pairs[count, 1] = q, text
            pairs[count, 2], pairs[count, 3] = found, m + n
            count += 1
        if adds and groups[q] < 0:
            groups[q] = listed.size[0]
            _append(listed, query, row, own, settled[q], places)
            pairs[begun:count, 0] = groups[q]
    return groups, pairs, count
