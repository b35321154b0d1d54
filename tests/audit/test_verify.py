"""`verify` finds every kind of damage, names the object, and never fails on it."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from itertools import cycle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_si.audit import instance_checks
from ray_si.audit.verify import Verification, verify
from ray_si.errors import RunError, StorageError, StorageLostError
from ray_si.run import checkpoint, instance_parts
from ray_si.run.instance_parts import PART, BlockRecord, InstanceParts
from ray_si.run.run import Run, seal


def findings(location):
    """(check, finding) of everything that is wrong."""
    checks = verify(str(location))
    found = [(check.name, finding) for check in checks for finding in check.findings]
    assert all("\n" not in finding for _, finding in found)
    return found


def named(location):
    return {finding.split(": ")[0] for _, finding in findings(location)}


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def copy_with_cosine(finished_with_cosine, tmp_path):
    shutil.copytree(finished_with_cosine[0], tmp_path / "run")
    return tmp_path / "run"


def describe(location, key):
    """What a manifest says of an object."""
    data = (location / key).read_bytes()
    rows = pq.read_metadata(location / key).num_rows
    digest = hashlib.sha256(data).hexdigest()
    return {"key": key, "rows": rows, "size": len(data), "sha256": digest}


def rewrite(location, key, change):
    """Change a Parquet object's rows, and whatever names it, as a careful forger would."""
    table = pq.read_table(location / key)
    replace(location, key, pa.Table.from_pylist(change(table.to_pylist()), table.schema))


def replace(location, key, table):
    """Write another table there, and change whatever names it."""
    pq.write_table(table, location / key, compression="zstd")
    described = {key: describe(location, key)}
    for part in location.glob("instances/part-*.parquet"):
        rows = [row | described.get(row["key"], {}) for row in pq.read_table(part).to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, PART), part, compression="zstd")
        name = part.relative_to(location).as_posix()
        described[name] = describe(location, name)
    for manifest in (*location.rglob("manifest.json"), location / "stats.json"):
        values = json.loads(manifest.read_text())
        for names in ("objects", "shards", "parts"):
            for item in values.get(names, []):
                item |= described.get(item["key"], {})
        manifest.write_text(json.dumps(seal(values)))


def promised(location):
    """The files of a run, without its leases, of which nothing is promised."""
    files = sorted(path for path in location.rglob("*") if path.is_file())
    return [path for path in files if path.parent.name != "lease"]


def edit(location, key, **values):
    path = location / key
    changed = json.loads(path.read_text()) | values
    path.write_text(json.dumps(changed if path.name == "run.json" else seal(changed)))


def test_a_finished_run_is_ok(finished):
    checks = {check.name: check for check in verify(str(finished[0]))}
    assert all(check.ok for check in checks.values())
    stats = finished[1].stats
    assert checks["requests"].count == stats["requests"]
    assert checks["candidates"].count == stats["candidates"]
    assert checks["instances"].count == stats["accepted"]
    assert checks["shards"].count == len(stats["shards"])


def test_a_finished_run_with_both_gates_is_ok(finished_with_cosine):
    location, result = finished_with_cosine
    assert result.stats["rejected"]["cosine"] > 0
    checks = {check.name: check for check in verify(str(location))}
    assert all(check.ok for check in checks.values())
    assert checks["cosine gate"].count > result.stats["accepted"]
    assert not checks["cosine gate"].notes


def test_nothing_is_written(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    verify(str(copy))
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def test_a_flipped_byte_in_any_object_is_found_there(copy):
    for path, place in zip(promised(copy), cycle((0.02, 0.6, 0.97, 0.3))):
        data = path.read_bytes()
        at = int(place * len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x15]) + data[at + 1 :])
        key = path.relative_to(copy).as_posix()
        assert any(key in finding for _, finding in findings(copy)), (key, findings(copy))
        path.write_bytes(data)
    assert not findings(copy)


def test_a_truncated_object_is_found_there(copy):
    for path, share in zip(promised(copy), cycle((0, 0.5))):
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        assert path.relative_to(copy).as_posix() in named(copy)
        path.write_bytes(data)


