"""The sharded gate decides as one process would, and survives the death of its shards."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from subprocess import run

import numpy as np
import psutil
import pytest
import ray
from hypothesis import HealthCheck, given, settings, strategies as st
from ray._private.state import actors

from ray_si.build.builder import build
from ray_si.build.gate import _check_room
from ray_si.build.sharding import ShardedDeduplicator, ShardedPool, reserved_gpus
from ray_si.build.sharding.pool import _homes, _neighbours
from ray_si.config.file import parse_config
from ray_si.dedup import Deduplicator, EmbeddingIndex, deduplicator as deduplicator_module
from ray_si.dedup.cosine import device
from ray_si.dedup.layers import joined
from ray_si.errors import ConfigError, GateError, LeaseLostError
from tests import loopback
from tests.builds import digests, rays_processes, replay_values
from tests.clusters import await_gpus, node_with_gpus
from tests.dedup.oracle import corpora, one_by_one

pytestmark = pytest.mark.usefixtures("ray_session")


def kill_shards(gate, how_many=1):
    """SIGKILL the processes of the gate's first shards."""
    for shard in (gate if isinstance(gate, ShardedPool) else gate._shards)._shards[:how_many]:
        process = psutil.Process(ray.get(shard.__ray_call__.remote(lambda _: os.getpid())))
        process.kill()
        process.wait(10)


def texts_and_vectors(n, seed=0):
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i}" for i in range(120)])
    texts, vectors = [], rng.normal(size=(n, 8))
    for i in range(n):
        text = list(words[(120 * rng.random(rng.integers(3, 14)) ** 2).astype(int)])
        if i and rng.random() < 0.4:
            k = rng.integers(i)
            text = texts[k].split()
            text[rng.integers(len(text))] = words[rng.integers(120)]
            vectors[i] = vectors[k] + rng.normal(size=8) * rng.choice([0.1, 0.5])
        texts.append(" ".join(text))
    return texts, vectors


@pytest.mark.parametrize(("shards", "kind"), [(1, "exact"), (2, "Flat"), (3, "exact")])
def test_results_equal_those_of_one_process(shards, kind):
    texts, vectors = texts_and_vectors(900)
    options = {"rouge": 0.6, "cosine": 0.9, "embedding_index": kind, "most_similar": 4}
    whole = Deduplicator(**options)
    with ShardedDeduplicator(shards, **options) as sharded:
        for gate in (whole, sharded):
            gate.add(texts[:50], vectors[:50], source="held out")
        for start in range(50, 900, 170):
            part = slice(start, start + 170)
            expected = whole.filter(texts[part], vectors[part])
            found = sharded.filter(texts[part], vectors[part])
            assert found.accepted == expected.accepted
            assert found.rejected == expected.rejected
            assert found.neighbours == expected.neighbours
            assert (found.cosines is None) == (kind == "exact")
            assert kind == "exact" or np.array_equal(found.cosines, expected.cosines)
            assert np.array_equal(found.embeddings, expected.embeddings)
            assert {d.reason for d in found.rejected} == {"rouge", "cosine"}
        assert len(sharded) == len(whole)
        sharded.rethreshold(rouge=0.9)
        whole.rethreshold(rouge=0.9)
        assert sharded.filter(texts, vectors).rejected == whole.filter(texts, vectors).rejected


@pytest.fixture(scope="module")
def gate(ray_session):
    with ShardedDeduplicator(3, rouge=0.7, cosine=None) as gate:
        yield gate


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(corpora(max_size=6), corpora(), st.integers(0, 20))
def test_decisions_equal_the_slow_loop(gate, pool, texts, cut):
    before = len(gate)  # of earlier examples, whose words are others
    own_pool, own_texts = (
        [" ".join(f"{word}x{before}" for word in text.split()) for text in part]
        for part in (pool, texts)
    )
    expected, refused = one_by_one(own_pool, own_texts, 0.7)
    gate.add(own_pool)
    first, second = gate.filter(own_texts[:cut]), gate.filter(own_texts[cut:])
    after = min(cut, len(texts))
    accepted = first.accepted + [after + i for i in second.accepted]
    rejected = {d.index: (d.score, d.match_id - before) for d in first.rejected}
    rejected |= {after + d.index: (d.score, d.match_id - before) for d in second.rejected}
    assert accepted == expected
    assert rejected == {i: (float(score), match) for i, (score, match) in refused.items()}


