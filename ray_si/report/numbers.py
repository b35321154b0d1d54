"""What the statistics say: the one home of the keys of statistics.json, as `collect` makes it.

Ratios and means are None over nothing.
"""

from __future__ import annotations

from typing import Any, TypedDict

from ray_si.report.contents import State
from ray_si.scores.overview import ScoresOverview

Bin = TypedDict("Bin", {"from": float, "to": float | None, "count": int})
"""Of a histogram; ``to`` belongs to the bin of a length, not to that of a score. None is open."""


class RunFacts(TypedDict):
    """The run as far as it was read.

    ``state`` is a `State`, ``settings`` the part of the configuration that results depend on.
    """

    state: State
    problems: list[str]
    fingerprint: str
    target: int | None
    settings: dict[str, Any]
    seeds: int
    seeds_classification: int
    waiting_blocks: int
    instructions_read: int


class Funnel(TypedDict):
    """From completions to rows, in counts.

    ``instances`` passed the filters. Where ``output.keep`` leaves some of a finished run out,
    ``rows`` are fewer, and ``with_instance`` are the instructions that have a row.
    """

    rounds: int
    completions: int
    candidates: int
    accepted: int
    instructions_asked: int
    classification: int
    with_instance: int
    instances_written: int
    instances: int
    rows: int | None


class Rejections(TypedDict):
    """Reason -> how many."""

    instructions: dict[str, int]
    instances: dict[str, int]


class TokenCounts(TypedDict):
    """Tokens spent, and completion tokens for each thing that came of them."""

    bootstrap_prompt: int
    bootstrap_completion: int
    instance_completion: int
    per_accepted_instruction: float | None
    per_row: float | None


class RoundGroup(TypedDict):
    """Rounds ``first`` to ``last``, taken together."""

    first: int
    last: int
    candidates: int
    accepted: int
    rows: int
    acceptance: float | None
    tokens_per_accepted: float | None
    tokens_per_row: float | None


class Summary(TypedDict):
    """Of whole numbers; all but ``count`` are None where that is 0."""

    count: int
    mean: float | None
    least: int | None
    median: int | None
    p95: int | None
    most: int | None


class Lengths(TypedDict):
    """Of one kind of text; the histogram is of words."""

    words: Summary
    characters: Summary
    histogram: list[Bin]


class ScoreSummary(TypedDict):
    """Of scores from 0 to 1."""

    count: int
    mean: float | None
    histogram: list[Bin]


class Novelty(ScoreSummary):
    """Of every instruction's ROUGE-L F with the nearest of so many ``seeds``."""

    seeds: int


class NounCount(TypedDict):
    """A verb's direct object."""

    noun: str
    count: int


class VerbCount(TypedDict):
    """A verb at the root of instructions, with its most frequent nouns."""

    verb: str
    count: int
    nouns: list[NounCount]


class ParsedVerbs(TypedDict):
    """What a parser says of ``parsed`` instructions."""

    parser: str | None
    parsed: int
    with_verb: int
    with_noun: int
    different_pairs: int
    verbs: list[VerbCount]


class Verbs(ParsedVerbs, total=False):
    """Of ``instructions``; without a parser there is only what to ``install``."""

    instructions: int
    install: str


class DiversityOfSet(TypedDict):
    """Measures of one set of texts; ``distinct`` are the shares of distinct 1- to 4-grams."""

    name: str
    texts: int
    distinct: list[float | None]
    self_bleu: float | None
    vendi: float | None


class Diversity(TypedDict):
    """The same measures of the seeds, of samples and of all; ``embedded`` instructions have one."""

    sets: list[DiversityOfSet]
    embedded: int
    dimension: int
    tokenizer: str


class Statistics(TypedDict):
    """All of it; ``contaminated`` counts by evaluation set, then by kind.

    ``scores`` is None where nothing is scored, as while a run is being built.
    """

    ray_si: str
    run: RunFacts
    funnel: Funnel
    rejected: Rejections
    contaminated: dict[str, dict[str, int]]
    tokens: TokenCounts
    rounds: list[RoundGroup]
    lengths: dict[str, Lengths]
    nearest_seed: Novelty
    verbs: Verbs
    diversity: Diversity
    scores: ScoresOverview | None