def unreadable(monkeypatch, broken, error=errno.EACCES):
    """Has reading fail where ``broken`` says so of a path."""
    read_bytes = Path.read_bytes

    def read(path):
        if broken(path):
            raise OSError(error, os.strerror(error), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO])
@pytest.mark.parametrize(
    "key",
    [
        "bootstrap/round-00001/manifest.json",
        "instances/block-00001.parquet",
        "instances/part-00000-00001.parquet",
        "data/train-00000-of-*.parquet",
        "seeds.parquet",
        "stats.json",
    ],
)
def test_an_object_that_cannot_be_read_is_a_finding(copy, monkeypatch, key, error):
    (path,) = copy.glob(key)
    key = path.relative_to(copy).as_posix()
    unreadable(monkeypatch, lambda each: each == path, error)
    (finding,) = {finding for _, finding in findings(copy) if finding.startswith(key)}
    assert finding.startswith(f"{key}: cannot be read: ")
    assert finding.endswith(f": {os.strerror(error)}")


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO])
def test_a_store_that_is_gone_as_a_whole_is_an_error(copy, monkeypatch, error):
    is_gone = []
    unreadable(monkeypatch, lambda _: bool(is_gone), error)
    run = Verification(Run.open(str(copy)), 1, lambda *step: None)
    is_gone.append(True)
    with pytest.raises((StorageError, StorageLostError), match=os.strerror(error)):
        run.run()


@pytest.mark.parametrize("content", [b"[]", b"{}", b"null", b'{"round": "x"}', b"[" * 100_000])
def test_a_manifest_that_is_none_is_found(copy, content):
    manifests = [path for path in promised(copy) if path.name in ("manifest.json", "stats.json")]
    for path in manifests:
        data = path.read_bytes()
        path.write_bytes(content)
        assert path.relative_to(copy).as_posix() in named(copy)
        path.write_bytes(data)


@pytest.mark.parametrize(
    "key",
    [
        "seeds.parquet",
        "bootstrap/round-00000/block-00001.parquet",
        "bootstrap/round-00001/accepted-00001.parquet",
        "bootstrap/round-00001/rejected-00001.parquet",
        "bootstrap/round-00001/manifest.json",
        "bootstrap/round-00002/manifest.json",
        "instances/block-00002.parquet",
        "instances/manifest.json",
        "data/train-00001-of-00005.parquet",
        "data/train-00001-of-00005.jsonl",
    ],
)
def test_a_deleted_object_is_missed(copy, key):
    (copy / key).unlink()
    assert key in named(copy)


@pytest.mark.parametrize(
    "key",
    [
        "notes.txt",
        "data/train-00009-of-00009.parquet",
        "instances/block-00099.parquet",
        "instances/block-x.parquet",
        "bootstrap/round-00000/block-00099.parquet",
        "bootstrap/round-00000/block-000000.parquet",
        "bootstrap/round-00077/block-00000.parquet",
        "bootstrap/round-00000/.tmp-abc",
    ],
)
def test_a_stray_object_is_named(copy, key):
    (copy / key).parent.mkdir(parents=True, exist_ok=True)
    (copy / key).write_bytes(b"stray")
    assert ("strays", f"{key}: is named by nothing") in findings(copy)


def test_a_lease_is_no_stray(copy):
    (copy / "lease/00007.json").write_text("{}")
    assert not findings(copy)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (f"bootstrap/round-00001/{'manifest.json'}", name)
        for name in (
            "round",
            "requests",
            "prompt_tokens",
            "completion_tokens",
            "candidates",
            "accepted",
        )
    ]
    + [("instances/manifest.json", name) for name in ("blocks", "instructions", "instances")]
    + [("stats.json", name) for name in ("requests", "candidates", "accepted", "instance_tokens")],
)
def test_a_changed_count_is_found(copy, key, name):
    edit(copy, key, **{name: json.loads((copy / key).read_text())[name] + 1})
    assert key in named(copy)


@pytest.mark.parametrize("key", ["../outside.parquet", "instances/block-00000.parquet"])
def test_a_manifest_names_only_what_is_its_own(copy, key):
    manifest = copy / "bootstrap/round-00000/manifest.json"
    objects = json.loads(manifest.read_text())["objects"]
    foreign = {"key": f"bootstrap/round-00000/{key}" if ".." in key else key}
    edit(copy, "bootstrap/round-00000/manifest.json", objects=[*objects, objects[0] | foreign])
    assert "bootstrap/round-00000/manifest.json" in named(copy)


