"""Texts found inside longer ones, by runs of words that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from ray_si.dedup.scripts import letters_without_spaces
from ray_si.dedup.tokens import Tokenizer, to_bytes

SHORTEST = 8
"""Fewest words of a text that is looked for; shorter ones are bound to recur by chance."""

LETTERS = 2
"""Letters of a script without spaces that count as one word: a word of Chinese has about 1.5, one
of Thai four or five."""

_BASE = np.uint64(0x9E3779B97F4A7C15)
_BATCH = 1 << 14
"""Texts that are hashed at once, so that a batch of any size takes little memory."""


@dataclass(frozen=True)
class SharedRun:
    """What a text has in common with one that was added.

    ``index`` is its place in the batch, ``text_id`` that of the other among those added; ``share``
    the part of the other's words, in (0, 1], that stand in it in one piece.
    """

    index: int
    text_id: int
    share: float


class NgramIndex:
    """Texts to be found inside others: by any ``words`` consecutive words, or whole if shorter.

    As GPT-3 was decontaminated (Brown et al. 2020, appendix C): 13 words, and texts of 8 or more as
    a whole. Words are `ray_si.dedup.tokens.tokenize`'s; of a text mostly in scripts without spaces
    `LETTERS` letters count as one word. Words are compared by 64-bit hashes, of which two of a
    million are equal once in 40 million times.

    Raises ValueError for ``words`` below `SHORTEST`.
    """

    def __init__(self, words: int = 13, tokenizer: Tokenizer = "auto") -> None:
        if words < SHORTEST:
            raise ValueError(f"words must be at least {SHORTEST}, not {words}")
        self._words, self._tokenizer = words, tokenizer
        self._tokens = np.empty(0, np.uint64)  # of all texts, in order
        self._ends = np.empty(0, np.int64)  # of each text in them
        self._needles = _Needles.of(self._tokens, self._ends, np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, texts: Sequence[str]) -> None:
        """Add texts, whose ids are consecutive."""
        lengths = [np.empty(0, np.int64)]
        for start in range(0, len(texts), _BATCH):
            tokens, ends, letters = self._hashed(texts[start : start + _BATCH])
            sizes = np.diff(ends, prepend=0)
            factor = np.where(2 * letters > sizes, LETTERS, 1)
            lengths.append(_needle_lengths(sizes, factor, self._words))
            self._ends = np.append(self._ends, ends + len(self._tokens))
            self._tokens = np.append(self._tokens, tokens)
        added = np.concatenate(lengths)
        self._needles = self._needles.extended(self._tokens, self._ends, added)

    def find(self, texts: Sequence[str]) -> list[SharedRun]:
        """Those of the texts that hold a run of one that was added, in order.

        What is told of is the first such run, of the earliest text that has it.
        """
        runs: list[SharedRun] = []
        if not len(self._needles.starts):
            return runs
        for start in range(0, len(texts), _BATCH):
            tokens, ends, _ = self._hashed(texts[start : start + _BATCH])
            ids, shares = _find(tokens, ends, self._tokens, self._ends, *self._needles.arrays)
            runs += [
                SharedRun(start + int(i), int(ids[i]), float(shares[i]))
                for i in np.flatnonzero(ids >= 0)
            ]
        return runs

    def _hashed(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hashes of all words, where each text ends in them, and its letters without spaces."""
        data, is_token = to_bytes(texts, self._tokenizer)
        tokens, ends, letters = _hash_words(data, is_token, len(texts), letters_without_spaces())
        return tokens, ends, letters


