"""What a verb leaves behind for people when it ends: the page, its twin to share, the tables of a paper, the model card."""

from collections.abc import Sequence
from pathlib import Path

from deepcoro.paper.model_card import write_model_card
from deepcoro.paper.sheets import write_tables
from deepcoro.report import keep_shown, read_inputs, write_page
from deepcoro.report_aggregates import aggregates_of, write_aggregates
from deepcoro.report_captions import CaptionExample
from deepcoro.report_examples import Example
from deepcoro.report_head_errors import HeadError


def write_pages(
    run_dir: Path,
    examples: Sequence[Example] | None = None,
    captions: Sequence[CaptionExample] | None = None,
    head_errors: Sequence[HeadError] | None = None,
) -> Path:
    """Writes report.html, report_aggregates.html, tables/ and model_card.md; returns the first. What is given is shown and kept; without it, what is kept."""
    keep_shown(run_dir, examples, captions, head_errors)
    inputs = read_inputs(run_dir)
    path = write_page(run_dir, inputs)
    write_aggregates(run_dir, inputs)
    write_tables(run_dir, aggregates_of(inputs))
    write_model_card(run_dir, inputs)
    return path