ACCEPTED = "bootstrap/round-00001/accepted-00001.parquet"
REJECTED = "bootstrap/round-00001/rejected-00001.parquet"
BLOCK = "instances/block-00001.parquet"
RAW = "bootstrap/round-00001/block-00000.parquet"
SHARD = "data/train-00000-of-00005.parquet"


def _first(**values):
    return lambda rows: [rows[0] | values, *rows[1:]]


@pytest.mark.parametrize(
    ("key", "change", "check"),
    [
        (ACCEPTED, lambda rows: [*rows, rows[-1]], "candidates"),
        (ACCEPTED, lambda rows: rows[1:], "candidates"),
        (ACCEPTED, lambda rows: rows[::-1], "candidates"),
        (ACCEPTED, _first(id="r00001-00000-99"), "candidates"),
        (ACCEPTED, _first(request_seed=1), "candidates"),
        (ACCEPTED, _first(mean_rouge=0.5), "rouge gate"),
        (ACCEPTED, lambda rows: [*rows[:-1], rows[-1] | {"instruction": rows[0]["instruction"]
            + " now"}], "rouge gate"),
        (REJECTED, lambda rows: rows[1:], "candidates"),
        (REJECTED, _first(reason="cosine"), "cosine gate"),
        (BLOCK, lambda rows: [*rows, rows[-1]], "instances"),
        (BLOCK, lambda rows: rows[::-1], "instances"),
        (BLOCK, lambda rows: [rows[0] | {"instances": rows[1]["instances"]},
            rows[1] | {"instances": rows[0]["instances"]}, *rows[2:]], "instances"),
        (BLOCK, _first(seed=1), "instances"),
        (BLOCK, _first(finish_reason="not_asked"), "instances"),
        (RAW, lambda rows: [rows[1], rows[0], *rows[2:]], "requests"),
        (RAW, lambda rows: rows[1:], "requests"),
        (RAW, _first(demonstrations=["r00000-00000-00"]), "demonstrations"),
        (SHARD, lambda rows: [*rows, rows[-1]], "shards"),
        (SHARD, _first(output="another"), "shards"),
    ],
)  # fmt: skip
def test_changed_rows_are_found_though_their_checksum_fits(copy, key, change, check):
    rewrite(copy, key, change)
    found = [finding for name, finding in findings(copy) if name == check]
    assert any(key in finding or key.rpartition("/")[0] in finding for finding in found), findings(
        copy
    )


def test_a_rejection_that_the_gate_would_not_repeat_is_found(copy):
    for key in sorted(copy.glob("bootstrap/round-*/rejected-*.parquet")):
        rows = pq.read_table(key).to_pylist()
        at = [i for i, row in enumerate(rows) if row["reason"] == "rouge"]
        if at:
            break
    name = key.relative_to(copy).as_posix()
    for change in ({"score": 0.71}, {"match": "Another text."}):
        rewrite(copy, name, lambda rows, c=change: [*rows[: at[0]], rows[at[0]] | c,
            *rows[at[0] + 1 :]])  # fmt: skip
        assert [c for c, finding in findings(copy) if name in finding] == ["rouge gate"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"match": "Another text."}, "not in the pool"), ({"score": 0.5}, "not above 0.6")],
)
def test_a_rejection_by_cosine_that_cannot_be_is_found(copy_with_cosine, change, message):
    for path in sorted(copy_with_cosine.glob("bootstrap/round-*/rejected-*.parquet")):
        rows = pq.read_table(path).to_pylist()
        at = [i for i, row in enumerate(rows) if row["reason"] == "cosine"]
        if at:
            break
    name = path.relative_to(copy_with_cosine).as_posix()
    rewrite(copy_with_cosine, name, lambda rows: [*rows[: at[0]], rows[at[0]] | change,
        *rows[at[0] + 1 :]])  # fmt: skip
    assert any(c == "cosine gate" and message in f for c, f in findings(copy_with_cosine))


