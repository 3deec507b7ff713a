import numpy as np
import pytest

from deepcoro.evaluated import Evaluated
from deepcoro.metrics.reconstruction import Config


def evaluated(rows, patients):
    num = len(patients)
    return Evaluated(
        split="val",
        units=np.arange(num),
        clips=[f"clip{each}" for each in range(num)],
        studies=["study"] * num,
        patients=patients,
        films=np.ones((num, 1), np.float32),
        texts=[],
        text_embeddings=np.zeros((0, 1), np.float32),
        text_of_film=np.full(num, -1),
        labels={},
        prompts={},
        rows={f"masked_modeling/{key}": np.array(value, np.float32) for key, value in rows.items()},
    )


ROWS = {
    "error": [0.5, 0.7, 0.9, np.nan],
    "error_of_unit_mean": [1, 1, 1, np.nan],
    "error_of_nearest_visible": [0.8, 1.2, 1.0, np.nan],
}
PATIENTS = ["a", "b", None, "d"]


def test_means_advantages_and_counts_leave_out_films_without_units_to_guess():
    numbers, notes = Config(bootstrap_samples=0).build().measure(evaluated(ROWS, PATIENTS))
    assert notes == []
    assert numbers == pytest.approx(
        {
            "masked_modeling/num": 3,
            "masked_modeling/num_patients": 3,
            "masked_modeling/error": 0.7,
            "masked_modeling/error_of_unit_mean": 1,
            "masked_modeling/error_of_nearest_visible": 1,
            "masked_modeling/advantage_over_unit_mean": 0.3,
            "masked_modeling/advantage_over_nearest_visible": 0.3,
        }
    )


def test_intervals_resample_patients_and_pair_the_films():
    rows = {key: value[:3] * 10 for key, value in ROWS.items()}
    patients = [f"patient{number // 2}" for number in range(30)]
    numbers, _ = Config(bootstrap_samples=500).build().measure(evaluated(rows, patients))
    for key in ("error", "error_of_nearest_visible", "advantage_over_nearest_visible"):
        low, value, high = (numbers[f"masked_modeling/{key}{end}"] for end in ("_ci_low", "", "_ci_high"))
        assert low < value < high
    assert numbers["masked_modeling/error_of_unit_mean_ci_low"] == 1
    one = Config(bootstrap_samples=50).build().measure(evaluated(rows, ["a"] * 30))[0]
    assert one["masked_modeling/error_ci_low"] == pytest.approx(one["masked_modeling/error_ci_high"])


def test_vessel_pixels_have_numbers_of_their_own():
    rows = ROWS | {f"{key}_on_vessels": [2, np.nan, 4, np.nan] for key in ROWS}
    numbers, _ = Config(bootstrap_samples=0).build().measure(evaluated(rows, PATIENTS))
    assert numbers["masked_modeling/error_on_vessels"] == 3
    assert numbers["masked_modeling/num_on_vessels"] == 2
    assert numbers["masked_modeling/error"] == pytest.approx(0.7)


def test_a_run_without_the_objective_has_nothing_to_say():
    assert Config().build().measure(evaluated({}, PATIENTS)) == ({}, [])


def test_what_was_not_evaluated_is_said_and_not_a_number():
    nothing = {key: [np.nan] * 4 for key in ROWS}
    numbers, notes = Config().build().measure(evaluated(nothing, PATIENTS))
    assert numbers == {"masked_modeling/num": 0}
    assert "no film has hidden units" in notes[0]
