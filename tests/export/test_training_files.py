"""Exports: what is in them, that they repeat, and that nothing half-written looks finished."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from ray_si.errors import ConfigError, RunError, StorageError, StorageLostError
from ray_si.export import training_files
from ray_si.export.rows import schema_of_rows, training_rows
from ray_si.export.training_files import Options, write_training_files
from ray_si.run.run import Run
from ray_si.run.schemas import TRAINING_ROWS
from ray_si.run.seeds import seeds_of
from ray_si.self_instruct.formats import FORMATS, Layout, layout, mapped
from ray_si.storage.local import LocalObjects
from ray_si.storage.objects import open_objects
from tests.command import ENVIRONMENT
from tests.run.finished import finished_run

IDS = mapped(["id=id", "instruction_id=instruction_id"], TRAINING_ROWS.names)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("source") / "run")


def export(run, to, rows=IDS, name="rows", **options):
    return write_training_files(run, str(to), rows, Options(name, **options), {"format": "x"})


def read(location, keys):
    """The rows of JSONL objects, in order."""
    objects = open_objects(str(location))
    lines = [line for key in keys for line in objects.get(key).splitlines()]
    return [json.loads(line) for line in lines]


def shards(location, split="train"):
    objects = open_objects(str(location))
    manifest = json.loads(objects.get("_rows.manifest"))
    return [entry["key"] for entry in manifest["files"] if entry["split"] == split]


def test_rows_are_those_of_the_run_in_order(run, location):
    done = export(run, location, layout("alpaca"))
    names = ("instruction", "input", "output")
    expected = [{name: row[name] for name in names} for row in training_rows(run)]
    assert read(location, ["rows.jsonl"]) == expected
    assert done.rows == {"train": len(expected)}
    assert done.keys == ["rows.jsonl", "_rows.manifest"]


def test_the_manifest_says_what_is_there(run, location):
    export(run, location, rows_per_shard=50, validation=0.2, kind="jsonl.gz", seed=3)
    objects = open_objects(location)
    manifest = json.loads(objects.get("_rows.manifest"))
    assert manifest["run"] == "fingerprint"
    said = {name: manifest[name] for name in ("format", "kind", "seed", "validation", "shuffle")}
    assert said == {
        "format": "x", "kind": "jsonl.gz", "seed": 3, "validation": 0.2, "shuffle": False
    }  # fmt: skip
    keys = [entry["key"] for entry in manifest["files"]]
    assert sorted([*keys, "_rows.manifest"]) == list(objects.list())
    assert "rows-train-00000-of-00002.jsonl.gz" in keys
    for entry in manifest["files"]:
        data = objects.get(entry["key"])
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])
    assert sum(entry["rows"] for entry in manifest["files"]) == run.stats()["rows"]


def test_seed_tasks_come_after_the_rows_where_they_are_asked_for(run, location):
    rows = mapped(
        ["id=id", "of=instruction_id", "output=output", "model=model"], TRAINING_ROWS.names
    )
    done = export(run, location, rows, seed_tasks=True)
    found = read(location, ["rows.jsonl"])
    generated = [row["id"] for row in training_rows(run)]
    seeds = seeds_of(run.read("seeds.parquet"))
    assert [row["id"] for row in found[: len(generated)]] == generated
    assert found[len(generated) :] == [
        {"id": f"{seed.id}-{k}", "of": seed.id, "output": one.output, "model": None}
        for seed in seeds
        for k, one in enumerate(seed.instances)
    ]
    assert done.rows == {"train": len(found)}
    assert json.loads(open_objects(location).get("_rows.manifest"))["seed_tasks"] is True


def test_seed_tasks_have_nothing_of_what_only_some_runs_ask_for(tmp_path):
    config = {"reasoning": {"keep": True, "tags": []}}
    steps = {"config": config, "answers": lambda n: [("a", -1.0)]}
    run = finished_run(tmp_path / "run", 2, **steps)
    names = schema_of_rows(run).names
    assert {"answer", "output_logprob", "reasoning"} <= set(names)
    export(run, tmp_path / "out", mapped([f"{n}={n}" for n in names], names), seed_tasks=True)
    *_, seed = read(tmp_path / "out", ["rows.jsonl"])
    assert seed["instruction"]
    assert [seed[name] for name in ("answer", "output_logprob", "reasoning")] == [None] * 3


@pytest.mark.parametrize("shuffle", [False, True])
def test_of_equal_prompts_and_completions_one_is_written_and_the_rest_counted(
    run, location, shuffle
):
    alike = Layout("alike", ("output",), lambda c, n: ({"x": text[:1]} for text in c["output"]))
    expected = list(dict.fromkeys(row["output"][:1] for row in training_rows(run)))
    all_rows = export(run, location, alike, shuffle=shuffle)
    distinct = replace(alike, drops_equal_rows=True)
    done = export(run, location, distinct, shuffle=shuffle, overwrite=True)
    found = [row["x"] for row in read(location, ["rows.jsonl"])]
    assert sorted(found) == sorted(expected)
    assert shuffle or found == expected
    assert (all_rows.equal_rows, done.equal_rows) == (0, run.stats()["rows"] - len(found))
    manifest = json.loads(open_objects(location).get("_rows.manifest"))
    assert manifest["equal_rows"] == done.equal_rows > 0


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"shuffle": True, "validation": 0.2}])
def test_bytes_depend_on_neither_the_runs_own_shards_nor_on_when(tmp_path, run, options):
    others = [
        finished_run(tmp_path / "small", rows_per_shard=7),
        finished_run(tmp_path / "lines", rows_per_shard=50, format_="jsonl"),
        run,
    ]
    found = []
    for number, source in enumerate([run, *others]):
        to = tmp_path / f"out{number}"
        export(source, to, layout("prompt-completion-varied"), rows_per_shard=20, **options)
        found.append({path.name: path.read_bytes() for path in to.iterdir()})
    assert all(other == found[0] for other in found[1:])


def test_a_shuffle_is_another_order_of_the_same_rows_for_each_seed(tmp_path, run, monkeypatch):
    orders = {}
    for seed in (0, 1):
        export(run, tmp_path / f"{seed}", shuffle=True, seed=seed)
        orders[seed] = [row["id"] for row in read(tmp_path / f"{seed}", ["rows.jsonl"])]
    expected = [row["id"] for row in training_rows(run)]
    assert orders[0] != orders[1] != expected != orders[0]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(expected)
    monkeypatch.setattr(training_files, "_BUCKET", 1000)  # some ten buckets
    export(run, tmp_path / "spilt", shuffle=True)
    assert [row["id"] for row in read(tmp_path / "spilt", ["rows.jsonl"])] == orders[0]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("validation", "count"), [(0.25, 15), (0.001, 1), (7, 7), (59, 59)])
def test_no_instruction_is_on_both_sides(tmp_path, run, validation, count, shuffle):
    done = export(run, tmp_path / "out", validation=validation, shuffle=shuffle)
    sides = {
        split: [row["instruction_id"] for row in read(tmp_path / "out", [f"rows-{split}.jsonl"])]
        for split in ("train", "validation")
    }
    assert done.rows == {split: len(ids) for split, ids in sides.items()}
    assert sum(done.rows.values()) == run.stats()["rows"]
    assert not set(sides["train"]) & set(sides["validation"])
    assert len(set(sides["validation"])) == count


def test_a_larger_share_keeps_what_a_smaller_one_set_aside(tmp_path, run):
    found = []
    for share in (0.1, 0.3):
        export(run, tmp_path / f"{share}", validation=share)
        rows = read(tmp_path / f"{share}", ["rows-validation.jsonl"])
        found.append({row["instruction_id"] for row in rows})
    assert found[0] < found[1]


def test_a_split_that_leaves_nothing_for_training_is_refused(tmp_path, run):
    with pytest.raises(ConfigError, match="the run has 60 instructions with rows"):
        export(run, tmp_path / "out", validation=60)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format_", [*FORMATS, None])
def test_parquet_holds_the_rows_of_jsonl(tmp_path, run, format_):
    every = [f"{name}={name}" for name in (*TRAINING_ROWS.names, "prompt")]
    rows = layout(format_) if format_ else mapped(every, TRAINING_ROWS.names)
    export(run, tmp_path / "out", rows, rows_per_shard=30, shuffle=True)
    export(run, tmp_path / "out", rows, "columns", rows_per_shard=30, shuffle=True, kind="parquet")
    lines = read(tmp_path / "out", shards(tmp_path / "out"))
    paths = sorted((tmp_path / "out").glob("columns-train-*.parquet"))
    tables = [pq.read_table(path) for path in paths]
    assert [row for table in tables for row in table.to_pylist()] == lines
    if format_ is None:
        for field in TRAINING_ROWS:
            assert tables[0].schema.field(field.name).type == field.type


def test_an_export_is_not_replaced_unless_asked_to(run, location):
    export(run, location, rows_per_shard=20)
    export(run, location, name="rows-other")
    before = {key: open_objects(location).get(key) for key in open_objects(location).list()}
    with pytest.raises(StorageError, match=r"holds rows-train-00000-of-\d+\.jsonl already"):
        export(run, location, kind="parquet")
    assert {key: open_objects(location).get(key) for key in open_objects(location).list()} == before
    done = export(run, location, kind="parquet", overwrite=True)
    assert list(open_objects(location).list()) == sorted(
        [*done.keys, "rows-other.jsonl", "_rows-other.manifest"]
    )


def test_files_that_another_manifest_lists_are_not_taken_for_its_own(run, location):
    export(run, location, name="chat-train")
    export(run, location, name="chat")
    export(run, location, name="chat", overwrite=True)
    objects = open_objects(location)
    before = {key: objects.get(key) for key in objects.list()}
    assert {"chat-train.jsonl", "chat.jsonl"} < before.keys()
    with pytest.raises(StorageError, match=r"chat-train\.jsonl is of another export, chat-train; "):
        export(run, location, name="chat", validation=0.2, overwrite=True)
    assert {key: objects.get(key) for key in objects.list()} == before


def test_an_export_into_its_own_run_is_refused_and_the_run_stays_as_it_was(location):
    run = finished_run(location)
    before = {key: run.objects.get(key) for key in run.objects.list()}
    for to in (location, f"{location}/", f"{location}/data", f"{location}/data/new"):
        with pytest.raises(RunError, match="lies inside a run"):
            export(run, to, name="train", kind="parquet", rows_per_shard=10, overwrite=True)
    assert {key: run.objects.get(key) for key in run.objects.list()} == before
    export(run, f"{location}-rows")


def test_what_an_interrupted_export_left_is_told_from_a_finished_one(run, tmp_path):
    export(run, tmp_path)
    (tmp_path / "_rows.manifest").unlink()
    with pytest.raises(StorageError, match="of an export that was not finished"):
        export(run, tmp_path)
    export(run, tmp_path, overwrite=True)
    assert (tmp_path / "_rows.manifest").exists()


@pytest.mark.parametrize("damage", [b"", b"x" * 4000, None])
def test_a_damaged_run_is_named_and_nothing_written(tmp_path, run, damage):
    copy = tmp_path / "run"
    shutil.copytree(run.location, copy)
    key = "data/train-00002-of-00005.parquet"
    (copy / key).unlink() if damage is None else (copy / key).write_bytes(damage)
    with pytest.raises(RunError, match=key):
        export(Run.open(str(copy)), tmp_path / "out" / "deep", shuffle=True)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_put_in_place_leaves_nothing(run, location, monkeypatch):
    objects = type(open_objects(location))
    adopt, adopted = objects.adopt, []

    def fail_at_the_third(self, key, path):
        adopted.append(key)
        if len(adopted) == 3:
            raise StorageLostError("the disk fails")
        adopt(self, key, path)

    monkeypatch.setattr(objects, "adopt", fail_at_the_third)
    with pytest.raises(StorageLostError):
        export(run, location, rows_per_shard=20)
    assert list(open_objects(location).list()) == []


@pytest.mark.parametrize("stage", ["adopt", "_write"])
def test_an_export_that_fails_leaves_the_former_one_whole(run, location, monkeypatch, stage):
    export(run, location, rows_per_shard=20)
    objects = open_objects(location)
    before = {key: objects.get(key) for key in objects.list()}

    def fail(*arguments, **options):
        raise StorageLostError("the disk fails")

    if stage == "adopt":
        monkeypatch.setattr(type(objects), "adopt", fail)
    else:
        monkeypatch.setattr(training_files, "_write", fail)
    with pytest.raises(StorageLostError):
        export(run, location, rows_per_shard=30, overwrite=True)
    monkeypatch.undo()
    assert {key: objects.get(key) for key in objects.list()} == before
    done = export(run, location, rows_per_shard=30, overwrite=True)
    assert list(objects.list()) == sorted(done.keys)


def test_an_export_killed_while_it_is_renamed_is_whole_after_the_same_command(
    run, location, monkeypatch
):
    class Killed(BaseException):
        pass

    def killed(self, source, target):
        raise Killed

    export(run, location, rows_per_shard=20)
    objects = open_objects(location)
    monkeypatch.setattr(type(objects), "move", killed)
    with pytest.raises(Killed):
        export(run, location, rows_per_shard=30, overwrite=True)
    monkeypatch.undo()
    done = export(run, location, rows_per_shard=30, overwrite=True)
    assert list(objects.list()) == sorted(done.keys)
    assert len(read(location, shards(location))) == run.stats()["rows"]


def test_a_full_disk_is_one_line_and_leaves_nothing(run, tmp_path):
    code = textwrap.dedent(
        """
        import resource, sys
        from ray_si.errors import StorageLostError
        from ray_si.run.run import Run
        from tests.export.test_training_files import export
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            export(Run.open(sys.argv[1]), sys.argv[2])
        except StorageLostError as error:
            print(error)
        """
    )
    command = [sys.executable, "-c", code, run.location, str(tmp_path / "out")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert "cannot be written (File too large); free some space" in done.stdout
    assert not (tmp_path / "out").exists()


def test_without_room_for_a_scratch_folder_it_is_one_line(run, location, monkeypatch):
    errors = {"mkdtemp": OSError(errno.ENOSPC, "No space left on device")}
    if location.startswith("s3:"):
        errors["gettempdir"] = FileNotFoundError(errno.ENOENT, "No usable temporary directory")
    for name, error in errors.items():
        with monkeypatch.context() as patched:
            patched.setattr(tempfile, name, _raising(error))
            with pytest.raises(StorageLostError, match=f"{error.strerror}.*free some space"):
                export(run, location)
    assert list(open_objects(location).list()) == []


def _raising(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def test_killed_it_leaves_nothing_that_looks_like_an_export(run, tmp_path):
    code = textwrap.dedent(
        """
        import os, sys
        from ray_si.run.run import Run
        from ray_si.export.training_files import Options, write_training_files
        from tests.export.test_training_files import IDS

        def listen(done, total):
            os.kill(os.getpid(), 9)

        run = Run.open(sys.argv[1])
        write_training_files(run, sys.argv[2], IDS, Options("rows"), {}, listen)
        """
    )
    command = [sys.executable, "-c", code, run.location, str(tmp_path / "out")]
    assert subprocess.run(command, env=ENVIRONMENT, check=False).returncode == -9
    assert list(LocalObjects(tmp_path / "out").list()) == []
    assert len(list(LocalObjects(tmp_path / "out").temporaries())) > 0
    export(run, tmp_path / "out")
    assert list(LocalObjects(tmp_path / "out").temporaries()) == []
    assert len(read(tmp_path / "out", ["rows.jsonl"])) == run.stats()["rows"]


@pytest.mark.parametrize("shuffle", [False, True])
def test_progress_is_told_to_the_end(run, tmp_path, shuffle):
    heard = []
    options = Options("rows", shuffle=shuffle)
    write_training_files(run, str(tmp_path), IDS, options, {}, lambda *now: heard.append(now))
    rows = run.stats()["rows"] * (2 if shuffle else 1)
    assert heard[-1] == (rows, rows)
    assert heard == sorted(heard)


def test_a_run_without_rows_has_an_export_without_files(tmp_path):
    run = finished_run(tmp_path / "run", 5, instances=lambda number: [])
    assert export(run, tmp_path / "out").rows == {"train": 0}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_rows.manifest"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../x"}, "cannot begin the name"),
        ({"name": ""}, "cannot begin the name"),
        ({"kind": "csv"}, "no kind of file; there are: jsonl"),
        ({"rows_per_shard": 0}, "rows_per_shard must be at least 1"),
        ({"bytes_per_shard": -5}, "bytes_per_shard must be at least 1"),
        ({"validation": 0}, "not 0"),
        ({"validation": 1.0}, r"not 1\.0"),
        ({"validation": float("nan")}, "not nan"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Options(**{"name": "rows"} | options)


def test_exports_go_to_s3_in_parts(s3_environment):
    long = "x" * (1 << 20)
    big = finished_run(
        "s3://runs/big-export/run", 20, instances=lambda number: [{"input": "", "output": long}]
    )
    done = export(big, "s3://runs/big-export/out", layout("alpaca"))
    assert done.rows == {"train": 20}
    rows = read("s3://runs/big-export/out", ["rows.jsonl"])
    assert [row["output"] for row in rows] == [long] * 20
