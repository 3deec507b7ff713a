"""The page of a run: it says what is missing, loads nothing, escapes everything, and a browser draws it."""

import base64
import html.parser
import json
import re
from dataclasses import replace

import numpy as np

from deepcoro import report_figures
from deepcoro.predictions import Predictions, write_predictions
from deepcoro.report import ReportInputs, read_inputs, render_report, training_figures, write_report
from deepcoro.report_examples import Candidate, Example, film_strip
from deepcoro.report_tables import cards, tables, warnings
from tests.browser import NEEDS_BROWSER, drawn

HOSTILE = "<script>alert('x')</script> & \"LAD\" <img src=http://example.org/a.png>"

RESULTS = {
    "retrieval/num_films": 312.0,
    "retrieval/num_films_without_report": 4.0,
    "retrieval/num_patients": 63.0,
    "retrieval/num_distinct_reports": 84.0,
    "retrieval/text_to_video/num_queries": 83.0,
    "retrieval/text_to_video/R@5": 0.458,
    "retrieval/text_to_video/R@5_chance": 0.059,
    "retrieval/text_to_video/R@5_ci_low": 0.396,
    "retrieval/text_to_video/R@5_ci_high": 0.525,
    "retrieval/text_to_video/median_rank": 6.0,
    "retrieval/text_to_video/within_stratum/R@5": 0.12,
    "retrieval/text_to_video/within_stratum/R@5_chance": 0.115,
    "retrieval/text_to_video/within_stratum/R@5_ci_low": 0.08,
    "retrieval/text_to_video/within_stratum/R@5_ci_high": 0.17,
    "retrieval/control/text_to_video/R@5": 0.06,
    "retrieval/control/text_to_video/R@5_chance": 0.059,
    "retrieval/control/text_to_video/R@5_ci_low": 0.012,
    "retrieval/control/text_to_video/R@5_ci_high": 0.12,
    "zero_shot/side/auroc": 0.86,
    "zero_shot/side/auroc_ci_low": 0.82,
    "zero_shot/side/auroc_ci_high": 0.9,
    "zero_shot/side/num": 312.0,
    "zero_shot/side/num_positive": 138.0,
    "zero_shot/side/num_not_assessed": 0.0,
    "captioning/bleu_4": 0.31,
    "speed/films_per_s": 7.4,
}


def strip_base64() -> str:
    frames = np.random.default_rng(0).integers(0, 255, (8, 32, 32), dtype=np.uint8)
    return base64.b64encode(film_strip(frames)).decode()


def two_examples(text: str = "Severe stenosis of the mid LAD.") -> list[Example]:
    candidates = [
        Candidate(title="c01", text=text, strip=strip_base64(), similarity=0.9, hit=True),
        Candidate(title="c02", text="Another " + text, similarity=0.4, hit=False),
    ]
    shared = {"kind": "best", "text": text, "rank": 1.5, "num_candidates": 20, "num_positives": 2}
    return [
        Example(direction="text_to_video", candidates=candidates, **shared),
        Example(
            direction="video_to_text", title="c03", strip=strip_base64(), candidates=candidates, **shared
        ),
    ]


