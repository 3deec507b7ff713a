"""Conditions are checked against the slow way: Python's own logic over rows, with null as a third value."""

import ast

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcoro.config import ConfigError
from deepcoro.data.where import parse_where

ROWS = [
    {"status": "diagnostic", "contrast_agent": 1.0, "num_frames": 12, "mid LAD": 0.0, "view": "RAO_CAU"},
    {"status": "diagnostic", "contrast_agent": None, "num_frames": 30, "mid LAD": 1.0, "view": None},
    {"status": "PCI", "contrast_agent": 1.0, "num_frames": 30, "mid LAD": None, "view": "AP_CRA"},
    {"status": None, "contrast_agent": 0.0, "num_frames": 4, "mid LAD": 1.0, "view": "AP_CRA"},
]
TABLE = pyarrow.Table.from_pylist(ROWS)


def kept(text):
    return parse_where(text).apply(TABLE).films.nonzero()[0].tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("status == 'diagnostic' and contrast_agent == 1 and num_frames >= 10", [0]),
        ("status in ['diagnostic', 'PCI']", [0, 1, 2]),
        ("status not in ['PCI']", [0, 1]),
        ("status != 'PCI'", [0, 1]),
        ("not status == 'PCI'", [0, 1]),
        ("not (status == 'PCI' or contrast_agent == 0)", [0]),
        ("status is null", [3]),
        ("view is not null and status is not null", [0, 2]),
        ("10 <= num_frames < 30", [0]),
        ("num_frames in (4, 12)", [0, 3]),
        ("`mid LAD` == 1 or `mid LAD` is null", [1, 2, 3]),
        ("`mid LAD` < contrast_agent", [0]),
        ("contrast_agent > -1", [0, 2, 3]),
        ("contrast_agent == true", [0, 2]),
    ],
)
def test_a_condition_keeps_the_films_for_which_it_is_true(text, expected):
    assert kept(text) == expected


def test_the_columns_of_a_condition_are_those_that_it_names():
    assert parse_where("`mid LAD` == 1 and status in ['a'] and 3 < num_frames and view is null").columns == (
        *("mid LAD", "status", "num_frames", "view"),
    )


def test_what_null_cost_is_counted_for_each_comparison():
    result = parse_where("status == 'diagnostic' and contrast_agent == 1").apply(TABLE)
    # Row 2 is dropped for its status, whatever contrast would be; row 3 for contrast.
    assert result.unknown == {"contrast_agent == 1": 1}
    assert parse_where("`mid LAD` == 1").apply(TABLE).unknown == {"`mid LAD` == 1": 1}


cells = st.sampled_from([None, 0.0, 1.0, 2.0])
comparison = st.builds(
    lambda column, sign, value: f"{column} {sign} {value}",
    *(st.sampled_from("ab"), st.sampled_from(["==", "!=", "<", ">="]), st.integers(0, 2)),
)
conditions = st.recursive(
    comparison | st.sampled_from(["a is null", "b is not null", "a in [0, 2]", "b not in [1]"]),
    lambda inner: st.builds(
        lambda x, join, y: f"({x}) {join} ({y})", inner, st.sampled_from(["and", "or"]), inner
    )
    | st.builds(lambda x: f"not ({x})", inner),
    max_leaves=6,
)


def truth(text, row):
    """True, False or None, by trying both truths for every comparison with null."""

    def value(node):
        if isinstance(node, ast.BoolOp):
            parts = [value(each) for each in node.values]
            decisive = isinstance(node.op, ast.Or)
            if decisive in parts:
                return decisive
            return None if None in parts else not decisive
        if isinstance(node, ast.UnaryOp):
            inner = value(node.operand)
            return None if inner is None else not inner
        cell = row[node.left.id]
        if isinstance(node.ops[0], ast.Is | ast.IsNot):
            return (cell is None) == isinstance(node.ops[0], ast.Is)
        if cell is None:
            return None
        return eval(ast.unparse(node), {}, row)  # noqa: S307 - the oracle, over text that this test made

    return value(ast.parse(text, mode="eval").body)


@given(conditions, st.lists(st.tuples(cells, cells), min_size=1, max_size=6))
def test_any_condition_agrees_with_three_valued_logic_row_by_row(text, pairs):
    rows = [{"a": a, "b": b} for a, b in pairs]
    schema = pyarrow.schema([("a", pyarrow.float64()), ("b", pyarrow.float64())])
    result = parse_where(text).apply(pyarrow.Table.from_pylist(rows, schema=schema))
    truths = [truth(text, row) for row in rows]
    assert result.films.tolist() == [each is True for each in truths]
    assert bool(result.unknown) == (None in truths)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "status.upper() == 'PCI'",
        "status == 'a'; num_frames",
        "num_frames + 1 > 2",
        "num_frames",
        "1 < 2",
        "status == null",
        "status in []",
        "status in [num_frames]",
        "status is 'PCI'",
        "[x for x in (1,)]",
        "lambda: 1",
        "num_frames > f'{1}'",
        "",
        "(" * 300 + "num_frames > 1" + ")" * 300,
        "num_frames == -'a'",
    ],
)
def test_what_is_no_comparison_is_refused_before_anything_runs(text):
    with pytest.raises(ConfigError, match="data.where"):
        parse_where(text)


@pytest.mark.parametrize(
    "text", ["status == 1", "num_frames in ['a']", "view in [1, 'a']", "num_frames < status"]
)
def test_numbers_are_not_compared_with_words(text):
    with pytest.raises(ConfigError, match="words|others"):
        parse_where(text).apply(TABLE)