def test_a_dead_shard_is_rebuilt_from_what_was_accepted(ray_session, caplog):
    texts, vectors = texts_and_vectors(400)
    batches: list = []
    whole = Deduplicator(0.7, 0.9)
    with ShardedDeduplicator(3, 0.7, 0.9, restore=batches.copy) as sharded:
        for start in range(0, 400, 100):
            part = slice(start, start + 100)
            expected = whole.filter(texts[part], vectors[part])
            sharded._shards._restore = batches.copy
            with caplog.at_level(logging.WARNING):
                kill_shards(sharded, {100: 1, 300: 2}.get(start, 0))
                found = sharded.filter(texts[part], vectors[part])
            assert found.accepted == expected.accepted
            assert found.rejected == expected.rejected
            batches.append(([texts[part][i] for i in found.accepted], found.embeddings))
    assert "is lost (ActorDiedError) and rebuilt" in caplog.text


SHORT_OF_MEMORY = """
import time

import psutil
import ray

from ray_si.build.sharding import ShardedDeduplicator

memory = psutil.virtual_memory()
threshold = (memory.total - memory.available + (3 << 30)) / memory.total
ray.init(
    "local",
    num_cpus=1,
    include_dashboard=False,
    _system_config={"memory_usage_threshold": threshold, "memory_monitor_refresh_ms": 100},
)


def fill(_):
    held = b"1" * (4 << 30)
    time.sleep(60)
    return held[0]


with ShardedDeduplicator(2, cosine=None) as gate:
    gate.filter(["name a river", "list two seas"])
    held = gate._shards._shards[1].__ray_call__.remote(fill)
    print(gate.filter(["list two seas", "name a town"]).accepted)
    try:
        ray.get(held)
    except ray.exceptions.OutOfMemoryError:
        print("it was ended for its memory")
"""


@pytest.mark.slow
def test_a_shard_that_ray_ends_for_its_memory_is_rebuilt():
    command = [sys.executable, "-c", SHORT_OF_MEMORY]
    done = run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout.splitlines() == ["[1]", "it was ended for its memory"], done.stderr
    assert "gate shard 1 is lost (OutOfMemoryError) and rebuilt" in done.stderr


@pytest.mark.parametrize("restored", [0, 60])
def test_a_shard_that_dies_within_a_round_is_rebuilt_with_what_that_added(
    ray_session, monkeypatch, restored
):
    """With nothing to restore from, as in a deduplication of files, and with earlier rounds."""
    monkeypatch.setattr(deduplicator_module, "_BATCH", 32)
    texts, vectors = texts_and_vectors(400)
    vectors = EmbeddingIndex.normalize(vectors)
    before = (texts[:restored], vectors[:restored])
    restore = partial(list, [before]) if restored else None
    whole = Deduplicator(0.7, 0.9)
    whole.add(*before)
    expected = whole.filter(texts[restored:], vectors[restored:])
    with ShardedDeduplicator(2, 0.7, 0.9, restore=restore) as sharded:
        sharded.add(*before)
        add, added = sharded._shards.add, []

        def kill_after(some, embeddings):
            add(some, embeddings)
            added.append(len(some))
            if len(added) in (2, 5):  # of some ten batches
                kill_shards(sharded, {2: 1, 5: 2}[len(added)])

        monkeypatch.setattr(sharded._shards, "add", kill_after)
        found = sharded.filter(texts[restored:], vectors[restored:])
    assert len(added) > 5
    assert found.accepted == expected.accepted
    assert found.rejected == expected.rejected


def test_blocks_screened_in_any_order_are_decided_alike_with_shards_lost_between(ray_session):
    texts, vectors = texts_and_vectors(900)
    vectors = EmbeddingIndex.normalize(vectors)
    whole, bounds = Deduplicator(0.7, 0.9), [100, 300, 500, 700, 900]
    whole.add(texts[:100], vectors[:100])
    with ShardedDeduplicator(2, 0.7, 0.9, layers=1) as sharded:
        for part in (slice(60), slice(60, 100)):  # the first goes to the shards
            sharded.add(texts[part], vectors[part])
        sharded.settle()
        seen, landed = [100, 100], {}
        for number in range(4):
            # this round's blocks from the last on, after half of the next one's
            ahead = [(number + 1, (0, 100))] if number < 3 else []
            for round_, starts in [*ahead, (number, (150, 100, 50, 0))]:
                for start in starts:
                    if (round_, start) not in landed:
                        at = bounds[round_] + start
                        part = slice(at, at + 50)
                        landed[round_, start] = sharded.screen(
                            texts[part], seen[round_], vectors[part], round_
                        )
                if round_ == number + 1 - number % 2:  # with blocks of this round out, or with all
                    kill_shards(sharded)
            parts = [landed[number, start] for start in (0, 50, 100, 150)]
            batch = slice(bounds[number], bounds[number + 1])
            found = sharded.filter(texts[batch], screened=joined(parts))
            expected = whole.filter(texts[batch], vectors[batch])
            assert found.accepted == expected.accepted
            assert found.rejected == expected.rejected
            seen.append(len(sharded))
            sharded.settle()


