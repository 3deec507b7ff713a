"""The verbs `val` and `test`: a checkpoint over a split, metrics with intervals and controls, predictions, an HTML report."""

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from deepcoro import atomic, checkpoint, distributed
from deepcoro.build import Parts, build_metrics, build_model, build_parts
from deepcoro.calibrated import Calibration, read_calibration, write_calibration
from deepcoro.config import ConfigError
from deepcoro.data.label_values import CONFLICT_MEANS
from deepcoro.data.units import Units
from deepcoro.embed import Wanted, embed_split
from deepcoro.engine import start_accelerator
from deepcoro.evaluated import Evaluated, Measurement
from deepcoro.groups import LEAKS, measure_groups
from deepcoro.head_columns import head_columns
from deepcoro.judged import listed
from deepcoro.logged_films import LoggedFilm, films_to_log
from deepcoro.normalisation import carried_by
from deepcoro.predictions import Predictions, write_predictions
from deepcoro.reconstructions import reconstruction_pictures
from deepcoro.report_captions import CaptionExample, choose_captions, show_captions
from deepcoro.report_examples import Example, choose_examples, films_shown, show_examples
from deepcoro.report_head_errors import HeadError, choose_errors, show_errors
from deepcoro.report_reconstructions import write_pictures
from deepcoro.run_config import RunConfig, config_of_run, keys_changed_since
from deepcoro.run_pages import write_pages
from deepcoro.run_record import git_commit
from deepcoro.scored import score_rows, scored_path, write_scored
from deepcoro.seen import overlap, seen_of_state
from deepcoro.strips import strip_of

logger = logging.getLogger(__name__)

# What the weights mean hangs on these; the rest of the config may differ between training and evaluation.
_MODEL_KEYS = ("towers", "pooler", "objectives", "data.fields")
# But a model may be shown other frames of a film than those it was trained on: trained on windows, evaluated on several.
_WHICH_FRAMES = tuple(
    f"data.fields.video.{key}" for key in ("sampling", "stride_s", "windows", "default_frame_rate_fps")
)


def run(config: RunConfig) -> int:
    """Evaluates the checkpoint on the split that run_mode names and writes results, predictions and report."""
    accelerator = start_accelerator(config)
    split = config.run_mode
    saved, parts = open_checkpoint(config)
    patient_overlap = overlap(seen_of_state(saved.state()["data"]), parts.seen_in(split), split)
    model = load_model(config, parts, saved).to(accelerator.device)
    known = _known(config, parts, saved)
    metrics = build_metrics(config)
    evaluated, numbers, notes = evaluate_split(model, config, parts, split, known=known, metrics=metrics)
    if distributed.rank() == 0:
        conflicts = parts.conflicting_labels.get(split, {})
        notes += run_notes(config, evaluated.unreadable, conflicts)
        notes += _note_of_fixed(evaluated, known)
        record = {
            "metrics": numbers,
            "notes": notes,
            "unreadable": dict(evaluated.unreadable),
            "split": split,
            "data": parts.shards.name,
            "data_fingerprint": parts.shards.fingerprint,
            "data_record": parts.shards.record(),
            "patient_split": parts.shards.patient_split,
            "patient_overlap": patient_overlap,
            "conflicting_labels": conflicts,
            "checkpoint": saved.title(),
            "commit": git_commit(),
            "created": time.strftime("%Y-%m-%d %H:%M:%S"),
            "data_summary": _data_summary(config, parts, evaluated),
        }
        write_results(config.run_dir, record)
        if evaluated.chose_fixed and (evaluated.fixed or evaluated.intervals):
            _write_fixed(config.run_dir, saved.digest(), record, evaluated)
        name = f"{record['data']}_{split}"
        write_split_predictions(config, parts, name, evaluated, metrics, saved.epoch())
        write_scored(scored_path(config.run_dir, record["data"], split), score_rows(evaluated, metrics))
        pictures = reconstruction_pictures(model, config, parts, evaluated, config.evaluate.num_examples)
        write_pictures(config.run_dir, pictures)
        searches = retrieval_examples(config, parts, evaluated)
        captions, errors = (each(config, parts, evaluated) for each in (caption_examples, head_errors))
        path = write_pages(config.run_dir, searches, captions, errors)
        logger.info("report: %s", path)
    distributed.barrier()
    return 0


