"""What is said of idle slots before a run."""

from __future__ import annotations

import pytest

from ray_si.config.file import load_config, parse_config
from ray_si.pipeline.occupancy import idle_notes


def config(**changed):
    generator = {"engine": "vllm", "model": "m", "replicas": 8, "gpus": 1, "max_batch": 128}
    return parse_config({"generator": generator, "target_instructions": 10**6, **changed})


def test_rounds_that_leave_slots_idle_are_told_with_what_would_fill_them():
    (note,) = idle_notes(config(dedup={"cosine": None}))
    assert note.startswith("rounds of 64 prompts with lookahead 1 can keep 6 % of 1024 slots busy")
    assert note.endswith("would take rounds of 2048 with lookahead 2: 100 %")
    assert idle_notes(config(dedup={"cosine": None}, bootstrap={"fit_to_slots": True})) == []


@pytest.mark.parametrize(
    "bootstrap", [{}, {"fit_to_slots": True}, {"fit_to_slots": True, "lookahead": 0}]
)
def test_other_rounds_are_not_named_where_they_would_fill_no_more_slots(bootstrap):
    small = config(dedup={"cosine": None}, target_instructions=1000, bootstrap=bootstrap)
    (note,) = idle_notes(small)
    assert "% of 1024 slots busy; a target of 1,000 has not enough prompts for so many" in note
    assert "fit_to_slots" not in note


def test_other_rounds_are_named_where_they_would_fill_more_slots_though_not_all():
    (note,) = idle_notes(config(dedup={"cosine": None}, target_instructions=50_000))
    assert note.endswith("would take rounds of 520 with lookahead 2: 69 %")


def test_fit_to_slots_is_named_as_it_is_without_what_is_set():
    given = {"fit_to_slots": True, "prompts_per_round": 1}
    (note,) = idle_notes(config(dedup={"cosine": None}, bootstrap=given))
    assert note.startswith("rounds of 1 prompts with lookahead 64 can keep 7 % of 1024 slots busy")
    assert "where neither is set, would take rounds of 2048 with lookahead 2: 100 %" in note


def test_openings_that_may_be_used_too_seldom_for_so_many_slots_are_told():
    openings = {"openings": ["Write", "Name"], "prompts_per_opening": 50, "new_instructions": 1}
    (note,) = idle_notes(config(dedup={"cosine": None}, bootstrap=openings))
    assert "a target of 1,000,000 and prompts_per_opening have not enough prompts" in note


def test_an_embedder_that_gpus_would_wait_for_is_told():
    fitted = {"bootstrap": {"fit_to_slots": True}}
    (note,) = idle_notes(config(embedder={"cpus": 1}, **fitted))
    assert note.startswith("1 embedder(s) of 1 cores embed about 150 texts a second, and 8 GPUs")
    assert idle_notes(config(embedder={"cpus": 1, "gpus": 0.25}, **fitted)) == []
    assert idle_notes(config(embedder={"cpus": 1, "replicas": 4}, **fitted)) == []


@pytest.mark.parametrize(
    ("changed", "written"),
    [
        ({}, "465"),
        ({"bootstrap": {"mode": "joint"}}, "125"),
        ({"bootstrap": {"method": "plan"}}, "67"),
    ],
)
def test_candidates_that_cost_more_tokens_are_fewer_for_an_embedder(changed, written):
    bootstrap = {"fit_to_slots": True} | changed.get("bootstrap", {})
    (note,) = idle_notes(config(embedder={"cpus": 0.2}, bootstrap=bootstrap))
    assert f"write about {written} candidates" in note
    assert idle_notes(config(embedder={"cpus": 4}, bootstrap=bootstrap)) == []


def test_nothing_is_said_of_an_embedder_where_the_model_thinks_for_nobody_knows_how_long():
    thinking = {"reasoning": {"expected": True}, "classification": {"method": "prompt"}}
    made = config(embedder={"cpus": 0.2}, bootstrap={"fit_to_slots": True}, **thinking)
    assert idle_notes(made) == []


def test_clusters_that_every_round_would_wait_for_are_told():
    def notes(target):
        made = config(
            bootstrap={"fit_to_slots": True, "demonstration_sampling": "diverse"},
            embedder={"cpus": 1, "replicas": 4},
            target_instructions=target,
        )
        return idle_notes(made)

    assert notes(10**6) == []
    (note,) = notes(10**8)
    assert "at 100,000,000 instructions about 300 s of two cores and 310 GB" in note


@pytest.mark.parametrize("name", ["quickstart", "gpu-64", "gpu-8-70b", "gpu-1"])
def test_nothing_is_to_be_said_of_the_shipped_configurations(name):
    assert idle_notes(load_config(f"configs/{name}.yaml")) == []
