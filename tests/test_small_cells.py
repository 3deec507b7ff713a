"""Counts on pages to share: a small one is told as small, and nothing beside it tells which it is."""

import itertools

import numpy as np
import pytest

from deepcoro.small_cells import WITHHELD, Told, told, told_cells, told_summary, told_units, total


def exactly(count: int) -> Told:
    return Told(count, count)


def test_a_count_says_what_may_be_known_of_it():
    words = [str(told(count)) for count in (0, 3, 10, 1234)]
    assert words == ["0", "fewer than 10", "10", "1,234"]
    assert str(told(16, persons=4)) == "withheld"
    assert str(told(16, persons=12)) == "16"
    assert str(told(3, fewest=1)) == "3"


def test_a_total_tells_no_more_than_its_parts():
    assert str(total([told(40), told(5), told(0)])) == "41 to 49"
    assert str(total([told(40), WITHHELD])) == "41 or more"
    assert str(total([told(5), told(0)])) == "fewer than 10"
    assert str(total([])) == "0"
    assert total([told(40), told(5)]) == total([told(40), told(6)])


def test_films_and_studies_of_a_split_are_as_few_as_its_patients():
    assert [str(each) for each in told_units({"patients": 4, "studies": 12, "films": 16}).values()] == [
        "fewer than 10", "withheld", "withheld",
    ]  # fmt: skip
    not_named = told_units({"patients": None, "studies": 4, "films": 16})
    assert not_named["patients"] is None
    assert (str(not_named["studies"]), str(not_named["films"])) == ("fewer than 10", "withheld")
    assert told_units({"patients": 12, "studies": 12, "films": 24})["films"] == exactly(24)


def test_what_was_evaluated_does_not_count_out_the_few_that_could_not_be_read():
    summary = {"patients": 12, "studies": 12, "films": 21, "unreadable": 3}
    whole = {"studies": 12, "films": 24}
    found = told_summary(summary, whole)
    assert found["films"] == Told(15, 23) and found["studies"] == found["patients"] == exactly(12)
    assert told_summary(summary | {"films": 22, "unreadable": 2}, whole) == found
    # a study is gone: who knows whose
    assert told_summary(summary | {"studies": 11, "patients": 11}, whole)["patients"] == WITHHELD
    assert told_summary(summary, whole, fewest=1)["films"] == exactly(21)


def test_all_counts_of_an_evaluation_of_few_patients_go():
    found = told_summary({"patients": 4, "studies": 12, "films": 16, "unreadable": 11, "words": "x"}, {})
    assert {name: str(each) for name, each in found.items()} == {
        "patients": "fewer than 10", "studies": "withheld", "films": "withheld", "unreadable": "withheld", "words": "x",
    }  # fmt: skip


def cells_of(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


def cells_told(counts: list[int], fewest: int = 10, unprinted: tuple[int, ...] = ()) -> list[str]:
    cell = cells_of(counts)
    found = told_cells(cell, np.arange(len(cell)), len(counts), fewest, unprinted)
    return [str(each) for each in found]


def test_the_smallest_other_cell_goes_with_a_small_one_and_empty_ones_stay():
    assert cells_told([40, 30, 0, 5]) == ["40", "withheld", "0", "withheld"]
    assert cells_told([40, 30, 0, 10]) == ["40", "30", "0", "10"]


def test_a_cell_that_no_page_prints_goes_first():
    assert cells_told([20, 5, 35], unprinted=(2,)) == ["20", "withheld", "withheld"]


def test_two_small_cells_do_not_hide_each_other():
    assert cells_told([40, 1, 1]) == ["withheld"] * 3
    assert cells_told([40, 20, 4, 3]) == ["40", "withheld", "withheld", "withheld"]


def test_where_cells_leave_each_other_no_room_the_empty_ones_go_too():
    assert cells_told([1] * 10 + [0]) == ["withheld"] * 11


def test_studies_of_few_patients_are_a_small_cell():
    cell = cells_of([30, 25, 12])
    patient = np.concatenate([np.arange(55), np.full(12, 60)])
    assert [str(each) for each in told_cells(cell, patient, 3)] == ["30", "withheld", "withheld"]


@pytest.mark.parametrize("fewest", [3, 5])
def test_no_small_cell_can_be_solved_for(fewest: int):
    """Every way to fill the cells withheld that agrees with the sum: a small cell must be able to be large, too."""
    generator = np.random.default_rng(fewest)
    for _ in range(300):
        counts = generator.integers(0, 2 * fewest, generator.integers(2, 6)).tolist()
        if sum(counts) < fewest:
            continue
        shown = told_cells(cells_of(counts), np.arange(sum(counts)), len(counts), fewest)
        hidden = [place for place, each in enumerate(shown) if not each.is_exact]
        assert all(
            shown[place] == exactly(counts[place]) for place in range(len(counts)) if place not in hidden
        )
        rest = sum(counts) - sum(each.low for each in shown if each.is_exact)
        for place in hidden:
            assert rest >= fewest and len(hidden) > 1
            others = itertools.product(range(rest + 1), repeat=len(hidden) - 1)
            possible = (
                {rest - sum(each) for each in others if sum(each) <= rest} if len(hidden) < 4 else {1, rest}
            )
            assert possible - set(range(fewest)) and possible & set(range(fewest)), (counts, place)
        assert not [count for place, count in enumerate(counts) if 0 < count < fewest and place not in hidden]
