"""Numbers of heads on assessed rows, and means over heads in one unit."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error

from deepcoro.evaluated import Head
from deepcoro.metrics.regression import Config
from tests.metrics.heads import BINARY, REGRESSION, evaluated, known


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    heads, said, labels = {}, {}, {}
    for name in ("lad_stenosis", "rca_stenosis", "lvef", "nothing"):
        truth = generator.integers(0, 10, 60) * 10.0
        heads[name], said[name] = Head(REGRESSION, name, 0), truth + generator.normal(3, 12, 60)
        labels[name] = [None if row % 3 == 0 or name == "nothing" else truth[row] for row in range(60)]
    heads["cto"], said["cto"], labels["cto"] = Head(BINARY, "cto", 2), np.zeros(60), [0.0] * 60
    return evaluated(heads, said, labels)


def test_errors_are_in_the_unit_of_the_label_and_beside_those_of_the_median(data):
    numbers, notes = Config(families={"stenosis": "*_stenosis"}, bootstrap_samples=30).build().measure(data)
    _, said, truth = known(data, "lvef")
    assert numbers["probe/lvef/mae"] == pytest.approx(mean_absolute_error(truth, said[:, 0]))
    assert numbers["probe/lvef/mae_of_median"] == pytest.approx(np.abs(truth - np.median(truth)).mean())
    assert numbers["probe/lvef/mae_ci_low"] < numbers["probe/lvef/mae"] < numbers["probe/lvef/mae_ci_high"]
    assert numbers["probe/lvef/num"] == 40
    assert numbers["probe/lvef/num_not_assessed"] == 20
    assert numbers["probe/nothing/num"] == 0
    assert "probe/nothing/mae" not in numbers
    each = [numbers[f"probe/{name}/mae"] for name in ("lad_stenosis", "rca_stenosis")]
    assert numbers["probe/macro=stenosis/mae"] == pytest.approx(np.mean(each))
    assert "probe/macro/mae" not in numbers
    assert "probe/macro/pearson_r" in numbers
    assert (
        numbers["probe/macro/num_of_numbers"] == 120
        and numbers["probe/macro/num_not_assessed_of_numbers"] == 60
    )
    assert numbers["probe/macro=stenosis/num_of_numbers"] == 80
    assert not any("cto" in key for key in numbers)
    assert len(notes) == 1 and "no 90 % prediction interval of numbers" in notes[0]


def test_a_run_without_such_heads_says_nothing(data):
    heads = {name: head for name, head in data.heads.items() if head.task == BINARY}
    assert Config().build().measure(replace(data, heads=heads)) == ({}, [])
