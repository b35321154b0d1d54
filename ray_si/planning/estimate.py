"""What a run will take, from a short sample of it, with its uncertainty."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ray_si.config import RunConfig
from ray_si.dedup import EmbeddingIndex, RougeIndex
from ray_si.dedup.rouge import rouge_l
from ray_si.dedup.tokens import Tokenizer, tokenize
from ray_si.errors import NoProgressError
from ray_si.planning.preview import DryRun, Written

REPLICATES = 400
"""Random halves of a sample."""

_LEVELS = (0.05, 0.5, 0.95)

_MOST = 1000
"""Candidates for each instruction of the target beyond which it counts as out of reach."""

_FAR = 20


@dataclass(frozen=True)
class Range:
    """The 5th, 50th and 95th percentile over the halves; infinite where out of reach."""

    low: float
    mid: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Range:
        """From one value for each half."""
        ranked = np.quantile(values, _LEVELS, method="nearest")  # no mean of a number and infinity
        return cls(*(float(value) for value in ranked))


@dataclass(frozen=True)
class Sample:
    """What a sample says, in numbers.

    ``prompt_tokens`` and ``completion_tokens`` of each completion, shape (n,). ``owner``: for each
    candidate that passed parsing, filters and the comparison with the seed tasks, the completion it
    stands in, shape (m,). ``near``: which of these the gate holds to be near-duplicates, bool
    (m, m). ``instance_tokens``: prompt and completion tokens of phases 2 and 3 for each of some
    accepted instructions, shape (k, 2). ``seconds`` of the engine: a completion of phase 1, an
    instruction in phases 2 and 3, at the sample's concurrency.
    """

    prompt_tokens: np.ndarray
    completion_tokens: np.ndarray
    owner: np.ndarray
    near: np.ndarray
    instance_tokens: np.ndarray
    seconds: tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """What reaching ``target`` takes.

    ``acceptance`` and ``final_acceptance`` are accepted instructions a completion, over the sample
    and where the target is reached; ``hours`` are the engines', over all replicas; ``dollars`` is
    None without prices. ``notes`` say what to be careful about.
    """

    target: int
    sample: int
    acceptance: Range
    final_acceptance: Range
    completions: Range
    prompt_tokens: Range
    completion_tokens: Range
    hours: Range
    dollars: Range | None
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is infinite is null."""
        values = asdict(self)
        for range_ in values.values():
            if isinstance(range_, dict):
                range_ |= {name: None for name, value in range_.items() if math.isinf(value)}
        return values


def take_sample(dry_run: DryRun, count: int, instructions: int) -> Sample:
    """Ask ``count`` prompts, and for the instances of ``instructions`` of what is accepted."""
    decided = dry_run.decide(dry_run.ask(count))
    seconds = dry_run.engine_seconds
    written = dry_run.write(decided.accepted[:instructions])
    tokens = np.array([_tokens(item) for item in written], np.int64).reshape(-1, 2)
    texts = [text for _, text in decided.usable]
    owner = np.array([place for place, _ in decided.usable], np.int64)
    far, near = _compare(dry_run, texts)
    completions = [item.completion for item in decided.answered]
    return Sample(
        np.array([done.prompt_tokens for done in completions]),
        np.array([done.completion_tokens for done in completions]),
        owner[far],
        near[np.ix_(far, far)],
        tokens,
        (seconds / count, (dry_run.engine_seconds - seconds) / max(1, len(written))),
    )


def _tokens(item: Written) -> tuple[int, int]:
    prompt, completion = item.prompt_tokens, item.completion_tokens
    if item.classification:
        prompt += item.classification.prompt_tokens
        completion += item.classification.completion_tokens
    return prompt, completion


