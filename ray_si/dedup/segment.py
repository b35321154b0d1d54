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


class _Limits(NamedTuple):
    """The tables of a `Threshold`, for compiled code."""

    need: np.ndarray
    reach: np.ndarray
    shortest: np.ndarray


class _Texts(NamedTuple):
    """`Encoded`, for compiled code."""

    tokens: np.ndarray
    offsets: np.ndarray


class _Index(NamedTuple):
    """The arrays of a segment, for compiled code.

    Its texts are ordered by length; the one at place i has the id ``first_id + by_length[i]``, the
    longest has ``longest`` tokens. ``ranks`` is each token's rank, rarest first (-1 where it is
    absent). The postings of rank r are those from ``starts[r]`` on: texts' places, signatures, and
    keys (`_key`), by which they are ordered.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    by_length: np.ndarray
    first_id: int
    longest: int
    ranks: np.ndarray
    starts: np.ndarray
    texts: np.ndarray
    signatures: np.ndarray
    keys: np.ndarray


class _Query(NamedTuple):
    """A query, for compiled code: its number, tokens, and how many of them the segment knows.

    ``signature`` is of those. A query of at most 64 tokens is loaded into ``table`` and ``masks``.
    A longer one has its tokens in ``ordered``, sorted, and marks what it was compared with in
    ``seen``, by its number plus 1.
    """

    number: int
    tokens: np.ndarray
    known: int
    signature: np.uint64
    table: np.ndarray
    masks: np.ndarray
    ordered: np.ndarray
    seen: np.ndarray


class Segment:
    """Texts with the ids ``first_id``, ``first_id + 1``, ...; see the module."""

    def __init__(
        self, encoded: Encoded, first_id: int, vocabulary_size: int, threshold: Threshold
    ) -> None:
        self.first_id = first_id
        lengths = encoded.lengths
        by_length = np.argsort(lengths, kind="stable").astype(np.int32)
        ordered = encoded.take(by_length)
        tokens, offsets = ordered.tokens, ordered.offsets
        longest = int(lengths.max())
        threshold.cover(longest)
        ranks = _rarest_first(tokens, vocabulary_size)
        self._index = _Index(
            tokens, offsets, by_length, first_id, longest, ranks,
            *_postings(tokens, offsets, ranks, threshold.prefix),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._index.by_length)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(part.nbytes for part in self._index if isinstance(part, np.ndarray))

    def encoded(self) -> Encoded:
        """Its texts, in the order of their ids."""
        positions = np.empty_like(self._index.by_length)
        positions[self._index.by_length] = np.arange(len(self), dtype=np.int32)
        return Encoded(self._index.tokens, self._index.offsets).take(positions)

    def search(self, queries: Encoded, threshold: Threshold, best: Best) -> None:
        """Improve ``best`` for the queries, whose token ids are of the same vocabulary."""
        longest = int(queries.lengths.max(initial=0))
        seen = np.zeros(len(self) if longest > 64 else 0, np.int32)
        asked = _Texts(queries.tokens, queries.offsets)
        _search(asked, _limits(threshold), self._index, seen, best)


def _limits(threshold: Threshold) -> _Limits:
    return _Limits(threshold.need, threshold.reach, threshold.shortest)


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
    asked, held = (_Texts(part.tokens, part.offsets) for part in (queries, texts))
    _scan(asked, _limits(threshold), held, bits, first_id, best)


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
def _sort(values: Any) -> None:
    if len(values) > 64:
        values.sort()
        return
    for i in range(1, len(values)):
        value, k = values[i], i
        while k > 0 and values[k - 1] > value:
            values[k] = values[k - 1]
            k -= 1
        values[k] = value


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
                _sort(row)
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
def _needed(need: Any, total: Any, best: Best, q: Any) -> Any:
    """The least LCS that is above the threshold and no worse than the best so far of query q."""
    if best.lcs[q] == 0:
        return need[total]
    return max(need[total], (best.lcs[q] * total + best.totals[q] - 1) // best.totals[q])


@njit(cache=True, nogil=True)
def _improve(q: Any, common: Any, total: Any, id_: Any, best: Best) -> Any:
    """Take a match that is nearer than the best, or as near and earlier; whether it was taken."""
    new, old = common * best.totals[q], best.lcs[q] * total
    if new > old or (new == old and id_ < best.ids[q]):
        best.ids[q], best.lcs[q], best.totals[q] = id_, common, total
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
def _search(queries: _Texts, limits: _Limits, index: _Index, seen: Any, best: Best) -> None:
    table, masks = np.empty(SLOTS, np.int32), np.empty(SLOTS, np.uint64)
    room = 0
    for q in range(len(queries.offsets) - 1):
        room = max(room, queries.offsets[q + 1] - queries.offsets[q])
    ranks = np.empty(room, np.int32)
    for q in range(len(queries.offsets) - 1):
        tokens = queries.tokens[queries.offsets[q] : queries.offsets[q + 1]]
        m = len(tokens)
        if m == 0 or limits.shortest[m] > min(m, index.longest):
            continue
        known, bits = _rank(tokens, index.ranks, ranks)
        ordered = tokens
        if m > 64:
            ordered = np.sort(tokens)
        else:
            load_block(tokens, table, masks)
        query = _Query(q, tokens, known, bits, table, masks, ordered, seen)
        for k in range(known):
            if k > 0 and ranks[k] == ranks[k - 1]:
                continue
            left = known - k  # this token and those after it, the only ones that can be shared
            longest_match = min(index.longest, limits.reach[left] - m)
            if longest_match < limits.shortest[m]:
                break
            _search_list(ranks[k], left, longest_match, query, limits, index, best)


@njit(cache=True, nogil=True)
def _rank(tokens: Any, ranks: Any, row: Any) -> Any:
    """Fill ``row`` with the ranks of known tokens, ascending; their number and their signature."""
    known, bits = 0, np.uint64(0)
    for token in tokens:
        if 0 <= token < len(ranks) and ranks[token] >= 0:
            row[known] = ranks[token]
            known += 1
            bits |= token_bit(token)
    _sort(row[:known])
    return known, bits


@njit(cache=True, nogil=True)
def _search_list(
    rank: Any, left: Any, longest_match: Any, query: _Query, limits: _Limits, index: _Index,
    best: Best,
) -> None:  # fmt: skip
    """Compare a query with what one list of postings has of texts that share ``left`` tokens."""
    m = len(query.tokens)
    stop = index.starts[rank + 1]
    p = _lower_bound(index.keys, index.starts[rank], stop, _key(limits.shortest[m], 0))
    while p < stop:
        n = np.int64(index.keys[p] >> 8)
        if n == _MANY:
            n = index.offsets[index.texts[p] + 1] - index.offsets[index.texts[p]]
        if n > longest_match or _needed(limits.need, m + n, best, query.number) > left:
            break
        if n < _MANY:
            _search_run(p, stop, n, query, limits, index, best)
            p = _skip(index.keys, p, stop, _key(n + 1, 0))
        else:  # longer texts are looked at one by one
            _search_run(p, p + 1, n, query, limits, index, best)
            p += 1


@njit(cache=True, nogil=True)
def _search_run(
    p: Any, stop: Any, n: Any, query: _Query, limits: _Limits, index: _Index, best: Best
) -> None:
    """Compare a query with the texts of n tokens that a list has from ``p`` on, as far as it can.

    What one text has and the other lacks shows in their signatures.
    """
    q, total = query.number, len(query.tokens) + n
    required = _needed(limits.need, total, best, q)
    last_key = _key(n, n - required)
    while p < stop and index.keys[p] <= last_key:
        bits = index.signatures[p]
        if (
            popcount(query.signature & ~bits) <= query.known - required
            and popcount(bits & ~query.signature) <= n - required
        ):
            text = index.texts[p]
            common = _compare(query, text, required, index)
            id_ = index.first_id + index.by_length[text]
            if common >= required and _improve(q, common, total, id_, best):
                required = _needed(limits.need, total, best, q)
                last_key = _key(n, n - required)
        p += 1


@njit(cache=True, nogil=True)
def _compare(query: _Query, text: Any, required: Any, index: _Index) -> Any:
    """LCS with a text of the segment; 0 where it is known to be too short, or was compared."""
    other = index.tokens[index.offsets[text] : index.offsets[text + 1]]
    if len(query.tokens) <= 64:
        return lcs(query.tokens, other, True, query.table, query.masks)
    if query.seen[text] == query.number + 1:
        return 0
    query.seen[text] = query.number + 1
    if _overlap(query.ordered, np.sort(other)) < required:
        return 0
    return lcs(query.tokens, other, False, query.table, query.masks)


@njit(cache=True, nogil=True)
def _most_missing(m: Any, need: Any, shortest: Any) -> Any:
    """How many tokens of a text of m a match may lack; negative where nothing can match."""
    return m - need[m + shortest[m]] if shortest[m] <= m else -1


@njit(cache=True, nogil=True)
def _scan(
    queries: _Texts, limits: _Limits, texts: _Texts, bits: Any, first_id: Any, best: Best
) -> None:
    table, masks = np.empty(SLOTS, np.int32), np.empty(SLOTS, np.uint64)
    for q in range(len(queries.offsets) - 1):
        query = queries.tokens[queries.offsets[q] : queries.offsets[q + 1]]
        m, own_bits, loaded = len(query), signature(query), False
        most = _most_missing(m, limits.need, limits.shortest)
        for text in range(len(bits)):
            if popcount(own_bits & ~bits[text]) > most:
                continue
            n = texts.offsets[text + 1] - texts.offsets[text]
            required = _needed(limits.need, m + n, best, q)
            if required > min(m, n) or popcount(bits[text] & ~own_bits) > n - required:
                continue
            if not loaded and m <= 64:
                loaded = True
                load_block(query, table, masks)
            other = texts.tokens[texts.offsets[text] : texts.offsets[text + 1]]
            common = lcs(query, other, loaded, table, masks)
            if common >= required:
                _improve(q, common, m + n, first_id + text, best)


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
