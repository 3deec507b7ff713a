"""Intervals of numbers that val fixes for each head, what they cover on another split, and what inference makes of them."""

from dataclasses import replace

import numpy as np
import pydantic
import pytest

from deepcoro.bootstrap import resamples
from deepcoro.calibrated import Calibration, FixedInterval, read_calibration, write_calibration
from deepcoro.evaluated import Evaluated, Head
from deepcoro.metrics.regression import Config, Regression
from deepcoro.report_heads import head_tables
from tests.metrics.heads import BINARY, REGRESSION, evaluated

ABOUT = {"checkpoint": "d", "split": "val", "data": "s", "data_fingerprint": "f", "created": "now"}


def metric(**changes: object) -> Regression:
    return Config(**{"bootstrap_samples": 40} | changes).build()


def split(seed: int, name: str, num_rows: int = 120) -> Evaluated:
    """Two rows a patient; `lvef` lacks a third of its labels, some of them NaN, `rare` nearly all."""
    generator = np.random.default_rng(seed)
    truth = generator.uniform(20, 70, num_rows).round(1)
    said = truth + np.repeat(generator.gamma(2, 3, num_rows // 2), 2) * generator.normal(0, 1, num_rows)
    missing = generator.random(num_rows) < 1 / 3
    lvef = [None if gone else value for gone, value in zip(missing, truth.tolist(), strict=True)]
    lvef[:2] = [float("nan"), float("nan")]
    heads = {each: Head(REGRESSION, each, 0) for each in ("lvef", "rare")} | {"cto": Head(BINARY, "cto", 2)}
    labels = {"lvef": lvef, "rare": [*truth[:16].tolist(), *[None] * (num_rows - 16)], "cto": [0.0, 1.0] * (num_rows // 2)}  # fmt: skip
    return evaluated(heads, {"lvef": said, "rare": said, "cto": truth / 100}, labels, split=name)


def judged_one_by_one(data: Evaluated, name: str = "lvef") -> dict[int, list[float]]:
    """Absolute errors by patient."""
    errors: dict[int, list[float]] = {}
    said = data.rows[f"probe/{name}/prediction"][:, 0].astype(np.float64)
    for row, value in enumerate(data.labels[name]):
        if value is not None and value == value:
            errors.setdefault(row // 2, []).append(abs(float(said[row]) - value))
    return errors


@pytest.fixture(scope="module")
def val() -> Evaluated:
    return split(0, "val")


@pytest.fixture(scope="module")
def intervals(val: Evaluated) -> dict[str, FixedInterval]:
    return metric().fix_intervals(val)


@pytest.fixture(scope="module")
def tested(intervals: dict[str, FixedInterval]) -> Evaluated:
    return replace(split(1, "test"), intervals=intervals)


def test_val_fixes_the_patients_worst_error_that_the_level_asks_for(val, intervals):
    worst = sorted(max(each) for each in judged_one_by_one(val).values())
    found = intervals["probe/lvef"]
    rank = next(rank for rank in range(1, len(worst) + 1) if 10 * rank >= 9 * (len(worst) + 1))
    assert (found.half_width, found.num_patients) == (pytest.approx(worst[rank - 1]), len(worst))
    assert found.level == 0.9
    assert len(worst) < 60, "patients without a known label are left out"
    wider = metric(coverage=0.95).fix_intervals(val)["probe/lvef"]
    assert wider.half_width > found.half_width and wider.level == 0.95


def test_rows_without_a_patient_count_as_patients_of_their_own(val):
    nobody = replace(val, patients=[None] * len(val.clips))
    errors = [error for each in judged_one_by_one(val).values() for error in each]
    assert metric().fix_intervals(nobody)["probe/lvef"].num_patients == len(errors)


def test_too_few_patients_fix_nothing_and_the_note_says_how_many_are_needed(val, intervals):
    assert intervals.keys() == {"probe/lvef"}, "8 patients of `rare` are one too few"
    numbers, notes = metric().measure(replace(val, intervals=intervals))
    assert "no 90 % prediction interval where val had fewer than 9 assessed patients: probe/rare" in notes
    assert not any(key.startswith("probe/rare/interval") for key in numbers) and "probe/rare/mae" in numbers
    assert "probe/rare" in metric(coverage=0.88).fix_intervals(val)


def test_coverage_on_another_split_is_that_of_a_loop_with_intervals_over_patients(tested, intervals):
    numbers, _ = metric().measure(tested)
    width, errors = intervals["probe/lvef"].half_width, judged_one_by_one(tested)
    inside = {patient: [error <= width for error in each] for patient, each in errors.items()}
    expected = {
        "half_width": width,
        "level": 0.9,
        "coverage": np.mean([each for rows in inside.values() for each in rows]),
        "coverage_of_patients": np.mean([all(rows) for rows in inside.values()]),
    }
    found = {key: numbers[f"probe/lvef/interval_{key}"] for key in expected}
    assert found == pytest.approx(expected)
    drawn = []
    for counts in next(resamples(60, 40, seed=0)):
        rows = [(each, counts[patient]) for patient, flags in inside.items() for each in flags]
        drawn.append(np.average([flag for flag, _ in rows], weights=[weight for _, weight in rows]))
    bounds = [numbers[f"probe/lvef/interval_coverage_ci_{end}"] for end in ("low", "high")]
    assert bounds == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist())
    assert "probe/lvef/interval_half_width_ci_low" not in numbers


def test_without_val_there_is_no_interval_and_everything_else_stays(tested):
    numbers, notes = metric().measure(replace(tested, intervals=None))
    with_them, _ = metric().measure(tested)
    assert numbers == {key: value for key, value in with_them.items() if "/interval_" not in key}
    (note,) = notes
    assert "run_mode=val chooses them on 9 assessed patients or more" in note


def test_val_says_that_its_own_coverage_tests_nothing(val, intervals):
    _, notes = metric().measure(replace(val, intervals=intervals))
    assert any("chosen on this split" in note for note in notes)


def test_splits_without_rows_have_no_coverage(tested, intervals):
    empty = tested.only(np.zeros(len(tested.clips), bool))
    numbers, _ = metric().measure(replace(empty, intervals=intervals))
    assert set(numbers.values()) == {0.0}
    assert metric().fix_intervals(empty) == {}


@pytest.mark.parametrize("coverage", [0, 1, 1.2, -0.1])
def test_a_level_that_no_interval_can_have_is_refused(coverage):
    with pytest.raises(pydantic.ValidationError, match="coverage"):
        Config(coverage=coverage)


def test_the_page_shows_width_and_coverage_of_what_has_an_error(tested):
    errors, agreement = [
        each for each in head_tables(metric().measure(tested)[0]) if "Numbers" in each.heading
    ]
    assert "MAE" in errors.columns
    assert {"prediction interval, ±", "rows inside", "patients inside"} <= set(agreement.columns)


def test_what_val_fixed_is_read_back_and_a_file_that_is_older_is_read(intervals, tmp_path):
    write_calibration(tmp_path, Calibration(heads={}, numbers=intervals, **ABOUT))
    assert read_calibration(tmp_path, "d").numbers == intervals
    old = Calibration(heads={}, **ABOUT).model_dump(exclude={"numbers"})
    assert "numbers" not in old
    assert Calibration.model_validate(old).numbers is None
