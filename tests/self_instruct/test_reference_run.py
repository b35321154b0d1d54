"""The original code's published run: the same completions give the same decisions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_si.dedup import Deduplicator
from ray_si.self_instruct.filters import filter_instances, instruction_reason
from ray_si.self_instruct.parsing import (
    Rules,
    parse_classification,
    parse_instances,
    parse_instructions,
)


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def run(reference: Path) -> dict[str, list[dict]]:
    return {path.stem: _rows(path) for path in (reference / "reference_run").glob("*.jsonl")}


@pytest.fixture(scope="module")
def seeds(reference: Path) -> list[str]:
    return [row["instruction"] for row in _rows(reference / "paper_seed_tasks.jsonl")]


def _candidates(rows: list[dict]) -> list[str]:
    completions = {row["raw_completion"]: row for row in rows}
    assert len(completions) == 14
    texts = []
    for row in completions.values():
        items = parse_instructions(row["raw_completion"], row["finish_reason"], rules="original")
        texts += [item.text for item in items if not (item.reason or instruction_reason(item.text))]
    return texts


def test_the_14_completions_give_exactly_the_67_accepted_instructions(run, seeds):
    gate = Deduplicator(rouge=0.7, cosine=None)
    gate.add(seeds)
    texts = _candidates(run["instructions"])
    result = gate.filter(texts)
    assert [texts[i] for i in result.accepted] == [r["instruction"] for r in run["instructions"]]


@pytest.mark.parametrize("tokenizer", ["auto", "reference"])
def test_most_similar_and_mean_equal_the_published_ones(run, seeds, tokenizer):
    gate = Deduplicator(rouge=0.7, cosine=None, most_similar=10, tokenizer=tokenizer)
    gate.add(seeds)
    result = gate.filter([row["instruction"] for row in run["instructions"]])
    assert len(result.accepted) == 67
    for row, near in zip(run["instructions"], result.neighbours, strict=True):
        published = sorted(row["most_similar"].values(), reverse=True)
        assert near.scores == pytest.approx(published, abs=1e-9)
        assert near.mean == pytest.approx(row["avg_similarity_score"], abs=1e-9)


def test_eight_answers_read_as_yes(run):
    answers = [parse_classification(r["is_classification"]) for r in run["classification_answers"]]
    assert answers.count(True) == 8
    assert answers.count(None) == 0


def _kept(run: dict[str, list[dict]], rules: Rules) -> set[tuple[str, str, str]]:
    """What is kept of the run's raw completions: instruction, input, output."""
    is_classification = {
        row["instruction"]: bool(parse_classification(row["is_classification"]))
        for row in run["classification_answers"]
    }
    kept = set()
    for row in run["raw_instances"]:
        instruction = row["instruction"]
        instances = parse_instances(
            row["raw_instances"],
            row["finish_reason"],
            output_first=is_classification[instruction],
            rules=rules,
        )
        for instance in filter_instances(instruction, instances, rules=rules).kept:
            kept.add((instruction, instance.input, instance.output))
    return kept


def test_the_instances_kept_are_the_same_78(run):
    expected = {(r["instruction"], r["input"], r["output"]) for r in run["expected_instances"]}
    assert len(expected) == 78
    assert _kept(run, "original") == expected


def test_by_default_all_are_kept_but_one_that_has_no_output(run):
    original, lines = _kept(run, "original"), _kept(run, "lines")
    (problem,) = original - lines
    assert problem[1:] == (
        "",
        "Problem: You are given a list of integers. Find the sum of all pairs that add up to zero.",
    )
    assert lines < original
