"""Token strings <-> consecutive integers, a batch of texts at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from ray_si.dedup.tokens import TOKENIZERS, Tokenizer, to_bytes

_PIECE_TEXTS, _PIECE_CHARACTERS = 8192, 1 << 22
"""Most texts and characters encoded at once: bounds the buffers, and what growing sets aside."""

_FNV_OFFSET, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


@dataclass(frozen=True)
class Encoded:
    """Texts as token ids: text i is ``tokens[offsets[i]:offsets[i + 1]]`` (int32, int64)."""

    tokens: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Token counts, int64, shape (n,)."""
        return np.diff(self.offsets)

    def take(self, indices: np.ndarray) -> Encoded:
        """The texts at these indices, in their order."""
        return Encoded(*_gather(self.tokens, self.offsets, indices))

    def first(self, n: int) -> Encoded:
        """The first n texts, without a copy."""
        return Encoded(self.tokens[: self.offsets[n]], self.offsets[: n + 1])

    @staticmethod
    def concatenate(parts: Sequence[Encoded]) -> Encoded:
        """All texts of the parts, in order."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(part.offsets[-1] for part in parts)])
        offsets = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=False)]
        tokens = [part.tokens for part in parts]
        return Encoded(
            np.concatenate(tokens) if parts else np.zeros(0, np.int32),
            np.concatenate([np.zeros(1, np.int64), *offsets]),
        )


class Vocabulary:
    """Gives each distinct token an id, in order of first appearance. Exact: hashes only find it."""

    def __init__(self, tokenizer: Tokenizer = "auto") -> None:
        if tokenizer not in TOKENIZERS:
            raise ValueError(f"tokenizer must be one of {', '.join(TOKENIZERS)}, not {tokenizer!r}")
        self.tokenizer = tokenizer
        self._size = 0
        self._bytes = np.zeros(1 << 12, np.uint8)
        self._starts = np.zeros(1 << 9, np.int64)
        self._hashes = np.zeros(1 << 9, np.uint64)
        self._table = np.full(1 << 10, -1, np.int32)

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays, spare room included."""
        return sum(a.nbytes for a in (self._bytes, self._starts, self._hashes, self._table))

    def encode(self, texts: Sequence[str], *, grow: bool) -> Encoded:
        """Token ids of the texts; an unknown token becomes a new id with ``grow``, else -1.

        Raises TypeError naming the first item that is no string; nothing is added then.
        """
        check_strings(texts)
        return Encoded.concatenate(
            [self._encode(*to_bytes(piece, self.tokenizer), grow) for piece in _pieces(texts)]
        )

    def state(self) -> dict[str, np.ndarray]:
        """Arrays from which `from_state` makes an equal one."""
        return {
            "words": self._bytes[: self._starts[self._size]],
            "starts": self._starts[: self._size + 1],
        }

    @classmethod
    def from_state(cls, tokenizer: Tokenizer, state: dict[str, np.ndarray]) -> Vocabulary:
        """The inverse of `state`; ValueError where the arrays do not fit together."""
        words, starts = state["words"], state["starts"]
        sizes = np.diff(starts, prepend=0)
        if not len(starts) or sizes[0] or (sizes[1:] < 1).any() or starts[-1] != len(words):
            raise ValueError("the vocabulary is inconsistent")
        made = cls(tokenizer)
        made._reserve(len(starts) - 1, len(words))
        made._encode(np.insert(words, starts[1:], 0), np.arange(256) > 0, grow=True)
        if len(made) != len(starts) - 1:
            raise ValueError("the vocabulary holds a word twice")
        return made

    def _encode(self, data: np.ndarray, token_bytes: np.ndarray, grow: bool) -> Encoded:
        count, texts = _count(data, token_bytes)
        if grow:
            self._reserve(count, len(data))
        tokens, offsets = np.empty(count, np.int32), np.zeros(texts + 1, np.int64)
        self._size = _encode(
            data, token_bytes, self._bytes, self._starts, self._hashes, self._table,
            self._size, grow, tokens, offsets,
        )  # fmt: skip
        return Encoded(tokens, offsets)

    def _reserve(self, tokens: int, characters: int) -> None:
        """Room for this many more tokens and bytes."""
        size, used = self._size, int(self._starts[self._size])
        self._bytes = _grown(self._bytes, used + characters)
        self._starts = _grown(self._starts, size + tokens + 1)
        self._hashes = _grown(self._hashes, size + tokens)
        if 2 * (size + tokens) > len(self._table):
            slots = 1 << int(2 * (size + tokens) - 1).bit_length()
            self._table = np.full(slots, -1, np.int32)
            _rehash(self._hashes[:size], self._table)


