"""Decisions against scikit-learn, and thresholds against every threshold tried."""

import numpy as np
import pytest
from sklearn import metrics

from deepcoro.bootstrap import estimates
from deepcoro.statistics.confusion import (
    choose_threshold,
    class_measures,
    confusions,
    decision_statistic,
    each_class_measures,
)
from tests.statistics.repeated import assert_is_that_of_rows_repeated


def test_decisions_are_measured_as_by_scikit_learn_plain_and_resampled():
    generator = np.random.default_rng(0)
    positive, patients = generator.random(90) < 0.4, np.arange(90) // 3
    called = positive ^ (generator.random(90) < 0.3)

    def oracle(rows):
        truth, said = positive[rows], called[rows]
        return {
            "sensitivity": metrics.recall_score(truth, said),
            "specificity": metrics.recall_score(~truth, ~said),
            "ppv": metrics.precision_score(truth, said),
            "npv": metrics.precision_score(~truth, ~said),
            "f1": metrics.f1_score(truth, said),
            "accuracy": metrics.accuracy_score(truth, said),
            "balanced_accuracy": metrics.balanced_accuracy_score(truth, said),
        }

    assert_is_that_of_rows_repeated(decision_statistic(called, positive, patients, 30), oracle, patients)


def test_a_measure_without_films_to_rest_on_does_not_exist():
    none, all_true = np.zeros(3, bool), np.ones(3, bool)
    found = estimates(decision_statistic(none, none, np.arange(3), 3), 3)
    assert np.isnan([found[key] for key in ("sensitivity", "ppv", "f1", "balanced_accuracy")]).all()
    assert found["specificity"] == found["npv"] == found["accuracy"] == 1.0
    found = estimates(decision_statistic(none, all_true, np.arange(3), 3), 3)
    assert found["sensitivity"] == found["f1"] == 0.0
    assert np.isnan(found["specificity"])
    nothing = estimates(decision_statistic(none[:0], none[:0], np.zeros(0, int), 2), 2)
    assert np.isnan(list(nothing.values())).all()


def test_classes_are_measured_as_by_scikit_learn_plain_and_resampled():
    generator = np.random.default_rng(1)
    truth, patients = generator.integers(0, 4, 120), np.arange(120) // 2
    said = np.where(generator.random(120) < 0.5, truth, generator.integers(0, 4, 120))

    def oracle(rows):
        return {
            "accuracy": metrics.accuracy_score(truth[rows], said[rows]),
            "balanced_accuracy": metrics.balanced_accuracy_score(truth[rows], said[rows]),
            "macro_f1": metrics.f1_score(truth[rows], said[rows], average="macro"),
            **precision_and_recall(truth[rows], said[rows]),
            "weighted_kappa": metrics.cohen_kappa_score(truth[rows], said[rows], weights="quadratic"),
        }

    assert_is_that_of_rows_repeated(class_statistic(said, truth, 4, patients, 60), oracle, patients)


def class_statistic(said, truth, num_classes, patients, num_patients):
    tables = confusions(said, truth, num_classes, patients, num_patients)
    return lambda weights: class_measures(tables(weights))


def precision_and_recall(truth, said):
    values = {}
    for average in ("macro", "micro"):
        each = metrics.precision_recall_fscore_support(truth, said, average=average, zero_division=0)
        values |= {f"{average}_precision": each[0], f"{average}_recall": each[1]}
    return values


def test_a_class_never_said_and_one_that_nobody_has_count_as_zero_as_by_scikit_learn():
    truth, said = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 3, 0, 3, 3])
    statistic = class_statistic(said, truth, 5, np.arange(6), 6)
    assert_is_that_of_rows_repeated(
        statistic, lambda rows: precision_and_recall(truth[rows], said[rows]), np.arange(6), 40
    )
    found = estimates(statistic, 6)
    assert found["macro_recall"] == pytest.approx(2 / 3 / 4)
    assert found["balanced_accuracy"] == pytest.approx(2 / 3 / 3), "of the classes in truth alone"


def test_each_class_has_a_precision_where_it_is_said_and_a_recall_where_somebody_has_it():
    table = np.array([[[2.0, 1, 0], [1, 0, 0], [0, 0, 0]]])
    found = each_class_measures(table)
    np.testing.assert_allclose(found["precision"], [[2 / 3, 0, np.nan]])
    np.testing.assert_allclose(found["recall"], [[2 / 3, 0, np.nan]])


def test_one_class_alone_has_an_accuracy_and_no_kappa():
    same = np.ones(5, int)
    found = estimates(class_statistic(same, same, 3, np.arange(5), 5), 5)
    assert found["accuracy"] == found["balanced_accuracy"] == found["macro_f1"] == 1.0
    assert {found[f"{mean}_{key}"] for mean in ("macro", "micro") for key in ("precision", "recall")} == {1.0}
    nothing = estimates(class_statistic(same[:0], same[:0], 3, np.zeros(0, int), 2), 2)
    assert np.isnan(list(nothing.values())).all()
    assert np.isnan(found["weighted_kappa"])


@pytest.mark.parametrize("levels", [3, 9, 10_000])
@pytest.mark.parametrize("rule", ["youden", "f1"])
def test_no_threshold_is_better_than_the_chosen_one(rule, levels):
    generator = np.random.default_rng(levels)
    positive = generator.random(80) < 0.3
    scores = np.rint(levels * (generator.random(80) + 0.3 * positive))

    def worth(threshold):
        called = scores >= threshold
        if rule == "f1":
            return metrics.f1_score(positive, called, zero_division=0)
        return metrics.balanced_accuracy_score(positive, called)

    chosen = choose_threshold(scores, positive, rule)
    each = {float(level): worth(level) for level in np.unique(scores)}
    assert worth(chosen) == pytest.approx(max(each.values()))
    best = min(level for level, value in each.items() if value >= max(each.values()) - 1e-12)
    below = [level for level in each if level < best]
    assert chosen == pytest.approx((best + max(below)) / 2 if below else best)


def test_a_threshold_needs_both_classes():
    assert choose_threshold(np.arange(3.0), np.ones(3, bool)) is None
    assert choose_threshold(np.zeros(0), np.zeros(0, bool)) is None
