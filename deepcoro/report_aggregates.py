"""The page of a run without films, texts of reports, rows or small counts: the twin of `report.html` that may be shown outside."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deepcoro import atomic
from deepcoro.aggregates import FEWEST, is_small, shareable
from deepcoro.report import ReportInputs, render_report
from deepcoro.report_shortcuts import baselines_beside
from deepcoro.small_cells import Told, told_summary

PAGE = "report_aggregates.html"
_PLACES = frozenset({"run_dir", "shards", "tables", "cache", "weights", "texts", "edges", "storage"})
"""Keys of the configuration that name places of a machine."""
_ACCOUNTS = frozenset({"wandb_entity", "wandb_project"})
_PLACE_MARKS = ("/", "~", "./", "../")
_HIDDEN = "…"


def write_aggregates(run_dir: Path, inputs: ReportInputs) -> Path:
    """Writes `report_aggregates.html` whole; returns its path."""
    path = run_dir / PAGE
    atomic.write_text(path, render_report(aggregates_of(inputs)))
    return path


def aggregates_of(inputs: ReportInputs) -> ReportInputs:
    """Only what is listed here is kept: what a later version adds to the page stays at home until somebody has thought about it."""
    few = too_few(inputs.data_summary)
    results = {} if few else shareable(inputs.results)
    notes = [note for note in inputs.notes if not any(letter.isdigit() for letter in note)]
    if len(notes) < len(inputs.notes):
        notes.append("Notes with numbers in them are left out here; report.html has them.")
    if few:
        notes.append(f"Fewer than {FEWEST} patients were evaluated: no number is shown here.")
    return ReportInputs(
        run_name=inputs.run_name,
        data=inputs.data,
        split=inputs.split,
        checkpoint=inputs.checkpoint,
        created=inputs.created,
        commit=inputs.commit,
        patient_split=inputs.patient_split,
        results=results,
        history=[{"step": line.get("step"), **shareable(_without_step(line))} for line in inputs.history],
        config_text=without_places(inputs.config_text),
        unit=inputs.unit,
        strata=inputs.strata,
        positives=inputs.positives,
        scored=[each for each in inputs.scored if f"{each.family}/auroc" in results],
        baselines=baselines_beside(inputs.baselines, results),
        data_summary=summary_told((inputs.documents or [{"data_summary": inputs.data_summary}])[-1]),
        times_computed=inputs.times_computed,
        notes=notes,
        aggregates_only=True,
    )


def too_few(data_summary: Mapping[str, object]) -> bool:
    """Whether all results of an evaluation together rest on too few patients (studies, where the data name no patients)."""
    counted = [data_summary.get(name) for name in ("patients", "studies")]
    counted = [value for value in counted if isinstance(value, int | float)]
    return bool(counted) and is_small(counted[0])


def summary_told(document: Mapping[str, Any]) -> dict[str, object]:
    """What may leave of the counts and words of an evaluation (results/*.json)."""
    of_split = ((document.get("data_record") or {}).get("splits") or {}).get(document.get("split")) or {}
    told = told_summary(document.get("data_summary") or {}, of_split)
    return {
        name: each if not isinstance(each, Told) else each.low if each.is_exact else str(each)
        for name, each in told.items()
    }


def without_places(config_text: str) -> str:
    """The configuration without folders, files, addresses and accounts; comments go as well."""
    tree = yaml.safe_load(config_text) if config_text else None
    return yaml.safe_dump(_without_places(tree), sort_keys=False, width=110) if tree else ""


def _without_places(tree: Any, key: str = "") -> Any:
    if isinstance(tree, dict):
        return {name: _without_places(value, str(name)) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_without_places(value, key) for value in tree]
    names_a_place = isinstance(tree, str) and (
        key in _PLACES | _ACCOUNTS or tree.startswith(_PLACE_MARKS) or "://" in tree or "\\" in tree
    )
    return _HIDDEN if names_a_place else tree


def _without_step(line: Mapping) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "step"}
