"""The gate equals comparing one by one, whatever the batches."""

from __future__ import annotations

from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from ray_si.dedup import Deduplicator, EmbeddingIndex, batch, deduplicator
from ray_si.dedup.cosine.scalar import exact_cosines
from tests.dedup.oracle import THRESHOLDS, corpora, one_by_one, slow_f

CUTS = st.lists(st.integers(0, 30), max_size=3)


def in_batches(gate, texts, cuts, vectors=None):
    """Filter the texts cut at these places; accepted and rejected with indices into all of them."""
    accepted, rejected, cosines = [], [], []
    bounds = sorted({0, len(texts), *(min(cut, len(texts)) for cut in cuts)})
    for start, end in pairwise(bounds):
        rows = None if vectors is None else vectors[start:end]
        result = gate.filter(texts[start:end], rows)
        accepted += [start + i for i in result.accepted]
        rejected += [(start + d.index, d) for d in result.rejected]
        cosines += [] if result.cosines is None else result.cosines.tolist()
    return accepted, rejected, cosines


@settings(max_examples=200)
@example(["red red"], ["green", "red green"], 0.1, [], 1024)  # nearer in the batch than the pool
@given(corpora(max_size=8), corpora(), THRESHOLDS, CUTS, st.sampled_from([1, 3, 1024]))
def test_decisions_equal_the_slow_loop_for_any_batches(pool, texts, threshold, cuts, chunk):
    expected, refused = one_by_one(pool, texts, threshold)
    gate = Deduplicator(rouge=threshold, cosine=None)
    gate.add(pool)
    with mock.patch.multiple(batch, _CHUNK=chunk, _SLICE=chunk):
        accepted, rejected, _ = in_batches(gate, texts, cuts)
    assert accepted == expected
    assert [i for i, _ in rejected] == sorted(refused)
    earlier = pool + [texts[i] for i in expected]
    for i, duplicate in rejected:
        score, match = refused[i]
        assert duplicate.reason == "rouge"
        assert (duplicate.score, duplicate.match_id) == (float(score), match)
        assert duplicate.match == earlier[match]
    assert len(gate) == len(pool) + len(expected)


def test_a_large_batch_full_of_near_duplicates_is_decided_as_small_ones():
    rng = np.random.default_rng(7)
    texts = []
    for i in range(3000):
        words = [f"w{word}" for word in rng.integers(0, 50_000, rng.integers(4, 30))]
        if i % 3:
            words = texts[rng.integers(i)].split()
            for _ in range(rng.integers(3)):
                words[rng.integers(len(words))] = f"w{rng.integers(50_000)}"
        texts.append(" ".join(words))
    whole, parts = (Deduplicator(rouge=0.7, cosine=None) for _ in range(2))
    accepted, rejected, _ = in_batches(whole, texts, [])
    small = in_batches(parts, texts, range(50, 3000, 50))
    assert accepted == small[0]
    assert [(i, d.match_id, d.score) for i, d in rejected] == [
        (i, d.match_id, d.score) for i, d in small[1]
    ]
    assert 1000 < len(accepted) < 2000


