"""Measures on one scale: where their marks stand, what is not drawn, and that a narrow screen shows their words in full size."""

import re

from deepcoro.report import ReportInputs, render_report
from deepcoro.report_intervals import Measure, Span, interval_rows


def test_marks_stand_where_their_numbers_say() -> None:
    measure = Measure("R@5", 0.458, 0.396, 0.525, chance=0.059, control_low=0.012, control_high=0.12)
    (row,) = interval_rows([measure])
    assert (row.at, row.chance, row.interval, row.control) == (45.8, 5.9, Span(39.6, 12.9), Span(1.2, 10.8))
    assert row.told == "0.46, 95 % interval 0.40 to 0.53, guessing 0.06, shuffled control 0.01 to 0.12"


def test_what_is_not_known_is_not_drawn_and_a_control_without_spread_is_seen() -> None:
    alone, even = interval_rows([Measure("a", 0.5), Measure("b", 0.5, control_low=0.1, control_high=0.1)])
    assert (alone.chance, alone.interval, alone.control, alone.told) == (None, None, None, "0.50")
    assert even.control == Span(10.0, 0.4)


def test_a_gap_stands_between_groups_and_not_before_the_first() -> None:
    rows = interval_rows([Measure(name, 0.5, group=name[0]) for name in ("a1", "a2", "b1", "c1")])
    assert [row.starts_group for row in rows] == [False, False, True, True]


def test_words_beside_the_marks_are_words_of_the_page_and_wide_drawings_scroll_on_a_phone() -> None:
    """A drawing as wide as a desk's screen, shrunk to a phone's, had letters of four pixels."""
    results = {"retrieval/text_to_video/R@5": 0.458, "retrieval/text_to_video/R@5_chance": 0.059}
    page = render_report(ReportInputs("run", results=results))
    assert "<svg" not in page and "<span>report → film: R@5</span>" in page
    assert 'aria-label="0.46, guessing 0.06"' in page and 'class="chance" style="left:5.9%"' in page
    narrow = re.search(r"@media screen and \(max-width: 720px\) \{.*", page)
    assert narrow and ".wide svg { min-width: 860px; }" in narrow[0] and ".wide { overflow-x: auto; }" in page
