"""Two models on the same films: every measure of both, their difference with an interval over patients, means over seeds.

Reads what evaluations left in run folders (`deepcoro.scored`); nothing is computed by a model.
"""

import csv
import fnmatch
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepcoro.bootstrap import Statistic, patient_rows, query_means
from deepcoro.config import DataError
from deepcoro.evaluated import Searched
from deepcoro.judged import BINARY, REGRESSION, families_of, with_means
from deepcoro.numerals import decimals, signed
from deepcoro.scored import SUFFIX, Answer, ScoredRows, read_scored
from deepcoro.statistics.agreement import agreement_statistic
from deepcoro.statistics.findings import BY_ORDER, DECISIONS, classes_statistic, finding_statistic
from deepcoro.statistics.paired import Difference, compare

ZERO_SHOT = "zero_shot"
SHOWN = (
    "*/R@5",
    "*/auroc",
    "*/auprc",
    "*/macro_auroc",
    "*/accuracy",
    "*/weighted_kappa",
    "*/mae",
    "*/pearson_r",
    "*/icc",
)
"""Measures of the table unless others are asked for; the CSV file has all."""
_MEANT = (*BY_ORDER, *DECISIONS)


@dataclass(frozen=True)
class Compared:
    """All differences between two models, each trained with one seed or several."""

    data: str
    """`{data}_{split}`."""
    num_rows: int
    num_patients: int
    num_left_out: int
    """Rows that not all of the runs have."""
    differences: dict[str, Difference]
    """By measure."""


def compare_runs(
    first: Sequence[Path], second: Sequence[Path], data: str | None, num_samples: int, seed: int
) -> Compared:
    """Runs of one model and of the other, a run a seed, on the rows that all of them have.

    `data` is `{data}_{split}`; it may be None where the runs have one such evaluation in common. DataError when there is none, when no
    row is common, or when the runs do not have the same labels.
    """
    data = data or _only_common([*first, *second])
    of_first, of_second = (
        [read_scored(run / "predictions" / f"{data}{SUFFIX}") for run in runs] for runs in (first, second)
    )
    return compare_scored(of_first, of_second, data, num_samples, seed)


def compare_scored(
    first: Sequence[ScoredRows], second: Sequence[ScoredRows], data: str, num_samples: int, seed: int
) -> Compared:
    """As `compare_runs`, of answers at hand; `data` is what they are called."""
    runs = [*first, *second]
    rows = _common_rows(runs)
    names = [name for name in runs[0].answers if all(name in run.answers for run in runs)]
    num_left_out = len(set().union(*(run.clips for run in runs))) - len(rows[0])
    # what a search gets hangs on the films that it goes through
    searches = [] if num_left_out else _common_searches(runs)
    if not names and not searches:
        raise DataError(f"the runs have no question in common; the first one has {sorted(runs[0].answers)}")
    _refuse_other_labels(runs, rows, names)
    searched = [
        {name: run.searched[name].only(own) for name in searches} for run, own in zip(runs, rows, strict=True)
    ]
    _refuse_other_searches(searched)
    patients = patient_rows([runs[0].patients[row] for row in rows[0]], len(rows[0]))
    num_patients = int(patients.max()) + 1
    statistics = [
        _statistic({name: _only(run.answers[name], own) for name in names}, found, patients, num_patients)
        for run, own, found in zip(runs, rows, searched, strict=True)
    ]
    found = compare(statistics[: len(first)], statistics[len(first) :], num_patients, num_samples, seed)
    return Compared(data, len(rows[0]), num_patients, num_left_out, found)


def _only_common(runs: Sequence[Path]) -> str:
    each = [
        {path.name.removesuffix(SUFFIX) for path in (run / "predictions").glob(f"*{SUFFIX}")} for run in runs
    ]
    common = sorted(set.intersection(*each))
    if len(common) == 1:
        return common[0]
    told = "; ".join(f"{run}: {sorted(names)}" for run, names in zip(runs, each, strict=True))
    raise DataError(
        f"the runs have {'several evaluations' if common else 'no evaluation'} in common ({told}); "
        + ("name one with --data" if common else "run them with run_mode=val or test on the same data")
    )


def _common_rows(runs: Sequence[ScoredRows]) -> list[np.ndarray]:
    """Of each run the rows that all have, in the order of the first."""
    places = [{clip: row for row, clip in enumerate(run.clips)} for run in runs]
    common = [clip for clip in runs[0].clips if all(clip in place for place in places)]
    if not common:
        raise DataError("the runs have no row in common: they were evaluated on different data")
    return [np.array([place[clip] for clip in common]) for place in places]


def _common_searches(runs: Sequence[ScoredRows]) -> list[str]:
    """Those that all runs made, by the same measures."""
    return [
        name
        for name, first in runs[0].searched.items()
        if all(
            name in run.searched and list(run.searched[name].measures) == list(first.measures) for run in runs
        )
    ]


def _refuse_other_labels(
    runs: Sequence[ScoredRows], rows: Sequence[np.ndarray], names: Sequence[str]
) -> None:
    for name in names:
        truths = [run.answers[name].truth[own] for run, own in zip(runs, rows, strict=True)]
        if not all(np.array_equal(truths[0], truth, equal_nan=True) for truth in truths):
            raise DataError(
                f"{name}: the runs were evaluated with different labels; evaluate them anew on the same tables"
            )


