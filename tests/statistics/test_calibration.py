"""Calibration against scikit-learn, against bins filled by hand and against logistic regressions fitted anew."""

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from deepcoro.bootstrap import draws, estimates, interval, resamples
from deepcoro.statistics.calibration import (
    calibration_statistic,
    class_calibration_statistic,
    fit_recalibration,
    reliability,
)
from tests.statistics.repeated import assert_is_that_of_rows_repeated


def answers(num: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(-0.5, 1.5, num)
    positive = generator.random(num) < 1 / (1 + np.exp(-(0.3 + 0.7 * logits)))
    return 1 / (1 + np.exp(-logits)), positive


def logit(probabilities):
    return np.log(probabilities / (1 - probabilities))


def slope_by_scikit_learn(probabilities, positive):
    fit = LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky")
    fit.fit(logit(probabilities)[:, None], positive)
    return fit.coef_[0, 0], fit.intercept_[0]


def intercept_by_search(probabilities, positive):
    """The shift at which as many are expected as there are."""
    return brentq(
        lambda shift: np.sum(1 / (1 + np.exp(-logit(probabilities) - shift)) - positive), -9, 9, xtol=1e-12
    )


def test_brier_score_and_calibration_error_are_those_by_hand_plain_and_resampled():
    probabilities, positive = answers(90)
    patients = np.arange(90) // 3

    def oracle(rows):
        said, true = probabilities[rows], positive[rows]
        error = 0.0
        for low in range(10):
            inside = (said >= low / 10) & (said < (low + 1) / 10)
            if inside.any():
                error += inside.mean() * abs(true[inside].mean() - said[inside].mean())
        return {
            "brier": brier_score_loss(true, said),
            "brier_of_prevalence": brier_score_loss(true, np.full(len(rows), true.mean())),
            "ece": error,
        }

    assert_is_that_of_rows_repeated(
        calibration_statistic(probabilities, positive, patients, 30), oracle, patients
    )


def of_classes(num: int):
    """Probabilities of four classes in quarters, so that rows have ties and lie on the edges of bins."""
    generator = np.random.default_rng(2)
    counts = generator.multinomial(4, np.full(4, 0.25), num)
    truth = np.where(generator.random(num) < 0.5, counts.argmax(axis=1), generator.integers(0, 3, num))
    return counts / 4, truth


def test_scores_of_several_classes_are_those_by_hand_plain_and_resampled():
    probabilities, truth = of_classes(90)
    patients = np.arange(90) // 3
    is_tied = np.sort(probabilities, axis=1)[:, -1] == np.sort(probabilities, axis=1)[:, -2]
    assert is_tied.any() and not is_tied.all()

    def oracle(rows):
        said, true = probabilities[rows], truth[rows]
        label, sure, error = said.argmax(axis=1), said.max(axis=1), 0.0
        for low in range(10):
            inside = (sure * 10).astype(int).clip(max=9) == low
            if inside.any():
                error += inside.mean() * abs((label == true)[inside].mean() - sure[inside].mean())
        shares = np.bincount(true, minlength=4) / len(true)
        every = np.broadcast_to(shares, said.shape)
        return {
            "multiclass_brier": brier_score_loss(true, said, labels=range(4), scale_by_half=False),
            "multiclass_brier_of_prevalence": np.square(every - np.eye(4)[true]).sum(axis=1).mean(),
            "top_label_ece": error,
        }

    statistic = class_calibration_statistic(probabilities, truth, patients, 30)
    assert_is_that_of_rows_repeated(statistic, oracle, patients)


def test_two_classes_have_twice_the_brier_score_of_a_finding():
    probabilities, positive = answers(90)
    both = np.stack([1 - probabilities, probabilities], axis=1)
    found = estimates(class_calibration_statistic(both, positive.astype(int), np.arange(90), 90), 90)
    one = estimates(calibration_statistic(probabilities, positive, np.arange(90), 90), 90)
    assert found["multiclass_brier"] == pytest.approx(2 * one["brier"])
    assert found["multiclass_brier_of_prevalence"] == pytest.approx(2 * one["brier_of_prevalence"])


def test_one_class_alone_is_scored_and_no_rows_have_no_score():
    said = np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.0, 1.0, 0.0]])
    found = estimates(class_calibration_statistic(said, np.ones(3, int), np.arange(3), 3), 3)
    assert found["multiclass_brier"] == pytest.approx((0.38 + 0.56 + 0) / 3)
    assert found["multiclass_brier_of_prevalence"] == 0
    # of two classes as probable the first is said, which is wrong here
    assert found["top_label_ece"] == pytest.approx((0.5 + 0.4 + 0) / 3)
    nothing = estimates(class_calibration_statistic(said[:0], np.zeros(0, int), np.zeros(0, int), 2), 2)
    assert np.isnan(list(nothing.values())).all()


