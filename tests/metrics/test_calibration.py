"""Calibration of heads, and the correction that val fixed applied to another split."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from deepcoro.evaluated import Head
from deepcoro.metrics import classification
from deepcoro.metrics.calibration import Config
from tests.metrics.heads import MULTICLASS, ORDINAL, evaluated, findings, known


def test_probabilities_are_measured_as_said_and_as_corrected_by_what_val_fixed():
    val, test = findings(count=400), findings(count=400, seed=1)
    fixed = classification.Config().build().fix(replace(val, split="val"))
    numbers, notes = Config(bootstrap_samples=30).build().measure(replace(test, fixed=fixed))
    _, said, truth = known(test, "a_cto")
    assert numbers["probe/a_cto/brier"] == pytest.approx(brier_score_loss(truth, said[:, 0]))
    fit = fixed["probe/a_cto"]
    corrected = 1 / (1 + np.exp(-(fit.intercept + fit.slope * np.log(said[:, 0] / (1 - said[:, 0])))))
    assert numbers["probe/a_cto/brier_recalibrated"] == pytest.approx(brier_score_loss(truth, corrected))
    assert {"probe/a_cto/ece", "probe/a_cto/ece_recalibrated"} <= set(numbers)
    assert {"probe/a_cto/brier_ci_low", "probe/a_cto/calibration_slope_ci_high"} <= set(numbers)
    assert not any("ece" in key and "_ci_" in key for key in numbers)
    assert notes == []


@pytest.mark.parametrize("task", [MULTICLASS, ORDINAL])
def test_heads_of_several_classes_have_a_score_with_its_interval_and_an_error_without(task):
    generator = np.random.default_rng(0)
    grade = generator.integers(0, 3, 80)
    said = generator.dirichlet(np.ones(3), 80)
    heads = {name: Head(task, name, 3) for name in ("grade", "alike", "unknown")}
    labels = {"grade": [None, *grade[1:].tolist()], "alike": [1] * 80, "unknown": [None] * 80}
    data = evaluated(heads, dict.fromkeys(heads, said), labels)
    numbers, notes = Config(bootstrap_samples=30).build().measure(data)
    said = said[1:].astype(np.float32)
    expected = brier_score_loss(grade[1:], said, labels=range(3), scale_by_half=False)
    key = "probe/grade/multiclass_brier"
    assert numbers[key] == pytest.approx(expected)
    assert numbers[f"{key}_ci_low"] < numbers[key] < numbers[f"{key}_ci_high"]
    assert 0 < numbers["probe/grade/top_label_ece"] < 1
    assert "probe/grade/top_label_ece_ci_low" not in numbers and "probe/grade/brier" not in numbers
    assert numbers["probe/alike/multiclass_brier_of_prevalence"] == 0
    assert not any("unknown" in name for name in numbers) and notes == []


def test_the_split_that_chose_the_correction_and_heads_of_one_class_have_none():
    data = findings()
    fixed = classification.Config().build().fix(data)
    one_class = data.labels | {"b_cto": [1.0] * 80}
    numbers, _ = (
        Config(bootstrap_samples=0).build().measure(replace(data, split="val", fixed=fixed, labels=one_class))
    )
    assert not any("recalibrated" in key or "b_cto" in key for key in numbers)
    assert "probe/a_cto/ece" in numbers
    assert Config().build().measure(replace(data, heads={})) == ({}, [])
