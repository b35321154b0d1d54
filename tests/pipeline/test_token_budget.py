"""The budget, without Ray: what is granted, and what that comes to."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from hypothesis import given, strategies as st

from ray_si.config import Budget, Prices
from ray_si.errors import BudgetError
from ray_si.pipeline.token_budget import Rates, TokenBudget
from ray_si.run.tokens import Tokens

PRICES = Prices(prompt=1, completion=4)
RATES = {
    "bootstrap": Rates(Tokens(500, 500), PRICES),
    "instances": Rates(Tokens(800, 400), PRICES),
}


def token_budget(already=None, **limits):
    return TokenBudget(Budget(**limits), RATES, {"bootstrap": already} if already else {})


def test_without_a_budget_everything_is_granted():
    assert token_budget().grant("bootstrap", [32] * 1000) == 1000


def test_while_nothing_is_known_the_worst_is_expected():
    assert token_budget(tokens=100_000).grant("bootstrap", [10] * 50) == 10
    assert token_budget(dollars=0.1).grant("bootstrap", [10] * 50) == 4  # $0.0025 a row


def test_what_blocks_cost_is_learned():
    budget = token_budget(tokens=100_000)
    assert budget.grant("bootstrap", [10]) == 1
    budget.settle("bootstrap", 10, Tokens(1000, 1000))
    assert budget.grant("bootstrap", [10] * 90) == 49
    budget.settle("bootstrap", 490, Tokens(49_000, 48_000))
    assert budget.grant("bootstrap", [10]) == 0


def test_what_still_runs_counts_and_each_phase_for_itself():
    budget = token_budget(tokens=100_000)
    budget.grant("bootstrap", [50])
    assert budget.grant("instances", [10] * 50) == 4  # of 1,200 a row


def test_nothing_is_granted_once_the_hours_are_over_whatever_still_runs(monkeypatch):
    budget = token_budget(hours=2)
    assert budget.grant("bootstrap", [10] * 50) == 50
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7199)
    assert budget.grant("instances", [10]) == 1
    monkeypatch.setattr(time, "time", lambda: now + 7201)
    assert budget.grant("instances", [10]) == 0
    assert "stopped after 2 hours" in str(budget.error("all is kept"))


def test_rounds_that_were_given_up_do_not_keep_instances_waiting():
    budget = token_budget(tokens=100_000)
    budget.grant("bootstrap", [90], order=3)
    budget.grant("bootstrap", [90, 90], order=4, stop=_set())
    assert budget.grant("instances", [10, 10]) == 1
    budget.settle("instances", 10, Tokens(9_000, 1_500))
    assert budget.grant("instances", [10]) == 0


def _set():
    event = threading.Event()
    event.set()
    return event


def test_where_there_is_no_room_what_still_runs_is_waited_for():
    budget = token_budget(tokens=100_000)
    budget.grant("bootstrap", [100])
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(budget.grant, "bootstrap", [10] * 50)
        assert not wait([waiting], timeout=0.1).done
        budget.settle("bootstrap", 100, Tokens(60_000, 0))  # it cost less than expected
        assert waiting.result(timeout=5) == 6
        stop = threading.Event()
        waiting = threads.submit(budget.grant, "bootstrap", [10], stop=stop)
        assert not wait([waiting], timeout=0.1).done
        stop.set()
        assert waiting.result(timeout=5) == 0


def test_a_later_round_waits_until_an_earlier_one_has_all_it_wants():
    budget = token_budget(tokens=100_000)
    assert budget.grant("bootstrap", [60, 60], order=0) == 1  # of 1,000 a row
    with ThreadPoolExecutor() as threads:
        later = threads.submit(budget.grant, "bootstrap", [10], order=1)
        budget.settle("bootstrap", 60, Tokens(6_000, 0))
        assert not wait([later], timeout=0.1).done
        assert budget.grant("bootstrap", [60], order=0) == 1
        assert later.result(timeout=5) == 1


def test_the_first_block_is_granted_where_the_worst_does_not_fit():
    budget = token_budget(tokens=500)
    assert budget.grant("bootstrap", [10, 10]) == 1
    budget.settle("bootstrap", 10, Tokens(480, 0))
    assert budget.grant("bootstrap", [10]) == 0


def test_what_was_spent_before_counts():
    assert (
        token_budget(already=Tokens(60_000, 30_000), tokens=100_000).grant("bootstrap", [1] * 50)
        == 10
    )
    assert token_budget(already=Tokens(60_000, 40_000), tokens=100_000).grant("bootstrap", [1]) == 0


@given(
    limit=st.integers(1, 200_000),
    costs=st.lists(st.integers(1, 3000), min_size=1, max_size=60),
    seen_at_once=st.integers(1, 8),
)
def test_a_budget_is_kept_but_for_what_blocks_cost_above_the_mean(limit, costs, seen_at_once):
    budget = token_budget(tokens=limit)
    done: list[int] = []
    while len(done) < len(costs):
        asked = costs[len(done) :][:seen_at_once]
        mean = sum(done) / len(done) if done else 1000  # the worst
        granted = budget.grant("bootstrap", [1] * len(asked))
        if not granted:
            assert sum(done) + mean > limit - 1e-6
            break
        for cost in asked[:granted]:
            budget.settle("bootstrap", 1, Tokens(cost, 0))
        above_mean = sum(asked[:granted]) - granted * mean
        room = max(limit - sum(done), granted * mean if not done else 0)
        done += asked[:granted]
        assert sum(done) <= sum(done[:-granted]) + room + above_mean + 1e-6


def test_the_error_says_what_was_spent_and_how_to_go_on():
    budget = token_budget(already=Tokens(1_000_000, 250_000), tokens=1_250_000, dollars=2.5)
    error = budget.error("40 of 90 instructions are accepted and kept")
    assert isinstance(error, BudgetError)
    assert str(error) == (
        "stopped: 1,250,000 of 1,250,000 tokens and $2.0000 of $2.5000 are spent, and the next "
        "block would exceed that; 40 of 90 instructions are accepted and kept; raise budget.tokens "
        "or budget.dollars and build again (with --finish, to spend it on the instances of what is "
        "accepted)"
    )


@pytest.mark.parametrize("phase", ["bootstrap", "instances"])
def test_a_limit_in_dollars_weighs_completions_by_their_price(phase):
    budget = token_budget(dollars=1)
    budget.grant(phase, [1])
    budget.settle(phase, 1, Tokens(0, 1000))  # $0.004
    assert budget.grant(phase, [1] * 1000) == 249
