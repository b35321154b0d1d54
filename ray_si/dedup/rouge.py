"""ROUGE-L on token ids: the threshold in integers, and longest common subsequences by bits.

ROUGE-L F = 2·LCS/(m+n) for texts of m and n tokens (Lin 2004, with beta = 1).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from ray_si.dedup.tokens import Tokenizer
from ray_si.dedup.vocabulary import Vocabulary

_ONE, _ALL = np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SLOTS = 256
"""Slots of a block's table of tokens: four times the tokens of a machine word."""


class Threshold:
    """A ROUGE-L threshold as tables of integers over token counts.

    ``need[m + n]``: the least LCS with F above the threshold.
    ``reach[k]``: the largest m + n for which an LCS of k is enough.
    ``shortest[n]``: the fewest tokens of a text that can be near enough to one of n.
    ``prefix[n]``: among the tokens of a text of n, sorted in any fixed order, the first
    ``prefix[n]`` include one of every text with F above the threshold (prefix filter: Chaudhuri et
    al. 2006; Xiao et al. 2011).
    """

    def __init__(self, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], not {threshold}")
        self.fraction = Fraction(str(threshold))
        self.longest = 0
        self._growing = threading.Lock()  # readers may go on with smaller tables, which stay true
        self.cover(64)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(a.nbytes for a in (self.need, self.reach, self.shortest, self.prefix))

    def cover(self, longest: int) -> None:
        """Extend the tables to pairs of texts with up to this many tokens each."""
        with self._growing:
            if longest > self.longest:
                self._extend(longest + longest // 4)

    def _extend(self, longest: int) -> None:
        self.longest = longest
        p, q = self.fraction.numerator, self.fraction.denominator
        totals = range(2 * longest + 2)
        if q < 1 << 40:
            self.need = np.arange(len(totals), dtype=np.int64) * p // (2 * q) + 1
        else:  # past 64 bits
            self.need = np.array([p * total // (2 * q) + 1 for total in totals], np.int64)
        n = np.arange(longest + 1)
        self.reach = np.searchsorted(self.need, n, side="right") - 1
        self.shortest = _shortest(self.need, longest)
        self.prefix = n - self.need[n + self.shortest] + 1


@njit(cache=True, nogil=True)
def _shortest(need: Any, longest: Any) -> Any:
    """For each n the smallest m with need[m + n] <= m; n + 1 where there is none up to n."""
    found = np.empty(longest + 1, np.int64)
    m = 0
    for n in range(longest + 1):
        while m <= n and need[m + n] > m:
            m += 1
        found[n] = m
    return found


def _popcount(_: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


popcount: Any = intrinsic(_popcount)
"""Set bits of a uint64, as int64: the processor's own instruction. For compiled code only."""


@njit(cache=True, nogil=True)
def token_bit(token: Any) -> Any:
    """The bit of a token in a `signature`."""
    return _ONE << ((np.uint64(token) * _GOLDEN) >> np.uint64(58))


@njit(cache=True, nogil=True)
def signature(tokens: Any) -> Any:
    """A bit for each known token: what one text has and another lacks shows in their bits."""
    bits = np.uint64(0)
    for token in tokens:
        if token >= 0:
            bits |= token_bit(token)
    return bits


@njit(cache=True, nogil=True)
def signatures(tokens: Any, offsets: Any) -> Any:
    """Signature of every text, uint64, shape (n,)."""
    found = np.empty(len(offsets) - 1, np.uint64)
    for i in range(len(found)):
        found[i] = signature(tokens[offsets[i] : offsets[i + 1]])
    return found


@njit(cache=True, nogil=True)
def sort_tokens(values: Any) -> None:
    """Sort in place, ascending: by insertion where they are few, as they nearly always are."""
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
def _find(keys: Any, token: Any) -> Any:
    """The slot of a token in a table of `SLOTS`, or the free one where it would go."""
    slot = np.int64((np.uint64(token) * _GOLDEN) >> np.uint64(56))
    while keys[slot] >= 0 and keys[slot] != token:
        slot = (slot + 1) & (SLOTS - 1)
    return slot


@njit(cache=True, nogil=True)
def load_block(tokens: Any, keys: Any, masks: Any) -> None:
    """Set the table to at most 64 tokens: for each, the bits of its positions."""
    keys[:] = -1
    for i in range(len(tokens)):
        if tokens[i] >= 0:
            slot = _find(keys, tokens[i])
            if keys[slot] < 0:
                keys[slot] = tokens[i]
                masks[slot] = np.uint64(0)
            masks[slot] |= _ONE << np.uint64(i)


@njit(cache=True, nogil=True)
def lcs_of_block(keys: Any, masks: Any, other: Any) -> Any:
    """LCS of a loaded block with another text (bit-parallel: Hyyrö 2004)."""
    row = _ALL
    for token in other:
        slot = _find(keys, token)
        if keys[slot] >= 0:
            matched = row & masks[slot]
            row = (row + matched) | (row - matched)
    return popcount(~row)


@njit(cache=True, nogil=True)
def lcs_of_long(text: Any, other: Any, keys: Any, masks: Any) -> Any:
    """LCS of two texts of any length, in blocks of 64 tokens; overwrites the table.

    The additions of one block hand their carries on to the next, column by column.
    """
    carries = np.zeros(len(other), np.uint8)
    found = 0
    for start in range(0, len(text), 64):
        load_block(text[start : start + 64], keys, masks)
        row = _ALL
        for j in range(len(other)):
            carry = np.uint64(carries[j])
            slot = _find(keys, other[j])
            matched = row & masks[slot] if keys[slot] >= 0 else np.uint64(0)
            total = row + matched
            first = total < row
            total += carry
            carries[j] = first or total < carry
            row = total | (row & ~matched)
        found += popcount(~row)
    return found


@njit(cache=True, nogil=True)
def lcs(text: Any, other: Any, loaded: Any, keys: Any, masks: Any) -> Any:
    """LCS of two texts; ``loaded`` says that the table holds ``text``, of at most 64 tokens."""
    if len(text) > 64:
        return lcs_of_long(text, other, keys, masks)
    if not loaded:
        load_block(text, keys, masks)
    return lcs_of_block(keys, masks, other)


def rouge_l(a: str, b: str, tokenizer: Tokenizer = "auto") -> float:
    """ROUGE-L F of two texts, 2·LCS/(m+n); 0 where either has no token."""
    return float(rouge_l_of_pairs([a], [b], tokenizer)[0])


def rouge_l_of_pairs(
    left: Sequence[str], right: Sequence[str], tokenizer: Tokenizer = "auto"
) -> np.ndarray:
    """`rouge_l` of each text with the one at the same place, float64, shape (n,)."""
    texts = Vocabulary(tokenizer).encode([*left, *right], grow=True)
    table, bits = np.empty(SLOTS, np.int32), np.empty(SLOTS, np.uint64)
    scores = np.zeros(len(left))
    bounds = zip(texts.offsets[:-1], texts.offsets[1:], strict=True)
    parts = [texts.tokens[start:end] for start, end in bounds]
    for i, (x, y) in enumerate(zip(parts[: len(left)], parts[len(left) :], strict=True)):
        if len(x) and len(y):
            scores[i] = 2 * lcs(x, y, False, table, bits) / (len(x) + len(y))
    return scores