def run_notes(
    config: RunConfig, unreadable: Mapping[str, str], conflicts: Mapping[str, int] = MappingProxyType({})
) -> list[str]:
    """What a reader of the numbers is to know of the samples and of the checkpoint. `conflicts`: label column -> studies whose films
    disagree on it.
    """
    notes = []
    if conflicts:
        means = CONFLICT_MEANS[config.data.fields["labels"].conflict]
        named = listed([f"{column} ({count})" for column, count in conflicts.items()])
        notes.append(f"studies whose films disagree on a label, {means}: {named}")
    if unreadable:
        notes.append(f"{len(unreadable)} samples of the split could not be read and are left out")
    if config.checkpoint.load == "best" and not checkpoint.names_best(config.checkpoint_folder):
        notes.append(
            "the best checkpoint was asked for and none was named while training (evaluate.best_metric was never measured on val): "
            "this is the newest"
        )
    return notes


def _known(config: RunConfig, parts: Parts, saved: checkpoint.Checkpoint) -> Calibration | None:
    """What val fixed for this checkpoint. None where it did not, and where this run is the val that fixes it."""
    known = read_calibration(config.run_dir, saved.digest())
    if known is None or config.run_mode != "val":
        return known
    of_training = saved.state()["data"].get("fingerprint")
    return known if known.holds_for_val_of(parts.shards.fingerprint, of_training) else None


def _note_of_fixed(evaluated: Evaluated, known: Calibration | None) -> list[str]:
    if known is None or not evaluated.fixed_elsewhere:
        return []
    return [
        f"thresholds and intervals are those fixed on {known.data} ({known.split}, {known.created}), used unchanged: these are other films, "
        f"or chosen otherwise (data.tables, data.where), than the checkpoint was trained with; to choose them here instead, remove "
        f"calibration/{known.checkpoint}.json from the run folder"
    ]


def _write_fixed(run_dir: Path, digest: str, record: Mapping[str, Any], val: Evaluated) -> None:
    """What val chose, for every later evaluation of this checkpoint."""
    earlier = read_calibration(run_dir, digest)
    if earlier is not None and earlier.data_fingerprint != record["data_fingerprint"]:
        logger.warning("thresholds and intervals that were chosen on %s are replaced", earlier.data)
    facts = {key: record[key] for key in ("split", "data", "data_fingerprint", "created")}
    calibration = Calibration(
        checkpoint=digest, heads=dict(val.fixed or {}), numbers=dict(val.intervals or {}), **facts
    )
    calibration.warn_of_not_reached()
    path = write_calibration(run_dir, calibration)
    logger.info("thresholds and intervals: %s", path)


def open_checkpoint(config: RunConfig) -> tuple[checkpoint.Checkpoint, Parts]:
    """The checkpoint that `checkpoint.load` names and what to read with; ConfigError when the config is of another model."""
    saved = checkpoint.find(config.checkpoint_folder, config.checkpoint.load)
    _refuse_other_model(config, saved.state())
    return saved, build_parts(config)


