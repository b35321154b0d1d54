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
    assert note.endswith("would take rounds of 2048 with lookahead 2")
    assert idle_notes(config(dedup={"cosine": None}, bootstrap={"fit_to_slots": True})) == []


def test_an_embedder_that_gpus_would_wait_for_is_told():
    fitted = {"bootstrap": {"fit_to_slots": True}}
    (note,) = idle_notes(config(embedder={"cpus": 1}, **fitted))
    assert note.startswith("1 embedder(s) of 1 cores embed about 150 texts a second, and 8 GPUs")
    assert idle_notes(config(embedder={"cpus": 1, "gpus": 0.25}, **fitted)) == []
    assert idle_notes(config(embedder={"cpus": 1, "replicas": 4}, **fitted)) == []


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