def _compare(dry_run: DryRun, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which texts are far enough from the seed tasks, shape (n,), and which near each other."""
    dedup, n = dry_run.config.dedup, len(texts)
    seeds = [seed.instruction for seed in dry_run.seeds]
    index = RougeIndex(dedup.rouge, dedup.tokenizer)
    index.add(seeds)
    near = np.zeros((n, n), bool)
    if not n:
        return np.zeros(0, bool), near
    far = np.asarray(index.search(texts)[1]) < 0
    for i, j in np.argwhere(np.tril(_shared(texts, dedup.tokenizer) > dedup.rouge - 1e-3, -1)):
        near[i, j] = near[j, i] = rouge_l(texts[i], texts[j], dedup.tokenizer) > dedup.rouge
    if dry_run.encode and dedup.cosine is not None:
        embedded = EmbeddingIndex.normalize(dry_run.encode(list(texts)))
        near |= embedded @ embedded.T > dedup.cosine
        embedded_seeds = EmbeddingIndex.normalize(dry_run.encode(seeds))
        far &= (embedded @ embedded_seeds.T).max(axis=1) <= dedup.cosine
    np.fill_diagonal(near, False)
    return far, near


def _shared(texts: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """2 o / (m + n) of each pair, o their common tokens in any order: at least their ROUGE-L F."""
    columns: dict[tuple[str, int], int] = {}
    tokens = [tokenize(text, tokenizer) for text in texts]
    places = []
    for words in tokens:
        seen: Counter[str] = Counter()
        row_columns = []
        for word in words:
            row_columns.append(columns.setdefault((word, seen[word]), len(columns)))
            seen[word] += 1
        places.append(row_columns)
    holds = np.zeros((len(texts), len(columns)), np.float32)
    for row, row_columns in enumerate(places):
        holds[row, row_columns] = 1
    sizes = np.array([len(words) for words in tokens])
    return np.asarray(2 * (holds @ holds.T) / np.maximum(1, sizes[:, None] + sizes[None, :]))


def extrapolate(
    sample: Sample,
    config: RunConfig,
    *,
    seed: int = 0,
) -> Estimate:
    """What the configured target takes, from a sample.

    Ranges are over random halves of the completions, drawn without replacement, whose means spread
    as those of whole samples do (half-sampling: McCarthy, Pseudo-replication, 1969). On each half
    the gate is played through, and `Growth` says how acceptance falls from there. Dollars go
    by each generator's ``prices``. Raises NoProgressError where the sample accepts too little to
    say anything.
    """
    n, target = len(sample.completion_tokens), config.target_instructions
    rng = np.random.default_rng(seed)
    columns: dict[str, list[float]] = {}
    by_owner = [np.flatnonzero(sample.owner == place) for place in range(n)]
    for _ in range(REPLICATES):
        # play the gate through on a half, in random order
        half = rng.permutation(n)[: n // 2]
        order = np.concatenate([by_owner[place] for place in half])
        near = sample.near[np.ix_(order, order)]
        accepted = _accepted(near)
        if not accepted:
            continue

        # whole rounds up to the target, as acceptance falls
        growth, per_round = Growth(near, accepted), config.bootstrap.prompts_per_round
        candidates = len(order) / len(half)
        rounds = np.ceil(growth.candidates_for(target) / candidates / per_round)
        completions = rounds * per_round

        # tokens of a half of the instances, for each instruction of the target
        instances = np.zeros(2)
        if len(sample.instance_tokens):
            chosen = rng.permutation(len(sample.instance_tokens))
            chosen = chosen[: max(1, len(chosen) // 2)]
            instances = sample.instance_tokens[chosen].mean(axis=0) * target

        # totals
        is_reached = math.isfinite(completions)
        asked = completions if is_reached else 0.0  # infinity times nothing is no number
        prompt = asked * sample.prompt_tokens[half].mean() + instances[0]
        written = asked * sample.completion_tokens[half].mean() + instances[1]
        busy = asked * sample.seconds[0] / config.generator.replicas
        busy += target * sample.seconds[1] / config.instances_by.replicas
        values = {
            "acceptance": accepted / len(half),
            "final_acceptance": candidates * growth.rate(completions * candidates),
            "completions": completions,
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "hours": busy / 3600,
        }
        first, later = config.generator.prices, config.instances_by.prices
        if first and later:
            begun = prompt - instances[0], written - instances[1]
            values["dollars"] = first.dollars(*begun) + later.dollars(*instances)
        if not is_reached:
            values |= dict.fromkeys(values.keys() - {"acceptance", "final_acceptance"}, math.inf)
        for name, value in values.items():
            columns.setdefault(name, []).append(value)

    # percentiles over the halves
    if len(columns.get("acceptance", ())) < REPLICATES / 2:
        raise NoProgressError(
            f"the {n} completions of the sample hardly hold an acceptable instruction: see "
            "`ray-si preview`, or take a larger --sample"
        )
    ranges = {name: Range.of(np.array(values)) for name, values in columns.items()}
    never = float(np.isinf(columns["completions"]).mean())
    return Estimate(
        target=target,
        sample=n,
        dollars=ranges.pop("dollars", None),
        notes=_notes(sample, config, never),
        **ranges,
    )


class Growth:
    """How many of a stream of candidates are accepted, from a stretch of it.

    A candidate that a share q of all candidates is near to is still acceptable after c of them with
    probability (1 - q)^c, as a new species is (Good, Biometrika 1953). The shares are taken to
    follow a Beta distribution, with mean and variance by the method of moments from how many of the
    stretch each of its candidates is near to (beta-binomial: Skellam 1948); then the rate after c
    candidates is B(a, b + c) / B(a, b). It is scaled to what the stretch accepted.

    ``near`` is bool (m, m), false on the diagonal; ``accepted`` of the m were.
    """

    def __init__(self, near: np.ndarray, accepted: int) -> None:
        m = len(near)
        counts = near.sum(axis=1)
        share = counts.mean() / (m - 1) if m > 1 else 0.0
        self._share, self._a, self._b = share, math.inf, math.inf
        if share and m > 2:
            spread = counts.var(ddof=1) / ((m - 1) * share * (1 - share) or 1)
            correlation = (spread - 1) / (m - 2)  # within a candidate's comparisons
            if 0 < correlation < 1:
                total = 1 / correlation - 1
                self._a, self._b = share * total, (1 - share) * total
        self._scale = 1.0
        self._scale = accepted / float(np.interp(m, *self._grid(m)))

    def rate(self, candidates: float) -> float:
        """The probability that a candidate is accepted after this many."""
        if math.isinf(candidates):
            return 0.0
        if math.isinf(self._a):
            return float(self._scale * (1 - self._share) ** candidates)
        return self._scale * math.exp(
            math.lgamma(self._b + candidates)
            - math.lgamma(self._a + self._b + candidates)
            + math.lgamma(self._a + self._b)
            - math.lgamma(self._b)
        )

    def candidates_for(self, target: int) -> float:
        """How many candidates it takes to accept this many; infinite where it cannot be."""
        candidates, accepted = self._grid(_MOST * target)
        if target > accepted[-1]:
            return math.inf
        return float(np.interp(target, accepted, candidates))

    def _grid(self, most: float) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of candidates up to ``most``, and how many of as many are accepted."""
        candidates = np.concatenate([[0.0], np.geomspace(1, max(2.0, most), 300)])
        rates = np.array([self.rate(c) for c in candidates])
        steps = np.diff(candidates) * (rates[1:] + rates[:-1]) / 2
        return candidates, np.concatenate([[0.0], steps.cumsum()])


def _accepted(near: np.ndarray) -> int:
    """How many of the candidates, in order, are near no earlier accepted one."""
    accepted: list[int] = []
    for candidate in range(len(near)):
        if not near[candidate, accepted].any():
            accepted.append(candidate)
    return len(accepted)


def _notes(sample: Sample, config: RunConfig, never: float) -> list[str]:
    n = len(sample.completion_tokens)
    notes = [
        "later prompts also show machine-written examples, which this sample could not",
        "hours are the engine's here, divided by the replicas; starting up is not in them",
    ]
    if never:
        notes.append(
            f"by {100 * never:.0f} % of the halves the target is out of reach: candidates repeat "
            "too much"
        )
    if not sample.near.any():
        notes.append(
            "the sample holds no near-duplicates, so how acceptance falls could not be seen: "
            "completions are a lower bound; take a larger --sample"
        )
    elif config.target_instructions > _FAR * len(sample.owner):
        notes.append(
            f"the target is over {_FAR} times the sample's candidates: the fall in acceptance is "
            "extrapolated far"
        )
    if n < config.generator.batch:
        notes.append(
            f"{n} prompts do not fill a batch of {config.generator.batch}: hours are an upper bound"
        )
    return notes