@dataclass(frozen=True)
class _Needles:
    """Runs of words to look for, each once, in a table by the hash of its first `SHORTEST` words.

    ``starts`` and ``lengths`` say which words of all; ``first`` is the first needle of each slot
    (-1: none), ``following`` the next with the same slot, ``keys`` the hash of each.
    """

    sizes: np.ndarray  # of the needles of each text
    starts: np.ndarray
    lengths: np.ndarray
    keys: np.ndarray
    first: np.ndarray
    following: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What `_find` takes."""
        return self.starts, self.lengths, self.keys, self.first, self.following

    @classmethod
    def of(cls, tokens: np.ndarray, ends: np.ndarray, sizes: np.ndarray) -> _Needles:
        """The needles of texts; ``sizes`` is how many words one of each text's has, 0 for none."""
        starts, lengths = _needles(ends, sizes)
        whole, keys = _hash_needles(tokens, starts, lengths)
        kept = np.sort(np.unique(whole, return_index=True)[1])  # the earliest of equal ones
        starts, lengths, keys = starts[kept], lengths[kept], keys[kept]
        slots = 1 << max(4, (2 * len(starts) - 1).bit_length())
        first, following = _chained(keys, slots)
        return cls(sizes, starts, lengths, keys, first, following)

    def extended(self, tokens: np.ndarray, ends: np.ndarray, sizes: np.ndarray) -> _Needles:
        """With those of texts that were added since."""
        return _Needles.of(tokens, ends, np.append(self.sizes, sizes))


def _needle_lengths(sizes: np.ndarray, factor: np.ndarray, words: int) -> np.ndarray:
    """How many tokens a needle of each text has; 0 where the text is too short to be looked for."""
    needed = np.minimum(sizes, words * factor)
    return np.where(sizes < SHORTEST * factor, 0, needed).astype(np.int64)


