"""Scored rows come back as they were written, and thresholds find the checkpoint they were chosen for."""

from dataclasses import replace

import numpy as np
import pytest

from deepcoro.calibrated import Calibration, Fixed, read_calibration, write_calibration
from deepcoro.config import DataError
from deepcoro.evaluated import Head
from deepcoro.metrics import retrieval, survival, zero_shot
from deepcoro.scored import read_scored, score_rows, scored_path, write_scored
from tests.metrics.heads import MULTICLASS, REGRESSION, evaluated, findings


def test_answers_of_heads_and_of_zero_shot_tasks_come_back_without_rounding(tmp_path):
    data = findings(num_heads=1, count=6)
    task = zero_shot.Task(label="a_cto", positive="1", prompts={"0": ["open"], "1": ["occluded"]})
    metric = zero_shot.Config(tasks={"cto": task}).build()
    generator = np.random.default_rng(0)
    data = replace(
        data,
        films=generator.normal(size=(6, 3)).astype(np.float32),
        text_embeddings=np.zeros((0, 3), np.float32),
        prompts={"open": np.eye(3)[0], "occluded": np.eye(3)[1]},
        patients=["p", None, "p", "q", None, "q"],
        fixed={"probe/a_cto": Fixed(threshold=0.3, rule="f1", num=3, num_positive=1)},
    )
    path = scored_path(tmp_path, "mine", "test")
    write_scored(path, score_rows(data, [metric]))
    rows = read_scored(path)
    assert rows.clips == data.clips
    assert rows.patients == data.patients
    assert sorted(rows.answers) == ["probe/a_cto", "zero_shot/cto"]
    head = rows.answers["probe/a_cto"]
    assert (head.task, head.threshold, list(head.classes)) == ("binary_classification", 0.3, [])
    np.testing.assert_array_equal(head.said, data.rows["probe/a_cto/prediction"])
    expected = [np.nan if value is None else value for value in data.labels["a_cto"]]
    np.testing.assert_array_equal(head.truth, expected)
    np.testing.assert_array_equal(rows.answers["zero_shot/cto"].truth, expected)
    np.testing.assert_allclose(
        rows.answers["zero_shot/cto"].said[:, 0], data.films[:, 1] - data.films[:, 0], atol=1e-6
    )


def test_classes_have_names_and_a_number_has_none(tmp_path):
    heads = {
        "grade": Head(MULTICLASS, "grade", 3, {"none": 0, "some": 1}),
        "lvef": Head(REGRESSION, "lvef", 0),
        "absent": Head(REGRESSION, "absent", 0),
    }
    said = {"grade": np.zeros((2, 3)), "lvef": np.zeros(2), "absent": np.zeros(2)}
    rows = score_rows(evaluated(heads, said, {"grade": ["some", "many"], "lvef": ["55", "high"]}), [])
    assert sorted(rows.answers) == ["probe/grade", "probe/lvef"]
    assert rows.answers["probe/grade"].classes == ["none", "some", "2"]
    np.testing.assert_array_equal(rows.answers["probe/grade"].truth, [1, np.nan])
    np.testing.assert_array_equal(rows.answers["probe/lvef"].truth, [55, np.nan])


def test_times_to_events_come_back_with_the_threshold_of_their_head(tmp_path):
    data = findings(num_heads=1, count=6)
    labels = data.labels | {"died": [1, 0, None, 1, 0, 0], "days": [5, 9, 9, None, 2, 30]}
    fixed = {"probe/a_cto": Fixed(threshold=0.3, rule="f1", num=3, num_positive=1)}
    outcome = survival.Outcome(head="probe/a_cto", event="died", time="days")
    unknown = survival.Outcome(head="probe/a_cto", event="moved", time="days")
    metric = survival.Config(outcomes={"mace": outcome, "moved": unknown}).build()
    path = scored_path(tmp_path, "mine", "test")
    write_scored(path, score_rows(replace(data, labels=labels, fixed=fixed), [metric]))
    (found,) = read_scored(path).followed.values()
    assert (found.head, found.threshold) == ("probe/a_cto", 0.3)
    assert found.time.tolist() == [5, 9, 2, 30] and found.event.tolist() == [True, False, False, False]
    assert found.patient.tolist() == [0, 0, 2, 2]
    np.testing.assert_array_equal(found.score, data.rows["probe/a_cto/prediction"][[0, 1, 4, 5], 0])


def test_searches_come_back_and_films_without_a_report_stand_behind_none(tmp_path):
    draw = np.random.default_rng(0)
    data = replace(
        findings(num_heads=1, count=6),
        films=draw.normal(size=(6, 3)).astype(np.float32),
        texts=["a", "b"],
        text_embeddings=draw.normal(size=(2, 3)).astype(np.float32),
        text_of_film=np.array([0, 1, -1, 1, 0, 1]),
    )
    metric = retrieval.Config(recall_at=(1, 2), bootstrap_samples=0).build()
    path = scored_path(tmp_path, "mine", "test")
    write_scored(path, score_rows(data, [metric]))
    found = read_scored(path).searched
    assert sorted(found) == ["retrieval/text_to_video", "retrieval/video_to_text"]
    for name, each in metric.searched(data).items():
        assert list(found[name].measures) == ["R@1", "R@2", "MRR"]
        np.testing.assert_array_equal(found[name].query, each.query)
        np.testing.assert_array_equal(found[name].got, each.got)
        assert found[name].query[2] == -1


def test_what_is_no_such_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="run_mode=val or test"):
        read_scored(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", clip=np.zeros(2))
    with pytest.raises(DataError, match="no table of scored rows"):
        read_scored(tmp_path / "other.npz")


def test_thresholds_are_found_by_the_digest_of_their_checkpoint_alone(tmp_path):
    calibration = Calibration(
        checkpoint="abc",
        split="val",
        data="mine",
        data_fingerprint="f",
        created="today",
        heads={
            "probe/cto": Fixed(threshold=0.25, rule="youden", slope=0.9, intercept=-1, num=9, num_positive=4)
        },
    )
    write_calibration(tmp_path, calibration)
    assert read_calibration(tmp_path, "abc") == calibration
    assert read_calibration(tmp_path, "abd") is None
