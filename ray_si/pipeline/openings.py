"""Openings: the words that a prompt begins the next instruction with, so that the model goes on.

Every request has one, dealt in turn: a cycle uses each opening once, in an order of its own. Which
one it is follows from the request's place alone, so nothing has to be stored.
"""

from __future__ import annotations

import random
from functools import lru_cache

from ray_si.config import Bootstrap, RunConfig
from ray_si.run.ids import openings_seed, place_of_request


def opening_at(config: RunConfig, round_: int, index: int) -> str:
    """The opening of a request at its place; "" where the run has no openings."""
    options = config.bootstrap
    if not options.openings:
        return ""
    count = round_ * options.prompts_per_round + index
    cycle, place = divmod(count, len(options.openings))
    return _shuffled(options.openings, openings_seed(config.seed, cycle))[place]


def opening_of(config: RunConfig, request_id: str) -> str:
    """The opening of a request by its id."""
    if not config.bootstrap.openings:
        return ""
    place = place_of_request(request_id)
    assert place is not None, f"{request_id} is no request's id"
    return opening_at(config, *place)


def rounds_of_openings(options: Bootstrap) -> int | None:
    """Rounds after which every opening has been used as often as it may; None where it may ever."""
    if options.prompts_per_opening is None:
        return None
    return options.prompts_per_opening * len(options.openings) // options.prompts_per_round


@lru_cache(maxsize=64)
def _shuffled(openings: tuple[str, ...], seed: int) -> list[str]:
    order = list(openings)
    random.Random(seed).shuffle(order)
    return order
