"""Tokens of a prompt and of what follows it, as one text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence, Sized
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from os.path import commonprefix
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer, processors

Tokens = tuple[list[int], list[int]]
"""Those of a prompt, and those that follow it."""

_NEAR = 64
"""Characters at the end of a prompt within which its last special token spares tokenizing it."""


@dataclass(frozen=True)
class JointTokens:
    """The tokens of texts, one text after another.

    ``ids`` are int32; ``prompts`` and ``following`` are how many of each text are its prompt's, and
    how many follow. ``parted`` is False for a text that has none, since what follows begins inside
    a token of its prompt.
    """

    ids: np.ndarray
    prompts: np.ndarray
    following: np.ndarray
    parted: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[Tokens | None]) -> JointTokens:
        """Those of texts tokenized one by one; None for one that is not parted."""
        parts = [part for tokens in texts for part in tokens or ([], [])]
        sizes = _sizes(parts)
        parted = np.array([tokens is not None for tokens in texts], bool)
        return cls(_flat(parts, sizes), sizes[::2], sizes[1::2], parted)

    @property
    def sizes(self) -> np.ndarray:
        """How many tokens each text has."""
        sizes: np.ndarray = self.prompts + self.following
        return sizes

    @property
    def places(self) -> np.ndarray:
        """Of each token how many of its text's are before it."""
        starts = np.cumsum(self.sizes) - self.sizes
        places: np.ndarray = np.arange(len(self.ids)) - np.repeat(starts, self.sizes)
        return places

    @property
    def follows(self) -> np.ndarray:
        """Of each token whether it follows its text's prompt."""
        follows: np.ndarray = self.places >= np.repeat(self.prompts, self.sizes)
        return follows


