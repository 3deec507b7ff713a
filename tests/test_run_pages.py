"""What a run leaves for people besides its page: the twin to share, tables for a paper, the model card."""

import csv
import json
import re
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from deepcoro import report_figures
from deepcoro.paper.model_card import model_facts, plain, render_model_card, start_of, unknown
from deepcoro.paper.sheets import escaped
from deepcoro.report import read_inputs
from deepcoro.report_aggregates import aggregates_of, summary_told, without_places
from deepcoro.report_captions import CaptionExample, Marked
from deepcoro.report_head_errors import HeadError
from deepcoro.run_pages import write_pages
from tests.browser import NEEDS_BROWSER, drawn
from tests.test_report import HOSTILE, RESULTS, Page, run_folder, strip_base64, two_examples

PAGES = ("report.html", "report_aggregates.html")
SECRET = "Severe stenosis of the mid LAD in Mr Jones."


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run folder with its pages, whose examples name somebody."""
    run_dir = run_folder(tmp_path_factory.mktemp("run"), SECRET)
    config = run_dir / "config.yaml"
    config.write_text(
        config.read_text() + "data: {shards: /data/st_mary/x, where: cto == 1}\nrun_dir: ~/own_place\n"
    )
    (run_dir / "positives.html").write_text("texts")
    said = [Marked(text=SECRET, mark="plain")]
    captions = [CaptionExample(kind="best", title="c09", report=said, caption=said)]
    wrong = HeadError(head="probe/cto", title="c17", strip=strip_base64(), said="yes", truth="no")
    write_pages(run_dir, two_examples(SECRET), captions, [wrong])
    return run_dir


def test_the_twin_has_the_numbers_and_no_film_no_text_and_no_folder(whole_run):
    text = (whole_run / "report_aggregates.html").read_text()
    page = Page(text)
    for shown in ("45.8 %", "39.6 – 52.5 %", "Aggregates only", "Not a medical device", "where: cto == 1"):
        assert shown in page.text, shown
    for hidden in ("Jones", "st_mary", "own_place", "positives.html", "<img", "do not share it outside"):
        assert hidden not in text, hidden
    for title in ("c01", "c09", "c17", "most wrong"):
        assert title not in page.text, title
    own = (whole_run / "report.html").read_text()
    assert "Jones" in own and "c17" in own and "The model says <b>yes</b>" in own


def test_a_curve_that_both_pages_show_is_drawn_once(whole_run):
    report_figures._drawn_curves.cache_clear()
    with mock.patch.object(report_figures, "as_svg", wraps=report_figures.as_svg) as drawn_now:
        write_pages(whole_run)
    shown = [re.findall(r'aria-label="Loss"', (whole_run / name).read_text()) for name in PAGES]
    assert shown == [['aria-label="Loss"']] * 2
    assert [call.args[1] for call in drawn_now.call_args_list].count("Loss") == 1


def test_the_twin_keeps_what_says_not_to_trust_it(whole_run):
    text = Page((whole_run / "report_aggregates.html").read_text()).text
    assert "Overlap unknown" in text
    assert "evaluated 2 times" in text


def test_the_twin_leaves_notes_with_counts_at_home(whole_run):
    text = Page((whole_run / "report_aggregates.html").read_text()).text
    assert "0 of 9" not in text
    assert "Notes with numbers in them are left out" in text


def test_rejected_films_fewer_than_ten_are_not_counted_out(whole_run):
    summary = aggregates_of(read_inputs(whole_run)).data_summary
    assert summary == {"studies": 63, "rejected_clips": "fewer than 10"}


def test_an_evaluation_of_few_patients_shows_no_number_outside(tmp_path):
    run_dir = run_folder(tmp_path)
    path = run_dir / "results" / "demo_test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_summary": {"patients": 9}}))
    write_pages(run_dir)
    assert "45.8 %" in (run_dir / "report.html").read_text()
    for name in ("report_aggregates.html", "model_card.md"):
        text = (run_dir / name).read_text()
        assert "45.8 %" not in text
        assert "ewer than 10 patients" in text
    assert not (run_dir / "tables").exists()


def test_a_field_of_the_page_that_nobody_thought_about_stays_at_home(whole_run):
    inputs = read_inputs(whole_run)
    shared = aggregates_of(inputs)
    assert inputs.examples
    assert inputs.captions
    assert not shared.examples
    assert not shared.captions
    assert inputs.head_errors and not shared.head_errors
    assert not shared.reconstructions


def test_a_curve_of_scores_is_drawn_where_its_number_is_told(whole_run):
    inputs = read_inputs(whole_run)
    assert [each.family for each in inputs.scored] == ["zero_shot/side"]
    few = replace(inputs, results=dict(inputs.results) | {"zero_shot/side/num_positive_patients": 2.0})
    assert len(aggregates_of(inputs).scored) == 1
    assert not aggregates_of(few).scored


def test_folders_addresses_and_accounts_are_hidden_in_the_configuration():
    text = without_places(
        "data: {shards: s3://bucket/x, tables: [labels.csv], where: side == left}\n"
        "tracking: {wandb_entity: hospital}\ntowers: {text: {model: /models/x}, video: {variant: tiny}}\n"
    )
    assert "side == left" in text
    assert "variant: tiny" in text
    assert not re.search("bucket|labels|hospital|models", text)
    assert without_places("") == ""


def test_tables_hold_every_measure_with_its_bounds(whole_run):
    rows = list(csv.DictReader((whole_run / "tables" / "measures.csv").open()))
    (found,) = [row for row in rows if row["measure"] == "retrieval/text_to_video/R@5"]
    assert found == {
        "measure": "retrieval/text_to_video/R@5",
        "value": "0.458",
        "ci_low": "0.396",
        "ci_high": "0.525",
        "chance": "0.059",
    }
    assert len(rows) == sum(not key.endswith(("_ci_low", "_ci_high", "_chance")) for key in RESULTS) - 1
    # four films without a report are too few to tell


def test_each_table_is_there_for_a_spreadsheet_and_for_latex(whole_run):
    folder = whole_run / "tables"
    names = {path.stem for path in folder.glob("*.tex")}
    assert names == {path.stem for path in folder.glob("*.csv")} - {"measures"}
    assert "a_report_searches_the_films" in names
    for name in names:
        text = (folder / f"{name}.tex").read_text()
        rows = list(csv.reader((folder / f"{name}.csv").open()))
        body = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(body) == len(rows)
        assert all(len(re.findall(r"(?<!\\)&", line)) == len(rows[0]) - 1 for line in body)
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_tables_of_an_earlier_evaluation_do_not_linger(tmp_path):
    run_dir = run_folder(tmp_path)
    write_pages(run_dir)
    old = run_dir / "tables" / "old.tex"
    old.write_text("of another evaluation")
    write_pages(run_dir)
    assert not old.exists()


def test_latex_prints_the_words_as_they_are():
    assert escaped("50 % of R@5 & more_than {x} \\ ≥ 1 → 2") == (
        r"50 \% of R@5 \& more\_than \{x\} \textbackslash{} $\geq$ 1 $\rightarrow$ 2"
    )


def test_the_card_tells_model_results_limits_and_what_is_not_known(whole_run):
    card = (whole_run / "model_card.md").read_text()
    for expected in (
        "# Model card: first-run",
        "Not a medical device",
        "### test split of demo",
        "| found among the first 5 (R@5) | 45.8 % | 39.6 – 52.5 % | 5.9 % | 1.2 – 12.0 % |",
        "evaluated 2 times",
        "One data set alone",
        "Not measured by sex or age",
        "not known whether patients of the evaluation were in the training data",
        "older than its record",
    ):
        assert expected in card, expected
    assert "Jones" not in card
    assert "st_mary" not in card


def test_heads_have_their_tables_in_the_card_and_for_papers(tmp_path):
    run_dir = run_folder(tmp_path)
    head = {"auroc": 0.81, "auroc_ci_low": 0.75, "auroc_ci_high": 0.86, "prevalence": 0.3}
    head |= {"num": 200, "num_positive": 60, "num_patients": 120, "num_not_assessed": 15}
    for path in [*run_dir.glob("results/*.json"), run_dir / "results.json"]:
        document = json.loads(path.read_text())
        numbers = document.get("metrics", document)
        numbers |= {f"linear_probing/mid_lad_cto/{key}": value for key, value in head.items()}
        path.write_text(json.dumps(document))
    write_pages(run_dir, [], [])
    lines = (run_dir / "model_card.md").read_text().splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith("| mid") and "0.81" in line)
    above, header = lines[row - 1], lines[row - 2]
    assert above.startswith("|---|---:|") and header.startswith("| Finding |")
    assert header.count("|") == above.count("|") == lines[row].count("|")
    with (run_dir / "tables" / "findings_who_scores_higher.csv").open(newline="") as file:
        found = next(csv.DictReader(file))
    assert found["Finding"].startswith("mid") and found["AUROC"].startswith("0.81")


def test_the_card_of_a_run_that_was_only_trained_says_so(tmp_path):
    record = {
        "starts": [
            {
                "started": "2026-01-02 03:04:05",
                "commit": "abc",
                "deepcoro": "0.1.0",
                "packages": {"torch": "2"},
                "processes": 2,
                "device": "cpu",
                "engine": "DEEPSPEED",
                "global_batch": 8,
                "conflicting_labels": {"train": {"cto": 14, "calcif": 2}},
            }
        ],
        "splits": {"train": {"patients": None, "studies": 30, "films": 90}},
    }
    (tmp_path / "run_record.json").write_text(json.dumps(record))
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "train/loss": 2.5}\n')
    write_pages(tmp_path)
    card = (tmp_path / "model_card.md").read_text()
    assert "Nothing was measured" in card
    assert "| train | not named | 30 | 90 |" in card
    assert "2 process(es), cpu, DEEPSPEED" in card
    assert "studies of train whose films disagree on a label" in card
    assert "cto 14, calcif fewer than 10" in card
    assert "older than its record" not in card


def test_the_card_tells_no_split_and_no_evaluation_of_few_patients(tmp_path):
    splits = {
        "train": {"patients": 20, "studies": 22, "films": 70},
        "val": {"patients": 4, "studies": 4, "films": 16},
    }
    (tmp_path / "run_record.json").write_text(json.dumps({"starts": [], "splits": splits}))
    (tmp_path / "results").mkdir()
    summary = {"patients": 4, "studies": 4, "films": 16, "distinct reports": 14}
    document = {"split": "val", "data": "demo", "metrics": {"a/num": 16.0}, "data_summary": summary}
    (tmp_path / "results" / "demo_val.json").write_text(json.dumps(document))
    write_pages(tmp_path)
    card = (tmp_path / "model_card.md").read_text()
    assert "| train | 20 | 22 | 70 |" in card
    assert "| val | fewer than 10 | fewer than 10 | withheld |" in card
    assert "fewer than 10 patients, fewer than 10 studies, withheld films, withheld distinct reports" in card
    shared = Page((tmp_path / "report_aggregates.html").read_text()).text
    assert (
        "fewer than 10" in shared and "16" not in shared.split("Data and timing")[1].split("Configuration")[0]
    )


def test_what_was_evaluated_does_not_count_out_the_few_that_could_not_be_read(whole_run):
    document = {
        "split": "test",
        "data_summary": {"patients": 30, "studies": 30, "films": 57, "unreadable": 3},
        "data_record": {"splits": {"test": {"studies": 30, "films": 60, "dropped": 0}}},
    }
    assert summary_told(document) == {
        "patients": 30,
        "studies": 30,
        "films": "51 to 59",
        "unreadable": "fewer than 10",
    }


def test_the_card_says_from_which_weights_each_tower_started(tmp_path):
    published = {"type": "text_hf", "model": "someone/CardioBERT", "from_scratch": None}
    towers = {"video": {"type": "video_mvit", "weights": None}, "text": published}
    facts = dict(model_facts({"towers": towers}, {}))
    assert "from random weights" in facts["video tower"]
    assert "from the pretrained weights of someone/CardioBERT" in facts["text tower"]
    assert any("weights it started from" in each for each in unknown({"towers": towers}, {}, []))
    given = model_facts({"towers": {"video": {"type": "video_mvit", "weights": "runs/first"}}}, {})
    assert "from weights it was given" in dict(given)["video tower"]
    assert start_of(published | {"from_scratch": {"width": 64}}) == "random weights"
    assert (
        start_of(published | {"architecture": {"model_type": "bert"}}) == "weights that came from elsewhere"
    )


def test_a_run_beside_those_of_other_seeds_is_not_said_to_be_the_only_one(tmp_path):
    for name, config in (("a", "seed: 0\nx: 1\n"), ("b", "seed: 1\nx: 1\n"), ("c", "seed: 2\nx: 2\n"), ("d", "seed: 3\nx: 1\n")):  # fmt: skip
        run_folder(tmp_path).rename(tmp_path / name)
        (tmp_path / name / "config.yaml").write_text(f"run_dir: {tmp_path / name}\n{config}")
    (tmp_path / "d" / "results.json").unlink()
    card = {name: render_model_card(tmp_path / name, read_inputs(tmp_path / name)) for name in ("a", "c")}
    assert "one seed of 2; the other runs (b) have others" in card["a"]
    assert "One training run with one seed" not in card["a"]
    assert "One training run with one seed" in card["c"]


def test_a_split_measured_by_sex_is_not_said_to_be_unmeasured(tmp_path):
    run_dir = run_folder(tmp_path)
    path = run_dir / "results" / "demo_test.json"
    document = json.loads(path.read_text())
    document["metrics"]["by/sex=F/num_patients"] = 30.0
    path.write_text(json.dumps(document))
    assert "Not measured by sex" not in render_model_card(run_dir, read_inputs(run_dir))


def test_words_of_the_run_are_no_markup_of_the_card():
    assert "<" not in plain(HOSTILE)
    assert plain("a|b_c*") == r"a\|b\_c\*"


@NEEDS_BROWSER
def test_a_browser_draws_the_twin(whole_run, tmp_path):
    grey = drawn(whole_run / "report_aggregates.html", tmp_path)
    assert 0.005 < (grey < 128).mean() < 0.3
    assert not np.array_equal(grey, drawn(whole_run / "report.html", tmp_path))
