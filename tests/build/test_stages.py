"""Rows in, rows out: what goes wrong with one row is that row's."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pytest
import ray

from ray_si.build import answering
from ray_si.build.answering import Task
from ray_si.build.stages import _DEALT, _packed, _unpacked, generate, warm_up, write_blocks
from ray_si.engines.base import Completion
from ray_si.errors import GenerationError
from ray_si.serving.applications import Generators
from ray_si.storage.objects import open_objects
from ray_si.storage.tables import ShardInfo, read_table, write_table
from tests.clusters import node_with_gpus
from tests.run.counting import Counting


def stored(block, answers):
    """A block with what was answered."""
    texts, errors = zip(*((answer.text, answer.error) for answer in answers), strict=True)
    columns = {"text": pa.array(texts, pa.string()), "error": pa.array(errors, pa.string())}
    return pa.table({name: block[name] for name in block.column_names} | columns)


@dataclass(frozen=True)
class Troubled:
    """Answers without asking; some rows make trouble, each at another place."""

    folder: str = "troubled"
    row_id: str = "id"

    async def answer(self, row, ask):
        if row["id"] == "raises":
            raise LookupError("no such\nthing \ud83d")
        if row["id"] == "ends all":
            raise GenerationError("the generator was removed")
        return Completion(row["id"], "stop")

    def failed(self, error):
        return error

    def complete(self, block, answers):
        for answer in answers:
            if answer.text == "cannot be parsed":
                raise RecursionError("too deep")
        return stored(block, answers)

    def summary(self, stored, info):
        return stored


@dataclass(frozen=True)
class Late(Troubled):
    """Whose last row takes its time."""

    async def answer(self, row, ask):
        if row["id"].startswith(f"{99_998 + 39} 1"):
            await asyncio.sleep(3)
        return Completion(row["id"], "stop")


def write(location, ids, **options):
    """What a task makes of one block, here in this process, and how that is stored."""
    block = pa.table({"block": [0] * len(ids), "id": ids})
    generators = Generators({}, {"app": 4})
    task = Task(Troubled(), generators, str(location), (0,), fencing=7, **options)
    dealt = pa.Table.from_pylist([{"block": [0], "rows": [_packed(block)]}], _DEALT)
    (row,) = (row for done in generate(dealt, task=task) for row in done.to_pylist())
    if row["error"]:
        return row["error"], row["message"]
    info = ShardInfo(row["key"], row["rows"], row["size"], row["sha256"])
    return _unpacked(row["summary"]), info


def test_what_raises_in_a_row_is_the_error_of_that_row(tmp_path):
    table, info = write(tmp_path, ["good", "raises", "cannot be parsed", "better"])
    assert table["text"].to_pylist() == ["good", "", "", "better"]
    assert table["error"].to_pylist() == [
        None,
        "LookupError: no such thing \ufffd",
        "RecursionError: too deep",
        None,
    ]
    assert info.key == "troubled/block-00000.parquet"
    assert read_table(open_objects(str(tmp_path)), info.key).equals(table)


def test_an_error_that_means_all_rows_is_raised(tmp_path):
    error = write(tmp_path, ["good", "ends all"])
    assert error == ("GenerationError", "the generator was removed")


def test_a_block_that_is_asked_again_leaves_the_earlier_one(tmp_path):
    _, first = write(tmp_path, ["raises"])
    before = open_objects(str(tmp_path)).get(first.key)
    table, info = write(tmp_path, ["good"], again=frozenset([0]))
    assert table["text"].to_pylist() == ["good"]
    assert info.key == "troubled/block-00000-00007.parquet"
    assert open_objects(str(tmp_path)).get(first.key) == before


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_a_damaged_block_that_stands_there_is_named(tmp_path, monkeypatch, moment):
    if moment == "meanwhile":
        monkeypatch.setattr(answering, "_stored", lambda task, number, block: None)
    open_objects(str(tmp_path)).put("troubled/block-00000.parquet", b"damaged")
    error, message = write(tmp_path, ["one", "two"])
    assert error == "RunError"
    assert message.startswith(f"{tmp_path}/troubled/block-00000.parquet cannot be read")


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_what_another_driver_stored_of_other_rows_does_not_count(tmp_path, monkeypatch, moment):
    if moment == "meanwhile":
        monkeypatch.setattr(answering, "_stored", lambda task, number, block: None)
    objects = open_objects(str(tmp_path))
    block = pa.table({"block": [0], "id": ["cut short"]})
    late = stored(block, [Completion("", "stop")])
    write_table(objects, "troubled/block-00000.parquet", late)
    table, info = write(tmp_path, ["one", "two"])
    assert table["id"].to_pylist() == ["one", "two"]
    assert info.key == "troubled/block-00000-00007.parquet"
    assert read_table(objects, "troubled/block-00000.parquet").equals(late)


def test_a_task_lists_nothing_and_looks_for_each_of_its_blocks_once(tmp_path, monkeypatch):
    stores = []

    def counting(location):
        stores.append(Counting(open_objects(location)))
        return stores[-1]

    monkeypatch.setattr(answering, "open_objects", counting)
    write(tmp_path, ["one", "two"])
    calls = sum((store.calls for store in stores), Counter())
    assert calls == {"get": 1, "put_if_absent": 1}


def blocks_of(count, rows, text="x"):
    return {
        number: pa.table(
            {"block": [number] * rows, "id": [f"{number} {k} {text}" for k in range(rows)]}
        )
        for number in range(99_998, 99_998 + count)
    }


def written(location, blocks, **options):
    generators = Generators({}, {"app": 4})
    task = Task(Troubled(), generators, str(location), (0,), fencing=7, **options)
    return {
        number: (table, info)
        for number, table, info in write_blocks(blocks, task, parallel_phases=False)
    }


def test_a_block_larger_than_the_parts_that_ray_data_makes_comes_back_whole(
    ray_session, tmp_path, monkeypatch
):
    import ray.data

    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "target_max_block_size", 2000)
    blocks = blocks_of(6, 8, text="x" * 1000)
    found = written(tmp_path, blocks)
    assert sorted(found) == sorted(blocks)
    for number, (table, info) in found.items():
        assert table["id"].equals(blocks[number]["id"])
        assert (info.key, info.rows) == (f"troubled/block-{number:05d}.parquet", 8)


def test_a_task_gives_its_blocks_in_order_each_as_soon_as_it_can(tmp_path, monkeypatch):
    """So that one that is done again, from what is stored by then, goes on where it left off."""
    begun = []

    def store(task, number, block, answers):
        begun.append(number)
        while number == 99_998 and len(begun) < 3:  # the first is stored last
            time.sleep(0.01)
        return original(task, number, block, answers)

    original = answering._store
    monkeypatch.setattr(answering, "_store", store)
    blocks = blocks_of(3, 2)
    generators = Generators({}, {"app": 4})
    task = Task(Troubled(), generators, str(tmp_path), (0,), fencing=7)
    numbers = [done["block"] for done in answering.answered(blocks, task)]
    assert numbers == list(blocks)
    assert sorted(begun) == list(blocks)
    begun.clear()
    assert [done["block"] for done in answering.answered(blocks, task)] == numbers
    assert begun == []


@dataclass(frozen=True)
class Staged(Troubled):
    """With something to do before and after."""

    def render(self, drawn):
        return pa.table(
            {"block": drawn["block"], "id": [f"{id_}!" for id_ in drawn["id"].to_pylist()]}
        )

    def parse(self, summary):
        return summary.append_column("length", pa.array([len(t.as_py()) for t in summary["text"]]))


@pytest.mark.parametrize("leave_cores", [True, False])
def test_staged_work_is_rendered_before_and_parsed_after(ray_session, tmp_path, leave_cores):
    blocks = blocks_of(5, 3)
    generators = Generators({}, {"app": 4}, leave_cores=leave_cores)
    task = Task(Staged(), generators, str(tmp_path), (0,), fencing=7)
    found = {number: t for number, t, _ in write_blocks(blocks, task, parallel_phases=False)}
    assert sorted(found) == sorted(blocks)
    for number, table in found.items():
        expected = [f"{id_}!" for id_ in blocks[number]["id"].to_pylist()]
        assert table["text"].to_pylist() == expected
        assert table["length"].to_pylist() == [len(text) for text in expected]


def test_every_node_has_a_worker_that_is_warm(ray_address):
    with node_with_gpus(ray_address, 1, cpus=1):
        assert warm_up(1) == {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def test_blocks_come_back_while_their_task_goes_on(ray_session, tmp_path):
    blocks, seen = blocks_of(40, 2), []
    task = Task(Late(), Generators({}, {"app": 4}), str(tmp_path), (0,), fencing=7)
    for _ in write_blocks(blocks, task, parallel_phases=True):
        seen.append(time.monotonic())
    assert len(seen) == 40
    assert seen[-1] - seen[0] > 2  # all are of one task, whose last row takes three seconds


def test_blocks_that_a_task_has_no_time_for_come_back_unwritten(ray_session, tmp_path):
    assert written(tmp_path, blocks_of(3, 2), until=1.0) == {}
    assert list(open_objects(str(tmp_path)).list()) == []


def test_an_error_of_ours_in_a_task_is_raised_here_in_one_line(ray_session, tmp_path):
    blocks = {0: pa.table({"block": [0, 0], "id": ["good", "ends all"]})}
    with pytest.raises(GenerationError, match=r"^the generator was removed$"):
        written(tmp_path, blocks)
