"""What a sweep found: `summary.html` for people, `trials.csv` for tables, `best_config.yaml` to train."""

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from deepcoro import atomic
from deepcoro.config import find_config, read_tree
from deepcoro.page import render_page
from deepcoro.run_config import SHORTHANDS, load_run_config
from deepcoro.sweeping.figures import parallel_coordinates, progress_figure, short_names
from deepcoro.sweeping.space import Parameter, value_text
from deepcoro.sweeping.trials import Sweep, Trials, in_yaml

if TYPE_CHECKING:
    import optuna

_FEWEST = 8
"""Complete trials below which nothing is said about importance."""


@dataclass(frozen=True)
class Row:
    """One trial of the table."""

    number: int
    state: str
    """complete, pruned, failed or running."""
    value: float | None
    values: dict[str, Any]
    evaluations: int
    minutes: float | None
    """From its first start to its end, pauses among them."""
    note: str


def write_summary(sweep: Sweep, trials: Trials) -> list[Path]:
    """The files of the folder anew, whole; those of the best trial only where one is complete."""
    rows = rows_of(trials)
    with atomic.locked(sweep.folder):
        written = [_write(sweep.folder / "trials.csv", csv_table(sweep, rows))]
        best = trials.best()
        if best is not None:
            text = best_config(sweep, best.number, best.user_attrs["values"], best.value)
            written.append(_write(sweep.folder / "best_config.yaml", text))
        names = [parameter.name for parameter in sweep.file.space()]
        page = render_page(
            "sweep.html",
            {"text": _text},
            sweep=sweep,
            title=sweep.file.name or f"Sweep of {sweep.config}",
            rows=sorted(rows, key=lambda row: _rank(row, sweep)),
            names=names,
            short=short_names(names),
            best=best,
            best_path=sweep.folder / "best_config.yaml",
            counts=_counts(rows),
            importance=importance(trials),
            fewest=_FEWEST,
            coordinates=parallel_coordinates(varied(sweep), sweep.file.metric, rows),
            progress=progress_figure(sweep.file.metric, rows),
            created=time.strftime("%Y-%m-%d %H:%M"),
        )
        written.append(_write(sweep.folder / "summary.html", page))
    return written


def _text(value: Any) -> str:
    return "–" if value is None else value_text(value)


def _write(path: Path, text: str) -> Path:
    atomic.write_text(path, text)
    return path


def rows_of(trials: Trials) -> list[Row]:
    """By number."""
    return [_row(trial) for trial in trials.study.get_trials(deepcopy=False)]


def _row(trial: "optuna.trial.FrozenTrial") -> Row:
    state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name, "running")
    return Row(
        number=trial.number,
        state=state,
        value=trial.value if state in ("complete", "pruned") else None,
        values=trial.user_attrs.get("values", {}),
        evaluations=len(trial.intermediate_values),
        minutes=trial.duration.total_seconds() / 60 if trial.duration else None,
        note=trial.user_attrs.get("reason", ""),
    )


def _rank(row: Row, sweep: Sweep) -> tuple:
    """Complete trials first, the best on top; then the others by number."""
    if row.state != "complete":
        return (1, row.number)
    return (0, sweep.file.metric.cost(row.value))


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    return {state: sum(row.state == state for row in rows) for state in ("complete", "pruned", "failed", "running")}  # fmt: skip


def varied(sweep: Sweep) -> list[Parameter]:
    return [parameter for parameter in sweep.file.space() if parameter.distribution != "constant"]


def importance(trials: Trials) -> list[tuple[str, float]]:
    """Share of each hyper-parameter in what sets the best trials apart, largest first (PED-ANOVA, Watanabe et al. 2023,
    arXiv:2304.10255); empty where too few trials are complete, or all are equally good.
    """
    import optuna

    complete = trials.of_state("COMPLETE")
    if len(complete) < _FEWEST or len({trial.value for trial in complete}) < 2:
        return []
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(trials.study, evaluator=evaluator)
    return sorted(found.items(), key=lambda pair: -pair[1])


def best_config(sweep: Sweep, number: int, values: dict[str, Any], value: float) -> str:
    """CONFIG with the best trial's values laid over it, to be trained like any other config."""
    words = sweep.words(values, sweep.folder / "best")
    tree = read_tree(find_config(sweep.config), words, SHORTHANDS)
    path = sweep.folder / "best_config.yaml"
    head = [
        f"# tools/runner.sh --base_config {path} --run_mode train",
        "#",
        f"# {sweep.config} with the values of trial {number}, the best of this sweep: {sweep.file.metric.name} = {value:.6g}.",
    ]
    load_run_config(find_config(sweep.config), words)  # what is written here loads
    return "\n".join(head) + "\n" + yaml.safe_dump(tree, sort_keys=False, width=120)


def csv_table(sweep: Sweep, rows: Sequence[Row]) -> str:
    names = [parameter.name for parameter in sweep.file.space()]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "state", sweep.file.metric.name, *names, "evaluations", "minutes", "note"])
    for row in rows:
        values = [in_yaml(row.values[name]) if name in row.values else "" for name in names]
        value = "" if row.value is None else row.value
        minutes = "" if row.minutes is None else f"{row.minutes:.2f}"
        writer.writerow([row.number, row.state, value, *values, row.evaluations, minutes, row.note])
    return buffer.getvalue()
