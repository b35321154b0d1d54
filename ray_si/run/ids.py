"""Ids and seeds of what a run asks for and accepts: each is made here and nowhere else."""

from __future__ import annotations

import hashlib
import re

GREATEST_SEED = (1 << 63) - 1
"""Of a request; not all endpoints take so many bits."""


def request_id(round_: int, index: int) -> str:
    """The id of a bootstrap request, by its place in its round; ids sort as requests do."""
    return f"r{round_:05d}-{index:05d}"


def place_of_request(id_: str) -> tuple[int, int] | None:
    """The round and index that `request_id` made this of; None where it made no such id."""
    match = re.fullmatch(r"r(\d{5,})-(\d{5,})", id_)
    return (int(match[1]), int(match[2])) if match else None


def instruction_id(request_id: str, position: int) -> str:
    """The id of the candidate at a position of a request's completion."""
    return f"{request_id}-{position:02d}"


def training_row_id(instruction_id: str, place: int) -> str:
    """The id of the training row of an instruction's instance at a place."""
    return f"{instruction_id}-{place}"


def derive_seed(run_seed: int, purpose: str, round_: int, index: int) -> int:
    """63 bits of SHA-256 over run seed, purpose, round and index.

    It depends on nothing else, so a request repeated after a crash draws the same numbers.
    """
    digest = hashlib.sha256(f"{run_seed}/{purpose}/{round_}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def request_seed(run_seed: int, round_: int, index: int) -> int:
    """The seed of a bootstrap request: of its demonstrations and of its completion."""
    return derive_seed(run_seed, "instructions", round_, index)


def instance_seed(run_seed: int, place: int) -> int:
    """The seed of the requests about the instruction at a place of the accepted ones."""
    return derive_seed(run_seed, "instances", 0, place)


def input_seed(instance_seed: int, place: int) -> int:
    """The seed of the request for an instruction's input at a place, asked in steps."""
    return derive_seed(instance_seed, "input", place, 0)


def answer_seed(instance_seed: int, place: int, answer: int) -> int:
    """The seed of the request for an answer to the input at a place."""
    return derive_seed(instance_seed, "answer", place, answer)


def dealing_seed(run_seed: int, what: str, cycle: int) -> int:
    """The seed with which openings, say, are shuffled for the next time that each is used."""
    return derive_seed(run_seed, what, cycle, 0)


def regions_seed(run_seed: int, round_: int) -> int:
    """The seed with which the pool is clustered for a round of diverse demonstrations."""
    return derive_seed(run_seed, "regions", round_, 0)


def score_seed(row_id: str, part: int = 0) -> int:
    """The seed of a request that scores a training row, or an answer; ``part`` tells several apart.

    Nothing is drawn with it, but replicas know requests by their seeds.
    """
    digest = hashlib.sha256(f"score/{row_id}/{part}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
