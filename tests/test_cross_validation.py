"""Folds pooled from what their runs left behind, against scikit-learn and numpy; what is no cross-validation is refused in one line."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, mean_absolute_error, roc_auc_score

from deepcoro.bootstrap import resamples
from deepcoro.config import ConfigError, DataError, find_config, show
from deepcoro.cross_validation import OutOfFold, notes_of_runs, read_cross_validation, write_predictions
from deepcoro.evaluated import Evaluated, Head
from deepcoro.fold_measures import head_rows, markdown, measure, notes
from deepcoro.head_columns import head_columns
from deepcoro.predictions import Predictions
from deepcoro.predictions import write_predictions as write_run_predictions
from deepcoro.run_config import load_run_config
from deepcoro.scored import Answer, score_rows, scored_path, write_scored
from tests.metrics.heads import BINARY, MULTICLASS, REGRESSION, evaluated
from tests.tools.command import call_tool

COUNT, FOLDS = 30, ("0", "1", "2")
HEADS = {
    "cto": Head(BINARY, "cto", 2),
    "stent": Head(BINARY, "stent", 2),
    "lvef": Head(REGRESSION, "lvef", 0),
    "grade": Head(MULTICLASS, "grade", 3),
}


def held_out(fold: int) -> Evaluated:
    """Rows of one fold, two of each patient. Scores of cto have ties and another scale in each fold, some labels are missing; in fold 2
    nobody has a stent and nothing is of grade 2.
    """
    generator = np.random.default_rng(fold)
    cto = (generator.random(COUNT) < 0.2 + 0.2 * fold).astype(float)
    said_of_cto = np.round(0.2 * cto + 0.5 * generator.random(COUNT) + 0.15 * (1 - fold), 1)
    lvef, grade = generator.integers(30, 70, COUNT).astype(float), generator.integers(0, 3, COUNT)
    grade = np.minimum(grade, 1) if fold == 2 else grade
    said = {
        "cto": np.clip(said_of_cto, 0.05, 0.95),
        "stent": generator.random(COUNT),
        "lvef": lvef + generator.normal(0, 8, COUNT),
        "grade": 0.5 * np.eye(3)[grade] + generator.random((COUNT, 3)),
    }
    labels = {
        "cto": [None if row % 7 == 0 else value for row, value in enumerate(cto)],
        "stent": [float(fold < 2 and row % 3 == 0) for row in range(COUNT)],
        "lvef": [None if row == 4 else value for row, value in enumerate(lvef)],
        "grade": grade.tolist(),
    }
    own = f"f{fold}"
    return evaluated(
        HEADS,
        said,
        labels,
        split="val",
        clips=[f"{own}c{row}" for row in range(COUNT)],
        studies=[f"{own}s{row}" for row in range(COUNT)],
        patients=[f"{own}p{row // 2}" for row in range(COUNT)],
    )


def run_folder(
    folder: Path, number: int, rows: Evaluated | None = None, words: Sequence[str] = (), **facts: object
) -> Path:
    """What training and `run_mode=val` of one fold leave. `facts`: other than usual."""
    rows = held_out(number) if rows is None else rows
    given = [
        "data.fold.column=fold",
        f"data.fold.held_out={number}",
        f"run_dir={folder}",
        "data.shards=x",
        *words,
    ]
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(show(load_run_config(find_config("demo/tiny_probe"), given)) + "\n")
    data = {
        "fingerprint": f"all but {number}",
        "sources": {"mine": {"folder": "mine", "fingerprint": "films"}},
        "tables": [{"name": "folds.csv", "sha256": "table", "rows": 9, "matched": 9}],
        "fold": {"column": "fold", "held_out": number},
        "splits": {"train": {"studies": 2 * COUNT}, "val": {"studies": COUNT}, "test": {"studies": 7}},
    }
    results = {"data": "mine", "data_fingerprint": f"all but {number}", "checkpoint": "step 20 (abc)", "patient_overlap": "none", "unreadable": {}}  # fmt: skip
    record = {"starts": [{"global_batch": 4, "max_steps": 20} | facts.pop("start", {})]}
    results |= facts.pop("results", {})
    (folder / "data.json").write_text(json.dumps(data | facts))
    (folder / "run_record.json").write_text(json.dumps(record))
    (folder / "results").mkdir()
    (folder / "results" / "mine_val.json").write_text(json.dumps(results))
    write_scored(scored_path(folder, "mine", "val"), score_rows(rows, []))
    names = ("clips", "studies", "split", "films", "texts", "text_embeddings", "text_of_film", "labels")
    table = Predictions(**{name: getattr(rows, name) for name in names}, heads=head_columns(rows), epoch=1)
    write_run_predictions(folder / "predictions", "mine_val", table)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("folds")
    return [run_folder(folder / f"fold_{fold}", fold) for fold in range(3)]


@pytest.fixture(scope="module")
def data(runs: list[Path]) -> OutOfFold:
    return read_cross_validation(runs)


def known(head: str, folds: Sequence[int] = (0, 1, 2)) -> tuple[np.ndarray, np.ndarray]:
    """Truth and what was said of the assessed rows of these folds."""
    each = [held_out(fold) for fold in folds]
    truth = np.array([np.nan if value is None else value for rows in each for value in rows.labels[head]])
    said = np.concatenate([rows.rows[f"probe/{head}/prediction"] for rows in each]).astype(np.float64)
    return truth[~np.isnan(truth)], said[~np.isnan(truth)]


def won_and_pairs(truth: np.ndarray, said: np.ndarray) -> tuple[float, int]:
    above = said[truth == 1][:, None] - said[truth == 0][None, :]
    return (above > 0).sum() + 0.5 * (above == 0).sum(), above.size


def test_the_mean_and_deviation_are_those_of_the_folds_and_the_pooled_figure_is_of_all_rows(data):
    found = measure(data, 0, 0)
    for key, head, of_rows in (
        ("auroc", "cto", lambda truth, said: roc_auc_score(truth, said[:, 0])),
        ("auprc", "cto", lambda truth, said: average_precision_score(truth, said[:, 0])),
        ("brier", "cto", lambda truth, said: brier_score_loss(truth, said[:, 0])),
        ("mae", "lvef", lambda truth, said: mean_absolute_error(truth, said[:, 0])),
        ("pearson_r", "lvef", lambda truth, said: np.corrcoef(truth, said[:, 0])[0, 1]),
        ("accuracy", "grade", lambda truth, said: np.mean(said.argmax(axis=1) == truth)),
        (
            "multiclass_brier",
            "grade",
            lambda truth, said: np.square(said - np.eye(3)[truth.astype(int)]).sum(axis=1).mean(),
        ),
    ):
        each, values = found[f"probe/{head}/{key}"], [of_rows(*known(head, [fold])) for fold in range(3)]
        assert each.by_fold == pytest.approx(values)
        assert (each.mean, each.sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
        assert each.pooled == pytest.approx(of_rows(*known(head)))
        assert each.interval is None


def test_the_third_auroc_counts_pairs_of_one_fold_alone_and_ties_as_halves(data):
    found = measure(data, 0, 0)
    sums = np.array(
        [won_and_pairs(truth, said[:, 0]) for truth, said in (known("cto", [fold]) for fold in range(3))]
    )
    won, pairs = sums.sum(axis=0)
    auroc = found["probe/cto/auroc"]
    assert auroc.within == pytest.approx(won / pairs)
    assert auroc.within - auroc.pooled > 0.05, "scores of these folds are on different scales"
    assert found["probe/cto/brier"].within is None
    each = [known("grade", [fold]) for fold in range(3)]
    won, pairs = np.sum([won_and_pairs(truth == 0, said[:, 0]) for truth, said in each], axis=0)
    assert found["probe/grade/class=0/auroc"].within == pytest.approx(won / pairs)
    classes = [found[f"probe/grade/class={number}/auroc"].within for number in range(3)]
    assert found["probe/grade/macro_auroc"].within == pytest.approx(np.mean(classes))


def test_a_model_that_knows_its_training_prevalence_alone_is_below_chance_pooled_and_at_chance_within_folds(
    data,
):
    generator = np.random.default_rng(0)
    positive, fold = generator.random(200) < 0.3, np.arange(200) % 5
    said = np.array([positive[fold != own].mean() for own in fold])
    answer = Answer(BINARY, said[:, None], positive.astype(float))
    found = measure(OutOfFold([data.runs[0]] * 5, fold, np.arange(200), {"probe/cto": answer}), 0, 0)[
        "probe/cto/auroc"
    ]
    assert found.pooled < 0.45
    assert found.within == found.mean == 0.5


def test_intervals_draw_patients_anew_over_all_folds(data):
    truth, said = known("lvef")
    patients = np.repeat(np.arange(3 * COUNT // 2), 2)[np.arange(3 * COUNT) % COUNT != 4]
    weights = next(resamples(3 * COUNT // 2, 80, seed=3))[:, patients]
    errors = (weights @ np.abs(truth - said[:, 0])) / weights.sum(axis=1)
    found = measure(data, 80, 3)
    assert found["probe/lvef/mae"].interval == pytest.approx(tuple(np.percentile(errors, [2.5, 97.5])))
    auroc = found["probe/cto/auroc"]
    assert auroc.within_interval[0] < auroc.within < auroc.within_interval[1]
    for key in ("cto/ece", "grade/top_label_ece"):
        assert found[f"probe/{key}"].interval is None, "resamples of the calibration error lie above it"


def test_a_fold_of_one_class_is_told_and_is_in_no_mean(data):
    found = measure(data, 0, 0)
    stent = found["probe/stent/auroc"]
    values = [roc_auc_score(truth, said[:, 0]) for truth, said in (known("stent", [fold]) for fold in (0, 1))]
    assert stent.by_fold == pytest.approx([*values, None])
    assert (stent.mean, stent.sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    macro = found["probe/macro/auroc"]
    assert macro.by_fold[2] is None, "the other head alone is another mean"
    assert macro.by_fold[0] == pytest.approx((found["probe/cto/auroc"].by_fold[0] + values[0]) / 2)
    told = "\n".join(notes(data))
    assert "probe/stent: fold 2 has one class only (0 of 30 positive)" in told
    assert "probe/grade: fold 2 has no row of '2'" in told
    table = markdown(data, found)
    assert f"| probe/stent/auroc | {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f} (2 of 3) |" in table
    assert "nan" not in table


def test_what_numbers_rest_on_is_counted_and_missing_is_not_negative(data):
    rows = head_rows(data)["probe/cto"]
    truth, _ = known("cto")
    assert (rows.num, rows.num_positive, rows.num_not_assessed) == (len(truth), truth.sum(), 3 * 5)
    assert rows.by_fold == [(known("cto", [fold])[0].sum(), COUNT - 5) for fold in range(3)]
    assert head_rows(data)["probe/lvef"].num_positive is None


def test_thresholds_that_val_chose_on_the_held_out_fold_are_not_used(data, tmp_path):
    assert all(answer.threshold is None for answer in data.answers.values())
    binary = {key.rpartition("/")[2] for key in measure(data, 0, 0) if key.startswith("probe/cto/")}
    assert not binary & {"sensitivity", "specificity", "ppv", "npv", "f1", "accuracy", "balanced_accuracy"}
    assert "thresholds and recalibration are chosen on val" in markdown(data, {})


def test_predictions_of_all_folds_keep_their_columns_and_name_their_fold(runs, data, tmp_path):
    paths = write_predictions(tmp_path, data.runs)
    with paths[0].open() as file:
        pooled = list(csv.DictReader(file))
    assert [row.pop("fold") for row in pooled] == [fold for fold in FOLDS for _ in range(COUNT)]
    for fold, run in enumerate(runs):
        with (run / "predictions" / "mine_val.csv").open() as file:
            assert list(csv.DictReader(file)) == pooled[fold * COUNT : (fold + 1) * COUNT]


def replaced(rows: Evaluated, **changes: object) -> Evaluated:
    return Evaluated(**vars(rows) | changes)


SHARED = replaced(held_out(1), patients=held_out(0).patients)
REFUSED = {
    "another learning rate": ({"words": ["optim.lr=0.5"]}, ConfigError, r"differ in \['optim.lr'\]"),
    "another length": ({"words": ["max_steps=9"]}, ConfigError, r"differ in \['max_steps'\]"),
    "another seed": ({"words": ["seed=9"]}, ConfigError, r"differ in \['seed'\]"),
    "another batch": ({"start": {"global_batch": 8}}, ConfigError, "gradient_accumulation_steps x processes"),
    "other films": ({"sources": {"mine": {"fingerprint": "others"}}}, DataError, "different shard folders"),
    "another table": ({"tables": [{"sha256": "other"}]}, DataError, r"different tables \(data.tables\)"),
    "no folds": ({"fold": None}, ConfigError, "data.fold.column=COLUMN data.fold.held_out=FOLD"),
    "the same fold": ({"fold": {"column": "fold", "held_out": "0"}}, ConfigError, "both hold out fold '0'"),
    "another val": ({"results": {"data_fingerprint": "?"}}, DataError, "run_mode=val checkpoint=last` does that"),
    "shared patients": ({"rows": SHARED}, DataError, "15 patients are in both held-out folds '0' .* and '1'"),
    "shared studies": ({"rows": replaced(held_out(1), studies=held_out(0).studies)}, DataError, "30 studies"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_cross_validation_is_refused_in_one_line(runs, tmp_path, case):
    changes, error, message = REFUSED[case]
    other = run_folder(tmp_path / "other", 1, **changes)
    with pytest.raises(error, match=message) as raised:
        read_cross_validation([runs[0], other])
    assert "\n" not in str(raised.value) and "p1" not in str(raised.value)


def test_a_run_alone_a_folder_without_one_and_a_run_without_val_are_refused(runs, tmp_path):
    with pytest.raises(ConfigError, match="two folds or more"):
        read_cross_validation(runs[:1])
    with pytest.raises(ConfigError, match="holds no config.yaml"):
        read_cross_validation([runs[0], tmp_path])
    other = run_folder(tmp_path / "other", 1)
    (other / "predictions" / "mine_val.csv").write_text("clip\nf1c0\n")
    with pytest.raises(DataError, match="of different evaluations"):
        read_cross_validation([runs[0], other])
    (other / "results" / "mine_val.json").unlink()
    with pytest.raises(DataError, match="other/config.yaml run_mode=val checkpoint=last"):
        read_cross_validation([runs[0], other])


def test_tables_of_different_columns_are_not_joined(runs, tmp_path):
    rows = held_out(1)
    other = run_folder(tmp_path / "other", 1, replaced(rows, labels=rows.labels | {"sex": ["F"] * COUNT}))
    with pytest.raises(DataError, match=r"differ in columns \(\['label_sex'\]\)"):
        write_predictions(tmp_path, read_cross_validation([runs[0], other]).runs)


def test_what_makes_figures_doubtful_is_told(runs, data, tmp_path, caplog):
    assert list(notes_of_runs(data.runs)) == []
    assert list(notes_of_runs(read_cross_validation(runs[:2]).runs)) == [caplog.messages[0]]
    assert "folds of 'fold' are missing: 30 of 90 studies" in caplog.messages[0]
    nameless = replaced(held_out(2), patients=[None] * COUNT)
    doubtful = {"checkpoint": "step 10 (abc)", "patient_overlap": "unknown", "unreadable": {"a": "b"}}
    other = run_folder(tmp_path / "other", 2, nameless, ["towers.video.weights=x"], results=doubtful)
    told = list(notes_of_runs(read_cross_validation([*runs[:2], other]).runs))
    for note, words in zip(
        told,
        ("fold 2 (step 10 of 20)", "different weights", "had seen patients", "name no patient", "1 samples"),
        strict=True,
    ):
        assert words in note


def test_the_tool_prints_the_table_writes_every_measure_and_names_its_files(
    runs, tmp_path, monkeypatch, capsys
):
    words = (*runs, "--output", tmp_path, "--bootstrap_samples", 20, "--measures", "*/mae")
    code, out, err = call_tool("pool_folds", words, monkeypatch, capsys)
    assert (code, err) == (0, "")
    assert [line.split(" |")[0] for line in out.splitlines() if "/mae" in line] == ["| probe/lvef/mae"]
    written = [line.split()[1] for line in out.splitlines() if line.startswith("wrote ")]
    assert {Path(path) for path in written} == set(tmp_path.iterdir())
    assert (tmp_path / "folds.md").read_text() in out
    with (tmp_path / "folds.csv").open() as file:
        lines = {row["measure"]: row for row in csv.DictReader(file)}
    auroc = lines["probe/stent/auroc"]
    assert (auroc["folds"], auroc["fold=2"], auroc["num"], auroc["num_positive"]) == ("2", "", "90", "20")
    assert float(auroc["within_folds_ci_low"]) < float(auroc["within_folds"])
    assert lines["probe/macro/auroc"]["num"] == ""
    code, out, err = call_tool("pool_folds", (runs[0], runs[0], "--output", tmp_path), monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert "both hold out fold '0'" in err and len(err.splitlines()) == 1
