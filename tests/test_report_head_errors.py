"""The errors of heads that a page shows: the surest wrong calls and the farthest numbers, of as many heads as there is room for."""

import numpy as np
import pytest

from deepcoro.calibrated import Fixed
from deepcoro.evaluated import Evaluated, Head
from deepcoro.report_head_errors import choose_errors, show_errors
from tests.metrics.heads import BINARY, MULTICLASS, REGRESSION, evaluated

HEADS = {
    "cto": Head(BINARY, "cto", 2),
    "lvef": Head(REGRESSION, "lvef", 0),
    "dominance": Head(MULTICLASS, "dominance", 3, {"right": 0, "left": 1, "co": 2}),
}
SAID = {
    "cto": [0.9, 0.7, 0.2, 0.99, 0.1],
    "lvef": [60, 50, 40, 30, 65],
    "dominance": [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1], [0.5, 0.3, 0.2]],
}
LABELS = {
    "cto": [1.0, 0.0, 1.0, None, 0.0],
    "lvef": [60.0, 55.0, 45.0, 70.0, 60.0],
    "dominance": ["right", "left", "co", "left", None],
}


def spoken(**changes) -> Evaluated:
    return evaluated(HEADS, {name: np.array(each) for name, each in SAID.items()}, LABELS, **changes)


def test_each_head_shows_its_worst_error_before_any_shows_its_second():
    chosen = choose_errors(spoken(), 3)
    # lvef is 40 off on row 3, where dominance is wrong too and so is not shown a second time
    assert [(each.head, each.row) for each in chosen] == [("probe/lvef", 3), ("probe/cto", 2), ("probe/cto", 1)]  # fmt: skip
    assert [round(each.size, 2) for each in chosen[:2]] == [1.6, 0.8]


def test_what_is_right_or_not_assessed_is_no_error():
    chosen = choose_errors(spoken(), 99)
    assert all((each.head, each.row) not in {("probe/cto", 3), ("probe/cto", 0), ("probe/dominance", 4), ("probe/lvef", 0)} for each in chosen)  # fmt: skip
    rows = [each.row for each in chosen]
    assert len(set(rows)) == len(rows) and 0 not in rows


def test_a_call_is_wrong_at_the_threshold_of_val():
    fixed = {"probe/cto": Fixed(threshold=0.15, rule="youden", num=9, num_positive=4)}
    assert ("probe/cto", 2) not in {(each.head, each.row) for each in choose_errors(spoken(fixed=fixed), 99)}


@pytest.mark.parametrize("num_examples", [0, 1, 2])
def test_never_more_errors_than_asked_for(num_examples):
    assert len(choose_errors(spoken(), num_examples)) == num_examples


def test_errors_are_told_in_words_with_the_strip_of_their_film():
    data = spoken()
    chosen = choose_errors(data, 3)
    lvef, cto, _ = show_errors(chosen, data, {3: b"strip"})
    assert (lvef.head, lvef.title, lvef.said, lvef.truth, lvef.strip) == ("probe/lvef", "c3", "30", "70", "c3RyaXA=")  # fmt: skip
    assert (cto.said, cto.truth, cto.strip) == ("no (probability 0.20, threshold 0.50)", "yes", None)
    wrong_side = evaluated({"dominance": HEADS["dominance"]}, {"dominance": np.array(SAID["dominance"])}, LABELS)  # fmt: skip
    (dominance,) = show_errors(choose_errors(wrong_side, 9), wrong_side, {})
    assert (dominance.said, dominance.truth) == ("right (probability 0.60)", "left")


def test_a_head_that_took_no_part_or_has_no_labels_shows_nothing():
    data = evaluated({"cto": HEADS["cto"], "lvef": HEADS["lvef"]}, {"cto": np.array(SAID["cto"])}, {"lvef": LABELS["lvef"]})  # fmt: skip
    assert choose_errors(data, 9) == []
