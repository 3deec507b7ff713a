"""What a cross-validation measures of each head, in three ways that are not the same, and its table.

- Mean ± standard deviation over folds of the measure in each fold (that of a sample, n - 1).
- The measure of all out-of-fold rows together, with an interval over patients. Each fold has a model of its own; where their scores are not
  on one scale, rows of two folds are ranked by the model rather than by the patient, and measures of order are off, often too low: the more
  positives a fold holds, the fewer its model was trained on (Parker et al. 2007; Forman and Scholz 2010).
- So the AUROC also over pairs of the same fold alone, with an interval: the mean over folds (averaging in Airola et al. 2011) with each fold
  weighted by its pairs.

Decisions at a threshold are in none: val chooses thresholds, and val is the held-out fold itself.
"""

import csv
import fnmatch
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from deepcoro.bootstrap import Statistic, estimates, joined, mean_of_known, together, with_intervals
from deepcoro.comparison import SHOWN as COMPARED
from deepcoro.comparison import ZERO_SHOT, answer_statistic
from deepcoro.cross_validation import OutOfFold, notes_of_runs
from deepcoro.judged import BINARY, REGRESSION, Family, families_of, with_means
from deepcoro.numerals import decimals
from deepcoro.scored import Answer
from deepcoro.statistics.calibration import (
    calibration_statistic,
    class_calibration_statistic,
    is_calibration_error,
)
from deepcoro.statistics.findings import BY_ORDER, class_part
from deepcoro.statistics.ranking import stratified_auroc

SHOWN = (*COMPARED, "*/brier", "*/multiclass_brier", "*/calibration_slope")
"""Measures of the table unless others are asked for; the CSV file has all."""
_WITHIN = "_within_strata"
_FINDINGS = (BINARY, ZERO_SHOT)


