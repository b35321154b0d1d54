"""Keeps a run within its budget: blocks are asked for only while they are expected to fit."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_si.config import Budget, Prices, RunConfig
from ray_si.engines.base import Request
from ray_si.engines.openai.protocol import estimate_tokens
from ray_si.errors import BudgetError
from ray_si.pipeline.longest_requests import longest_requests
from ray_si.records import SeedTask
from ray_si.run.run import Run
from ray_si.run.status import spent
from ray_si.run.tokens import Phase, Tokens


@dataclass(frozen=True)
class Rates:
    """What is known of a phase's costs before it runs: of a row at the most, and its prices."""

    worst: Tokens
    prices: Prices


@dataclass(frozen=True)
class _Amount:
    """What budgets are about."""

    tokens: float = 0.0
    dollars: float = 0.0

    def __add__(self, other: _Amount) -> _Amount:
        return _Amount(self.tokens + other.tokens, self.dollars + other.dollars)

    def __mul__(self, times: float) -> _Amount:
        return _Amount(self.tokens * times, self.dollars * times)


class _Phase:
    """``rows`` came in, for ``cost``."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self.rows = 0
        self.cost = _Amount()

    @property
    def mean(self) -> _Amount:
        """What a row is expected to cost."""
        return self.cost * (1 / self.rows) if self.rows else self.amount(self._rates.worst)

    def amount(self, tokens: Tokens) -> _Amount:
        dollars = self._rates.prices.dollars(tokens.prompt, tokens.completion)
        return _Amount(tokens.prompt + tokens.completion, dollars)


class Claim:
    """A caller's part of a `TokenBudget`; what it does not use goes back when ``with`` ends.

    ``reserved`` rows were granted and have not come in. What a claim that is given up has asked for
    still costs what it costs: that counts once it comes in, and is not expected before.
    """

    def __init__(
        self, budget: TokenBudget, phase: Phase, order: int, stop: threading.Event
    ) -> None:
        self._budget = budget
        self.phase, self.order, self.stop = phase, order, stop
        self.reserved = 0
        self.is_waiting = False
        """Whether it was not granted all it wanted yet."""

    @property
    def counts(self) -> bool:
        """Whether it was not given up."""
        return not self.stop.is_set()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget._close(self)

    def grant(self, blocks: Sequence[int]) -> int:
        """How many of these blocks (rows in each) may be asked for now, one after the other.

        Waits while there is room for none of them and others still run, which may turn out to cost
        less than expected; and while a claim of smaller order has not been granted all it wants. 0
        where there will be no room, the hours are over, or the claim is given up.
        """
        return self._budget._grant(self, blocks)

    def settle(self, rows: int, cost: Tokens) -> None:
        """A granted block has come in."""
        self._budget._settle(self, rows, cost)


class TokenBudget:
    """Grants blocks of requests, and learns from each what its phase's rows cost.

    A block is granted if what is spent, what the granted blocks that still run are expected to
    cost, and what it is expected to cost itself stay within every limit. While nothing is known of
    a phase the worst is expected; its very first block is granted while anything is left. So what
    is spent exceeds a limit by no more than the granted blocks cost above the mean before them, or
    by one block where a block is all there is room for. Hours count from when this was made, less
    the ``used_s`` seconds of builds before, and after them nothing is granted. Safe to use from
    several threads.
    """

    def __init__(
        self,
        budget: Budget,
        rates: Mapping[Phase, Rates],
        already: Mapping[Phase, Tokens],
        used_s: float = 0.0,
    ) -> None:
        self._budget = budget
        self._began = time.time() - used_s
        self.until = self._began + budget.hours * 3600 if budget.hours else None
        self._phases = {name: _Phase(each) for name, each in rates.items()}
        self._spent = _Amount()
        for name, tokens in already.items():
            self._spent += self._phases[name].amount(tokens)
        self._claims: list[Claim] = []
        self._kept = 0.0
        self._changed = threading.Condition()

    @classmethod
    def of(cls, config: RunConfig, run: Run, seeds: list[SeedTask]) -> TokenBudget:
        """That of a run, wherever it stands."""
        is_limited = config.budget.tokens or config.budget.dollars
        already = spent(run) if is_limited and run.exists else {}
        worst = {item.purpose: _at_most(item) for item in longest_requests(config, seeds)}
        if config.instances.method == "steps":
            options = config.instances
            each = worst["input"] + worst["answer"] * options.answers
            written = each * options.max_per_instruction
        else:
            written = max(
                worst["input_first"],
                worst["output_first"],
                key=lambda each: each.prompt + each.completion,
            )
        rates: dict[Phase, Rates] = {
            "bootstrap": Rates(
                worst[config.bootstrap_purpose], config.generator.prices or Prices()
            ),
            "instances": Rates(
                worst["classification"] + written, config.instances_by.prices or Prices()
            ),
        }
        return cls(config.budget, rates, already, _used_s(config.budget, run))

    def claim(self, phase: Phase, *, order: int = 0, stop: threading.Event | None = None) -> Claim:
        """What one round, or writer of instances, may ask for.

        A claim of smaller ``order`` (an earlier round) is served first. One whose ``stop`` is set
        has been given up: it is granted nothing, and no other waits for it.
        """
        claim = Claim(self, phase, order, stop or threading.Event())
        with self._changed:
            self._claims.append(claim)
        return claim

    @property
    def building_s(self) -> float:
        """Seconds since this was made, and those of builds before that were cut off."""
        return time.time() - self._began

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left of the tokens, or of the dollars."""
        limits, spent_ = self._budget, self._spent
        return bool(
            (limits.tokens and spent_.tokens >= limits.tokens)
            or (limits.dollars and spent_.dollars >= limits.dollars)
        )

    @property
    def is_over(self) -> bool:
        """Whether the hours are over."""
        return self.until is not None and time.time() >= self.until

    def used(self) -> float | None:
        """Share of the budget that is spent, the largest of its limits'; None where it has none."""
        limits, shares = self._budget, []
        if limits.tokens:
            shares.append(self._spent.tokens / limits.tokens)
        if limits.dollars:
            shares.append(self._spent.dollars / limits.dollars)
        if limits.hours and self.until:
            shares.append(self.building_s / (3600 * limits.hours))
        return max(shares, default=None)

    def keep(self, rows: float) -> None:
        """Leave room for so many rows of the bootstrap, those under way included.

        Nothing of another phase is granted that would take it; 0 lifts that.
        """
        with self._changed:
            self._kept = rows
            self._changed.notify_all()

    def error(self, standing: str) -> BudgetError:
        """That the budget is spent, with what stands finished and how to go on."""
        if self.is_over:
            return BudgetError(
                f"stopped after {self._budget.hours:g} hours, as budget.hours has it; {standing}; "
                "build again to go on"
            )
        parts, keys = [], []
        if self._budget.tokens:
            parts.append(f"{self._spent.tokens:,.0f} of {self._budget.tokens:,} tokens")
            keys.append("budget.tokens")
        if self._budget.dollars:
            parts.append(f"${self._spent.dollars:,.4f} of ${self._budget.dollars:,.4f}")
            keys.append("budget.dollars")
        return BudgetError(
            f"stopped: {' and '.join(parts)} are spent, and the next block would exceed that; "
            f"{standing}; raise {' or '.join(keys)} and build again (with --finish, to spend it on "
            "the instances of what is accepted)"
        )

    def _grant(self, claim: Claim, blocks: Sequence[int]) -> int:
        with self._changed:
            claim.is_waiting = True
            while not (self.is_over or claim.stop.is_set()):
                others = [other for other in self._claims if other is not claim and other.counts]
                is_next = not any(o.is_waiting and o.order < claim.order for o in others)
                granted = self._reserve(claim, blocks) if is_next else 0
                runs = claim.reserved or any(other.reserved for other in others)
                if granted == len(blocks) or (is_next and not runs):
                    claim.is_waiting = False
                if granted or not claim.is_waiting:
                    self._changed.notify_all()
                    return granted
                self._changed.wait(timeout=0.5)
            claim.is_waiting = False
            self._changed.notify_all()
            return 0

    def _reserve(self, claim: Claim, blocks: Sequence[int]) -> int:
        """Reserve the rows of the first blocks, as far as they fit; how many blocks do."""
        if self.is_spent:
            return 0
        running = [claim for claim in self._claims if claim.counts and claim.reserved]
        expected = self._spent
        for other in running:
            expected += self._phases[other.phase].mean * other.reserved
        if claim.phase != "bootstrap" and self._kept:
            asked = sum(other.reserved for other in running if other.phase == "bootstrap")
            mean = self._phases["bootstrap"].mean
            expected += mean * max(0.0, self._kept - asked)
            if not self._fits(expected):
                return 0
        phase = self._phases[claim.phase]
        is_first = not phase.rows and all(other.phase != claim.phase for other in running)
        granted = 0
        for rows in blocks:
            expected += phase.mean * rows
            if not self._fits(expected) and not (is_first and not granted):
                break
            granted += 1
            claim.reserved += rows
        return granted

    def _settle(self, claim: Claim, rows: int, cost: Tokens) -> None:
        phase = self._phases[claim.phase]
        with self._changed:
            claim.reserved -= rows
            phase.rows += rows
            phase.cost += phase.amount(cost)
            self._spent += phase.amount(cost)
            self._changed.notify_all()

    def _close(self, claim: Claim) -> None:
        with self._changed:
            self._claims.remove(claim)
            self._changed.notify_all()

    def _fits(self, amount: _Amount) -> bool:
        limits = self._budget
        return not (
            (limits.tokens and amount.tokens > limits.tokens)
            or (limits.dollars and amount.dollars > limits.dollars * (1 + 1e-9))
        )


def _used_s(budget: Budget, run: Run) -> float:
    """Seconds of its hours that a build which was cut off has used; 0 where one used them up."""
    if not budget.hours or not run.exists:
        return 0.0
    used_s = float((run.live() or {}).get("building_s", 0.0))
    return used_s if used_s < 3600 * budget.hours else 0.0


def _at_most(request: Request) -> Tokens:
    return Tokens(estimate_tokens(request), request.sampling.max_tokens)
