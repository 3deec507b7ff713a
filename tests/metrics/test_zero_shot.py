"""Zero-shot AUROC against scikit-learn, and what happens to labels that are missing, foreign or all alike."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from deepcoro.aggregates import shareable
from deepcoro.metrics import zero_shot
from deepcoro.metrics.zero_shot import Config, Task, class_name


def cto_metric(**settings) -> zero_shot.ZeroShot:
    task = Task(
        label="cto", positive="1", prompts={"0": ["open", "patent"], "1": ["occluded", "total occlusion"]}
    )
    return Config(tasks={"cto": task}, bootstrap_samples=50, **settings).build()


def test_the_score_compares_ensembles_of_normalised_sentences():
    metric = cto_metric()
    assert metric.prompts() == ["open", "patent", "occluded", "total occlusion"]
    generator = np.random.default_rng(0)
    films, prompts = generator.normal(size=(9, 4)).astype(np.float32), generator.normal(size=(4, 4))
    prompts /= np.linalg.norm(prompts, axis=1, keepdims=True)
    negative, positive = prompts[:2].mean(axis=0), prompts[2:].mean(axis=0)
    expected = films @ (positive / np.linalg.norm(positive)) - films @ (negative / np.linalg.norm(negative))
    np.testing.assert_allclose(metric.scores(films, prompts)["cto"], expected, atol=1e-6)


def test_with_more_than_two_classes_the_nearest_other_one_counts():
    task = Task(label="dominance", positive="left", prompts={"left": ["l"], "right": ["r"], "co": ["c"]})
    metric = Config(tasks={"dominance": task}).build()
    film = np.array([[0.0, 0.6, 0.8]], np.float32)
    assert metric.scores(film, np.eye(3))["dominance"][0] == pytest.approx(-0.8, abs=1e-6)


def test_patients_are_counted_beside_their_films():
    """Ten films with an occlusion are of one patient, who has another without."""
    patients = ["a"] * 11 + [f"b{film}" for film in range(9)] + ["not assessed"]
    labels = [1] * 10 + [0] * 10 + [None]
    found, _ = cto_metric().compute({"cto": np.linspace(0, 1, 21)}, {"cto": labels}, patients)
    counts = {key: found[f"zero_shot/cto/num_{key}"] for key in ("positive", "positive_patients")}
    assert counts == {"positive": 10, "positive_patients": 1}
    assert (found["zero_shot/cto/num_patients"], found["zero_shot/cto/num_negative_patients"]) == (10, 10)
    assert not [key for key in shareable(found) if key.endswith("auroc")]


def test_auroc_is_that_of_the_assessed_films_alone():
    scores = np.random.default_rng(0).normal(size=40)
    labels = [None, float("nan"), "", "co"] + [int(score > 0.2) for score in scores[4:]]
    labels[10] = 1 - labels[10]
    found, notes = cto_metric().compute(
        {"cto": scores}, {"cto": labels}, [f"p{film // 2}" for film in range(40)]
    )
    assert found["zero_shot/cto/auroc"] == pytest.approx(roc_auc_score(labels[4:], scores[4:]))
    assert found["zero_shot/cto/num"] == 36
    assert found["zero_shot/cto/num_positive"] == sum(labels[4:])
    assert found["zero_shot/cto/num_not_assessed"] == 3
    assert found["zero_shot/cto/num_other_class"] == 1
    assert (
        found["zero_shot/cto/auroc_ci_low"]
        <= found["zero_shot/cto/auroc"]
        <= found["zero_shot/cto/auroc_ci_high"]
    )
    assert notes == []


def test_a_constant_embedding_scores_one_half():
    metric = cto_metric()
    prompts = np.random.default_rng(1).normal(size=(4, 515))
    film = np.random.default_rng(2).normal(size=(1, 515)).astype(np.float32)
    scores = metric.scores(np.repeat(film, 101, axis=0), prompts)
    found, _ = metric.compute(scores, {"cto": [film % 3 == 0 for film in range(101)]})
    assert found["zero_shot/cto/auroc"] == 0.5


def test_shuffled_labels_come_out_at_one_half():
    positive = np.arange(80) % 2
    found, _ = cto_metric().compute({"cto": positive + 0.0}, {"cto": positive})
    assert found["zero_shot/cto/auroc"] == 1.0
    assert found["zero_shot/control/cto/auroc_ci_low"] <= 0.5 <= found["zero_shot/control/cto/auroc_ci_high"]


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, None], [None, None, None]])
def test_one_class_alone_gives_counts_and_a_reason_but_no_number(labels):
    found, notes = cto_metric().compute({"cto": np.zeros(3)}, {"cto": labels})
    assert "zero_shot/cto/auroc" not in found
    assert found["zero_shot/cto/num_not_assessed"] == labels.count(None)
    assert len(notes) == 1 and "zero_shot/cto" in notes[0]


def test_a_label_that_the_data_lack_is_named():
    found, notes = cto_metric().compute({"cto": np.zeros(3)}, {"side": ["left"] * 3})
    assert found == {}
    assert "'cto'" in notes[0]


def test_the_same_class_is_meant_by_a_number_a_string_and_a_truth_value():
    assert {class_name(value) for value in (1, 1.0, True, "1", "1.0", "True", np.float32(1))} == {"1"}
    assert {class_name(value) for value in (None, float("nan"), "", " ", "nan")} == {None}
    assert class_name(" Left ") == "left"


def test_the_shipped_tasks_have_sentences_for_both_classes():
    metric = Config().build()
    assert set(metric.prompts_of_task) == {"side", "dominance", "cto"}
    assert set(metric.prompts_of_task["dominance"]) == {"left", "right"}
    assert len(metric.prompts()) >= 6
    assert metric.truth("dominance", ["left", "right", "co", None]).tolist()[:2] == [1.0, 0.0]
    assert np.isnan(metric.truth("dominance", ["co", None])).all()


def test_a_task_without_sentences_for_its_positive_class_is_refused():
    task = Task(label="cto", positive="2", prompts={"0": ["open"], "1": ["occluded"]})
    with pytest.raises(ValueError, match="'cto' needs sentences for '2'"):
        Config(tasks={"cto": task}).build()
    with pytest.raises(ValueError, match="no prompts"):
        Config(tasks={"thrombus": Task(label="thrombus", positive="1")}).build()


def test_probabilities_follow_the_scores():
    found = zero_shot.probability(np.array([-2.0, 0.0, 2.0]), 10.0)
    assert found[1] == 0.5
    assert (np.diff(found) > 0).all()


def test_a_model_that_diverged_has_no_scores():
    with pytest.raises(ValueError, match="diverged"):
        cto_metric().scores(np.full((2, 3), np.nan, np.float32), np.eye(4, 3))
