"""Which seed tasks are kept for evaluation: a quarter of each kind, near-copies on one side."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from ray_si.dedup import RougeIndex
from ray_si.records import SeedTask

_ONE_IN = 4

_NEAR_COPY = 0.45
"""ROUGE-L F above which two instructions count as the same task in other words."""

_NEIGHBOURS = 10


def split_seeds(seeds: Iterable[SeedTask]) -> tuple[list[SeedTask], list[SeedTask]]:
    """Seed tasks to build with, and those held out: one in four, in the order given.

    One in four of each kind: classification or not, with an input or without. Near-copies go
    together. Which ones depends on their ids, by a hash, and not on their order.
    """
    given = list(seeds)
    kinds: defaultdict[tuple[bool, bool], list[list[SeedTask]]] = defaultdict(list)
    for group in _near_copies(given):
        first = min(group, key=_draw)
        kinds[first.is_classification, any(i.input for i in first.instances)].append(group)
    held_out: set[str] = set()
    for groups in kinds.values():
        wanted = round(sum(map(len, groups)) / _ONE_IN)
        for group in sorted(groups, key=lambda group: min(map(_draw, group))):
            if len(group) <= wanted:
                wanted -= len(group)
                held_out |= {seed.id for seed in group}
    return (
        [seed for seed in given if seed.id not in held_out],
        [seed for seed in given if seed.id in held_out],
    )


def _draw(seed: SeedTask) -> bytes:
    return hashlib.sha256(seed.id.encode()).digest()


def _near_copies(seeds: Sequence[SeedTask]) -> list[list[SeedTask]]:
    """The tasks in groups, within which each is a near-copy of some other."""
    instructions = [seed.instruction for seed in seeds]
    index = RougeIndex()
    index.add(instructions)
    group_of = list(range(len(seeds)))
    for i, near in enumerate(index.most_similar(instructions, _NEIGHBOURS)):
        for j, score in zip(near.ids, near.scores, strict=True):
            if score > _NEAR_COPY and group_of[i] != group_of[j]:
                joined = group_of[j]
                group_of = [group_of[i] if group == joined else group for group in group_of]
    groups: defaultdict[int, list[SeedTask]] = defaultdict(list)
    for group, seed in zip(group_of, seeds, strict=True):
        groups[group].append(seed)
    return list(groups.values())
