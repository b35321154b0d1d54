"""Excluded texts: what is too close to one is found, and nothing else; a gate behind them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ray_si.dedup import CONTAMINATED, Deduplicator, ExcludedTexts, GuardedGate
from tests.dedup.oracle import THRESHOLDS, corpora, nearest, one_by_one


@given(corpora(max_size=12), corpora(max_size=12), THRESHOLDS)
def test_what_is_found_is_what_a_slow_comparison_finds(texts, unwanted, threshold):
    excluded = ExcludedTexts(threshold)
    half = len(unwanted) // 2
    excluded.add(unwanted[:half], source="first")
    excluded.add(unwanted[half:], source="second")
    found = {match.index: match for match in excluded.find(texts)}
    for i, text in enumerate(texts):
        score, match = nearest(unwanted, text, threshold)
        assert (i in found) == (match >= 0)
        if match >= 0:
            assert found[i].match == unwanted[match]
            assert found[i].score == pytest.approx(float(score))
            assert found[i].source == ("first" if match < half else "second")
            assert found[i].reason == CONTAMINATED


@given(corpora(max_size=16), corpora(max_size=6), THRESHOLDS, st.integers(1, 5))
def test_a_guarded_gate_is_the_gate_on_what_remains_whatever_the_batches(
    texts, unwanted, threshold, size
):
    excluded = ExcludedTexts(threshold)
    excluded.add(unwanted, source="set")
    close = {i for i, text in enumerate(texts) if nearest(unwanted, text, threshold)[1] >= 0}
    rest = [i for i in range(len(texts)) if i not in close]
    accepted, refused = one_by_one([], [texts[i] for i in rest], threshold)

    gate = GuardedGate(excluded, Deduplicator(threshold, None))
    found, reasons = [], {}
    for start in range(0, len(texts), size):
        result = gate.filter(texts[start : start + size])
        found += [start + i for i in result.accepted]
        reasons |= {start + d.index: d.reason for d in result.rejected}
    assert found == [rest[i] for i in accepted]
    assert {i for i, reason in reasons.items() if reason == CONTAMINATED} == close
    assert {i for i, reason in reasons.items() if reason == "rouge"} == {rest[i] for i in refused}


def test_the_gate_says_how_long_each_of_its_parts_has_searched(monkeypatch):
    """Of three that work at a time: the pool, a batch among itself, and the excluded texts."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    excluded, gate = ExcludedTexts(), Deduplicator(cosine=None, layers=1)
    excluded.add(["name a river"], source="set")

    def takes(seconds, search):
        def searching(*arguments, **options):
            nonlocal now
            now += seconds
            return search(*arguments, **options)

        return searching

    monkeypatch.setattr(excluded, "_nearest", takes(5, excluded._nearest))
    monkeypatch.setattr(gate._layers, "nearest_by_rouge", takes(2, gate._layers.nearest_by_rouge))
    monkeypatch.setattr(gate._peers, "add", takes(3, gate._peers.add))
    GuardedGate(excluded, gate).screen(["list two seas"], 0, batch=0)
    assert GuardedGate(excluded, gate).screening_s == (2, 3, 5)


def test_cosine_is_asked_of_what_rouge_lets_pass():
    excluded = ExcludedTexts(0.7, 0.8)
    excluded.add(["name three rivers", "sing a song"], np.eye(3)[:2], source="set")
    texts = ["name three rivers", "warble something", "count to ten", "somewhat alike"]
    vectors = np.array([[0, 0, 1], [0.1, 0.9, 0], [0, 0, 1], [0.6, 0.6, 0.5]])
    found = excluded.find(texts, vectors)
    assert [(match.index, match.match) for match in found] == [
        (0, "name three rivers"),
        (1, "sing a song"),
    ]
    assert found[0].score == 1
    assert found[1].score == pytest.approx(0.9 / np.hypot(0.1, 0.9))


def test_the_threshold_itself_is_not_too_close():
    excluded = ExcludedTexts(0.8)
    excluded.add(["a b c d e"], source="set")
    assert Fraction(2 * 4, 5 + 5) == Fraction("0.8")
    assert not excluded.find(["a b c d x"])
    assert excluded.find(["a b c d"])


def test_excluded_texts_are_neighbours_of_nothing():
    excluded = ExcludedTexts(0.9)
    excluded.add(["red green blue"], source="set")
    gate = GuardedGate(excluded, Deduplicator(0.9, None, most_similar=3))
    (neighbours,) = gate.filter(["red green one two"]).neighbours
    assert neighbours.texts == []


@pytest.mark.parametrize("arguments", [(0, None), (0.7, 0), (0.7, 1.5)])
def test_impossible_thresholds_are_refused(arguments):
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        ExcludedTexts(*arguments)


def test_a_cosine_needs_embeddings_that_fit():
    excluded = ExcludedTexts(0.7, 0.8)
    with pytest.raises(ValueError, match="needs embeddings"):
        excluded.add(["a"], source="set")
    with pytest.raises(ValueError, match="2 embeddings for 1 texts"):
        excluded.find(["a"], np.eye(2))