def open_run(run_dir: Path, load: str, overrides: Sequence[str] = ()) -> tuple[RunConfig, Parts, nn.Module]:
    """A run folder, as its own config says with overrides laid over it, and the model of its checkpoint `load` (best, last or step_N), in
    evaluation mode, on the GPU where there is one. ConfigError where the folder holds no run.
    """
    config = config_of_run(run_dir, [f"run_dir={run_dir}", f"checkpoint={load}", *overrides])
    saved, parts = open_checkpoint(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return config, parts, load_model(config, parts, saved).to(device).eval()


def load_model(config: RunConfig, parts: Parts, saved: checkpoint.Checkpoint) -> nn.Module:
    """The checkpoint's model, whole, with its own normalisation constants unless the config sets others."""
    weights = saved.evaluated_weights()
    model = build_model(
        config, parts, of_films=carried_by(weights)
    )  # shards without training films tell none
    model.load_state_dict(weights)
    model.normalisation.override(config.normalisation)
    return model


def _refuse_other_model(config: RunConfig, state: dict[str, Any]) -> None:
    """ConfigError when the config describes another model than the checkpoint's."""
    changed = keys_changed_since(state["config"], config, "the checkpoint")
    differs = [key for key in changed if key.startswith(_MODEL_KEYS)]
    sampled = [key for key in differs if key in _WHICH_FRAMES]
    if sampled:
        logger.warning(
            "the checkpoint was trained with other values of %s: films are shown otherwise here", sampled
        )
    changed = [key for key in differs if key not in sampled]
    if changed:
        raise ConfigError(
            f"the checkpoint was trained with other values of {changed}; evaluate with the config it was trained with "
            f"({config.run_dir / 'config.yaml'})",
            topic="resume",
        )


def evaluate_split(
    model: nn.Module,
    config: RunConfig,
    parts: Parts,
    split: str,
    active: Sequence[str] | None = None,
    known: Calibration | None = None,
    metrics: Sequence[Measurement] | None = None,
) -> tuple[Evaluated, dict[str, float], list[str]]:
    """Embeds on all ranks; metrics are computed on rank 0 and are the same on every rank. Collective. `active`: as in `Wanted`.

    `known`: thresholds and intervals that val chose; without any, val chooses them here. `metrics`: those of the config unless given.
    """
    metrics = build_metrics(config) if metrics is None else metrics
    evaluated = embed_split(model, config, parts, split, replace(wanted_by(metrics), active=active))
    measured: tuple[dict[str, float], list[str]] = ({}, [])
    if distributed.rank() == 0:
        chooses = split == "val" and known is None
        evaluated = _chosen(evaluated, metrics) if chooses else _with_known(evaluated, known)
        for metric in metrics:
            numbers, notes = metric.measure(evaluated)
            measured = (measured[0] | numbers, measured[1] + notes)
        settings = config.evaluate
        numbers, notes = measure_groups(
            metrics, evaluated, settings.by, settings.by_min_patients, settings.by_bins
        )
        measured = (measured[0] | numbers, measured[1] + notes)
    numbers, notes = distributed.broadcast_object(measured)
    return evaluated, numbers, notes


def _chosen(val: Evaluated, metrics: Sequence[Measurement]) -> Evaluated:
    """With what val chooses."""
    fixed = {name: each for metric in metrics for name, each in metric.fix(val).items()}
    intervals = {name: each for metric in metrics for name, each in metric.fix_intervals(val).items()}
    return replace(val, fixed=fixed, intervals=intervals)


def _with_known(evaluated: Evaluated, known: Calibration | None) -> Evaluated:
    return replace(
        evaluated,
        fixed=known and known.heads,
        intervals=known and known.numbers,
        fixed_elsewhere=evaluated.split == "val",
    )


def wanted_by(metrics: Sequence[Measurement]) -> Wanted:
    """What the metrics ask of a split."""
    prompts = dict.fromkeys(sentence for metric in metrics for sentence in metric.prompts())
    reading = {metric.reads_training_reports for metric in metrics}
    training = next((each for each in ("always", "beside_captions") if each in reading), "none")
    return Wanted(list(prompts), training)


def evaluate_in_training(
    model: nn.Module, config: RunConfig, parts: Parts, active: Sequence[str]
) -> tuple[dict[str, float], list[LoggedFilm]]:
    """Metrics of the val split, without what objectives say that do not take part yet or any more; with tracking.log_films also, on
    rank 0, some of its films. Collective; the caller's next step puts the model back into training mode.
    """
    by = [column for column in config.evaluate.by if column in LEAKS]
    config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"by": by})})
    evaluated, numbers, _ = evaluate_split(model, config, parts, "val", active)
    if not config.tracking.log_films or distributed.rank():
        return numbers, []
    searches = retrieval_examples(config, parts, evaluated)
    captions, errors = caption_examples(config, parts, evaluated), head_errors(config, parts, evaluated)
    return numbers, films_to_log(searches, captions, errors)


def _units(config: RunConfig, parts: Parts, evaluated: Evaluated) -> Units:
    """Those of the split, among which `evaluated.units` counts."""
    return parts.shards.units(evaluated.split, config.data.multi_video, config.data.num_videos)


