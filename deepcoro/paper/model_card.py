"""`model_card.md` of a run folder: what the model is, whom it saw, what was measured and what nobody measured. Sections after Mitchell et al.
2019, arXiv:1810.03993. Written from the run's own record; what that does not say stands under "Not known"."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deepcoro import atomic, report_tables
from deepcoro.aggregates import FEWEST, shareable
from deepcoro.page import render_page
from deepcoro.paper.sheets import Sheet, sheets
from deepcoro.paper.siblings import runs_with_other_seeds
from deepcoro.report import ReportInputs
from deepcoro.report_aggregates import summary_told, too_few, without_places
from deepcoro.report_shortcuts import is_of, not_above_baselines
from deepcoro.run_record import read_record
from deepcoro.small_cells import told, told_units
from deepcoro.weights import FILE, STATE, weights_file

CARD = "model_card.md"
_PEOPLE = ("sex", "age", "age_group", "ethnicity", "race")
"""Columns of `evaluate.by` that say whether a model serves some people less well."""

Fact = tuple[str, str]


@dataclass(frozen=True)
class Evaluation:
    """One results document, as the card tells it; numbers that rest on few are left out."""

    title: str
    facts: Sequence[Fact]
    tables: Sequence[Sheet]
    cautions: Sequence[str]


def write_model_card(run_dir: Path, inputs: ReportInputs) -> Path:
    """Writes the card whole; returns its path. `inputs` are those of the run's page, of which strata and class words are taken."""
    path = run_dir / CARD
    atomic.write_text(path, render_model_card(run_dir, inputs))
    return path


def render_model_card(run_dir: Path, inputs: ReportInputs) -> str:
    config = yaml.safe_load(without_places(inputs.config_text)) if inputs.config_text else {}
    record, documents = read_record(run_dir), inputs.documents
    origin = imported_from(run_dir)
    return render_page(
        CARD,
        {"plain": plain},
        name=inputs.run_name,
        model=model_facts(config, parameter_counts(run_dir), origin),
        data=data_facts(_json(run_dir / "data.json")),
        splits={name: told_units(counts) for name, counts in record.get("splits", {}).items()},
        training=(
            [("trained", f"with {origin}; nothing of that is recorded here")]
            if origin
            else training_facts(config, record, inputs.history)
        ),
        evaluations=[_evaluation(document, inputs) for document in documents],
        limits=list(limits(documents, runs_with_other_seeds(run_dir), inputs.shortcuts is not None)),
        unknown=list(unknown(config, record, documents, origin)),
    )


def imported_from(run_dir: Path) -> str | None:
    """The trainer that the model of a run folder comes from, where `tools/import_checkpoint.py` wrote it; None for a run of ours."""
    file = _checkpoint_file(run_dir)
    return _json(file.with_name(STATE)).get("imported", {}).get("imported_from") if file else None


def _checkpoint_file(run_dir: Path) -> Path | None:
    """Weights of the best (else newest) checkpoint of a run folder; None without one."""
    if not any((run_dir / "checkpoints" / pointer).is_file() for pointer in ("best", "latest")):
        return None
    file = weights_file(run_dir)
    return file if file.name == FILE and file.is_file() else None


def plain(value: object) -> str:
    """A word of the run inside Markdown: no markup of its own, one line."""
    words = " ".join(str(value).split())
    for letter in "\\`*_[]<>|":
        words = words.replace(
            letter, f"\\{letter}" if letter not in "<>" else {"<": "&lt;", ">": "&gt;"}[letter]
        )
    return words


def model_facts(
    config: Mapping[str, Any], parameters: Mapping[str, int], origin: str | None = None
) -> Iterator[Fact]:
    """Architecture and size. `origin`: as `imported_from` says."""
    towers, video = config.get("towers") or {}, _field(config, "video")
    for name, tower in towers.items():
        if tower:
            chosen = [tower.get(key) for key in ("type", "variant", "model") if tower.get(key)]
            frozen = tower.get(f"{name}_freeze_ratio") or 0
            yield f"{name} tower", f"{', '.join(map(str, chosen))}; from {start_of(tower, origin)}; {frozen:.0%} frozen"
    if video:
        yield "input", f"{video.get('frames')} frames of {video.get('size_px')} px a film"
    pooler = (config.get("pooler") or {}).get("type")
    if pooler and (config.get("data") or {}).get("multi_video"):
        yield "films of a study", f"up to {config['data'].get('num_videos')}, pooled by {pooler}"
    for name, objective in (config.get("objectives") or {}).items():
        weight = (config.get("loss_weights") or {}).get(name, 1)
        yield f"objective {name}", f"{(objective or {}).get('type', name)}, weight {weight}"
    if parameters:
        parts = ", ".join(f"{name} {count:,}" for name, count in parameters.items())
        yield "parameters", f"{sum(parameters.values()):,} ({parts})"


