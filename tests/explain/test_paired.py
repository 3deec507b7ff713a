"""Differences between a model and the same model shown less, against resamples that are drawn and measured one by one."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, mean_absolute_error, roc_auc_score

from deepcoro.config import DataError
from deepcoro.evaluated import Evaluated, Head, Searched
from deepcoro.explain.metadata import Foretold
from deepcoro.explain.paired import beside_metadata, differences, gaps
from deepcoro.explain.shortcuts import Altered, first_frame, middle_frame
from deepcoro.metrics import classification, regression, retrieval
from deepcoro.scored import Answer, ScoredRows, score_rows
from tests.metrics.heads import BINARY, MULTICLASS, REGRESSION, evaluated, known

NUM = 80
NUM_SAMPLES = 150
METRICS = [each.Config(bootstrap_samples=0).build() for each in (classification, regression, retrieval)]


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepcoro.explain.paired._NUM_SAMPLES", NUM_SAMPLES)


def heads_of(cto: np.ndarray, lvef: np.ndarray, dominance: np.ndarray, **changes: object) -> Evaluated:
    """What three heads said of the same 80 rows of 40 patients."""
    draw = np.random.default_rng(0)
    labels = {
        "cto": [None, *(draw.random(79) < 0.4).astype(float)],
        "lvef": draw.integers(20, 70, NUM).astype(float).tolist(),
        "dominance": draw.integers(0, 3, NUM).astype(float).tolist(),
    }
    heads = {
        "cto": Head(BINARY, "cto", 2),
        "lvef": Head(REGRESSION, "lvef", 0),
        "dominance": Head(MULTICLASS, "dominance", 3),
    }
    return evaluated(heads, {"cto": cto, "lvef": lvef, "dominance": dominance}, labels, **changes)


def model(noise: float, seed: int) -> Evaluated:
    """A model that sees the truth through noise, and films beside 13 reports; one film has none."""
    draw = np.random.default_rng(seed)
    truth = heads_of(*np.zeros((2, NUM)), np.zeros((NUM, 3))).labels
    texts = np.random.default_rng(5).normal(size=(13, 6))
    own = np.array([-1, *np.random.default_rng(6).integers(0, 13, NUM - 1)])
    films = texts[own] + noise * draw.normal(size=(NUM, 6))
    return heads_of(
        np.array([0.5, *truth["cto"][1:]]) + draw.normal(0, noise, NUM),
        np.array(truth["lvef"]) + 9 * draw.normal(0, noise, NUM),
        np.eye(3)[np.array(truth["dominance"], int)] + noise * draw.random((NUM, 3)),
        films=(films / np.linalg.norm(films, axis=1, keepdims=True)).astype(np.float32),
        texts=[f"report {number}" for number in range(13)],
        text_embeddings=(texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32),
        text_of_film=own,
    )


def numbers_of(data: Evaluated) -> dict[str, float]:
    return {key: value for metric in METRICS for key, value in metric.measure(data)[0].items()}


def apart(one: Evaluated, other: Evaluated) -> dict[str, tuple[float, float, float]]:
    return differences(score_rows(one, METRICS), score_rows(other, METRICS), numbers_of(one))


def by_hand(measures: Sequence[Callable[[np.ndarray], float]]) -> tuple[float, float, float]:
    """The difference of two measures of how often each of 40 patients counts, and the middle 95 % over drawings of them."""
    drawn = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=NUM_SAMPLES)
    value, *resampled = [measures[0](times) - measures[1](times) for times in (np.ones(40, int), *drawn)]
    return value, *np.percentile(resampled, [2.5, 97.5])


def of_head(data: Evaluated, name: str, score: Callable[..., float]) -> Callable[[np.ndarray], float]:
    """Rows are repeated as often as their patient was drawn."""
    rows, said, truth = known(data, name)
    return lambda times: score(*(np.repeat(each, times[rows // 2], axis=0) for each in (truth, said)))


def of_search(data: Evaluated, k: int) -> Callable[[np.ndarray], float]:
    """Each report counts as often as its films were drawn on average."""
    rows = np.flatnonzero(data.text_of_film >= 0)
    found = {}
    for text in np.unique(data.text_of_film[rows]):
        order = rows[np.argsort(-(data.films[rows] @ data.text_embeddings[text]))]
        found[text] = (
            float((data.text_of_film[order[:k]] == text).any()),
            np.flatnonzero(data.text_of_film == text),
        )

    def recall(times: np.ndarray) -> float:
        weights = [times[own // 2].mean() for _, own in found.values()]
        return float(np.average([hit for hit, _ in found.values()], weights=weights))

    return recall


def test_a_difference_and_its_interval_are_those_of_resamples_measured_one_by_one():
    whole, less = model(0.6, 1), model(1.5, 2)
    told = apart(whole, less)
    macro = lambda truth, said: np.mean(  # noqa: E731
        [roc_auc_score(truth == number, said[:, number]) for number in range(3)]
    )
    expected = {
        "probe/cto/auroc": [of_head(each, "cto", roc_auc_score) for each in (whole, less)],
        "probe/cto/auprc": [of_head(each, "cto", average_precision_score) for each in (whole, less)],
        "probe/lvef/mae": [of_head(each, "lvef", mean_absolute_error) for each in (whole, less)],
        "probe/dominance/macro_auroc": [of_head(each, "dominance", macro) for each in (whole, less)],
        "retrieval/text_to_video/R@5": [of_search(each, 5) for each in (whole, less)],
    }
    for key, measures in expected.items():
        assert told[key] == pytest.approx(by_hand(measures), abs=2e-6), key
    assert told["probe/cto/auroc"][1] > 0 > told["probe/lvef/mae"][2]
    assert "retrieval/video_to_text/R@5" in told and "retrieval/text_to_video/R@1" not in told


class ReadsTheFirstFrame(torch.nn.Module):
    """Says how bright the first frame is."""

    def forward(self, batch: dict) -> dict:
        return {"said": batch["video"][:, 0, 0].double().mean(dim=(1, 2))}


def test_a_model_that_reads_the_first_frame_alone_loses_nothing_by_it_and_much_by_another():
    brightness = np.array(heads_of(*np.zeros((2, NUM)), np.zeros((NUM, 3))).labels["lvef"])
    video = torch.randn(NUM, 1, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    video[:, :, 0] += torch.from_numpy(brightness).float()[:, None, None, None]

    def shown(reader: torch.nn.Module) -> Evaluated:
        said = reader({"video": video})["said"].numpy()
        return heads_of(said / said.max(), said, np.zeros((NUM, 3)))

    whole = shown(ReadsTheFirstFrame())
    still, middle = (shown(Altered(ReadsTheFirstFrame(), each)) for each in (first_frame, middle_frame))
    assert apart(whole, still)["probe/lvef/mae"] == (0.0, 0.0, 0.0)
    assert apart(whole, still)["probe/cto/auroc"] == (0.0, 0.0, 0.0)
    assert apart(whole, middle)["probe/lvef/mae"][2] < -10


def test_a_run_without_assessed_labels_or_without_questions_has_no_differences():
    data = model(0.6, 1)
    nobody = replace(data, labels={name: [None] * NUM for name in data.labels}, text_of_film=np.full(NUM, -1))
    assert apart(nobody, nobody) == {}
    silent = replace(data, heads={}, text_embeddings=np.zeros((0, 0), np.float32))
    assert apart(silent, silent) == {}
    assert set(apart(replace(data, heads={}), replace(data, heads={}))) == {
        "retrieval/text_to_video/R@5",
        "retrieval/video_to_text/R@5",
    }


def test_a_difference_never_stands_beside_a_number_of_other_rows():
    whole, less = model(0.6, 1), model(1.5, 2)
    fewer = less.only(np.arange(NUM) >= 20)
    assert "probe/lvef/mae" not in apart(whole, fewer)


def test_runs_with_other_reports_are_not_compared():
    data = model(0.6, 1)
    other = replace(data, text_of_film=np.roll(data.text_of_film, 1))
    with pytest.raises(DataError, match="text_to_video: the runs were evaluated with different reports"):
        apart(data, other)


def test_a_search_that_some_rows_take_no_part_in_is_numbered_anew():
    searched = Searched(["R@1"], np.array([0, 2, -1, 2, 1]), np.arange(5.0)[:, None])
    kept = searched.only(np.array([4, 2, 1, 3]))
    assert kept.query.tolist() == [0, -1, 1, 1] and kept.got[:, 0].tolist() == [4, 2, 1, 3]


def test_a_gap_is_how_much_worse_each_head_is_without_the_top_clip_than_without_a_random_one():
    random, top = model(0.6, 1), model(1.5, 2)
    told = gaps(score_rows(random, METRICS), score_rows(top, METRICS), numbers_of(random))
    assert {key.rsplit("/", 1)[-1] for key in told} == {"auroc", "macro_auroc", "mae", "R@5"}
    whole = numbers_of(random), numbers_of(top)
    gap, low, high = told["probe/cto/auroc"]
    assert gap == pytest.approx(whole[0]["probe/cto/auroc"] - whole[1]["probe/cto/auroc"])
    assert 0 < low < gap < high
    gap, low, high = told["probe/lvef/mae"]
    assert gap == pytest.approx(whole[1]["probe/lvef/mae"] - whole[0]["probe/lvef/mae"])
    assert 0 < low < gap < high


def questions() -> ScoredRows:
    draw = np.random.default_rng(3)
    truth = {"cto": (draw.random(NUM) < 0.5).astype(float), "lvef": draw.uniform(20, 70, NUM)}
    tree = draw.integers(0, 3, NUM).astype(float)
    truth["cto"][:5] = np.nan
    answers = {
        "zero_shot/cto": Answer("zero_shot", draw.random((NUM, 1)), truth["cto"]),
        "probe/lvef": Answer(REGRESSION, draw.uniform(20, 70, (NUM, 1)), truth["lvef"]),
        "probe/tree": Answer(MULTICLASS, draw.random((NUM, 3)), tree, ["right", "left", "balanced"]),
    }
    return ScoredRows([f"c{row}" for row in range(NUM)], [f"p{row // 2}" for row in range(NUM)], answers)


LABEL_OF = {"zero_shot/cto": "cto", "probe/lvef": "lvef", "probe/tree": "tree"}


def test_columns_without_films_answer_the_same_question_of_the_same_rows():
    rows = questions()
    cto, lvef, tree = (rows.answers[name] for name in LABEL_OF)
    order = np.random.default_rng(4).permutation(NUM)[
        :60
    ]  # 20 rows have no baseline, the others stand in another order
    place = np.array([2, 1, 0])  # of right, left, balanced in the alphabet
    said = {"cto": cto.said * 2 - 1, "lvef": lvef.said + 1, "tree": tree.said[:, place]}
    kept = order[~np.isnan(cto.truth[order])]
    foretold = [
        Foretold("cto", 100 + kept, Answer("zero_shot", -said["cto"][kept], 1 - cto.truth[kept])),
        Foretold("lvef", 100 + order, Answer(REGRESSION, said["lvef"][order], lvef.truth[order] * (1 + 1e-7))),
        Foretold(
            "tree",
            100 + order,
            Answer(MULTICLASS, said["tree"][order], place[tree.truth[order].astype(int)].astype(float), ["balanced", "left", "right"]),
        ),
    ]  # fmt: skip
    model, columns, notes = beside_metadata(rows, 100 + np.arange(NUM), LABEL_OF, foretold)
    assert set(model.answers) == set(columns.answers) == set(LABEL_OF) and notes == []
    for name, expected in (
        ("zero_shot/cto", said["cto"]),
        ("probe/lvef", said["lvef"]),
        ("probe/tree", tree.said),
    ):
        truth = model.answers[name].truth
        assert np.array_equal(truth, columns.answers[name].truth, equal_nan=True)
        rest = ~np.isnan(truth)
        assert set(np.flatnonzero(rest)) == set(kept if name == "zero_shot/cto" else order)
        assert np.array_equal(truth[rest], rows.answers[name].truth[rest])
        assert np.array_equal(columns.answers[name].said[rest], expected[rest])


def test_columns_of_other_labels_or_of_another_kind_are_left_out_and_told():
    rows = questions()
    lvef, units = rows.answers["probe/lvef"], np.arange(NUM)
    other = Foretold("lvef", units, Answer(REGRESSION, lvef.said, lvef.truth + 1))
    kind = Foretold("lvef", units, Answer("zero_shot", lvef.said, (lvef.truth > 40).astype(float)))
    elsewhere = Foretold("lvef", units + NUM, Answer(REGRESSION, lvef.said, lvef.truth))
    words = Foretold("tree", units, Answer(MULTICLASS, rows.answers["probe/tree"].said, rows.answers["probe/tree"].truth, ["a", "b", "c"]))  # fmt: skip
    model, columns, notes = beside_metadata(rows, units, LABEL_OF, [other, kind, elsewhere, words])
    assert model.answers == columns.answers == {}
    assert [note.split(":")[0] for note in notes] == ["probe/lvef", "probe/tree"]