def slow_cosine(vectors, pool_size, threshold):
    """Accepted indices and (match, cosine) of each text after the first ``pool_size``."""
    kept, accepted, nearest = list(range(pool_size)), [], []
    for i in range(pool_size, len(vectors)):
        cosines = exact_cosines(vectors[i], vectors[kept]) if kept else np.array([-1.0])
        best = int(cosines.argmax())
        nearest.append((best if kept else -1, float(cosines[best])))
        if cosines[best] <= threshold:
            accepted.append(i)
            kept.append(i)
    return accepted, nearest


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.3, 0.6, 0.9]),
    st.integers(0, 5),
    CUTS,
    st.sampled_from([1, 4, 1024]),
    st.sampled_from(["exact", "Flat"]),
)
def test_cosine_decisions_equal_the_slow_loop(seed, threshold, pool_size, cuts, chunk, kind):
    rng = np.random.default_rng(seed)
    vectors = EmbeddingIndex.normalize(rng.normal(size=(30, 4)))
    texts = [f"t{i}" for i in range(30)]  # the ROUGE-L gate never speaks
    expected, nearest = slow_cosine(vectors, pool_size, threshold)
    gate = Deduplicator(rouge=0.7, cosine=threshold, embedding_index=kind)
    gate.add(texts[:pool_size], vectors[:pool_size])
    with mock.patch.multiple(batch, _CHUNK=chunk, _SLICE=chunk):
        found = in_batches(gate, texts[pool_size:], cuts, vectors[pool_size:])
    accepted, rejected, cosines = found
    assert [pool_size + i for i in accepted] == expected
    assert cosines == ([nearest[i][1] for i in accepted] if kind == "Flat" else [])
    assert {d.reason for _, d in rejected} <= {"cosine"}
    assert [(d.match_id, d.score) for _, d in rejected] == [nearest[i] for i, _ in rejected]
    kept = list(range(pool_size)) + expected
    assert [d.match for _, d in rejected] == [texts[kept[d.match_id]] for _, d in rejected]


def test_a_text_refused_by_cosine_refuses_nothing_itself():
    # the second is refused by cosine; the third resembles only the second, so it is accepted
    texts = ["alpha beta gamma delta", "one two three four", "one two three five"]
    vectors = np.array([[1, 0, 0], [1, 0.01, 0], [0, 0, 1]], np.float32)
    result = Deduplicator(rouge=0.7, cosine=0.9).filter(texts, vectors)
    assert result.accepted == [0, 2]
    assert result.rejected[0].reason == "cosine"
    assert result.rejected[0].match == texts[0]
    assert result.embeddings.shape == (2, 3)


def test_embeddings_are_asked_for_survivors_of_the_pool_only():
    asked: list[str] = []

    def encode(texts):
        asked.extend(texts)
        return np.eye(8, dtype=np.float32)[: len(texts)]

    gate = Deduplicator(rouge=0.7, cosine=0.9, encoder=encode)
    gate.add(["name a long river"], np.full((1, 8), 0.1, np.float32))
    result = gate.filter(["name a long river", "tell me a joke"])
    assert asked == ["tell me a joke"]
    assert result.accepted == [1]
    assert result.embeddings.shape == (1, 8)
    assert gate.filter(["tell me a joke"]).embeddings is None  # nobody was left to ask about
    assert asked == ["tell me a joke"]


@pytest.mark.parametrize("cosine", [None, 0.9])
def test_batches_too_large_for_one_go_are_decided_alike(cosine):
    texts = [f"say word{i % 40} and word{i % 7} loudly {i % 3}" for i in range(120)]
    vectors = np.random.default_rng(0).normal(size=(120, 5))
    options = {"rouge": 0.7, "cosine": cosine, "embedding_index": "Flat", "most_similar": 2}
    whole = Deduplicator(**options).filter(texts, vectors)
    with mock.patch.object(deduplicator, "_BATCH", 7):
        cut = Deduplicator(**options).filter(texts, vectors)
    assert (whole.accepted, whole.rejected) == (cut.accepted, cut.rejected)
    assert whole.neighbours == cut.neighbours
    assert 0 < len(whole.accepted) < 120
    if cosine:
        assert np.array_equal(whole.cosines, cut.cosines)
        assert np.array_equal(whole.embeddings, cut.embeddings)
    else:
        assert whole.cosines is None


