"""The checkpoint says what the rounds say, costs a few objects, and is missed by nobody."""

from __future__ import annotations

import weakref

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from ray_si.run import checkpoint
from ray_si.run.checkpoint import (
    FOLDER,
    POOL_COLUMNS,
    CommittedRounds,
    accepted_tables,
    head,
    read_manifests,
    segment_keys,
)
from ray_si.run.run import Run
from ray_si.run.schemas import ACCEPTED, REJECTED
from ray_si.run.seeds import load_seeds
from tests.run.counting import counted

HEADER = {
    "config": {"target_instructions": 10_000, "instances": {"block_size": 2}},
    "identity": {"seed": 0},
}


def commit(run, rounds, number, size):
    """A round that accepted that many."""
    rows = [
        {
            "id": f"r{number:05d}-{k:05d}-00",
            "instruction": f"Do {k} of {number}.",
            "classification_prompt": bool(k % 2),
            "embedding": [float(number), float(k)],
            "instance": {"input": "", "output": str(k)} if k % 3 else None,
        }
        for k in range(size)
    ]
    counts = {"round": number, "accepted": size, "candidates": size, "rejected": {}}
    counts |= {"prompt_tokens": 5, "completion_tokens": 6}
    accepted = pa.Table.from_pylist(rows, ACCEPTED)
    none = pa.Table.from_pylist([], REJECTED)
    manifest = run.commit_round(number, [], accepted, none, counts | {"requests": 1})
    rounds.append(manifest, accepted)
    rounds.write()


def build(location, sizes):
    run = Run.prepare(str(location), HEADER, "fingerprint")
    with run.held():
        run.create(load_seeds("bundled")[0][:3])
        rounds = CommittedRounds.read(run)
        for size in sizes:
            commit(run, rounds, len(rounds.manifests), size)
    return run


def one_by_one(run):
    """The rounds as they are without a checkpoint."""
    tables = list(run.accepted(POOL_COLUMNS))
    return [head(manifest) for manifest in run.rounds()], [table.to_pylist() for table in tables]


def read(run):
    rounds = CommittedRounds.read(run)
    assert read_manifests(run) == rounds.manifests
    return rounds.manifests, [table.to_pylist() for table in rounds.tables]


@pytest.fixture
def pairs(monkeypatch):
    """Segments of two, so that a few rounds make many sizes."""
    monkeypatch.setattr(checkpoint, "FAN_OUT", 2)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 13])
def test_segments_say_what_the_rounds_say(tmp_path, pairs, count):
    run = build(tmp_path / "run", [3, 0, 5, 1, 2, 7, 0, 4, 4, 1, 0, 6, 2][:count])
    assert read(run) == one_by_one(run)
    assert bool(segment_keys(run)) == (count >= 2)


def test_it_is_read_on_s3_too(s3_environment, pairs):
    run = build("s3://runs/checkpoint/run", [3, 0, 5, 1, 2])
    assert read(run) == one_by_one(run)


@given(st.lists(st.integers(0, 9), max_size=700), st.integers(2, 16), st.integers(1, 400))
def test_a_cover_has_each_round_once_in_few_segments_that_stay(sizes, fan_out, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "FAN_OUT", fan_out)
        patch.setattr(checkpoint, "MOST_ROWS", most)
        rows, known = [0], set()
        for size in sizes:
            rows.append(rows[-1] + size)
            spans = list(checkpoint._cover(rows))
            known |= set(spans)
        ends = [end for _, end in spans] if sizes else []
        starts = [first for first, _ in spans] if sizes else []
        assert all(a <= b for a, b in zip(ends, starts[1:], strict=False))
        if sizes and rows[-1] <= most:  # then only the last rounds are in none
            assert sum(b - a for a, b in spans) == len(sizes) - len(sizes) % fan_out
            assert len(spans) <= (fan_out - 1) * (1 + len(f"{len(sizes):b}"))
            assert list(checkpoint._chosen(known)) == spans
        assert all(rows[end] - rows[first] <= most for first, end in spans) if sizes else True


