"""What a cluster costs, from the prices that its nodes tell."""

from __future__ import annotations

import pytest

from ray_si.build.cost import ClusterCost
from ray_si.config.nodes import PRICE


def test_time_is_paid_at_the_rate_of_the_nodes_that_were_there():
    cost = ClusterCost(_since=0.0)
    cost.note([{PRICE: "0.5"}, {PRICE: "1.5"}, {}], now=0.0)
    assert cost.as_dict() == {"nodes": 2, "dollars_per_hour": 2.0, "dollars": 0.0}
    cost.note([{PRICE: "0.5"}], now=1800.0)
    assert cost.as_dict() == {"nodes": 1, "dollars_per_hour": 0.5, "dollars": 1.0}
    cost.note([], now=5400.0)
    assert cost.dollars == pytest.approx(1.5)


def test_a_cluster_without_prices_has_no_cost_line():
    cost = ClusterCost()
    cost.note([{}, {PRICE: "cheap"}])
    assert cost.as_dict() == {}
