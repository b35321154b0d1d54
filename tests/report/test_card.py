"""The dataset card: what the hub and `datasets` read of it, and what it never invents."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml

from ray_si.build.builder import build
from ray_si.config.file import parse_config
from ray_si.export.rows import training_rows
from ray_si.report.card import COLUMNS, _columns, _settings
from ray_si.report.contents import RunContents
from ray_si.report.files import documents
from ray_si.report.page import render
from ray_si.report.statistics import collect
from ray_si.run.audit import Audit
from ray_si.run.run import Run
from ray_si.run.schemas import ANSWERED, REASONING, TRAINING_ROWS
from tests.report.made import HOSTILE, made_run

CHOSEN = {
    "title": "Rivers: a “test” of #1",
    "license": "cc-by-4.0",
    "language": ["en", "no"],
    "tags": ["rivers", "synthetic"],
    "description": "About *rivers*.",
}


def header(text):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    location = tmp_path_factory.mktemp("card") / "run"
    made_run(location, card=CHOSEN)
    return location


@pytest.fixture(scope="module")
def text(run):
    return (run / "README.md").read_text()


def test_the_header_says_what_was_chosen(text):
    assert header(text) == {
        "pretty_name": CHOSEN["title"],
        "license": "cc-by-4.0",
        "language": ["en", "no"],
        "task_categories": ["text-generation"],
        "tags": ["synthetic", "self-instruct", "rivers"],
        "size_categories": ["n<1K"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
            }
        ],
    }
    assert text.count("About *rivers*.") == 1


def test_a_licence_that_was_not_chosen_is_not_invented(tmp_path):
    made_run(tmp_path / "run")
    text = (tmp_path / "run" / "README.md").read_text()
    assert not {"license", "language"} & header(text).keys()
    assert "No licence was chosen" in text


@pytest.mark.parametrize("format_", ["parquet", "jsonl", "both"])
def test_datasets_loads_the_folder(tmp_path, monkeypatch, format_):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    run = made_run(tmp_path / "run", format_=format_)
    loaded = datasets.load_dataset(str(tmp_path / "run"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    rows = list(training_rows(run))
    assert loaded["train"].num_rows == len(rows) == 60
    names = ("id", "instruction", "input", "output", "demonstrations")
    assert [tuple(row[n] for n in names) for row in loaded["train"]] == [
        tuple(row[n] for n in names) for row in rows
    ]


def test_the_hub_takes_the_header(run):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.DatasetCard.load(run / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.configs[0]["config_name"] == "default"


def test_every_column_is_explained():
    assert list(COLUMNS) == TRAINING_ROWS.names
    settings = {"instances": {"method": "steps"}, "reasoning": {"keep": True}}
    further = [field.name for field in [*ANSWERED, REASONING]]
    assert list(_columns(settings)) == [*TRAINING_ROWS.names, *further]


def test_both_models_are_named_where_there_are_two():
    settings = parse_config({"instance_generator": {"model": "lab/other", "revision": "v2"}})
    named = dict(_settings(settings.identity()))
    assert named["model of classes, inputs and outputs"] == "`lab/other`, revision v2"
    assert named["model of the instructions"] == f"`{settings.generator.model}`"


def test_examples_are_rows(run, text):
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)\n```", text, re.DOTALL)]
    rows = [
        {name: row[name] for name in ("instruction", "input", "output")}
        for row in training_rows(Run.open(str(run)))
    ]
    assert len(examples) == 3
    assert all(example in rows for example in examples)


def test_generated_text_stays_in_its_code_block(tmp_path):
    fences = ["a```\n# Title\n`````\n[link](http://x)", *HOSTILE]
    made_run(tmp_path / "run", instructions=[f"{t} {k}" for k, t in enumerate(fences * 5)],
             outputs=fences)  # fmt: skip
    text = (tmp_path / "run" / "README.md").read_text()
    outside = re.sub(r"^(`{3,})json\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    for mark in ("# Title", "<script", "onerror", "http://x", "</title>"):
        assert mark not in outside
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u2028\u202e]", text)


def test_a_run_without_rows_has_a_card_without_files(tmp_path):
    made_run(tmp_path / "run", instructions=[])
    text = (tmp_path / "run" / "README.md").read_text()
    assert "configs" not in header(text)
    assert "0 instruction-following examples" in text


def test_the_report_of_the_build_is_that_of_the_verb(run):
    assert (run / "report.html").read_bytes() == render(*collect(RunContents.open(str(run))))


def test_documents_are_the_same_when_they_are_made_again(run):
    opened = Run.open(str(run))
    stats = opened.stats()
    del stats["documents"]
    for name, data in documents(opened, stats, CHOSEN).items():
        assert (run / name).read_bytes() == data


@pytest.mark.parametrize("name", ["README.md", "report.html"])
def test_a_document_that_was_changed_or_lost_is_found(tmp_path, name):
    made_run(tmp_path / "run")

    def findings():
        audit = Audit(Run.open(str(tmp_path / "run")))
        checks = audit.check_manifests(), audit.check_objects(), audit.check_strays(2, 8)
        return [finding for check in checks for finding in check.findings]

    assert findings() == []
    path = tmp_path / "run" / name
    data = path.read_bytes()
    path.write_bytes(data.replace(b"e", b"a", 1))
    assert findings() == [f"{name}: has other content than stats.json says (SHA-256)"]
    path.unlink()
    assert findings() == [f"{name}: is missing"]


def test_a_build_that_was_cut_short_at_its_end_only_writes_the_end(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "data")
    for name in ("stats.json", "README.md"):
        (copy / name).unlink()
    config = parse_config(Run.open(str(copy)).header["config"] | {"card": CHOSEN})
    steps = []
    result = build(config, str(copy), listen=steps.append)
    assert result.seconds.keys() == {"export", "report"}
    assert {step.phase for step in steps} == {"export"}
    for name in ("README.md", "report.html", "data/train-00002-of-00003.parquet"):
        assert (copy / name).read_bytes() == (run / name).read_bytes()
    assert [item["key"] for item in result.stats["documents"]] == ["README.md", "report.html"]
