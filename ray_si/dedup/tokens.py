"""Tokenisation for ROUGE, text by text or a whole batch as one buffer of bytes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import regex

from ray_si.dedup.scripts import separated

Tokenizer = Literal["auto", "reference", "unicode"]
TOKENIZERS: tuple[Tokenizer, ...] = get_args(Tokenizer)

_REFERENCE = re.compile(r"[a-z0-9]+")
_LETTERS = regex.compile(r"[\p{L}\p{N}]")
_UNICODE = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[[\p{L}\p{N}\p{M}]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]+",
    regex.V1,
)

_ASCII = np.isin(np.arange(256), list(b"abcdefghijklmnopqrstuvwxyz0123456789"))
_TOKEN_BYTES = {
    "auto": _ASCII | (np.arange(256) > 127),
    "reference": _ASCII,
    "unicode": ~np.isin(np.arange(256), (0, ord(" "))),
}


def tokenize(text: str, tokenizer: Tokenizer = "auto") -> list[str]:
    """The tokens of one text.

    "reference": lower case, runs of anything but ``[a-z0-9]`` separate, no stems. Equals
    ``rouge_score`` with ``use_stemmer=False`` (Lin 2004; the implementation the paper used).

    "auto": the same for ASCII; of other texts the words, whatever their script. One text written
    in several ways has the same tokens: NFC, case folding, letters and digits in their usual form
    (NFKC: full and half width, ligatures, Arabic presentation forms), without characters that are
    not seen (joiners, soft hyphens, variation selectors). Then:

    - letters, decimal digits and the marks on them make words; accents count (é is not e);
    - a letter of a script written without spaces (Han, kana, bopomofo; Thai, Lao, Khmer, Burmese,
      Balinese, Javanese and the Tai scripts) is a token with its marks and what is stacked on it;
    - a numeral that is no digit (½, ², ①) is a token;
    - all else separates, as it does in ASCII: punctuation, apostrophes and quotes of every shape,
      symbols, emoji.

    "unicode": as earlier versions had it: NFKC of everything and case folding, then runs of
    letters, digits and marks; a token for each character of Han, kana, Thai, Lao, Khmer, Burmese.
    """
    if tokenizer == "reference":
        return _REFERENCE.findall(text.lower())
    if tokenizer == "unicode":
        return list(_UNICODE.findall(unicodedata.normalize("NFKC", text).casefold()))
    return _REFERENCE.findall(text.lower()) if text.isascii() else separated([text])[0].split()


def to_bytes(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """The texts as one buffer, each ended by a zero byte, and which bytes belong to tokens.

    Returns uint8 of any length and bool of shape (256,): maximal runs of token bytes are the UTF-8
    of `tokenize`'s tokens, in order.
    """
    if tokenizer == "unicode":
        joined = "\0".join(" ".join(tokenize(text, "unicode")) for text in texts)
    else:
        is_mixed = tokenizer == "auto" and not all(map(str.isascii, texts))
        if is_mixed:
            others = iter(separated([text for text in texts if not text.isascii()]))
            texts = [text.lower() if text.isascii() else next(others) for text in texts]
        joined = "\0".join(texts)
        if joined.count("\0") >= len(texts):
            joined = "\0".join(text.replace("\0", " ") for text in texts)
        joined = joined if is_mixed else joined.lower()
    # a lone surrogate is no letter or digit; its three bytes separate like any other character
    data = (joined + "\0" if texts else "").encode("utf-8", "surrogatepass")
    return np.frombuffer(data, np.uint8), _TOKEN_BYTES[tokenizer]


def unread(texts: Sequence[str]) -> int:
    """How many texts have fewer than half of their letters and digits in "reference" tokens."""
    others = (text for text in texts if not text.isascii())
    return sum(
        2 * sum(map(len, tokenize(text, "reference"))) < len(_LETTERS.findall(text))
        for text in others
    )
