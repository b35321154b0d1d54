"""Other ways to generate and to steer, each through a whole build, `verify` and a resumption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ray_si.audit.regate import regate
from ray_si.audit.verify import verify
from ray_si.build.builder import build
from ray_si.config.file import load_config, parse_config
from ray_si.errors import NoProgressError, RunError
from ray_si.pipeline.decisions import is_plateau
from ray_si.run.run import Run
from ray_si.run.seeds import load_seeds
from ray_si.run.status import status as status_of
from tests.audit.test_verify import rewrite
from tests.builds import digests, replay_values

pytestmark = pytest.mark.usefixtures("without_cluster")

CONFIGS = Path(__file__).parents[2] / "configs"
REPLAY = ("generator.engine=replay", "generator.model=null", "generator.gpus=0")


def findings(location):
    return [finding for check in verify(str(location)) for finding in check.findings]


def rows(location, pattern):
    return [
        row for path in sorted(location.glob(pattern)) for row in pq.read_table(path).to_pylist()
    ]


def cut_short(location, to):
    """A copy of a run as if killed while its second round was generated."""
    shutil.copytree(location, to, ignore=shutil.ignore_patterns("data", "instances", "stats.json"))
    for folder in to.glob("bootstrap/round-*"):
        if int(folder.name[-5:]) > 1:
            shutil.rmtree(folder)
    for path in (to / "bootstrap/round-00001").iterdir():
        if not path.name.startswith("block-00000"):
            path.unlink()
    return to


def small(**bootstrap):
    values = replay_values()
    values["target_instructions"] = 60
    values["bootstrap"] |= {"lookahead": 0} | bootstrap  # so that some rounds see a pool
    return values


@pytest.fixture(scope="module")
def joint(without_cluster, tmp_path_factory):
    location = tmp_path_factory.mktemp("joint") / "run"
    config = parse_config(small(mode="joint"))
    return location, config, build(config, str(location))


def test_a_joint_run_has_the_instances_that_came_with_the_instructions(joint):
    location, _, result = joint
    accepted = {row["id"]: row for row in rows(location, "bootstrap/round-*/accepted-*")}
    written = rows(location, "instances/block-*")
    given = [row for row in written if row["finish_reason"] == "given"]
    assert len(given) > 40
    for row in given:
        source = accepted[row["id"]]
        assert source["instance"] is not None
        assert row["instances"] in ([source["instance"]], [])
        assert row["completion_tokens"] == 0
        assert row["is_classification"] == source["classification_prompt"]
    asked = [row for row in written if row["finish_reason"] != "given"]
    assert asked  # the script forgets some outputs
    assert all(accepted[row["id"]]["instance"] is None for row in asked)
    assert result.stats["rows"] == len(rows(location, "data/*.parquet")) > 40


def test_joint_demonstrations_have_an_output(joint):
    location, _, _ = joint
    accepted = {row["id"]: row for row in rows(location, "bootstrap/round-*/accepted-*")}
    raw = rows(location, "bootstrap/round-*/block-*")
    shown = {name for row in raw for name in row["demonstrations"]} & accepted.keys()
    assert shown
    assert all(accepted[name]["instance"] for name in shown)


def test_a_joint_run_is_verified_and_a_forged_instance_found(joint, tmp_path):
    location, _, _ = joint
    assert not findings(location)
    copy = shutil.copytree(location, tmp_path / "run")

    def forge(table):
        place = next(i for i, row in enumerate(table) if row["instance"])
        table[place]["instance"]["output"] = "forged"
        return table

    key = "bootstrap/round-00000/accepted-00001.parquet"
    rewrite(copy, key, forge)
    assert any(key in found and "instance" in found for found in findings(copy))


def test_a_joint_run_cut_short_ends_with_the_same_bytes(joint, tmp_path):
    location, config, result = joint
    copy = cut_short(location, tmp_path / "run")
    assert build(config, str(copy)).stats == result.stats
    assert digests(copy) == digests(location)


def test_a_joint_run_is_regated_with_the_instances_of_new_instructions(joint, tmp_path):
    location, _, _ = joint
    result = regate(str(location), str(tmp_path / "run"), {"rouge": 0.6}, target=10_000)
    before = {row["id"] for row in rows(location, "bootstrap/round-*/accepted-*")}
    accepted = {row["id"]: row for row in rows(tmp_path / "run", "bootstrap/round-*/accepted-*")}
    new = [r for r in rows(tmp_path / "run", "instances/block-*") if r["id"] not in before]
    assert len(new) == result.accepted - result.kept > 0
    for row in new:
        came_along = accepted[row["id"]]["instance"] is not None
        assert row["finish_reason"] == ("given" if came_along else "not_asked")
    assert sum(row["finish_reason"] == "not_asked" for row in new) == result.not_asked
    assert not findings(tmp_path / "run")


@pytest.fixture(scope="module")
def german(without_cluster, tmp_path_factory):
    location = tmp_path_factory.mktemp("german") / "run"
    sets = [*REPLAY, "target_instructions=40", "dedup.cosine=off", "generator.cpus=0.5"]
    sets += ["bootstrap.prompts_per_round=8", "bootstrap.block_size=4"]
    config = load_config(CONFIGS / "german.yaml", sets)
    return location, config, build(config, str(location))


def test_the_german_example_runs_through_and_keeps_its_prompts(german):
    location, _, result = german
    assert result.stats["accepted"] == 40
    assert result.stats["classification"] > 0
    assert result.stats["rows"] > 30
    stored = json.loads((location / "run.json").read_text())
    own = CONFIGS / "german" / "prompts" / "completion_input_first.txt"
    assert stored["config"]["prompts"]["completion_input_first"] == own.read_text(encoding="utf-8")
    assert not findings(location)


def test_a_run_is_resumed_with_the_same_prompts_only(german):
    location, config, result = german
    same = parse_config(json.loads((location / "run.json").read_text())["config"])
    assert build(same, str(location)).stats == result.stats  # whatever became of the folder
    values = config.model_dump(mode="json")
    values["prompts"]["completion_input_first"] += "\nNoch eine Zeile."
    with pytest.raises(RunError, match=r"different: prompts\.completion_input_first\)"):
        build(parse_config(values), str(location))


def test_classification_only_asks_for_nothing_else_and_shows_earlier_ones(tmp_path):
    values = small(classification_share=1)
    values["classification"] = {"method": "prompt"}
    location = tmp_path / "run"
    build(parse_config(values), str(location))
    raw = rows(location, "bootstrap/round-*/block-*")
    assert all(row["classification_prompt"] for row in raw)
    seeds = {seed.id: seed for seed in load_seeds("bundled")[0]}
    shown = {name for row in raw for name in row["demonstrations"]}
    assert all(seeds[name].is_classification for name in shown & seeds.keys())
    assert shown - seeds.keys()  # machine-written ones too
    written = rows(location, "instances/block-*")
    assert all(row["is_classification"] for row in written)
    assert {row["classification_answer"] for row in written} == {None}
    assert not findings(location)


def test_diverse_demonstrations_are_verified_and_repeat_after_a_crash(tmp_path):
    location = tmp_path / "run"
    values = small(demonstration_sampling="diverse", machine_demonstrations=4)
    values["dedup"] = {"cosine": 0.9}
    config = parse_config(values)
    result = build(config, str(location))
    assert not findings(location)
    copy = cut_short(location, tmp_path / "copy")
    assert build(config, str(copy)).stats == result.stats
    assert digests(copy) == digests(location)

    stored = json.loads((copy / "run.json").read_text())
    uniform = parse_config(values | {"bootstrap": small(machine_demonstrations=4)["bootstrap"]})
    stored |= {"config": uniform.model_dump(mode="json"), "identity": uniform.identity()}
    stored["fingerprint"] = uniform.fingerprint(stored["seeds_sha256"])
    (copy / "run.json").write_text(json.dumps(stored))
    assert all("its seed draws" in finding for finding in findings(copy))
    assert findings(copy)


def test_a_run_begun_under_a_former_default_goes_on_and_verifies_under_it(tmp_path):
    values = small()
    values["dedup"] = {"cosine": None, "tokenizer": "reference"}
    location = tmp_path / "run"
    build(parse_config(values), str(location))
    copy = cut_short(location, tmp_path / "copy")
    del values["dedup"]["tokenizer"]
    build(parse_config(values), str(copy))
    assert digests(copy) == digests(location)
    assert not findings(copy)
    values["dedup"]["tokenizer"] = "auto"
    with pytest.raises(RunError, match=r"different: dedup\.tokenizer"):
        build(parse_config(values), str(copy))


def test_demonstrations_that_the_seed_does_not_draw_are_found(finished, tmp_path):
    copy = shutil.copytree(finished[0], tmp_path / "run")

    def swap(table):
        first, second = table[0]["demonstrations"], table[1]["demonstrations"]
        table[0]["demonstrations"], table[1]["demonstrations"] = second, first
        return table

    rewrite(copy, "bootstrap/round-00002/block-00000.parquet", swap)
    found = [text for text in findings(copy) if "its seed draws" in text]
    assert [text.split()[1] for text in found] == ["r00002-00000", "r00002-00001"]


@pytest.fixture
def plateau(tmp_path):
    """A configuration whose engine soon has little new to say, and the folder for its run."""
    values = small(stall_rounds=2, stall_acceptance=0.6, on_stall="finish")
    values["target_instructions"] = 2000
    return parse_config(values), tmp_path / "run"


def test_a_plateau_ends_phase_1_and_a_resumed_run_ends_there_too(plateau, tmp_path):
    config, location = plateau
    notes = []
    result = build(config, str(location), listen=lambda progress: notes.append(progress.note))
    assert any(note.startswith("plateau: the last 2 rounds") for note in notes)
    assert 0 < result.stats["accepted"] < 2000
    assert result.stats["rows"] > 0
    assert status_of(Run.open(str(location)))["phase"] == "done"
    rounds = Run.open(str(location)).rounds()
    assert is_plateau(rounds, config.bootstrap)
    assert not any(is_plateau(rounds[:n], config.bootstrap) for n in range(len(rounds)))
    assert not findings(location)

    copy = tmp_path / "copy"
    shutil.copytree(location, copy, ignore=shutil.ignore_patterns("data", "instances"))
    (copy / "stats.json").unlink()
    assert build(config, str(copy)).stats == result.stats
    assert digests(copy) == digests(location)
    shorter = cut_short(location, tmp_path / "shorter")
    assert build(config, str(shorter)).stats == result.stats
    assert digests(shorter) == digests(location)


def test_by_default_a_plateau_stops_the_run(plateau):
    config, location = plateau
    stopping = config.bootstrap.model_copy(update={"on_stall": "stop"})
    with pytest.raises(NoProgressError, match="on_stall=finish"):
        build(config.model_copy(update={"bootstrap": stopping}), str(location))


@pytest.fixture(scope="module")
def stepwise(without_cluster, tmp_path_factory):
    location = tmp_path_factory.mktemp("steps") / "run"
    values = small(classification_share=0.0)
    steps = {"method": "steps", "answers": 3, "max_per_instruction": 2, "block_size": 16}
    values |= {"instances": steps, "classification": {"method": "prompt"}}
    values["generator"] |= {"prompt_style": "chat"}
    values["output"] |= {"keep": {"per_instruction": 1}}
    config = parse_config(values)
    return location, config, build(config, str(location))


def test_a_run_in_steps_keeps_every_answer_and_takes_the_likeliest(stepwise):
    location, _, result = stepwise
    written = rows(location, "instances/block-*")
    taken = rows(location, "data/*.parquet")
    by_id = {row["id"]: row for row in written}
    assert result.stats["rows"] == len(taken) > 40
    left_out = sum(len(row["instances"]) for row in written) - len(taken)
    assert result.stats["left_out"] == {"per_instruction": left_out}
    assert left_out > 10
    for row in taken:
        answers = by_id[row["instruction_id"]]["answers"]
        (place,) = {a["place"] for a in answers if a["is_chosen"] and a["output"] == row["output"]}
        passing = [a for a in answers if a["place"] == place and a["rejected_for"] is None]
        best = max(passing, key=lambda answer: answer["mean_logprob"])
        assert (row["answer"], row["output_logprob"]) == (best["answer"], best["mean_logprob"])
        assert row["output"] == best["output"]
    spent = sum(
        a["completion_tokens"] for row in written for a in (*row["inputs"], *row["answers"])
    )
    assert result.stats["instance_tokens"] == spent
    said = result.stats["instances_rejected"]
    assert said["not_chosen"] > result.stats["rows"]
    assert not findings(location)


def test_a_run_in_steps_cut_short_ends_with_the_same_bytes_and_a_forged_answer_is_found(
    stepwise, tmp_path
):
    location, config, _ = stepwise
    copy = cut_short(location, tmp_path / "run")
    build(config, str(copy))
    assert digests(copy) == digests(location)

    def forge(table):
        next(a for row in table for a in row["answers"] if a["is_chosen"])["is_chosen"] = False
        return table

    key = "instances/block-00000.parquet"
    rewrite(copy, key, forge)
    assert any(key in found and "instances" in found for found in findings(copy))


def test_a_run_in_steps_is_regated_with_its_answers(stepwise, tmp_path):
    location, _, _ = stepwise
    regate(str(location), str(tmp_path / "same"), {})
    assert digests(tmp_path / "same") == digests(location)
    regate(str(location), str(tmp_path / "fewer"), {"rouge": 0.4})
    assert not findings(tmp_path / "fewer")
