"""The runs of a cross-validation, one a fold: read from their folders, refused where they are not of one, and their held-out rows pooled.

Reads what training and `run_mode=val` left behind; nothing is computed by a model.
"""

import csv
import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from deepcoro import atomic
from deepcoro.bootstrap import patient_rows
from deepcoro.config import ConfigError, DataError, dump
from deepcoro.evaluated import label_word
from deepcoro.predictions import table
from deepcoro.resumable import changed_keys
from deepcoro.run_config import RunConfig, config_of_run
from deepcoro.run_record import last_start
from deepcoro.scored import Answer, ScoredRows, read_scored, scored_path

logger = logging.getLogger(__name__)

# A resumed run may change these; runs of one cross-validation may not.
_ALSO_THE_SAME = ("max_steps", "epochs", "freeze", "schedules")
_HELD_OUT, _WEIGHTS = "data.fold.held_out", "towers.video.weights"
# An encoder that was trained on patients of the folds has to be another one for each fold.
_OWN_OF_A_FOLD = (_HELD_OUT, _WEIGHTS)

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class FoldRun:
    """One run, and what it said of the fold that it held out."""

    run_dir: Path
    config: RunConfig
    data: Mapping[str, Any]
    """What it was trained on (`data.json`)."""
    start: Mapping[str, Any]
    """The last start of its training (`run_record.json`)."""
    results: Mapping[str, Any]
    """Its evaluation on the held-out fold (`results/{data}_val.json`)."""
    scored: ScoredRows
    predictions: Rows
    """Rows of `predictions/{data}_val.csv`, in the order of `scored`."""
    texts: Rows
    """Rows of its companion of distinct texts."""

    @property
    def column(self) -> str:
        """The column that numbers the folds."""
        return self.data["fold"]["column"]

    @property
    def fold(self) -> str:
        """The held-out fold, as a word of the column."""
        return str(label_word(self.data["fold"]["held_out"]))

    @property
    def step(self) -> int:
        """That of the checkpoint which was evaluated."""
        return int(self.results["checkpoint"].split()[1])


@dataclass(frozen=True)
class OutOfFold:
    """The rows of all held-out folds, each with what the model said that was not trained on it."""

    runs: Sequence[FoldRun]
    fold_of_row: Int[np.ndarray, "row"]
    """Place of the row's run among `runs`."""
    patients: Int[np.ndarray, "row"]
    """Number of the row's patient, from 0."""
    answers: Mapping[str, Answer]
    """Those that all runs have, by the prefix of their metrics; without thresholds, which were chosen on these very rows."""

    @property
    def num_patients(self) -> int:
        return int(self.patients.max()) + 1


def read_fold_run(run_dir: Path) -> FoldRun:
    """A run folder. ConfigError where it holds no run or one without `data.fold`; DataError, with the command that writes it, where it was
    not evaluated on the fold that it held out.
    """
    config = config_of_run(run_dir, [])
    path = run_dir / "data.json"
    data = json.loads(path.read_text()) if path.is_file() else {}
    if not data.get("fold"):
        raise ConfigError(
            f"{run_dir} was not trained on folds; train one run a fold with data.fold.column=COLUMN data.fold.held_out=FOLD"
        )
    results = _results_on_the_fold(run_dir, data["fingerprint"])
    scored = read_scored(scored_path(run_dir, results["data"], "val"))
    name = f"{results['data']}_val"
    predictions, texts = (
        _read_rows(run_dir / "predictions" / f"{name}{kind}.csv") for kind in ("", "_unique_texts")
    )
    if [row["clip"] for row in predictions] != list(scored.clips):
        raise DataError(
            f"predictions/{name}.csv and its scored rows in {run_dir} are of different evaluations; {_remedy(run_dir)}"
        )
    return FoldRun(run_dir, config, data, last_start(run_dir), results, scored, predictions, texts)


def _results_on_the_fold(run_dir: Path, fingerprint: str) -> dict[str, Any]:
    """The fingerprint of data says which fold is val, besides films and tables."""
    paths = sorted((run_dir / "results").glob("*_val.json"))
    for path in paths:
        results = json.loads(path.read_text())
        if results["data_fingerprint"] == fingerprint:
            return results
    there = f" ({[path.stem for path in paths]} are of other data or another fold)" if paths else ""
    raise DataError(f"{run_dir} was not evaluated on the fold that it held out{there}; {_remedy(run_dir)}")


def _remedy(run_dir: Path) -> str:
    return f"`accelerate launch train.py {run_dir / 'config.yaml'} run_mode=val checkpoint=last` does that"


def _read_rows(path: Path) -> Rows:
    if not path.is_file():
        raise DataError(f"{path} is not there: run_mode=val writes it")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_cross_validation(run_dirs: Sequence[Path]) -> OutOfFold:
    """The runs, in the order given, as one cross-validation.

    ConfigError when there are fewer than two, when they differ in more than the fold held out (and the weights they start from), or two hold
    out the same one; DataError when they were trained on other films or tables, or a patient, study or film is in two held-out folds. A fold
    that no run holds out is logged.
    """
    runs = [read_fold_run(run_dir) for run_dir in run_dirs]
    if len(runs) < 2:
        raise ConfigError("a cross-validation has two folds or more; name the run of each")
    for other in runs[1:]:
        _refuse_another_configuration(runs[0], other)
        _refuse_other_data(runs[0], other)
    for first, second in itertools.combinations(runs, 2):
        if first.fold == second.fold:
            raise ConfigError(
                f"{first.run_dir} and {second.run_dir} both hold out fold '{first.fold}' of '{first.column}'; give one run a fold"
            )
        _refuse_shared_rows(first, second)
    if (missing := _missing(runs)) is not None:
        logger.warning(missing)
    return _pooled(runs)