def test_each_round_is_written_again_a_few_times_only(tmp_path, pairs):
    run = build(tmp_path / "run", [1] * 32)
    written = sum(end - first for first, end in segment_keys(run))
    assert 32 < written <= 5 * 32  # in segments of 2, 4, 8, 16 and 32


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "flipped", "foreign"])
def test_a_damaged_segment_is_read_from_its_rounds(tmp_path, pairs, damage):
    run = build(tmp_path / "run", [3, 0, 5, 1, 2, 7, 1])
    other = build(tmp_path / "other", [2, 1, 4, 2, 1, 8, 1])
    expected = one_by_one(run)
    for key in list(run.objects.list(FOLDER)):
        data = run.objects.get(key)
        if damage == "gone":
            run.objects.delete(key)
        else:
            flipped = data[:40] + bytes([data[40] ^ 1]) + data[41:]
            wrong = {"empty": b"", "cut": data[: len(data) // 2], "flipped": flipped}
            run.objects.put(key, wrong.get(damage, other.objects.get(key)))
        assert read(run) == expected, key
        run.objects.put(key, data)


def test_without_any_segment_the_next_driver_writes_those_that_lack(tmp_path, pairs):
    run = build(tmp_path / "run", [3, 0, 5, 1, 2, 7, 1])
    expected = one_by_one(run)
    for key in list(run.objects.list(FOLDER)):
        run.objects.delete(key)
    with run.held():
        CommittedRounds.read(run).write()
    assert set(segment_keys(run)) == {(0, 4), (4, 6)}
    assert read(run) == expected


def test_a_segment_and_its_successors_are_told_by_number_not_by_name():
    spans = [(99_984, 100_000), (99_968, 99_984), (100_000, 100_016), (99_968, 100_224)]
    assert list(checkpoint._chosen(spans)) == [(99_968, 100_224)]
    assert list(checkpoint._chosen(spans[:3])) == sorted(spans[:3])


def test_rows_are_found_at_their_places_across_rounds(tmp_path):
    run = build(tmp_path / "run", [3, 0, 5, 1])
    rounds = CommittedRounds.read(run)
    ids = [row["id"] for table in rounds.tables for row in table.to_pylist()]
    for start in range(9):
        for stop in range(start + 1, 10):
            assert rounds.rows(start, stop)["id"].to_pylist() == ids[start:stop]


def test_embeddings_are_those_of_the_rounds(tmp_path, pairs):
    run = build(tmp_path / "run", [3, 0, 5, 1])
    tables = [table.to_pylist() for table in CommittedRounds.read(run).with_embeddings()]
    assert tables == [t.to_pylist() for t in run.accepted([*POOL_COLUMNS, "embedding"])]


@pytest.mark.parametrize("embeddings", [False, True])
def test_what_is_read_table_by_table_is_the_same_and_is_let_go(tmp_path, pairs, embeddings):
    run = build(tmp_path / "run", [3, 0, 5, 1, 2, 7, 0, 4, 4, 1, 0, 6, 2])
    rounds = CommittedRounds.read(run)
    expected = [t.to_pylist() for t in (rounds.with_embeddings() if embeddings else rounds.tables)]
    found, taken, most = [], [], 0
    for table in accepted_tables(run, embeddings=embeddings):
        found.append(table.to_pylist())
        taken.append(weakref.ref(table))
        most = max(most, sum(reference() is not None for reference in taken))
    assert found == expected
    assert most <= 8 < len(taken)  # those of a segment


def test_a_resume_reads_few_objects_whatever_the_rounds(tmp_path):
    build(tmp_path / "run", [1] * 100)
    run = counted(tmp_path / "run")
    CommittedRounds.read(run)
    # six segments of two objects, the last manifest of each; four rounds of two; instances, and
    # what is asked for behind the last round before it is known to be that
    assert run.objects.calls["get"] <= 6 * 3 + 4 * 2 + 1 + 33
    whole = [key for key in run.objects.keys if "/accepted-" in key]
    assert len(whole) == 4


def test_a_round_of_a_superseded_driver_behind_the_last_is_not_taken(tmp_path, pairs):
    run = build(tmp_path / "run", [3, 2, 5, 1])
    with run.held():
        run._commit("instances/manifest.json", {"parts": [], "rounds": 3})
    assert len(CommittedRounds.read(run).manifests) == len(read_manifests(run)) == 3