def test_embeddings_that_are_too_close_are_found(copy_with_cosine):
    def change(rows):
        return [*rows[:-1], rows[-1] | {"embedding": rows[0]["embedding"]}]

    rewrite(copy_with_cosine, ACCEPTED, change)
    assert any(c == "cosine gate" and "too close" in f for c, f in findings(copy_with_cosine))


@pytest.mark.parametrize("key", [ACCEPTED, REJECTED, BLOCK, RAW, "seeds.parquet"])
def test_other_columns_are_a_finding(copy, key):
    table = pq.read_table(copy / key)
    for place, name in enumerate(table.column_names):
        if key == "seeds.parquet" and name not in ("id", "instruction"):
            continue
        other = table.drop_columns([name])
        if place % 2 == 0:  # of another type, in its place
            other = table.set_column(place, name, pa.array([{"x": 1}] * len(table)))
        replace(copy, key, other)
        assert any(key in finding for _, finding in findings(copy)), name


@pytest.mark.parametrize(
    "lost",
    [
        ["stats.json", "data"],
        ["stats.json", "data", "instances/manifest.json", "instances/block-00002.parquet"],
        ["stats.json", "data", "instances", "bootstrap/round-00002/manifest.json"],
        ["stats.json", "data", "instances", "bootstrap"],
    ],
)
def test_an_unfinished_run_is_ok_and_says_so(copy, lost):
    for name in lost:
        shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    checks = verify(str(copy))
    assert all(check.ok for check in checks), findings(copy)
    assert any("unfinished" in note for check in checks for note in check.notes)


def test_writes_in_progress_are_no_damage_of_an_unfinished_run(copy):
    shutil.rmtree(copy / "instances")
    shutil.rmtree(copy / "data")
    (copy / "stats.json").unlink()
    (copy / "bootstrap/round-00007").mkdir()
    for name in (".tmp-x", "block-00000.parquet"):
        (copy / "bootstrap/round-00007" / name).write_bytes(b"begun")
    assert not findings(copy)


def test_no_run_is_an_error(tmp_path):
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RunError, match="is not a run"):
            verify(str(place))


def test_a_run_of_another_layout_is_an_error(copy):
    edit(copy, "run.json", layout=Run.open(str(copy)).header["layout"] + 1)
    with pytest.raises(RunError, match="another version"):
        verify(str(copy))


def test_what_was_read_by_earlier_rules_is_not_read_again_and_said(copy):
    edit(copy, "run.json", reading=1)
    first = copy / "bootstrap/round-00000/manifest.json"
    versions = json.loads(first.read_text())["versions"]
    assert versions["reading"] > 1
    del versions["reading"]
    edit(copy, "bootstrap/round-00000/manifest.json", versions=versions)
    checks = {check.name: check for check in verify(str(copy))}
    assert all(check.ok for check in checks.values())
    (note,) = checks["candidates"].notes
    assert note.startswith("answers of 1 rounds were read by earlier rules")
    assert "begun under earlier rules of reading (1, " in checks["instances"].notes[0]


