"""Numbers read off by sentences: against a plain loop, on embeddings whose answer is known, and with labels that are missing."""

from dataclasses import replace

import numpy as np
import pydantic
import pytest

from deepcoro.angiography.grammar import parse
from deepcoro.angiography.prompts import sweep_sentences
from deepcoro.config import DataError
from deepcoro.evaluated import Evaluated
from deepcoro.metrics.prompt_sweep import Config, Task
from deepcoro.scored import score_rows

TASK = Task(
    label="lvef", low=10, high=60, step=10, prompts=["LVEF {value} %.", "Ejection fraction of {value} %."]
)


def evaluated(films: np.ndarray, prompts: dict[str, np.ndarray], lvef: list) -> Evaluated:
    count = len(films)
    return Evaluated(
        split="test",
        units=np.arange(count),
        clips=[f"c{film}" for film in range(count)],
        studies=[f"s{film}" for film in range(count)],
        patients=[f"p{film // 2}" for film in range(count)],
        films=films,
        texts=["a"],
        text_embeddings=films[:1],
        text_of_film=np.zeros(count, np.int64),
        labels={"lvef": lvef},
        prompts=prompts,
    )


def random_case(seed: int) -> Evaluated:
    generator = np.random.default_rng(seed)
    metric = Config(tasks={"ef": TASK}).build()
    prompts = {
        each: vector / np.linalg.norm(vector)
        for each in metric.prompts()
        for vector in [generator.normal(size=5)]
    }
    return evaluated(
        generator.normal(size=(11, 5)).astype(np.float32), prompts, [float(10 + film) for film in range(11)]
    )


@pytest.mark.parametrize("top_fraction", [0.01, 0.5, 1.0])
def test_the_answer_is_the_median_of_the_numbers_whose_sentences_are_nearest(top_fraction: float) -> None:
    case = random_case(0)
    metric = Config(tasks={"ef": TASK}, top_fraction=top_fraction).build()
    found = metric.film_scores(case)["prompt_sweep_ef"]
    count = {0.01: 1, 0.5: 3, 1.0: 6}[top_fraction]
    for film in range(11):
        cosines = []
        for value in (10, 20, 30, 40, 50, 60):
            mean = (case.prompts[f"LVEF {value} %."] + case.prompts[f"Ejection fraction of {value} %."]) / 2
            cosines.append((case.films[film] @ mean / np.linalg.norm(mean), value))
        nearest = [value for _, value in sorted(cosines, reverse=True)[:count]]
        assert found[film] == sorted(nearest)[count // 2] if count % 2 else np.median(nearest)


def test_films_that_lie_on_their_sentence_are_read_rightly_beside_the_median_guess() -> None:
    metric = Config(tasks={"ef": TASK}, top_fraction=0.01, bootstrap_samples=50).build()
    axes = np.eye(6)
    prompts = {each: axes[row] for row, value in enumerate(TASK.values) for each in TASK.sentences(value)}
    truth = [10, 20, 60, 60, None, 30]
    case = evaluated(axes[[0, 1, 5, 4, 3, 2]].astype(np.float32), prompts, truth)
    found, notes = metric.measure(case)
    assert found["prompt_sweep/ef/mae"] == 2 and found["prompt_sweep/ef/num"] == 5, "one film is read as 50"
    assert found["prompt_sweep/ef/mae_chance"] == (20 + 10 + 30 + 30 + 0) / 5
    assert found["prompt_sweep/ef/num_not_assessed"] == 1 and notes == []
    known = {patient for patient, value in zip(case.patients, truth, strict=True) if value is not None}
    assert found["prompt_sweep/ef/num_patients"] == len(known)
    assert found["prompt_sweep/ef/mae_ci_low"] <= 2 <= found["prompt_sweep/ef/mae_ci_high"]
    assert found["prompt_sweep/ef/pearson"] == pytest.approx(
        np.corrcoef([10, 20, 60, 50, 30], [10, 20, 60, 60, 30])[0, 1]
    )


def test_what_cannot_be_measured_is_said_or_left_out() -> None:
    metric = Config(tasks={"ef": TASK}, bootstrap_samples=0).build()
    case = random_case(1)
    assert metric.measure(replace(case, labels={})) == (
        {},
        ["prompt_sweep/ef: the data have no label 'lvef'"],
    )
    found, _ = metric.measure(replace(case, labels={"lvef": [None] * 11}))
    assert found == {"prompt_sweep/ef/num": 0, "prompt_sweep/ef/num_not_assessed": 11}
    assert metric.measure(replace(case, text_embeddings=np.zeros((1, 0)))) == ({}, [])


def test_an_evaluation_that_keeps_scored_rows_may_have_it_among_its_metrics() -> None:
    assert score_rows(random_case(1), [Config(tasks={"ef": TASK}).build()]).answers == {}


@pytest.mark.parametrize("label", ["max_stenosis", "mid_lad_stenosis", "pda_stenosis"])
def test_shipped_sentences_say_the_number_they_stand_for(label: str) -> None:
    for percent in (5, 50, 95, 100):
        for sentence in sweep_sentences(label, percent):
            (lesion,) = parse(sentence, strict=True).lesions
            assert lesion.stenosis_percent == percent
            assert label == "max_stenosis" or lesion.segment == label.removesuffix("_stenosis")
    assert all(parse(each).no_significant_stenosis for each in sweep_sentences(label, 0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "lvef", "low": 0, "high": 9, "step": 1}, "needs prompts"),
        ({"label": "lvef", "low": 0, "high": 9, "step": 1, "prompts": ["LVEF."]}, "would say the same"),
        ({"label": "max_stenosis", "low": 9, "high": 9, "step": 1}, "high must be above low"),
    ],
)
def test_a_task_that_says_nothing_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Config(tasks={"x": settings})


def test_a_label_that_is_a_word_names_its_column() -> None:
    case = random_case(0)
    strange = replace(case, labels={"lvef": ["left", *case.labels["lvef"][1:]]})
    with pytest.raises(DataError, match="label 'lvef' .*'left'"):
        Config(tasks={"ef": TASK}).build().measure(strange)
