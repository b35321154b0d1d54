"""The gate on a real GPU, in shards on a real Ray: decisions are those of one process without.

It needs nothing of conftest.py, so that a machine with a GPU and little else can run it alone:
``pytest -o addopts= --noconftest tests/build/test_gate_on_gpu.py``.
"""

from __future__ import annotations

import logging
import os
import signal
import time

import numpy as np
import pytest
import ray
import torch

from ray_si.build.sharding import ShardedDeduplicator, reserved_gpus
from ray_si.dedup import Deduplicator, EmbeddingIndex
from ray_si.dedup.layers import joined
from ray_si.errors import GateError

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

ROUND, ROUNDS, DIMENSION = 1000, 5, 384


@pytest.fixture(scope="module", autouse=True)
def ray_with_gpus():
    """The Ray that is there, or one for this module, with this machine's GPUs."""
    is_ours = not ray.is_initialized()
    if is_ours:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init("local", include_dashboard=False, log_to_driver=False)
    assert ray.cluster_resources().get("GPU", 0) >= 1
    yield
    if is_ours:
        ray.shutdown()


@pytest.fixture(scope="module")
def rounds():
    """Rounds of texts and of vectors, many of them near to earlier ones by either measure."""
    rng = np.random.default_rng(7)
    words = np.array([f"w{i}" for i in range(2000)])
    texts, vectors = [], rng.normal(size=(ROUND * ROUNDS, DIMENSION))
    for i in range(ROUND * ROUNDS):
        text = words[(2000 * rng.random(rng.integers(4, 16)) ** 2).astype(int)].tolist()
        if i and rng.random() < 0.4:
            near = int(rng.integers(i))
            if rng.random() < 0.5:
                text = texts[near].split()
                text[rng.integers(len(text))] = "another"
            # cosines of 0.86 to 0.94 around the threshold, and copies
            vectors[i] = vectors[near] + rng.normal(size=DIMENSION) * rng.choice([0, 0.36, 0.6])
        texts.append(" ".join(text))
    vectors = EmbeddingIndex.normalize(vectors.astype(np.float32))
    starts = range(0, ROUND * ROUNDS, ROUND)
    return [(texts[i : i + ROUND], vectors[i : i + ROUND]) for i in starts]


@pytest.fixture(scope="module")
def expected(rounds):
    """What a gate on the processor says of them."""
    gate = Deduplicator(0.7, 0.9)
    decisions = [decided(gate.filter(*batch)) for batch in rounds]
    reasons = [d.reason for _, rejected in decisions for d in rejected]
    assert min(reasons.count("rouge"), reasons.count("cosine")) > 100
    return decisions


def decided(result):
    """All that is said of a round: ids, scores and matches are in what is rejected."""
    return result.accepted, result.rejected


def kill(shard):
    """SIGKILL an actor's process."""
    pid = ray.get(shard.__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}"):
            return
        time.sleep(0.1)


def device_of(shard):
    """Where the rows of a shard lie, as torch names it, and how many there are."""

    def look(actor):
        rows = actor._pool._embeddings._rows
        return str(rows._blocks[0].rows.device), len(rows)

    return ray.get(shard.__ray_call__.remote(look))


@pytest.mark.parametrize(("shards", "gpus"), [(1, 0.25), (2, 0.25), (1, 1.0), (2, 0.5)])
def test_decisions_equal_those_of_the_processor(rounds, expected, shards, gpus):
    with (
        reserved_gpus(shards, gpus) as cards,
        ShardedDeduplicator(shards, 0.7, 0.9, cards=cards) as gate,
    ):
        assert [decided(gate.filter(*batch)) for batch in rounds] == expected
        devices = [device_of(shard) for shard in gate._shards._shards]
        assert {device for device, _ in devices} == {"cuda:0"}
        assert sum(rows for _, rows in devices) == len(gate)
        assert gate.free_bytes > 0


def test_rounds_screened_ahead_are_decided_alike(rounds, expected):
    """As a build asks: blocks of the next round before this one is decided, small layers here."""
    with (
        reserved_gpus(2, 0.25) as cards,
        ShardedDeduplicator(2, 0.7, 0.9, layers=1, cards=cards) as gate,
    ):
        sizes, screened, found = [0, 0], {}, []
        for number, (texts, _) in enumerate(rounds):
            for ahead in range(number, min(number + 2, ROUNDS)):
                if ahead not in screened:
                    blocks = [slice(start, start + 250) for start in range(0, ROUND, 250)]
                    screened[ahead] = [
                        gate.screen(
                            rounds[ahead][0][part], sizes[ahead], rounds[ahead][1][part], ahead
                        )
                        for part in blocks
                    ]
            result = gate.filter(texts, screened=joined(screened.pop(number)))
            found.append(decided(result))
            sizes.append(len(gate))
            gate.settle()
        assert found == expected


@pytest.mark.parametrize("restores", [False, True], ids=["from the object store", "from the run"])
def test_a_killed_shard_is_rebuilt_on_its_gpu(rounds, expected, caplog, restores):
    batches = []
    with (
        reserved_gpus(2, 0.25) as cards,
        ShardedDeduplicator(
            2, 0.7, 0.9, cards=cards, restore=batches.copy if restores else None
        ) as gate,
    ):
        found = []
        for number, (texts, vectors) in enumerate(rounds):
            if restores:
                gate._shards._restore = list(batches).copy
            with caplog.at_level(logging.WARNING):
                if number:
                    kill(gate._shards._shards[number % 2])
                result = gate.filter(texts, vectors)
            found.append(decided(result))
            batches.append(([texts[i] for i in result.accepted], result.embeddings))
        assert found == expected
        devices = [device_of(shard) for shard in gate._shards._shards]
        assert {device for device, _ in devices} == {"cuda:0"}
        assert sum(rows for _, rows in devices) == len(gate)
    assert caplog.text.count("is lost (ActorDiedError) and rebuilt") == ROUNDS - 1


def test_a_gpu_without_room_is_one_error_and_not_rebuilt(rounds, caplog):
    def take_room(_):
        torch.cuda.set_per_process_memory_fraction(1e-4)

    with (
        reserved_gpus(2, 0.25) as cards,
        ShardedDeduplicator(2, 0.7, 0.9, cards=cards) as gate,
    ):
        ray.get(gate._shards._shards[1].__ray_call__.remote(take_room))
        with caplog.at_level(logging.WARNING), pytest.raises(GateError) as caught:
            gate.filter(*rounds[0])
    message = str(caught.value)
    assert message.startswith("gate shard 1 of 2 has no room on its GPU beside 0 texts: take more")
    assert "out of memory" in message
    assert "\n" not in message
    assert "rebuilt" not in caplog.text
