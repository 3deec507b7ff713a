"""What the record of a run answers to the items of a reporting checklist; None where it does not know."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcoro.aggregates import shareable
from deepcoro.data.collection import Collection
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
from deepcoro.run_config import RunConfig


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
        "partition": f"{_split_counts(shards)}; rule: {', '.join(rules)}",
        "disjoint": (
            "patient: verified, no patient is in two splits"
            if shards.patient_split == "verified"
            else "unverifiable: some study names no patient"
        ),
        "deidentified": "keyed ids (HMAC-SHA256), allow-listed header values, texts scrubbed on request (tools/shard_dataset.py); no name, date or UID is in the shards",
        "imbalance": f"balance={config.data.balance}"
        + (f" by {config.data.balance_by}" if config.data.balance_by else ""),
        "sites": _sites(record),
        "bad_input": f"films that cannot be read are masked and counted; past {config.data.max_bad_fraction:.1%} of samples a run stops",
    } | (
        {"duplicates": f"{sum(each.across_splits for each in alike)} films look like one of another split"}
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
        "selection": (
            f"the checkpoint with the best {config.evaluate.best_metric} ({config.evaluate.best_metric_mode}) on the val split"
            if "val" in record.shards.splits
            else "the last checkpoint; there is no val split"
        ),
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
        "robustness": f"subgroups: {', '.join(sorted(measured))}" if measured else None,
        "failures": f"{shown} in report.html (films: not to be shared)" if shown else None,
        "explanations": (
            "explain/*.json, pictures in report.html" if (record.run_dir / "explain").is_dir() else None
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


def _split_counts(shards: Collection) -> str:
    counts = shards.record()["splits"]
    return ", ".join(
        f"{name} {each['studies']} studies and {each['films']} films" for name, each in counts.items()
    )


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
