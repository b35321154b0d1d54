"""What a run has spent so far, from what it stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

TOKEN_COLUMNS = {
    "prompt_tokens": "prompt",
    "completion_tokens": "completion",
    "classification_prompt_tokens": "prompt",
    "classification_completion_tokens": "completion",
}
"""Columns of blocks that count tokens, and of which kind; the last two are in instance blocks."""


Phase = Literal["bootstrap", "instances"]
"""What spends tokens; classification counts as instances."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of prompts, and of completions."""

    prompt: float = 0
    completion: float = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.completion + other.completion)

    def __mul__(self, times: float) -> Tokens:
        return Tokens(self.prompt * times, self.completion * times)


def tokens_of(block: pa.Table) -> Tokens:
    """Tokens of a block's rows, by those of `TOKEN_COLUMNS` that it has."""
    counts = {"prompt": 0, "completion": 0}
    for name, kind in TOKEN_COLUMNS.items():
        if name in block.column_names:
            counts[kind] += pc.sum(block[name]).as_py() or 0
    return Tokens(**counts)