@settings(max_examples=40)
@given(corpora(max_size=8), corpora(), CUTS)
def test_neighbours_equal_ranking_all_earlier_texts(pool, texts, cuts):
    gate = Deduplicator(rouge=0.7, cosine=None, most_similar=3)
    gate.add(pool)
    earlier, bounds = list(pool), sorted({0, len(texts), *(min(c, len(texts)) for c in cuts)})
    for start, end in pairwise(bounds):
        result = gate.filter(texts[start:end])
        for i, near in zip(result.accepted, result.neighbours, strict=True):
            scores = [slow_f(texts[start + i], other) for other in earlier]
            ranked = sorted(range(len(earlier)), key=lambda k: (-scores[k], k))[:3]
            assert near.texts == [earlier[k] for k in ranked]
            assert near.scores == [float(scores[k]) for k in ranked]
            mean = float(sum(scores) / len(scores)) if scores else 0.0
            assert near.mean == pytest.approx(mean, abs=1e-12)
            earlier.append(texts[start + i])


def test_sets_that_nothing_may_resemble_are_named():
    gate = Deduplicator(rouge=0.7, cosine=None)
    gate.add(["what is the capital of France"], source="quiz.jsonl")
    gate.add(["write a haiku about autumn leaves"])
    gate.add(["sort these numbers from high to low"], source="maths.jsonl")
    result = gate.filter(
        [
            "what is the capital of Spain",
            "write a haiku about falling autumn leaves",
            "sort these numbers from low to high",
            "explain how rain forms",
            "explain how heavy rain forms",
        ]
    )
    assert result.accepted == [3]
    assert [d.source for d in result.rejected] == ["quiz.jsonl", None, "maths.jsonl", None]


def test_higher_thresholds_are_sound_and_lower_ones_are_refused():
    vectors = np.array([[1, 0], [0.98, 0.2]])
    gate = Deduplicator(rouge=0.5, cosine=0.9)
    assert gate.filter(["a b c d", "a b c e"], vectors).accepted == [0]
    gate.rethreshold(rouge=0.8)
    assert gate.filter(["a b c e"], vectors[1:]).rejected[0].reason == "cosine"
    gate.rethreshold(cosine=0.99)
    assert gate.filter(["a b c e"], vectors[1:]).accepted == [0]
    with pytest.raises(ValueError, match=r"rouge 0\.6 is below the 0\.8"):
        gate.rethreshold(rouge=0.6)
    with pytest.raises(ValueError, match=r"cosine 0\.9 is below the 0\.99"):
        gate.rethreshold(cosine=0.9)
    with pytest.raises(ValueError, match="below"):
        Deduplicator(cosine=None).rethreshold(cosine=0.9)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01])
def test_impossible_thresholds_are_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        Deduplicator(rouge=threshold)
    with pytest.raises(ValueError, match="cosine"):
        Deduplicator(cosine=threshold)


def test_unusable_input_is_refused_and_nothing_is_added():
    with pytest.raises(ValueError, match="needs an encoder"):
        Deduplicator().filter(["tell me a joke"])
    gate = Deduplicator()
    gate.filter(["tell me a joke"], np.ones((1, 4)))
    with pytest.raises(ValueError, match="row 0 holds NaN"):
        gate.filter(["name a river"], np.full((1, 4), np.nan))
    with pytest.raises(ValueError, match="have 3 numbers, the index has 4"):
        gate.filter(["name a river"], np.ones((1, 3)))
    with pytest.raises(ValueError, match="2 embeddings for 1 texts"):
        gate.filter(["name a river"], np.ones((2, 4)))
    with pytest.raises(TypeError, match=r"texts\[1\]"):
        gate.filter(["name a river", None], np.eye(4)[:2])
    with pytest.raises(TypeError, match=r"texts\[0\]"):
        gate.add([3], np.ones((1, 4)))
    assert len(gate) == 1
    assert gate.filter(["name a river"], np.array([[1, -1, 1, -1]])).accepted == [0]


def test_very_long_texts_are_decided():
    words = [f"w{i}" for i in range(150_000)]
    texts = [" ".join(words), "short one here", " ".join(words[:140_000]), "x" * 1_000_000]
    result = Deduplicator(cosine=None).filter(texts)
    assert result.accepted == [0, 1, 3]
