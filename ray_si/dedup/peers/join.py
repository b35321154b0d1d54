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
)
from ray_si.dedup.tokens import Tokenizer
from ray_si.dedup.vocabulary import Vocabulary

_UNKNOWN = np.iinfo(np.int32).max


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
    """Texts, and a list of postings for each token, which begins with the ``first``.

    A posting is five int64 in a row, so that memory gives it in one piece: the text, the following
    posting, the text's signature and length, and the token's place in it. ``size``: texts and
    postings in use.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    settled: np.ndarray
    seen: np.ndarray
    first: np.ndarray
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
            settled=np.zeros(0, bool), seen=np.zeros(0, np.int32), first=np.zeros(0, np.int64),
            postings=np.zeros((0, 5), np.int64), size=np.zeros(2, np.int64),
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
            first=_grown(listed.first, len(listed.first), len(self._vocabulary), -1),
            postings=_grown(listed.postings, postings, postings + tokens),
        )


def _grown(array: np.ndarray, used: int, size: int, rest: int = 0) -> np.ndarray:
    """The array, or a copy of what is used with room for ``size`` and half as much again."""
    if size <= len(array):
        return array
    grown = np.full((size + size // 2, *array.shape[1:]), rest, array.dtype)
    grown[:used] = array[:used]
    return grown


@njit(cache=True, nogil=True)
def _sorted(text: Any) -> Any:
    """Its tokens, ascending, those that are unknown as the highest."""
    row = np.empty(len(text), np.int32)
    for i in range(len(text)):
        value, k = text[i] if text[i] >= 0 else _UNKNOWN, i
        while k > 0 and row[k - 1] > value:
            row[k] = row[k - 1]
            k -= 1
        row[k] = value
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
        listed.postings[postings, 0], listed.postings[postings, 1] = group, listed.first[token]
        listed.postings[postings, 2] = np.int64(bits)
        listed.postings[postings, 3], listed.postings[postings, 4] = len(text), k
        listed.first[token] = postings
        postings += 1
    listed.size[0], listed.size[1] = group + 1, postings


@njit(cache=True, nogil=True)
def _join(
    tokens: Any, offsets: Any, settled: Any, need: Any, shortest: Any, prefix: Any,
    listed: Any, adds: Any, room: Any,
) -> Any:  # fmt: skip
    """Groups (-1 without ``adds``), pairs, and their number, or ``room`` + 1."""
    keys, masks = np.empty(SLOTS, np.int32), np.empty(SLOTS, np.uint64)
    groups = np.full(len(offsets) - 1, -1, np.int64)
    pairs, count = np.empty((256, 4), np.int32), 0
    first, postings, seen = listed.first, listed.postings, listed.seen
    for q in range(len(groups)):
        query = tokens[offsets[q] : offsets[q + 1]]
        m, own, row, begun = len(query), signature(query), _sorted(query), count
        places = prefix[m] if shortest[m] <= m else 0
        loaded = False
        for k in range(places):
            token = row[m - 1 - k]
            if token >= len(first) or (k > 0 and token == row[m - k]):
                continue
            p = first[token]
            while p >= 0 and groups[q] < 0:
                text, n, place = postings[p, 0], postings[p, 3], postings[p, 4]
                bits = np.uint64(postings[p, 2])
                p = postings[p, 1]
                required = need[m + n]
                if (
                    required > min(m - k, n - place)  # what is shared comes from here on
                    or popcount(own & ~bits) > m - required
                    or popcount(bits & ~own) > n - required
                    or seen[text] == q
                    or (n != m and settled[q] and listed.settled[text])
                ):
                    continue
                seen[text] = q
                if not loaded and m <= 64:
                    loaded = True
                    load_block(query, keys, masks)
                other = listed.tokens[listed.offsets[text] : listed.offsets[text + 1]]
                found = lcs(query, other, loaded, keys, masks)
                if adds and found == m and found == n:
                    groups[q], count = text, begun
                elif found >= required and not (settled[q] and listed.settled[text]):
                    if count >= room:
                        count = room + 1
                        return groups, pairs, count
                    if count == len(pairs):
                        pairs = np.concatenate((pairs, np.empty_like(pairs)))
                    pairs[count, 0], pairs[count, 1] = q, text
                    pairs[count, 2], pairs[count, 3] = found, m + n
                    count += 1
            if groups[q] >= 0:
                break
        if adds and groups[q] < 0:
            groups[q] = listed.size[0]
            _append(listed, query, row, own, settled[q], places)
            pairs[begun:count, 0] = groups[q]
    return groups, pairs, count
