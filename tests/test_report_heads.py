"""Heads on the page of a run: tables with what every number rests on, curves, and the same checkpoint elsewhere."""

from dataclasses import replace

import numpy as np
import pytest

from deepcoro.calibrated import Fixed
from deepcoro.evaluated import Head
from deepcoro.metrics import calibration, classification, regression, survival
from deepcoro.report import ReportInputs, render_report
from deepcoro.report_aggregates import aggregates_of
from deepcoro.report_head_figures import head_figures
from deepcoro.report_heads import head_tables
from deepcoro.report_sites import site_table
from deepcoro.report_tables import tables
from deepcoro.scored import score_rows
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


@pytest.fixture(scope="module")
def results(data):
    outcome = survival.Outcome(head="probe/om1_cto", event="om1_cto", time="days", horizons=[200])
    metrics = [
        classification.Config(bootstrap_samples=20),
        regression.Config(bootstrap_samples=20),
        calibration.Config(bootstrap_samples=20),
        survival.Config(outcomes={"death": outcome}, bootstrap_samples=20),
    ]
    return {key: value for each in metrics for key, value in each.build().measure(data)[0].items()}


def cell(table, row, column):
    place = table.columns.index(column)
    return next(each.cells[place] for each in table.rows if each.label == row)


def test_every_number_stands_beside_rows_patients_and_those_not_assessed(results):
    found = {table.heading.split(":")[0] + table.heading[-3:]: table for table in head_tables(results)}
    assert len(found) == 6
    order = head_tables(results)[0]
    assert [row.label for row in order.rows] == [
        "mean of heads",
        "all heads in one heap",
        "mid lad cto",
        "om1 cto",
    ]
    assert cell(order, "mid lad cto", "rows").value == "59"
    assert cell(order, "mid lad cto", "not assessed").value == "1"
    shown = cell(order, "mid lad cto", "AUROC")
    assert shown.value == f"{results['probe/mid_lad_cto/auroc']:.2f}"
    assert shown.notes[0].startswith(f"{results['probe/mid_lad_cto/auroc_ci_low']:.2f} – ")
    decisions = next(table for table in head_tables(results) if "thresholds" in table.heading)
    assert [row.label for row in decisions.rows] == ["mean of heads", "mid lad cto"]
    agreement = next(table for table in head_tables(results) if "Numbers" in table.heading)
    assert any(note.startswith("median alone ") for note in cell(agreement, "lvef", "MAE").notes)
    time = next(table for table in head_tables(results) if "Time" in table.heading)
    assert {"C-index", "AUC at 200", "events"} <= set(time.columns)


def test_numbers_of_heads_are_not_repeated_among_other_measures(results):
    assert tables(results, [], {}) == []
    other = tables(results | {"speed_of_light": 3.0}, [], {})
    assert [row.label for row in other[0].rows] == ["speed_of_light"]


def test_the_page_draws_curves_and_a_page_to_share_has_tables_alone(data, results):
    answers = score_rows(data, []).answers
    page = render_report(ReportInputs("run", results=results, answers=answers))
    assert page.count('aria-label="ROC, precision-recall and reliability') == 2
    assert page.count('aria-label="Scatter and Bland-Altman') == 1
    assert "Findings: decisions at thresholds fixed on val" in page
    shared = render_report(aggregates_of(ReportInputs("run", results=results, answers=answers)))
    assert "Findings: who scores higher" in shared
    assert "ROC, precision-recall" not in shared
    assert "Bland-Altman" not in shared


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
