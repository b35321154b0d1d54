"""What texts do to each other is found as they come in, and decided as one by one."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ray_si.dedup import Deduplicator
from ray_si.dedup.layers import Screened, joined
from ray_si.dedup.peers import batches
from ray_si.dedup.pool import LocalPool
from tests.dedup.oracle import THRESHOLDS, corpora
from tests.dedup.test_layers import rounds_of, vectors_of


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_pairs_found_as_texts_come_in_decide_alike_in_any_order_of_landing(data):
    threshold, cosine = data.draw(THRESHOLDS), data.draw(st.sampled_from([None, 0.6, 0.99]))
    pool, texts = data.draw(corpora(max_size=5)), data.draw(corpora(max_size=40))
    lookahead, size = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 14))
    block, most = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([1 << 20, 0, 3]))
    plain = Deduplicator(threshold, cosine, vectors_of)
    gate = Deduplicator(threshold, cosine, vectors_of, layers=lookahead)
    for one in (plain, gate):
        one.add(pool, vectors_of(pool))
    rounds = rounds_of(texts, size)
    blocks = [rounds_of(batch, block) for batch in rounds]
    seen = {number: len(pool) for number in range(lookahead + 1)}
    landed: dict[tuple[int, int], Screened] = {}
    with mock.patch.object(batches, "MOST_PAIRS", most):
        for current, batch in enumerate(rounds):
            # what is under way lands in any order; all of the current round does in the end
            waiting = [
                (number, k)
                for number in range(current, min(current + lookahead + 1, len(rounds)))
                for k in range(len(blocks[number]))
                if (number, k) not in landed
            ]
            for number, k in data.draw(st.permutations(waiting)):
                if number == current or data.draw(st.booleans()):
                    part = blocks[number][k]
                    landed[number, k] = gate.screen(part, seen[number], batch=number)
            parts = [landed.pop((current, k)) for k in range(len(blocks[current]))]
            result, expected = gate.filter(batch, screened=joined(parts)), plain.filter(batch)
            assert result.accepted == expected.accepted
            assert result.rejected == expected.rejected
            seen[current + lookahead + 1] = len(gate)
            if data.draw(st.booleans()):
                gate.settle()
    assert gate.filter(texts).rejected == plain.filter(texts).rejected  # the pools are the same


def made_up(count, seed):
    """Texts of which one in three is an edit of an earlier one, and their embeddings."""
    draw, texts, vectors = random.Random(seed), [], []
    rng = np.random.default_rng(seed)
    for _ in range(count):
        if texts and draw.random() < 0.35:
            source = draw.randrange(max(0, len(texts) - 600), len(texts))
            words = texts[source].split()
            for _ in range(draw.randrange(3)):
                words[draw.randrange(len(words))] = f"w{draw.randrange(3000)}"
            texts.append(" ".join(words))
            vectors.append(vectors[source] + rng.normal(size=24) * draw.choice([0, 0.05, 0.5]))
        else:
            texts.append(" ".join(f"w{draw.randrange(3000)}" for _ in range(draw.randrange(4, 90))))
            vectors.append(rng.normal(size=24))
    return texts, np.array(vectors, np.float32)


@pytest.mark.parametrize("cosine", [None, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_thousands_of_texts_that_several_threads_screen_are_decided_alike(cosine, seed):
    texts, vectors = made_up(2200, seed)
    plain, gate = Deduplicator(0.7, cosine), Deduplicator(0.7, cosine, layers=1)
    for one in (plain, gate):
        one.add(texts[:600], vectors[:600])
    ends, seen = [600, 1300, 1750, 2200], [600, 600]  # the first round fills the pool's tail
    draw = random.Random(seed)
    with ThreadPoolExecutor(4) as threads:
        landing = {}

        def land(number, share):
            starts = list(range(ends[number], ends[number + 1], 50))
            draw.shuffle(starts)
            for start in starts:
                if (number, start) not in landing and draw.random() < share:
                    part = slice(start, min(start + 50, ends[number + 1]))
                    landing[number, start] = threads.submit(
                        gate.screen, texts[part], seen[number], vectors[part], number
                    )

        reasons = set()
        for number in range(3):
            if number < 2:
                land(number + 1, 0.6)
            land(number, 1)
            parts = [landing[key].result() for key in sorted(landing) if key[0] == number]
            batch = slice(ends[number], ends[number + 1])
            result = gate.filter(texts[batch], screened=joined(parts))
            expected = plain.filter(texts[batch], vectors[batch])
            assert result.accepted == expected.accepted
            assert result.rejected == expected.rejected
            reasons |= {duplicate.reason for duplicate in result.rejected}
            seen.append(len(gate))
            gate.settle()
    assert reasons == ({"rouge"} if cosine is None else {"rouge", "cosine"})


def test_at_the_end_nothing_is_searched():
    texts, vectors = made_up(600, 0)
    gate = Deduplicator(layers=1)
    first = [gate.screen(texts[:300], 0, vectors[:300], 0)]
    second = [gate.screen(texts[300:400], 0, vectors[300:400], 1)]
    gate.filter(texts[:300], screened=joined(first))
    second.append(gate.screen(texts[400:], 0, vectors[400:], 1))
    with (
        mock.patch("ray_si.dedup.pool.LocalPool.nearest_by_rouge") as rouge,
        mock.patch("ray_si.dedup.pool.LocalPool.nearest_by_cosine") as cosine,
        mock.patch("ray_si.dedup.pool.LocalPool.add") as add,
    ):
        assert gate.filter(texts[300:], screened=joined(second)).rejected
    assert [one.called for one in (rouge, cosine, add)] == [False] * 3


def test_a_pool_from_before_is_asked_for_what_the_screening_did_not_ask():
    """As where a run goes on behind rounds that were decided elsewhere."""
    texts, vectors = made_up(600, 1)
    plain, gate = Deduplicator(), Deduplicator(layers=2)
    gate.add(texts[:200], vectors[:200])
    gate.add(texts[200:300], vectors[200:300])
    plain.add(texts[:300], vectors[:300])
    screened = joined([gate.screen(texts[300:], 200, vectors[300:], 7)])
    expected = plain.filter(texts[300:], vectors[300:])
    assert gate.filter(texts[300:], screened=screened).rejected == expected.rejected


def test_a_batch_may_be_empty():
    gate = Deduplicator(layers=1)
    screened = joined([gate.screen([], 0, np.zeros((0, 3), np.float32), 0)])
    assert gate.filter([], screened=screened).accepted == []
    screened = joined(
        [gate.screen(["a b", "a b"], 0, np.eye(2, 3), 1), gate.screen([], 0, None, 1)]
    )
    assert gate.filter(["a b", "a b"], screened=screened).accepted == [0]


def test_a_text_that_comes_behind_one_known_already_is_compared_with_other_batches():
    gate = Deduplicator(0.7, None, layers=1)
    later = gate.screen(["list two deep blue seas"], 0, batch=1)
    first = [
        gate.screen(["name a river"], 0, batch=0),
        gate.screen(["name a river", "list two deep blue seas"], 0, batch=0),
    ]
    texts = ["name a river", "name a river", "list two deep blue seas"]
    assert gate.filter(texts, screened=joined(first)).accepted == [0, 2]
    assert gate.filter(["list two deep blue seas"], screened=later).accepted == []


@pytest.mark.parametrize(("cosine", "accepted"), [(None, [0, 1, 2]), (0.9, [0, 2])])
def test_what_is_screened_twice_is_no_duplicate_of_itself(cosine, accepted):
    """As where a task that has answered dies, and is done again."""
    texts = ["name a river", "which stream do you know?", "list two deep blue seas"]
    vectors = None if cosine is None else np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    gate = Deduplicator(0.7, cosine, layers=1)
    gate.screen(texts, 0, vectors, 0)
    screened = gate.screen(texts, 0, vectors, 0)
    assert gate.filter(texts, screened=screened).accepted == accepted


def test_equal_texts_leave_room_for_pairs_whatever_their_cosine():
    texts, vectors = ["name a river"] * 60 + ["list two seas"], np.ones((61, 4), np.float32) / 2
    with mock.patch.object(batches, "MOST_PAIRS", 1000):
        peers = batches.Peers(0.7, 0.9, "auto")
        for part in (slice(0, 30), slice(30, 61)):
            peers.add(0, texts[part], np.zeros(len(texts[part]), bool), vectors[part])
        assert peers.has(0)
        peers.add(0, texts[-1:], np.zeros(1, bool), vectors[-1:])  # near to 60 by cosine again
    assert peers.has(0)


def test_the_pool_is_asked_while_other_texts_are_compared_with_each_other():
    gate, asked = Deduplicator(0.7, None, layers=1), threading.Event()
    gate.add(["draw a map"])
    add, nearest = batches.Peers.add, LocalPool.nearest_by_rouge

    def add_late(peers, batch, texts, *known):
        assert texts != ["name a river"] or asked.wait(30)
        return add(peers, batch, texts, *known)

    def tell(pool, texts):
        if texts == ["list two seas"]:
            asked.set()
        return nearest(pool, texts)

    with (
        mock.patch.object(batches.Peers, "add", add_late),
        mock.patch.object(LocalPool, "nearest_by_rouge", tell),
        ThreadPoolExecutor(1) as threads,
    ):
        first = threads.submit(gate.screen, ["name a river"], 1, batch=0)
        assert gate.screen(["list two seas"], 1, batch=0).numbers is not None
        assert first.result(30).numbers is not None


def test_a_batch_with_too_many_pairs_is_told_of_once_and_decided_alike(caplog):
    plain, gate = Deduplicator(0.7, None), Deduplicator(0.7, None, layers=1)
    with mock.patch.object(batches, "MOST_PAIRS", 9):
        for batch in range(4):
            count = 5 if batch else 4  # 10 pairs, or 6
            texts = [f"list old towns of land n{batch} near lake {i}" for i in range(count)]
            screened = gate.screen(texts, 0, batch=batch)
            assert gate.filter(texts, screened=screened).rejected == plain.filter(texts).rejected
            told = [(record.levelname, record.args) for record in caplog.records]
            assert told == [("WARNING", (1, "9"))] * (batch > 0)


def test_batches_are_decided_in_order_and_take_nothing_afterwards():
    gate = Deduplicator(0.7, None, layers=2)
    parts = {number: gate.screen(["name a river"], 0, batch=number) for number in (0, 1)}
    gate.filter(["name a river"], screened=parts[1])
    with pytest.raises(AssertionError, match="order"):
        gate.filter(["name a river"], screened=parts[0])
    with pytest.raises(AssertionError, match="was decided"):
        gate.screen(["name a sea"], 0, batch=1)


def test_a_gate_with_layers_keeps_its_thresholds():
    with pytest.raises(ValueError, match="keeps its thresholds"):
        Deduplicator(0.7, None, layers=1).rethreshold(rouge=0.9)


def test_embeddings_of_the_refused_go_where_few_are_accepted():
    gate, plain = Deduplicator(layers=1), Deduplicator()
    texts, vectors = ["name a river"] * 9 + ["list two seas"], np.eye(10, dtype=np.float32)
    screened = gate.screen(texts, 0, vectors, batch=0)
    assert gate.filter(texts, screened=screened).accepted == [0, 9]
    assert plain.filter(texts, vectors).accepted == [0, 9]
    others = ["count the stars", "sing a song"]
    for one in (gate, plain):
        (refused,) = one.filter(others, vectors[[9, 4]]).rejected
        assert (refused.index, refused.match_id) == (0, 1)
