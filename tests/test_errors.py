"""Errors cross process boundaries unharmed."""

from __future__ import annotations

import inspect
import pickle

import pytest

from ray_si import errors

TREE = [
    item
    for _, item in inspect.getmembers(errors, inspect.isclass)
    if issubclass(item, errors.RaySIError)
]


@pytest.mark.parametrize("kind", TREE)
def test_every_error_survives_pickling(kind):
    copy = pickle.loads(pickle.dumps(kind("what to do about it")))
    assert type(copy) is kind
    assert str(copy) == "what to do about it"


@pytest.mark.parametrize("kind", TREE)
def test_the_docstring_draws_every_error(kind):
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("text", "limit", "line"),
    [
        ("two\n lines\t here ", None, "two lines here"),
        ("cut after so many", 8, "cut aft…"),
        ("half a pair \ud83d, a whole one \U0001f600", None, "half a pair �, a whole one 😀"),
    ],
    ids=["lines", "long", "half a pair"],
)
def test_any_text_becomes_one_line_that_can_be_written(text, limit, line):
    assert errors.one_line(ValueError(text), limit) == line
    errors.one_line(text, limit).encode()
