"""Copies and linked films against counting by hand, and against chance where there is nothing to find."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcoro.evaluated import TrainingReports
from deepcoro.metrics.privacy import Config, copies, nearest_alike
from tests.metrics.captions import captioned, unit_rows

KNOWN = ["Severe stenosis of the mid LAD, 80 %.", "Normal right coronary artery."]
TRAINING = TrainingReports(KNOWN, np.eye(2, dtype=np.float32), {None: KNOWN[0]})


def longest_run_by_hand(text: list[str], corpus: list[list[str]]) -> int:
    return max(
        (
            end - start
            for start in range(len(text))
            for end in range(start + 1, len(text) + 1)
            for other in corpus
            if any(other[at : at + end - start] == text[start:end] for at in range(len(other)))
        ),
        default=0,
    )


@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=7), min_size=1, max_size=4),
    st.lists(st.lists(st.sampled_from("abc"), max_size=7), min_size=1, max_size=4),
)
def test_runs_are_those_of_trying_every_one(texts: list[list[str]], corpus: list[list[str]]) -> None:
    verbatim, runs = copies([" ".join(each) for each in texts], [" ".join(each) for each in corpus])
    for text, copied, share in zip(texts, verbatim, runs, strict=True):
        assert copied == float(bool(text) and text in corpus)
        assert share * max(len(text), 1) == pytest.approx(longest_run_by_hand(text, corpus))


def test_signs_and_spaces_make_no_difference_and_runs_do_not_cross_reports() -> None:
    said = ["severe stenosis of the mid lad 80%", "mid LAD, 80 % normal right", "", "Nothing alike"]
    verbatim, runs = copies(said, KNOWN)
    assert verbatim.tolist() == [1, 0, 0, 0]
    assert runs.tolist() == pytest.approx([1, 4 / 6, 0, 0])


def test_copies_stand_beside_how_often_the_reports_themselves_repeat() -> None:
    references = [KNOWN[0], "A new report.", KNOWN[1], None]
    evaluated = captioned(references, [KNOWN[0], KNOWN[0], "Something else entirely", KNOWN[0]], TRAINING)
    numbers, notes = Config(bootstrap_samples=20).build().measure(evaluated)
    assert notes == []
    assert numbers["privacy/copied/verbatim"] == pytest.approx(2 / 3)
    assert numbers["privacy/copied/verbatim_reports"] == pytest.approx(2 / 3)
    assert numbers["privacy/copied/num"] == 3 and numbers["privacy/copied/num_training_reports"] == 2
    assert numbers["privacy/copied/verbatim_ci_low"] <= 2 / 3 <= numbers["privacy/copied/verbatim_ci_high"]


def linked(films: np.ndarray, studies: list[str], patients: list[str | None]) -> dict[str, float]:
    evaluated = replace(captioned([None] * len(films), ()), films=films, studies=studies, patients=patients)
    return Config(bootstrap_samples=10).build().measure(evaluated)[0]


def test_films_that_a_patient_shares_are_linked_and_their_own_study_is_no_help() -> None:
    """Two patients of two studies of two films: each patient along an axis, each study a little off it."""
    rows = [(1, 0, 0.1), (1, 0, 0.11), (1, 0, -0.1), (1, 0, -0.11), (0, 1, 0.1), (0, 1, 0.11), (0, 1, -0.1), (0, 1, -0.11)]  # fmt: skip
    studies, patients = [f"s{row // 2}" for row in range(8)], [f"p{row // 4}" for row in range(8)]
    numbers = linked(unit_rows(np.array(rows)), studies, patients)
    assert numbers["privacy/linked/same_study/rate"] == 1
    assert numbers["privacy/linked/same_study/rate_chance"] == pytest.approx(1 / 7)
    assert numbers["privacy/linked/other_study/rate"] == 1
    assert numbers["privacy/linked/other_study/rate_chance"] == pytest.approx(2 / 6)
    assert numbers["privacy/linked/other_study/num"] == 8


def test_embeddings_that_are_all_alike_score_chance_and_random_ones_near_it() -> None:
    patients, studies = np.repeat(np.arange(60), 4), np.repeat(np.arange(120), 2)
    hit, chance = nearest_alike(np.ones((240, 3), np.float32), patients, studies)
    np.testing.assert_allclose(hit, chance)
    random = unit_rows(np.random.default_rng(0).normal(size=(240, 8)))
    hit, chance = nearest_alike(random, patients, studies)
    assert chance == pytest.approx(2 / 238) and hit.mean() < 0.04


def test_who_has_nobody_to_be_found_is_not_asked() -> None:
    films = unit_rows(np.random.default_rng(1).normal(size=(3, 4)))
    numbers = linked(films, ["a", "a", "b"], [None, None, "p"])
    assert numbers["privacy/linked/same_study/num"] == 2
    assert numbers["privacy/linked/other_study/num"] == 0
    assert "privacy/linked/other_study/rate" not in numbers and "privacy/copied/num" not in numbers


def test_no_more_films_than_asked_for_are_compared_and_patients_stay_whole() -> None:
    films = unit_rows(np.random.default_rng(2).normal(size=(40, 4)))
    patients = [f"p{film // 4}" for film in range(40)]
    evaluated = replace(captioned([None] * 40, ()), films=films, studies=patients, patients=patients)
    numbers, _ = Config(max_films=10, bootstrap_samples=0).build().measure(evaluated)
    assert numbers["privacy/linked/same_study/num"] == 8
