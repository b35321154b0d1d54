"""Rounds that keep slots busy."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field

import pytest

from ray_si.config.file import parse_config
from ray_si.config.rounds import Spread, busy_share, check_new, fitted
from ray_si.config.sections.bootstrap import MOST_AHEAD, Bootstrap
from ray_si.errors import ConfigError
from ray_si.pipeline.conditions import rounds_of_openings
from ray_si.pipeline.decisions import is_plateau

MANY = 10**9


@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("slots", [1, 64, 1024, 8192])
def test_fitted_rounds_keep_every_slot_busy(slots, sigma):
    spread = Spread(sigma)
    assert busy_share(slots, spread, *fitted(slots, spread, MANY, 8)) > 0.95


def test_rounds_that_are_too_few_or_too_small_leave_slots_idle():
    spread = Spread(0.8)
    assert busy_share(256, spread, 64, 1) < 0.2  # two rounds, half of the slots between them
    assert busy_share(256, spread, 1024, 0) < 0.7
    assert busy_share(256, spread, 512, 1, decide=2.0) < busy_share(256, spread, 512, 1)


def plain_share(slots, spread, prompts, lookahead, decide):
    """Every request kept, and counted at the end."""
    rounds = 3 * (lookahead + 1) + math.ceil(10 * slots / prompts)
    rng, free = random.Random(0), [0.0] * slots
    commits, runs = [0.0] * (lookahead + 1), []
    for round_ in range(rounds):
        ends = []
        for _ in range(prompts):
            start = max(heapq.heappop(free), commits[round_])
            ends.append(start + spread.draw(rng))
            heapq.heappush(free, ends[-1])
            runs.append((start, ends[-1]))
        commits.append(max(commits[-1], *ends) + decide)
    since, until = commits[lookahead + 1], commits[rounds - 1]
    busy = sum(max(0.0, min(end, until) - max(start, since)) for start, end in runs)
    return busy / (slots * (until - since))


@pytest.mark.parametrize("spread", [Spread(0.0), Spread(0.5, 2.1), Spread(1.0)])
@pytest.mark.parametrize("decide", [0.0, 0.5, 4.0])
def test_the_share_of_busy_slots_is_that_of_every_request_counted(spread, decide):
    for slots, prompts, lookahead in [
        *((1, 1, 0), (8, 1, 3), (8, 1, 40), (8, 16, 0), (8, 16, 1), (8, 16, 2), (8, 30, 5)),
        *((16, 8, 1), (16, 8, 6), (16, 8, 12), (16, 100, 0), (16, 100, 1), (16, 64, 9)),
    ]:
        plain = plain_share(slots, spread, prompts, lookahead, decide)
        assert busy_share(slots, spread, prompts, lookahead, decide) == pytest.approx(plain, 0.005)


@dataclass(frozen=True)
class Counted(Spread):
    drawn: list = field(default_factory=list, compare=False)

    def draw(self, rng):
        self.drawn.append(1)
        return super().draw(rng)


@pytest.mark.parametrize(
    ("prompts", "lookahead"), [(10**5, 10), (10**5, 1), (4000, 2), (64, 10**4), (1, 10**6)]
)
def test_large_rounds_and_many_of_them_are_not_simulated_one_by_one(prompts, lookahead):
    spread = Counted(0.5, 6.0)
    assert busy_share(512, spread, prompts, lookahead) > 0.99
    assert len(spread.drawn) < 50_000


def test_an_answer_is_never_longer_than_its_limit():
    assert Spread(0.8, 2.0).longest == 2.0
    assert Spread(0.8).longest > 10
    assert fitted(64, Spread(0.8, 2.0), MANY, 8)[1] < fitted(64, Spread(0.8), MANY, 8)[1]


def test_a_small_target_is_not_asked_for_all_at_once():
    prompts, lookahead = fitted(1024, Spread(0.8), 4000, 8)
    assert prompts * (lookahead + 1) * 4 <= 4000 / 4


def config(**bootstrap):
    generator = {"engine": "replay", "model": None, "replicas": 4, "max_batch": 64}
    generator["replay"] = {"latency_s": 1.0, "latency_sigma": 0.8}
    return {"generator": generator, "bootstrap": bootstrap, "target_instructions": 10**6}


def test_fitted_numbers_stand_in_the_run_and_a_resume_keeps_them_on_other_hardware():
    fresh = parse_config(config(fit_to_slots=True))
    assert (fresh.bootstrap.prompts_per_round, fresh.bootstrap.lookahead) == (512, 8)
    stored = fresh.model_dump(mode="json")
    assert parse_config(stored) == fresh
    larger = config(fit_to_slots=True)
    larger["generator"]["replicas"] = 8
    other = parse_config(larger)
    assert other.bootstrap.prompts_per_round == 1024
    assert other.as_begun(stored).identity() == fresh.identity()
    assert other.as_begun({}).identity() != fresh.identity()


def test_what_is_set_is_not_fitted_and_the_other_is_fitted_to_it():
    fitted_to = parse_config(config(fit_to_slots=True, lookahead=2)).bootstrap
    assert (fitted_to.prompts_per_round, fitted_to.lookahead) == (1944, 2)
    fitted_to = parse_config(config(fit_to_slots=True, prompts_per_round=64)).bootstrap
    assert (fitted_to.prompts_per_round, fitted_to.lookahead) == (64, 61)
    by_hand = parse_config(config(prompts_per_round=512, lookahead=8))
    assert by_hand.identity() == parse_config(config(fit_to_slots=True)).identity()


@pytest.mark.parametrize(
    "given", [{"lookahead": 0}, {"lookahead": 1}, {"lookahead": 9}, {"prompts": 64}]
)
def test_rounds_fitted_to_one_of_the_numbers_keep_every_slot_busy(given):
    spread = Spread(0.5, 2.1)
    assert busy_share(512, spread, *fitted(512, spread, MANY, 8, **given)) > 0.9


def test_what_is_fitted_to_the_other_number_is_no_more_than_the_target_and_a_run_bear():
    assert fitted(1024, Spread(0.8), MANY, 8, prompts=1) == (1, MOST_AHEAD)
    assert fitted(1024, Spread(0.8), 32_000, 8, prompts=100) == (100, 9)  # 1,000 under way
    assert fitted(1024, Spread(0.8), 32_000, 8, lookahead=4) == (200, 4)


@pytest.mark.parametrize(("asked", "least"), [(1, 64), (2, 32), (8, 16), (20, 16)])
@pytest.mark.parametrize("slots", [1, 4, 1024])
@pytest.mark.parametrize("target", [1, 10**3, 10**6])
def test_no_fitted_round_is_so_small_that_it_accepts_nothing_by_chance(asked, least, slots, target):
    for lookahead in (None, 0, 1, 30):
        prompts, _ = fitted(slots, Spread(0.5), target, asked, lookahead=lookahead)
        assert prompts >= least
    assert fitted(1, Spread(0.5), target, asked)[0] == least


@pytest.mark.parametrize("share", [0.0, 1.0, 0.5, 0.1, 0.03, 1 / 49, 1e-3, 1e-5])
def test_a_fitted_round_has_a_prompt_for_classification_tasks(share):
    for lookahead in ({}, {"lookahead": 0}):
        made = config(fit_to_slots=True, classification_share=share, **lookahead)
        made["target_instructions"] = 100
        check_new(parse_config(made).bootstrap)


def test_a_round_without_a_prompt_for_classification_tasks_is_no_new_runs():
    options = Bootstrap(classification_share=0.03, prompts_per_round=33)
    with pytest.raises(ConfigError, match="prompts_per_round to 34 or more"):
        check_new(options)
    check_new(options.model_copy(update={"prompts_per_round": options.least_prompts}))


@pytest.mark.parametrize(("count", "each"), [(20, 50), (20, 2), (2, 1)])
def test_openings_that_may_be_used_so_often_are_enough_for_several_fitted_rounds(count, each):
    values = config(
        fit_to_slots=True,
        openings=[f"Word {n}" for n in range(count)],
        prompts_per_opening=each,
        new_instructions=1,
    )
    options = parse_config(values).bootstrap
    assert rounds_of_openings(options) >= min(8, count * each)
    assert not is_plateau([], options)
    values["bootstrap"]["prompts_per_round"] = count * each + 1
    with pytest.raises(ConfigError, match="less than a round"):
        parse_config(values)


def test_where_more_rounds_would_be_fitted_than_may_be_ahead_they_are_larger():
    spread = Spread(2.0)
    prompts, lookahead = fitted(64, spread, MANY, 8)
    assert lookahead == MOST_AHEAD
    assert prompts * lookahead >= 64 * spread.longest > 2 * 64 * lookahead
