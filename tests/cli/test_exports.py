"""Trainers and loaders take every export as it is."""

from __future__ import annotations

import json

import datasets
import pytest

from ray_si.export.training_files import Options, write_training_files
from ray_si.self_instruct.formats import FORMATS, layout
from tests.command import assert_one_line_error, invoke
from tests.run.finished import finished_run

COLUMNS = {
    "alpaca": ["instruction", "input", "output"],
    "messages": ["messages"],
    "conversations": ["conversations"],
    "prompt-completion": ["prompt", "completion"],
    "prompt-completion-varied": ["prompt", "completion"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("source") / "run")


def export(run, to, format_, **options):
    done = write_training_files(run, str(to), layout(format_), Options(format_, **options), {})
    return done.rows


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
@pytest.mark.parametrize("format_", FORMATS)
def test_datasets_loads_the_folder_with_its_splits(tmp_path, run, format_, kind):
    rows = export(
        run, tmp_path / "out", format_, kind=kind, rows_per_shard=40, shuffle=True, validation=0.2
    )
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(loaded[split]) for split in loaded} == rows
    assert loaded["train"].column_names == COLUMNS[format_]
    export(run, tmp_path / "lines", format_, rows_per_shard=40, shuffle=True, validation=0.2)
    lines = [
        json.loads(line)
        for path in sorted((tmp_path / "lines").glob("*-train-*.jsonl"))
        for line in path.open(encoding="utf-8")
    ]
    assert list(loaded["train"]) == lines


def test_datasets_loads_a_folder_with_a_single_file(tmp_path, run):
    rows = export(run, tmp_path / "out", "alpaca")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(loaded[split]) for split in loaded} == rows


def test_ray_data_reads_the_folder(ray_session, tmp_path, run):
    import ray

    rows = export(run, tmp_path / "out", "messages", kind="parquet", rows_per_shard=40)
    dataset = ray.data.read_parquet(str(tmp_path / "out"))
    assert dataset.count() == rows["train"]
    (row,) = dataset.take(1)
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
    export(run, tmp_path / "lines", "alpaca")
    assert ray.data.read_json(str(tmp_path / "lines"), lines=True).count() == rows["train"]


@pytest.mark.slow  # importing TRL takes as long as all of the above
@pytest.mark.parametrize("format_", FORMATS)
def test_trl_takes_the_rows_for_what_they_are(tmp_path, run, format_):
    from transformers import AutoTokenizer
    from trl import data_utils

    from ray_si.engines.bundled import resolve

    export(run, tmp_path / "out", format_)
    loaded = datasets.load_dataset(
        str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), split="train"
    )
    row = loaded[0]
    if format_ == "conversations":
        row = data_utils.maybe_convert_to_chatml(row)
    assert data_utils.is_conversational(row) == (format_ in ("messages", "conversations"))
    tokenizer = AutoTokenizer.from_pretrained(resolve("smollm2-135m-instruct"))
    templated = data_utils.maybe_apply_chat_template(row, tokenizer)
    if format_ in ("messages", "conversations"):
        assert "Do task number 0." in templated["text"]
    else:
        assert templated == row


def test_the_command_line_exports_what_is_asked_for(tmp_path, run):
    to = tmp_path / "out"
    done = invoke(
        "export", run.location, "--map", "q=prompt", "--map", "a=output", "--name", "qa",
        "--files", "parquet", "--bytes-per-shard", "4kB", "--shuffle", "--seed", "7",
        "--validation", "5", "--to", to,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "validation rows written to" in done.stdout
    manifest = json.loads((to / "_qa.manifest").read_text())
    assert (manifest["map"], manifest["bytes_per_shard"]) == (["q=prompt", "a=output"], 4000)
    assert len(list(to.glob("qa-train-*.parquet"))) > 1
    assert len(list(to.glob("qa-validation-*.parquet"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a --format, or fields with --map"),
        (["--format", "alpaca", "--map", "a=input"], "and not both"),
        (["--map", "a=inptu"], "did you mean input?"),
        (["--format", "alpaca", "--bytes-per-shard", "many"], "a size like 500MB"),
        (["--format", "alpaca", "--bytes-per-shard", "0"], "must be at least 1"),
        (["--format", "alpaca", "--validation", "half"], "a share like 0.05"),
        (["--format", "alpaca", "--validation", "5.5"], "between 0 and 1"),
        (["--format", "alpaca", "--validation", "9999"], "would take all"),
        (["--format", "alpaca", "--name", "a/b"], "cannot begin the name"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_writes_nothing(tmp_path, run, arguments, message):
    done = invoke("export", run.location, *arguments, "--to", tmp_path / "out")
    assert_one_line_error(done, message)
    assert not (tmp_path / "out").exists()
