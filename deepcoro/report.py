"""The page a run leaves behind: what was measured, beside chance and a control, with films to look at. One file, no network.

`write_report(run_dir)` reads the run folder; `render_report(ReportInputs(...))` is the same without a folder. What is not
there is left out and said. Of the document `results/{data}_{split}.json` these keys are read, all optional: `metrics` (flat),
`data`, `split`, `checkpoint`, `created`, `commit`, `patient_split`, `data_summary` (name -> number or text), `notes` (list),
`times_computed`, `patient_overlap` (`none` or `unknown`).
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydantic
import yaml

from deepcoro import atomic, report_captions, report_figures, report_groups, report_heads, report_tables
from deepcoro.evaluated import Followed
from deepcoro.metrics import zero_shot
from deepcoro.page import render_page
from deepcoro.report_captions import CaptionExample
from deepcoro.report_confusions import confusion_figures
from deepcoro.report_costs import costs
from deepcoro.report_examples import Example
from deepcoro.report_explanations import Explanation, drawn, read_checks, read_explanations
from deepcoro.report_figures import Curve, Scored
from deepcoro.report_head_errors import HeadError
from deepcoro.report_head_figures import head_figures
from deepcoro.report_intervals import interval_rows
from deepcoro.report_reconstructions import Picture, read_pictures, reconstruction_rows
from deepcoro.report_shortcuts import Shortcuts, baselines, how_to_measure, read_shortcuts, shortcut_table
from deepcoro.report_sites import read_sites, site_table
from deepcoro.report_survival import survival_figures
from deepcoro.scored import Answer, ScoredRows, read_scored, scored_path

EXAMPLES_FILE = "report_examples.json"
"""Examples of the last evaluation; they hold films, like the report."""
CAPTIONS_FILE = "report_captions.json"
"""Its generated reports."""
HEAD_ERRORS_FILE = "report_head_errors.json"
"""What its heads got most wrong."""

_EXAMPLES = pydantic.TypeAdapter(list[Example])
_CAPTIONS = pydantic.TypeAdapter(list[CaptionExample])
_HEAD_ERRORS = pydantic.TypeAdapter(list[HeadError])


@dataclass(frozen=True)
class ReportInputs:
    """Everything the page shows. Only the name is required."""

    run_name: str
    data: str | None = None
    split: str | None = None
    checkpoint: str | None = None
    created: str | None = None
    """When the numbers were computed, as printed."""
    commit: str | None = None
    patient_split: str | None = None
    """`verified`, `unverifiable`, or None where there is no result."""
    results: Mapping[str, float] = field(default_factory=dict)
    """Flat metrics (results.json)."""
    history: Sequence[Mapping] = ()
    """Lines of metrics.jsonl."""
    config_text: str = ""
    unit: str = "films"
    """What rows of the evaluation are: films, or studies."""
    strata: Sequence[str] = ()
    """Labels that bound the search within strata."""
    positives: Mapping[str, str] = field(default_factory=dict)
    """Zero-shot task -> class that a high score speaks for."""
    examples: Sequence[Example] = ()
    captions: Sequence[CaptionExample] = ()
    """Generated reports to read."""
    head_errors: Sequence[HeadError] = ()
    """Films about which heads were most wrong."""
    reconstructions: Sequence[Picture] = ()
    """Films with hidden parts, guessed."""
    explanations: Sequence[Explanation] = ()
    """Films with maps of where the model looks."""
    explanation_checks: Sequence[str] = ()
    """What hiding the parts that maps name did to the scores."""
    shortcuts: Shortcuts | None = None
    """The same evaluation with less to see."""
    baselines: Mapping[str, float] = field(default_factory=dict)
    """What stands beside `results` with less to see, under their names with a suffix of `report_tables.BASELINES`."""
    shortcuts_missing: str | None = None
    """How to get the baselines where there are none."""
    scored: Sequence[Scored] = ()
    """Zero-shot scores and truth, for the curves."""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """What heads said of each row, for the curves."""
    followed: Mapping[str, Followed] = field(default_factory=dict)
    """Times to events, for the curves."""
    documents: Sequence[Mapping] = ()
    """Results of all evaluations of the run, the newest last."""
    sites: Sequence[Mapping] = ()
    """What other hospitals measured of the run."""
    data_summary: Mapping[str, object] = field(default_factory=dict)
    has_positives_page: bool = False
    """positives.html lies beside the report."""
    times_computed: int | None = None
    notes: Sequence[str] = ()
    """What the evaluation left out, and why."""
    aggregates_only: bool = False
    """The page is the one to share: it draws nothing of which a film can be told."""


def write_report(
    run_dir: Path,
    examples: Sequence[Example] | None = None,
    captions: Sequence[CaptionExample] | None = None,
) -> Path:
    """Writes `report.html` whole or not at all, with these examples and captions or, without them, those of the last evaluation.

    Returns the page's path.
    """
    keep_shown(run_dir, examples, captions)
    return write_page(run_dir, read_inputs(run_dir))


def keep_shown(
    run_dir: Path,
    examples: Sequence[Example] | None,
    captions: Sequence[CaptionExample] | None,
    head_errors: Sequence[HeadError] | None = None,
) -> None:
    """Keeps what an evaluation shows of films, so that the page can be made again; None = what is kept stays."""
    if examples is not None:
        atomic.write_text(run_dir / EXAMPLES_FILE, _EXAMPLES.dump_json(list(examples)).decode())
    if captions is not None:
        atomic.write_text(run_dir / CAPTIONS_FILE, _CAPTIONS.dump_json(list(captions)).decode())
    if head_errors is not None:
        atomic.write_text(run_dir / HEAD_ERRORS_FILE, _HEAD_ERRORS.dump_json(list(head_errors)).decode())


def failures_shown(run_dir: Path) -> list[str]:
    """Which failures the page of the run shows, as its evaluation had some to show."""
    kept = {
        "the worst searches": EXAMPLES_FILE,
        "the worst generated reports": CAPTIONS_FILE,
        "the worst errors of heads": HEAD_ERRORS_FILE,
    }
    return [words for words, file in kept.items() if json.loads(_text(run_dir / file) or "[]")]


def write_page(run_dir: Path, inputs: ReportInputs) -> Path:
    """Writes `report.html` of what was read; returns its path."""
    path = run_dir / "report.html"
    atomic.write_text(path, render_report(inputs))
    return path


def read_inputs(run_dir: Path) -> ReportInputs:
    """What the run folder holds, however little."""
    documents = result_documents(run_dir)
    document = (documents or [{}])[-1]
    config_text = _text(run_dir / "config.yaml")
    config = yaml.safe_load(config_text) or {}
    measured = _metrics_of(config)
    metric = zero_shot.Config.model_validate(measured.get("zero_shot", {})).build()
    examples = _text(run_dir / EXAMPLES_FILE)
    results = _numbers(json.loads(_text(run_dir / "results.json") or "{}") or document.get("metrics", {}))
    rows = _read_rows(run_dir, document)
    shortcuts = read_shortcuts(run_dir)
    return ReportInputs(
        run_name=run_dir.resolve().name,
        data=document.get("data"),
        split=document.get("split"),
        checkpoint=document.get("checkpoint"),
        created=document.get("created"),
        commit=document.get("commit"),
        patient_split=document.get("patient_split"),
        results=results,
        history=[json.loads(line) for line in _text(run_dir / "metrics.jsonl").splitlines() if line.strip()],
        config_text=config_text,
        unit="studies" if (config.get("data") or {}).get("multi_video") else "films",
        strata=measured.get("retrieval", {}).get("strata") or [],
        positives={name: task.positive for name, task in metric.config.tasks.items()},
        examples=_EXAMPLES.validate_json(examples) if examples else [],
        captions=_CAPTIONS.validate_json(_text(run_dir / CAPTIONS_FILE) or "[]"),
        head_errors=_HEAD_ERRORS.validate_json(_text(run_dir / HEAD_ERRORS_FILE) or "[]"),
        reconstructions=read_pictures(run_dir),
        explanations=read_explanations(run_dir),
        explanation_checks=read_checks(run_dir),
        shortcuts=shortcuts,
        baselines=baselines(shortcuts, document),
        shortcuts_missing=how_to_measure(shortcuts, document),
        scored=_read_scores(run_dir, document, metric),
        answers=rows.answers,
        followed=rows.followed,
        documents=documents,
        sites=read_sites(run_dir),
        data_summary=document.get("data_summary") or {},
        has_positives_page=(run_dir / "positives.html").is_file(),
        times_computed=document.get("times_computed"),
        notes=[*(document.get("notes") or []), *_overlap_notes(document)],
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def result_documents(run_dir: Path) -> list[dict]:
    """Those of all evaluations, the newest last."""
    files = sorted((run_dir / "results").glob("*.json"), key=lambda file: file.stat().st_mtime)
    documents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return [document for document in documents if isinstance(document, dict) and "split" in document]


def _overlap_notes(document: Mapping) -> list[str]:
    if document.get("patient_overlap") != "unknown":
        return []
    return [
        "Overlap unknown: the checkpoint (or the weights it started from) does not say which patients it was trained on, the data"
        " name none, or the ids of the two were keyed with different secrets."
    ]


def _numbers(tree: Mapping) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in tree.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _metrics_of(config: dict) -> dict[str, dict]:
    evaluate = config.get("evaluate") or {}
    return {name: block for name, block in (evaluate.get("metrics") or {}).items() if isinstance(block, dict)}


def _read_scores(run_dir: Path, document: Mapping, metric: zero_shot.ZeroShot) -> list[Scored]:
    """Scores of the predictions table against its labels, for the tasks that both classes were seen of."""
    path = run_dir / "predictions" / f"{document.get('data')}_{document.get('split')}.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [_scored(rows, name, metric) for name in metric.config.tasks]
    return [scored for scored in found if len(np.unique(scored.positive)) == 2]


def _read_rows(run_dir: Path, document: Mapping) -> ScoredRows:
    path = scored_path(run_dir, str(document.get("data")), str(document.get("split")))
    return read_scored(path) if path.is_file() else ScoredRows((), (), {})


def _scored(rows: Sequence[Mapping[str, str]], name: str, metric: zero_shot.ZeroShot) -> Scored:
    task = metric.config.tasks[name]
    score, label = f"zero_shot_{name}_score", f"label_{task.label}"
    rows = [row for row in rows if row.get(score)]
    truth = metric.truth(name, [row.get(label) for row in rows])
    scores = np.array([float(row[score]) for row in rows])
    word = report_tables.positive_word(name, {name: task.positive})
    title = report_tables.TASK_WORDS.get(name, name)
    kept = ~np.isnan(truth)
    return Scored(title, scores[kept], truth[kept] == 1, word, f"not {word}", f"zero_shot/{name}")


def render_report(inputs: ReportInputs) -> str:
    """The page as one HTML text; every string of the run is escaped."""
    results = inputs.results | inputs.baselines
    return render_page(
        "report.html",
        inputs=inputs,
        created=inputs.created or datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        warnings=_warnings(inputs),
        cards=[
            *report_tables.cards(results, inputs.strata, inputs.positives),
            *report_captions.caption_cards(results),
        ],
        tables=report_tables.tables(results, inputs.strata, inputs.positives),
        group_tables=report_groups.group_tables(inputs.results, inputs.unit),
        head_tables=report_heads.head_tables(results),
        head_figures=[
            *head_figures(inputs.answers),
            *confusion_figures(inputs.answers),
            *survival_figures(inputs.followed),
        ],
        site_table=site_table(inputs.documents, inputs.sites),
        intervals=interval_rows(report_tables.measures(inputs.results, inputs.strata)),
        score_figures=_score_figures(inputs.scored, inputs.aggregates_only),
        training_figures=training_figures(inputs.history),
        costs=costs(inputs.history),
        reconstructions=inputs.reconstructions,
        reconstruction_rows=reconstruction_rows(inputs.results),
        explanations=drawn(inputs.explanations),
        shortcuts=shortcut_table(inputs.shortcuts),
        forward=[example for example in inputs.examples if example.direction == "text_to_video"],
        backward=[example for example in inputs.examples if example.direction == "video_to_text"],
        caption_tables=report_captions.caption_tables(results),
        segment_rows=report_captions.segment_rows(inputs.results),
        holds_films=bool(inputs.reconstructions or inputs.explanations)
        or any(_has_film(example) for example in (*inputs.examples, *inputs.captions, *inputs.head_errors)),
        timings={
            key: value for key, value in inputs.results.items() if key.startswith(("speed/", "memory/"))
        },
    )


def _has_film(example: Example | CaptionExample | HeadError) -> bool:
    return bool(example.strip) or any(each.strip for each in getattr(example, "candidates", ()))


def _score_figures(scored: Sequence[Scored], aggregates_only: bool) -> list[str]:
    if not scored:
        return []
    curves = [report_figures.roc_figure(scored)]
    return curves if aggregates_only else [*curves, report_figures.histogram_figure(scored)]


def _warnings(inputs: ReportInputs) -> list[str]:
    found = []
    if not inputs.results and not (inputs.aggregates_only and inputs.split):
        found.append("There are no results yet: this run has not been evaluated.")
    if inputs.history and not any(key.startswith("val/") for line in inputs.history for key in line):
        found.append("Nothing was measured on a validation split during training.")
    lost = [line for line in inputs.history if line.get("data/bad_samples")]
    if lost:
        found.append(
            f"{lost[-1]['data/bad_samples']:.0f} samples ({lost[-1]['data/bad_fraction']:.2%}) could not be read in training and "
            "were masked; damaged_samples.csv in the run folder names them."
        )
    if inputs.split != "val" and (inputs.times_computed or 0) > 1:
        found.append(
            f"This split has been evaluated {inputs.times_computed} times in this run; a choice made after looking "
            "makes the numbers too good."
        )
    named = inputs.patient_split != "unverifiable"
    return found + report_tables.warnings(inputs.results, named) + list(inputs.notes)


def training_figures(history: Sequence[Mapping]) -> list[str]:
    """Loss, learning rate, throughput and validation over optimiser steps; what was never logged is left out."""
    keys = list(dict.fromkeys(key for line in history for key in line))
    losses = [key for key in keys if key.startswith(("train/", "val/")) and key.rsplit("/", 1)[-1] == "loss"]
    rates = [key for key in keys if key == "lr" or key.startswith("lr/")]
    parts = [key for key in losses if key.count("/") > 1]
    if len(parts) == 1 and "train/loss" in losses:  # one objective: its loss is the loss
        losses.remove(parts[0])
    speeds = [key for key in keys if key.startswith("speed/")]
    speeds = sorted(speeds, key=lambda key: not key.endswith("_per_s"))[:2]
    recall = "val/retrieval/text_to_video/R@5"
    scores = [key for key in (recall, f"{recall}_chance") if key in keys]
    lesions = "val/clinical_findings/lesion/f1"
    said = [key for key in (lesions, f"{lesions}_nearest") if key in keys]
    groups = [
        ("Loss", losses[:5]),
        ("Retrieval on the validation split", scores),
        ("Lesions in generated reports on the validation split, F1", said),
        ("Learning rate", rates[:5]),
    ]
    groups += [(key.removeprefix("speed/").replace("_", " "), [key]) for key in speeds]
    drawn = [(title, [_curve(history, key) for key in names]) for title, names in groups if names]
    return [
        report_figures.curve_figure(curves, title, smoothed=title != "Learning rate")
        for title, curves in drawn
    ]


def _curve(history: Sequence[Mapping], key: str) -> Curve:
    points = [(float(line["step"]), float(line[key])) for line in history if _is_number(line.get(key))]
    label = (
        key.replace("/loss", "")
        .replace("val/retrieval/text_to_video/", "report → film ")
        .replace("_chance", " by chance")
        .replace("val/clinical_findings/lesion/f1", "generated")
        .replace("generated_nearest", "nearest training report")
    )
    return Curve(label, [step for step, _ in points], [value for _, value in points])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
