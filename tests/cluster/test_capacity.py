"""The capacity page says what the simulation computes from the committed measurements."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.clusters import ROOT

SCRIPT = ROOT / "benchmarks" / "capacity.py"


@pytest.fixture(scope="module")
def capacity():
    spec = importlib.util.spec_from_file_location("capacity", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["capacity"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["capacity"]


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_page_has_the_table_that_the_script_prints(capacity):
    page = (ROOT / "docs" / "capacity.md").read_text()
    assert run() in page
    assert page.count(capacity.MARK) == 2


def test_eight_nodes_do_most_of_eight_times_as_much_with_a_replica_on_each():
    nodes = json.loads((ROOT / "benchmarks" / "scaling.json").read_text())["nodes"]
    assert list(nodes) == ["1", "2", "4", "8"]
    assert all(size["replicas_by_node"] == [1] * int(count) for count, size in nodes.items())
    assert nodes["8"]["efficiency"] >= 0.9  # all nodes start on the same two cores


def test_a_reader_reruns_it_with_numbers_of_theirs():
    slow = run("--target", "1e6", "--tokens-per-second", "500", "--days", "1")
    fast = run("--target", "1e6", "--tokens-per-second", "5000", "--days", "1")
    replicas = [int(text.splitlines()[2].split("|")[2].replace(",", "")) for text in (slow, fast)]
    assert replicas[0] > 5 * replicas[1]


def test_the_gates_cost_is_what_was_measured_where_it_was(capacity):
    costs = capacity.load_costs()
    for pool, seconds in costs.search:
        assert costs.search_s(pool, cores=2) == pytest.approx(seconds, rel=1e-6)
    sizes = [10**k for k in range(3, 10)]
    found = [costs.search_s(size, cores=8) for size in sizes]
    assert found == sorted(found)


def test_more_of_anything_never_makes_a_build_slower(capacity):
    costs, model = capacity.load_costs(), capacity.Model()

    def seconds(replicas=64, shards=8, cores=8):
        return capacity.simulate(1e8, replicas, shards, 4096, cores, model, costs)[1]

    base = seconds()
    assert seconds(replicas=128) <= base
    assert seconds(shards=16) <= base
    assert seconds(cores=16) <= base
    alone = capacity.simulate(1e8, 1, 1024, 4096, 64, model, costs)
    tokens = alone[1] * model.tokens_per_second
    assert tokens > 1e8 * model.instance_tokens  # not less than what has to be written