@njit(cache=True, nogil=True)
def _hash_words(data: Any, is_token: Any, texts: int, letters: Any) -> Any:
    """See `NgramIndex._hashed`; ``letters`` says of each code point whether it is such a letter."""
    tokens = np.empty(len(data) // 2 + 1, np.uint64)
    ends = np.empty(texts, np.int64)
    counts = np.zeros(texts, np.int64)
    size, text, inside = 0, 0, False
    hash_ = np.uint64(0)
    for place in range(len(data)):
        byte = data[place]
        if is_token[byte]:
            if not inside:
                hash_ = np.uint64(0xCBF29CE484222325)
                if byte >= 0xE0 and letters[_point(data, place)]:
                    counts[text] += 1
            hash_ = (hash_ ^ np.uint64(byte)) * np.uint64(0x100000001B3)  # FNV-1a
            inside = True
            continue
        if inside:
            tokens[size] = _mixed(hash_)
            size += 1
            inside = False
        if byte == 0:
            ends[text] = size
            text += 1
    return tokens[:size].copy(), ends, counts


@njit(cache=True, nogil=True)
def _point(data: Any, place: int) -> int:
    """The code point whose UTF-8, of three or four bytes, begins there."""
    point = int(data[place]) & (0x07 if data[place] >= 0xF0 else 0x0F)
    for k in range(1, 4 if data[place] >= 0xF0 else 3):
        point = point << 6 | int(data[place + k]) & 0x3F
    return point


@njit(cache=True, nogil=True)
def _mixed(hash_: Any) -> Any:
    """Every bit of the hash changed by every other (the finaliser of SplitMix64)."""
    hash_ = (hash_ ^ (hash_ >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hash_ = (hash_ ^ (hash_ >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hash_ ^ (hash_ >> np.uint64(31))


@njit(cache=True, nogil=True)
def _needles(ends: Any, sizes: Any) -> Any:
    """Starts and lengths of every text's needles."""
    count, start = 0, 0
    for text in range(len(ends)):
        if sizes[text]:
            count += ends[text] - start - sizes[text] + 1
        start = ends[text]
    starts, lengths = np.empty(count, np.int64), np.empty(count, np.int64)
    count, start = 0, 0
    for text in range(len(ends)):
        if sizes[text]:
            for place in range(start, ends[text] - sizes[text] + 1):
                starts[count], lengths[count] = place, sizes[text]
                count += 1
        start = ends[text]
    return starts, lengths


@njit(cache=True, nogil=True)
def _hash_needles(tokens: Any, starts: Any, lengths: Any) -> Any:
    """Hashes of needles, whole and of their first `SHORTEST` words."""
    whole, keys = np.empty(len(starts), np.uint64), np.empty(len(starts), np.uint64)
    for needle in range(len(starts)):
        hash_ = np.uint64(0)
        for k in range(lengths[needle]):
            hash_ = hash_ * _BASE + tokens[starts[needle] + k]
            if k == SHORTEST - 1:
                keys[needle] = _mixed(hash_)
        whole[needle] = _mixed(hash_ ^ np.uint64(lengths[needle]))
    return whole, keys


@njit(cache=True, nogil=True)
def _chained(keys: Any, slots: int) -> Any:
    """For each slot its first needle, and for each needle the next of its slot, in order."""
    first, following = np.full(slots, -1, np.int64), np.full(len(keys), -1, np.int64)
    mask = np.uint64(slots - 1)
    for needle in range(len(keys) - 1, -1, -1):
        slot = keys[needle] & mask
        following[needle] = first[slot]
        first[slot] = needle
    return first, following


@njit(cache=True, nogil=True)
def _find(
    tokens: Any,
    ends: Any,
    added: Any,
    added_ends: Any,
    starts: Any,
    lengths: Any,
    keys: Any,
    first: Any,
    following: Any,
) -> Any:
    """For each text the id of one that it holds a needle of, or -1, and the share of that one.

    ``tokens`` and ``ends`` are the texts', ``added`` and ``added_ends`` what is looked for.
    """
    ids, shares = np.full(len(ends), -1, np.int64), np.zeros(len(ends), np.float64)
    mask = np.uint64(len(first) - 1)
    last = np.uint64(1)  # what the first word of a window counts for
    for _ in range(SHORTEST - 1):
        last *= _BASE
    begin = 0
    for text in range(len(ends)):
        end, hash_ = ends[text], np.uint64(0)
        for place in range(begin, end):
            if place - begin >= SHORTEST:
                hash_ -= tokens[place - SHORTEST] * last
            hash_ = hash_ * _BASE + tokens[place]
            start = place - SHORTEST + 1
            if start < begin:
                continue
            key = _mixed(hash_)
            needle = first[key & mask]
            while needle >= 0 and not (
                keys[needle] == key
                and _stands(tokens, start, end, added, starts[needle], lengths[needle])
            ):
                needle = following[needle]
            if needle >= 0:
                id_ = np.searchsorted(added_ends, starts[needle], side="right")
                added_begin = added_ends[id_ - 1] if id_ else 0
                run = _run(
                    tokens, start, begin, end, added, starts[needle], added_begin, added_ends[id_]
                )
                ids[text], shares[text] = id_, run / (added_ends[id_] - added_begin)
                break
        begin = end
    return ids, shares


@njit(cache=True, nogil=True)
def _stands(tokens: Any, start: int, end: int, added: Any, needle: int, length: int) -> bool:
    """Whether a needle stands in the words from ``start`` on."""
    if start + length > end:
        return False
    for k in range(length):  # noqa: SIM110 - a generator is slow here
        if tokens[start + k] != added[needle + k]:
            return False
    return True


@njit(cache=True, nogil=True)
def _run(
    tokens: Any,
    place: int,
    begin: int,
    end: int,
    added: Any,
    added_place: int,
    added_begin: int,
    added_end: int,
) -> int:
    """How many words around a place are the same in both texts, in one piece."""
    before = 0
    while (
        place - before > begin
        and added_place - before > added_begin
        and tokens[place - before - 1] == added[added_place - before - 1]
    ):
        before += 1
    after = 0
    while (
        place + after < end
        and added_place + after < added_end
        and tokens[place + after] == added[added_place + after]
    ):
        after += 1
    return before + after
