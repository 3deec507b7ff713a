"""Rows of Table 1: whatever is withheld, another data set with another count there prints the very same rows."""

import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow
import pytest

from deepcoro.paper.variables import Group, variable_rows
from deepcoro.small_cells import WORD

FEWEST = 4
WORDS = ("a", "b", "c", None)
YES_NO = (1.0, 0.0, None)


def groups_of(sizes: list[int]) -> list[Group]:
    """One film a study, one study a patient."""
    starts = np.cumsum([0, *sizes])
    rows = [np.arange(start, end) for start, end in itertools.pairwise(starts)]
    return [Group(f"g{number}", row, row, row) for number, row in enumerate(rows)]


def rows_of(table: list[list[int]], values: tuple, fewest: int = FEWEST) -> list[tuple[str, ...]]:
    """`table`: how many patients of each split have each of the values."""
    column = [value for counts in table for value, count in zip(values, counts, strict=True) for _ in range(count)]  # fmt: skip
    kind = pyarrow.string() if "a" in values else pyarrow.float64()
    chunked = pyarrow.chunked_array([pyarrow.array(column, kind)])
    return variable_rows("x", chunked, groups_of([sum(counts) for counts in table]), fewest, False)


def other_tables(table: list[list[int]], split: int, value: int) -> Iterator[list[list[int]]]:
    """Of the same patients, with another count in this cell: some of them taken from, or given to, another value of the split."""
    counts = table[split]
    for other in set(range(len(counts))) - {value}:
        for moved in [each for each in range(-counts[value], counts[other] + 1) if each]:
            changed = list(counts)
            changed[value] += moved
            changed[other] -= moved
            yield [*table[:split], changed, *table[split + 1 :]]


@pytest.mark.parametrize("values", [WORDS, YES_NO], ids=["words", "yes and no"])
def test_no_small_cell_follows_from_totals_percentages_and_other_cells(values: tuple):
    """Nothing on the page can tell two data sets apart that print the same page."""
    generator = np.random.default_rng(len(values))
    num_small = 0
    for _ in range(60):
        num_splits = int(generator.integers(1, 4))
        table = generator.integers(0, 3 * FEWEST, (num_splits, len(values))).tolist()
        if any(sum(counts) < FEWEST for counts in table):
            continue
        shown = rows_of(table, values)
        for split, value in itertools.product(range(num_splits), range(len(values))):
            if not 0 < table[split][value] < FEWEST:
                continue
            num_small += 1
            assert any(rows_of(each, values) == shown for each in other_tables(table, split, value)), table
    assert num_small > 20


def test_the_audit_s_table_tells_neither_the_count_nor_the_assessed():
    rows = rows_of([[40, 30, 5, 0]], WORDS, 10)
    assert rows == [
        ("x = a", "40 (53.3 %)", "40 (53.3 %)"),
        ("x = b", WORD, WORD),
        ("x = c", WORD, WORD),
    ]
    # with somebody not assessed the percentages would tell how many
    rows = rows_of([[40, 30, 20, 5]], WORDS, 10)
    assert rows == [("x = a", "40", "40"), ("x = b", "30", "30"), ("x = c", WORD, WORD), ("x: not assessed", WORD, WORD)]  # fmt: skip


def test_a_total_over_splits_is_the_sum_of_what_they_tell():
    rows = rows_of([[60, 40, 0, 0], [50, 5, 0, 0]], WORDS, 10)
    assert rows == [("x = a", "60 (60.0 %)", WORD, "60 to 115"), ("x = b", "40 (40.0 %)", WORD, "40 to 95")]


def test_yes_stays_where_no_can_hide_those_not_assessed():
    assert rows_of([[20, 35, 5]], YES_NO, 10) == [("x", "20", "20"), ("x: not assessed", WORD, WORD)]
    assert rows_of([[55, 5, 0]], YES_NO, 10) == [("x", WORD, WORD)]


def test_studies_of_few_patients_are_few():
    owners = np.repeat(np.arange(31), [12, *[1] * 30])
    films = np.arange(len(owners))
    column = pyarrow.chunked_array([pyarrow.array(["a"] * 12 + ["b"] * 30)])
    group = [Group("train", films, films, owners)]
    assert variable_rows("x", column, group, 10, False) == [("x = a", WORD, WORD), ("x = b", WORD, WORD)]


def test_numbers_of_few_have_no_quarters_and_words_past_the_eighth_are_counted_together():
    assert rows_of([[3, 17]], (2.5, None), 10) == [("x", WORD, WORD), ("x: not assessed", WORD, WORD)]
    many = (*"abcdefghijk",)
    rows = rows_of([[20] * 11], many, 10)
    assert rows[-1] == ("x: other words", "60 (27.3 %)", "60 (27.3 %)") and len(rows) == 9
