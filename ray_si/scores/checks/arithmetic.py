"""Sums in an answer, done again: the one that was asked for, and every equation it states."""

from __future__ import annotations

import re
from fractions import Fraction

_OPERATOR = r"[-+*/×÷−x]"
_PLAIN = r"\d{1,9}(?:\.\d{1,6})?"
_SUM = rf"{_PLAIN}(?:\s*{_OPERATOR}\s*{_PLAIN}){{1,6}}"
_EQUATION = re.compile(
    rf"(?<![\w.,^)(%+*/×÷−-])(?<![-+*/×÷−x=]\s)({_SUM})\s*=\s*(-?{_PLAIN}(?:,\d{{3}})*)(?![\w,^%/]|\.\d|\s*{_OPERATOR})"
)
_ASKED = re.compile(
    rf"(?:what is|what's|calculate|compute|solve|evaluate|find|add up)\s+({_SUM})\s*(?:[?.=!]|$)",
    re.I,
)
_RESULT = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "x": "*", "X": "*"})

_LONGEST = 4000
"""Characters of a result: Python reads no number of more than 4,300 digits."""


def wrong_sum(instruction: str, output: str) -> str | None:
    """A sum that comes to something else, to the digits that are given; None where none does.

    Checked are equations in the output, and the last number of the output where the instruction
    asks for one sum. Dates, ranges and fractions are no sums unless something equals them.
    """
    for written, result in _EQUATION.findall(output):
        if wrong := _wrong(written, result):
            return wrong
    asked = _ASKED.search(instruction)
    results = _RESULT.findall(output)
    if asked and results:
        return _wrong(asked[1], results[-1].rstrip(","))
    return None


def _wrong(written: str, result: str) -> str | None:
    if len(result) > _LONGEST:
        return None
    value = _value(written)
    if value is None:
        return f"{written} has no value"
    digits = len(result.partition(".")[2])
    distance = abs(value - Fraction(result.replace(",", "")))
    return None if distance <= Fraction(1, 2 * 10**digits) else f"{written} is not {result}"


def _value(written: str) -> Fraction | None:
    """The value of a sum without parentheses; None for a division by zero."""
    parts = re.split(rf"\s*({_OPERATOR})\s*", written.translate(_SIGNS))
    total, sign, term = Fraction(0), 1, Fraction(parts[0])
    for operator, text in zip(parts[1::2], parts[2::2], strict=True):
        number = Fraction(text)
        if operator == "*":
            term *= number
        elif operator == "/":
            if not number:
                return None
            term /= number
        else:
            total += sign * term
            sign, term = (1 if operator == "+" else -1), number
    return total + sign * term
