"""Tokenisation for ROUGE."""

from __future__ import annotations

import re

_SEPARATORS = re.compile(r"[^a-z0-9]+")


def tokenize(text: str) -> list[str]:
    """The reference ROUGE tokens: lower case, runs of anything but ``[a-z0-9]`` separate, no stems.

    Equals ``rouge_score`` with ``use_stemmer=False`` (Lin 2004; the implementation the paper used).
    """
    return [token for token in _SEPARATORS.split(text.lower()) if token]
