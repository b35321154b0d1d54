"""Statistics equal those that are worked out the slow way."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ray_si.dedup.rouge import rouge_l
from ray_si.report.contents import RunContents
from ray_si.report.statistics import _written, collect
from ray_si.run.seeds import load_seeds
from tests.report.made import made_run, texts

# Distributions ---------------------------------------------------------------------------------


# Samples ---------------------------------------------------------------------------------------


# Diversity -------------------------------------------------------------------------------------


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
    assert tokens == pytest.approx(3 * 100 + 60 * (7 + 3), rel=0.01)
    assert numbers["tokens"]["instance_completion"] == 60 * (7 + 3)  # classification, too
    assert numbers["tokens"]["per_row"] == 15.0


def test_what_was_never_written_is_no_written_instance():
    assert (
        _written(Counter(duplicate=2, no_instance=1, engine_error=1, refused=1, not_asked=1)) == 2
    )


def test_self_bleu_is_measured_on_no_more_than_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr("ray_si.report.statistics.COMPARED", 20)
    made_run(tmp_path / "run")
    numbers, _ = collect(RunContents.open(str(tmp_path / "run")))
    measured = [item["texts"] for item in numbers["diversity"]["sets"] if item["self_bleu"]]
    assert measured == [20]


def test_seed_tasks_are_the_last_texts_to_go_from_the_page_for_want_of_room(collected):
    _, rows = collected
    are_seeds = [id_.startswith("seed_") for id_ in rows["texts"]]
    assert are_seeds == sorted(are_seeds, reverse=True)
    assert not all(are_seeds)


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


@pytest.mark.parametrize("tokenizer", ["auto", "unicode"])
def test_a_run_is_compared_by_its_own_tokens(tmp_path, tokenizer):
    from dataclasses import replace

    seed = replace(load_seeds("bundled")[0][0], instruction="写一首关于河流的诗")
    made_run(
        tmp_path / "run", instructions=["写一首关于大海的诗"], seeds=[seed], tokenizer=tokenizer
    )
    numbers, _ = collect(RunContents.open(str(tmp_path / "run")))
    assert numbers["nearest_seed"]["mean"] == pytest.approx(7 / 9, abs=1e-3)


def test_ngrams_of_more_instructions_than_are_counted_are_those_of_a_sample(
    tmp_path, monkeypatch, collected
):
    monkeypatch.setattr("ray_si.report.statistics.COMPARED", 30)
    monkeypatch.setattr("ray_si.report.statistics.COUNTED", 40)
    made_run(tmp_path / "run")
    numbers, _ = collect(RunContents.open(str(tmp_path / "run")))
    sets, exact = numbers["diversity"]["sets"], collected[0]["diversity"]["sets"]
    assert [(item["name"], item["texts"]) for item in sets] == [
        ("seeds", 30), ("sample", 30), ("sample", 40), ("all", 60),
    ]  # fmt: skip
    assert sets[:2] == exact[:2]
    assert all(sets[2]["distinct"])
    assert sets[2]["self_bleu"] is None
    assert sets[3] == exact[-1] | {"distinct": [None] * 3, "self_bleu": None}
    assert b"Generated, a sample" in (tmp_path / "run" / "report.html").read_bytes()


# Verbs -----------------------------------------------------------------------------------------
