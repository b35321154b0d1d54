"""What a prompt sets beforehand: how the next instruction begins, its topic, a way to rewrite.

Of each there is a list, and every request has one of it, dealt in turn: a cycle uses each once, in
an order of its own. Which one it is follows from the request's place alone, so nothing has to be
stored.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import NamedTuple

from ray_si.config import Bootstrap, RunConfig
from ray_si.run.ids import dealing_seed, place_of_request


class Conditions(NamedTuple):
    """Of a request; "" where the run has no list of that kind."""

    opening: str = ""
    topic: str = ""
    rewrite: str = ""


def conditions_at(config: RunConfig, round_: int, index: int) -> Conditions:
    """The conditions of a request at its place."""
    options = config.bootstrap
    count = round_ * options.prompts_per_round + index
    return Conditions(
        _dealt(options.openings, config.seed, "openings", count),
        _dealt(options.topics, config.seed, "topics", count),
        _dealt(options.rewrites, config.seed, "rewrites", count),
    )


def conditions_of(config: RunConfig, request_id: str) -> Conditions:
    """The conditions of a request by its id."""
    options = config.bootstrap
    if not (options.openings or options.topics or options.rewrites):
        return Conditions()
    place = place_of_request(request_id)
    assert place is not None, f"{request_id} is no request's id"
    return conditions_at(config, *place)


def rounds_of_openings(options: Bootstrap) -> int | None:
    """Rounds after which every opening has been used as often as it may; None where it may ever."""
    prompts = options.prompts_of_openings
    return None if prompts is None else prompts // options.prompts_per_round


def _dealt(texts: tuple[str, ...], run_seed: int, what: str, count: int) -> str:
    """What falls to the request with so many before it."""
    if not texts:
        return ""
    cycle, place = divmod(count, len(texts))
    return texts[_order(len(texts), dealing_seed(run_seed, what, cycle))[place]]


@lru_cache(maxsize=16)
def _order(count: int, seed: int) -> list[int]:
    """By number, not by text: a list may have as many topics as a round has prompts, or more."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order
