"""How many replicas are asked for."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from ray_si.serving.autoscaling import REQUESTS, SLOTS, replicas_for_requests


@pytest.mark.parametrize(
    ("requests", "replicas"),
    [
        ([192] * 8, 48),  # as many as clients send while there is work: four times as many for them
        ([140] * 8, 9),  # hardly more than fill the slots: these are all there are
        ([128] * 8, 8),
        ([1, 0, 0], 1),
        ([0, 0, 0], 1),
    ],
)
def test_there_are_slots_for_every_request_on_a_replica_and_more_where_some_may_be_held_back(
    requests, replicas
):
    assert asked_for(requests) == replicas


def asked_for(requests):
    """Replicas that are asked for where those of 128 slots have so many requests each."""
    metrics = {REQUESTS: dict(enumerate(requests)), SLOTS: dict.fromkeys(range(len(requests)), 128)}
    context = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=8)
    return replicas_for_requests(context)[0]


def numbers(work, most):
    """Of replicas, one after another, until they stay, where clients hold back what overfills."""
    found = [1]
    while len(found) < 100:
        each = min(work / found[-1], 1.25 * 128)  # at the least, with answers on their way back
        found.append(min(most, asked_for([each] * found[-1])))
        if found[-1] == found[-2]:
            break
    return found


def test_all_replicas_are_there_after_few_starts_where_there_is_work_enough():
    assert numbers(10**6, 64) == [1, 5, 25, 64, 64]


def test_as_many_stay_as_the_work_fills():
    """None comes and goes for ever."""
    for work in range(1, 12_000, 29):
        found = numbers(work, 64)
        assert found[-2:] == [min(64, math.ceil(work / 128))] * 2


@pytest.mark.parametrize("metrics", [None, {}, {REQUESTS: {0: 50}, SLOTS: {0: 0}}])
def test_without_a_word_from_the_replicas_their_number_stays(metrics):
    context = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=5)
    assert replicas_for_requests(context)[0] == 5
