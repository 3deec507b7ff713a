"""What the record of a run answers to the items of a reporting checklist; None where it does not know."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcoro.aggregates import FEWEST, shareable
from deepcoro.checkpoint import Checkpoint
from deepcoro.data.collection import Collection
from deepcoro.judged import listed
from deepcoro.lesion_pairs import FILE as LESION_PAIRS
from deepcoro.lesion_pairs import read_lesion_pairs
from deepcoro.objectives import linear_probing
from deepcoro.paper.model_card import (
    data_facts,
    groups_measured,
    imported_from,
    limits,
    model_facts,
    numbers_of,
    parameter_counts,
    start_of,
    training_facts,
)
from deepcoro.paper.siblings import runs_with_other_seeds
from deepcoro.report import failures_shown
from deepcoro.report_aggregates import too_few
from deepcoro.report_shortcuts import FILE as SHORTCUTS
from deepcoro.report_shortcuts import WORDS, read_shortcuts, shown_of
from deepcoro.run_config import RunConfig
from deepcoro.run_record import counts_of_split
from deepcoro.small_cells import told, told_units


@dataclass(frozen=True)
class Record:
    """Everything that a run and its shards remember."""

    run_dir: Path
    config: RunConfig
    tree: Mapping[str, Any]
    """The configuration as plain values, without places."""
    shards: Collection
    starts: Sequence[Mapping[str, Any]]
    """Entries of run_record.json."""
    history: Sequence[Mapping[str, Any]]
    documents: Sequence[Mapping[str, Any]]
    """results/*.json, the newest last."""
    fewest: int = FEWEST
    """Counts of fewer patients are not told."""


def answers(record: Record) -> dict[str, str | None]:
    """Topic -> what the record says."""
    return {
        **_of_the_data(record),
        **_of_the_model(record),
        **_of_the_results(record),
        "aims": (
            "development and evaluation of one model"
            if record.documents
            else "development of one model; nothing was evaluated"
        ),
        "flow": "exclusion_flow.svg, exclusion_flow.csv",
        "table_one": "table_1.csv, table_1.tex",
    }


def _of_the_data(record: Record) -> dict[str, str | None]:
    shards, config = record.shards, record.config
    manifests = [source.manifest for source in shards.sources.values()]
    labels = sorted({name for manifest in manifests for name in manifest.label_columns})
    rules = sorted({manifest.split_rule for manifest in manifests})
    alike = [manifest.duplicates for manifest in manifests if manifest.duplicates is not None]
    return {
        "sources": _joined(data_facts(shards.record())),
        "eligibility": (
            f"films that data.where lets pass: {shards.where}"
            if shards.where
            else "every film that could be read; rejected rows are in the flow"
        ),
        "preparation": (
            f"frames stored as {manifests[0].encoding.type}, shorter side up to {manifests[0].encoding.short_side_px} px; grey levels by the DICOM display pipeline; "
            f"{_frames(config)}"
        ),
        "outcome": (
            f"label columns {', '.join(labels)}; reports as texts (scope: {manifests[0].report_scope}); definitions are the authors' to give"
            if labels
            else None
        ),
        "predictors": f"the pixels of the films {_besides_pixels(record.tree)} ({_frames(config)})",
        "sample_size": "all films available; no calculation is recorded",
        "missing": "a label not assessed is left out of loss and metric, never taken as negative; counts stand beside each number",
        "partition": f"{_split_counts(record)}; rule: {', '.join(rules)}",
        "disjoint": (
            "patient: verified, no patient is in two splits"
            if shards.patient_split == "verified"
            else "unverifiable: some study names no patient"
        ),
        "deidentified": "keyed ids (HMAC-SHA256), allow-listed header values, texts scrubbed on request (tools/shard_dataset.py); no name, date or UID is in the shards",
        "imbalance": _imbalance(config),
        "sites": _sites(record),
        "bad_input": f"films that cannot be read are masked and counted; past {config.data.max_bad_fraction:.1%} of samples a run stops",
    } | (
        {
            "duplicates": f"{told(sum(each.across_splits for each in alike), record.fewest)} films look like one of another split"
        }
        if alike
        else {}
    )


def _of_the_model(record: Record) -> dict[str, str | None]:
    config, start = record.config, dict(record.starts[-1]) if record.starts else None
    origin = imported_from(record.run_dir)
    told = {
        "model": _joined(model_facts(record.tree, parameter_counts(record.run_dir), origin)),
        "training": _joined(
            [
                *training_facts(record.tree, {"starts": record.starts}, record.history),
                ("augmentation", _switched_on(record.tree.get("augment") or {})),
            ]
        ),
        "initialisation": _initialisation(record.tree),
        "selection": _selection(record),
        "ensemble": "none: one model",
        "prediction": f"one forward pass of the checkpoint; {_frames(config)}",
        "code": (
            f"deepcoro {start['deepcoro']}, commit {start.get('commit') or 'unknown'}; {', '.join(' '.join(each) for each in start['packages'].items())}"
            if start
            else None
        ),
    }
    # of a model that was trained elsewhere the config says how it is built, not how it was trained
    return told | dict.fromkeys(("training", "initialisation", "selection"), None) if origin else told


def _of_the_results(record: Record) -> dict[str, str | None]:
    measured = groups_measured(record.documents)
    told = [document for document in record.documents if not too_few(document.get("data_summary") or {})]
    numbers = [(document, shareable(numbers_of(document))) for document in told]
    families = sorted(
        {key.split("/")[0] for _, found in numbers for key in found} - {"by", "speed", "memory"}
    )
    intervals = any(key.endswith("_ci_low") for _, found in numbers for key in found)
    calibrated = any((record.run_dir / "calibration").glob("*.json"))
    shown = ", ".join(failures_shown(record.run_dir))
    events = [
        f"{document['split']} of {document['data']}: {key.removesuffix('/num_positive')} {found[key]:.0f} of {found[key.removesuffix('_positive')]:.0f}"
        for document, found in numbers
        for key in sorted(found)
        if key.endswith("/num_positive")
        and not key.startswith("by/")
        and not key.removesuffix("/num_positive").partition("=")[0].endswith(("/macro", "/micro"))
        and key.removesuffix("_positive") in found
    ]
    return {
        "metrics": (
            f"{', '.join(families)}; each beside chance and a control (docs/evaluation.md)"
            if families
            else None
        ),
        "uncertainty": "95 % percentile intervals of a bootstrap over patients" if intervals else None,
        "performance": f"tables/*.tex, tables/measures.csv ({len(numbers)} evaluations)" if numbers else None,
        "events": "; ".join(events) or None,
        "thresholds": "thresholds fixed on val, calibration/*.json" if calibrated else None,
        "fairness": (
            f"measured by {', '.join(sorted(measured))}; no step was taken beyond that" if measured else None
        ),
        "robustness": "; ".join(_robustness(record, measured)) or None,
        "failures": f"{shown} in report.html (films: not to be shared)" if shown else None,
        "explanations": (
            "explain/*.json, pictures in report.html" if _num_explained(record.run_dir) else None
        ),
        "limits": "; ".join(limits(record.documents, runs_with_other_seeds(record.run_dir))),
    }


def _sites(record: Record) -> str:
    names = list(record.shards.sources)
    others = sorted({str(document["data"]) for document in record.documents} - {record.shards.name})
    found = f"{len(names)} source(s) of training data: {', '.join(names)}"
    return found + (
        f"; evaluated on other data too: {', '.join(others)}"
        if others
        else "; no external data were evaluated"
    )


def _split_counts(record: Record) -> str:
    splits = {name: counts_of_split(record.shards, name) for name in record.shards.splits}
    return "; ".join(
        f"{name} " + ", ".join(f"{count} {unit}" for unit, count in told_units(counts, record.fewest).items() if count is not None)
        for name, counts in splits.items()
    )  # fmt: skip


def _imbalance(config: RunConfig) -> str:
    """Of the drawing of samples, then of the losses."""
    data = config.data
    drawn = f"balance={data.balance}" + (f" by {data.balance_by} (power {data.balance_power:g})" if data.balance_by else "")  # fmt: skip
    return "; ".join([drawn, *_weighed(config)])


def _weighed(config: RunConfig) -> Iterator[str]:
    """What the losses of heads do about rare classes, with the heads that it is done for."""
    heads: dict[str, list[str]] = {}
    for objective, block in config.objectives.items():
        for head in block.head_structure if isinstance(block, linear_probing.Config) else ():
            loss, weights = block.loss_of(head), block.class_weights.get(head)
            if loss.type == "focal":
                heads.setdefault(f"{objective}: focal loss (gamma {loss.gamma:g})", []).append(head)
            if weights is not None:
                heads.setdefault(f"{objective}: class_weights {_weights_told(weights)}", []).append(head)
    yield from (f"{what} of {len(names)} heads ({listed(names)})" for what, names in heads.items())
    if not heads:
        yield "no loss weighs classes"


def _weights_told(weights: Sequence[float] | str) -> str:
    return weights if isinstance(weights, str) else f"[{', '.join(f'{each:g}' for each in weights)}]"


def _selection(record: Record) -> str:
    """Which checkpoint each evaluation was of, and how that one was chosen."""
    evaluate = record.config.evaluate
    best, last = (_title(record.run_dir / "checkpoints", name) for name in ("best", "latest"))
    by_val = f"by {evaluate.best_metric} ({evaluate.best_metric_mode}) on the val split"
    evaluations: dict[str, list[str]] = {}
    for document in record.documents:
        about = f"{document['split']} of {document['data']}"
        evaluations.setdefault(str(document.get("checkpoint") or "a checkpoint not recorded"), []).append(
            about
        )
    told = []
    for checkpoint, about in evaluations.items():
        kinds = [
            words
            for words, title in ((f"the best {by_val}", best), ("the last", last))
            if title == checkpoint
        ]
        told.append(
            f"evaluated on {', '.join(about)}: {checkpoint}" + (f", {' and '.join(kinds)}" if kinds else "")
        )
    if best is None:
        told.append("none was named the best on the val split")
    elif best not in evaluations:
        told.append(f"the best {by_val} is {best}")
    return "; ".join(told if evaluations else ["nothing was evaluated", *told])


def _title(folder: Path, pointer: str) -> str | None:
    """The checkpoint that `best` or `latest` names; None where there is none."""
    path = folder / pointer
    saved = Checkpoint(folder / path.read_text()) if path.is_file() else None
    return saved.title() if saved is not None and saved.folder.is_dir() else None


def _robustness(record: Record, measured: set[str]) -> Iterator[str]:
    """Groups, then what was measured beside the evaluation."""
    if measured:
        yield f"subgroups: {', '.join(sorted(measured))}"
    shown_less = read_shortcuts(record.run_dir)
    if shown_less is not None:
        less = ", ".join(WORDS[name] for name in shown_of(shown_less) if name != "whole")
        of = f" of {shown_less.checkpoint}" if shown_less.checkpoint else ""
        yield f"the {shown_less.split} split{of} with less to see ({less}): {SHORTCUTS}"
    if pairs := read_lesion_pairs(record.run_dir):
        of = "; ".join(each.title() for each in pairs)
        yield f"generated scenes filmed with and without a lesion ({of}): {LESION_PAIRS}"
    if explained := _num_explained(record.run_dir):
        yield f"films blurred where the model looks and at random, {explained} scores: explain/*.json"


def _num_explained(run_dir: Path) -> int:
    return len(list((run_dir / "explain").glob("*.json")))


def _besides_pixels(tree: Mapping[str, Any]) -> str:
    pooler = tree.get("pooler") or {}
    if pooler.get("view_embedding"):
        return "and the two angles of the C-arm, as the header of each film has them, or else the usual ones of its view word"
    return "alone"


def _initialisation(tree: Mapping[str, Any]) -> str:
    """Tower by tower where one starts from more than chance."""
    starts = {name: start_of(tower) for name, tower in (tree.get("towers") or {}).items() if tower}
    told = [f"the {name} tower from {start}" for name, start in starts.items() if start != "random weights"]
    return "; ".join([*told, "the rest at random"]) if told else "at random"


def _frames(config: RunConfig) -> str:
    field = config.data.fields["video"]
    return f"{field.frames} frames of {field.size_px} px a film"


def _switched_on(tree: Mapping[str, Any]) -> str:
    chosen = [f"{key} {value}" for key, value in tree.items() if value]
    return ", ".join(chosen) or "none"


def _joined(facts: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> str | None:
    return "; ".join(f"{key}: {value}" for key, value in facts) or None
