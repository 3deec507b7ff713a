"""Change scores on studies whose changes are planted."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from deepcoro.evaluated import Evaluated
from deepcoro.metrics.serial_change import Config

NUM_PATIENTS = 30


def serial(seed: int = 0) -> Evaluated:
    """Two studies each (the later one listed first), two films a study; embeddings turn with the change of the label."""
    draw = np.random.default_rng(seed)
    change = draw.choice([0.0, 10.0, 40.0, -30.0], NUM_PATIENTS)
    films, predictions, labels = [], [], {"max_stenosis": [], "days_since_first": [], "side": []}
    studies, patients = [], []
    for patient in range(NUM_PATIENTS):
        for study, days, moved in (("late", 300.0, 1.0), ("early", 0.0, 0.0)):
            for _ in range(2):
                angle = moved * np.radians(abs(change[patient])) + draw.normal(0, 0.02)
                films.append([np.cos(angle), np.sin(angle)])
                predictions.append(40 + moved * change[patient] + draw.normal(0, 3))
                labels["max_stenosis"].append(40 + moved * change[patient])
                labels["days_since_first"].append(days)
                labels["side"].append("left")
                studies.append(f"{patient}{study}")
                patients.append(f"p{patient}")
    count = len(films)
    return Evaluated(
        split="test",
        units=np.arange(count),
        clips=[f"c{row}" for row in range(count)],
        studies=studies,
        patients=patients,
        films=np.array(films, np.float32),
        texts=[],
        text_embeddings=np.zeros((0, 0), np.float32),
        text_of_film=np.full(count, -1),
        labels=labels,
        prompts={},
        rows={"probe/max_stenosis/prediction": np.array(predictions)[:, None]},
    )


def test_later_minus_earlier_by_time_and_not_by_order_of_films():
    pairs = Config(label="max_stenosis").build().pairs(serial())
    assert len(pairs.truth) == NUM_PATIENTS
    assert set(pairs.truth) <= {0.0, 10.0, 40.0, -30.0}
    assert np.all((pairs.distance > 0.05) == (np.abs(pairs.truth) >= 20))


def test_numbers_agree_with_scikit_learn_and_scipy():
    metric = Config(
        label="max_stenosis", score="probe/max_stenosis/prediction", bootstrap_samples=200
    ).build()
    evaluated = serial()
    numbers, notes = metric.measure(evaluated)
    pairs = metric.pairs(evaluated)
    assert notes == []
    expected = roc_auc_score(np.abs(pairs.truth) >= 20, pairs.distance)
    assert numbers["serial_change/distance/auroc"] == pytest.approx(expected)
    assert numbers["serial_change/pearson"] == pytest.approx(pearsonr(pairs.score, pairs.truth)[0])
    low, high = (numbers[f"serial_change/pearson_ci_{end}"] for end in ("low", "high"))
    assert low <= numbers["serial_change/pearson"] <= high
    assert numbers["serial_change/num_patients"] == NUM_PATIENTS


def test_trees_of_one_patient_are_compared_each_with_itself():
    evaluated = serial()
    sides = ["left", "right"] * (len(evaluated.clips) // 2)
    both = (
        Config(label="max_stenosis")
        .build()
        .pairs(Evaluated(**vars(evaluated) | {"labels": dict(evaluated.labels) | {"side": sides}}))
    )
    assert len(both.truth) == 2 * NUM_PATIENTS
    assert len(np.unique(both.patient)) == NUM_PATIENTS


def test_what_is_not_assessed_has_no_pair():
    evaluated = serial()
    labels = dict(evaluated.labels) | {"max_stenosis": [None] * 2 + evaluated.labels["max_stenosis"][2:]}
    pairs = Config(label="max_stenosis").build().pairs(Evaluated(**vars(evaluated) | {"labels": labels}))
    assert len(pairs.truth) == NUM_PATIENTS - 1


def test_what_is_missing_is_said():
    numbers, notes = Config(label="syntax").build().measure(serial())
    assert numbers == {}
    assert "data.tables" in notes[0]
    _, notes = Config(label="max_stenosis", score="probe/none/prediction").build().measure(serial())
    assert "nothing gives" in notes[0]


SCORE = "probe/max_stenosis/prediction"


@pytest.mark.parametrize(("min_change", "num_changed"), [(90.0, 0), (1e-3, 30)])
def test_where_no_pair_or_every_pair_changed_there_is_no_auroc_but_a_correlation(min_change, num_changed):
    evaluated = serial()
    labels = dict(evaluated.labels) | {
        "max_stenosis": [
            value + 0.01 * (row % 4 < 2) for row, value in enumerate(evaluated.labels["max_stenosis"])
        ]
    }
    metric = Config(label="max_stenosis", score=SCORE, min_change=min_change).build()
    numbers, notes = metric.measure(replace(evaluated, labels=labels))
    assert "serial_change/distance/auroc" not in numbers
    assert f"{num_changed} of 30 pairs changed" in notes[0]
    assert numbers["serial_change/pearson"] > 0.9
    assert numbers["serial_change/pearson_ci_low"] <= numbers["serial_change/pearson"]


def test_a_split_without_a_pair_has_neither():
    evaluated = serial()
    numbers, _ = Config(label="max_stenosis", score=SCORE).build().measure(evaluated.only(np.arange(120) < 2))
    assert numbers["serial_change/num"] == 0
    assert "serial_change/pearson" not in numbers


def test_each_pair_has_its_change_score_also_where_nobody_read_the_label():
    evaluated = serial()
    labels = dict(evaluated.labels) | {"max_stenosis": [None] * 2 + evaluated.labels["max_stenosis"][2:]}
    metric = Config(label="max_stenosis", score=SCORE).build()
    table = metric.tables(replace(evaluated, labels=labels))["serial_change"]
    assert len(table) == NUM_PATIENTS
    first, second = table[:2]
    assert (first["patient"], first["earlier_study"], first["later_study"]) == ("p0", "0early", "0late")
    assert first["later_label_max_stenosis"] is first["label_max_stenosis_change"] is None
    assert first["earlier_label_max_stenosis"] == "40"
    assert float(second["days_since_first_change"]) == 300
    pairs = metric.pairs(evaluated)
    assert [float(row["score_change"]) for row in table] == pytest.approx(pairs.score, abs=1e-3)
    assert [float(row["distance"]) for row in table] == pytest.approx(pairs.distance, abs=1e-4)
    assert float(second["label_max_stenosis_change"]) == pytest.approx(pairs.truth[1])


def test_studies_that_no_time_orders_have_no_table():
    assert Config(label="max_stenosis", time="days").build().tables(serial()) == {}


def test_changes_that_are_all_alike_have_no_correlation():
    evaluated = serial()
    labels = dict(evaluated.labels) | {"max_stenosis": [40.0] * len(evaluated.clips)}
    numbers, _ = Config(label="max_stenosis", score=SCORE).build().measure(replace(evaluated, labels=labels))
    assert "serial_change/pearson" not in numbers