def check_strings(texts: Sequence[str]) -> None:
    """Raise TypeError naming the first item that is no string."""
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{i}] is not a string but {type(text).__name__}")


def _pieces(texts: Sequence[str]) -> list[Sequence[str]]:
    pieces, start, characters = [], 0, 0
    for i, text in enumerate(texts):
        characters += len(text)
        if i + 1 - start >= _PIECE_TEXTS or characters >= _PIECE_CHARACTERS:
            pieces.append(texts[start : i + 1])
            start, characters = i + 1, 0
    return [*pieces, texts[start:]] if start < len(texts) else pieces


def _grown(array: np.ndarray, size: int) -> np.ndarray:
    """The array, or a copy with room for ``size`` and a quarter more."""
    if size <= len(array):
        return array
    grown = np.zeros(size + size // 4, array.dtype)
    grown[: len(array)] = array
    return grown


@njit(cache=True, nogil=True)
def _gather(tokens: Any, offsets: Any, indices: Any) -> Any:
    taken_offsets = np.zeros(len(indices) + 1, np.int64)
    for k in range(len(indices)):
        i = indices[k]
        taken_offsets[k + 1] = taken_offsets[k] + offsets[i + 1] - offsets[i]
    taken = np.empty(taken_offsets[-1], np.int32)
    for k in range(len(indices)):
        source = tokens[offsets[indices[k]] : offsets[indices[k] + 1]]
        taken[taken_offsets[k] : taken_offsets[k + 1]] = source
    return taken, taken_offsets


@njit(cache=True, nogil=True)
def _count(data: Any, token_bytes: Any) -> Any:
    tokens = texts = 0
    inside = False
    for byte in data:
        now = token_bytes[byte]
        tokens += now and not inside
        texts += byte == 0
        inside = now
    return tokens, texts


@njit(cache=True, nogil=True)
def _slot(hash_: Any, table: Any) -> Any:
    return (hash_ ^ (hash_ >> np.uint64(29))) & np.uint64(len(table) - 1)


@njit(cache=True, nogil=True)
def _rehash(hashes: Any, table: Any) -> None:
    for word in range(len(hashes)):
        slot = _slot(hashes[word], table)
        while table[slot] >= 0:
            slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
        table[slot] = word


@njit(cache=True, nogil=True)
def _same(data: Any, start: Any, end: Any, words: Any, at: Any) -> Any:
    for k in range(end - start):  # noqa: SIM110 (compiled)
        if data[start + k] != words[at + k]:
            return False
    return True


@njit(cache=True, nogil=True)
def _encode(
    data: Any, token_bytes: Any, words: Any, starts: Any, hashes: Any, table: Any,
    size: Any, grow: Any, tokens: Any, offsets: Any,
) -> Any:  # fmt: skip
    """Fill ``tokens`` and ``offsets``; returns the vocabulary's new size."""
    count = text = i = 0
    while i < len(data):
        if not token_bytes[data[i]]:
            if data[i] == 0:
                text += 1
                offsets[text] = count
            i += 1
            continue
        start, hash_ = i, _FNV_OFFSET
        while token_bytes[data[i]]:  # a zero byte ends the buffer
            hash_ = (hash_ ^ np.uint64(data[i])) * _FNV_PRIME
            i += 1
        slot = _slot(hash_, table)
        word = table[slot]
        while word >= 0 and not (
            hashes[word] == hash_
            and starts[word + 1] - starts[word] == i - start
            and _same(data, start, i, words, starts[word])
        ):
            slot = (slot + np.uint64(1)) & np.uint64(len(table) - 1)
            word = table[slot]
        if word < 0 and grow:
            word = size
            table[slot] = word
            hashes[word] = hash_
            for k in range(start, i):
                words[starts[word] + k - start] = data[k]
            size += 1
            starts[size] = starts[word] + i - start
        tokens[count] = word
        count += 1
    return size
