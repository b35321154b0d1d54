"""Keys of a run's objects: how they are made, and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterable

INSTANCES = "instances"
"""Folder of the instance blocks."""

JOB = "job/"
"""How the keys begin of what jobs leave beside a run; a place that holds nothing else is free."""

_BLOCK = re.compile(r"(.+)/block-(\d{5,})(?:-(\d{5,}))?\.parquet")
_ROUND = re.compile(r"bootstrap/round-(\d{5,})")
_IN_ROUND = re.compile(r"bootstrap/round-(\d{5,})/")
_FENCED = re.compile(r"(/block-\d{5,}|/accepted|/rejected|/embeddings|/inputs)-\d{5,}\.")


def round_folder(round_: int) -> str:
    """Folder of one bootstrap round."""
    return f"bootstrap/round-{round_:05d}"


def block_key(folder: str, block: int, fencing: int | None = None) -> str:
    """Key of one block of a folder (a round's, or `INSTANCES`).

    With the fencing number of the driver that asked it again, where what stands did not do.
    """
    again = "" if fencing is None else f"-{fencing:05d}"
    return f"{folder}/block-{block:05d}{again}.parquet"


def block_keys(keys: Iterable[str]) -> dict[int, str]:
    """Block number -> key, by number, of the keys of blocks; of one asked again, the last."""
    last: dict[int, tuple[int, str]] = {}
    for key in keys:
        if match := _BLOCK.fullmatch(key):
            block, fencing = int(match[2]), int(match[3] or 0)
            last[block] = max(last.get(block, (0, "")), (fencing, key))
    return {block: last[block][1] for block in sorted(last)}


def block_number(key: str, folder: str) -> int | None:
    """Number of the block of a folder that this is the key of; None where it is of none."""
    match = _BLOCK.fullmatch(key)
    return int(match[2]) if match and match[1] == folder else None


def round_of_block(key: str) -> int | None:
    """Round of the raw block that this is the key of; None where it is of none."""
    match = _BLOCK.fullmatch(key)
    folder = match and _ROUND.fullmatch(match[1])
    return int(folder[1]) if folder else None


def round_of(key: str) -> int | None:
    """Round in whose folder an object of this key lies; None where that is none's."""
    match = _IN_ROUND.match(key)
    return int(match[1]) if match else None


def unfenced(key: str) -> str:
    """The key without the fencing number of who wrote it: the same for whatever is in one place."""
    return _FENCED.sub(r"\1.", key)


def shard_key(index: int, count: int, suffix: str) -> str:
    """Key of one of ``count`` training shards; ``suffix`` is "parquet" or "jsonl"."""
    return f"data/train-{index:05d}-of-{count:05d}.{suffix}"
