"""A report on any run: empty, unfinished, damaged in every part; and no report on what is none."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_si.errors import RunError, StorageError
from ray_si.report.contents import RunContents
from ray_si.report.files import write_report
from ray_si.report.page import render
from ray_si.report.statistics import collect
from ray_si.run.run import Run
from ray_si.storage.local import LocalObjects
from tests.report.made import made_run


def report_on(location):
    """Statistics, rows and the page as text."""
    numbers, rows = collect(RunContents.open(str(location)))
    return numbers, rows, render(numbers, rows).decode()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    location = tmp_path_factory.mktemp("whole") / "run"
    made_run(location)
    return location, report_on(location)[0]


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    return tmp_path / "run"


def test_an_empty_run(tmp_path):
    made_run(tmp_path / "run", instructions=[], finish=False)
    numbers, rows, page = report_on(tmp_path / "run")
    assert numbers["run"]["state"] == "empty"
    assert numbers["funnel"]["accepted"] == 0
    assert rows["accepted"] == rows["rejected"] == []
    assert "Nothing has been generated yet" in page


def test_a_finished_run_of_nothing(tmp_path):
    made_run(tmp_path / "run", instructions=[])
    numbers, _, page = report_on(tmp_path / "run")
    assert numbers["run"]["state"] == "finished"
    assert numbers["funnel"]["rows"] == 0
    assert "is not finished" not in page


def test_an_unfinished_run_counts_what_is_there(tmp_path):
    made_run(tmp_path / "run", asked=16, finish=False)
    numbers, rows, page = report_on(tmp_path / "run")
    assert numbers["run"]["state"] == "unfinished"
    funnel = numbers["funnel"]
    assert (funnel["accepted"], funnel["instructions_asked"], funnel["rows"]) == (60, 16, None)
    assert funnel["instances"] == sum(k % 3 for k in range(16))
    assert sum("instances" in row for row in rows["accepted"]) == 16
    assert "This run is not finished" in page
    assert "60 of 60" in page


def test_a_round_begun_ahead_is_mentioned_and_not_counted(copy):
    shutil.rmtree(copy / "data")
    shutil.rmtree(copy / "instances")
    (copy / "stats.json").unlink()
    (copy / "bootstrap/round-00002/manifest.json").unlink()
    numbers, _, page = report_on(copy)
    assert (numbers["run"]["state"], numbers["run"]["waiting_blocks"]) == ("unfinished", 2)
    assert numbers["funnel"]["accepted"] == 40
    assert "2 blocks of answers wait" in page


def test_a_flipped_byte_in_any_part_that_is_read_is_said_and_nothing_fails(copy, whole):
    files = [path for path in copy.rglob("*") if path.is_file() and path.parent.name != "lease"]
    unread = ("data/*", "round-*/block-*", "README.md", "report.html")
    read = [path for path in files if not any(path.match(pattern) for pattern in unread)]
    assert len(read) > 15
    for k, path in enumerate(sorted(read)):
        data = path.read_bytes()
        at = int((0.02, 0.3, 0.6, 0.97)[k % 4] * len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x15]) + data[at + 1 :])
        key = path.relative_to(copy).as_posix()
        numbers, _, page = report_on(copy)
        if key != "run.json":  # which has no digest of its own
            assert "This run is damaged" in page, key
            assert any(key in problem for problem in numbers["run"]["problems"]), key
        path.write_bytes(data)
    assert report_on(copy)[0] == whole[1]


@pytest.mark.parametrize(
    ("key", "texts", "asked"),
    [
        ("seeds.parquet", 60, 60),
        ("bootstrap/round-00001/manifest.json", 40, 60),
        ("bootstrap/round-00001/accepted-00001.parquet", 40, 60),
        ("bootstrap/round-00001/rejected-00001.parquet", 60, 60),
        ("instances/block-00003.parquet", 60, 52),
        ("instances/manifest.json", 60, 60),
        ("data/train-00001-of-00003.parquet", 60, 60),
    ],
)
def test_a_missing_part_is_named_and_the_rest_is_shown(copy, key, texts, asked):
    (copy / key).unlink()
    numbers, _, page = report_on(copy)
    assert any(problem.startswith(f"{key}: is missing") for problem in numbers["run"]["problems"])
    assert "This run is damaged" in page
    assert key in page
    assert numbers["lengths"]["instruction"]["words"]["count"] == texts
    assert numbers["funnel"]["instructions_asked"] == asked


def test_a_header_that_is_lost_costs_only_the_settings(copy, whole):
    (copy / "run.json").write_text("{")
    numbers, rows, page = report_on(copy)
    assert numbers["run"]["problems"][0].startswith("run.json: is damaged")
    assert numbers["funnel"] == whole[1]["funnel"]
    assert numbers["run"]["settings"] == {}
    assert len(rows["accepted"]) == 60
    assert "A headless run" in page


def test_a_header_that_is_lost_hides_nothing_of_an_unfinished_run(tmp_path):
    made_run(tmp_path / "run", asked=16, finish=False)
    (tmp_path / "run" / "run.json").write_text("{")
    numbers, _, _ = report_on(tmp_path / "run")
    assert numbers["run"]["state"] == "damaged"
    assert numbers["funnel"]["instructions_asked"] == 16


def test_credentials_that_end_meanwhile_are_an_error_and_leave_the_former_page(
    copy, tmp_path, monkeypatch
):
    page = tmp_path / "page.html"
    page.write_text("former")
    monkeypatch.setattr(LocalObjects, "get", _expiring(LocalObjects.get))
    with pytest.raises(StorageError, match="have expired"):
        write_report(str(copy), str(page))
    assert page.read_text() == "former"


def _expiring(get):
    """Reads that fail from the first round's decisions on."""
    expired = []

    def getting(self, key):
        expired.extend([key] if "/accepted-" in key else [])
        if expired:
            raise StorageError("the credentials have expired")
        return get(self, key)

    return getting