def _refuse_another_configuration(first: FoldRun, other: FoldRun) -> None:
    old, new = dump(first.config), dump(other.config)
    changed = changed_keys(old, new) + [key for key in _ALSO_THE_SAME if old[key] != new[key]]
    changed = [key for key in changed if key not in _OWN_OF_A_FOLD]
    if first.start.get("global_batch") != other.start.get("global_batch"):
        changed.append("batch_size x gradient_accumulation_steps x processes")
    if changed:
        raise ConfigError(
            f"{first.run_dir} and {other.run_dir} differ in {changed}; runs of one cross-validation differ in data.fold.held_out and run_dir "
            f"alone ({_WEIGHTS} may be trained for each fold)"
        )


def _refuse_other_data(first: FoldRun, other: FoldRun) -> None:
    for what, digests in _digests(first).items():
        if digests != _digests(other)[what]:
            raise DataError(
                f"{first.run_dir} and {other.run_dir} were trained on different {what}; folds are parts of the same data"
            )


def _digests(run: FoldRun) -> dict[str, list[str]]:
    """Folders and tables may have moved; what they hold may not differ."""
    return {
        "shard folders": [source["fingerprint"] for source in run.data["sources"].values()],
        "tables (data.tables)": [joined["sha256"] for joined in run.data["tables"]],
    }


def _refuse_shared_rows(first: FoldRun, second: FoldRun) -> None:
    of_each = [
        {
            "patients": {patient for patient in run.scored.patients if patient is not None},
            "studies": {row["study"] for row in run.predictions},
            "rows": set(run.scored.clips),
        }
        for run in (first, second)
    ]
    for what, ids in of_each[0].items():
        shared = len(ids & of_each[1][what])
        if shared:
            raise DataError(
                f"{shared} {what} are in both held-out folds '{first.fold}' ({first.run_dir}) and '{second.fold}' ({second.run_dir}); "
                "each is in one: correct the column and train anew"
            )


def _pooled(runs: Sequence[FoldRun]) -> OutOfFold:
    names = [name for name in runs[0].scored.answers if all(name in run.scored.answers for run in runs)]
    if not names:
        raise DataError(
            f"the runs have no head in common; the first one has {sorted(runs[0].scored.answers)}"
        )
    patients = [patient for run in runs for patient in run.scored.patients]
    return OutOfFold(
        runs,
        np.repeat(np.arange(len(runs)), [len(run.scored.clips) for run in runs]),
        patient_rows(patients, len(patients)),
        {name: _joined([run.scored.answers[name] for run in runs]) for name in names},
    )


def _joined(answers: Sequence[Answer]) -> Answer:
    said, truth = (np.concatenate([getattr(each, part) for each in answers]) for part in ("said", "truth"))
    return Answer(answers[0].task, said, truth, answers[0].classes)


def _missing(runs: Sequence[FoldRun]) -> str | None:
    """Of folds that no run holds out; None where there is none."""
    # each study of the folds is in train or val of every run
    num = sum(runs[0].data["splits"].get(split, {}).get("studies", 0) for split in ("train", "val"))
    missing = num - sum(run.data["splits"]["val"]["studies"] for run in runs)
    if not missing:
        return None
    return f"folds of '{runs[0].column}' are missing: {missing} of {num} studies are in none of those given"


def notes_of_runs(runs: Sequence[FoldRun]) -> Iterator[str]:
    """What a reader of the numbers is to know of the runs."""
    if (missing := _missing(runs)) is not None:
        yield missing
    cut = [f"{run.fold} (step {run.step} of {run.start['max_steps']})" for run in runs if _is_cut(run)]
    if cut:
        yield (
            f"not evaluated at the end of training: fold {', '.join(cut)}. A checkpoint, or an early stop, that was chosen on val was chosen on "
            "the held-out fold itself, and its figures are too good: train without evaluate.early_stop_patience and evaluate with "
            "checkpoint=last"
        )
    if len({str(dump(run.config)["towers"]["video"].get("weights")) for run in runs}) > 1:
        yield f"the runs start from different weights ({_WEIGHTS}); that these were made alike is not checked here"
    unknown = [run.fold for run in runs if run.results["patient_overlap"] != "none"]
    if unknown:
        yield f"whether the model had seen patients of its held-out fold is not known: fold {', '.join(unknown)}"
    if any(patient is None for run in runs for patient in run.scored.patients):
        yield "rows that name no patient count as a patient each, so that intervals may be too narrow and shared patients go unseen"
    unreadable = sum(len(run.results["unreadable"]) for run in runs)
    if unreadable:
        yield f"{unreadable} samples of the held-out folds could not be read and are left out"


def _is_cut(run: FoldRun) -> bool:
    return run.step < run.start.get("max_steps", run.step)


def write_predictions(folder: Path, runs: Sequence[FoldRun]) -> list[Path]:
    """`out_of_fold.csv`, the predictions of all held-out folds with a last column `fold`, and its companion of distinct texts, whose
    numbers each fold counts for itself. DataError when the runs' tables have different columns.
    """
    columns = [list(run.predictions[0]) for run in runs]
    for run, own in zip(runs, columns, strict=True):
        if own != columns[0]:
            differing = sorted(set(own) ^ set(columns[0])) or "their order"
            raise DataError(
                f"the predictions of {runs[0].run_dir} and {run.run_dir} differ in columns ({differing}); evaluate both with the same evaluate.metrics"
            )
    paths = [folder / "out_of_fold.csv", folder / "out_of_fold_unique_texts.csv"]
    for path, part in zip(paths, ("predictions", "texts"), strict=True):
        rows = [row | {"fold": run.fold} for run in runs for row in getattr(run, part)]
        atomic.write_text(path, table(rows))
    return paths
