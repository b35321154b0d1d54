"""The budget, without Ray: what is granted, and what that comes to."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

import pytest
from hypothesis import given, settings, strategies as st

from ray_si.config import Budget, Prices
from ray_si.errors import BudgetError
from ray_si.pipeline.token_budget import Rates, TokenBudget, _used_s
from ray_si.run.tokens import Tokens

PRICES = Prices(prompt=1, completion=4)
RATES = {
    "bootstrap": Rates(Tokens(500, 500), PRICES),
    "instances": Rates(Tokens(800, 400), PRICES),
}


def token_budget(already=None, **limits):
    return TokenBudget(Budget(**limits), RATES, {"bootstrap": already} if already else {})


def test_without_a_budget_everything_is_granted():
    assert token_budget().claim("bootstrap").grant([32] * 1000) == 1000


def test_while_nothing_is_known_the_worst_is_expected():
    assert token_budget(tokens=100_000).claim("bootstrap").grant([10] * 50) == 10
    assert token_budget(dollars=0.1).claim("bootstrap").grant([10] * 50) == 4  # $0.0025 a row


def test_what_blocks_cost_is_learned():
    claim = token_budget(tokens=100_000).claim("bootstrap")
    assert claim.grant([10]) == 1
    claim.settle(10, Tokens(1000, 1000))
    assert claim.grant([10] * 90) == 49
    claim.settle(490, Tokens(49_000, 48_000))
    assert claim.grant([10]) == 0


def test_what_still_runs_counts_and_each_phase_for_itself():
    budget = token_budget(tokens=100_000)
    budget.claim("bootstrap").grant([50])
    assert budget.claim("instances").grant([10] * 50) == 4  # of 1,200 a row


def test_what_rounds_need_yet_is_left_to_them():
    budget = token_budget(tokens=100_000)
    rounds, instances = budget.claim("bootstrap"), budget.claim("instances", order=1 << 40)
    budget.keep(80)  # of 1,000 a row
    assert instances.grant([1] * 50) == 16  # of 1,200
    assert rounds.grant([10] * 5) == 5
    assert budget._reserve(instances, [1]) == 0
    budget.keep(50)  # all of which is under way, and not counted twice
    assert instances.grant([1] * 50) == 25
    budget.keep(0)
    rounds.settle(50, Tokens(10_000, 10_000))
    assert instances.grant([1] * 50) == 25


def test_nothing_is_granted_once_the_hours_are_over_whatever_still_runs(monkeypatch):
    budget = token_budget(hours=2)
    assert budget.claim("bootstrap").grant([10] * 50) == 50
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7199)
    assert budget.claim("instances").grant([10]) == 1
    monkeypatch.setattr(time, "time", lambda: now + 7201)
    assert budget.claim("instances").grant([10]) == 0
    assert "stopped after 2 hours" in str(budget.error("all is kept"))


@pytest.mark.parametrize("granted", [0, 1])
def test_rounds_that_were_given_up_keep_no_instances_waiting(granted):
    """Before they were granted anything, or part of what they want, as when a target is reached."""
    budget, stop = token_budget(tokens=100_000), threading.Event()
    budget.claim("bootstrap", order=3, stop=stop).grant([90] * granted)
    later = budget.claim("bootstrap", order=4, stop=stop)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(later.grant, [90, 90])
        if granted:
            assert not wait([waiting], timeout=0.1).done
        else:
            assert waiting.result(timeout=5) == 1
        stop.set()
        instances = budget.claim("instances", order=9)
        assert threads.submit(instances.grant, [40, 40]).result(timeout=5) == 2
        assert waiting.result(timeout=5) == 1 - granted
    instances.settle(80, Tokens(90_000, 0))
    later.settle(0, Tokens(10_000, 0))  # what they had asked for counts when it comes in
    assert instances.grant([10]) == 0


def test_what_a_claim_was_granted_and_did_not_use_goes_back():
    budget = token_budget(tokens=100_000)
    with suppress(OSError), budget.claim("bootstrap") as claim:
        assert claim.grant([50, 50]) == 2
        claim.settle(50, Tokens(50_000, 0))
        raise OSError
    assert budget.claim("bootstrap").grant([10] * 10) == 5


def test_where_there_is_no_room_what_still_runs_is_waited_for():
    budget, stop = token_budget(tokens=100_000), threading.Event()
    runs = budget.claim("bootstrap")
    runs.grant([100])
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(budget.claim("bootstrap").grant, [10] * 50)
        assert not wait([waiting], timeout=0.1).done
        runs.settle(100, Tokens(60_000, 0))  # it cost less than expected
        assert waiting.result(timeout=5) == 6
        waiting = threads.submit(budget.claim("bootstrap", stop=stop).grant, [10])
        assert not wait([waiting], timeout=0.1).done
        stop.set()
        assert waiting.result(timeout=5) == 0


def test_a_later_round_waits_until_an_earlier_one_has_all_it_wants():
    budget = token_budget(tokens=100_000)
    earlier, later = (budget.claim("bootstrap", order=order) for order in range(2))
    assert earlier.grant([60, 60]) == 1  # of 1,000 a row
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(later.grant, [10])
        earlier.settle(60, Tokens(6_000, 0))
        assert not wait([waiting], timeout=0.1).done
        assert earlier.grant([60]) == 1
        assert waiting.result(timeout=5) == 1


def test_a_later_round_waits_no_longer_once_an_earlier_one_has_ended():
    budget = token_budget(tokens=100_000)
    with ThreadPoolExecutor() as threads:
        with budget.claim("bootstrap", order=0) as earlier:
            assert earlier.grant([60, 60]) == 1
            waiting = threads.submit(budget.claim("bootstrap", order=1).grant, [10])
            assert not wait([waiting], timeout=0.1).done
        assert waiting.result(timeout=5) == 1


def test_the_first_block_is_granted_where_the_worst_does_not_fit():
    claim = token_budget(tokens=500).claim("bootstrap")
    assert claim.grant([10, 10]) == 1
    claim.settle(10, Tokens(480, 0))
    assert claim.grant([10]) == 0


@given(
    limit=st.integers(1, 60_000),
    seed=st.integers(0, 2**32),
    rounds=st.integers(1, 6),
    at_once=st.integers(1, 3),
)
@settings(max_examples=25)
def test_whatever_the_schedule_every_claim_is_served_or_refused(limit, seed, rounds, at_once):
    """Rounds in threads that pause, fail or are given up; then instances, as in a build."""
    rng = random.Random(seed)
    budget, stop = token_budget(tokens=limit), threading.Event()
    pauses = [[rng.random() / 500 for _ in range(99)] for _ in range(rounds)]
    fails = [rng.randrange(1, 40) for _ in range(rounds)]

    def work(phase, order, stop, pauses, fail_at):
        blocks = [3] * 6
        with budget.claim(phase, order=order, stop=stop) as claim:
            while blocks and not (stop and stop.is_set()):
                granted = claim.grant(blocks)
                if not granted:
                    return
                for rows in blocks[:granted]:
                    time.sleep(pauses.pop())
                    if len(pauses) < 99 - fail_at:
                        raise OSError
                    claim.settle(rows, Tokens(rows * 300, 0))
                del blocks[:granted]

    with ThreadPoolExecutor(16) as threads:
        futures = []
        for order in range(rounds):
            futures.append(
                threads.submit(work, "bootstrap", order, stop, pauses[order], fails[order])
            )
            if order >= at_once:
                wait([futures[order - at_once]], timeout=20)
        time.sleep(rng.random() / 100)
        stop.set()
        pauses = [0.0] * 99
        futures.append(threads.submit(work, "instances", 1 << 40, None, pauses, 99))
        assert not wait(futures, timeout=20).not_done
    assert budget._claims == []


def test_what_was_spent_before_counts():
    assert (
        token_budget(already=Tokens(60_000, 30_000), tokens=100_000)
        .claim("bootstrap")
        .grant([1] * 50)
        == 10
    )
    spent = token_budget(already=Tokens(60_000, 40_000), tokens=100_000)
    assert spent.claim("bootstrap").grant([1]) == 0


@given(
    limit=st.integers(1, 200_000),
    costs=st.lists(st.integers(1, 3000), min_size=1, max_size=60),
    seen_at_once=st.integers(1, 8),
)
def test_a_budget_is_kept_but_for_what_blocks_cost_above_the_mean(limit, costs, seen_at_once):
    claim = token_budget(tokens=limit).claim("bootstrap")
    done: list[int] = []
    while len(done) < len(costs):
        asked = costs[len(done) :][:seen_at_once]
        mean = sum(done) / len(done) if done else 1000  # the worst
        granted = claim.grant([1] * len(asked))
        if not granted:
            assert sum(done) + mean > limit - 1e-6
            break
        for cost in asked[:granted]:
            claim.settle(1, Tokens(cost, 0))
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
    claim = token_budget(dollars=1).claim(phase)
    claim.grant([1])
    claim.settle(1, Tokens(0, 1000))  # $0.004
    assert claim.grant([1] * 1000) == 249


def test_hours_of_a_build_that_was_cut_off_are_gone_for_the_next(monkeypatch):
    budget = TokenBudget(Budget(hours=2), RATES, {}, used_s=5400)
    assert budget.used() == pytest.approx(0.75, abs=0.01)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1700)
    assert budget.claim("bootstrap").grant([10]) == 1
    monkeypatch.setattr(time, "time", lambda: now + 1900)
    assert budget.claim("bootstrap").grant([10]) == 0


@pytest.mark.parametrize(
    ("live", "used_s"),
    [(None, 0), ({}, 0), ({"building_s": 3000.0}, 3000), ({"building_s": 7200.0}, 0)],
)
def test_hours_begin_anew_only_after_they_were_used_up(live, used_s):
    class Stored:
        exists = True

        def live(self):
            return live

    assert _used_s(Budget(hours=2), Stored()) == used_s
    assert _used_s(Budget(), Stored()) == 0


def test_the_share_that_is_spent_is_the_largest_of_the_limits():
    assert token_budget().used() is None
    budget = token_budget(Tokens(300, 200), tokens=1000, dollars=1)
    assert budget.used() == pytest.approx(0.5)
