"""Whole builds: every candidate accounted for, and the same bytes however often one is resumed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_si.build import checks
from ray_si.build.builder import build, check
from ray_si.build.gate import _check_embedder, open_gate
from ray_si.build.instances import InstancePhase
from ray_si.config.file import parse_config
from ray_si.dedup.layers import LayeredPool
from ray_si.dedup.rouge import rouge_l
from ray_si.errors import BudgetError, ConfigError, EngineError, NoProgressError, RunError
from ray_si.pipeline.embeddings import stored_inputs
from ray_si.run.checkpoint import CommittedRounds
from ray_si.run.run import Run
from ray_si.run.seeds import load_seeds
from ray_si.run.status import status as status_of
from tests.builds import TARGET, digests
from tests.loopback import LoopbackServing, hashed
from tests.report.made import made_run

pytestmark = pytest.mark.usefixtures("without_cluster")


def _accepted(location: Path) -> list[dict]:
    return [row for table in Run.open(str(location)).accepted() for row in table.to_pylist()]


def test_a_build_reaches_its_target_exactly(finished):
    location, result = finished
    assert result.stats["accepted"] == len(_accepted(location)) == TARGET
    status = status_of(Run.open(str(location)))
    assert (status["phase"], status["target"], status["accepted"]) == ("done", TARGET, TARGET)
    assert status["rows"] == status["instances"] == result.stats["rows"] > TARGET


@pytest.mark.parametrize(
    ("bootstrap", "match"),
    [
        ({"classification_share": 0.1}, "0.1 of a round of 4 is no prompt; set prompts_per_round"),
        ({"lookahead": 100}, "lookahead: each of 100 rounds ahead takes a thread"),
        ({"max_demonstration_words": 4}, "max_demonstration_words: 1 of 224 seed tasks"),
    ],
)
def test_prompts_with_which_no_run_begins_are_those_of_one_that_goes_on(tmp_path, bootstrap, match):
    run = made_run(tmp_path / "begun", **bootstrap)
    config = parse_config(run.header["config"])
    assert build(config, str(tmp_path / "begun")).stats["accepted"] == 60
    for begin in (check, lambda config: build(config, str(tmp_path / "new"))):
        with pytest.raises(ConfigError, match=match):
            begin(config)
    assert not (tmp_path / "new" / "run.json").exists()


def test_every_candidate_is_accounted_for(finished):
    location, result = finished
    stats = result.stats
    assert stats["candidates"] == stats["accepted"] + sum(stats["rejected"].values())
    rows = [
        row
        for path in location.glob("bootstrap/round-*/rejected-*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    assert len(rows) == sum(stats["rejected"].values())
    for row in rows:
        assert row["reason"]
        if row["reason"] == "rouge":
            assert rouge_l(row["text"], row["match"]) == pytest.approx(row["score"])
            assert row["score"] > 0.7


def test_no_two_accepted_instructions_are_too_close(finished):
    location, _ = finished
    pool = [seed.instruction for seed in load_seeds("bundled")[0]]
    for row in _accepted(location):
        scores = [rouge_l(row["instruction"], other) for other in pool]
        assert max(scores) <= 0.7
        near = row["most_similar"]
        assert [item["rouge"] for item in near] == sorted(scores, reverse=True)[:3]
        assert near[0]["instruction"] == pool[scores.index(max(scores))]
        assert row["mean_rouge"] == pytest.approx(sum(scores) / len(scores), abs=1e-12)
        pool.append(row["instruction"])


def test_rows_explain_themselves(finished):
    location, _ = finished
    seeds = {seed.id for seed in load_seeds("bundled")[0]}
    rounds = {row["id"]: row["round"] for row in _accepted(location)}
    rows = [json.loads(line) for p in location.glob("data/*.jsonl") for line in p.open()]
    assert len({row["id"] for row in rows}) == len(rows)
    machine = 0
    for row in rows:
        assert row["instruction_id"] in rounds
        assert row["model"] == "replay"
        assert len(row["demonstrations"]) == 8
        for source in row["demonstrations"]:
            if source not in seeds:
                machine += 1
                assert rounds[source] < row["round"] - 1  # lookahead 1
    assert machine > 0


def test_shards_hold_the_same_rows_in_both_formats(finished):
    location, result = finished
    parquet = [
        row for p in sorted(location.glob("data/*.parquet")) for row in pq.read_table(p).to_pylist()
    ]
    lines = [json.loads(line) for p in sorted(location.glob("data/*.jsonl")) for line in p.open()]
    assert parquet == lines
    assert len(lines) == result.stats["rows"]
    sizes = [pq.read_metadata(p).num_rows for p in sorted(location.glob("data/*.parquet"))]
    assert set(sizes[:-1]) == {40}
    for shard in result.stats["shards"]:
        data = (location / shard["key"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]


def test_classification_instances_have_their_label_as_output(finished):
    location, result = finished
    assert result.stats["classification"] >= 5
    rows = [json.loads(line) for p in location.glob("data/*.jsonl") for line in p.open()]
    labelled = [row for row in rows if row["is_classification"]]
    assert labelled
    assert all(row["input"] for row in labelled)


def test_a_second_build_changes_nothing(finished):
    location, result = finished
    before = digests(location, "**/*.*")
    config = parse_config(json.loads((location / "run.json").read_text())["config"])
    assert build(config, str(location)).stats == result.stats
    assert digests(location, "**/*.*") == before


def test_a_run_of_which_the_export_is_missing_is_finished_where_its_model_is_not(
    finished, tmp_path, monkeypatch
):
    def check_engine(*_):
        raise EngineError("there is no model folder")

    monkeypatch.setattr("ray_si.engines.registry.check", check_engine)
    location, result = finished
    config = parse_config(json.loads((location / "run.json").read_text())["config"])
    copy = tmp_path / "run"
    shutil.copytree(location, copy, ignore=shutil.ignore_patterns("data", "stats.json"))
    for _ in range(2):  # to its end, and again
        assert build(config, str(copy)).stats == result.stats
    assert digests(copy) == digests(location)
    for name in ("stats.json", "instances/manifest.json", "instances/block-00002.parquet"):
        (copy / name).unlink()
    with pytest.raises(EngineError, match="no model folder"):
        build(config, str(copy))


@pytest.mark.parametrize(
    "lost",
    [
        ["stats.json", "data", "README.md"],
        ["stats.json", "data", "instances/manifest.json", "instances/block-00002.parquet"],
        ["stats.json", "data", "instances", "bootstrap/round-00001/manifest.json"],
        [
            "stats.json",
            "data",
            "instances",
            "bootstrap/round-00001",
            "bootstrap/round-00000/manifest.json",
            "bootstrap/round-00000/block-00001.parquet",
        ],
    ],
    ids=["export", "instances", "gate", "bootstrap"],
)
def test_a_run_cut_short_anywhere_ends_with_the_same_bytes(finished, tmp_path, lost):
    location, result = finished
    copy = tmp_path / "run"
    shutil.copytree(location, copy)
    for name in lost:
        target = copy / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    if "instances" in lost:  # rounds after a lost one cannot exist
        first = min(int(name.split("-")[1][:5]) for name in lost if "round-" in name)
        for folder in copy.glob("bootstrap/round-*"):
            if int(folder.name[-5:]) > first:
                shutil.rmtree(folder)
    config = parse_config(json.loads((copy / "run.json").read_text())["config"])
    assert build(config, str(copy)).stats == result.stats
    for pattern in ("data/*", "README.md", "report.html"):
        assert digests(copy, pattern) == digests(location, pattern)


def test_requests_that_failed_are_asked_again_on_resume(finished, tmp_path):
    location, result = finished
    copy = tmp_path / "run"
    shutil.copytree(location, copy)
    shutil.rmtree(copy / "data")
    last = sorted(copy.glob("bootstrap/round-*"))[-1]
    for name in ("stats.json", "instances/manifest.json", f"bootstrap/{last.name}/manifest.json"):
        (copy / name).unlink()
    for path in (last / "block-00000.parquet", copy / "instances/block-00001.parquet"):
        rows = pq.read_table(path).to_pylist()
        rows[1] |= {"finish_reason": "error", "error": "ActorDiedError", "text": ""}
        pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    config = parse_config(json.loads((copy / "run.json").read_text())["config"])
    assert build(config, str(copy)).stats == result.stats
    assert digests(copy) == digests(location)


def test_a_run_of_another_configuration_is_refused_and_untouched(finished, replay_config):
    location, _ = finished
    before = digests(location, "**/*.*")
    replay_config["dedup"]["rouge"] = 0.5
    with pytest.raises(RunError, match=r"different: dedup\.rouge"):
        build(parse_config(replay_config), str(location))
    assert digests(location, "**/*.*") == before


def with_first_round(finished, tmp_path, *without):
    """A copy of a run that has its first round, but for these patterns; its configuration."""
    (location, _), copy = finished, tmp_path / "run"
    copy.mkdir()
    for name in ("run.json", "seeds.parquet"):
        shutil.copy(location / name, copy)
    first = "bootstrap/round-00000"
    shutil.copytree(location / first, copy / first, ignore=shutil.ignore_patterns(*without))
    return copy, parse_config(json.loads((copy / "run.json").read_text())["config"])


def test_finish_goes_on_with_what_is_accepted(finished, tmp_path):
    copy, config = with_first_round(finished, tmp_path)
    stats = build(config, str(copy), finish=True).stats
    assert 0 < stats["accepted"] < TARGET
    assert status_of(Run.open(str(copy)))["phase"] == "done"


def test_there_is_no_finish_without_anything_accepted(finished, tmp_path):
    copy, config = with_first_round(finished, tmp_path, "m*", "[ar]*-*")
    before = digests(copy, "**/*.parquet")
    for place in (copy, tmp_path / "new"):
        with pytest.raises(NoProgressError, match=r"no instruction is accepted.* without --finish"):
            build(config, str(place), finish=True)
    assert "block-00000.parquet" in before
    assert digests(copy, "**/*.parquet") == before
    assert not (tmp_path / "new").exists()


def test_after_an_interrupted_finish_the_whole_run_can_still_be_built(finished, tmp_path):
    location, result = finished
    copy = tmp_path / "run"
    shutil.copytree(location, copy, ignore=shutil.ignore_patterns("round-0000[1-9]", "data"))
    config = parse_config(json.loads((copy / "run.json").read_text())["config"])
    for name in ("stats.json", "instances/manifest.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "instances")
    build(config, str(copy), finish=True)
    shutil.rmtree(copy / "data")
    for name in ("stats.json", "instances/manifest.json"):  # as if interrupted before these
        (copy / name).unlink()
    assert build(config, str(copy)).stats == result.stats
    assert digests(copy) == digests(location)


def test_waiting_for_nodes_ends_with_the_hours_and_the_next_build_has_all_of_them(
    finished, tmp_path, replay_config, monkeypatch
):
    copy = tmp_path / "run"
    shutil.copytree(finished[0], copy)
    for name in ("stats.json", "instances/manifest.json", "instances/block-00002.parquet"):
        (copy / name).unlink()
    (copy / "live.json").write_text('{"building_s": 3599.8, "deaths": 1}')

    def wait_for_room(config, *, check, **_):
        for _ in range(100):
            check()
            time.sleep(0.05)
        return config

    monkeypatch.setattr(checks, "wait_for_room", wait_for_room)
    with pytest.raises(BudgetError, match=r"stopped after 1 hours, as budget\.hours has it"):
        build(parse_config(replay_config | {"budget": {"hours": 1}}), str(copy))
    assert json.loads((copy / "live.json").read_bytes()) == {"deaths": 1}


def test_a_foreign_folder_is_refused_and_untouched(tmp_path, replay_config):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="not empty and not a run"):
        build(parse_config(replay_config), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_instances_are_begun_before_the_last_round_is_committed(
    tmp_path, replay_config, monkeypatch
):
    replay_config["bootstrap"]["lookahead"] = 0
    now, begun, begin = [], [], InstancePhase.begin

    def noted(instances):
        known = instances._known
        begin(instances)
        if instances._known > known:
            begun.append(now[-1].done)

    def accepted_when_begun(name, **changed):
        """Of the build: how much was accepted at each beginning."""
        begun.clear()
        build(parse_config(replay_config | changed), str(tmp_path / name), listen=now.append)
        return begun.copy()

    monkeypatch.setattr(InstancePhase, "begin", noted)
    on_a_budget = accepted_when_begun("on_a_budget", budget={"tokens": 10**9})
    rounds = [manifest["accepted"] for manifest in Run.open(str(tmp_path / "on_a_budget")).rounds()]
    assert len(rounds) > 2
    assert on_a_budget == accepted_when_begun("shared") == [TARGET - rounds[-1]]
    own = {"instance_generator": replay_config["generator"] | {"replicas": 1}}
    assert accepted_when_begun("own", **own)[0] == rounds[0]
    expected = digests(tmp_path / "on_a_budget")
    assert digests(tmp_path / "shared") == digests(tmp_path / "own") == expected


def test_what_a_run_spent_is_counted_from_what_it_stores(finished):
    location, result = finished
    found = status_of(Run.open(str(location)))["spent"]
    raw = [pq.read_table(p) for p in location.glob("bootstrap/round-*/block-*.parquet")]
    rows = [row for table in raw for row in table.to_pylist()]
    for p in location.glob("instances/block-*.parquet"):
        for row in pq.read_table(p).to_pylist():
            rows.append(row)
            asked = {k: row[f"classification_{k}"] for k in ("prompt_tokens", "completion_tokens")}
            rows.append(asked)
    for name in ("prompt_tokens", "completion_tokens"):
        assert found[name] == sum(row[name] for row in rows) > 0
    total = found["prompt_tokens"] + found["completion_tokens"]
    assert found["tokens_per_accepted"] == round(total / result.stats["accepted"], 1)
    assert "dollars" not in found


def test_the_gate_of_a_resume_holds_few_rounds_apart_while_it_reads_them(
    finished, replay_config, monkeypatch
):
    config, run = parse_config(replay_config), Run.open(str(finished[0]))
    rounds, (seeds, _), most = CommittedRounds.read(run), load_seeds("bundled"), 0
    begin = LayeredPool.begin

    def counted(pool):
        nonlocal most
        begin(pool)
        most = max(most, len(pool._layers))

    monkeypatch.setattr(LayeredPool, "begin", counted)
    with open_gate(config, run, rounds, seeds, hashed) as gate:
        assert len(gate) == len(seeds) + rounds.accepted
    assert 0 < most <= config.bootstrap.lookahead + 1 < len(rounds.manifests)


def test_a_seed_whose_embedding_is_zero_keeps_nobody_from_going_on(
    finished_with_cosine, replay_config
):
    location, _ = finished_with_cosine
    config = parse_config(replay_config | {"dedup": {"cosine": 0.6, "most_similar": 3}})
    run, (seeds, _) = Run.open(str(location)), load_seeds("bundled")
    asked = []

    def encode(texts):
        asked.extend(texts)
        return stored.seeds[1:2]

    stored = stored_inputs(run, seeds, [])
    zero_first = stored.seeds.copy()
    zero_first[0] = 0.0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "ray_si.build.gate.stored_inputs", lambda *_: stored._replace(seeds=zero_first)
        )
        with open_gate(config, run, CommittedRounds.read(run), seeds, encode):
            assert asked == [seeds[1].instruction]


def test_an_embedder_that_is_another_of_the_same_width_is_refused(replay_config):
    config, stored = parse_config(replay_config), hashed(["Name a river."])
    _check_embedder(config, stored + np.float32(0.01), stored.astype(np.float16))
    with pytest.raises(EngineError, match=r"is another than that of the run so far .* cosine of"):
        _check_embedder(config, hashed(["Name a lake."]), stored)
    with pytest.raises(EngineError, match=r"gives 8 numbers for a text, .* have 16"):
        _check_embedder(config, stored[:, :8], stored)


def test_embedders_are_let_go_between_the_phases(tmp_path, replay_config, monkeypatch):
    told = []
    monkeypatch.setattr(LoopbackServing, "release_embedder", lambda self: told.append("released"))
    listen = lambda progress: told.append(progress.phase)  # noqa: E731
    build(parse_config(replay_config), str(tmp_path / "run"), listen=listen)
    released = told.index("released")
    assert "bootstrap" in told[:released]
    assert "bootstrap" not in told[released:]
    assert "instances" in told[released:]
