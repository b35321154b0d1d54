"""Distinct-n, self-BLEU and the Vendi score equal their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from ray_si.dedup.vocabulary import Vocabulary
from ray_si.report.diversity import Vendi, distinct, self_bleu

TEXTS = st.lists(st.lists(st.integers(0, 6), max_size=12), max_size=8)
"""Texts as numbers of their words."""


@given(TEXTS)
def test_distinct_n_counts_different_ngrams(numbers):
    words = [" ".join(f"w{k}" for k in text) for text in numbers]
    found = distinct(Vocabulary().encode(words, grow=True))
    for n in (1, 2, 3):
        grams = [tuple(t[i : i + n]) for t in numbers for i in range(len(t) - n + 1)]
        expected = round(len(set(grams)) / len(grams), 4) if grams else None
        assert found[n - 1] == expected


@given(TEXTS)
def test_self_bleu_is_the_mean_of_each_with_all_others(numbers):
    numbers = [text for text in numbers if text]
    found = self_bleu(numbers)
    if len(numbers) < 2:
        assert found is None
        return
    smooth = SmoothingFunction().method1
    scores = [
        sentence_bleu(numbers[:k] + numbers[k + 1 :], text, smoothing_function=smooth)
        for k, text in enumerate(numbers)
    ]
    assert found == pytest.approx(np.mean(scores), abs=1e-4)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_the_vendi_score_is_that_of_the_whole_similarity_matrix(count):
    vectors = np.random.default_rng(count).standard_normal((count, 12)) * 3
    vendi = Vendi()
    for part in np.array_split(vectors, 3):
        vendi.add(part.astype(np.float32))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    shares = np.linalg.eigvalsh(unit @ unit.T / count)
    shares = shares[shares > 1e-12]
    assert vendi.score() == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), abs=0.006)


def test_the_vendi_score_counts_different_items():
    vendi = Vendi()
    vendi.add(np.repeat(np.eye(4), 25, axis=0))
    assert vendi.score() == 4.0
    assert Vendi().score() is None
