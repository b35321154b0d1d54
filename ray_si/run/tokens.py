"""What a run has spent so far, from what it stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from ray_si.run.layout import INSTANCES, round_of_block
from ray_si.run.run import Run

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


def spent(run: Run) -> dict[Phase, Tokens]:
    """Tokens of every request whose answer is stored: committed rounds, and finished blocks.

    What was asked and lost (requests in flight when a driver died, blocks that are written again
    because a request of theirs failed) is not known. Reads the blocks that no round names, and
    those of the instances.
    """
    rounds = run.rounds()
    bootstrap, instances = Tokens(), Tokens()
    for manifest in rounds:
        bootstrap += Tokens(manifest["prompt_tokens"], manifest["completion_tokens"])
    unnamed = [
        key
        for key in run.objects.list("bootstrap/")
        if (round_ := round_of_block(key)) is not None and round_ >= len(rounds)
    ]
    raw = [name for name in TOKEN_COLUMNS if not name.startswith("classification")]
    for key in unnamed:
        bootstrap += tokens_of(run.read(key, raw))
    for key in run.finished_blocks(INSTANCES).values():
        instances += tokens_of(run.read(key, list(TOKEN_COLUMNS)))
    return {"bootstrap": bootstrap, "instances": instances}


def spending(run: Run) -> dict[str, Any]:
    """What is spent, for a status.

    Keys: prompt_tokens, completion_tokens, tokens_per_accepted (both kinds; None before there is
    any), and dollars where the configuration has prices.
    """
    by_phase = spent(run)
    total = by_phase["bootstrap"] + by_phase["instances"]
    accepted = sum(manifest["accepted"] for manifest in run.rounds())
    first = run.header["config"]["generator"]
    later = run.header["config"].get("instance_generator") or first
    dollars = 0.0
    for tokens, generator in zip(by_phase.values(), (first, later), strict=True):
        prices = generator.get("prices") or {"prompt": 0.0, "completion": 0.0}
        dollars += tokens.prompt * prices["prompt"] + tokens.completion * prices["completion"]
    each = round((total.prompt + total.completion) / accepted, 1) if accepted else None
    return {
        "prompt_tokens": total.prompt,
        "completion_tokens": total.completion,
        "tokens_per_accepted": each,
        **({"dollars": round(dollars / 1e6, 4)} if dollars else {}),
    }


def tokens_of(block: pa.Table) -> Tokens:
    """Tokens of a block's rows, by those of `TOKEN_COLUMNS` that it has."""
    counts = {"prompt": 0, "completion": 0}
    for name, kind in TOKEN_COLUMNS.items():
        if name in block.column_names:
            counts[kind] += sum(block[name].to_pylist())
    return Tokens(**counts)