@dataclass(frozen=True)
class Measure:
    """One measure of a head, or a mean over heads."""

    by_fold: Sequence[float | None]
    """In the order of the runs; None where it does not exist."""
    pooled: float
    """Of all out-of-fold rows."""
    interval: tuple[float, float] | None
    within: float | None
    """Over pairs of one fold, of an AUROC."""
    within_interval: tuple[float, float] | None

    @property
    def known(self) -> list[float]:
        return [value for value in self.by_fold if value is not None]

    @property
    def mean(self) -> float | None:
        """None where no fold has it."""
        return float(np.mean(self.known)) if self.known else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation; None of fewer than two folds."""
        return float(np.std(self.known, ddof=1)) if len(self.known) > 1 else None


@dataclass(frozen=True)
class HeadRows:
    """What the numbers of a head rest on."""

    num: int
    """Assessed rows."""
    num_patients: int
    num_positive: int | None
    """None of a head that is not binary."""
    num_not_assessed: int
    by_fold: Sequence[tuple[int | None, int]]
    """Positive and assessed rows of each fold."""


def measure(data: OutOfFold, num_samples: int, seed: int) -> dict[str, Measure]:
    """Every measure, by `objective/head/measure`. A mean over heads is that of a fold only where all its heads exist there."""
    parts = _parts(data, np.ones(len(data.patients), bool))
    families = families_of([name for name in parts if data.answers[name].task in _FINDINGS], {})
    numbers = with_intervals(_statistic(parts, families), data.num_patients, num_samples, seed)
    folds = [
        estimates(_statistic(_parts(data, data.fold_of_row == place), families), data.num_patients)
        for place in range(len(data.runs))
    ]
    return {
        key: Measure(
            [_known(fold.get(key)) for fold in folds],
            value,
            None if is_calibration_error(key) else _bounds(numbers, key),
            numbers.get(f"{key}{_WITHIN}"),
            _bounds(numbers, f"{key}{_WITHIN}"),
        )
        for key, value in numbers.items()
        if not key.endswith((_WITHIN, "_ci_low", "_ci_high"))
    }


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value


def _bounds(numbers: Mapping[str, float], key: str) -> tuple[float, float] | None:
    low, high = (numbers.get(f"{key}_ci_{end}") for end in ("low", "high"))
    return None if low is None or high is None else (low, high)


def _statistic(parts: Mapping[str, Statistic], families: Sequence[Family]) -> Statistic:
    whole = [family for family in families if set(family.heads) <= set(parts)]
    keys = (*BY_ORDER, f"auroc{_WITHIN}")
    return with_means(parts, [(family, keys) for family in whole])


def _parts(data: OutOfFold, rows: Bool[np.ndarray, "row"]) -> dict[str, Statistic]:
    """Of each head with something to measure in these rows."""
    parts = {}
    for name, answer in data.answers.items():
        kept = rows & ~np.isnan(answer.truth)
        own = Answer(answer.task, answer.said[kept].astype(np.float64), answer.truth[kept], answer.classes)
        statistic = answer_statistic(own, data.patients[kept], data.num_patients)
        if statistic is not None:
            more = _more(own, data.fold_of_row[kept], data.patients[kept], data.num_patients)
            parts[name] = together(statistic, *more)
    return parts


def _more(
    answer: Answer, folds: Int[np.ndarray, "row"], patients: Int[np.ndarray, "row"], num_patients: int
) -> Iterator[Statistic]:
    """Beside what two runs are compared by: the AUROC within folds, and whether probabilities come true."""
    if answer.task in _FINDINGS:
        positive = answer.truth >= 0.5
        yield stratified_auroc(answer.said[:, 0], positive, folds, patients, num_patients)
        if answer.task == BINARY:
            yield calibration_statistic(answer.said[:, 0], positive, patients, num_patients)
    elif answer.task != REGRESSION:
        yield _classes_within(answer, folds, patients, num_patients)
        truth = answer.truth.astype(np.int64)
        yield class_calibration_statistic(answer.said, truth, patients, num_patients)


def _classes_within(
    answer: Answer, folds: Int[np.ndarray, "row"], patients: Int[np.ndarray, "row"], num_patients: int
) -> Statistic:
    """Of each class against the others, and their mean."""
    of_each = joined(
        {
            f"class={class_part(name)}": stratified_auroc(
                answer.said[:, number], answer.truth == number, folds, patients, num_patients
            )
            for number, name in enumerate(answer.classes)
        }
    )

    def values(weights: Float[np.ndarray, "sample patient"]) -> dict[str, Float[np.ndarray, "sample"]]:
        found = of_each(weights)
        mean = mean_of_known(np.stack(list(found.values())), axis=0)
        return found | {f"macro_auroc{_WITHIN}": mean}

    return values


def head_rows(data: OutOfFold) -> dict[str, HeadRows]:
    """By `objective/head`."""
    found = {}
    for name, answer in data.answers.items():
        known = ~np.isnan(answer.truth)
        positive = answer.truth >= 0.5 if answer.task in _FINDINGS else None
        own = [known & (data.fold_of_row == place) for place in range(len(data.runs))]
        found[name] = HeadRows(
            int(known.sum()),
            len(np.unique(data.patients[known])),
            None if positive is None else int(positive.sum()),
            int((~known).sum()),
            [(None if positive is None else int(positive[rows].sum()), int(rows.sum())) for rows in own],
        )
    return found


def notes(data: OutOfFold) -> list[str]:
    """What a reader of the table is to know of runs and heads."""
    return [*notes_of_runs(data.runs), *_notes_of_heads(data)]


def _notes_of_heads(data: OutOfFold) -> Iterator[str]:
    """Where a fold has nothing to measure, which a mean over folds does not tell."""
    for name, answer in data.answers.items():
        lacks = [
            f"fold {run.fold} has {lack}"
            for place, run in enumerate(data.runs)
            if (lack := _lack(answer, answer.truth[data.fold_of_row == place])) is not None
        ]
        if lacks:
            yield f"{name}: {', '.join(lacks)}"


def _lack(answer: Answer, truth: Float[np.ndarray, "row"]) -> str | None:
    """What keeps measures of a fold from being there; None where nothing does."""
    known = truth[~np.isnan(truth)]
    if not len(known):
        return "no assessed row"
    if answer.task == REGRESSION:
        return None
    if answer.task in _FINDINGS:
        num = int((known >= 0.5).sum())
        return None if 0 < num < len(known) else f"one class only ({num} of {len(known)} positive)"
    absent = [f"'{name}'" for number, name in enumerate(answer.classes) if number not in known]
    return f"no row of {', '.join(absent)}" if absent else None


MEANING = (
    "Mean ± sd (of a sample, n - 1) is over the folds that have the measure; their number is in brackets where it is not all of them. It tells "
    "how far folds differ and is no standard error: their training sets overlap. A fold in which a head has no assessed row or one class only "
    "is in none of its means, nor in means over heads; means over classes are over those that a fold has.",
    "Pooled is the measure of all out-of-fold rows together; its 95 % interval draws patients anew and keeps the models as they are.",
    "**Pooled AUROC, AUPRC and correlations may be biased**: each fold has its own model, and where their scores are not on one scale, rows of "
    "two folds are ranked by the model rather than by the patient, often too low (Parker et al. 2007, Forman and Scholz 2010). The AUROC within folds counts "
    "pairs of the same fold alone, as the mean over folds does (averaging in Airola et al. 2011): report one of these two, and read a gap to "
    "the pooled one as such a bias.",
    "Sensitivity, specificity, PPV, NPV, F1, recalibrated and selective measures are left out: thresholds and recalibration are chosen on val, "
    "and val is the held-out fold itself. Fix them on other patients.",
)


def markdown(data: OutOfFold, measures: Mapping[str, Measure], patterns: Sequence[str] = SHOWN) -> str:
    """The table for people: measures that a pattern fits, what they rest on, and what to know of them."""
    first, num_folds = data.runs[0], len(data.runs)
    lines = [
        f"# {num_folds} folds of `{first.column}` held out of {first.results['data']}",
        "",
        f"{len(data.patients)} rows of {data.num_patients} patients; folds {', '.join(run.fold for run in data.runs)}.",
        "",
        "| measure | mean ± sd over folds | pooled (95 % interval) | within folds (95 % interval) |",
        "|---|---|---|---|",
    ]
    for key, each in measures.items():
        if any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns):
            told = _told(each.pooled, each.interval), _told(each.within, each.within_interval)
            lines.append(f"| {key} | {_mean(each)} | {' | '.join(told)} |")
    lines += [
        "",
        "| head | assessed rows | patients | positive | not assessed | by fold |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_rows_line(name, each) for name, each in head_rows(data).items()]
    lines += ["", *(f"- {note}" for note in [*notes(data), *MEANING])]
    return "\n".join(lines) + "\n"


def _mean(each: Measure) -> str:
    spread = "" if each.sd is None else f" ± {each.sd:.3f}"
    num, whole = len(each.known), len(each.by_fold)
    return f"{decimals(each.mean)}{spread}" + (f" ({num} of {whole})" if num < whole else "")


def _told(value: float | None, bounds: tuple[float, float] | None) -> str:
    return decimals(value) + ("" if bounds is None else f" ({decimals(bounds[0])} to {decimals(bounds[1])})")


def _rows_line(name: str, each: HeadRows) -> str:
    by_fold = ", ".join(
        str(num) if positive is None else f"{positive} of {num}" for positive, num in each.by_fold
    )
    positive = "–" if each.num_positive is None else each.num_positive
    return f"| {name} | {each.num} | {each.num_patients} | {positive} | {each.num_not_assessed} | {by_fold} |"


def csv_table(data: OutOfFold, measures: Mapping[str, Measure]) -> str:
    """Every measure as comma-separated text, a column a fold last."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ["mean", "sd", "folds", "pooled", "pooled_ci_low", "pooled_ci_high", "within_folds", "within_folds_ci_low", "within_folds_ci_high"]  # fmt: skip
    counts = ["num", "num_patients", "num_positive", "num_not_assessed"]
    writer.writerow(["measure", *columns, *counts, *(f"fold={run.fold}" for run in data.runs)])
    rows = head_rows(data)
    for key, each in measures.items():
        bounds = [*(each.interval or (None, None)), each.within, *(each.within_interval or (None, None))]
        own = next((rows[name] for name in rows if key.startswith(f"{name}/")), None)
        told = [getattr(own, name, None) for name in counts]
        writer.writerow(
            [key, each.mean, each.sd, len(each.known), each.pooled, *bounds, *told, *each.by_fold]
        )
    return buffer.getvalue()
