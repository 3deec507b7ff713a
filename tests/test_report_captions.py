"""Generated reports on the page: sentences marked by what the report says, controls beside each number."""

import numpy as np
import pytest

from deepcoro.metrics import captioning, clinical_findings
from deepcoro.report import ReportInputs, read_inputs, render_report, write_report
from deepcoro.report_captions import (
    caption_cards,
    caption_tables,
    choose_captions,
    marked,
    segment_rows,
    show_captions,
)
from tests.metrics.captions import captioned, trained_on
from tests.test_report import Page

LEFT = "Left coronary artery. Right-dominant circulation. "
RIGHT = "Right coronary artery. Right-dominant circulation. "
REPORTS = [LEFT + f"Severe stenosis ({percent} %) of the mid LAD." for percent in (70, 75, 80)] + [
    RIGHT + f"Severe stenosis ({percent} %) of the mid RCA." for percent in (70, 75, 80)
]
CAPTIONS = [REPORTS[0], LEFT, REPORTS[2] + " CTO of the mid RCA.", REPORTS[3], REPORTS[0], ""]


def evaluated():
    bank = trained_on([REPORTS[0], REPORTS[3]], np.eye(6, dtype=np.float32)[[0, 3]], right=REPORTS[3])
    sides = ["left"] * 3 + ["right"] * 3
    return captioned(REPORTS, CAPTIONS, training=bank, sides=sides)


@pytest.fixture(scope="module")
def results() -> dict[str, float]:
    found: dict[str, float] = {}
    for metric in (clinical_findings, captioning):
        found |= metric.Config(bootstrap_samples=50).build().measure(evaluated())[0]
    return found


def marks(report: str, caption: str) -> tuple[list[str], list[str]]:
    return tuple([each.mark for each in marked(report, caption, is_report)] for is_report in (True, False))


def test_sentences_are_marked_by_what_the_report_says():
    report = (
        LEFT
        + "Severe stenosis (80 %) of the mid LAD. No disease of the left main. CTO of the mid LCx. It rained."
    )
    caption = (
        RIGHT
        + "Severe stenosis (70 %) of the mid LAD. LMCA: 60 %. D1: 60 %. mRCA: 90 %. mLCx: OK. OM1: OK. Hello."
    )
    in_report, in_caption = marks(report, caption)
    assert in_report == ["omitted", "plain", "plain", "plain", "omitted", "unread"]
    assert in_caption == ["wrong", "right", "right", "wrong", "open", "wrong", "wrong", "open", "unread"]


def test_a_tree_called_healthy_is_right_only_where_the_report_agrees():
    assert marks(LEFT + "No significant stenosis.", LEFT + "No obstructive disease.")[1][-1] == "right"
    assert marks(LEFT + "pLAD: 80 %.", LEFT + "No obstructive disease.")[1][-1] == "wrong"
    assert marks(LEFT, LEFT + "No obstructive disease. pLAD: 30 %.")[1][-2:] == ["open", "plain"]


def test_the_best_and_the_worst_captions_are_shown_one_a_report():
    data = evaluated()
    choices = choose_captions(data, 4)
    assert list(choices.values()) == ["best", "best", "middling", "worst"]
    assert list(choices)[:2] == [0, 3] and list(choices)[-1] in (4, 5)
    shown = show_captions(choices, data, {0: b"jpeg"})
    assert shown[0].strip == "anBlZw==" and shown[1].strip is None
    assert [each.text for each in shown[0].caption] == ["Left coronary artery.", "Right-dominant circulation.", "Severe stenosis (70 %) of the mid LAD."]  # fmt: skip
    assert choose_captions(captioned([None, None], ["a", "b"]), 3) == {}
    assert choose_captions(captioned(["a"], []), 3) == {}


def test_tables_show_controls_beside_each_value(results):
    findings, words = caption_tables(results)
    lesions = next(row for row in findings.rows if "(F1)" in row.label and "50 %" in row.label)
    assert lesions.value == f"{results['clinical_findings/lesion/f1']:.2f}" and lesions.rests_on == "6"
    assert lesions.modal == "1.00", "the most common training reports name the segment of each side"
    assert lesions.nearest == "0.67", "the films of other reports lie nearest to none, so to the first"
    assert lesions.shuffled != "–" and "–" in lesions.interval
    assert [row.label for row in words.rows][:2] == ["BLEU-1", "BLEU-2"]
    assert [row.name for row in segment_rows(results)] == ["mid RCA", "mid LAD"]
    (card,) = caption_cards(results)
    assert (
        card.verdict == "not told apart from a training report" and card.chance_name == "Best training report"
    )
    ends = {f"clinical_findings/lesion/f1_above_{name}_ci_low": 0.01 for name in ("modal", "nearest")}
    assert caption_cards(results | ends)[0].is_above_chance
    assert not caption_cards(results | dict(list(ends.items())[:1]))[0].is_above_chance, "above one of them"
    assert caption_tables({}) == caption_cards({}) == segment_rows({}) == []


def test_the_page_shows_generated_reports_and_keeps_them(results, tmp_path):
    data = evaluated()
    write_report(tmp_path, captions=show_captions(choose_captions(data, 3), data, {}))
    inputs = read_inputs(tmp_path)
    assert len(inputs.captions) == 3
    page = Page(render_report(ReportInputs(run_name="run", results=results, captions=inputs.captions)))
    for expected in ("Generated reports", "Most common", "Best training report", "✓ Left coronary artery.", "Lesions by segment", "mid LAD"):  # fmt: skip
        assert expected in page.text, expected
    assert "Generated reports" not in Page(render_report(ReportInputs(run_name="run"))).text


def test_words_of_generated_reports_are_escaped():
    data = captioned(["<b>x</b>"], ["<script>y</script>"])
    shown = show_captions(choose_captions(data, 1), data, {})
    text = render_report(ReportInputs(run_name="run", captions=shown))
    assert "<script>" not in text and "&lt;script&gt;y" in text and "&lt;b&gt;x" in text


def test_validation_of_captions_is_drawn_over_training(results):
    history = [{"step": step, "val/clinical_findings/lesion/f1": 0.1 * step, "val/clinical_findings/lesion/f1_nearest": 0.1} for step in (1, 2)]  # fmt: skip
    page = render_report(ReportInputs(run_name="run", history=history))
    assert "Lesions in generated reports" in page and "nearest training report" in page
