"""An immutable part of a ROUGE-L index: postings of rare tokens, searched without loss.

F > t bounds the length of a match, and, with both texts' tokens sorted rarest first, the places
where their first common token can stand: a text of m tokens whose match must share ``a`` with it
need look up its first m - a + 1 only, and meets there one of the match's first n - a + 1. A list of
postings is ordered by text length and then by the token's place, so that what can match are some
entries in a row for each length; their texts' signatures refuse most of them without touching the
texts. What is left is compared by bit-parallel LCS.
"""

from __future__ import annotations

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
    signatures,
    sort_tokens,
    token_bit,
)
from ray_si.dedup.vocabulary import Encoded

_MANY = 255
"""From this length or place on, a posting's key does not tell them apart."""


class Best(NamedTuple):
    """The best match of each query so far: ids (-1 for none), LCS lengths, summed token counts m+n.

    int64, shape (n,); 0 and 1 where there is none. Searching improves them in place.
    """

    ids: np.ndarray
    lcs: np.ndarray
    totals: np.ndarray


class Segment:
    """Texts with the ids ``first_id``, ``first_id + 1``, ...; see the module."""

    def __init__(
        self, encoded: Encoded, first_id: int, vocabulary_size: int, threshold: Threshold
    ) -> None:
        self.first_id = first_id
        lengths = encoded.lengths
        self._by_length = np.argsort(lengths, kind="stable").astype(np.int32)
        ordered = encoded.take(self._by_length)
        self._tokens, self._offsets = ordered.tokens, ordered.offsets
        self._longest = int(lengths.max())
        threshold.cover(self._longest)
        self._ranks = _rarest_first(self._tokens, vocabulary_size)
        self._starts, self._texts, self._signatures, self._keys = _postings(
            self._tokens, self._offsets, self._ranks, threshold.prefix
        )

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(a.nbytes for a in vars(self).values() if isinstance(a, np.ndarray))

    def encoded(self) -> Encoded:
        """Its texts, in the order of their ids."""
        positions = np.empty_like(self._by_length)
        positions[self._by_length] = np.arange(len(self), dtype=np.int32)
        return Encoded(self._tokens, self._offsets).take(positions)

    def search(self, queries: Encoded, threshold: Threshold, best: Best, first: int = -1) -> None:
        """Improve ``best`` for the queries, whose token ids are of the same vocabulary.

        With ``first`` the queries are texts of the segment itself, in order from this one on: none
        finds itself, and any other one above the threshold will do.
        """
        longest = int(queries.lengths.max(initial=0))
        _search(
            queries.tokens, queries.offsets,
            threshold.need, threshold.reach, threshold.shortest,
            self._tokens, self._offsets, self._by_length, self.first_id, self._longest,
            self._ranks, self._starts, self._texts, self._signatures, self._keys,
            np.zeros(len(self) if longest > 64 else 0, np.int32), first, *best,
        )  # fmt: skip


def scan(
    queries: Encoded,
    threshold: Threshold,
    texts: Encoded,
    bits: np.ndarray,
    first_id: int,
    best: Best,
) -> None:
    """`Segment.search` over texts without postings, for small numbers; ``bits`` their signatures.

    Texts with ids ``first_id``, ``first_id + 1``, ...
    """
    _scan(
        queries.tokens, queries.offsets,
        threshold.need, threshold.shortest, texts.tokens, texts.offsets, bits, first_id, *best,
    )  # fmt: skip


