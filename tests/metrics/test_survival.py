"""Outcomes with a follow-up: who is in, and what is said where a column or a head is not there."""

import re
from dataclasses import replace

import numpy as np
import pytest

from deepcoro.bootstrap import estimates
from deepcoro.config import DataError
from deepcoro.evaluated import Head
from deepcoro.metrics.survival import Config
from deepcoro.statistics.survival import survival_statistic
from tests.metrics.heads import BINARY, MULTICLASS, evaluated

NUM = 60


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    risk = generator.normal(size=NUM)
    times = generator.exponential(np.exp(-risk)) * 100
    labels = {
        "mace": [None if row == 0 else float(row % 3 > 0) for row in range(NUM)],
        "mace_days": [None if row == 1 else times[row] for row in range(NUM)],
    }
    heads = {"mace": Head(BINARY, "mace", 2), "grade": Head(MULTICLASS, "grade", 3)}
    return evaluated(heads, {"mace": 1 / (1 + np.exp(-risk)), "grade": np.zeros((NUM, 3))}, labels)


def outcome(**changes):
    return {"head": "probe/mace", "event": "mace", "time": "mace_days", "horizons": [50, 100]} | changes


def test_rows_without_event_or_follow_up_are_left_out_and_counted(data):
    numbers, notes = Config(outcomes={"mace": outcome()}, bootstrap_samples=30).build().measure(data)
    rows = np.arange(2, NUM)
    times = np.array(data.labels["mace_days"][2:], float)
    events = np.array(data.labels["mace"][2:]) == 1
    score = data.rows["probe/mace/prediction"][rows, 0].astype(np.float64)
    expected = estimates(survival_statistic(score, times, events, np.arange(58), [50.0, 100.0]), 58)
    assert {key: numbers[f"survival/mace/{key}"] for key in expected} == pytest.approx(expected)
    assert numbers["survival/mace/num"] == 58
    assert numbers["survival/mace/num_events"] == events.sum()
    assert numbers["survival/mace/num_not_assessed"] == 2
    assert numbers["survival/mace/num_event_patients"] == len(set(rows[events] // 2))
    assert numbers["survival/mace/num_event_free_patients"] == len(set(rows[~events] // 2))
    low, high = (numbers[f"survival/mace/auc_at_50_ci_{end}"] for end in ("low", "high"))
    assert low < numbers["survival/mace/auc_at_50"] < high
    assert numbers["survival/mace/c_index"] > 0.6
    assert notes == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"head": "probe/grade"}, r"no head 'probe/grade' gives a number; heads that do: \['probe/mace'\]"),
        ({"time": "years"}, r"no label \['years'\]"),
    ],
)
def test_what_is_not_there_is_named(data, changes, told):
    numbers, notes = Config(outcomes={"mace": outcome(**changes)}).build().measure(data)
    assert numbers == {}
    assert len(notes) == 1
    assert re.search(told, notes[0])


def test_no_outcome_and_no_event_give_no_measure(data):
    assert Config().build().measure(data) == ({}, [])
    none = evaluated(
        {"mace": Head(BINARY, "mace", 2)}, {"mace": np.zeros(NUM)}, data.labels | {"mace": [0.0] * NUM}
    )
    numbers, notes = Config(outcomes={"mace": outcome()}).build().measure(none)
    assert "survival/mace/c_index" not in numbers
    assert "no event" in notes[0]


@pytest.mark.parametrize(
    ("days", "told"), [(-3.0, "'mace_days' .* holds -3; it is 0 or more"), ("left", "'mace_days' .*'left'")]
)
def test_a_follow_up_that_is_none_names_its_column(data, days, told):
    strange = replace(data, labels=dict(data.labels) | {"mace_days": [days, *data.labels["mace_days"][1:]]})
    with pytest.raises(DataError, match=told):
        Config(outcomes={"mace": outcome()}, bootstrap_samples=0).build().measure(strange)
