"""Keys of a run's objects: how they are made, and what they say."""

from __future__ import annotations

import re

INSTANCES = "instances"
"""Folder of the instance blocks."""

_BLOCK = re.compile(r"(.+)/block-(\d{5,})\.parquet")
_ROUND = re.compile(r"bootstrap/round-(\d{5,})")


def round_folder(round_: int) -> str:
    """Folder of one bootstrap round."""
    return f"bootstrap/round-{round_:05d}"


def block_key(folder: str, block: int) -> str:
    """Key of one block of a folder (a round's, or `INSTANCES`)."""
    return f"{folder}/block-{block:05d}.parquet"


def block_number(key: str, folder: str) -> int | None:
    """Number of the block of a folder that this is the key of; None where it is of none."""
    match = _BLOCK.fullmatch(key)
    return int(match[2]) if match and match[1] == folder else None


def round_of_block(key: str) -> int | None:
    """Round of the raw block that this is the key of; None where it is of none."""
    match = _BLOCK.fullmatch(key)
    folder = match and _ROUND.fullmatch(match[1])
    return int(folder[1]) if folder else None


def shard_key(index: int, count: int, suffix: str) -> str:
    """Key of one of ``count`` training shards; ``suffix`` is "parquet" or "jsonl"."""
    return f"data/train-{index:05d}-of-{count:05d}.{suffix}"
