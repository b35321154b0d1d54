"""What the JSON objects of a run say; `ray_si.run.run` writes and reads them."""

from __future__ import annotations

from collections.abc import Iterable
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


class _Signature(TypedDict, total=False):
    """What every manifest has besides its own content, once it is stored.

    ``fencing`` is the number of the lease under which it was written, ``versions`` those of the
    software, ``sha256`` the digest of all the rest.
    """

    fencing: int
    versions: dict[str, Any]
    sha256: str


class _RoundExtras(_Signature, total=False):
    pool: int
    objects: list[StoredObject]


class RoundManifest(_RoundExtras):
    """A round of the bootstrap.

    ``rejected`` counts by reason, ``contaminated`` by evaluation set; ``pool`` is how many seeds
    and accepted instructions there are after it. ``objects`` are its raw blocks, in order, then its
    accepted and its rejected rows.
    """

    round: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    candidates: int
    accepted: int
    rejected: dict[str, int]
    contaminated: dict[str, int]


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
    contaminated: dict[str, dict[str, int]]
    bootstrap_tokens: int
    instance_tokens: int