def _data_summary(config: RunConfig, parts: Parts, evaluated: Evaluated) -> dict[str, int | str]:
    """Films are those that the model was shown: of a row that is a study, up to `data.num_videos`."""
    units = _units(config, parts, evaluated)
    patients = {patient for patient in evaluated.patients if patient is not None}
    return {
        "patients": len(patients) or "not named by the source",
        "studies": len(set(evaluated.studies)),
        "films": sum(len(units.shown_clips(unit, None)) for unit in evaluated.units.tolist()),
        "distinct reports": len(evaluated.texts),
        "unreadable": len(evaluated.unreadable),
    }


def write_split_predictions(
    config: RunConfig,
    parts: Parts,
    name: str,
    evaluated: Evaluated,
    metrics: Sequence[Measurement],
    epoch: int | None = None,
) -> None:
    """`epoch`, `video_name` and the columns of heads stand in runs that have heads, as earlier tools wrote them; `video_name` also where
    a row is a study. `epoch`: of the checkpoint.
    """
    heads = head_columns(evaluated)
    tells_films = bool(heads) or config.data.multi_video
    units = _units(config, parts, evaluated)
    scores: dict[str, np.ndarray] = {}
    for metric in metrics:
        scores |= metric.film_scores(evaluated)
    table = Predictions(
        clips=evaluated.clips,
        studies=evaluated.studies,
        split=evaluated.split,
        films=evaluated.films,
        texts=evaluated.texts,
        text_embeddings=evaluated.text_embeddings,
        text_of_film=evaluated.text_of_film,
        scores=scores,
        labels=evaluated.labels,
        captions=evaluated.captions,
        heads=heads,
        video_names=[units.shown_names(unit) for unit in evaluated.units.tolist()] if tells_films else (),
        epoch=epoch,
        tables={name: rows for metric in metrics for name, rows in metric.tables(evaluated).items()},
    )
    logger.info("predictions: %s", write_predictions(config.run_dir / "predictions", name, table))


def retrieval_examples(config: RunConfig, parts: Parts, evaluated: Evaluated) -> list[Example]:
    """Searches for the report, with strips of the films they found; none where films and texts share no space."""
    if not evaluated.shares_space:
        return []
    choices = choose_examples(
        evaluated.films, evaluated.text_embeddings, evaluated.text_of_film, config.evaluate.num_examples
    )
    strips = _strips(config, parts, evaluated, films_shown(choices))
    return show_examples(choices, evaluated.texts, evaluated.text_of_film, evaluated.clips, strips)


def caption_examples(config: RunConfig, parts: Parts, evaluated: Evaluated) -> list[CaptionExample]:
    """Generated reports for the report, with strips of their films."""
    choices = choose_captions(evaluated, config.evaluate.num_examples)
    return show_captions(choices, evaluated, _strips(config, parts, evaluated, choices))


def head_errors(config: RunConfig, parts: Parts, evaluated: Evaluated) -> list[HeadError]:
    """What heads got most wrong for the report, with strips of the films; none where there are no heads."""
    chosen = choose_errors(evaluated, config.evaluate.num_examples)
    strips = _strips(config, parts, evaluated, [each.row for each in chosen])
    return show_errors(chosen, evaluated, strips)


def _strips(config: RunConfig, parts: Parts, evaluated: Evaluated, films: Iterable[int]) -> dict[int, bytes]:
    units = _units(config, parts, evaluated)
    return {film: _strip_of_unit(parts, units, int(evaluated.units[film])) for film in films}


def _strip_of_unit(parts: Parts, units: Units, unit: int) -> bytes:
    """Of the unit's first film."""
    return strip_of(parts.shards, int(units.study_row[unit]), units.shown_clips(unit, None)[0])


def write_results(run_dir: Path, record: dict[str, Any]) -> None:
    """results/{data}_{split}.json with a ledger of every time it was computed, and results.json, its flat metrics."""
    path = run_dir / "results" / f"{record['data']}_{record['split']}.json"
    ledger = json.loads(path.read_text())["ledger"] if path.is_file() else []
    ledger.append({key: record[key] for key in ("created", "commit", "checkpoint")})
    atomic.write_text(path, json.dumps(record | {"times_computed": len(ledger), "ledger": ledger}, indent=1))
    atomic.write_text(run_dir / "results.json", json.dumps(record["metrics"], indent=1))
    logger.info("results: %s", path)
