"""`regate` decides as a build with other thresholds would have on the same candidates."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest

from ray_si.audit.finished_run import FinishedRun
from ray_si.audit.regate import regate
from ray_si.audit.verify import verify
from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.dedup import Deduplicator
from ray_si.engines import registry
from ray_si.errors import ConfigError, RunError
from ray_si.pipeline.decisions import all_candidates, candidates_of, passed
from ray_si.pipeline.embeddings import compact
from ray_si.run.run import Run, seal
from ray_si.run.seeds import load_seeds
from tests.builds import TARGET, digests
from tests.run.finished import finished_run

OFF = {"cosine": None}


def findings(location):
    return [finding for check in verify(str(location)) for finding in check.findings]


def accepted(location):
    return [row for table in Run.open(str(location)).accepted() for row in table.to_pylist()]


def rejected(location):
    return [
        row
        for path in sorted(location.glob("bootstrap/round-*/rejected-*"))
        for row in pq.read_table(path).to_pylist()
    ]


def training(location):
    return [
        row for p in sorted(location.glob("data/*.parquet")) for row in pq.read_table(p).to_pylist()
    ]


@pytest.mark.parametrize("fixture", ["finished", "finished_with_cosine"])
def test_the_same_thresholds_give_the_same_bytes(request, tmp_path, fixture):
    location, _ = request.getfixturevalue(fixture)
    result = regate(str(location), str(tmp_path / "run"), {})
    assert (result.accepted, result.not_asked, result.dropped) == (TARGET, 0, 0)
    files = [p.relative_to(location) for p in location.rglob("*") if p.is_file()]
    for name in files:
        # those say who wrote the run, and when
        if name.name not in ("run.json", "manifest.json") and name.parent.name != "lease":
            assert (tmp_path / "run" / name).read_bytes() == (location / name).read_bytes(), name
    assert not findings(tmp_path / "run")


@pytest.mark.parametrize("rouge", [0.5, 0.8])
def test_decisions_are_those_of_the_gate_on_the_stored_candidates(finished, tmp_path, rouge):
    location, _ = finished
    run, target = tmp_path / "run", 10_000
    result = regate(str(location), str(run), {"rouge": rouge}, target=target)
    gate = Deduplicator(rouge, None)
    gate.add([seed.instruction for seed in load_seeds("bundled")[0]])
    config = parse_config(Run.open(str(location)).header["config"])
    texts = [
        item.text
        for path in sorted(location.glob("bootstrap/round-*/block-*"))
        for row in pq.read_table(path).to_pylist()
        for item in candidates_of(row, config)
        if item.reason is None
    ]
    expected = [texts[i] for i in gate.filter(texts).accepted]
    assert [row["instruction"] for row in accepted(run)] == expected
    assert result.accepted == len(expected) != TARGET
    assert not findings(run)


def test_instances_stay_with_their_instructions_and_new_ones_have_no_rows(finished, tmp_path):
    location, _ = finished
    run = tmp_path / "run"
    result = regate(str(location), str(run), {"rouge": 0.5}, target=10_000)
    assert result.not_asked > 0
    assert result.dropped > 0
    before = {row["id"]: row for row in training(location)}
    rows = training(run)
    for row in rows:
        same = ("instruction", "input", "output", "is_classification", "instance_seed")
        assert [row[name] for name in same] == [before[row["id"]][name] for name in same]
    old = {row["id"] for row in accepted(location)}
    kept = {row["id"] for row in accepted(run)} & old
    assert {row["instruction_id"] for row in rows} == {
        row["instruction_id"] for row in before.values() if row["instruction_id"] in kept
    }
    assert result.stats["instances_rejected"]["not_asked"] == result.not_asked
    assert result.stats["rows"] == len(rows)


def test_a_smaller_target_drops_what_comes_after_it(finished, tmp_path):
    location, _ = finished
    result = regate(str(location), str(tmp_path / "run"), {}, target=10)
    assert result.rounds < rounds(location)
    assert (result.accepted, result.kept, result.dropped) == (10, 10, TARGET - 10)


def test_a_run_says_what_it_was_regated_from(finished, tmp_path):
    location, _ = finished
    regate(str(location), str(tmp_path / "run"), {"rouge": 0.6})
    header = Run.open(str(tmp_path / "run")).header
    source = Run.open(str(location)).header
    assert header["regated_from"]["fingerprint"] == source["fingerprint"] != header["fingerprint"]
    assert header["regated_from"]["dedup"]["rouge"] == 0.7
    assert header["config"]["dedup"]["rouge"] == 0.6


def test_a_run_can_be_regated_twice(finished, tmp_path):
    location, _ = finished
    regate(str(location), str(tmp_path / "loose"), {"rouge": 0.8}, target=10_000)
    regate(str(tmp_path / "loose"), str(tmp_path / "back"), {"rouge": 0.7}, target=TARGET)
    assert digests(tmp_path / "back") == digests(location)
    assert not findings(tmp_path / "back")


@pytest.mark.parametrize("change", [{"rouge": 0.5}, {"rouge": 0.8} | OFF])
def test_a_build_goes_on_with_a_run_that_was_left_open(request, without_cluster, tmp_path, change):
    fixture = "finished_with_cosine" if "cosine" in change else "finished"
    location, _ = request.getfixturevalue(fixture)
    run = tmp_path / "run"
    result = regate(str(location), str(run), change, open_=True)
    assert result.stats is None
    assert result.not_asked > 0
    assert not findings(run)
    first = accepted(run)
    values = Run.open(str(location)).header["config"]
    config = parse_config(values | {"dedup": values["dedup"] | change})
    stats = build(config, str(run)).stats
    assert stats["accepted"] == TARGET
    assert "not_asked" not in stats["instances_rejected"]
    assert accepted(run)[: len(first)] == first
    assert not findings(run)


@pytest.fixture(scope="session")
def embedded(finished_with_cosine):
    """The candidates that came to a gate, in order, and what the model says of them and the seeds.

    Encoded anew, all at once.
    """
    location, _ = finished_with_cosine
    config = parse_config(Run.open(str(location)).header["config"])
    texts = [
        usable.candidate.text
        for rows in map(FinishedRun(Run.open(str(location))).raw, range(rounds(location)))
        for usable in passed(all_candidates(config, rows))
    ]
    encode = registry.embedder(config.embedder.model).encode
    seeds = [seed.instruction for seed in load_seeds("bundled")[0]]
    return seeds, compact(encode(seeds)), texts, compact(encode(texts))


def rounds(location):
    return len(Run.open(str(location)).rounds())


@pytest.mark.parametrize(
    ("rouge", "cosine"), [(0.7, 0.5), (0.7, 0.8), (0.5, 0.6), (0.9, 0.7), (0.7, None)]
)
def test_other_thresholds_decide_as_a_gate_that_asks_the_model(
    finished_with_cosine, embedded, tmp_path, rouge, cosine
):
    location, _ = finished_with_cosine
    run = tmp_path / "run"
    result = regate(str(location), str(run), {"rouge": rouge, "cosine": cosine}, target=10_000)
    seeds, of_seeds, texts, of_texts = embedded
    gate = Deduplicator(rouge, cosine)
    gate.add(seeds, of_seeds)
    expected = gate.filter(texts, of_texts)
    assert [row["instruction"] for row in accepted(run)] == [texts[i] for i in expected.accepted]
    refused = [row for row in rejected(run) if row["reason"] in ("rouge", "cosine")]
    assert [(row["text"], row["reason"], row["match"]) for row in refused] == [
        (texts[d.index], d.reason, d.match) for d in expected.rejected
    ]
    scores = [d.score for d in expected.rejected]
    assert [row["score"] for row in refused] == pytest.approx(scores, abs=1e-4)
    assert result.accepted == len(expected.accepted)
    assert not findings(run)


def test_a_gate_that_was_taken_out_can_be_put_back(finished_with_cosine, tmp_path):
    location, _ = finished_with_cosine
    regate(str(location), str(tmp_path / "off"), OFF, target=10_000)
    regate(str(tmp_path / "off"), str(tmp_path / "back"), {"cosine": 0.6}, target=TARGET)
    assert digests(tmp_path / "back") == digests(location)
    assert not findings(tmp_path / "back")


def test_a_run_without_embeddings_takes_no_cosine_gate(finished, tmp_path):
    location, _ = finished
    with pytest.raises(RunError, match=r"has no embeddings of all .*: use --cosine off"):
        regate(str(location), str(tmp_path / "run"), {"cosine": 0.9})
    assert not (tmp_path / "run").exists()


def test_a_run_of_an_earlier_version_is_verified_as_far_as_it_goes_and_regated_without_cosines(
    finished_with_cosine, tmp_path
):
    shutil.copytree(finished_with_cosine[0], tmp_path / "early")
    for manifest in tmp_path.glob("early/bootstrap/round-*/manifest.json"):
        values = json.loads(manifest.read_text())
        of_later_ones = [
            item["key"] for item in values["objects"]
            if item["key"].rpartition("/")[2].startswith(("embeddings-", "inputs-"))
        ]  # fmt: skip
        assert of_later_ones
        for key in of_later_ones:
            (tmp_path / "early" / key).unlink()
        values["objects"] = [i for i in values["objects"] if i["key"] not in of_later_ones]
        manifest.write_text(json.dumps(seal(values), indent=2))
    checks = {check.name: check for check in verify(str(tmp_path / "early"))}
    assert all(check.ok for check in checks.values())
    assert "are not stored" in checks["cosine gate"].notes[0]
    with pytest.raises(RunError, match="begun by an earlier version: use --cosine off"):
        regate(str(tmp_path / "early"), str(tmp_path / "run"), {"cosine": 0.7})
    assert regate(str(tmp_path / "early"), str(tmp_path / "run"), OFF).not_asked
    assert not findings(tmp_path / "run")


def test_regating_into_the_run_itself_is_refused(tmp_path):
    run = finished_run(tmp_path / "run")
    before = list(run.objects.list())
    with pytest.raises(RunError, match="lies inside a run"):
        regate(run.location, f"{run.location}/data/train-other", OFF)
    assert list(run.objects.list()) == before


def test_what_cannot_be_regated_is_refused_and_nothing_written(finished, tmp_path):
    location, _ = finished
    before = digests(location, "**/*.*")
    for to in (location, tmp_path / "used"):
        (tmp_path / "used").mkdir(exist_ok=True)
        (tmp_path / "used/thesis.txt").write_text("precious")
        with pytest.raises(RunError):
            regate(str(location), str(to), {})
    with pytest.raises(ConfigError, match=r"dedup\.rouge"):
        regate(str(location), str(tmp_path / "run"), {"rouge": 7})
    copy = tmp_path / "copy"
    shutil.copytree(location, copy)
    (copy / "bootstrap/round-00001/accepted-00001.parquet").write_bytes(b"x")
    with pytest.raises(RunError, match=r"damaged \(bootstrap/round-00001/accepted-00001\.parquet"):
        regate(str(copy), str(tmp_path / "run"), {})
    header = json.loads((copy / "run.json").read_text())
    del header["reading"]  # as in runs of the first rules
    (copy / "run.json").write_text(json.dumps(header))
    with pytest.raises(RunError, match=r"earlier rules of reading answers \(1, now"):
        regate(str(copy), str(tmp_path / "run"), {})
    (copy / "stats.json").unlink()
    with pytest.raises(RunError, match="is not finished"):
        regate(str(copy), str(tmp_path / "run"), {})
    assert not (tmp_path / "run").exists()
    assert digests(location, "**/*.*") == before
