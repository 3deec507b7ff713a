"""Numbers of the content classifier with known answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcoro.content.measures import as_text, flat, hardly_sees, lowest_confidence, measure_head

CHANCES = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55], [0.3, 0.7]])


def test_films_not_assessed_are_in_no_number():
    measure = measure_head(CHANCES, np.array([0, 1, 1, -100, -100]), 0.75)
    assert measure is not None
    assert (
        measure.num == 3
        and measure.accuracy == pytest.approx(2 / 3)
        and measure.majority == pytest.approx(2 / 3)
    )
    assert measure.confusion.tolist() == [[1, 0], [1, 1]]
    assert measure.auroc == 1.0 and measure.kept == pytest.approx(2 / 3) and measure.accuracy_kept == 1.0
    assert measure_head(CHANCES, np.full(5, -100), 0.5) is None


def test_a_single_class_has_no_auroc_and_says_so():
    measure = measure_head(CHANCES, np.zeros(5, int), 0.5)
    assert measure.auroc is None and "status/auroc" not in flat("status", measure)
    assert "one class" in as_text("status", ["PCI", "diagnostic"], measure)


def test_a_head_that_is_no_better_than_the_most_frequent_class_says_so_and_names_what_it_never_says():
    truth = np.array([0] * 8 + [1] * 2)
    blind = measure_head(np.tile([0.8, 0.2], (10, 1)), truth, 0.5)
    told = as_text("stent_presence", ["0", "1"], blind)
    assert (
        "never said: 1 (2 films)" in told
        and "right in 80%, where the most frequent class alone is right in 80%" in told
    )
    seeing = measure_head(np.eye(2)[truth] * 0.8 + 0.1, truth, 0.5)
    assert "HARDLY" not in as_text("stent_presence", ["0", "1"], seeing) and "never" not in as_text(
        "x", ["0", "1"], seeing
    )
    assert hardly_sees("status", {}) is None
    assert hardly_sees("status", {"status/accuracy": 0.85, "status/majority": 0.73}) is None
    assert "HARDLY" in hardly_sees(
        "stent_presence", {"stent_presence/accuracy": 0.85, "stent_presence/majority": 0.84}
    )


def test_many_classes_average_one_against_the_rest():
    chances = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.7, 0.1, 0.2], [0.1, 0.2, 0.7]])
    measure = measure_head(chances, np.array([0, 1, 0, 1]), 0.0)
    # class 2 is nobody's: only 0 (perfect) and 1 (one of two before both others, the other too: 0.2 > 0.1) are scored
    assert measure.num_classes_scored == 2 and measure.auroc == 1.0
    assert measure.accuracy == 0.75


@given(
    st.lists(st.tuples(st.sampled_from([0.5, 0.6, 0.7, 0.8, 0.9]), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([0.5, 0.8, 0.95, 1.0]),
)
def test_the_threshold_is_the_lowest_that_is_right_often_enough(films, wanted):
    confidence, right = (np.array(column) for column in zip(*films, strict=True))
    threshold = lowest_confidence(confidence, right, wanted)
    good = [level for level in set(confidence) if right[confidence >= level].mean() >= wanted]
    assert threshold == (min(good) if good else 1.0)
