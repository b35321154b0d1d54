"""Builds that go on until enough rows hold a condition: where they end, resumed or not."""

from __future__ import annotations

import json
import shutil
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.errors import BudgetError, ConfigError
from ray_si.run.run import Run, seal
from ray_si.scores.during import Passing
from tests.builds import digests
from tests.integration.test_modes import cut_short, findings, rows, small

pytestmark = pytest.mark.usefixtures("without_cluster")

WANTED = 90


def values(lookahead=0, *, target=100_000, wanted=WANTED, **more):
    made = small(lookahead=lookahead, on_stall="stop") | {"target_instructions": target}
    made["instances"] = {"block_size": 8, "method": "steps", "max_per_instruction": 1}
    during = {"by": "checks and length < 15 and logprob > -2", "rows": wanted}
    return made | {"select": {"during": during}} | more


def held(location, config, instructions):
    """Rows of the first instructions that hold the condition."""
    count = Passing.of(config).count
    blocks = map(pq.read_table, sorted(location.glob("instances/block-*")))
    return sum(count(block) for block in islice(blocks, instructions // 8))


@pytest.fixture(scope="module", params=[0, 1], ids=["no lookahead", "lookahead"])
def built(request, without_cluster, tmp_path_factory):
    location = tmp_path_factory.mktemp("during") / "run"
    config = parse_config(values(request.param))
    return location, config, build(config, str(location))


def test_phase_1_ends_with_the_first_round_that_brings_enough(built):
    location, config, result = built
    assert not findings(location)
    assert result.stats["accepted"] < config.target_instructions
    sizes = [manifest["accepted"] for manifest in Run.open(str(location)).rounds()]
    back = config.bootstrap.lookahead
    assert len(sizes) > back + 1
    assert held(location, config, sum(sizes[: len(sizes) - back])) >= WANTED
    assert held(location, config, sum(sizes[: len(sizes) - back - 1])) < WANTED
    assert len(rows(location, "data/*.parquet")) > WANTED  # those that do not hold it stay


def test_a_run_cut_short_anywhere_ends_with_the_same_bytes(built, tmp_path):
    location, config, result = built
    early = cut_short(location, tmp_path / "early")
    late = shutil.copytree(location, tmp_path / "late", ignore=shutil.ignore_patterns("data"))
    for name in ("stats.json", "instances/manifest.json", "instances/block-00001.parquet"):
        (late / name).unlink()
    for copy in (early, late):
        assert build(config, str(copy)).stats == result.stats
        assert digests(copy) == digests(location)


def test_a_resume_counts_no_block_again_that_its_rounds_went_by(built, tmp_path, monkeypatch):
    location, config, _ = built
    *_, before, last = [manifest["passed"] for manifest in Run.open(str(location)).rounds()]
    copy = shutil.copytree(location, tmp_path / "run", ignore=shutil.ignore_patterns("data"))
    for name in ("stats.json", "instances/manifest.json"):
        (copy / name).unlink()
    rounds = len(list(copy.glob("bootstrap/round-*/manifest.json")))
    (copy / f"bootstrap/round-{rounds - 1:05d}/manifest.json").unlink()
    counted = []
    count = Passing.count

    def counting(self, block):
        counted.append(block["block"][0].as_py())
        return count(self, block)

    monkeypatch.setattr(Passing, "count", counting)
    build(config, str(copy))
    assert digests(copy) == digests(location)
    assert 0 < before["blocks"] < last["blocks"]
    assert min(counted) == before["blocks"]


@pytest.mark.parametrize(
    ("change", "told"),
    [({"rows": 1}, "that hold select.during: {}, found"), ({"blocks": 1000}, "where it might by")],
    ids=["rows", "blocks"],
)
def test_verify_holds_the_counts_of_rounds_against_the_blocks(built, tmp_path, change, told):
    location, _, _ = built
    copy = shutil.copytree(location, tmp_path / "run")
    path = max(copy.glob("bootstrap/round-*/manifest.json"))
    manifest = json.loads(path.read_text())
    manifest["passed"] |= {name: manifest["passed"][name] + more for name, more in change.items()}
    path.write_text(json.dumps(seal(manifest)))
    (finding,) = findings(copy)
    assert f"{path.parent.name}/manifest.json" in finding
    assert told.format(manifest["passed"]["rows"]) in finding


def test_verify_counts_no_rows_of_a_block_in_which_something_is_wrong(built, tmp_path):
    copy = shutil.copytree(built[0], tmp_path / "run", ignore=shutil.ignore_patterns("data"))
    for path in (copy / "stats.json", copy / "instances/manifest.json"):
        path.unlink()  # which would say that this is another block
    path = min(copy.glob("instances/block-*"))
    table = pq.read_table(path)
    changed = [row | {"instances": 2 * row["instances"]} for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(changed, table.schema), path)
    found = findings(copy)
    assert found
    assert all("has other instances than its completion gives" in finding for finding in found)


def test_a_run_that_has_enough_does_not_go_back_to_phase_1(built, tmp_path):
    location, config, _ = built
    copy = shutil.copytree(location, tmp_path / "run", ignore=shutil.ignore_patterns("data"))
    for name in ("stats.json", "instances/manifest.json"):
        (copy / name).unlink()
    last = max(copy.glob("instances/block-*"))
    if config.bootstrap.lookahead:
        last.unlink()  # none that it goes by
    phases = set()
    build(config, str(copy), listen=lambda progress: phases.add(progress.phase))
    assert phases == {"start", "instances", "export"}
    assert digests(copy) == digests(location)


def test_the_target_still_bounds_a_run_that_never_has_enough(tmp_path):
    config = parse_config(values(target=30, wanted=1000))
    assert build(config, str(tmp_path / "run")).stats["accepted"] == 30


def test_the_budget_still_bounds_it_and_more_goes_on(tmp_path, built):
    location, config, _ = built
    lookahead = config.bootstrap.lookahead
    short = parse_config(values(lookahead, budget={"tokens": 9_000}))
    with pytest.raises(BudgetError, match="are kept"):
        build(short, str(tmp_path / "run"))
    build(config, str(tmp_path / "run"))
    assert digests(tmp_path / "run") == digests(location)


def test_a_condition_that_makes_no_sense_is_refused_before_anything_is_written(tmp_path):
    wrong = values()
    wrong["select"] = {"during": {"by": "cheks", "rows": 3}}
    with pytest.raises(ConfigError, match=r"did you mean checks\?"):
        build(parse_config(wrong), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