def run_folder(tmp_path, text: str = "Normal right coronary artery."):
    """A run folder as evaluation leaves it."""
    run_dir = tmp_path / "first-run"
    (run_dir / "results").mkdir(parents=True)
    document = {
        "data": "demo",
        "split": "test",
        "checkpoint": "step_20",
        "created": "2026-01-02 03:04 UTC",
        "commit": "abc1234",
        "patient_split": "verified",
        "times_computed": 2,
        "patient_overlap": "unknown",
        "notes": ["zero_shot/cto: no AUROC, 0 of 9 assessed films are '1'"],
        "data_summary": {"studies": 63, "rejected_clips": 3},
        "metrics": RESULTS,
    }
    (run_dir / "results" / "demo_test.json").write_text(json.dumps(document))
    (run_dir / "results.json").write_text(json.dumps(RESULTS))
    lines = [
        {"step": step, "train/loss": 3.0 / step, "lr": 1e-4, "speed/films_per_s": 9.0}
        for step in range(1, 41)
    ]
    lines[-1] |= {"val/loss": 0.5, "val/retrieval/text_to_video/R@5": 0.4}
    (run_dir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (run_dir / "config.yaml").write_text(
        "run_mode: test\nevaluate: {metrics: {retrieval: {strata: [side]}}}\n"
    )
    generator = np.random.default_rng(0)
    films = np.eye(8, dtype=np.float32)
    predictions = Predictions(
        clips=[f"c{film}" for film in range(8)],
        studies=["s"] * 8,
        split="test",
        films=films,
        texts=[text, "Other."],
        text_embeddings=films[:2],
        text_of_film=np.zeros(8, np.int64),
        scores={f"zero_shot_{task}_score": generator.normal(size=8) for task in ("side", "cto")},
        labels={"side": ["left", "right"] * 4, "cto": [0] * 8},
    )
    write_predictions(run_dir / "predictions", "demo_test", predictions)
    return run_dir


class Page(html.parser.HTMLParser):
    """The tags, the links and the text of a page; unbalanced tags are an error."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [
            value for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_an_empty_run_gives_a_page_that_says_so(tmp_path):
    path = write_report(tmp_path)
    page = Page(path.read_text())
    assert "has not been evaluated" in page.text
    assert "Not a medical device" in page.text
    assert "svg" not in page.tags


def test_a_run_with_training_alone_shows_its_curves_and_that_validation_is_missing():
    history = [{"step": step, "train/loss": 1.0 / step, "lr": 1e-4} for step in range(1, 50)]
    page = Page(render_report(ReportInputs(run_name="run", history=history)))
    assert page.tags.count("svg") == 2
    assert "Nothing was measured on a validation split" in page.text


def test_a_whole_run_shows_its_numbers_beside_chance_and_control(tmp_path):
    run_dir = run_folder(tmp_path)
    text = write_report(run_dir, two_examples()).read_text()
    page = Page(text)
    for expected in (
        "first-run",
        "Evaluation on the test split of demo",
        "abc1234",
        "45.8 %",
        "39.6 – 52.5 %",
        "5.9 %",
        "1.2 – 12.0 %",
        "like with like",
        "same side",
        "not told apart from guessing",
        "138 right",
        "BLEU-4",
        "evaluated 2 times",
        "Overlap unknown",
        "no AUROC, 0 of 9",
        "✓ match",
        "do not share it outside",
        "rejected clips",
        "strata: [side]",
    ):
        assert expected in page.text, expected
    assert page.tags.count("img") == 2  # the hit of the report that searches, and the film that searches
    assert page.tags.count("svg") == 2 + 4  # scores, loss and validation and rate and speed
    assert not list(run_dir.glob("*.tmp"))


def test_nothing_is_loaded_from_a_network(tmp_path):
    text = write_report(run_folder(tmp_path, HOSTILE), two_examples(HOSTILE)).read_text()
    page = Page(text)
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_words_of_reports_names_and_settings_are_escaped():
    inputs = ReportInputs(
        run_name=HOSTILE,
        data=HOSTILE,
        split="val",
        results=RESULTS,
        config_text=HOSTILE,
        examples=two_examples(HOSTILE),
        notes=[HOSTILE],
        history=[
            {"step": 1, f"train/{HOSTILE}/loss": 1.0},
            {"step": 2, f"train/{HOSTILE}/loss": 1.0, "val/loss": 1.0},
        ],
        data_summary={HOSTILE: HOSTILE},
    )
    text = render_report(inputs)
    assert "<script" not in text
    assert "<img src=http" not in text
    assert "alert('x')" in Page(text).text  # shown as words


def test_a_page_without_films_does_not_claim_to_hold_any():
    assert "do not share it outside" not in render_report(ReportInputs(run_name="run", results=RESULTS))


def test_an_unverifiable_patient_split_is_said_at_the_top():
    inputs = ReportInputs(run_name="run", split="val", results=RESULTS, patient_split="unverifiable")
    text = Page(render_report(inputs)).text
    assert "Patient split unverifiable" in text
    assert "Patients unknown, at most 63" in text
    assert "Patient split unverifiable" not in render_report(ReportInputs(run_name="run", results=RESULTS))


def test_few_patients_are_counted_only_where_the_data_name_them():
    few = RESULTS | {"retrieval/num_patients": 12.0}
    assert "Only 12 patients" in Page(render_report(ReportInputs("run", results=few))).text
    unnamed = Page(render_report(ReportInputs("run", results=few, patient_split="unverifiable"))).text
    assert "At most 12 patients" in unnamed and "Only 12" not in unnamed


def test_rows_that_are_studies_are_not_called_films(tmp_path):
    run_dir = run_folder(tmp_path)
    assert "Films with a report" in Page(render_report(read_inputs(run_dir))).text
    config = run_dir / "config.yaml"
    config.write_text(config.read_text() + "data: {multi_video: true}\n")
    grouped = {
        "by/status=PCI/num_films": 9.0,
        "by/status=PCI/num_patients": 8.0,
        "by/status/num_not_assessed": 1.0,
    }
    grouped["by/status=PCI/zero_shot/side/auroc"] = 0.75
    inputs = read_inputs(run_dir)
    text = Page(render_report(replace(inputs, results=inputs.results | grouped))).text
    assert "Studies with a report" in text and "where a measure on this page says film" in text
    assert "By group of studies" in text and "all studies" in text and "9 studies, 8 patients" in text


def test_a_control_that_misses_chance_is_a_warning():
    broken = RESULTS | {"retrieval/control/text_to_video/R@5_ci_low": 0.2}
    assert any("do not use these numbers" in warning for warning in warnings(broken))
    assert not any("do not use these numbers" in warning for warning in warnings(RESULTS))


def test_better_than_guessing_means_that_the_interval_lies_above_chance():
    verdicts = {card.title: card.is_above_chance for card in cards(RESULTS, ["side"], {})}
    assert verdicts == {
        "Report → film": True,
        "Report → film, like with like": False,
        "Right or left coronary artery": True,
    }


def test_a_number_that_is_missing_is_a_dash():
    (table,) = tables({"retrieval/text_to_video/R@5": float("nan")}, [], {})
    assert table.rows[0].value == table.rows[0].chance == "–"


def test_the_examples_of_an_evaluation_are_there_when_the_page_is_made_again(tmp_path):
    run_dir = run_folder(tmp_path)
    write_report(run_dir, two_examples())
    assert list(read_inputs(run_dir).examples) == two_examples()
    assert "✓ match" in write_report(run_dir).read_text()
    assert "✓ match" not in write_report(run_dir, []).read_text()


def test_only_tasks_with_both_classes_get_a_curve(tmp_path):
    (scored,) = read_inputs(run_folder(tmp_path)).scored
    assert scored.label == "Right or left coronary artery"
    assert scored.positive.tolist() == [False, True] * 4


def test_the_same_run_gives_the_same_page(tmp_path):
    run_dir = run_folder(tmp_path)
    first = write_report(run_dir, two_examples()).read_text()
    report_figures._drawn_curves.cache_clear()
    assert write_report(run_dir).read_text() == first


def test_throughput_is_drawn_before_other_timings_and_one_objective_once():
    line = {"speed/step_s": 1.0, "speed/data_wait_s": 0.1, "speed/samples_per_s": 9.0}
    history = [{"step": step, "train/loss": 1.0, "train/contrastive/loss": 1.0} | line for step in range(3)]
    history[1] |= {"train/loss": float("nan")}
    loss, first, second = training_figures(history)
    assert "contrastive" not in loss
    assert "samples per s" in first
    assert "step s" in second


def test_a_long_run_makes_a_light_page():
    history = [{"step": step, "train/loss": 1.0 / step} for step in range(1, 50_001)]
    (figure,) = training_figures(history)
    assert len(figure) < 100_000


@NEEDS_BROWSER
def test_a_browser_draws_the_page(tmp_path):
    path = write_report(run_folder(tmp_path), two_examples())
    assert 0.005 < (drawn(path, tmp_path) < 128).mean() < 0.3


def test_what_training_took_is_told_with_the_curves():
    history = [
        {"step": step, "train/loss": 1.0, "speed/gpu_hours": step, "speed/samples_per_s": 10.0 * step}
        | {"speed/data_wait_share": 0.125, "speed/mfu": 0.25, "memory/peak_gb": step / 2}
        for step in (1, 2, 3)
    ]
    page = render_report(ReportInputs("run", history=history))
    for name, value in {
        "GPU-hours, all starts": "3",
        "Samples a second, median": "20",
        "Time spent waiting for data, median": "12.5 %",
        "Of the device&#39;s peak, median": "25.0 %",
        "Peak memory of a process, GB": "1.50",
    }.items():
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page
    assert "What it took" not in render_report(ReportInputs("run", history=[{"step": 1, "train/loss": 1.0}]))
