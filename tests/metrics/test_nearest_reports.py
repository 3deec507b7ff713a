"""Labels read off neighbours: against a plain loop and scikit-learn, and never off the reports of the films themselves."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from deepcoro.evaluated import Evaluated, TrainingReports
from deepcoro.metrics.nearest_reports import Config

NUM_FILMS, NUM_TEXTS = 30, 40


@pytest.fixture
def evaluated() -> Evaluated:
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(NUM_TEXTS, 4))
    cto, lvef = generator.integers(0, 2, NUM_TEXTS).astype(float), generator.uniform(20, 70, NUM_TEXTS)
    cto[generator.random(NUM_TEXTS) < 0.5] = np.nan
    training = TrainingReports(
        [f"text {row}" for row in range(NUM_TEXTS)],
        embeddings,
        {None: "text 0"},
        {"cto": cto, "lvef": lvef, "dominance=left": 1.0 - (lvef > 40), "vendor=a": cto},
    )
    return Evaluated(
        split="test",
        units=np.arange(NUM_FILMS),
        clips=[f"c{film}" for film in range(NUM_FILMS)],
        studies=[f"s{film}" for film in range(NUM_FILMS)],
        patients=[f"p{film // 3}" for film in range(NUM_FILMS)],
        films=generator.normal(size=(NUM_FILMS, 4)),
        texts=["a"],
        text_embeddings=embeddings[:1],
        text_of_film=np.zeros(NUM_FILMS, np.int64),
        labels={
            "cto": [None, *generator.integers(0, 2, NUM_FILMS - 1).tolist()],
            "lvef": generator.uniform(20, 70, NUM_FILMS).tolist(),
            "dominance": ["left", "right"] * (NUM_FILMS // 2),
        },
        prompts={},
        training=training,
    )


def neighbours(evaluated: Evaluated, film: int, k: int) -> list[int]:
    products = evaluated.training.embeddings @ evaluated.films[film]
    return sorted(range(NUM_TEXTS), key=lambda row: -products[row])[:k]


def test_a_film_is_told_the_mean_of_its_neighbours_that_know(evaluated: Evaluated) -> None:
    found = Config(neighbours=3).build().film_scores(evaluated)
    assert set(found) == {f"nearest_reports_{name}" for name in ("cto", "lvef", "dominance=left")}
    for film in range(NUM_FILMS):
        known = [evaluated.training.labels["cto"][row] for row in neighbours(evaluated, film, 3)]
        known = [value for value in known if not np.isnan(value)]
        expected = sum(known) / len(known) if known else np.nan
        assert found["nearest_reports_cto"][film] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(found["nearest_reports_cto"]).any(), "the case holds films without a neighbour that knows"


def test_numbers_are_those_of_the_films_assessed_and_told(evaluated: Evaluated) -> None:
    metric = Config(neighbours=3, bootstrap_samples=50).build()
    said = metric.film_scores(evaluated)
    found, _ = metric.measure(evaluated)
    truth = np.array([np.nan if value is None else value for value in evaluated.labels["cto"]])
    kept = ~np.isnan(truth) & ~np.isnan(said["nearest_reports_cto"])
    assert found["nearest_reports/cto/auroc"] == pytest.approx(
        roc_auc_score(truth[kept], said["nearest_reports_cto"][kept])
    )
    assert (
        found["nearest_reports/cto/num"] == kept.sum() and found["nearest_reports/cto/num_not_assessed"] == 1
    )
    lvef = np.array(evaluated.labels["lvef"])
    assert found["nearest_reports/lvef/mae"] == pytest.approx(
        np.abs(said["nearest_reports_lvef"] - lvef).mean()
    )
    patients = np.array(evaluated.patients)
    assert found["nearest_reports/cto/num_positive_patients"] == len(set(patients[kept & (truth == 1)]))
    assert found["nearest_reports/lvef/num_patients"] == len(set(patients))
    assert found["nearest_reports/lvef/mae_chance"] == pytest.approx(np.abs(lvef - np.median(lvef)).mean())
    for name in ("cto/auroc", "dominance=left/auroc", "lvef/mae"):
        value = found[f"nearest_reports/{name}"]
        low, high = (found[f"nearest_reports/{name}_ci_{end}"] for end in ("low", "high"))
        assert low <= value <= high


def test_one_class_gives_counts_and_no_auroc(evaluated: Evaluated) -> None:
    found, _ = Config().build().measure(replace(evaluated, labels={"cto": [1] * NUM_FILMS}))
    assert found["nearest_reports/cto/num_positive"] == NUM_FILMS and "nearest_reports/cto/auroc" not in found


def test_a_training_film_is_told_nothing_nor_is_one_without_a_shared_space(evaluated: Evaluated) -> None:
    metric = Config().build()
    assert metric.film_scores(replace(evaluated, split="train")) == {}
    assert metric.measure(replace(evaluated, training=None)) == ({}, [])
    assert metric.film_scores(replace(evaluated, text_embeddings=np.zeros((1, 0)))) == {}
