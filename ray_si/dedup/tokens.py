"""Tokenisation for ROUGE, text by text or a whole batch as one buffer of bytes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import regex

Tokenizer = Literal["reference", "unicode"]
TOKENIZERS: tuple[Tokenizer, ...] = get_args(Tokenizer)

_REFERENCE = re.compile(r"[a-z0-9]+")
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_UNICODE = regex.compile(
    rf"[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{_UNSPACED}]]+", regex.V1
)

_TOKEN_BYTES = {
    "reference": np.isin(np.arange(256), list(b"abcdefghijklmnopqrstuvwxyz0123456789")),
    "unicode": ~np.isin(np.arange(256), (0, ord(" "))),
}


def tokenize(text: str, tokenizer: Tokenizer = "reference") -> list[str]:
    """The tokens of one text.

    "reference": lower case, runs of anything but ``[a-z0-9]`` separate, no stems. Equals
    ``rouge_score`` with ``use_stemmer=False`` (Lin 2004; the implementation the paper used).
    "unicode": NFKC and case folding, then runs of letters, digits and marks of any script; scripts
    written without spaces (Han, kana, Thai, Lao, Khmer, Burmese) give a token for each character.
    """
    if tokenizer == "reference":
        return _REFERENCE.findall(text.lower())
    return list(_UNICODE.findall(unicodedata.normalize("NFKC", text).casefold()))


def to_bytes(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The texts as one buffer, each ended by a zero byte, and which bytes belong to tokens.

    Returns uint8 of any length and bool of shape (256,): maximal runs of token bytes are the UTF-8
    of `tokenize`'s tokens, in order.
    """
    if tokenizer == "unicode":
        joined = "\0".join(" ".join(tokenize(text, "unicode")) for text in texts)
    else:
        joined = "\0".join(texts)
        if joined.count("\0") >= len(texts):
            joined = "\0".join(text.replace("\0", " ") for text in texts)
        joined = joined.lower()
    # a lone surrogate is no letter or digit; its three bytes separate like any other character
    data = (joined + "\0" if texts else "").encode("utf-8", "surrogatepass")
    return np.frombuffer(data, np.uint8), _TOKEN_BYTES[tokenizer]
