"""Statistics equal those that are worked out the slow way."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from ray_si.dedup.rouge import rouge_l
from ray_si.dedup.vocabulary import Vocabulary
from ray_si.report.contents import RunContents
from ray_si.report.distribution import Distribution, Scores
from ray_si.report.diversity import Vendi, distinct, self_bleu
from ray_si.report.sample import Sample, draw, priorities
from ray_si.report.statistics import collect
from ray_si.run.seeds import load_seeds
from tests.report.made import made_run, texts

TEXTS = st.lists(st.lists(st.integers(0, 6), max_size=12), max_size=8)


# Distributions ---------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 3000)), min_size=1))
def test_summaries_are_exact_however_the_values_come(parts):
    distribution = Distribution()
    for part in parts:
        distribution.add(part)
    values = sorted(value for part in parts for value in part)
    summary = distribution.summary()
    assert summary["count"] == len(values)
    if values:
        assert (summary["least"], summary["most"]) == (values[0], values[-1])
        assert summary["mean"] == round(sum(values) / len(values), 2)
        assert summary["median"] == np.quantile(values, 0.5, method="inverted_cdf")
        assert summary["p95"] == np.quantile(values, 0.95, method="inverted_cdf")


@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_a_histogram_holds_every_value_in_its_bin(values):
    distribution = Distribution()
    distribution.add(values)
    bins = distribution.histogram()
    assert sum(item["count"] for item in bins) == len(values)
    assert len(bins) <= 33
    for item in bins:
        last = item["to"] if item["to"] is not None else max(values)
        assert item["count"] == sum(item["from"] <= value <= last for value in values)


def test_a_score_on_an_edge_belongs_to_the_bin_above():
    scores = Scores()
    scores.add(np.array([0.0, 0.7, 2 * 7 / 20, 1.0, 0.15]))
    counts = {item["from"]: item["count"] for item in scores.summary()["histogram"]}
    assert {edge for edge, count in counts.items() if count} == {0.0, 0.7, 0.95, 0.15}
    assert counts[0.7] == 2


# Samples ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40)), st.integers(1, 20))
def test_a_sample_is_the_same_however_the_stream_is_cut(parts, size):
    sample, start = Sample(size), 0
    for part in parts:
        lots = priorities(start, part)
        sample.add(lots, lambda chosen, start=start: [start + int(k) for k in chosen])
        start += part
    assert sample.seen == start
    assert sample.items() == draw(start, size)


def test_samples_are_uniform_and_nested():
    counts = Counter(k // 100 for k in draw(1000, 500))
    assert all(30 <= counts[tenth] <= 70 for tenth in range(10))
    assert draw(1000, 10) == draw(1000, 500)[:10]


# Diversity -------------------------------------------------------------------------------------


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


# A run -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    location = tmp_path_factory.mktemp("run") / "run"
    made_run(location)
    return collect(RunContents.open(str(location)))


def test_every_candidate_and_instance_is_in_the_funnel(collected):
    numbers, _ = collected
    kept = sum(k % 3 for k in range(60))
    assert numbers["funnel"] == {
        "rounds": 3,
        "completions": 12,
        "candidates": 96,
        "accepted": 60,
        "instructions_asked": 60,
        "classification": 15,
        "with_instance": 40,
        "instances_written": kept + 15,
        "instances": kept,
        "rows": kept,
    }
    assert numbers["rejected"] == {
        "instructions": {"keyword": 12, "rouge": 12, "too_short": 12},
        "instances": {"duplicate": 15},
    }
    assert sum(numbers["rejected"]["instructions"].values()) == 96 - 60


def test_rounds_add_up_to_the_whole(collected):
    numbers, _ = collected
    rounds = numbers["rounds"]
    assert [item["first"] for item in rounds] == [0, 1, 2]
    for name in ("candidates", "accepted", "rows"):
        assert sum(item[name] for item in rounds) == numbers["funnel"][name]
    tokens = sum(item["tokens_per_row"] * item["rows"] for item in rounds)
    assert tokens == pytest.approx(3 * 100 + 60 * 7, rel=0.01)
    assert numbers["tokens"]["per_row"] == 12.0


def test_many_rounds_are_grouped_and_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("ray_si.report.statistics._GROUPS", 2)
    made_run(tmp_path / "run")
    numbers, _ = collect(RunContents.open(str(tmp_path / "run")))
    assert [(item["first"], item["last"]) for item in numbers["rounds"]] == [(0, 1), (2, 2)]
    assert [item["accepted"] for item in numbers["rounds"]] == [40, 20]


def test_the_nearest_seed_is_the_nearest_of_all(collected):
    numbers, rows = collected
    seeds = {seed.id: seed.instruction for seed in load_seeds("bundled")[0][:30]}
    best = []
    for row in rows["accepted"]:
        scores = {id_: rouge_l(row["text"], text) for id_, text in seeds.items()}
        best.append(max(scores.values()))
        assert row["nearest_seed"]["rouge"] == pytest.approx(best[-1], abs=1e-4)
        assert scores[row["nearest_seed"]["id"]] == best[-1]
    assert numbers["nearest_seed"]["mean"] == pytest.approx(np.mean(best), abs=1e-4)
    assert numbers["nearest_seed"]["count"] == 60


def test_lengths_are_in_words_and_empty_inputs_are_left_out(collected):
    lengths = collected[0]["lengths"]
    assert lengths["input"]["words"] | {"count": 40} == lengths["input"]["words"]
    assert lengths["input"]["words"]["mean"] == 2.0
    words = [len(text.split()) for text in texts(60)]
    assert lengths["instruction"]["words"]["mean"] == pytest.approx(np.mean(words), abs=0.005)
    assert lengths["output"]["words"]["most"] == 7


def test_a_unicode_run_is_compared_by_unicode_tokens(tmp_path):
    from dataclasses import replace

    seed = replace(load_seeds("bundled")[0][0], instruction="写一首关于河流的诗")
    made_run(
        tmp_path / "run", instructions=["写一首关于大海的诗"], seeds=[seed], tokenizer="unicode"
    )
    numbers, _ = collect(RunContents.open(str(tmp_path / "run")))
    assert numbers["nearest_seed"]["mean"] == pytest.approx(7 / 9, abs=1e-3)


# Verbs -----------------------------------------------------------------------------------------


def test_root_verbs_and_their_direct_nouns():
    pytest.importorskip("spacy", reason="the extra `report` is not installed")
    from ray_si.report.verbs import parser_name, root_verbs

    if parser_name() is None:
        pytest.skip("the parser's model is not installed")
    found = root_verbs(
        ["Write a short poem about the sea.", "Write poems.", "Write a letter.", "Is it cold?", ""]
    )
    assert found is not None
    assert (found["parsed"], found["with_verb"], found["with_noun"]) == (5, 3, 3)
    assert found["verbs"] == [
        {
            "verb": "write",
            "count": 3,
            "nouns": [{"noun": "poem", "count": 2}, {"noun": "letter", "count": 1}],
        }
    ]