def near_pairs(
    texts: Encoded, threshold: Threshold, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of texts j < i above the threshold, where ``among[j]``; ordered by i, then j.

    Returns i, j and LCS lengths, int32. Compares every pair's signatures, so it is meant for some
    thousand texts at most.
    """
    bits = signatures(texts.tokens, texts.offsets)
    return _near_pairs(texts.tokens, texts.offsets, bits, among, threshold.need, threshold.shortest)  # type: ignore[no-any-return]


def all_lcs(query: np.ndarray, texts: Encoded) -> np.ndarray:
    """LCS length of one query with every text, int32, shape (n,)."""
    return _all_lcs(query, texts.tokens, texts.offsets)  # type: ignore[no-any-return]


# Building --------------------------------------------------------------------------------------


def _rarest_first(tokens: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """Rank of each token id by its frequency here, rarest first (int32; -1 where it is absent)."""
    counts = _frequencies(tokens, vocabulary_size)
    present = np.flatnonzero(counts)
    order = present[np.argsort(counts[present], kind="stable")]
    ranks = np.full(vocabulary_size, -1, np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)
    return ranks


@njit(cache=True, nogil=True)
def _frequencies(tokens: Any, size: Any) -> Any:
    counts = np.zeros(size, np.int64)
    for token in tokens:
        counts[token] += 1
    return counts


@njit(cache=True, nogil=True)
def _postings(tokens: Any, offsets: Any, ranks: Any, prefix: Any) -> Any:
    """Postings of each text's prefix, by rank: where lists start, then texts, signatures, keys.

    A list is ordered by `_key`: text length, then the token's place among the sorted tokens.
    """
    n_texts = len(offsets) - 1
    starts = np.zeros(ranks.max() + 3 if len(ranks) else 2, np.int64)
    texts, bits, keys = np.empty(0, np.int32), np.empty(0, np.uint64), np.empty(0, np.uint16)
    for filling in range(2):
        begin = 0
        while begin < n_texts:  # the texts of one length
            n = offsets[begin + 1] - offsets[begin]
            end = begin + 1
            while end < n_texts and offsets[end + 1] - offsets[end] == n:
                end += 1
            rows = np.empty((end - begin, n), np.int32)
            own = signatures(tokens, offsets[begin : end + 1])
            for i in range(begin, end):
                row = rows[i - begin]
                for k in range(n):
                    row[k] = ranks[tokens[offsets[i] + k]]
                sort_tokens(row)
            for k in range(prefix[n]):
                for i in range(end - begin):
                    rank = rows[i, k]
                    if k > 0 and rank == rows[i, k - 1]:
                        continue
                    if filling:
                        p = starts[rank + 1]
                        starts[rank + 1] += 1
                        texts[p], bits[p], keys[p] = begin + i, own[i], _key(n, k)
                    else:
                        starts[rank + 2] += 1
            begin = end
        if not filling:
            for r in range(2, len(starts)):
                starts[r] += starts[r - 1]
            total = starts[-1]
            texts, bits = np.empty(total, np.int32), np.empty(total, np.uint64)
            keys = np.empty(total, np.uint16)
    return starts[:-1].copy(), texts, bits, keys


@njit(cache=True, nogil=True)
def _key(length: Any, place: Any) -> Any:
    """Length and place in 16 bits; 255 stands for all from there on, -1 for a negative place."""
    return np.int64(min(length, _MANY)) << 8 | min(place, _MANY)


# Searching -------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _lower_bound(values: Any, start: Any, end: Any, value: Any) -> Any:
    """The first place from ``start`` on whose value is at least this."""
    while start < end:
        middle = (start + end) >> 1
        if values[middle] < value:
            start = middle + 1
        else:
            end = middle
    return start


@njit(cache=True, nogil=True)
def _skip(values: Any, start: Any, end: Any, value: Any) -> Any:
    """`_lower_bound`, in steps that double: fast where the place is near."""
    step = 1
    while start + step < end and values[start + step] < value:
        start += step
        step <<= 1
    return _lower_bound(values, start, min(start + step, end), value)


@njit(cache=True, nogil=True)
def _needed(need: Any, total: Any, best_lcs: Any, best_total: Any) -> Any:
    """The least LCS that is above the threshold and no worse than the best so far."""
    if best_lcs == 0:
        return need[total]
    return max(need[total], (best_lcs * total + best_total - 1) // best_total)


@njit(cache=True, nogil=True)
def _improve(q: Any, found: Any, total: Any, id_: Any, ids: Any, lengths: Any, totals: Any) -> Any:
    """Take a match that is nearer than the best, or as near and earlier; whether it was taken."""
    mine, his = found * totals[q], lengths[q] * total
    if mine > his or (mine == his and id_ < ids[q]):
        ids[q], lengths[q], totals[q] = id_, found, total
        return True
    return False


@njit(cache=True, nogil=True)
def _overlap(left: Any, right: Any) -> Any:
    """Tokens in common, with multiplicity, of two sorted sequences."""
    i = j = common = 0
    while i < len(left) and j < len(right):
        if left[i] == right[j]:
            common += 1
            i += 1
            j += 1
        elif left[i] < right[j]:
            i += 1
        else:
            j += 1
    return common


@njit(cache=True, nogil=True)
def _next_near(
    p: Any, stop: Any, keys: Any, bits: Any, texts: Any, offsets: Any,
    need: Any, m: Any, known: Any, left: Any, own: Any, longest_match: Any,
    best_lcs: Any, best_total: Any,
) -> Any:  # fmt: skip
    """The next place of a list, from ``p`` on, whose text's signature is near enough, or ``stop``.

    The query has m tokens; ``known`` of them are known here, and ``left`` can be shared.

    A function of its own, since Numba counts references to arrays, with atomic instructions, where
    a loop also makes slices or assigns arrays: for every entry that takes longer than looking at
    it, and longer still with several threads.
    """
    while p < stop:
        n = np.int64(keys[p] >> 8)
        if n == _MANY:
            n = offsets[texts[p] + 1] - offsets[texts[p]]
        if n > longest_match:
            return stop
        required = _needed(need, m + n, best_lcs, best_total)
        if required > left:
            return stop
        last_key = _key(n, n - required)
        end = stop if n < _MANY else p + 1  # longer texts are looked at one by one
        while p < end and keys[p] <= last_key:
            lacking, other_lacks = popcount(own & ~bits[p]), popcount(bits[p] & ~own)
            if lacking <= known - required and other_lacks <= n - required:
                return p
            p += 1
        p = _skip(keys, p, stop, _key(n + 1, 0)) if n < _MANY else max(p, end)
    return stop


@njit(cache=True, nogil=True)
def _search(
    q_tokens: Any, q_offsets: Any,
    need: Any, reach: Any, shortest: Any,
    tokens: Any, offsets: Any, by_length: Any, first_id: Any, longest: Any,
    ranks: Any, starts: Any, texts: Any, bits: Any, keys: Any, seen: Any, first: Any,
    best_ids: Any, best_lcs: Any, best_totals: Any,
) -> None:  # fmt: skip
    table, masks = np.empty(SLOTS, np.int32), np.empty(SLOTS, np.uint64)
    room = 0
    for q in range(len(q_offsets) - 1):
        room = max(room, q_offsets[q + 1] - q_offsets[q])
    own_ranks = np.empty(room, np.int32)
    for q in range(len(q_offsets) - 1):
        query = q_tokens[q_offsets[q] : q_offsets[q + 1]]
        m = len(query)
        shortest_match = shortest[m]
        if m == 0 or shortest_match > m or shortest_match > longest:
            continue
        known, own = 0, np.uint64(0)
        for token in query:
            if 0 <= token < len(ranks) and ranks[token] >= 0:
                own_ranks[known] = ranks[token]
                known += 1
                own |= token_bit(token)
        sort_tokens(own_ranks[:known])
        loaded = is_done = False
        ordered = query  # sorted when a long query first needs it
        for k in range(known):
            rank = own_ranks[k]
            if k > 0 and rank == own_ranks[k - 1]:
                continue
            left = known - k  # this token and those after it, the only ones that can be shared
            longest_match = min(longest, reach[left] - m)
            if longest_match < shortest_match or is_done:
                break
            p, stop = starts[rank], starts[rank + 1]
            p = _lower_bound(keys, p, stop, _key(shortest_match, 0))
            while not is_done:
                p = _next_near(
                    p, stop, keys, bits, texts, offsets,
                    need, m, known, left, own, longest_match, best_lcs[q], best_totals[q],
                )  # fmt: skip
                if p == stop:
                    break
                text = texts[p]
                p += 1
                other = tokens[offsets[text] : offsets[text + 1]]
                n = len(other)
                required = _needed(need, m + n, best_lcs[q], best_totals[q])
                if first >= 0 and by_length[text] == first + q:
                    found = 0
                elif m > 64:
                    found = 0
                    if seen[text] != q + 1:
                        seen[text] = q + 1
                        if not loaded:
                            loaded, ordered = True, np.sort(query)
                        if _overlap(ordered, np.sort(other)) >= required:
                            found = lcs(query, other, False, table, masks)
                else:
                    if not loaded:
                        loaded = True
                        load_block(query, table, masks)
                    found = lcs(query, other, True, table, masks)
                if found >= required and _improve(
                    q, found, m + n, first_id + by_length[text],
                    best_ids, best_lcs, best_totals,
                ):  # fmt: skip
                    is_done = first >= 0


@njit(cache=True, nogil=True)
def _most_missing(m: Any, need: Any, shortest: Any) -> Any:
    """How many tokens of a text of m a match may lack; negative where nothing can match."""
    return m - need[m + shortest[m]] if shortest[m] <= m else -1


@njit(cache=True, nogil=True)
def _scan(
    q_tokens: Any, q_offsets: Any, need: Any, shortest: Any,
    tokens: Any, offsets: Any, bits: Any, first_id: Any,
    best_ids: Any, best_lcs: Any, best_totals: Any,
) -> None:  # fmt: skip
    keys, masks = np.empty(SLOTS, np.int32), np.empty(SLOTS, np.uint64)
    for q in range(len(q_offsets) - 1):
        query = q_tokens[q_offsets[q] : q_offsets[q + 1]]
        m, own, loaded = len(query), signature(query), False
        most = _most_missing(m, need, shortest)
        for text in range(len(bits)):
            if popcount(own & ~bits[text]) > most:
                continue
            n = offsets[text + 1] - offsets[text]
            required = _needed(need, m + n, best_lcs[q], best_totals[q])
            if required > min(m, n) or popcount(bits[text] & ~own) > n - required:
                continue
            if not loaded and m <= 64:
                loaded = True
                load_block(query, keys, masks)
            found = lcs(query, tokens[offsets[text] : offsets[text + 1]], loaded, keys, masks)
            if found >= required:
                _improve(q, found, m + n, first_id + text, best_ids, best_lcs, best_totals)


@njit(cache=True, nogil=True)
def _near_pairs(tokens: Any, offsets: Any, bits: Any, among: Any, need: Any, shortest: Any) -> Any:
    keys, masks = np.empty(SLOTS, np.int32), np.empty(SLOTS, np.uint64)
    n_texts = len(bits)
    room = n_texts * (n_texts - 1) // 2  # untouched pages cost nothing
    later, earlier = np.empty(room, np.int32), np.empty(room, np.int32)
    lengths = np.empty(room, np.int32)
    count = 0
    for i in range(n_texts):
        text = tokens[offsets[i] : offsets[i + 1]]
        m, loaded = len(text), False
        most = _most_missing(m, need, shortest)
        for j in range(i):
            if popcount(bits[i] & ~bits[j]) > most or not among[j]:
                continue
            n = offsets[j + 1] - offsets[j]
            required = need[m + n]
            if required > min(m, n) or popcount(bits[j] & ~bits[i]) > n - required:
                continue
            if not loaded and m <= 64:
                loaded = True
                load_block(text, keys, masks)
            found = lcs(text, tokens[offsets[j] : offsets[j + 1]], loaded, keys, masks)
            if found >= required:
                later[count], earlier[count], lengths[count] = i, j, found
                count += 1
    return later[:count].copy(), earlier[:count].copy(), lengths[:count].copy()


@njit(cache=True, nogil=True)
def _all_lcs(query: Any, tokens: Any, offsets: Any) -> Any:
    keys, masks = np.empty(SLOTS, np.int32), np.empty(SLOTS, np.uint64)
    found = np.empty(len(offsets) - 1, np.int32)
    loaded = len(query) <= 64
    if loaded:
        load_block(query, keys, masks)
    for i in range(len(found)):
        found[i] = lcs(query, tokens[offsets[i] : offsets[i + 1]], loaded, keys, masks)
    return found