class JointTokenizer:
    """Tokenizes prompts with what follows them.

    A prompt's tokens are those of its text by itself, as an engine makes them, with the special
    ones that begin a text where ``begin`` says so. What follows are the joint text's tokens from
    there on: tokenized alone they would be others, since SentencePiece puts a space before a text's
    first word.
    """

    def __init__(self, tokenizer: Any, *, begin: bool) -> None:
        self._tokenizer, self._begin = tokenizer, begin
        self._backend = None
        if tokenizer.is_fast:
            self._backend = deepcopy(tokenizer.backend_tokenizer)
            self._backend.no_truncation()
            self._backend.no_padding()
            # whose offsets leave out leading spaces, and whose special tokens only a prompt has
            self._bare = deepcopy(self._backend)
            self._bare.post_processor = processors.Sequence([])
            self._lengths = byte_lengths(self._bare)
        self._fixed = {
            id_: token.content
            for id_, token in tokenizer.added_tokens_decoder.items()
            if token.special and not token.normalized and id_ != tokenizer.unk_token_id
        }
        self._added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        self._after = lru_cache(1024)(self._tokens_after)
        self._begun = lru_cache(16)(self._tokens_of_begun)

    def tokenize(self, prompts: Sequence[str], following: Sequence[str]) -> JointTokens:
        """Both parts of each text."""
        joint = [before + after for before, after in zip(prompts, following, strict=True)]
        if self._backend is None:
            return JointTokens.of(list(map(self._by_prefix, prompts, joint)))
        opened: list[list[int]] | None = None
        end = prompts[0][-_NEAR:] if prompts else ""  # that of any: a template's is the same
        if self._begin or not any(text in end for text in self._fixed.values()):
            batch = self._backend.encode_batch_fast(prompts, add_special_tokens=self._begin)
            opened = [encoded.ids for encoded in batch]
        if self._lengths is not None:
            return self._by_bytes(self._lengths, prompts, joint, opened)
        whole = self._bare.encode_batch(joint, add_special_tokens=False)
        known = opened or repeat(None, len(prompts))
        return JointTokens.of(list(map(self._split, prompts, joint, known, whole)))

    def _by_bytes(
        self,
        lengths: np.ndarray,
        prompts: Sequence[str],
        joint: Sequence[str],
        opened: list[list[int]] | None,
    ) -> JointTokens:
        """Parts the joint tokens at the end of each prompt, by the bytes that each stands for.

        By offsets where a token reaches over that end, or not all bytes of a text have a token.
        """
        begin, begin_ids = self._begun_alike(prompts)
        rests = [text[len(begin) :] for text in joint]
        batch = self._bare.encode_batch_fast(rests, add_special_tokens=False)
        sizes = _sizes(batch) + len(begin_ids)
        whole = _flat((begin_ids + encoded.ids for encoded in batch), sizes)
        ends = np.cumsum(sizes)
        starts = ends - sizes
        # where the prompts end, in bytes and then in tokens
        places = np.concatenate([[0], np.cumsum(lengths[whole])])
        wanted = places[starts] + _bytes(prompts)
        cuts = np.minimum(np.searchsorted(places, wanted), ends)
        fits = (places[cuts] == wanted) & (places[ends] - places[starts] == _bytes(joint))
        # a text's are whole[start:head], its own of `between`, and whole[cut:end]
        heads, between = starts.copy(), opened
        if between is None:
            heads, between = self._own_tokens(prompts, whole, starts, cuts)
        own, following = heads - starts + _sizes(between), ends - cuts
        parted = np.ones(len(joint), bool)
        for row in np.flatnonzero(~fits).tolist():
            known = opened[row] if opened is not None else None
            tokens = self._by_offsets(prompts[row], joint[row], known)
            before, after = tokens or ([], [])
            heads[row], between[row], cuts[row] = starts[row], before + after, ends[row]
            own[row], following[row], parted[row] = len(before), len(after), tokens is not None
        inner = _sizes(between)
        pool = np.concatenate([whole, _flat(between, inner)])
        firsts = np.stack([starts, len(whole) + np.cumsum(inner) - inner, cuts], axis=1)
        counts = np.stack([heads - starts, inner, ends - cuts], axis=1)
        return JointTokens(_slices(pool, firsts.ravel(), counts.ravel()), own, following, parted)

    def _own_tokens(
        self, prompts: Sequence[str], whole: np.ndarray, starts: np.ndarray, cuts: np.ndarray
    ) -> tuple[np.ndarray, list[list[int]]]:
        """Up to where the joint tokens are a prompt's own too, and its own from there on.

        They may differ after the last special token only: texts are cut at those first.
        """
        special = np.flatnonzero(np.isin(whole, list(self._fixed)))
        lasts = np.concatenate([[-1], special])[np.searchsorted(special, cuts)]
        own = [
            self._own_after(int(whole[last]), prompt)
            if last >= start
            else self._backend_ids(prompt)
            for prompt, last, start in zip(prompts, lasts.tolist(), starts.tolist(), strict=True)
        ]
        return np.maximum(lasts + 1, starts), own

    def _begun_alike(self, prompts: Sequence[str]) -> tuple[str, list[int]]:
        """What all prompts begin with, up to and with a special token, and the tokens of that.

        Such as the system turn that a template writes. Nothing where a token could begin within it
        and end beyond.
        """
        shared = commonprefix(prompts)  # noqa: RUF071 - of texts, not of paths
        ends = [shared.rfind(text) + len(text) for text in self._fixed.values() if text in shared]
        return self._begun(shared[: max(ends)]) if ends else ("", [])

    def _tokens_of_begun(self, text: str) -> tuple[str, list[int]]:
        for added in self._added:
            if any(text.endswith(added[:size]) for size in range(1, len(added))):
                return "", []
        return text, self._bare.encode(text, add_special_tokens=False).ids

    def _by_offsets(self, prompt: str, text: str, opened: list[int] | None) -> Tokens | None:
        return self._split(prompt, text, opened, self._bare.encode(text, add_special_tokens=False))

    def _split(
        self, prompt: str, text: str, opened: list[int] | None, encoded: Encoding
    ) -> Tokens | None:
        """A joint text's tokens, parted at the end of its prompt, whose tokens may be known.

        A token may reach over the end, as where line breaks end a prompt and begin an answer: then
        its part of the answer is tokenized by itself, if that reads right after the prompt.
        """
        first = span = None
        for place in range(len(prompt), len(text)):
            if (first := encoded.char_to_token(place)) is not None:
                span = encoded.token_to_chars(first)
                break  # others are dropped by the tokenizer
        if first is None or span is None or span[0] < len(prompt):
            if opened is None:
                opened = self._backend_ids(prompt)
            if first is None or span is None:
                return opened, []
            piece = self._piece(opened, text[len(prompt) : span[1]])
            return None if piece is None else (opened, piece + encoded.ids[first + 1 :])
        ids = encoded.ids
        return opened or self._opened(prompt, ids[:first]), ids[first:]

    def _opened(self, prompt: str, joint: list[int]) -> list[int]:
        """The prompt's own tokens, given the joint text's up to there; see `_own_tokens`."""
        for last in range(len(joint) - 1, -1, -1):
            if joint[last] in self._fixed:
                return joint[: last + 1] + self._own_after(joint[last], prompt)
        return self._backend_ids(prompt)

    def _own_after(self, special: int, prompt: str) -> list[int]:
        """A prompt's tokens after its last special one."""
        return self._after(special, prompt.rpartition(self._fixed[special])[2])

    def _tokens_after(self, special: int, text: str) -> list[int]:
        whole = self._bare.id_to_token(special) + text
        ids: list[int] = self._bare.encode(whole, add_special_tokens=False).ids
        return ids[1:]

    def _backend_ids(self, prompt: str) -> list[int]:
        assert self._backend is not None
        ids: list[int] = self._backend.encode(prompt, add_special_tokens=self._begin).ids
        return ids

    def _piece(self, prompt: list[int], text: str) -> list[int] | None:
        """Tokens by which the text follows the prompt's, None where it would not read the same."""
        wanted = self._text(prompt) + text
        for anchor in ("", "\n"):  # with one before it, no space is put before a first word
            alone = self._bare.encode(anchor + text, add_special_tokens=False)
            ids = [
                token
                for token, (begin, _) in zip(alone.ids, alone.offsets, strict=True)
                if begin >= len(anchor)
            ]
            if self._text(prompt + ids) == wanted:
                return ids
        return None

    def _text(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return text

    def _by_prefix(self, prompt: str, joint: str) -> Tokens | None:
        """For tokenizers without offsets: the joint tokens have to begin with the prompt's."""
        opened, before, whole = (
            list(self._tokenizer(text, add_special_tokens=special)["input_ids"])
            for text, special in ((prompt, self._begin), (prompt, False), (joint, False))
        )
        return (opened, whole[len(before) :]) if whole[: len(before)] == before else None


def byte_lengths(tokenizer: Tokenizer) -> np.ndarray | None:
    """How many bytes of a text each token stands for, None where a token alone does not tell.

    It does for byte-level tokenizers that alter no text: their tokens in order are the text.
    """
    added = tokenizer.get_added_tokens_decoder()
    strips = any(token.lstrip or token.rstrip for token in added.values())
    if tokenizer.normalizer is not None or strips or not _is_byte_level(tokenizer):
        return None
    vocabulary = tokenizer.get_vocab()
    lengths = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for token, id_ in vocabulary.items():
        lengths[id_] = len(token)  # a character for each byte
    for id_, special in added.items():
        lengths[id_] = len(special.content.encode())
    return lengths


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether texts are cut into words, losing nothing, and these turned into bytes."""
    if tokenizer.pre_tokenizer is None:
        return False
    state = json.loads(tokenizer.pre_tokenizer.__getstate__())
    steps = state.get("pretokenizers", [state])
    levels = [step for step in steps if step["type"] == "ByteLevel"]
    return (
        len(levels) == 1
        and not levels[0]["add_prefix_space"]
        and all(
            step["type"] in ("ByteLevel", "Digits") or step.get("behavior") == "Isolated"
            for step in steps
        )
    )


def _sizes(lists: Sequence[Sized]) -> np.ndarray:
    return np.fromiter(map(len, lists), np.int64, len(lists))


def _bytes(texts: Sequence[str]) -> np.ndarray:
    return np.fromiter((len(text.encode()) for text in texts), np.int64, len(texts))


def _flat(lists: Iterable[list[int]], sizes: np.ndarray) -> np.ndarray:
    """Lists of these sizes, one after another."""
    return np.fromiter(chain.from_iterable(lists), np.int32, int(sizes.sum()))


def _slices(values: np.ndarray, firsts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Slices of an array, one after another."""
    moved = firsts - (np.cumsum(sizes) - sizes)
    return values.take(np.repeat(moved, sizes) + np.arange(sizes.sum()))
