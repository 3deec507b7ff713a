"""Heads against scikit-learn on the rows that were assessed, thresholds that stay fixed, means over heads, and what is left out."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics

from deepcoro.bootstrap import resamples
from deepcoro.calibrated import Fixed
from deepcoro.config import DataError
from deepcoro.evaluated import Head
from deepcoro.metrics.classification import Config
from tests.metrics.heads import BINARY, MULTICLASS, ORDINAL, evaluated, findings, known


def metric(**changes):
    return Config(**{"bootstrap_samples": 40} | changes).build()


def fixed_at(threshold, *names):
    return {
        f"probe/{name}": Fixed(threshold=threshold, rule="youden", num=9, num_positive=4) for name in names
    }


@pytest.fixture(scope="module")
def data():
    return findings()


@pytest.fixture(scope="module")
def measured(data):
    return metric(families={"early": "[ab]_*"}).measure(replace(data, fixed=fixed_at(0.6, "a_cto", "b_cto")))


def test_each_head_is_measured_on_the_rows_that_were_assessed(data, measured):
    numbers, _ = measured
    for name in ("a_cto", "b_cto", "c_cto"):
        rows, said, truth = known(data, name)
        key = f"probe/{name}"
        assert numbers[f"{key}/auroc"] == pytest.approx(metrics.roc_auc_score(truth, said[:, 0]))
        assert numbers[f"{key}/auprc"] == pytest.approx(metrics.average_precision_score(truth, said[:, 0]))
        assert numbers[f"{key}/num"] == len(rows)
        assert numbers[f"{key}/num_positive"] == truth.sum()
        assert numbers[f"{key}/prevalence"] == pytest.approx(truth.mean())
        assert numbers[f"{key}/num_not_assessed"] == 80 - len(rows)
        assert numbers[f"{key}/num_patients"] == len(set(rows // 2))
        assert numbers[f"{key}/num_positive_patients"] == len(set(rows[truth == 1] // 2))
        assert numbers[f"{key}/num_negative_patients"] == len(set(rows[truth == 0] // 2))
        assert numbers[f"{key}/auroc_ci_low"] <= numbers[f"{key}/auroc"] <= numbers[f"{key}/auroc_ci_high"]


def test_decisions_are_those_at_the_fixed_threshold_and_only_where_there_is_one(data, measured):
    numbers, notes = measured
    _, said, truth = known(data, "a_cto")
    called = said[:, 0] >= 0.6
    assert numbers["probe/a_cto/threshold"] == 0.6
    assert numbers["probe/a_cto/sensitivity"] == pytest.approx(metrics.recall_score(truth, called))
    assert numbers["probe/a_cto/f1"] == pytest.approx(metrics.f1_score(truth, called))
    assert "probe/c_cto/f1" not in numbers
    assert "probe/micro/f1" not in numbers
    assert any("chooses thresholds" in note and "probe/c_cto" in note for note in notes)


def test_without_val_there_are_no_decisions_and_a_note_says_so(data):
    numbers, notes = metric().measure(data)
    assert not [key for key in numbers if "sensitivity" in key and "at_specificity" not in key]
    assert not [key for key in numbers if key.endswith(("/f1", "/threshold", "/ppv"))]
    assert any("run_mode=val" in note for note in notes)


def test_means_over_heads_are_macro_and_micro_with_the_same_patients_in_each_resample(data, measured):
    numbers, _ = measured
    names = ("a_cto", "b_cto", "c_cto")
    each = [numbers[f"probe/{name}/auroc"] for name in names]
    assert numbers["probe/macro/auroc"] == pytest.approx(np.mean(each))
    assert numbers["probe/macro=early/auroc"] == pytest.approx(np.mean(each[:2]))
    pooled = [np.concatenate([known(data, name)[part] for name in names]) for part in (1, 2)]
    assert numbers["probe/micro/auroc"] == pytest.approx(metrics.roc_auc_score(pooled[1], pooled[0][:, 0]))
    drawn = []
    for counts in next(resamples(40, 40, seed=0)).astype(int):
        values = []
        for name in names:
            rows, said, truth = known(data, name)
            again = np.repeat(np.arange(len(rows)), counts[rows // 2])
            values.append(metrics.roc_auc_score(truth[again], said[again, 0]))
        drawn.append(np.mean(values))
    bounds = numbers["probe/macro/auroc_ci_low"], numbers["probe/macro/auroc_ci_high"]
    assert bounds == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    assert numbers["probe/macro=early/f1"] == pytest.approx(
        np.mean([numbers["probe/a_cto/f1"], numbers["probe/b_cto/f1"]])
    )


def test_means_over_heads_have_the_counts_of_all_their_rows_beside_them(data, measured):
    numbers, _ = measured
    for family, names in (("", ("a_cto", "b_cto", "c_cto")), ("=early", ("a_cto", "b_cto"))):
        each = [known(data, name) for name in names]
        truth = np.concatenate([found[2] for found in each])
        expected = {
            "num": len(truth),
            "num_patients": len(set(np.concatenate([found[0] // 2 for found in each]).tolist())),
            "num_positive": truth.sum(),
            "prevalence": truth.mean(),
            "num_not_assessed": 80 * len(names) - len(truth),
        }
        for kind in ("macro", "micro"):
            found = {key: numbers[f"probe/{kind}{family}/{key}"] for key in expected}
            assert found == pytest.approx(expected)


def test_a_class_of_few_rows_is_named():
    grades = [2] * 2 + [0, 1] * 39
    said = np.random.default_rng(0).dirichlet(np.ones(4), 80)
    data = evaluated({"grade": Head(MULTICLASS, "grade", 4)}, {"grade": said}, {"grade": grades})
    numbers, notes = metric(bootstrap_samples=0).measure(data)
    assert numbers["probe/grade/class=2/num_positive"] == 2 and "probe/grade/class=2/auroc" in numbers
    assert numbers["probe/grade/class=3/num_positive"] == 0 and "probe/grade/class=3/auroc" not in numbers
    assert "probe/grade/class=3/recall" not in numbers and numbers["probe/grade/class=3/precision"] == 0
    (few,) = [note for note in notes if "fewer than 10" in note]
    assert "probe/grade/class=2" in few and "class=1" not in few


def test_many_films_of_few_patients_are_few():
    truth = np.arange(80) < 16  # of eight patients
    data = evaluated(
        {"cto": Head(BINARY, "cto", 2)}, {"cto": np.linspace(0, 1, 80)}, {"cto": truth.astype(float).tolist()}
    )
    assert any(
        "fewer than 10 patients" in note and "probe/cto" in note
        for note in metric(bootstrap_samples=0).measure(data)[1]
    )


def test_val_chooses_thresholds_and_says_that_its_own_decisions_flatter(data):
    fixed = metric().fix(data)
    assert sorted(fixed) == ["probe/a_cto", "probe/b_cto", "probe/c_cto"]
    _, said, truth = known(data, "a_cto")
    best = max(metrics.balanced_accuracy_score(truth, said[:, 0] >= level) for level in said[:, 0])
    numbers, notes = metric().measure(replace(data, split="val", fixed=fixed))
    assert numbers["probe/a_cto/balanced_accuracy"] == pytest.approx(best)
    assert any("too good" in note for note in notes)
    assert fixed["probe/a_cto"].num == len(truth)
    assert 0 < fixed["probe/a_cto"].slope < 3


@pytest.mark.parametrize("task", [MULTICLASS, ORDINAL])
def test_classes_are_measured_as_by_scikit_learn(task):
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 90)
    said = generator.dirichlet(np.ones(3), 90) + 0.4 * np.eye(3)[truth]
    said = (said / said.sum(axis=1, keepdims=True)).astype(np.float32)
    words = {"none": 0, "mild": 1, "very severe": 2}
    labels = [None, *np.array(list(words))[truth[1:]].tolist()]
    data = evaluated({"calcif": Head(task, "grade", 3, words)}, {"calcif": said}, {"grade": labels})
    numbers, notes = metric(bootstrap_samples=0).measure(data)
    truth, said = truth[1:], said[1:].astype(np.float64)
    one_hot = np.eye(3)[truth]
    expected = {
        "class=very_severe/auroc": metrics.roc_auc_score(truth == 2, said[:, 2]),
        "macro_auroc": metrics.roc_auc_score(one_hot, said, average="macro"),
        "micro_auroc": metrics.roc_auc_score(one_hot, said, average="micro"),
        "macro_auprc": metrics.average_precision_score(one_hot, said, average="macro"),
        "accuracy": metrics.accuracy_score(truth, said.argmax(axis=1)),
        "macro_f1": metrics.f1_score(truth, said.argmax(axis=1), average="macro"),
        "macro_precision": metrics.precision_score(truth, said.argmax(axis=1), average="macro"),
        "macro_recall": metrics.recall_score(truth, said.argmax(axis=1), average="macro"),
        "micro_precision": metrics.precision_score(truth, said.argmax(axis=1), average="micro"),
        "micro_recall": metrics.recall_score(truth, said.argmax(axis=1), average="micro"),
        "class=very_severe/precision": metrics.precision_score(truth == 2, said.argmax(axis=1) == 2),
        "class=very_severe/recall": metrics.recall_score(truth == 2, said.argmax(axis=1) == 2),
        "num": 89,
        "num_not_assessed": 1,
        "class=very_severe/num": 89,
        "class=very_severe/num_positive": (truth == 2).sum(),
        "class=very_severe/num_positive_patients": len(set((np.flatnonzero(truth == 2) + 1) // 2)),
        "class=none/prevalence": (truth == 0).mean(),
    }
    for key, value in expected.items():
        assert numbers[f"probe/calcif/{key}"] == pytest.approx(value), key
    kappa = metrics.cohen_kappa_score(truth, said.argmax(axis=1), weights="quadratic")
    assert numbers.get("probe/calcif/weighted_kappa") == (pytest.approx(kappa) if task == ORDINAL else None)
    assert notes == []


def test_a_head_of_one_class_or_of_no_labels_has_counts_and_no_measure():
    heads = {name: Head(BINARY, name, 2) for name in ("never", "unknown", "rare")}
    heads["grade"] = Head(MULTICLASS, "grade", 3)
    said = {name: np.linspace(0, 1, 20) for name in ("never", "unknown", "rare")}
    said["grade"] = np.full((20, 3), 1 / 3)
    labels = {"never": [0.0] * 20, "rare": [1.0] + [0.0] * 19, "grade": [1] * 20}
    data = evaluated(heads, said, labels, fixed=fixed_at(0.5, "never", "rare"))
    numbers, notes = metric().measure(data)
    assert numbers["probe/never/num"] == 20
    assert numbers["probe/never/num_positive"] == 0
    assert "probe/never/auroc" not in numbers
    assert "probe/never/specificity" not in numbers
    assert numbers["probe/unknown/num"] == 0
    assert numbers["probe/unknown/num_not_assessed"] == 20
    assert numbers["probe/rare/auroc"] == 0.0
    assert numbers["probe/grade/accuracy"] == 0.0
    assert "probe/grade/macro_auroc" not in numbers
    assert "probe/macro/auroc" not in numbers
    assert any("one class" in note and "probe/never, probe/unknown" in note for note in notes)
    assert any("fewer than 10" in note and "probe/rare" in note for note in notes)


def test_runs_without_heads_and_empty_splits_have_nothing(data):
    assert metric().measure(replace(data, heads={})) == ({}, [])
    empty = data.only(np.zeros(80, bool))
    numbers, _ = metric().measure(replace(empty, fixed={}))
    assert set(numbers.values()) == {0.0}


def test_doubts_of_readers_count_as_what_they_are_nearer_to(data):
    sure = data.labels["a_cto"]
    doubt = {1.0: 2 / 3, 0.0: 1 / 3}
    doubted = [doubt.get(value, value) if row % 2 else value for row, value in enumerate(sure)]
    place = sure.index(1.0)
    sure, doubted = [*sure], [*doubted]
    sure[place], doubted[place] = None, 0.5
    expected, silent = metric().measure(replace(data, labels=data.labels | {"a_cto": sure}))
    of_doubts = replace(data, labels=data.labels | {"a_cto": doubted})
    numbers, notes = metric().measure(of_doubts)
    assert numbers == expected
    assert metric().fix(of_doubts).keys() == metric().fix(data).keys()
    num_doubted = sum(value is not None and 0 < value < 1 for value in doubted)
    assert any("a reader's doubt, count" in note and f"probe/a_cto ({num_doubted})" in note for note in notes)
    assert not any("doubt" in note for note in silent)


def test_a_label_that_the_head_does_not_know_is_an_error_not_a_class(data):
    with pytest.raises(DataError, match=r"'a_cto' has the values \[2.0\]"):
        metric().measure(replace(data, labels=data.labels | {"a_cto": [2.0] * 80}))
    said = {key: np.full_like(values, np.nan) for key, values in data.rows.items()}
    with pytest.raises(ValueError, match="predictions are NaN"):
        metric().measure(replace(data, rows=said))
