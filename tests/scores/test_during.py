"""Counting rows that hold a condition in a run that is being built."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from ray_si.config.file import parse_config
from ray_si.errors import ConfigError
from ray_si.scores.during import Passing


def passing(by, **values):
    return Passing.of(parse_config({"select": {"during": {"by": by, "rows": 5}}} | values))


def block(*rows):
    """Of instructions, each with the outputs of its instances."""
    return pa.Table.from_pylist(
        [
            {
                "instruction": instruction,
                "is_classification": is_classification,
                "instances": [{"input": "", "output": text} for text in outputs],
            }
            for instruction, is_classification, outputs in rows
        ]
    )


def test_every_instance_counts_that_holds_the_condition():
    written = block(
        ("Name a river.", False, ["The Nile.", "The river Rhine, which is long."]),
        ("Answer in two words or less.", True, ["It is so.", "Yes."]),
        ("Say nothing.", False, []),
    )
    assert passing("length > 0").count(written) == 4
    assert passing("length < 4").count(written) == 3
    assert passing("checks").count(written) == 3  # three words are more than two
    assert passing("checks and is_classification").count(written) == 1
    assert passing("length < 0").count(written) == 0
    assert passing("length > 0").count(block(("Say nothing.", False, []))) == 0


def test_an_answers_likelihood_is_that_of_the_one_that_was_chosen():
    answers = [
        {"is_chosen": False, "mean_logprob": -0.1},
        {"is_chosen": True, "mean_logprob": -2.0},
    ]
    (row,) = block(("Name a river.", False, ["The Nile."])).to_pylist()
    written = pa.Table.from_pylist([row | {"answers": answers}])
    steps = {"instances": {"method": "steps"}}
    assert passing("logprob > -1", **steps).count(written) == 0
    assert passing("logprob > -3", **steps).count(written) == 1
    unknown = [answers[1] | {"mean_logprob": None}]
    assert (
        passing("logprob > -3", **steps).count(pa.Table.from_pylist([row | {"answers": unknown}]))
        == 0
    )


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("lenght < 4", "select.during.by: 'lenght < 4': there is no score lenght (did you mean"),
        ("judge > 3", "there are: length, logprob, checks, is_classification"),
        ("logprob > -1", "set instances.method to steps"),
        ("length <", "is no expression"),
    ],
)
def test_a_condition_that_a_build_cannot_know_is_refused(by, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        passing(by)


def test_runs_without_a_condition_are_what_they_were():
    plain = parse_config({})
    assert Passing.of(plain) is None
    assert "select" not in plain.identity()
    given = parse_config({"select": {"during": {"by": "checks", "rows": 5}}})
    assert given.fingerprint("seeds") != plain.fingerprint("seeds")
    assert parse_config(given.model_dump(mode="json")) == given
    with pytest.raises(ConfigError, match=r"leave output\.keep out"):
        parse_config(
            {
                "select": {"during": {"by": "checks", "rows": 5}},
                "output": {"keep": {"rows": 4}},
                "instances": {"method": "steps"},
            }
        )
