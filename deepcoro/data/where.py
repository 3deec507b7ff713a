"""`data.where`: a condition on the columns of films.parquet, such as `status == 'diagnostic' and num_frames >= 10`.

The grammar is Python's, and no more of it than comparisons, `in`, `is null`, `and`, `or`, `not`: it is parsed, never run. A column
whose name is no word stands in backticks. Logic has three values: what compares with null is unknown, and so is its negation; a
film is kept when the whole is true.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow
import pyarrow.compute

from deepcoro.config import ConfigError

_EXAMPLE = "write it like status == 'diagnostic' and num_frames >= 10 and side in ['left', 'right'] and not view is null"
_COMPARISONS = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_TRUTHS = {"true": 1, "false": 0}
_WORD = "__column_{}__"

Value = str | float | int


@dataclass(frozen=True)
class Kept:
    """What a condition made of a table."""

    films: np.ndarray
    """Whether each row is kept."""
    unknown: dict[str, int]
    """Comparison -> rows that were dropped while it was unknown, because a value is null."""


@dataclass(frozen=True)
class Where:
    """A parsed condition."""

    text: str
    columns: tuple[str, ...]
    """Columns that it names."""
    _tree: ast.expr
    _names: dict[str, str]
    """Stand-in -> column, for names in backticks."""

    def apply(self, table: pyarrow.Table) -> Kept:
        """`table` holds the columns. ConfigError when numbers are compared with words."""
        result = self._value(self._tree, table)
        lost = pyarrow.compute.is_null(result)
        unknown = {}
        for term in (each for each in ast.walk(self._tree) if isinstance(each, ast.Compare)):
            missing = pyarrow.compute.and_(pyarrow.compute.is_null(self._value(term, table)), lost)
            unknown[self._show(term)] = pyarrow.compute.sum(missing).as_py() or 0
        kept = pyarrow.compute.fill_null(result, False)
        return Kept(np.asarray(kept, bool), {term: count for term, count in unknown.items() if count})

    def _show(self, node: ast.expr) -> str:
        text = ast.unparse(node)
        for word, column in self._names.items():
            text = text.replace(word, f"`{column}`")
        return text

    def _value(self, node: ast.expr, table: pyarrow.Table) -> pyarrow.ChunkedArray:
        if isinstance(node, ast.BoolOp):
            join = pyarrow.compute.and_kleene if isinstance(node.op, ast.And) else pyarrow.compute.or_kleene
            first, *others = (self._value(each, table) for each in node.values)
            for other in others:
                first = join(first, other)
            return first
        if isinstance(node, ast.UnaryOp):
            return pyarrow.compute.invert(self._value(node.operand, table))
        first, *others = (self._compared(*link, table) for link in _links(node))
        for other in others:  # a < b < c
            first = pyarrow.compute.and_kleene(first, other)
        return first

    def _compared(
        self, left: ast.expr, operator: ast.cmpop, right: ast.expr, table: pyarrow.Table
    ) -> pyarrow.ChunkedArray:
        if isinstance(operator, ast.Is | ast.IsNot):
            missing = pyarrow.compute.is_null(table[self._column(left)])
            return missing if isinstance(operator, ast.Is) else pyarrow.compute.invert(missing)
        if isinstance(operator, ast.In | ast.NotIn):
            return self._membership(table[self._column(left)], self._column(left), operator, right)
        sides = [self._operand(side, table) for side in (left, right)]
        self._refuse_other_kinds([kind for kind, _ in sides], left, right)
        return pyarrow.compute.call_function(_COMPARISONS[type(operator)], [value for _, value in sides])

    def _membership(
        self, column: pyarrow.ChunkedArray, name: str, operator: ast.cmpop, right: ast.expr
    ) -> pyarrow.ChunkedArray:
        values = [_literal(each) for each in right.elts]
        if {_kind_of_value(value) for value in values} != {_kind_of_column(column)}:
            raise ConfigError(f"data.where: '{name}' holds {_kind_of_column(column)}; its list holds others")
        kind = pyarrow.string() if _kind_of_column(column) == "words" else pyarrow.float64()
        found = pyarrow.compute.is_in(column.cast(kind), pyarrow.array(values, kind))
        found = found if isinstance(operator, ast.In) else pyarrow.compute.invert(found)
        return pyarrow.compute.if_else(
            pyarrow.compute.is_null(column), pyarrow.scalar(None, pyarrow.bool_()), found
        )

    def _operand(self, node: ast.expr, table: pyarrow.Table) -> tuple[str, object]:
        if _is_column(node):
            column = table[self._column(node)]
            return _kind_of_column(column), column
        value = _literal(node)
        return _kind_of_value(value), pyarrow.scalar(value)

    def _refuse_other_kinds(self, kinds: list[str], left: ast.expr, right: ast.expr) -> None:
        if kinds[0] != kinds[1]:
            raise ConfigError(
                f"data.where compares {self._show(left)} ({kinds[0]}) with {self._show(right)} ({kinds[1]}); "
                "words stand in quotes, numbers do not"
            )

    def _column(self, node: ast.expr) -> str:
        return self._names.get(node.id, node.id)


def parse_where(text: str) -> Where:
    """ConfigError when the text is not of the grammar."""
    names: dict[str, str] = {}

    def stand_in(match: re.Match) -> str:
        word = _WORD.format(len(names))
        names[word] = match[1]
        return word

    try:
        tree = ast.parse(re.sub(r"`([^`]+)`", stand_in, text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"data.where '{text}' cannot be read ({error}); {_EXAMPLE}") from error
    _check(tree, text)
    columns = (node.id for node in ast.walk(tree) if _is_column(node))
    return Where(text, tuple(dict.fromkeys(names.get(column, column) for column in columns)), tree, names)


def _check(node: ast.expr, text: str) -> None:
    """Raises ConfigError at whatever the grammar does not have: calls, attributes, arithmetic, ..."""
    if isinstance(node, ast.BoolOp):
        for each in node.values:
            _check(each, text)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check(node.operand, text)
    elif not isinstance(node, ast.Compare) or not all(_link_is_known(*link) for link in _links(node)):
        raise ConfigError(
            f"data.where '{text}': '{ast.unparse(node)}' is not a comparison of a column; {_EXAMPLE}"
        )


def _links(node: ast.Compare) -> Iterator[tuple[ast.expr, ast.cmpop, ast.expr]]:
    return zip([node.left, *node.comparators], node.ops, node.comparators, strict=False)


def _link_is_known(left: ast.expr, operator: ast.cmpop, right: ast.expr) -> bool:
    if isinstance(operator, ast.Is | ast.IsNot):
        return _is_column(left) and _is_null(right)
    if isinstance(operator, ast.In | ast.NotIn):
        is_list = isinstance(right, ast.List | ast.Tuple | ast.Set) and len(right.elts) > 0
        return _is_column(left) and is_list and all(map(_is_literal, right.elts))
    is_readable = all(_is_column(side) or _is_literal(side) for side in (left, right))
    return is_readable and (_is_column(left) or _is_column(right))


def _is_column(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id not in ("null", *_TRUTHS)


def _is_null(node: ast.expr) -> bool:
    return (isinstance(node, ast.Name) and node.id == "null") or (
        isinstance(node, ast.Constant) and node.value is None
    )


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _is_literal(node.operand) and isinstance(getattr(node.operand, "value", None), int | float)
    is_truth = isinstance(node, ast.Name) and node.id in _TRUTHS
    return is_truth or (isinstance(node, ast.Constant) and isinstance(node.value, int | float | str))


def _literal(node: ast.expr) -> Value:
    if isinstance(node, ast.UnaryOp):
        return -node.operand.value
    if isinstance(node, ast.Name):
        return _TRUTHS[node.id]
    return int(node.value) if isinstance(node.value, bool) else node.value


def _kind_of_value(value: Value) -> str:
    return "words" if isinstance(value, str) else "numbers"


def _kind_of_column(column: pyarrow.ChunkedArray) -> str:
    return "words" if pyarrow.types.is_string(column.type) else "numbers"