@pytest.fixture
def unfinished(copy, monkeypatch):
    """A run whose instances are not declared complete, with a checkpoint of small segments."""
    monkeypatch.setattr(checkpoint, "FAN_OUT", 2)
    for name in ("stats.json", "README.md", "report.html", "instances/manifest.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "data")
    run = Run.open(str(copy))
    with run.held():
        checkpoint.CommittedRounds.read(run).write()
    return copy


def test_a_checkpoint_is_held_against_the_rounds(unfinished):
    checks = {check.name: check for check in verify(str(unfinished))}
    assert not findings(unfinished)
    assert checks["checkpoint"].count == len(list(unfinished.glob("checkpoint/pool-*"))) > 0


@pytest.mark.parametrize("kind", ["pool", "rounds"])
def test_a_checkpoint_that_says_otherwise_is_found(unfinished, kind):
    for path in sorted(unfinished.glob(f"checkpoint/{kind}-*")):
        data = path.read_bytes()
        path.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
        assert [name for name, _ in findings(unfinished)] == ["checkpoint"]
        path.write_bytes(data)
    path = sorted(unfinished.glob("checkpoint/pool-*"))[0]
    table = checkpoint.unseal(path.read_bytes())
    others = ["Do something else."] * table.num_rows
    changed = checkpoint.seal(table.set_column(1, "instruction", pa.array(others)))
    path.write_bytes(changed)
    assert [name for name, _ in findings(unfinished)] == ["checkpoint"]


def test_other_processes_find_what_this_one_does_and_progress_is_told(copy, monkeypatch):
    monkeypatch.setattr(instance_checks, "_CHUNK", 2)
    rewrite(
        copy,
        "instances/block-00003.parquet",
        lambda rows: [row | {"seed": row["seed"] + 1} for row in rows],
    )
    heard = []
    alone = verify(str(copy), listen=lambda *step: heard.append(step))
    together = verify(str(copy), processes=2)
    assert [check.as_dict() for check in alone] == [check.as_dict() for check in together]
    assert not all(check.ok for check in alone)
    ends = {what: (done, total) for what, done, total in heard}
    assert set(ends) == {"objects", "rounds", "instances"}
    assert all(done == total for done, total in ends.values())


def test_what_a_build_adds_or_takes_away_meanwhile_is_no_finding(unfinished):
    run = Run.open(str(unfinished))
    covered = max(end for _, end in checkpoint.segment_keys(run))
    later = sorted(unfinished.glob("bootstrap/round-*/manifest.json"))[covered - 1 :]
    data = [path.read_bytes() for path in later]
    shutil.rmtree(unfinished / "instances")
    for path in later:  # as where the folder was listed before they were written
        path.unlink()
    listed = Verification(run, 1, lambda *step: None)
    for path, content in zip(later, data, strict=True):
        path.write_bytes(content)
    assert not [finding for check in listed.run() for finding in check.findings]
    listed = Verification(run, 1, lambda *step: None)
    shutil.rmtree(unfinished / "checkpoint")
    assert not [finding for check in listed.run() for finding in check.findings]


@pytest.fixture
def with_a_part(unfinished, monkeypatch):
    """Writes a full part of two blocks, the second with requests that ``failed`` for good."""
    monkeypatch.setattr(instance_parts, "PART_BLOCKS", 2)

    def write(failed=0):
        for path in unfinished.glob("instances/part-*"):
            path.unlink()
        run = Run.open(str(unfinished))
        with run.held():
            parts = InstanceParts(run, run.header["config"]["instances"]["block_size"])
            for block, count in enumerate([0, failed]):
                key = f"instances/block-{block:05d}.parquet"
                record = BlockRecord.of(*run.read_stored(key))
                parts.add(dataclasses.replace(record, failed=count))
        assert len(list(unfinished.glob("instances/part-*"))) == 1
        assert not findings(unfinished)
        return unfinished

    return write


def test_a_block_that_a_part_names_is_missed_before_there_is_a_manifest(with_a_part):
    location = with_a_part()
    block, other = (location / f"instances/block-0000{n}.parquet" for n in (1, 0))
    block.unlink()
    assert findings(location) == [("objects", "instances/block-00001.parquet: is missing")]
    shutil.copy(other, block)
    assert named(location) >= {"instances/block-00001.parquet"}


def test_a_block_that_a_resume_asks_again_is_not_missed(with_a_part):
    location = with_a_part(failed=1)
    (location / "instances/block-00001.parquet").unlink()
    assert not findings(location)


def test_a_part_that_a_resume_could_not_read_is_found(with_a_part):
    location = with_a_part()
    (part,) = location.glob("instances/part-*")
    part.write_bytes(part.read_bytes()[:-20])
    assert named(location) == {f"instances/{part.name}"}


def test_what_was_first_asked_is_a_stray_where_the_manifest_names_another(copy):
    folder = "bootstrap/round-00000"
    first, again = (f"{folder}/block-00000{end}.parquet" for end in ("", "-00002"))
    objects = json.loads((copy / folder / "manifest.json").read_text())["objects"]
    moved = [entry | {"key": again} if entry["key"] == first else entry for entry in objects]
    assert moved != objects
    shutil.copy(copy / first, copy / again)
    edit(copy, f"{folder}/manifest.json", objects=moved)
    assert findings(copy) == [("strays", f"{first}: is named by nothing")]
