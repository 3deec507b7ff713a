"""Columns of heads as earlier tools wrote them."""

from dataclasses import replace

import numpy as np
import pytest

from deepcoro.evaluated import Evaluated, Head
from deepcoro.head_columns import head_columns


@pytest.fixture
def evaluated() -> Evaluated:
    """Three rows, a head of every kind; the labels of the second row are not assessed."""
    return Evaluated(
        split="test",
        units=np.arange(3),
        clips=["s0", "s1", "s2"],
        studies=["s0", "s1", "s2"],
        patients=["p0", "p1", "p2"],
        films=np.zeros((3, 2), np.float32),
        texts=[],
        text_embeddings=np.zeros((0, 0), np.float32),
        text_of_film=np.full(3, -1),
        labels={"cto": [1, None, 0.0], "dominance": ["right", None, "co"], "lvef": [40.5, float("nan"), 60]},
        prompts={},
        rows={
            "probe/cto/prediction": np.array([[0.9], [0.25], [0.1]], np.float32),
            "probe/dominance/prediction": np.array([[0.5, 0.3, 0.2], [0, 1, 0], [0, 0.1, 0.9]], np.float32),
            "probe/lvef/prediction": np.array([[41.0], [50.0], [61.25]], np.float32),
        },
        heads={
            "probe/cto": Head("binary_classification", "cto", 2),
            "probe/dominance": Head(
                "multiclass_classification", "dominance", 3, {"right": 0, "left": 1, "co": 2}
            ),
            "probe/lvef": Head("regression", "lvef", 0),
            "probe/never": Head("regression", "never", 0),
        },
    )


def test_a_finding_and_a_number_have_a_prediction_and_a_truth(evaluated: Evaluated) -> None:
    found = head_columns(evaluated)
    assert found["cto_pred"] == ["0.9", "0.25", "0.1"] and found["cto_true"] == ["1", None, "0"]
    assert found["lvef_pred"] == ["41", "50", "61.25"] and found["lvef_true"] == ["40.5", None, "60"]
    assert not any(name.startswith("never") for name in found), "it said nothing"


def test_classes_have_a_probability_each_and_are_named_by_their_words(evaluated: Evaluated) -> None:
    found = head_columns(evaluated)
    assert [name for name in found if name.startswith("dominance")] == [
        *(f"dominance_prob_{word}" for word in ("right", "left", "co")),
        "dominance_pred_class",
        "dominance_true_class",
    ]
    assert found["dominance_prob_left"] == ["0.3", "1", "0.1"]
    assert found["dominance_pred_class"] == ["right", "left", "co"]
    assert found["dominance_true_class"] == ["right", None, "co"]


def test_without_labels_the_truth_is_empty_and_equal_names_are_told_apart(evaluated: Evaluated) -> None:
    heads = {**evaluated.heads, "other/cto": evaluated.heads["probe/cto"]}
    rows = {**evaluated.rows, "other/cto/prediction": evaluated.rows["probe/cto/prediction"]}
    found = head_columns(replace(evaluated, labels={}, heads=heads, rows=rows))
    assert found["probe_cto_true"] == found["other_cto_true"] == [None] * 3
    assert found["lvef_pred"] == ["41", "50", "61.25"] and found["dominance_true_class"] == [None] * 3


def test_a_label_that_is_no_class_is_written_as_it_is_and_never_as_the_name_of_another(
    evaluated: Evaluated,
) -> None:
    """An inference needs no labels and refuses none."""
    head = Head("multiclass_classification", "grade", 3)
    heads, labels = {**evaluated.heads, "probe/dominance": head}, {"grade": [7, -1.0, 1.5]}
    found = head_columns(replace(evaluated, heads=heads, labels=evaluated.labels | labels))
    assert found["dominance_true_class"] == ["7", "-1", "1.5"]
