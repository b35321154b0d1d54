"""A small language of conditions over scores: comparisons, and, or, not, arithmetic.

It is a part of Python's own grammar, parsed by `ast` and computed over columns; nothing in it can
call, index or look anything up but a score by its name. A row without a score is *unknown* where it
matters: no comparison of it holds, nor does ``not`` of one (Kleene's three-valued logic).
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ray_si.errors import ConfigError

_LONGEST = 2000
"""Characters of an expression: what is longer was not written by a person."""

Columns = Mapping[str, np.ndarray]
"""Scores by name, float64 with NaN for what is unknown, all of shape (rows,)."""

_COMPARE: dict[type[ast.cmpop], Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class Expression:
    """A parsed expression; ``names`` are the scores in it, in order of first use."""

    text: str
    names: tuple[str, ...]
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str, known: Iterable[str]) -> Expression:
        """Parse an expression over these names; ConfigError with what is wrong in it."""
        if len(text) > _LONGEST:
            raise ConfigError(f"the expression has {len(text)} characters; {_LONGEST} are enough")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = getattr(error, "msg", None) or error
            raise ConfigError(f"{text!r} is no expression: {reason}") from error
        names: dict[str, None] = {}
        _check(tree, text, list(known), names)
        return cls(text, tuple(names), tree)

    def values(self, columns: Columns) -> np.ndarray:
        """The expression for each row, float64: numbers, 1 and 0 for true and false, or NaN."""
        rows = len(next(iter(columns.values()))) if columns else 0
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            computed = np.broadcast_to(_compute(self._tree, columns), (rows,)).astype(np.float64)
        return np.where(np.isfinite(computed), computed, np.nan)


def _check(node: ast.expr, text: str, known: list[str], names: dict[str, None]) -> None:
    """Raise ConfigError at the first part that the language has not; collect the names."""
    if isinstance(node, ast.Name):
        if node.id not in known:
            near = difflib.get_close_matches(node.id, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
            raise ConfigError(f"{text!r}: there is no score {node.id} ({hint})")
        names[node.id] = None
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        return
    parts: list[ast.expr] = []
    if isinstance(node, ast.BoolOp):
        parts = node.values
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        parts = [node.operand]
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        parts = [node.left, node.right]
    elif isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        parts = [node.left, *node.comparators]
    else:
        written = ast.get_source_segment(text.strip(), node) or type(node).__name__
        raise ConfigError(
            f"{text!r}: {written!r} is not understood; there are scores, numbers, and, or, not, "
            "< <= > >= == != + - * /"
        )
    for part in parts:
        _check(part, text, known, names)


def _compute(node: ast.expr, columns: Columns) -> np.ndarray:
    if isinstance(node, ast.Name):
        return columns[node.id]
    if isinstance(node, ast.Constant):
        return np.asarray(float(node.value))  # type: ignore[arg-type]
    if isinstance(node, ast.BoolOp):
        parts = [_truth(_compute(part, columns)) for part in node.values]
        combine = _and if isinstance(node.op, ast.And) else _or
        result = parts[0]
        for part in parts[1:]:
            result = combine(result, part)
        return result
    if isinstance(node, ast.UnaryOp):
        operand = _compute(node.operand, columns)
        return 1 - _truth(operand) if isinstance(node.op, ast.Not) else -operand
    if isinstance(node, ast.BinOp):
        left, right = _compute(node.left, columns), _compute(node.right, columns)
        return _ARITHMETIC[type(node.op)](left, right)
    assert isinstance(node, ast.Compare), "checked when it was parsed"
    operands = [_compute(part, columns) for part in (node.left, *node.comparators)]
    result = np.asarray(1.0)
    for k, op in enumerate(node.ops):
        result = _and(result, _compared(_COMPARE[type(op)], operands[k], operands[k + 1]))
    return result


def _compared(
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray], left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    unknown = np.isnan(left) | np.isnan(right)
    return np.where(unknown, np.nan, compare(left, right))


def _truth(values: np.ndarray) -> np.ndarray:
    """1 for what is not 0, 0 for 0, NaN for what is unknown."""
    return np.where(np.isnan(values), np.nan, values != 0)


def _and(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.where((left == 0) | (right == 0), 0.0, left * right)


def _or(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    either: np.ndarray = np.where((left == 1) | (right == 1), 1.0, left + right)
    return either
