"""What a run is with less to see, on its page, in its twin, on its card and in a table of several runs."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from deepcoro.paper.model_card import render_model_card
from deepcoro.report import ReportInputs, read_inputs, render_report, write_report
from deepcoro.report_aggregates import aggregates_of
from deepcoro.report_shortcuts import (
    Shortcuts,
    baselines,
    baselines_beside,
    how_to_measure,
    not_above_baselines,
    shortcut_table,
)
from deepcoro.shortcut_overview import csv_text, markdown
from tests.browser import NEEDS_BROWSER, drawn
from tests.tools.command import load_tool

SEARCH, TASK, HEAD = "retrieval/text_to_video/R@5", "zero_shot/cto/auroc", "probe/severe/auroc"
METRICS = {
    SEARCH: 0.8, f"{SEARCH}_ci_low": 0.7, f"{SEARCH}_ci_high": 0.9, f"{SEARCH}_chance": 0.1,
    "retrieval/num_films": 300.0, "retrieval/num_patients": 90.0, "retrieval/text_to_video/num_queries": 50.0,
    TASK: 0.91, f"{TASK}_ci_low": 0.81, f"{TASK}_ci_high": 0.95, "zero_shot/cto/num": 300.0, "zero_shot/cto/num_positive": 90.0,
    HEAD: 0.77, "probe/severe/prevalence": 0.02, "probe/severe/num": 300.0, "probe/severe/num_positive": 6.0,
    "by/side=left/zero_shot/cto/auroc": 0.5,
}  # fmt: skip
OF = {"split": "test", "data_fingerprint": "f1", "checkpoint": "step 9 (ab)"}
DOCUMENT = OF | {"data": "mine", "metrics": METRICS, "data_summary": {"patients": 90}}
FOUND = Shortcuts(
    **OF,
    numbers={
        "whole": METRICS,
        "first_frame": {SEARCH: 0.66, TASK: 0.61, f"{TASK}_ci_low": 0.52, f"{TASK}_ci_high": 0.71, HEAD: 0.58},
        "metadata": {"cto/auroc": 0.553, "severe/auroc": 0.569},
    },
    metadata_of={TASK: "cto/auroc", HEAD: "severe/auroc"},
    paired={
        "first_frame": {TASK: (0.3, 0.2, 0.4), SEARCH: (0.14, -0.02, 0.3), HEAD: (0.2, -0.1, 0.3)},
        "metadata": {TASK: (0.357, 0.2, 0.5)},
    },
    gaps={TASK: (0.1, 0.02, 0.2), "probe/lvef/mae": (-0.2, -0.4, -0.1)},
)  # fmt: skip


def run_folder(folder: Path, found: Shortcuts | None = FOUND, metrics: dict[str, float] = METRICS) -> Path:
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "mine_test.json").write_text(json.dumps(DOCUMENT | {"metrics": metrics}))
    (folder / "results.json").write_text(json.dumps(metrics))
    if found is not None:
        (folder / "shortcuts.json").write_text(found.model_dump_json())
    return folder


def test_the_table_holds_headlines_beside_what_is_left_of_them_and_the_paired_difference():
    table = shortcut_table(FOUND)
    assert table.columns == ["as it is", "first frame only", "no film: metadata"]
    assert [row.label for row in table.rows] == [SEARCH, TASK, HEAD]
    whole, still, columns = table.rows[1].cells
    assert (whole.value, whole.notes) == ("0.910", ["0.810 – 0.950"])
    assert (still.value, still.notes) == (
        "0.610",
        ["0.520 – 0.710", "difference +0.300", "+0.200 – +0.400"],
    )
    assert (columns.value, columns.notes) == ("0.553", ["difference +0.357", "+0.200 – +0.500"])
    assert "hurts more than" in table.gaps[0] and "hurts less than" in table.gaps[1]
    assert shortcut_table(None) is None


def test_every_measure_of_the_page_stands_beside_its_baselines(tmp_path):
    page = render_report(read_inputs(run_folder(tmp_path / "run")))
    flat = " ".join(page.split())
    assert '<th class="n">First frame only</th>' in flat
    assert '<td class="n">66.0 %</td></tr>' in flat  # of the search, which has no baseline of metadata
    assert '<td class="n">0.61</td><td class="n">0.55</td></tr>' in flat  # of the zero-shot task
    assert (
        "<small>first frame only 0.58</small><br><small>no film: metadata 0.57</small>" in flat
    )  # of the head
    assert "<span>First frame only</span><b>0.61</b>" in flat  # on the card
    assert "<small>difference +0.300</small><br><small>+0.200 – +0.400</small>" in flat
    assert f"{TASK}_first_frame" not in flat and "tools/shortcuts.py" not in flat


def test_decisions_errors_and_captions_stand_beside_their_first_frame_and_counts_do_not():
    beside = {
        "probe/severe/sensitivity": 0.61, "probe/lvef/rmse": 11.5, "probe/severe/brier": 0.19, "survival/mace/c_index": 0.62,
        "probe/severe/sensitivity_at_specificity_0.90": 0.31, "clinical_findings/lesion/f1": 0.33, "captioning/bleu_1": 0.21,
    }  # fmt: skip
    of_no_model = dict.fromkeys(
        ("probe/severe/threshold", "survival/mace/num_events", "clinical_findings/lesion/f1_modal"), 7.0
    )
    whole = METRICS | {key: value + 0.125 for key, value in beside.items()} | of_no_model | {
        "probe/lvef/mae_of_median": 9.0, "clinical_findings/num_films": 300.0, "captioning/num_films": 300.0,
    }  # fmt: skip
    found = FOUND.model_copy(update={"numbers": {"whole": whole, "first_frame": beside | of_no_model}})
    stand = baselines(found.model_copy(update={"paired": {}}), DOCUMENT)
    assert stand == {f"{key}_first_frame": value for key, value in beside.items()}
    page = " ".join(render_report(ReportInputs(run_name="x", results=whole, baselines=stand)).split())
    for told in (
        "first frame only 61.0 %",
        "first frame only 11.500",
        "first frame only 0.190",
        "first frame only 0.62",
        "first frame only 31.0 %",
    ):
        assert f"<small>{told}</small>" in page
    assert page.count('<th class="n">Shuffled</th><th class="n">First frame only</th>') == 2  # of captions
    assert '<td class="n">0.33</td>' in page and '<td class="n">0.21</td>' in page
    assert "_first_frame" not in page and "0.90_" not in page
    shared = baselines_beside(stand, whole)
    assert (
        not [key for key in shared if key.startswith(("captioning", "clinical"))]
        and "probe/lvef/rmse_first_frame" in shared
    )


def test_the_page_to_share_has_baselines_of_what_it_shows_and_of_nothing_else(tmp_path):
    shared = aggregates_of(read_inputs(run_folder(tmp_path / "run")))
    assert set(shared.baselines) == {f"{SEARCH}_first_frame", f"{TASK}_first_frame", f"{TASK}_metadata"}
    page = render_report(shared)
    assert "First frame only" in page and "Shown less" not in page


def test_the_page_says_how_to_get_baselines_that_it_does_not_have(tmp_path):
    command = "python tools/shortcuts.py RUN --split test"
    page = render_report(read_inputs(run_folder(tmp_path / "run", found=None)))
    assert page.count(command) == 1 and "First frame only" not in page
    other = run_folder(tmp_path / "other", FOUND.model_copy(update={"checkpoint": "step 1 (cd)"}))
    inputs = read_inputs(other)
    assert inputs.baselines == {}
    page = render_report(inputs)
    assert page.count(command) == 1 and "another checkpoint, split or data" in page and "Shown less" in page
    assert how_to_measure(None, {"split": "test", "metrics": {"probe/cto/num": 3}}) is None
    assert command not in render_report(aggregates_of(inputs))
    assert command not in render_report(ReportInputs(run_name="nothing yet"))


def test_a_run_whose_labels_nobody_assessed_has_the_baselines_that_it_can_have():
    numbers = {name: {SEARCH: value} for name, value in (("whole", 0.8), ("first_frame", 0.7))}
    found = Shortcuts(**OF, numbers=numbers | {"metadata": {}}, notes=["metadata/cto: no assessed row"])
    assert baselines(found, DOCUMENT) == {f"{SEARCH}_first_frame": 0.7}
    assert [cell.value for cell in shortcut_table(found).rows[0].cells] == ["0.800", "0.700", "–"]
    assert "| run | test | retrieval/text_to_video/R@5 | 0.800 | 0.700 | – | – | – |" in markdown(
        {"run": found}
    )


def test_metadata_of_a_mean_over_heads_is_what_the_paired_difference_says():
    mean = "probe/macro/auroc"
    numbers = {"whole": {mean: 0.8}, "metadata": {}}
    found = Shortcuts(**OF, numbers=numbers, paired={"metadata": {mean: (0.25, 0.1, 0.4)}})
    assert [cell.value for cell in shortcut_table(found).rows[0].cells] == ["0.800", "0.550"]


def test_the_card_names_what_is_not_told_apart_from_a_still_frame(tmp_path):
    run = run_folder(tmp_path / "run")
    card = render_model_card(run, read_inputs(run)).replace("\\", "")
    assert f"**Not shown to be better than first frame only: {SEARCH}.**" in card  # the head rests on few
    assert "tools/shortcuts.py" not in card
    without = render_model_card(run, replace(read_inputs(run), shortcuts=None)).replace("\\", "")
    assert "Not measured on a still frame and without films" in without and "tools/shortcuts.py" in without


def test_a_model_that_is_worse_than_a_baseline_is_not_better_and_of_an_error_less_is_better():
    paired = {
        "a/auroc": (-0.2, -0.3, -0.1),
        "b/auroc": (0.2, 0.1, 0.3),
        "a/mae": (-2, -3, -1),
        "b/mae": (2, 1, 3),
    }
    found = Shortcuts(**OF, numbers={}, paired={"metadata": paired})
    assert list(not_above_baselines(found, dict.fromkeys(paired, 1.0))) == [
        "Not shown to be better than no film: metadata: a/auroc, b/mae."
    ]


def test_several_runs_stand_in_one_table_with_a_row_a_run_and_measure():
    shuffled = Shortcuts(split="val", numbers={"whole": {TASK: 0.5}, "shuffled_frames": {TASK: 0.25}})
    runs = {"runs/a": FOUND, "runs/b": shuffled}
    head, _, *rows = markdown(runs).splitlines()
    assert [each.strip() for each in head.strip("|").split("|")] == [
        "run", "split", "measure", "as it is", "first frame only", "frames shuffled", "no film: metadata",
        "as it is − first frame only (95 % interval)", "as it is − no film: metadata (95 % interval)",
    ]  # fmt: skip
    assert rows[1] == (
        f"| runs/a | test | {TASK} | 0.910 | 0.610 | – | 0.553 | +0.300 (+0.200 to +0.400) | +0.357 (+0.200 to +0.500) |"
    )
    assert rows[3] == f"| runs/b | val | {TASK} | 0.500 | – | 0.250 | – | – | – |"
    lines = list(csv.DictReader(csv_text(runs).splitlines()))
    assert [(line["run"], line["measure"]) for line in lines] == [
        ("runs/a", SEARCH), ("runs/a", TASK), ("runs/a", HEAD), ("runs/b", TASK),
    ]  # fmt: skip
    task = lines[1]
    assert (task["whole"], task["whole_ci_low"]) == ("0.91", "0.81")
    assert (task["first_frame"], task["first_frame_difference_ci_high"]) == ("0.61", "0.4")
    assert (task["metadata"], task["metadata_difference"], task["shuffled_frames"]) == ("0.553", "0.357", "")
    assert "whole_difference" not in task
    assert lines[3]["shuffled_frames"] == "0.25" and lines[3]["first_frame_difference"] == ""


def test_the_command_tables_runs_that_were_measured_and_says_what_is_wrong(tmp_path, capsys):
    tool = load_tool("shortcuts")
    first, second = run_folder(tmp_path / "lr=0.1"), run_folder(tmp_path / "b")
    assert tool.main([str(first), "--table", str(second), "--csv", str(tmp_path / "all.csv")]) == 0
    out = capsys.readouterr().out
    assert out.count(TASK) == 2 and str(first) in out
    assert (tmp_path / "all.csv").read_text().count(TASK) == 2
    assert tool.main([str(run_folder(tmp_path / "c", found=None)), "--table"]) == 2
    assert "is not there: tools/shortcuts.py" in capsys.readouterr().err
    for words in (
        ["--table"],
        ["a=b"],
        [str(first), "--table", "a=b"],
        [str(first), "--labels", "cto", "a=b"],
    ):
        with pytest.raises(SystemExit) as stopped:
            tool.main(words)
        assert stopped.value.code == 2
    capsys.readouterr()


@NEEDS_BROWSER
def test_a_browser_draws_the_columns_within_the_page(tmp_path):
    page = write_report(run_folder(tmp_path / "run"))
    grey = drawn(page, tmp_path)
    assert 0.005 < (grey < 128).mean() < 0.3
    assert (grey[:, 1050:1080] > 230).all()  # nothing runs out at the right