@pytest.mark.parametrize("value", ["null", "[]", '{"layout": 1}', '"\\ud800"'])
def test_a_header_of_another_form_is_damage(copy, value):
    (copy / "run.json").write_text(value)
    assert report_on(copy)[0]["run"]["state"] == "damaged"


@pytest.mark.parametrize(
    "identity",
    [7, {"dedup": 3, "\ud800": ["\0<b>"]}, {"instances": [], "generator": 1, "bootstrap": None}],
)
def test_settings_of_an_unknown_form_are_shown_as_they_are(copy, identity):
    header = {"layout": 1, "fingerprint": "f", "config": {}, "identity": identity}
    (copy / "run.json").write_text(json.dumps(header))
    numbers, _, page = report_on(copy)
    assert numbers["funnel"]["accepted"] == 60
    assert "<b>" not in page


def test_no_flipped_byte_in_a_block_without_digest_ends_the_report(copy, monkeypatch):
    monkeypatch.setattr("ray_si.report.statistics.root_verbs", lambda *arguments: None)
    for path in (copy / "instances/manifest.json", copy / "stats.json"):
        path.unlink()
    path = copy / "instances/block-00001.parquet"
    data, random = path.read_bytes(), Random(0)
    states = Counter()
    for _ in range(80):
        at = random.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ random.randrange(1, 256)]) + data[at + 1 :])
        states[report_on(copy)[0]["run"]["state"]] += 1
    assert states["damaged"] > 20


def test_text_that_is_no_utf8_is_damage_not_a_crash(copy):
    path = copy / "instances/block-00000.parquet"
    (copy / "instances/manifest.json").unlink()  # so that no digest tells
    table = pq.read_table(path)
    broken = pa.array([b"\xff\xfe"] * table.num_rows, pa.binary()).view(pa.string())
    pq.write_table(table.set_column(1, "id", broken), path)
    numbers, _, _ = report_on(copy)
    assert any(key.startswith("instances/block-00000") for key in numbers["run"]["problems"])


def test_what_is_no_run_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    for place in ("folder", "absent"):
        with pytest.raises(RunError, match="is not a run"):
            write_report(str(tmp_path / place), str(tmp_path / "to" / "page.html"))
    assert not (tmp_path / "to").exists()


def test_a_run_is_left_as_it_was(copy, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    with pytest.raises(RunError, match="lies inside a run"):
        write_report(str(copy), str(copy / "report.html"))
    with pytest.raises(StorageError, match="is a folder"):
        write_report(str(copy), str(tmp_path))
    write_report(str(copy), str(tmp_path / "page.html"))
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_a_run_on_s3_and_a_page_there(s3, tmp_path):
    made_run("s3://data/run")
    state = write_report("s3://data/run", "s3://data/pages/run.html", str(tmp_path / "run.json"))
    assert state == "finished"
    page = s3.get_object(Bucket="data", Key="pages/run.html")["Body"].read()
    made_run(tmp_path / "run")
    assert page == render(*collect(RunContents(Run.open(str(tmp_path / "run")))))
