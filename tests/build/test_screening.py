"""Blocks of candidates on their way through the gate, several at a time."""

from __future__ import annotations

import threading

import pytest

from ray_si.build.screening import Screening
from ray_si.dedup import Deduplicator
from ray_si.errors import GenerationError
from ray_si.serving.background import wait_for_all


class Waiting:
    """A gate whose texts are all let through once ``go`` is set; it notes how many wait."""

    def __init__(self) -> None:
        self.go, self._lock = threading.Event(), threading.Lock()
        self.waiting = self.most = 0

    def screen(self, texts, size, batch):
        with self._lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        assert self.go.wait(30)
        if "hangs" in texts:
            raise GenerationError("the embedder has not answered")
        return texts, size


def test_so_many_blocks_wait_for_an_embedder_at_a_time_and_no_more():
    gate = Waiting()
    with Screening(gate, 3) as screening:
        futures = [screening.submit([str(number)], number, 0) for number in range(8)]
        while gate.waiting < 3:
            threading.Event().wait(0.01)
        assert gate.most == 3
        gate.go.set()
        assert [future.result(30) for future in futures] == [([str(n)], n) for n in range(8)]


def test_what_an_embedder_raises_is_raised_for_its_block_alone():
    gate = Waiting()
    gate.go.set()
    with Screening(gate, 2) as screening:
        good, bad = screening.submit(["good"], 1, 0), screening.submit(["hangs"], 1, 0)
        assert good.result(30) == (["good"], 1)
        with pytest.raises(GenerationError, match="not answered"):
            bad.result(30)


def test_what_is_not_begun_when_the_work_ends_is_left_and_no_thread_remains():
    gate = Waiting()
    with Screening(gate, 1) as screening:
        first, second = screening.submit(["one"], 0, 0), screening.submit(["two"], 0, 0)
        while gate.waiting < 1:
            threading.Event().wait(0.01)
    gate.go.set()
    assert first.result(30) == (["one"], 0)
    wait_for_all(30)
    assert not second.done()


def test_a_real_gate_is_screened_by_several_threads_alike():
    texts = [f"write a {a} about the {b}" for a in ("poem", "song") for b in ("sea", "hill", "sky")]
    gate = Deduplicator(0.7, None, layers=1)
    gate.add(texts[:1])
    with Screening(gate, 4) as screening:
        futures = [screening.submit([text], 1, 0) for text in texts for _ in range(5)]
        found = [int(future.result(30).by_rouge.ids[0]) for future in futures]
    assert found[:5] == [0] * 5
    assert found == [i for text in texts for i in [int(gate.screen([text], 1).by_rouge.ids[0])] * 5]


def test_an_earlier_round_goes_first():
    asked = []

    class Noting(Waiting):
        def screen(self, texts, size, batch):
            asked.append((batch, texts[0]))
            return super().screen(texts, size, batch)

    gate = Noting()
    with Screening(gate, 1) as screening:
        futures = [screening.submit(["first"], 0, 5)]
        while gate.waiting < 1:
            threading.Event().wait(0.01)
        futures += [screening.submit([name], 0, r) for name, r in (("a", 5), ("b", 4), ("c", 4))]
        gate.go.set()
        for future in futures:
            future.result(30)
    assert asked == [(5, "first"), (4, "b"), (4, "c"), (5, "a")]
