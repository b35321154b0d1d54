"""Enough rows that hold ``select.during``: counted the same however often a run is resumed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from ray_si.config.file import parse_config
from ray_si.run.layout import block_key
from ray_si.run.run import Run
from ray_si.run.schemas import INSTANCE_BLOCK
from ray_si.run.seeds import load_seeds
from ray_si.scores.during import EnoughRows
from ray_si.storage.tables import write_table

SIZE, WANTED = 2, 6


def configured(lookahead=0):
    return parse_config(
        {
            "bootstrap": {"lookahead": lookahead},
            "instances": {"block_size": SIZE},
            "select": {"during": {"by": "length < 3", "rows": WANTED}},
        }
    )


@dataclass
class Rounds:
    """Committed rounds, as far as they are looked at."""

    sizes: list[int]
    manifests: list[dict] = field(default_factory=list)

    def accepted_before(self, round_):
        return sum(self.sizes[:round_])

    def commit(self, enough):
        self.manifests.append({"passed": enough.passed})


def block(number, passing, rows=SIZE, reason="stop"):
    """An instance block, of whose rows so many hold the condition."""
    made = [
        {
            "block": number,
            "id": f"i{number:05d}-{k}",
            "instruction": "Do.",
            "seed": k,
            "is_classification": False,
            "finish_reason": reason,
            "instances": [{"input": "", "output": "one" if k < passing else "one two three four"}],
        }
        for k in range(rows)
    ]
    return pa.Table.from_pylist(made, INSTANCE_BLOCK)


@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=8),
    passing=st.lists(st.integers(0, SIZE), min_size=28, max_size=28),
    lookahead=st.integers(0, 3),
    data=st.data(),
)
def test_the_count_is_that_of_the_first_full_blocks_and_a_resume_goes_on_with_it(
    sizes, passing, lookahead, data
):
    rounds, config = Rounds(sizes), configured(lookahead)
    enough = EnoughRows(config, rounds)
    read = []

    def blocks(first, last):
        read.extend(range(first, last))
        return [block(number, passing[number]) for number in range(first, last)]

    for committed in range(len(sizes) + 1):
        if data.draw(st.booleans(), label="resumed"):
            before = len(rounds.manifests) - 1
            enough = EnoughRows(config, rounds)
            del read[rounds.manifests[before]["passed"]["blocks"] if before >= 0 else 0 :]
        seen = sum(sizes[: max(0, committed - lookahead)]) // SIZE
        assert enough.are_there(blocks) == (sum(passing[:seen]) >= WANTED)
        assert enough.passed == {"blocks": seen, "rows": sum(passing[:seen])}
        assert read == list(range(seen))
        rounds.commit(enough)


@pytest.fixture
def run(location):
    run = Run.prepare(location, {"config": {}, "identity": {}}, "fingerprint")
    with run.held():
        run.create(load_seeds("bundled")[0][:3])
        yield run


@pytest.mark.parametrize(
    ("last", "stands"),
    [
        ({"passing": 2}, True),
        ({"passing": 1}, False),
        ({"passing": 2, "reason": "error"}, False),
        ({"passing": 1, "rows": 1}, False),
        (None, False),
    ],
    ids=["all stand", "too few hold it", "one to be asked again", "one cut short", "one missing"],
)
def test_blocks_that_stand_tell_without_any_being_written(run, last, stands):
    for number, values in enumerate([{"passing": 2}, {"passing": 2}, last]):
        if values:
            write_table(run.objects, block_key("instances", number), block(number, **values))
    assert EnoughRows(configured(), Rounds([6], [{}])).stand_in(run) == stands
    counted = Rounds([6], [{"passed": {"blocks": 2, "rows": 4}}])
    assert EnoughRows(configured(), counted).stand_in(run) == stands


def test_without_a_condition_there_is_nothing_to_count(run):
    enough = EnoughRows(parse_config({}), Rounds([6], [{}]))
    assert not enough
    assert not enough.are_there(lambda first, last: pytest.fail("read"))
    assert not enough.stand_in(run)