def start_of(tower: Mapping[str, Any], origin: str | None = None) -> str:
    """The weights that a tower had before the first step; of an imported model, which made no step here, those that it has."""
    if origin:
        return f"weights that {origin} trained"
    if tower.get("weights"):
        return "weights it was given"
    if tower.get("type") != "text_hf" or tower.get("from_scratch"):
        return "random weights"
    if tower.get("architecture"):
        return "weights that came from elsewhere"
    return f"the pretrained weights of {tower.get('model')}"


def parameter_counts(run_dir: Path) -> dict[str, int]:
    """Parameters by tower, pooler and objective, from the headers of the best (else newest) checkpoint; {} without one."""
    file = _checkpoint_file(run_dir)
    if file is None:
        return {}
    from safetensors import safe_open

    counts: dict[str, int] = {}
    with safe_open(file, "pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - not a mapping
            parts = name.split(".")
            if parts[0] in ("towers", "objectives", "pooler"):
                part = parts[0] if parts[0] == "pooler" else parts[1]
                counts[part] = counts.get(part, 0) + math.prod(weights.get_slice(name).get_shape())
    return counts


def data_facts(record: Mapping[str, Any]) -> Iterator[Fact]:
    """Sources and what was laid over them."""
    for name, source in (record.get("sources") or {}).items():
        yield f"source {name}", f"fingerprint {source.get('fingerprint', '')[:16]}"
    if record.get("where"):
        yield "films kept", record["where"]
    if record.get("tables"):
        yield "newer tables", f"{len(record['tables'])}"
    if record.get("fingerprint"):
        yield "fingerprint of the run's data", record["fingerprint"][:16]


def training_facts(
    config: Mapping[str, Any], record: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> Iterator[Fact]:
    """How it was trained, with which code on which machine."""
    losses = [line for line in history if "train/loss" in line]
    if losses:
        yield "optimiser steps", f"{losses[-1].get('step')}"
        yield "training loss, first and last logged", f"{losses[0]['train/loss']:.4g}, {losses[-1]['train/loss']:.4g}"
    optim = config.get("optim") or {}
    if optim.get("lr"):
        yield "optimiser", f"AdamW, peak learning rate {optim['lr']:g}, weight decay {optim.get('weight_decay')}"
    for key in ("precision", "seed"):
        if key in config:
            yield key, str(config[key])
    for start in record.get("starts", [])[-1:]:
        for split, columns in (start.get("conflicting_labels") or {}).items():
            counts = [f"{name} {told(count)}" for name, count in columns.items()]
            means = _field(config, "labels").get("conflict")
            yield f"studies of {split} whose films disagree on a label (conflict: {means})", ", ".join(counts)
        yield "global batch", str(start.get("global_batch"))
        yield "code", f"deepcoro {start['deepcoro']}, commit {start.get('commit') or 'unknown'}"
        yield "machine", f"{start['processes']} process(es), {start.get('device', 'unknown')}, {start.get('engine', 'unknown')}"
        yield "software", ", ".join(f"{name} {version}" for name, version in start["packages"].items())
        yield "starts", f"{len(record['starts'])}, the last one {start['started']}"


def _evaluation(document: Mapping[str, Any], inputs: ReportInputs) -> Evaluation:
    results = {} if too_few(document.get("data_summary") or {}) else shareable(numbers_of(document))
    counts = ", ".join(f"{count} {name}" for name, count in summary_told(document).items())
    facts = [
        ("checkpoint", str(document.get("checkpoint", "unknown"))),
        ("computed", f"{document.get('created', 'unknown')}, commit {document.get('commit') or 'unknown'}"),
        ("evaluated on", counts or "unknown"),
        ("patients shared with training", str(document.get("patient_overlap", "unknown"))),
        ("times this split was evaluated in this run", str(document.get("times_computed", "unknown"))),
    ]
    tables = list(sheets(results, inputs.strata, inputs.positives, inputs.unit))
    cautions = report_tables.warnings(results, document.get("patient_split") != "unverifiable")
    if inputs.shortcuts is not None and is_of(inputs.shortcuts, document):
        cautions += not_above_baselines(inputs.shortcuts, results)
    if too_few(document.get("data_summary") or {}):
        cautions = [f"Fewer than {FEWEST} patients: numbers are left out of this card.", *cautions]
    return Evaluation(f"{document.get('split')} split of {document.get('data')}", facts, tables, cautions)


def limits(
    documents: Sequence[Mapping[str, Any]], other_seeds: Sequence[str], has_baselines: bool = False
) -> Iterator[str]:
    """What the record itself says against trusting the numbers. `other_seeds`: runs that differ in the seed alone; `has_baselines`: what is
    left on a still frame and without films was measured.
    """
    if not documents:
        yield "Nothing was measured: no split has been evaluated."
    elif not any(document.get("split") == "test" for document in documents):
        yield "Measured on the validation split alone, by which the checkpoint may have been chosen: expect less on new patients."
    if any(document.get("patient_split") == "unverifiable" for document in documents):
        yield "Patient split unverifiable: the data name no patients, so one may be in training and in the split measured."
    if any(document.get("patient_overlap") == "unknown" for document in documents):
        yield "It is not known whether patients of the evaluation were in the training data of this model or of the weights it started from."
    again = [
        document
        for document in documents
        if document.get("split") == "test" and document.get("times_computed", 1) > 1
    ]
    for document in again:
        yield f"The test split of {document['data']} was evaluated {document['times_computed']} times; choices made in between make its numbers too good."
    if documents and len({document.get("data") for document in documents}) == 1:
        yield "One data set alone was evaluated: nothing is known of other hospitals, devices or protocols."
    groups = groups_measured(documents)
    if documents and not groups & set(_PEOPLE):
        yield "Not measured by sex or age: whether it serves everybody equally well is not known (evaluate.by=[sex, ...])."
    if documents and other_seeds:
        yield f"Numbers of one seed of {len(other_seeds) + 1}; the other runs ({', '.join(other_seeds)}) have others (tools/compare_runs.py)."
    elif documents:
        yield "One training run with one seed: another seed gives other numbers (tools/ablate.py --seeds 3)."
    if documents and not has_baselines:
        yield "Not measured on a still frame and without films: how much of the numbers films and their motion earn is not known (tools/shortcuts.py)."
    yield "Scores are no calibrated risks unless a calibration is shown above."


def unknown(
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    documents: Sequence[Mapping[str, Any]],
    origin: str | None = None,
) -> Iterator[str]:
    """What a reader would want to know and the record does not tell."""
    yield "Where and when the films were taken, and with which consent or waiver."
    yield "Who wrote the reports or labels, with which training, and how far readers agree."
    if not groups_measured(documents) & {"vendor", "manufacturer"}:
        yield "How the numbers differ between makers of X-ray systems."
    starts = [start_of(tower, origin) for tower in (config.get("towers") or {}).values() if tower]
    if any(start != "random weights" for start in starts):
        yield "Whom the weights it started from were trained on, beyond what their own record says."
    if origin:
        yield "On whom, on what machine and how it was trained, and how its checkpoint was chosen."
    elif not record:
        yield "On what machine and with which code it was trained: the run is older than its record."


def groups_measured(documents: Sequence[Mapping[str, Any]]) -> set[str]:
    """Columns that numbers were measured by."""
    keys = [key for document in documents for key in document.get("metrics") or {} if key.startswith("by/")]
    return {key.split("/")[1].split("=")[0] for key in keys}


def _field(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return ((config.get("data") or {}).get("fields") or {}).get(name) or {}


def numbers_of(document: Mapping[str, Any]) -> dict[str, float]:
    """The flat metrics of a results document."""
    found = document.get("metrics") or {}
    return {key: float(value) for key, value in found.items() if isinstance(value, int | float)}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
