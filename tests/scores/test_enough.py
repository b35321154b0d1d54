"""Enough rows that hold ``select.during``: counted the same however often a run is resumed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from ray_si.config.file import parse_config
from ray_si.errors import LeaseLostError
from ray_si.run.layout import block_key
from ray_si.run.run import Run
from ray_si.run.schemas import INSTANCE_BLOCK
from ray_si.run.seeds import load_seeds
from ray_si.scores.during import EnoughRows
from ray_si.storage.tables import write_table

SIZE, WANTED = 2, 6


def configured(lookahead=0, wanted=WANTED):
    return parse_config(
        {
            "bootstrap": {"lookahead": lookahead},
            "instances": {"block_size": SIZE},
            "select": {"during": {"by": "length < 3", "rows": wanted}},
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


class Blocks:
    """So many rows of each block hold the condition; in ``failing`` ones requests failed."""

    def __init__(self, passing, failing):
        self.passing, self.failing = passing, failing
        self.read = []

    def __call__(self, first, last):
        self.read.extend(range(first, last))
        for number in range(first, last):
            reason = "error" if number in self.failing else "stop"
            yield block(number, self.passing[number], reason=reason)

    def held(self, count):
        return {"blocks": count, "rows": sum(self.passing[:count])}


@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=8),
    passing=st.lists(st.integers(0, SIZE), min_size=28, max_size=28),
    failing=st.sets(st.integers(0, 27), max_size=2),
    lookahead=st.integers(0, 3),
    data=st.data(),
)
def test_the_count_is_that_of_the_first_full_blocks_and_a_resume_goes_on_with_what_is_final(
    sizes, passing, failing, lookahead, data
):
    rounds, config, blocks = Rounds(sizes), configured(lookahead), Blocks(passing, failing)
    enough, start = EnoughRows(config, rounds), 0
    for committed in range(len(sizes) + 1):
        if data.draw(st.booleans(), label="resumed"):
            healed = data.draw(st.booleans(), label="asked again")
            start = rounds.manifests[-1]["passed"]["blocks"] if rounds.manifests else 0
            failing = set() if healed else {number for number in failing if number >= start}
            blocks = Blocks(passing, failing)
            enough = EnoughRows(config, rounds)
        seen = sum(sizes[: max(0, committed - lookahead)]) // SIZE
        assert enough.are_there(blocks) == (sum(passing[:seen]) >= WANTED)
        assert enough.passed == blocks.held(min([seen, *failing]))
        assert blocks.read == list(range(start, seen))
        rounds.commit(enough)


@pytest.fixture
def run(location):
    run = Run.prepare(location, {"config": {}, "identity": {}}, "fingerprint")
    with run.held():
        run.create(load_seeds("bundled")[0][:3])
        yield run


@pytest.mark.parametrize(
    ("last", "stands", "counted"),
    [
        ({"passing": 2}, True, 3),
        ({"passing": 0}, False, 3),
        ({"passing": 2, "reason": "error"}, False, 2),
        ({"passing": 1, "rows": 1}, False, 2),
        (None, False, 2),
    ],
    ids=["all stand", "too few hold it", "one to be asked again", "one cut short", "one missing"],
)
@pytest.mark.parametrize("lookahead", [0, 1])
def test_blocks_that_stand_tell_without_any_being_written(run, lookahead, last, stands, counted):
    for number, values in enumerate([{"passing": 2}, {"passing": 2}, last]):
        if values:
            write_table(run.objects, block_key("instances", number), block(number, **values))
    rounds = Rounds([6, 9], [{}] * (1 + lookahead))
    config = configured(lookahead, wanted=5 if counted == 3 else 4)
    enough = EnoughRows(config, rounds)
    assert enough.stand_in(run) == stands
    assert enough.passed["blocks"] == counted
    rounds.manifests[-1]["passed"] = enough.passed
    assert EnoughRows(config, rounds).stand_in(run) == stands


def test_a_lost_lease_ends_the_count(run):
    write_table(run.objects, block_key("instances", 0), block(0, 2))

    def check():
        raise LeaseLostError("another driver")

    with pytest.raises(LeaseLostError):
        EnoughRows(configured(), Rounds([2], [{}])).stand_in(run, check)


def test_without_a_condition_there_is_nothing_to_count(run):
    enough = EnoughRows(parse_config({}), Rounds([6], [{}]))
    assert not enough
    assert not enough.are_there(lambda first, last: pytest.fail("read"))
    assert not enough.stand_in(run)