def test_a_pool_that_cannot_be_read_back_is_an_error(ray_session):
    with ShardedDeduplicator(2, cosine=None, restore=list) as gate:
        gate.add(["name a river", "name a town"])
        kill_shards(gate, 2)
        with pytest.raises(GateError, match="only 0 of the pool's 2 texts"):
            gate.filter(["name a lake"])


def _values(shards):
    """Those of the run `finished_with_cosine`, which one gate decided."""
    values = replay_values()
    values["dedup"] = {"cosine": 0.6, "most_similar": 3, "shards": shards}
    return values


def test_a_shard_killed_during_a_build_changes_nothing(finished_with_cosine, tmp_path):
    killed = []

    def kill(progress):
        shards = list(rays_processes("ray::Shard"))
        if progress.phase == "bootstrap" and progress.note and shards and len(killed) < 2:
            newest = max(shards, key=psutil.Process.create_time)  # of this build, not of a fixture
            newest.kill()
            killed.append(newest.pid)

    build(parse_config(_values(3)), str(tmp_path / "run"), listen=kill)
    assert len(set(killed)) == 2
    assert digests(tmp_path / "run") == digests(finished_with_cosine[0])


def _node(number, *, head=False, spot=False, gpus=0):
    resources = {"CPU": 8.0} | ({"GPU": gpus} if gpus else {})
    if head:
        resources["node:__internal_head__"] = 1.0
    labels = {"ray.io/market-type": "spot" if spot else "on-demand"}
    return {"Alive": True, "NodeID": str(number), "Resources": resources, "Labels": labels}


@pytest.mark.parametrize(
    ("nodes", "homes"),
    [
        ([_node(0, head=True), _node(1), _node(2)], ["1", "2", "0"]),
        ([_node(0, head=True), _node(1, spot=True, gpus=1), _node(2, gpus=8)], ["0"]),
        ([_node(0, head=True, gpus=1), _node(1, spot=True), _node(2, gpus=1)], ["2", "0"]),
        ([_node(1, spot=True, gpus=1), _node(2, spot=True)], ["1", "2"]),
    ],
)
def test_shards_lie_where_nodes_last_and_have_no_gpus_if_there_are_such(monkeypatch, nodes, homes):
    monkeypatch.setattr("ray_si.build.sharding.pool.ray.nodes", lambda: nodes)
    assert _homes() == homes


def test_shards_share_the_cores_of_their_node_and_not_of_the_cluster():
    assert [_neighbours(number, 8, 8) for number in range(8)] == [1] * 8
    assert [_neighbours(number, 5, 2) for number in range(5)] == [3, 2, 3, 2, 3]
    assert [_neighbours(number, 2, 1) for number in range(2)] == [2, 2]


def pool_by_torch(shards):
    """A pool that is searched as one on GPUs is, by torch, but on processors."""
    return ShardedPool(shards, None, None, rouge=0.6, device="cpu:0")


def decided(gate, texts, vectors):
    """What a gate says of rounds of these."""
    rounds = [slice(start, start + 170) for start in range(0, len(texts), 170)]
    results = [gate.filter(texts[part], vectors[part]) for part in rounds]
    return [(result.accepted, result.rejected) for result in results]


def test_a_pool_that_torch_searches_decides_alike(ray_session):
    texts, vectors = texts_and_vectors(900)
    expected = decided(Deduplicator(0.6, 0.9), texts, vectors)
    found = decided(Deduplicator(0.6, 0.9, pool=pool_by_torch(2)), texts, vectors)
    assert found == expected
    assert {d.reason for _, rejected in found for d in rejected} == {"rouge", "cosine"}


def test_a_device_without_room_is_one_error_and_not_rebuilt(ray_session, caplog):
    def without_room(_):
        device._SMALLEST = device._LARGEST = 1 << 44  # rows that memory is taken for at a time

    pool = pool_by_torch(2)
    ray.get(pool._shards[1].__ray_call__.remote(without_room))
    gate = Deduplicator(0.6, 0.9, pool=pool)
    texts, vectors = texts_and_vectors(100)
    with caplog.at_level(logging.WARNING), pytest.raises(GateError) as caught:
        gate.filter(texts, vectors)
    message = str(caught.value)
    assert message.startswith("gate shard 1 of 2 has no room on its GPU beside 0 texts: take")
    assert "can't allocate memory" in message
    assert "Traceback" not in message
    assert "rebuilt" not in caplog.text


