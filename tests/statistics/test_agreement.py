"""Numbers against true numbers: scikit-learn, scipy, and the analysis of variance written out."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from deepcoro.bootstrap import estimates
from deepcoro.statistics.agreement import agreement_statistic
from tests.statistics.repeated import assert_is_that_of_rows_repeated


def icc_by_analysis_of_variance(first, second):
    """Shrout and Fleiss's formula with mean squares summed in loops."""
    table = np.stack([first, second], axis=1)
    count, raters = table.shape
    grand = table.mean()
    between = sum(raters * (row.mean() - grand) ** 2 for row in table) / (count - 1)
    of_rater = sum(count * (column.mean() - grand) ** 2 for column in table.T) / (raters - 1)
    residual = sum(
        (table[row, rater] - table[row].mean() - table[:, rater].mean() + grand) ** 2
        for row in range(count)
        for rater in range(raters)
    ) / ((count - 1) * (raters - 1))
    return (between - residual) / (between + (raters - 1) * residual + raters * (of_rater - residual) / count)


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_errors_and_agreement_are_those_of_independent_formulas_plain_and_resampled(offset):
    generator = np.random.default_rng(0)
    truth = offset + generator.integers(0, 10, 90) * 10.0
    said = truth * 0.8 + 0.2 * offset + generator.normal(2, 12, 90)
    patients = np.arange(90) // 3
    median = np.median(truth)

    def oracle(rows):
        apart = said[rows] - truth[rows]
        mae = mean_absolute_error(truth[rows], said[rows])
        of_median = np.abs(truth[rows] - median).mean()
        return {
            "mae": mae,
            "rmse": root_mean_squared_error(truth[rows], said[rows]),
            "mae_of_median": of_median,
            "mae_ratio_to_median": mae / of_median,
            "pearson_r": stats.pearsonr(said[rows], truth[rows]).statistic,
            "icc": icc_by_analysis_of_variance(said[rows], truth[rows]),
            "bias": apart.mean(),
            "limit_low": apart.mean() - 1.96 * apart.std(ddof=1),
            "limit_high": apart.mean() + 1.96 * apart.std(ddof=1),
        }

    assert_is_that_of_rows_repeated(agreement_statistic(said, truth, patients, 30), oracle, patients)


def test_a_constant_has_errors_and_no_correlation():
    truth, same = np.array([1.0, 2.0, 4.0, 4.0]), np.full(4, 3.3)
    found = estimates(agreement_statistic(same, truth, np.arange(4), 4), 4)
    assert np.isnan(found["pearson_r"])
    assert found["icc"] == pytest.approx(icc_by_analysis_of_variance(same, truth))
    assert found["mae"] == pytest.approx(np.abs(same - truth).mean())
    alike = estimates(agreement_statistic(same, same, np.arange(4), 4), 4)
    assert np.isnan([alike["pearson_r"], alike["icc"], alike["mae_ratio_to_median"]]).all()
    assert alike["mae"] == alike["rmse"] == 0.0


def test_perfect_answers_agree_perfectly():
    truth = np.array([1.0, 2.0, 4.0])
    found = estimates(agreement_statistic(truth, truth, np.arange(3), 3), 3)
    assert found["pearson_r"] == pytest.approx(1)
    assert found["icc"] == pytest.approx(1)
    assert found["bias"] == found["limit_low"] == found["mae"] == 0


def test_one_row_has_an_error_and_no_spread_and_none_has_nothing():
    one = estimates(agreement_statistic(np.array([3.0]), np.array([1.0]), np.zeros(1, int), 1), 1)
    assert one["mae"] == one["rmse"] == one["bias"] == 2.0
    assert np.isnan([one["limit_low"], one["pearson_r"], one["icc"]]).all()
    none = estimates(agreement_statistic(np.zeros(0), np.zeros(0), np.zeros(0, int), 2), 2)
    assert np.isnan(list(none.values())).all()
