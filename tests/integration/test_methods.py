"""What prompts may ask in other ways: each through a whole build, `verify` and a resumption."""

from __future__ import annotations

import pytest

from ray_si.build.builder import build
from ray_si.config.file import parse_config
from tests.builds import digests
from tests.integration.test_modes import cut_short, findings, rows, small

pytestmark = pytest.mark.usefixtures("without_cluster")

TOPICS = ["tea", "night trains", "tax returns"]
WAYS = {
    "topics": {"topics": TOPICS},
    "plan": {"method": "plan", "topics": TOPICS, "prompts_per_round": 32},
    "evolve": {"method": "evolve", "prompts_per_round": 32},
    "evolve in chat": {"method": "evolve", "prompts_per_round": 32},
    "template in chat": {"method": "template", "topics": TOPICS, "prompts_per_round": 32},
}


@pytest.fixture(scope="module", params=list(WAYS))
def built(request, without_cluster, tmp_path_factory):
    """A finished run, its configuration, and the result of its build."""
    values = small(classification_share=0, **WAYS[request.param])
    if request.param.endswith("in chat"):
        values["generator"]["prompt_style"] = "chat"
    location = tmp_path_factory.mktemp(request.param) / "run"
    return location, parse_config(values), build(parse_config(values), str(location))


def test_a_run_is_verified_and_reaches_its_target(built):
    location, config, result = built
    assert not findings(location)
    assert result.stats["accepted"] == config.target_instructions
    assert result.stats["rows"] == len(rows(location, "data/*.parquet")) > 30


def test_a_run_cut_short_ends_with_the_same_bytes(built, tmp_path):
    location, config, result = built
    copy = cut_short(location, tmp_path / "run")
    assert build(config, str(copy)).stats == result.stats
    assert digests(copy) == digests(location)


@pytest.mark.parametrize("built", ["plan"], indirect=True)
def test_no_plan_becomes_a_row(built):
    location, _, _ = built
    texts = [row["instruction"] for row in rows(location, "bootstrap/round-*/accepted-*")]
    assert not [text for text in texts if "Much has been said" in text or "Instruction:" in text]
    raw = rows(location, "bootstrap/round-*/block-*")
    assert all(row["text"].startswith(" Much has been said") for row in raw)
    refused = {row["reason"] for row in rows(location, "bootstrap/round-*/rejected-*")}
    assert {"unmarked", "unfinished"} <= refused


@pytest.mark.parametrize("built", ["evolve", "evolve in chat"], indirect=True)
def test_rewritten_tasks_name_the_one_that_they_come_from(built):
    location, _, _ = built
    accepted = rows(location, "bootstrap/round-*/accepted-*")
    rounds = {row["id"]: row["round"] for row in accepted}
    assert all(len(row["demonstrations"]) == 1 for row in accepted)
    later = [row for row in accepted if row["round"] > 0]
    assert later
    assert all(rounds[row["demonstrations"][0]] < row["round"] for row in later)


@pytest.mark.parametrize("built", ["template in chat"], indirect=True)
def test_a_users_turn_is_the_whole_instruction_and_shows_nothing(built):
    location, _, _ = built
    texts = {row["request_id"]: row["text"] for row in rows(location, "bootstrap/round-*/block-*")}
    for row in rows(location, "bootstrap/round-*/accepted-*"):
        assert row["instruction"] == texts[row["request_id"]].strip()
        assert row["demonstrations"] == []