def _refuse_other_searches(searched: Sequence[dict[str, Searched]]) -> None:
    """`searched`: of each run, the rows that all have."""
    for name, first in searched[0].items():
        if not all(np.array_equal(first.query, other[name].query) for other in searched):
            raise DataError(f"{name}: the runs were evaluated with different reports")


def _only(answer: Answer, rows: np.ndarray) -> Answer:
    return Answer(answer.task, answer.said[rows], answer.truth[rows], answer.classes, answer.threshold)


def _statistic(
    answers: dict[str, Answer], searched: dict[str, Searched], patients: np.ndarray, num_patients: int
) -> Statistic:
    """Of every question with something to measure, and the means over binary heads; of every search."""
    parts: dict[str, Statistic] = {
        name: _of_searches(each, patients, num_patients)
        for name, each in searched.items()
        if (each.query >= 0).any()
    }
    for name, answer in answers.items():
        statistic = answer_statistic(answer, patients, num_patients)
        if statistic is not None:
            parts[name] = statistic
    binary = [name for name, each in answers.items() if name in parts and each.task in (BINARY, ZERO_SHOT)]
    return with_means(parts, [(family, _MEANT) for family in families_of(binary, {})])


def answer_statistic(answer: Answer, patients: np.ndarray, num_patients: int) -> Statistic | None:
    """Of the assessed rows; None where there is none, or one class only of two."""
    known = ~np.isnan(answer.truth)
    said, truth, patients = answer.said[known].astype(np.float64), answer.truth[known], patients[known]
    if not len(truth):
        return None
    if answer.task == REGRESSION:
        return agreement_statistic(said[:, 0], truth, patients, num_patients)
    if answer.task not in (BINARY, ZERO_SHOT):
        is_ordered = answer.task == "ordinal_classification"
        return classes_statistic(
            said, truth.astype(np.int64), answer.classes, patients, num_patients, is_ordered
        )
    positive = truth >= 0.5
    if positive.all() or not positive.any():
        return None
    called = None if answer.threshold is None else said[:, 0] >= answer.threshold
    return finding_statistic(said[:, 0], called, positive, patients, num_patients)


def _of_searches(searched: Searched, patients: np.ndarray, num_patients: int) -> Statistic:
    asked = searched.query >= 0
    query = searched.query[asked]
    _, first = np.unique(query, return_index=True)
    means = query_means(searched.got[asked][first], query, patients[asked], num_patients)
    return lambda weights: dict(zip(searched.measures, means(weights).T, strict=True))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for the number of comparisons (Holm 1979)."""
    corrected, worst = [0.0] * len(p_values), 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        worst = max(worst, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = worst
    return corrected


def shown(compared: Compared, patterns: Sequence[str] = SHOWN) -> dict[str, Difference]:
    """The measures that a pattern fits and that both models have."""
    return {
        key: each
        for key, each in compared.differences.items()
        if not np.isnan(each.value) and any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)
    }


def markdown(compared: Compared, names: tuple[str, str], patterns: Sequence[str] = SHOWN) -> str:
    """The table for people."""
    rows = shown(compared, patterns)
    corrected = dict(zip(rows, holm([each.p_value or 1.0 for each in rows.values()]), strict=True))
    lines = [
        f"{compared.data}: {compared.num_rows} rows of {compared.num_patients} patients"
        + (
            f"; {compared.num_left_out} rows that not all runs have are left out"
            if compared.num_left_out
            else ""
        ),
        "",
        f"| measure | {names[0]} | {names[1]} | difference | 95 % interval | p | p (Holm) |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, each in rows.items():
        bounds = "–" if each.low is None else f"{signed(each.low)} to {signed(each.high)}"
        p_values = ("–", "–") if each.p_value is None else (f"{each.p_value:.3f}", f"{corrected[key]:.3f}")
        cells = (
            key,
            _mean(each.first_by_seed),
            _mean(each.second_by_seed),
            signed(each.value),
            bounds,
            *p_values,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _MEANING, ""])


_MEANING = (
    "Difference = first - second. The interval draws patients anew, the same for both models, with the seeds at hand; "
    "± is the standard deviation over seeds. p (Holm) is corrected for the rows of this table."
)


def _mean(values: Sequence[float]) -> str:
    told = decimals(np.mean(values))
    return told if len(values) == 1 else f"{told} ± {np.std(values, ddof=1):.3f} (n = {len(values)})"


def table(compared: Compared) -> str:
    """Every measure as comma-separated text."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["measure", "first", "second", "first_sd", "second_sd", "difference", "ci_low", "ci_high", "p"]
    )
    for key, each in shown(compared, ["*"]).items():
        spreads = [
            float(np.std(values, ddof=1)) if len(values) > 1 else None
            for values in (each.first_by_seed, each.second_by_seed)
        ]
        writer.writerow(
            [key, each.first, each.second, *spreads, each.value, each.low, each.high, each.p_value]
        )
    return buffer.getvalue()