def test_reliability_is_the_curve_of_scikit_learn():
    probabilities, positive = answers(200)
    probabilities[:2] = 0.0, 1.0
    bins = reliability(probabilities, positive, 10)
    found, said = calibration_curve(positive, probabilities, n_bins=10)
    np.testing.assert_allclose(bins.said, said)
    np.testing.assert_allclose(bins.found, found)
    assert bins.num.sum() == 200


def test_slope_and_intercept_are_those_of_logistic_regressions():
    probabilities, positive = answers(300)
    found = estimates(calibration_statistic(probabilities, positive, np.arange(300), 300), 300)
    slope, intercept = slope_by_scikit_learn(probabilities, positive)
    fit = fit_recalibration(probabilities, positive)
    assert found["calibration_slope"] == pytest.approx(slope, abs=1e-4)
    assert (fit.slope, fit.intercept) == pytest.approx((slope, intercept), abs=1e-4)
    assert found["calibration_intercept"] == pytest.approx(
        intercept_by_search(probabilities, positive), abs=1e-6
    )
    again = fit_recalibration(fit.apply(probabilities), positive)
    assert (again.slope, again.intercept) == pytest.approx((1, 0), abs=1e-6)


def test_intervals_of_one_step_are_close_to_those_of_regressions_fitted_to_every_resample():
    probabilities, positive = answers(400)
    patients = np.arange(400) // 2
    drawn = draws(calibration_statistic(probabilities, positive, patients, 200), 200, 80, seed=3)
    slopes, shifts = [], []
    for counts in next(resamples(200, 80, seed=3)).astype(int):
        rows = np.repeat(np.arange(400), counts[patients])
        slopes.append(slope_by_scikit_learn(probabilities[rows], positive[rows])[0])
        shifts.append(intercept_by_search(probabilities[rows], positive[rows]))
    for key, fitted in (("calibration_slope", slopes), ("calibration_intercept", shifts)):
        expected = interval(np.array(fitted))
        assert interval(drawn[key]) == pytest.approx(expected, abs=0.1 * (expected[1] - expected[0]))


def test_classes_that_do_not_overlap_have_a_brier_score_and_no_slope():
    said, positive = np.array([0.1, 0.2, 0.2, 0.9]), np.array([False, False, False, True])
    found = estimates(calibration_statistic(said, positive, np.arange(4), 4), 4)
    assert np.isnan(found["calibration_slope"])
    assert np.isfinite([found["calibration_intercept"], found["brier"]]).all()
    assert fit_recalibration(said, positive) is None
    assert fit_recalibration(said, ~positive) is None
    one_class = estimates(calibration_statistic(said, np.ones(4, bool), np.arange(4), 4), 4)
    assert np.isnan([one_class["calibration_slope"], one_class["calibration_intercept"]]).all()
    assert one_class["brier"] == pytest.approx(np.square(1 - said).mean())
    nothing = estimates(calibration_statistic(said[:0], positive[:0], np.zeros(0, int), 2), 2)
    assert np.isnan(list(nothing.values())).all()
