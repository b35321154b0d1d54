"""A pool in layers answers as one without, and what is screened before is decided alike."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ray_si.dedup import CONTAMINATED, Deduplicator, EmbeddingIndex, ExcludedTexts, GuardedGate
from ray_si.dedup.layers import LayeredPool, joined
from ray_si.dedup.pool import LocalPool
from tests.dedup.oracle import THRESHOLDS, corpora


def vectors_of(texts):
    """Two numbers that depend on a text alone, alike for some."""
    rows = [[sum(map(ord, text)) % 7 - 3, len(text) % 5 - 1.5] for text in texts]
    return EmbeddingIndex.normalize(np.array(rows, np.float32).reshape(-1, 2))


@settings(max_examples=60)
@given(corpora(max_size=12), corpora(), THRESHOLDS, st.integers(0, 3), st.integers(1, 4))
def test_layers_answer_as_one_pool(pool, queries, threshold, depth, size):
    def make():
        return LocalPool(threshold, "auto", "Flat")

    whole, layered = make(), LayeredPool(make(), depth, make)
    for start in range(0, len(pool), size):
        part = pool[start : start + size]
        layered.begin()
        for target in (whole, layered):
            target.add(part, vectors_of(part))
        layered.settle()
    assert len(whole) == len(layered) == len(pool)
    near, vectors = whole.nearest_by_rouge(queries), vectors_of(queries)
    for one, other in zip(near, layered.nearest_by_rouge(queries), strict=True):
        assert one.tolist() == other.tolist()
    for one, other in zip(
        whole.nearest_by_cosine(vectors, 0.5), layered.nearest_by_cosine(vectors, 0.5), strict=True
    ):
        assert one.tolist() == other.tolist()
    assert whole.most_similar(queries, 3) == layered.most_similar(queries, 3)
    assert layered.texts(range(len(pool))[::-1]) == pool[::-1]


def rounds_of(texts, size):
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def in_rounds(gate, texts, size, lookahead, block, seen, encoded):
    """Decide round by round, each screened in blocks against the pool it may have seen.

    With ``encoded`` the texts for which embeddings were asked are noted there.
    """
    results, sizes = [], deque([seen] * (lookahead + 1), lookahead + 1)
    for batch in rounds_of(texts, size):
        with ThreadPoolExecutor(3) as threads:
            blocks = [batch[i : i + block] for i in range(0, len(batch), block)]
            parts = list(threads.map(lambda b: gate.screen(b, sizes[0]), blocks))
        before = len(encoded)
        results.append(gate.filter(batch, screened=joined(parts)))
        assert len(encoded) == before  # a decision waits for no embedding
        gate.settle()
        sizes.append(len(gate))
    return results


@settings(max_examples=60)
@given(
    corpora(max_size=6), corpora(max_size=24), THRESHOLDS,
    st.sampled_from([None, 0.6]), st.integers(0, 2), st.integers(1, 5), st.integers(1, 3),
    st.sampled_from(["exact", "Flat"]),
)  # fmt: skip
def test_what_is_screened_before_is_decided_alike(
    pool, texts, threshold, cosine, lookahead, size, block, kind
):
    encoded: list[str] = []

    def encode(texts):
        encoded.extend(texts)
        return vectors_of(texts)

    plain = Deduplicator(threshold, cosine, vectors_of, embedding_index=kind, most_similar=2)
    gate = Deduplicator(
        threshold, cosine, encode, embedding_index=kind, most_similar=2, layers=lookahead
    )
    for one in (plain, gate):
        one.add(pool, vectors_of(pool))
    found = in_rounds(gate, texts, size, lookahead, block, len(pool), encoded)
    for result, batch in zip(found, rounds_of(texts, size), strict=True):
        expected = plain.filter(batch)
        assert result.accepted == expected.accepted
        assert result.rejected == expected.rejected
        assert result.neighbours == expected.neighbours
        for mine, other in (
            (result.embeddings, expected.embeddings),
            (result.cosines, expected.cosines),
        ):
            assert (mine is None) == (other is None)
            assert mine is None or np.array_equal(mine, other)


def test_what_the_pool_refuses_by_rouge_is_not_embedded():
    encoded: list[str] = []

    def encode(texts):
        encoded.extend(texts)
        return np.eye(8, dtype=np.float32)[: len(texts)]

    gate = Deduplicator(encoder=encode, layers=1)
    gate.add(["name a long river in the north"], np.full((1, 8), 0.1, np.float32))
    screened = gate.screen(["tell me a joke", "name a long river in the south"], len(gate))
    assert encoded == ["tell me a joke"]
    assert gate.filter(["tell me a joke", "name a long river in the south"], screened=screened)
    assert encoded == ["tell me a joke"]


@pytest.mark.parametrize("lookahead", [0, 1])
def test_excluded_texts_are_refused_while_screening_as_they_would_be_after(lookahead):
    def guarded(**options):
        excluded = ExcludedTexts(0.7, 0.9)
        excluded.add(texts[3:6], vectors_of(texts[3:6]), source="set")
        gate = Deduplicator(0.7, 0.9, vectors_of, **options)
        gate.add(["one of a kind"], vectors_of(["one of a kind"]))
        return GuardedGate(excluded, gate, vectors_of)

    texts = [f"{a} {b} of the {c} things" for a in "xyz" for b in "pq" for c in ("red", "blue")]
    found = in_rounds(guarded(layers=lookahead), texts, 5, lookahead, 2, 1, [])
    expected = [guard.filter(b) for guard in [guarded()] for b in rounds_of(texts, 5)]
    assert [(r.accepted, r.rejected) for r in found] == [(r.accepted, r.rejected) for r in expected]
    assert {d.reason for r in found for d in r.rejected} >= {CONTAMINATED}


def test_an_approximate_index_is_not_cut_into_layers():
    with pytest.raises(ValueError, match="cannot be searched in layers"):
        Deduplicator(embedding_index="IVF16,Flat", layers=1)
