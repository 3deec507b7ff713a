"""Heads on the page of a run: tables with what every number rests on, curves, and the same checkpoint elsewhere."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from deepcoro.calibrated import Fixed
from deepcoro.config import DataError
from deepcoro.evaluated import Followed, Head
from deepcoro.groups import measure_groups
from deepcoro.metrics import calibration, classification, regression, survival
from deepcoro.numerals import number, percent
from deepcoro.paper.sheets import write_tables
from deepcoro.report import ReportInputs, render_report
from deepcoro.report_aggregates import aggregates_of
from deepcoro.report_confusions import confusion, confusion_figures
from deepcoro.report_figures import as_svg, new_figure
from deepcoro.report_groups import group_tables
from deepcoro.report_head_figures import head_figures
from deepcoro.report_heads import head_tables
from deepcoro.report_sites import read_sites, site_table
from deepcoro.report_survival import risk_groups, survival_figures
from deepcoro.report_tables import tables
from deepcoro.scored import Answer, score_rows
from tests.browser import NEEDS_BROWSER, drawn
from tests.metrics.heads import BINARY, MULTICLASS, REGRESSION, evaluated

NUM = 60


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    cto, lvef = (generator.random(NUM) < 0.4).astype(float), generator.integers(30, 70, NUM).astype(float)
    grade = generator.integers(0, 3, NUM)
    heads = {
        "mid_lad_cto": Head(BINARY, "mid_lad_cto", 2),
        "om1_cto": Head(BINARY, "om1_cto", 2),
        "lvef": Head(REGRESSION, "lvef", 0),
        "calcif": Head(MULTICLASS, "calcif", 3),
    }
    score = 1 / (1 + np.exp(-(2 * cto - 1) - generator.normal(size=NUM)))
    said = {
        "mid_lad_cto": score,
        "om1_cto": score[::-1],
        "lvef": lvef + generator.normal(0, 5, NUM),
        "calcif": generator.dirichlet(np.ones(3), NUM),
    }
    labels = {
        "mid_lad_cto": [None, *cto[1:]],
        "om1_cto": cto.tolist(),
        "lvef": lvef.tolist(),
        "calcif": grade.tolist(),
    }
    labels |= {"days": generator.exponential(300, NUM).tolist()}
    fixed = {
        "probe/mid_lad_cto": Fixed(threshold=0.5, rule="youden", slope=1, intercept=0, num=9, num_positive=4)
    }
    return evaluated(heads, said, labels, fixed=fixed)


OUTCOME = survival.Outcome(head="probe/om1_cto", event="om1_cto", time="days", horizons=[200])
DEATH = survival.Config(outcomes={"death": OUTCOME}, bootstrap_samples=20)


@pytest.fixture(scope="module")
def results(data):
    metrics = [
        classification.Config(bootstrap_samples=20),
        regression.Config(bootstrap_samples=20),
        calibration.Config(bootstrap_samples=20),
        DEATH,
    ]
    return {key: value for each in metrics for key, value in each.build().measure(data)[0].items()}


def cell(table, row, column):
    place = table.columns.index(column)
    return next(each.cells[place] for each in table.rows if each.label == row)


def test_every_number_stands_beside_rows_patients_and_those_not_assessed(results):
    found = {table.heading.split(":")[0] + table.heading[-3:]: table for table in head_tables(results)}
    assert len(found) == 9
    order = head_tables(results)[0]
    assert [row.label for row in order.rows] == [
        "mean of heads",
        "all heads in one heap",
        "mid lad cto",
        "om1 cto",
    ]
    assert cell(order, "mid lad cto", "rows").value == "59"
    assert cell(order, "mid lad cto", "not assessed").value == "1"
    heap = [cell(order, "all heads in one heap", name).value for name in ("rows", "rows with it")]
    assert heap == ["119", f"{results['probe/micro/num_positive']:.0f}"]
    classes = next(table for table in head_tables(results) if "each against the others" in table.heading)
    assert [row.label for row in classes.rows] == ["calcif: 0", "calcif: 1", "calcif: 2"]
    assert cell(classes, "calcif: 2", "rows").value == "60"
    with_it = results["probe/calcif/class=2/num_positive"]
    assert cell(classes, "calcif: 2", "rows with it").value == f"{with_it:.0f}"
    calibrated = next(table for table in head_tables(results) if "come true" in table.heading)
    assert [row.label for row in calibrated.rows] == ["mid lad cto", "om1 cto"]
    auroc = cell(order, "mid lad cto", "AUROC")
    assert auroc.value == f"{results['probe/mid_lad_cto/auroc']:.2f}"
    assert auroc.notes[0].startswith(f"{results['probe/mid_lad_cto/auroc_ci_low']:.2f} – ")
    decisions = next(table for table in head_tables(results) if "thresholds" in table.heading)
    assert [row.label for row in decisions.rows] == ["mean of heads", "mid lad cto"]
    agreement = next(table for table in head_tables(results) if "Numbers" in table.heading)
    assert any(note.startswith("median alone ") for note in cell(agreement, "lvef", "MAE").notes)
    time = next(table for table in head_tables(results) if "Time" in table.heading)
    assert {"C-index", "AUC at 200", "events"} <= set(time.columns)


def shown(results, words):
    return next(table for table in head_tables(results) if words in table.heading)


def test_limits_of_agreement_stand_beside_the_bias_on_both_pages_and_in_the_files(data, results, tmp_path):
    table = shown(results, "limits of agreement")
    assert table.columns[3:6] == ["bias", "lower limit of agreement", "upper limit of agreement"]
    low = cell(table, "lvef", "lower limit of agreement")
    assert low.value == number(results["probe/lvef/limit_low"]) and len(low.notes) == 1
    upper = number(results["probe/lvef/limit_high"])
    assert cell(table, "lvef", "upper limit of agreement").value == upper
    inputs = aggregates_of(ReportInputs("run", results=results))
    page = render_report(inputs)
    assert "upper limit of agreement" in page and f"<b>{upper}</b>" in page
    paths = [path for path in write_tables(tmp_path, inputs) if "limits_of_agreement" in path.stem]
    assert sorted(path.suffix for path in paths) == [".csv", ".tex"]
    assert all("lower limit of agreement" in path.read_text() and upper in path.read_text() for path in paths)


def test_means_over_heads_of_numbers_are_rows_with_their_own_counts():
    generator = np.random.default_rng(0)
    names = ("lad_stenosis", "rca_stenosis", "lvef")
    truth = {name: generator.integers(10, 90, NUM).astype(float) for name in names}
    said = {name: each + generator.normal(2, 9, NUM) for name, each in truth.items()}
    labels = {name: [None, *each[1:]] for name, each in truth.items()}
    data = evaluated({name: Head(REGRESSION, name, 0) for name in names}, said, labels)
    metric = regression.Config(families={"stenosis": "*_stenosis"}, bootstrap_samples=20).build()
    results, _ = metric.measure(data)
    errors, agreement = shown(results, "Numbers against"), shown(results, "limits of agreement")
    of_all, of_family = "mean of heads", "mean of heads: stenosis"
    heads = [name.replace("_", " ") for name in names]
    assert [row.label for row in errors.rows] == [of_all, of_family, *heads]
    assert [row.label for row in agreement.rows] == [of_family, *heads], "biases of other units have no mean"
    assert cell(errors, of_all, "Pearson r").value == f"{results['probe/macro/pearson_r']:.2f}"
    assert cell(errors, of_all, "MAE").value == "–"
    assert cell(errors, of_family, "MAE").value == number(results["probe/macro=stenosis/mae"])
    assert [cell(errors, label, "rows").value for label in (of_all, of_family)] == ["177", "118"]
    assert cell(errors, of_all, "not assessed").value == "3"


def test_heads_of_several_classes_have_precision_recall_and_whether_probabilities_come_true(results):
    decided = next(table for table in head_tables(results) if table.heading == "Findings of several classes")
    precision = cell(decided, "calcif", "precision, mean of classes")
    assert precision.value == percent(results["probe/calcif/macro_precision"]) and precision.notes
    assert cell(decided, "calcif", "recall, mean of classes").notes
    each = shown(results, "each against the others")
    assert cell(each, "calcif: 2", "recall").value == percent(results["probe/calcif/class=2/recall"])
    calibrated = shown(results, "classes: do probabilities come true")
    brier = cell(calibrated, "calcif", "Brier score, summed over classes")
    assert brier.value == number(results["probe/calcif/multiclass_brier"])
    assert [note.split(" 0.")[0] for note in brier.notes][1:] == ["prevalence alone"]
    error = cell(calibrated, "calcif", "calibration error of the class said")
    assert error.value == number(results["probe/calcif/top_label_ece"]) and error.notes == []


def test_heads_of_several_classes_are_in_the_tables_of_groups(data, results):
    words = ["F", "M"] * (NUM // 2)
    grouped = replace(data, labels=data.labels | {"sex": words})
    metric = classification.Config(bootstrap_samples=20).build()
    numbers, _ = measure_groups([metric], grouped, ["sex"], 10)
    (table,) = group_tables(results | numbers, "rows")
    (row,) = [row for row in table.rows if row.label == "calcif: AUROC, mean of classes"]
    expected = [numbers[f"by/sex={word}/probe/calcif/macro_auroc"] for word in ("F", "M")]
    assert [each.value for each in row.cells[1:]] == [f"{value:.2f}" for value in expected]
    assert all(each.notes[-1] == "of 30" for each in row.cells[1:])


def test_numbers_of_heads_are_not_repeated_among_other_measures(results):
    assert tables(results, [], {}) == []
    other = tables(results | {"speed_of_light": 3.0}, [], {})
    assert [row.label for row in other[0].rows] == ["speed_of_light"]


def test_the_page_draws_curves_and_a_page_to_share_has_tables_alone(data, results):
    rows = score_rows(data, [DEATH.build()])
    inputs = ReportInputs("run", results=results, answers=rows.answers, followed=rows.followed)
    page = render_report(inputs)
    assert page.count('aria-label="ROC, precision-recall and reliability') == 2
    assert page.count('aria-label="Scatter and Bland-Altman') == 1
    assert "Findings: decisions at thresholds fixed on val" in page
    assert page.count('aria-label="Called against true: mid lad cto"') == 1
    assert page.count('aria-label="Called against true: calcif"') == 1
    assert page.count('aria-label="Kaplan-Meier curves of death by risk group') == 1
    assert "://" not in page.replace("http://www.w3.org/", "")
    shared = render_report(aggregates_of(inputs))
    assert "Findings: who scores higher" in shared
    assert "ROC, precision-recall" not in shared
    assert "Bland-Altman" not in shared
    assert "Called against true" not in shared
    assert "Kaplan" not in shared


def test_findings_of_one_class_or_none_are_not_drawn(data):
    one_class = replace(data, labels=data.labels | {"om1_cto": [0.0] * NUM, "mid_lad_cto": [None] * NUM})
    assert [figure for figure in head_figures(score_rows(one_class, []).answers) if "ROC" in figure] == []


def test_a_checkpoint_on_two_data_sets_has_a_column_for_each(results):
    own = {"checkpoint": "step 9 (a)", "metrics": results, "data_summary": {"films": 60, "patients": 30}}
    here, there = own | {"data": "mine", "split": "test"}, own | {"data": "site_b", "split": "test"}
    earlier = own | {"data": "mine", "split": "val", "checkpoint": "step 3 (b)"}
    table = site_table([earlier, here, there])
    assert table.sites == ["mine, test", "site_b, test"]
    assert table.sizes == ["60 films, 30 patients"] * 2
    row = next(row for row in table.rows if row.label == "probe: mid lad cto: AUROC")
    assert row.cells[0] == row.cells[1]
    assert row.cells[0].notes[-1] == "of 59"
    assert site_table([earlier, here]) is None
    assert site_table([]) is None
    page = render_report(ReportInputs("run", results=results, documents=[earlier, here, there]))
    assert "site_b, test" in page


def test_what_another_hospital_measured_of_the_checkpoint_is_a_column(results, tmp_path):
    here = {"checkpoint": "step 9 (a)", "metrics": results, "data": "mine", "split": "test"}
    record = {
        "model": {"step": 9, "digest": "a"},
        "films": 300,
        "studies": 50,
        "patients": 40,
        "metrics": {"probe/om1_cto/auroc": 0.625},
    }
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "lyon.json").write_text(json.dumps(record))
    other = record | {"model": {"step": 3, "digest": "b"}}
    (tmp_path / "sites" / "earlier.json").write_text(json.dumps(other))
    table = site_table([here], read_sites(tmp_path))
    assert (table.sites, table.sizes[1]) == (
        ["mine, test", "lyon, site"],
        "300 films, 50 studies, 40 patients",
    )
    row = next(row for row in table.rows if row.label == "probe: om1 cto: AUROC")
    assert row.cells[1].value == "0.62"
    (tmp_path / "sites" / "notes.json").write_text("[]")
    with pytest.raises(DataError, match=r"notes\.json is no file of tools/validate_site\.py"):
        read_sites(tmp_path)


def test_a_confusion_counts_what_was_called_against_what_is_true(data):
    answers = score_rows(data, []).answers
    cto = answers["probe/mid_lad_cto"]
    known = ~np.isnan(cto.truth)
    expected = confusion_matrix(cto.truth[known], cto.said[known, 0] >= cto.threshold)
    np.testing.assert_array_equal(confusion(cto), expected)
    grade = answers["probe/calcif"]
    np.testing.assert_array_equal(
        confusion(grade), confusion_matrix(grade.truth, grade.said.argmax(axis=1), labels=range(3))
    )
    assert confusion(answers["probe/om1_cto"]) is None  # val gave it no threshold
    assert confusion(answers["probe/lvef"]) is None
    assert confusion(replace(cto, truth=np.full(NUM, np.nan))) is None


def test_many_findings_take_several_rows_and_a_class_that_nobody_has_an_empty_one():
    cto = Answer(BINARY, np.linspace(0, 1, 10)[:, None], np.arange(10.0) % 2, threshold=0.5)
    figures = confusion_figures({f"probe/cto_{number}": cto for number in range(9)})
    assert len(figures) == 2 and "cto 8" not in "".join(figures)
    grade = Answer(
        MULTICLASS, np.eye(3)[[0, 1, 0]], np.array([0.0, 1.0, 1.0]), classes=["no", "mild", "severe"]
    )
    (figure,) = confusion_figures({"probe/grade": grade})
    assert all(word in figure for word in ("no", "mild", "severe", "50%"))


def follow_up(**changes) -> Followed:
    """Two rows of each of six patients; patient 5 is told of by two follow-ups."""
    patient = np.repeat(np.arange(6), 2)
    time = np.where(np.arange(12) == 11, 9.0, 1.0 + patient)
    facts = {"head": "probe/mace", "score": np.arange(12.0) / 12, "time": time}
    facts |= {"event": patient % 2 == 0, "patient": patient}
    return Followed(**facts | changes)


def test_patients_of_several_rows_are_followed_once_in_the_group_of_their_mean_score():
    low, middle, high = risk_groups(follow_up())
    assert [group.words for group in (low, middle, high)] == ["lowest third", "middle third", "highest third"]
    assert sum(len(group.times) for group in (low, middle, high)) == 7
    assert low.times.tolist() == [1, 2] and low.events.tolist() == [True, False]
    below, above = risk_groups(follow_up(threshold=0.5))
    assert (len(below.times), len(above.times)) == (3, 4)
    assert sorted(above.times.tolist()) == [4, 5, 6, 9]


def test_no_curve_is_drawn_without_an_event_or_a_second_group():
    none = follow_up(event=np.zeros(12, bool))
    alike = follow_up(threshold=2.0)
    assert survival_figures({"survival/a": none, "survival/b": alike}) == []
    assert len(survival_figures({"survival/c": follow_up()})) == 1


@NEEDS_BROWSER
@pytest.mark.slow
def test_matrices_and_curves_are_seen_on_the_page(data, results, tmp_path):
    """Ink of the darkest cells and of the curves of the group at high risk, in a browser without a network."""
    rows = score_rows(data, [DEATH.build()])
    answers = {name: rows.answers[name] for name in ("probe/mid_lad_cto", "probe/calcif")}
    page = tmp_path / "report.html"
    inputs = ReportInputs("run", results=results, answers=answers, followed=rows.followed)
    page.write_text(render_report(inputs))
    with_figures = drawn(page, tmp_path, height_px=6000)
    page.write_text(render_report(replace(inputs, answers={}, followed={})))
    without = drawn(page, tmp_path, height_px=6000)
    assert (with_figures < 200).sum() > (without < 200).sum() + 20_000


def test_a_drawing_keeps_every_shape_that_it_refers_to():
    """Matplotlib names shapes by a hash, which may look like the name of a part that nobody refers to."""
    figure, (axes,) = new_figure(4.0, 3.0)
    for place in range(200):
        axes.plot([place], [0], "o", markersize=1 + place / 100)
    drawing = as_svg(figure, "points")
    names = re.findall(r' id="([^"]+)"', drawing)
    referred = re.findall(r'(?:href="#|url\(#)([^")]+)', drawing)
    assert len(set(referred)) > 200 and set(referred) == set(names)
