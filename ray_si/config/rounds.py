"""Rounds that keep slots busy: how large, how many under way, as slots and latencies have it."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass
from functools import lru_cache

from ray_si.config.sections.bootstrap import MOST_AHEAD, MOST_PROMPTS, Bootstrap
from ray_si.config.sections.generator import Generator
from ray_si.engines.base import Purpose
from ray_si.errors import ConfigError

ROUND = 2
"""Requests of a fitted round, for each slot: few, since its demonstrations come from rounds before;
enough that what a round costs by itself hardly counts."""

BUSY = 0.9
"""Share of the slots below which rounds leave some idle."""

MANY_SLOTS = 128
"""From so many on it counts how many are busy."""

_USUAL_TOKENS = {"instructions": 30, "joint": 120}
"""Of an item of a completion, by purpose, for how much longer the longest completion may be."""

_USUAL_SIGMA = 0.5
"""Of the logarithm of latencies, where answers end as unevenly as a model's."""

_FRESH = 8
"""Stretches in which a fitted bootstrap draws on the pool at the least, so that what the model
wrote first is shown to it at all."""

_LEAST = 16
"""Prompts of a fitted round at the least: what a round costs by itself is shared by so many."""

_LEAST_ASKED = 64
"""Instructions that they ask for at the least: rounds that accept almost nothing are a plateau, and
of small ones some do so by chance. Where 3 % are accepted still, five rounds of 64 candidates
accept none once in 17,000 times, five of 8 every third time."""

_YIELD = 0.5
"""Accepted instructions for each that is asked for, where nothing is known yet."""

_LONGEST = 3.8
"""Deviations from the mean of the longest of some thousand latencies' logarithms."""

_SIMULATED = 512
"""Slots that `busy_share` simulates at most; more behave alike."""

_SURELY = 3.0
"""Rounds ahead that hold so many times what the longest answer takes leave no slot idle."""


@dataclass(frozen=True)
class Spread:
    """How latencies differ: log-normal, with ``sigma``, and at most ``most`` times their mean."""

    sigma: float
    most: float = math.inf

    @property
    def longest(self) -> float:
        """The longest of some thousand, in means."""
        if not self.sigma:
            return 1.0
        return min(self.most, math.exp(self.sigma * _LONGEST - self.sigma**2 / 2))

    def draw(self, rng: random.Random) -> float:
        """A latency, in means."""
        if not self.sigma:
            return 1.0
        return min(self.most, math.exp(rng.gauss(-(self.sigma**2) / 2, self.sigma)))


def latencies(generator: Generator, purpose: Purpose, asked: int) -> Spread:
    """How a generator's answers to prompts that ask for so many items differ.

    A replay says so itself; a model's answers are at most as much longer than usual as
    ``max_tokens`` lets them.
    """
    if generator.engine == "replay":
        return Spread(generator.replay.latency_sigma)
    most = getattr(generator.sampling, purpose).max_tokens
    return Spread(_USUAL_SIGMA, max(1.5, most / (_USUAL_TOKENS[purpose] * asked)))


def fitted(
    slots: int,
    spread: Spread,
    target: int,
    asked: int,
    *,
    prompts: int | None = None,
    lookahead: int | None = None,
    least: int = 1,
    most: int | None = None,
) -> tuple[int, int]:
    """``prompts_per_round`` and ``lookahead`` with which rounds keep slots busy.

    While the last answer of a round is awaited, the rounds ahead of it have to fill every slot:
    they hold as many requests for each as the longest answer takes means. Without rounds ahead one
    is so long that the wait hardly counts. What is given, ``prompts`` or ``lookahead``, stays, and
    the other is fitted to it.

    No more than a part of what the ``target`` needs is under way, ``asked`` instructions a prompt,
    or of the ``most`` prompts that there may be in all. A round has the ``least`` that is given,
    and no fewer than tell of a plateau.
    """
    room, ahead = target / (asked * _YIELD) / _FRESH, slots * spread.longest
    least = max(least, _LEAST, math.ceil(_LEAST_ASKED / asked))
    if most is not None:
        a_part = max(1, most // _FRESH)
        room, least = min(room, a_part), min(least, a_part)
    if prompts is not None:
        rounds = min(math.ceil(ahead / prompts), int(room / prompts) - 1, MOST_AHEAD)
        return prompts, max(1, rounds) if lookahead is None else lookahead
    size = max(ROUND * slots, least)
    if lookahead is None:
        lookahead = min(max(1, math.ceil(ahead / size)), MOST_AHEAD)
    size = max(size, math.ceil(ahead / lookahead if lookahead else ahead * BUSY / (1 - BUSY)))
    return min(max(least, min(size, int(room / (lookahead + 1)))), MOST_PROMPTS), lookahead


def check_new(options: Bootstrap) -> None:
    """Raise ConfigError for rounds with which no run should begin, though earlier ones go on."""
    prompts, share = options.prompts_per_round, options.classification_share
    if share and not int(prompts * share):
        raise ConfigError(
            f"bootstrap.classification_share: {share:g} of a round of {prompts} is no prompt; set "
            f"prompts_per_round to {options.least_prompts} or more, or the share to 0"
        )
    if options.lookahead > MOST_AHEAD:
        raise ConfigError(
            f"bootstrap.lookahead: each of {options.lookahead} rounds ahead takes a thread and an "
            f"execution of Ray Data; set it to {MOST_AHEAD} or less, and prompts_per_round higher"
        )


@lru_cache(maxsize=8)
def busy_share(
    slots: int, spread: Spread, prompts: int, lookahead: int, decide: float = 0.0
) -> float:
    """Share of the slots that work while rounds follow one another, by simulation.

    First come, first served, with nothing lost between requests; a round takes ``decide`` means to
    be decided on after its last answer.
    """
    scale = max(1.0, slots / _SIMULATED)
    slots, prompts = max(1, round(slots / scale)), max(1, round(prompts / scale))
    ahead = _SURELY * slots * (spread.longest + decide)
    if prompts * lookahead >= ahead and prompts >= 2 * slots * decide:  # decided on in time
        return 1.0
    rounds = 3 * (lookahead + 1) + math.ceil(10 * slots / prompts)
    rng, free, busy = random.Random(0), [0.0] * slots, 0.0
    commits = [0.0] * (lookahead + 1)  # of the round that each one waits for
    for round_ in range(rounds - 1):
        # counted from the first commit until the last round would begin, where these are known
        since = commits[lookahead + 1] if round_ else math.inf
        until = commits[rounds - 1] if rounds <= len(commits) else math.inf
        last = commits[-1]
        for _ in range(prompts):
            start = max(free[0], commits[round_])
            end = start + spread.draw(rng)
            heapq.heapreplace(free, end)
            busy += max(0.0, min(end, until) - max(start, since))
            last = max(last, end)
        commits.append(last + decide)
    return busy / (slots * (commits[rounds - 1] - commits[lookahead + 1]))
