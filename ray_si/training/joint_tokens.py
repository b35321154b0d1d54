"""Tokens of a prompt and of what follows it, as one text."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from tokenizers import Encoding, processors

Tokens = tuple[list[int], list[int]]
"""Those of a prompt, and those that follow it."""


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

    def tokenize(self, prompts: Sequence[str], following: Sequence[str]) -> list[Tokens | None]:
        """Both parts of each text; None where the second begins inside a token of the first."""
        joint = [before + after for before, after in zip(prompts, following, strict=True)]
        if self._backend is None:
            return [self._by_prefix(*texts) for texts in zip(prompts, joint, strict=True)]
        before = self._backend.encode_batch_fast(prompts, add_special_tokens=self._begin)
        whole = self._bare.encode_batch(joint, add_special_tokens=False)
        rows: list[Tokens | None] = []
        for prompt, text, opened, encoded in zip(prompts, joint, before, whole, strict=True):
            rest = self._from(encoded, text, len(prompt), opened.ids)
            rows.append(None if rest is None else (opened.ids, rest))
        return rows

    def _from(
        self, encoded: Encoding, text: str, start: int, prompt: list[int]
    ) -> list[int] | None:
        """The tokens of the text from a character on, None where none begins there.

        A token may reach over the start, as where line breaks end a prompt and begin an answer:
        then its part of the answer is tokenized by itself, if that reads right after the prompt.
        """
        first = None
        for place in range(start, len(text)):
            if (first := encoded.char_to_token(place)) is not None:
                break  # others are dropped by the tokenizer
        span = None if first is None else encoded.token_to_chars(first)
        if span is None:
            return []
        left, right = span
        rest: list[int] = encoded.ids[first:]
        if left >= start:
            return rest
        piece, wanted = text[start:right], self._text(prompt) + text[start:right]
        for anchor in ("", "\n"):  # with one before it, no space is put before a first word
            alone = self._bare.encode(anchor + piece, add_special_tokens=False)
            ids = [
                token
                for token, (begin, _) in zip(alone.ids, alone.offsets, strict=True)
                if begin >= len(anchor)
            ]
            if self._text(prompt + ids) == wanted:
                return ids + rest[1:]
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
