"""The gate equals comparing one by one, whatever the batches."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from rouge_score.rouge_scorer import RougeScorer

from ray_si.dedup import Deduplicator
from ray_si.dedup.rouge_index import RougeIndex, rouge_l
from ray_si.dedup.tokens import tokenize

WORDS = st.sampled_from(["red", "green", "blue", "one", "two", "10", "a", "Ä"])
TEXTS = st.lists(WORDS, max_size=9).map(" ".join)
THRESHOLDS = st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0])


def lcs(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


def slow_f(a, b):
    x, y = tokenize(a), tokenize(b)
    return Fraction(2 * lcs(x, y), len(x) + len(y)) if x and y else Fraction(0)


def one_by_one(pool, texts, threshold):
    """The definition: accepted indices, and the best score of every text at its turn."""
    pool, accepted, scores = list(pool), [], []
    for i, text in enumerate(texts):
        scores.append(max((slow_f(text, other) for other in pool), default=Fraction(0)))
        if scores[-1] <= Fraction(str(threshold)):
            accepted.append(i)
            pool.append(text)
    return accepted, scores


@given(TEXTS, TEXTS)
def test_rouge_l_equals_the_reference_implementation(a, b):
    reference = RougeScorer(["rougeL"], use_stemmer=False).score(a, b)["rougeL"].fmeasure
    assert rouge_l(a, b) == pytest.approx(reference, abs=1e-12)


@settings(max_examples=200, deadline=None)
@example(["red red"], ["green", "red green"], 0.1, [])  # nearer in the batch than in the pool
@given(
    st.lists(TEXTS, max_size=5),
    st.lists(TEXTS, max_size=14),
    THRESHOLDS,
    st.lists(st.integers(0, 14), max_size=3),
)
def test_decisions_equal_the_slow_loop_for_any_batches(pool, texts, threshold, cuts):
    expected, scores = one_by_one(pool, texts, threshold)
    gate = Deduplicator(rouge=threshold, cosine=None)
    gate.add(pool)
    accepted, found = [], {}
    bounds = sorted({0, len(texts), *(min(cut, len(texts)) for cut in cuts)})
    for start, end in pairwise(bounds):
        result = gate.filter(texts[start:end])
        accepted += [start + i for i in result.accepted]
        for i, near in zip(result.accepted, result.nearest, strict=True):
            found[start + i] = near.rouge
        for duplicate in result.rejected:
            assert duplicate.reason == "rouge"
            match = (pool + [texts[i] for i in expected])[duplicate.match_id]
            assert match == duplicate.match
            found[start + duplicate.index] = duplicate.score
    assert accepted == expected
    assert [found[i] for i in range(len(texts))] == pytest.approx([float(s) for s in scores])
    assert len(gate) == len(pool) + len(expected)


def test_the_threshold_itself_is_accepted_in_exact_arithmetic():
    # 2 * 7 / (10 + 10) is 0.7 and must pass; a float comparison of 0.7000000000000001 would not
    a = "a b c d e f g h i j"
    b = "a b c d e f g x y z"
    assert Deduplicator(rouge=0.7, cosine=None).filter([a, b]).accepted == [0, 1]
    assert Deduplicator(rouge=0.69, cosine=None).filter([a, b]).accepted == [0]


def test_texts_longer_than_a_machine_word_are_exact():
    words = [f"w{i}" for i in range(200)]
    a, b = " ".join(words), " ".join(words[:140] + words[:60])
    assert rouge_l(a, b) == float(slow_f(a, b))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.6, 0.9]), st.integers(1, 30))
def test_cosine_decisions_equal_the_slow_loop(seed, threshold, cut):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(30, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # whole texts differ, so the ROUGE-L gate never speaks
    texts = [f"t{i}" for i in range(30)]
    accepted: list[int] = []
    for i in range(30):
        if all(float(vectors[i] @ vectors[k]) <= threshold for k in accepted):
            accepted.append(i)
    gate = Deduplicator(rouge=0.7, cosine=threshold)
    first = gate.filter(texts[:cut], vectors[:cut])
    second = gate.filter(texts[cut:], vectors[cut:])
    assert first.accepted + [cut + i for i in second.accepted] == accepted
    assert {d.reason for d in first.rejected + second.rejected} <= {"cosine"}


def test_a_text_refused_by_cosine_refuses_nothing_itself():
    # the second is refused by cosine; the third resembles only the second, so it is accepted
    texts = ["alpha beta gamma delta", "one two three four", "one two three five"]
    vectors = np.array([[1, 0, 0], [1, 0.01, 0], [0, 0, 1]], np.float32)
    result = Deduplicator(rouge=0.7, cosine=0.9).filter(texts, vectors)
    assert result.accepted == [0, 2]
    assert result.rejected[0].reason == "cosine"
    assert result.rejected[0].match == texts[0]


def test_embeddings_are_asked_for_survivors_only():
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


def test_many_texts_are_decided_in_chunks_alike(monkeypatch):
    from ray_si.dedup import deduplicator

    texts = [f"say word{i % 40} and word{i % 7} loudly" for i in range(120)]
    whole = Deduplicator(rouge=0.7, cosine=None).filter(texts)
    monkeypatch.setattr(deduplicator, "_CHUNK", 7)
    chunked = Deduplicator(rouge=0.7, cosine=None).filter(texts)
    assert whole == chunked
    assert 0 < len(whole.accepted) < 120


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01])
def test_impossible_thresholds_are_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        RougeIndex(threshold)
    with pytest.raises(ValueError, match="cosine"):
        Deduplicator(cosine=threshold)


def test_the_cosine_gate_without_encoder_says_what_it_needs():
    with pytest.raises(ValueError, match="needs an encoder"):
        Deduplicator().filter(["tell me a joke"])
