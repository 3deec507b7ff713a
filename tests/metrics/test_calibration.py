"""Calibration of heads, and the correction that val fixed applied to another split."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from deepcoro.metrics import classification
from deepcoro.metrics.calibration import Config
from tests.metrics.heads import findings, known


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
