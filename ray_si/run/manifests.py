"""What the JSON objects of a run say; `ray_si.run.run` writes and reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, TypedDict, cast

from ray_si.run.layout import block_keys
from ray_si.storage.tables import ShardInfo


class StoredObject(TypedDict):
    """An object that a manifest names; see `ShardInfo`."""

    key: str
    rows: int
    size: int
    sha256: str


def stored_object(info: ShardInfo) -> StoredObject:
    """As a manifest names an object."""
    return cast(StoredObject, asdict(info))


def named_blocks(objects: Iterable[StoredObject]) -> dict[int, str]:
    """Block number -> key, of the blocks among what a manifest names."""
    return block_keys(entry["key"] for entry in objects)


BySet = dict[str, dict[str, int]]
"""Evaluation set -> kind -> how many came too close to it. Kinds: "instructions" and "instances",
whose input does, for those alike as a whole; "embedded" for those that hold a text of the set in an
instruction or input; "outputs" for those whose output does either."""

BySetAndKind = Counter[tuple[str, str]]

_KINDS = {"contaminated_within": "embedded", "contaminated_output": "outputs"}
"""Reason of a rejection -> kind, where it is not one of the whole."""

CONTAMINATED_FOR = ("contaminated", *_KINDS)
"""Reasons of what came too close to an evaluation set."""


def count_contaminated(rejected: Iterable[Any], whole: str) -> BySetAndKind:
    """Of rejected rows those that came too close to a set, whose kind as a ``whole`` is given."""
    return Counter(
        (str(row["source"]), _KINDS.get(row["reason"], whole))
        for row in rejected
        if row["reason"] in CONTAMINATED_FOR
    )


def by_set(counts: BySetAndKind) -> BySet:
    """As JSON has it."""
    nested: BySet = {}
    for (source, kind), count in sorted(counts.items()):
        nested.setdefault(source, {})[kind] = count
    return nested


def from_by_set(stored: Mapping[str, Any], whole: str) -> BySetAndKind:
    """The inverse of `by_set`; where an earlier version stored a number, it is of the ``whole``."""
    counts: BySetAndKind = Counter()
    for source, kinds in stored.items():
        for kind, count in (kinds if isinstance(kinds, dict) else {whole: kinds}).items():
            counts[source, kind] += count
    return counts


class _Signature(TypedDict, total=False):
    """What every manifest has besides its own content, once it is stored.

    ``fencing`` is the number of the lease under which it was written, ``versions`` those of the
    software, ``sha256`` the digest of all the rest.
    """

    fencing: int
    versions: dict[str, Any]
    sha256: str


class Passed(TypedDict):
    """Of the first so many instance blocks, the rows that hold ``select.during``."""

    blocks: int
    rows: int


class _RoundExtras(_Signature, total=False):
    pool: int
    passed: Passed
    objects: list[StoredObject]


class RoundManifest(_RoundExtras):
    """A round of the bootstrap.

    ``rejected`` counts by reason, ``contaminated`` by evaluation set and kind; ``pool`` is how many
    seeds and accepted instructions there are after it; ``passed`` what ``select.during`` had
    counted when it was to be committed. ``objects`` are its raw blocks, in order, then its accepted
    and its rejected rows.
    """

    round: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    candidates: int
    accepted: int
    rejected: dict[str, int]
    contaminated: BySet


class _StatsExtras(_Signature, total=False):
    left_out: dict[str, int]
    spent: dict[str, dict[str, int]]
    shards: list[StoredObject]
    documents: list[StoredObject]


class Stats(_StatsExtras):
    """stats.json: what a run came to, in counts; ``shards`` are its training rows.

    ``accepted`` instructions, of which ``classification`` are classification tasks and
    ``with_instance`` have a training row; ``rows`` are all training rows, and ``left_out`` counts
    by reason the instances that ``output.keep`` made none. Tokens are those of completions;
    ``spent`` are those of prompts and completions, by phase.
    """

    rounds: int
    requests: int
    candidates: int
    accepted: int
    rejected: dict[str, int]
    classification: int
    with_instance: int
    rows: int
    instances_rejected: dict[str, int]
    contaminated: BySet
    bootstrap_tokens: int
    instance_tokens: int
