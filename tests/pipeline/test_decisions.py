"""A round's decisions: every candidate once, in order, with a reason where it was left out."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from ray_si.config.file import parse_config
from ray_si.dedup import Deduplicator
from ray_si.engines.base import Completion
from ray_si.pipeline import decisions
from ray_si.pipeline.decisions import (
    all_candidates,
    candidates_of,
    completion_row,
    decide_round,
    is_plateau,
    read_candidates,
    texts_of,
    with_candidates,
)
from ray_si.report.reasons import REASONS
from ray_si.run.ids import instruction_id, request_id
from ray_si.run.schemas import ACCEPTED, REJECTED
from tests.builds import replay_values

CONFIG = parse_config(replay_values())
LINES = [
    "Name three rivers of the country.",
    "Name three rivers of a country.",
    "Write a poem about the sea at night.",
    "Describe the graph below.",
    "Too short",
    "Explain how bread is made to a child.",
    "Compare the two cities in one paragraph.",
]
completions = st.lists(
    st.tuples(
        st.lists(st.sampled_from(LINES), min_size=1, max_size=6),
        st.sampled_from(["stop", "length", "error", "refused"]),
    ),
    min_size=1,
    max_size=5,
)


def raw(index, completion):
    return {
        "block": 0,
        "request_id": request_id(0, index),
        "seed": index,
        "classification_prompt": False,
        "demonstrations": ["seed_task_0"],
        **completion_row(completion),
    }


def answered(index, lines, finish_reason):
    if finish_reason in ("error", "refused"):
        return raw(index, Completion("", finish_reason, 10, 0, error="it failed"))
    text = " " + "\n".join(f"{9 + k}. {line}" for k, line in enumerate(lines))
    return raw(index, Completion(text, finish_reason, 10, 20))


@given(completions, st.integers(0, 6))
def test_every_candidate_is_accepted_or_rejected_once_and_in_order(answers, room):
    rows = [answered(i, *answer) for i, answer in enumerate(answers)]
    gate = Deduplicator(rouge=0.7, cosine=None)
    accepted, rejected, manifest, _ = decide_round(
        CONFIG, 0, rows, room, lambda usable: gate.filter(texts_of(usable))
    )
    expected = {
        instruction_id(row["request_id"], item.position): item
        for row in rows
        for item in candidates_of(row, CONFIG)
    }
    left_out = rejected.to_pylist()
    ids = accepted["id"].to_pylist()
    names = [instruction_id(row["request_id"], row["position"]) for row in left_out]
    assert sorted(ids + names) == sorted(expected)
    assert ids == sorted(ids)
    assert names == sorted(names)
    assert len(ids) <= room
    assert accepted["instruction"].to_pylist() == [expected[id_].text for id_ in ids]
    for name, row in zip(names, left_out, strict=True):
        own = expected[name].reason
        assert row["reason"] == own if own else row["reason"] in ("rouge", "target_reached")
    assert manifest["candidates"] == len(expected)
    assert manifest["accepted"] == len(ids)
    assert manifest["rejected"] == Counter(row["reason"] for row in left_out)
    assert (manifest["prompt_tokens"], manifest["requests"]) == (10 * len(rows), len(rows))
    assert (accepted.schema, rejected.schema) == (ACCEPTED, REJECTED)


@given(completions)
def test_the_gate_alone_decides_on_what_the_filters_let_pass(answers):
    rows = [answered(i, *answer) for i, answer in enumerate(answers)]
    gate, again = Deduplicator(rouge=0.7, cosine=None), Deduplicator(rouge=0.7, cosine=None)
    decided = decide_round(CONFIG, 0, rows, 1000, lambda usable: gate.filter(texts_of(usable)))
    usable = [
        item.text for row in rows for item in candidates_of(row, CONFIG) if item.reason is None
    ]
    expected = again.filter(usable)
    assert decided.accepted["instruction"].to_pylist() == [usable[i] for i in expected.accepted]
    refused = [row for row in decided.rejected.to_pylist() if row["reason"] == "rouge"]
    assert [(row["text"], row["match"], row["score"]) for row in refused] == [
        (usable[d.index], d.match, d.score) for d in expected.rejected
    ]


@pytest.mark.parametrize(
    ("finish_reason", "reason"), [("error", "engine_error"), ("refused", "refused")]
)
def test_a_request_without_text_is_one_candidate_that_says_why(finish_reason, reason):
    (item,) = candidates_of(answered(0, [], finish_reason), CONFIG)
    assert (item.text, item.reason) == ("it failed", reason)


def test_a_text_that_reading_trips_over_is_one_candidate_and_costs_the_others_nothing(
    monkeypatch, caplog
):
    parse = decisions.parse_instructions

    def trips(text, *arguments, **options):
        if "poem" in text:
            raise ValueError("invalid literal")
        return parse(text, *arguments, **options)

    monkeypatch.setattr(decisions, "parse_instructions", trips)
    rows = [answered(k, [LINES[j]], "stop") for k, j in enumerate((0, 2, 5))]
    found = all_candidates(CONFIG, rows)
    assert [(item.candidate.text, item.candidate.reason) for item in found] == [
        (LINES[0], None),
        (rows[1]["text"], "unreadable"),
        (LINES[5], None),
    ]
    assert read_candidates(with_candidates(CONFIG, pa.Table.from_pylist(rows))) == (rows, found)
    assert rows[1]["request_id"] in caplog.text
    assert "unreadable" in REASONS


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("lines", [("Name three rivers of Peru.", None), ("Bye, all of you!", "remark")]),
        ("original", [("1) name three rivers of peru. bye, all of you!", None)]),
    ],
)
def test_a_list_is_read_by_the_rules_of_the_configuration(rules, expected):
    config = parse_config(replay_values() | {"rules": rules})
    row = raw(0, Completion("1) Name three rivers of Peru.\n\nBye, all of you!", "stop"))
    assert [(item.text, item.reason) for item in candidates_of(row, config)] == expected


@pytest.mark.parametrize(
    ("accepted", "stalled"), [([1, 1, 1], True), ([9, 1, 1, 1], True), ([1, 1, 9], False)]
)
def test_a_plateau_is_so_many_rounds_of_almost_nothing(accepted, stalled):
    options = CONFIG.bootstrap.model_copy(update={"stall_rounds": 3, "stall_acceptance": 0.02})
    manifests = [{"accepted": count, "candidates": 100} for count in accepted]
    assert is_plateau(manifests, options) is stalled
    assert not is_plateau(manifests[-2:], options)
