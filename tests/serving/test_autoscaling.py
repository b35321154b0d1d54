"""How many replicas are asked for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ray_si.serving.autoscaling import REQUESTS, SLOTS, replicas_for_requests


@pytest.mark.parametrize(
    ("requests", "replicas"),
    [
        ([192] * 8, 12),  # what eight replicas of 128 slots have: half as many again
        ([12288 / 8] * 8, 96),  # what clients of 64 such replicas send, until there are more
        ([128] * 8, 8),
        ([1, 0, 0], 1),
        ([0, 0, 0], 1),
    ],
)
def test_there_are_slots_for_every_request_on_a_replica(requests, replicas):
    metrics = {REQUESTS: dict(enumerate(requests)), SLOTS: dict.fromkeys(range(len(requests)), 128)}
    context = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=8)
    assert replicas_for_requests(context)[0] == replicas


@pytest.mark.parametrize("metrics", [None, {}, {REQUESTS: {0: 50}, SLOTS: {0: 0}}])
def test_without_a_word_from_the_replicas_their_number_stays(metrics):
    context = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=5)
    assert replicas_for_requests(context)[0] == 5
