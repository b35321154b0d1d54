"""The ROUGE-L index equals comparing with every text."""

from __future__ import annotations

from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from ray_si.dedup import RougeIndex, rouge_index
from tests.dedup.oracle import THRESHOLDS, corpora, nearest, slow_f

TAILS = [1, 7, 2048]
"""How many texts wait without postings: with small numbers, many segments are merged."""


def indexed(texts, threshold, *, tail, step=40):
    """An index to which the texts were added step by step."""
    index = RougeIndex(threshold)
    with mock.patch.object(rouge_index, "_TAIL", tail):
        for start in range(0, len(texts), step):
            index.add(texts[start : start + step])
    return index


@settings(max_examples=150)
@example([], [], 0.7, 1, 7)
@example(["red"], ["red"], 1.0, 1, 1)
@given(corpora(), corpora(), THRESHOLDS, st.integers(1, 40), st.sampled_from(TAILS))
def test_search_equals_comparing_with_every_text(pool, queries, threshold, step, tail):
    index = indexed(pool, threshold, tail=tail, step=step)
    scores, ids = index.search(queries)
    expected = [nearest(pool, query, threshold) for query in queries]
    assert (scores.dtype, ids.dtype, len(index)) == (np.float64, np.int64, len(pool))
    assert ids.tolist() == [id_ for _, id_ in expected]
    assert scores.tolist() == [float(score) for score, _ in expected]


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.85])
def test_texts_longer_than_a_machine_word_are_exact(tail, threshold):
    rng = np.random.default_rng(3)
    pool = []
    for _ in range(24):
        if pool and rng.random() < 0.7:
            words = pool[rng.integers(len(pool))].split()
            for _ in range(rng.integers(0, len(words) // 4)):
                words[rng.integers(len(words))] = f"w{rng.integers(60)}"
        else:
            words = [f"w{i}" for i in rng.integers(0, 60, rng.integers(40, 250))]
        pool.append(" ".join(words))
    index = indexed(pool[:16], threshold, tail=tail, step=5)
    scores, ids = index.search(pool[16:])
    expected = [nearest(pool[:16], query, threshold) for query in pool[16:]]
    assert (ids.tolist(), scores.tolist()) == (
        [id_ for _, id_ in expected],
        [float(score) for score, _ in expected],
    )
    assert (ids >= 0).any()


def test_a_large_pool_with_threads_equals_the_slow_search(monkeypatch):
    monkeypatch.setattr(rouge_index, "_SLICE", 16)
    rng = np.random.default_rng(1)
    words = np.array([f"w{i}" for i in range(400)])
    pool = []
    for i in range(3000):
        text = list(words[(400 * rng.random(rng.integers(4, 20)) ** 3).astype(int)])
        if i % 3 == 2:
            text = pool[rng.integers(i)].split()
            text[rng.integers(len(text))] = words[rng.integers(400)]
        pool.append(" ".join(text))
    index = RougeIndex(0.7, threads=3)
    index.add(pool[:2500])
    index.add(pool[2500:2900])
    scores, ids = index.search(pool[2900:])
    for query, score, id_ in zip(pool[2970:], scores[70:], ids[70:], strict=True):
        assert (Fraction(score).limit_denominator(1000), id_) == nearest(pool[:2900], query, 0.7)
    assert 20 < (ids >= 0).sum() < 100


def test_one_enormous_text_does_not_stall_the_rest():
    words = [f"w{i}" for i in np.random.default_rng(0).integers(0, 20_000, 100_000)]
    short = [f"name the colour of fruit {i}" for i in range(200)]
    index = RougeIndex(0.7)
    index.add([" ".join(words), *short])
    edited = " ".join(words[:30_000] + words[31_000:])
    scores, ids = index.search([edited, *short])
    assert ids.tolist() == list(range(201))
    assert scores[0] == 2 * 99_000 / 199_000


def test_the_threshold_itself_is_not_above_it():
    # 2 * 7 / (10 + 10) is 0.7 exactly; in floating point 0.1 * 7 is not
    index = RougeIndex(0.7)
    index.add(["a b c d e f g h i j"])
    assert index.search(["a b c d e f g x y z"])[1].tolist() == [-1]
    assert index.search(["a b c d e f g h y z"])[1].tolist() == [0]


def test_the_sum_of_all_scores_passes_64_bits(monkeypatch):
    monkeypatch.setattr("ray_si.dedup.rouge_index._MEAN_UNIT", 1 << 60)
    index = RougeIndex(0.7)
    index.add(["name a river"] * 20)
    (similar,) = index.most_similar(["name a river"], 1)
    assert similar.mean(20) == 1.0


@settings(max_examples=60)
@given(corpora(), corpora(max_size=5), st.integers(1, 12), st.sampled_from(TAILS))
def test_most_similar_equals_ranking_every_text(pool, queries, k, tail):
    index = indexed(pool, 0.7, tail=tail)
    for query, similar in zip(queries, index.most_similar(queries, k), strict=True):
        scores = [slow_f(query, other) for other in pool]
        ranked = sorted(range(len(pool)), key=lambda i: (-scores[i], i))[:k]
        assert similar.ids == ranked
        assert similar.scores == [float(scores[i]) for i in ranked]
        mean = float(sum(scores) / len(scores)) if scores else 0.0
        assert similar.mean(len(pool)) == pytest.approx(mean, abs=1e-12)


def test_cyrillic_texts_are_compared_unless_the_tokens_are_the_reference_ones():
    texts = ["назови самую длинную реку страны", "напиши короткое стихотворение о море"]
    blind, seeing = RougeIndex(tokenizer="reference"), RougeIndex()
    blind.add(texts)
    seeing.add(texts)
    assert blind.search(texts)[1].tolist() == [-1, -1]
    assert seeing.search(texts)[1].tolist() == [0, 1]


def test_a_raised_threshold_finds_what_a_new_index_finds():
    texts = [f"name {i % 9} rivers of country {i % 5} now please" for i in range(45)]
    raised, new = RougeIndex(0.5), RougeIndex(0.9)
    for index in (raised, new):
        index.add(texts)
    raised.raise_threshold(0.9)
    queries = ["name 3 rivers of country 2 now", "name 77 rivers of land 78 now please"]
    for a, b in zip(raised.search(queries), new.search(queries), strict=True):
        assert a.tolist() == b.tolist()
    with pytest.raises(ValueError, match="below"):
        raised.raise_threshold(0.6)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan")])
def test_impossible_thresholds_are_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        RougeIndex(threshold)


def test_a_text_that_is_no_string_is_named_and_nothing_is_added():
    index = RougeIndex()
    with pytest.raises(TypeError, match=r"texts\[1\]"):
        index.add(["fine", 7])
    assert len(index) == 0
    with pytest.raises(TypeError, match=r"texts\[0\]"):
        index.search([None])


# Files -----------------------------------------------------------------------------------------
