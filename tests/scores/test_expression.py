"""Conditions over scores: a part of Python's grammar, three-valued, and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ray_si.errors import ConfigError
from ray_si.scores.expression import Expression

NAMES = ["judge", "checks", "length"]
NAN = math.nan


def values(text, **columns):
    arrays = {name: np.array(column, float) for name, column in columns.items()}
    return Expression.parse(text, NAMES).values(arrays).tolist()


def test_comparisons_and_truth():
    judge, checks = [5, 4, 3, 5], [1, 1, 1, 0]
    assert values("judge >= 4 and checks", judge=judge, checks=checks) == [1, 1, 0, 0]
    assert values("not checks or judge < 4", judge=judge, checks=checks) == [0, 0, 1, 1]
    assert values("3 < judge <= 4", judge=judge) == [0, 1, 0, 0]
    assert values("judge + 2 * length - 1", judge=[1], length=[3]) == [6]
    assert values("-judge == -4", judge=judge) == [0, 1, 0, 0]


def test_what_is_unknown_neither_holds_nor_does_its_contrary():
    assert np.isnan(values("judge >= 4", judge=[NAN])).all()
    assert np.isnan(values("not judge >= 4", judge=[NAN])).all()
    assert values("judge >= 4 and checks", judge=[NAN], checks=[0]) == [0]
    assert values("judge >= 4 or checks", judge=[NAN], checks=[1]) == [1]
    assert np.isnan(values("length / 0", length=[1])).all()


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')", "judge.real", "judge[0]", "[judge]", "lambda: 1", "judge if 1 else 2",
        "'text'", "judge is checks", "judge in checks", "judge ** 9", "judge @ 2", "~judge",
        "(x := judge)", "f'{judge}'", "judge << 9", "1j", "None", "...",
    ],
)  # fmt: skip
def test_all_else_is_refused_in_one_line(text):
    with pytest.raises(ConfigError) as caught:
        Expression.parse(text, NAMES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "judge >=", "judge = 4", "(" * 500, "1" + " + 1" * 5000, "\x00"]
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(ConfigError):
        Expression.parse(text, NAMES)


def test_an_unknown_score_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no score jugde \(did you mean judge\?\)"):
        Expression.parse("jugde >= 4", NAMES)


def test_names_are_told_in_order_of_use():
    assert Expression.parse("checks and judge > length + judge", NAMES).names == (
        "checks", "judge", "length",
    )  # fmt: skip


NUMBERS = st.sampled_from([0.0, 1.0, 2.0, 3.0, NAN])


@st.composite
def conditions(draw, depth=3):
    if depth == 0 or draw(st.booleans()):
        left, right = draw(st.sampled_from(NAMES)), draw(st.sampled_from([*NAMES, "1", "2"]))
        return f"{left} {draw(st.sampled_from(['<', '<=', '>', '>=', '==', '!=']))} {right}"
    if draw(st.booleans()):
        return f"not ({draw(conditions(depth=depth - 1))})"
    word = draw(st.sampled_from(["and", "or"]))
    return f"({draw(conditions(depth=depth - 1))}) {word} ({draw(conditions(depth=depth - 1))})"


@given(conditions(), st.tuples(NUMBERS, NUMBERS, NUMBERS))
def test_where_all_is_known_it_says_what_python_says(text, numbers):
    row = dict(zip(NAMES, numbers, strict=True))
    found = values(text, **{name: [value] for name, value in row.items()})[0]
    if not any(math.isnan(value) for value in numbers):
        assert bool(found) == bool(eval(text, {}, row))
    elif not math.isnan(found):  # known whatever the unknown ones are
        for filler in (0.0, 1.5, 3.0):
            filled = {n: filler if math.isnan(v) else v for n, v in row.items()}
            assert bool(found) == bool(eval(text, {}, filled))