def test_a_shard_whose_device_fails_for_good_is_replaced(ray_session, caplog):
    def without_a_context(shard):
        def fail(*_):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        shard._pool.nearest_by_cosine = fail

    texts, vectors = texts_and_vectors(200)
    expected = Deduplicator(0.6, 0.9).filter(texts, vectors)
    pool = pool_by_torch(2)
    ray.get(pool._shards[1].__ray_call__.remote(without_a_context))
    with caplog.at_level(logging.WARNING):
        found = Deduplicator(0.6, 0.9, pool=pool).filter(texts, vectors)
    assert (found.accepted, found.rejected) == (expected.accepted, expected.rejected)
    assert "gate shard 1 is lost (ActorDiedError) and rebuilt" in caplog.text


def test_a_pool_that_its_gpus_cannot_hold_is_refused():
    values = {"target_instructions": 10_000_000, "dedup": {"gpus": 1, "shards": 2}}
    _check_room(parse_config(values), 384, 14 * 10**9)
    with pytest.raises(ConfigError, match=r"take 13\.5 GB of a GPU for each of 2 shards, and 13"):
        _check_room(parse_config(values), 384, 13 * 10**9)


def gpus_of(pool):
    """What Ray gave to each shard."""

    def look(_):
        return ray.get_runtime_context().get_node_id(), *ray.get_gpu_ids()

    return ray.get([shard.__ray_call__.remote(look) for shard in pool._shards])


def test_shards_stay_on_gpus_when_they_die_and_when_their_node_does(ray_address, monkeypatch):
    texts, vectors = texts_and_vectors(510)
    parts = [slice(start, start + 170) for start in (0, 170, 340)]
    whole = Deduplicator(0.6, 0.9)
    expected = [decided(whole, texts[part], vectors[part]) for part in parts]
    with node_with_gpus(ray_address, 1) as first, reserved_gpus(2, 0.5) as cards:
        pool = ShardedPool(2, None, cards, rouge=0.6)  # searched on processors
        gate = Deduplicator(0.6, 0.9, pool=pool)
        (node,) = set(gpus_of(pool))
        found = [decided(gate, texts[parts[0]], vectors[parts[0]])]
        kill_shards(pool, 2)
        found.append(decided(gate, texts[parts[1]], vectors[parts[1]]))
        assert set(gpus_of(pool)) == {node}
        known = ray.get(pool._shards[1].texts.remote([1]))
        large = pool._shards[1].__ray_call__.remote(lambda _: bytes(1 << 20))
        ray.wait([large], fetch_local=False)  # it stays on the node

        with node_with_gpus(ray_address, 1):
            first.terminate()
            first.wait(60)
            await_gpus(lambda there: there == 1)
            assert pool._answer(1, large, "texts", ([1],)) == known
            found.append(decided(gate, texts[parts[2]], vectors[parts[2]]))
            (other,) = set(gpus_of(pool))
            assert other[0] != node[0]
        monkeypatch.setattr("ray_si.build.sharding.pool.GPU_S", 2.0)
        with pytest.raises(GateError, match=r"shard 0 cannot be rebuilt: no GPU was free .* 2 s"):
            gate.filter(texts, vectors)
    assert found == expected


@pytest.fixture(scope="module")
def a_gpu(ray_address):
    """A node with a GPU, for the tests from here on that need no more than that it is there."""
    with node_with_gpus(ray_address, 1):
        yield


def test_gpus_that_others_have_are_waited_for_so_long(a_gpu, monkeypatch):
    monkeypatch.setattr("ray_si.build.sharding.gpus.GPU_S", 2.0)
    monkeypatch.setattr("ray_si.build.sharding.gpus._SOON_S", 0.0)
    notes: list[str] = []

    def lost():
        raise LeaseLostError("another driver has the run")

    with reserved_gpus(1, 0.75):
        with (
            pytest.raises(
                GateError, match=r"^no 0\.5 GPU was free for each of 1 gate shards in 2 s"
            ),
            reserved_gpus(1, 0.5, notify=notes.append),
        ):
            pass
        with pytest.raises(LeaseLostError), reserved_gpus(1, 0.5, check=lost):
            pass
    assert notes == ["waiting for 0.5 GPU to be free for each of 1 gate shards"]


def test_a_gpu_that_torch_does_not_see_ends_a_build_before_its_first_token(a_gpu, tmp_path):
    values = _values(1)
    values["dedup"]["gpus"] = 0.5
    with loopback.installed(), pytest.raises(GateError) as caught:
        build(parse_config(values), str(tmp_path / "run"))
    message = str(caught.value)
    assert message.startswith("gate shard 0 of 1: there is no device cuda: torch sees 0 CUDA")
    assert "Traceback" not in message
    assert not list(tmp_path.glob("run/bootstrap/*"))


def test_a_pool_that_was_closed_starts_no_shard_again(ray_session):
    with ShardedDeduplicator(2, cosine=None) as gate:
        gate.filter(["name a river"])
    started = set(actors())
    with pytest.raises(GateError, match="after its end"):
        gate.filter(["list two seas"])
    assert set(actors()) == started
