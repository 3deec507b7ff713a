"""Runs compared by what their evaluations left behind: the same rows, the same labels, seeds apart."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, roc_auc_score

from deepcoro.calibrated import Fixed
from deepcoro.comparison import compare_runs, holm, markdown, shown, table
from deepcoro.config import DataError
from deepcoro.evaluated import Evaluated, Head, Measurement
from deepcoro.metrics import retrieval
from deepcoro.scored import score_rows, scored_path, write_scored
from tests.metrics.heads import BINARY, MULTICLASS, REGRESSION, evaluated
from tests.tools.command import call_tool

COUNT = 80


def split(noise: float, seed: int = 0) -> Evaluated:
    """One truth; a model that sees it through noise."""
    truth = np.random.default_rng(0)
    cto = [None if row % 9 == 0 else float(truth.random() < 0.4) for row in range(COUNT)]
    lvef, grade = truth.integers(30, 70, COUNT).astype(float), truth.integers(0, 3, COUNT)
    model = np.random.default_rng(seed + 1)
    said = {
        "cto": [float(value or 0) + model.normal(0, noise) for value in cto],
        "stent": model.random(COUNT),
        "lvef": lvef + 9 * noise * model.normal(size=COUNT),
        "grade": np.eye(3)[grade] + noise * model.random((COUNT, 3)),
        "empty": np.zeros(COUNT),
    }
    heads = {
        "cto": Head(BINARY, "cto", 2),
        "stent": Head(BINARY, "stent", 2),
        "lvef": Head(REGRESSION, "lvef", 0),
        "grade": Head(MULTICLASS, "grade", 3),
        "empty": Head(BINARY, "empty", 2),
    }
    stent = [float(row % 3 == 0) for row in range(COUNT)]
    labels = {
        "cto": cto,
        "stent": stent,
        "lvef": lvef.tolist(),
        "grade": grade.tolist(),
        "empty": [None] * COUNT,
    }
    fixed = {"probe/cto": Fixed(threshold=0.5, rule="f1", num=9, num_positive=4)}
    return evaluated(heads, said, labels, fixed=fixed)


def run(folder: Path, data: Evaluated, name: str = "mine", metrics: Sequence[Measurement] = ()) -> Path:
    write_scored(scored_path(folder, name, "test"), score_rows(data, metrics))
    return folder


def searching(noise: float) -> Evaluated:
    """Films and their 20 reports in one space; no heads."""
    draw = np.random.default_rng(0)
    texts = draw.normal(size=(20, 8))
    text_of_film = draw.integers(0, 20, COUNT)
    text_of_film[3] = -1
    films = texts[text_of_film] + noise * np.random.default_rng(1).normal(size=(COUNT, 8))
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (films, texts)]
    return evaluated(
        {}, {}, {"side": ["left"] * COUNT}, films=unit[0].astype(np.float32), texts=[str(text) for text in range(20)],
        text_embeddings=unit[1].astype(np.float32), text_of_film=text_of_film,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        run(folder / f"good_{seed}", split(0.6, seed))
        run(folder / f"bad_{seed}", split(1.5, seed))
    return folder


def test_differences_are_those_of_the_measures_of_each_run(runs):
    compared = compare_runs([runs / "good_0"], [runs / "bad_0"], None, 60, 0)
    assert (compared.data, compared.num_rows, compared.num_patients) == ("mine_test", COUNT, COUNT // 2)
    good, bad = split(0.6), split(1.5)
    rows = [row for row in range(COUNT) if good.labels["cto"][row] is not None]
    truth = [good.labels["cto"][row] for row in rows]
    aurocs = [roc_auc_score(truth, each.rows["probe/cto/prediction"][rows, 0]) for each in (good, bad)]
    found = compared.differences["probe/cto/auroc"]
    assert (found.first, found.second) == pytest.approx(tuple(aurocs))
    assert found.low < found.value < found.high
    errors = [
        mean_absolute_error(each.labels["lvef"], each.rows["probe/lvef/prediction"][:, 0])
        for each in (good, bad)
    ]
    assert compared.differences["probe/lvef/mae"].value == pytest.approx(errors[0] - errors[1])
    keys = set(compared.differences)
    assert {"probe/cto/f1", "probe/grade/macro_auroc", "probe/grade/accuracy", "probe/macro/auroc"} <= keys
    assert "probe/stent/f1" not in keys
    assert not any("empty" in key for key in keys)


def test_seeds_are_averaged_and_their_spread_is_told(runs):
    compared = compare_runs(
        [runs / "good_0", runs / "good_1"], [runs / "bad_0", runs / "bad_1"], "mine_test", 40, 0
    )
    each = [compare_runs([runs / f"good_{seed}"], [runs / f"bad_{seed}"], None, 0, 0) for seed in (0, 1)]
    values = [single.differences["probe/lvef/mae"].first for single in each]
    found = compared.differences["probe/lvef/mae"]
    assert found.first == pytest.approx(np.mean(values))
    assert found.first_by_seed == pytest.approx(values)
    row = next(line for line in markdown(compared, ("good", "bad")).splitlines() if "probe/lvef/mae" in line)
    assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f} (n = 2)" in row
    written = {line["measure"]: line for line in csv.DictReader(table(compared).splitlines())}
    assert float(written["probe/lvef/mae"]["first_sd"]) == pytest.approx(np.std(values, ddof=1))
    assert float(written["probe/lvef/mae"]["ci_low"]) == found.low
    assert set(shown(compared, ["*/auroc"])) == {
        key for key in compared.differences if key.endswith("/auroc")
    }


def test_searches_are_compared_over_the_same_patients(tmp_path):
    near, far = (searching(noise) for noise in (0.3, 1.5))
    runs = [
        run(tmp_path / name, data, metrics=[retrieval.Config(bootstrap_samples=0).build()])
        for name, data in {"near": near, "far": far}.items()
    ]
    compared = compare_runs([runs[0]], [runs[1]], None, 60, 0)
    one, other = (retrieval.Config(bootstrap_samples=0).build().measure(data)[0] for data in (near, far))
    for key in ("retrieval/text_to_video/R@5", "retrieval/video_to_text/MRR"):
        found = compared.differences[key]
        assert (found.first, found.second) == pytest.approx((one[key], other[key]))
        assert found.low < found.value < found.high
    assert "retrieval/text_to_video/R@5" in markdown(compared, ("near", "far"))


def test_searches_are_the_same_in_whatever_order_a_run_has_its_films(tmp_path):
    metric = retrieval.Config(bootstrap_samples=0).build()
    data = searching(0.6)
    order = np.random.default_rng(2).permutation(COUNT)
    turned = replace(
        data,
        clips=[data.clips[row] for row in order],
        patients=[data.patients[row] for row in order],
        films=data.films[order],
        text_of_film=data.text_of_film[order],
        labels={"side": ["left"] * COUNT},
    )
    runs = [
        run(tmp_path / name, each, metrics=[metric]) for name, each in (("as_is", data), ("turned", turned))
    ]
    found = compare_runs(runs[:1], runs[1:], None, 0, 0).differences
    for way in ("text_to_video", "video_to_text"):
        assert found[f"retrieval/{way}/R@5"].value == pytest.approx(0, abs=1e-12)


def test_searches_among_other_films_or_of_other_measures_are_not_compared(tmp_path):
    metric = retrieval.Config(bootstrap_samples=0).build()
    whole = run(tmp_path / "whole", with_heads(searching(0.3)), metrics=[metric])
    fewer = with_heads(searching(0.3)).only(np.arange(COUNT) >= 10)
    others = [
        run(tmp_path / "fewer", fewer, metrics=[metric]),
        run(
            tmp_path / "wider", with_heads(searching(0.3)), metrics=[retrieval.Config(recall_at=(2,)).build()]
        ),
    ]
    for other in others:
        found = compare_runs([whole], [other], None, 0, 0).differences
        assert "probe/cto/auroc" in found
        assert not any(key.startswith("retrieval") for key in found)


def with_heads(data: Evaluated) -> Evaluated:
    """One more question, put to all rows."""
    heads = split(0.6)
    return replace(data, heads=heads.heads, rows=heads.rows, labels=heads.labels)


def test_rows_that_one_run_lacks_are_left_out_and_counted(runs, tmp_path):
    fewer = run(tmp_path / "fewer", split(1.5).only(np.arange(COUNT) >= 10))
    compared = compare_runs([runs / "good_0"], [fewer], None, 0, 0)
    assert (compared.num_rows, compared.num_left_out) == (COUNT - 10, 10)
    assert "10 rows that not all runs have are left out" in markdown(compared, ("a", "b"))


def test_runs_that_cannot_be_compared_say_why(runs, tmp_path):
    data = split(0.6)
    other = run(tmp_path / "labels", replace(data, labels=data.labels | {"lvef": [50.0] * COUNT}))
    with pytest.raises(DataError, match="probe/lvef: the runs were evaluated with different labels"):
        compare_runs([runs / "good_0"], [other], None, 0, 0)
    elsewhere = run(tmp_path / "elsewhere", replace(data, clips=[f"x{row}" for row in range(COUNT)]))
    with pytest.raises(DataError, match="no row in common"):
        compare_runs([runs / "good_0"], [elsewhere], None, 0, 0)
    with pytest.raises(DataError, match="no evaluation in common"):
        compare_runs([runs / "good_0"], [run(tmp_path / "site", data, "site")], None, 0, 0)
    twice = run(run(tmp_path / "twice", data), data, "site")
    with pytest.raises(DataError, match="name one with --data"):
        compare_runs([twice], [twice], None, 0, 0)
    headless = run(tmp_path / "headless", replace(data, heads={}))
    with pytest.raises(DataError, match="no question in common"):
        compare_runs([runs / "good_0"], [headless], None, 0, 0)


def test_p_values_are_corrected_by_their_rank():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_tool_prints_the_table_and_writes_every_measure(runs, tmp_path, monkeypatch, capsys):
    words = (runs / "good_0", f"{runs / 'bad_0'},{runs / 'bad_1'}", "--bootstrap_samples", 30)
    words += ("--measures", "*/mae", "--csv", tmp_path / "all.csv")
    code, out, _ = call_tool("compare_runs", words, monkeypatch, capsys)
    assert code == 0
    assert [line.split(" |")[0] for line in out.splitlines() if line.startswith("| probe")] == [
        "| probe/lvef/mae"
    ]
    assert "probe/cto/auroc" in (tmp_path / "all.csv").read_text()
    code, _, err = call_tool("compare_runs", (runs / "good_0", tmp_path / "none"), monkeypatch, capsys)
    assert code == 2
    assert "no evaluation in common" in err
