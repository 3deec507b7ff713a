"""What the tests of this folder share: resampling written out, row by row."""

from collections.abc import Callable

import numpy as np

from deepcoro.bootstrap import Statistic

Oracle = Callable[[np.ndarray], dict[str, float]]
"""Rows (some several times, some not at all) -> values."""


def assert_is_that_of_rows_repeated(
    statistic: Statistic, oracle: Oracle, patients: np.ndarray, num_samples: int = 12, seed: int = 0
) -> None:
    """The statistic of patient weights is the oracle's of the rows of each patient as often as it was drawn."""
    num_patients = int(patients.max()) + 1
    weights = np.random.default_rng(seed).integers(0, 4, (num_samples, num_patients)).astype(float)
    weights[0] = 1.0
    found = statistic(weights)
    for sample, counts in enumerate(weights.astype(int)):
        rows = np.concatenate(
            [np.repeat(np.flatnonzero(patients == row), counts[row]) for row in range(num_patients)]
        )
        for key, expected in oracle(rows).items():
            np.testing.assert_allclose(found[key][sample], expected, atol=1e-9, rtol=1e-7, err_msg=key)
