"""Seeded choice of the demonstrations that stand in an instruction prompt."""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Demonstration:
    """An in-context example: which seed task ("human") or accepted instruction ("machine")."""

    kind: Literal["human", "machine"]
    index: int


def sample_demonstrations(
    human: int,
    machine: int,
    *,
    total: int = 8,
    machine_count: int = 2,
    seed: int,
    regions: Sequence[Sequence[int]] | None = None,
) -> list[Demonstration]:
    """Draw ``total`` distinct demonstrations, ``machine_count`` of them machine-written, shuffled.

    There are ``human`` seed tasks and ``machine`` accepted instructions to draw from. While there
    are fewer than ``machine_count`` of the latter, all of them are drawn and human ones fill the
    rest (paper, section 2.2). Where ``human`` is too few, fewer come back.

    Machine-written ones are drawn uniformly, as in the paper. With ``regions``, a partition of
    their indices, each has a weight inversely proportional to the size of its region: regions are
    drawn uniformly, no region twice before all have been, then one of the region's texts.
    """
    rng = random.Random(seed)
    count = min(machine_count, machine)
    if regions is None:
        from_machine = rng.sample(range(machine), count)
    else:
        from_machine = _from_regions(rng, regions, count)
    from_human = rng.sample(range(human), min(total - len(from_machine), human))
    chosen = [Demonstration("machine", i) for i in from_machine]
    chosen += [Demonstration("human", i) for i in from_human]
    rng.shuffle(chosen)
    return chosen


def _from_regions(rng: random.Random, regions: Sequence[Sequence[int]], count: int) -> list[int]:
    drawn: list[int] = []
    taken: dict[int, list[int]] = {}  # region -> places in it that were drawn, in order
    while len(drawn) < count:
        left = [r for r, region in enumerate(regions) if len(region) > len(taken.get(r, ()))]
        for number in rng.sample(left, min(count - len(drawn), len(left))):
            gone = taken.setdefault(number, [])
            place = rng.randrange(len(regions[number]) - len(gone))
            for other in gone:
                place += place >= other
            insort(gone, place)
            drawn.append(regions[number][place])
    return drawn
