"""What heads were found to be worth, as tables: each number with its interval, and with what it rests on in the same row."""

from collections.abc import Sequence
from dataclasses import dataclass

from deepcoro.numerals import Show, fraction, number, percent
from deepcoro.report_groups import Cell, CellRow
from deepcoro.report_tables import Results, base_of, baselines_of, interval

_BINARY, _REGRESSION, _CLASSES = "/prevalence", "/mae_of_median", "/macro_f1"
"""A measure that heads of one kind alone have."""
_MEANS = ("/macro", "/micro")
_OF_NUMBERS = "_of_numbers"
"""Ending of the counts of a mean over heads of numbers: binary heads have theirs under the same name."""
_OF_CLASS = "/class="
_COUNTS = (("rows", "num"), ("patients", "num_patients"), ("not assessed", "num_not_assessed"))


@dataclass(frozen=True)
class HeadTable:
    """Findings of one kind."""

    heading: str
    caption: str
    columns: list[str]
    rows: list[CellRow]


@dataclass(frozen=True)
class _Column:
    title: str
    key: str
    show: Show
    beside: str | None = None
    """A value that stands below it, and its words."""


def head_tables(results: Results) -> list[HeadTable]:
    """Every table that has rows."""
    binary = [*_means(results), *_heads(results, _BINARY)]
    classes, numbers = _heads(results, _CLASSES), [*_means_of_numbers(results), *_heads(results, _REGRESSION)]
    decided = [head for head in binary if f"{head}/sensitivity" in results]
    at_specificity = sorted(
        {
            key.rsplit("/", 1)[-1]
            for key in results
            if "/sensitivity_at_specificity_" in key and "_ci_" not in key and base_of(key) == key
        }
    )
    made = [
        _table(
            results,
            "Findings: who scores higher",
            _ORDER + [_of_specificity(key) for key in at_specificity],
            binary,
        ),
        _table(results, "Findings: decisions at thresholds fixed on val", _DECISIONS, decided),
        _table(
            results,
            "Findings: calls that are made where the model is as sure as val asks",
            _SELECTIVE,
            [head for head in decided if f"{head}/selective/certainty" in results],
        ),
        _table(results, "Findings: do probabilities come true", _CALIBRATION, _heads(results, _BINARY)),
        _table(results, "Findings of several classes", _OF_CLASSES, classes),
        _table(
            results,
            "Findings of several classes: do probabilities come true",
            _CALIBRATION_OF_CLASSES,
            [head for head in classes if f"{head}/multiclass_brier" in results],
        ),
        _table(
            results,
            "Findings of several classes: each against the others",
            _ORDER + _OF_CLASS_SAID,
            _classes(results),
        ),
        _table(results, "Numbers against the truth, in the label's unit", _ERRORS, numbers, _OF_NUMBERS),
        _table(
            results,
            "Numbers: limits of agreement and prediction intervals, in the label's unit",
            _AGREEMENT,
            [head for head in numbers if f"{head}/bias" in results],
            _OF_NUMBERS,
        ),
        _table(results, "Time to an event", _survival_columns(results), _outcomes(results)),
    ]
    return [table for table in made if table.rows]


_ORDER = [
    _Column("rows with it", "num_positive", number),
    _Column("share", "prevalence", percent),
    _Column("AUROC", "auroc", fraction),
    _Column("AUPRC", "auprc", fraction),
]
_DECISIONS = [
    _Column("threshold", "threshold", number),
    *(
        _Column(key if len(key) > 3 else key.upper(), key, percent)
        for key in ("sensitivity", "specificity", "ppv", "npv")
    ),
    _Column("F1", "f1", fraction),
]
_SELECTIVE = [
    _Column("certainty", "selective/certainty", number),
    _Column("patients with a call", "selective/num_patients", number),
    _Column("rows with a call", "selective/coverage", percent),
    _Column("wrong calls", "selective/error", percent),
    _Column("area under the risk-coverage curve", "selective/aurc", number),
]
_CALIBRATION = [
    _Column("Brier score", "brier", number, "brier_of_prevalence"),
    _Column("corrected", "brier_recalibrated", number),
    _Column("calibration error", "ece", number),
    _Column("corrected", "ece_recalibrated", number),
    _Column("slope", "calibration_slope", fraction),
    _Column("intercept", "calibration_intercept", fraction),
]
_OF_CLASSES = [
    _Column("AUROC, mean of classes", "macro_auroc", fraction),
    _Column("accuracy", "accuracy", percent),
    _Column("balanced accuracy", "balanced_accuracy", percent),
    _Column("precision, mean of classes", "macro_precision", percent),
    _Column("recall, mean of classes", "macro_recall", percent),
    _Column("F1, mean of classes", "macro_f1", fraction),
    _Column("weighted kappa", "weighted_kappa", fraction),
]
_CALIBRATION_OF_CLASSES = [
    _Column("Brier score, summed over classes", "multiclass_brier", number, "multiclass_brier_of_prevalence"),
    _Column("calibration error of the class said", "top_label_ece", number),
]
_OF_CLASS_SAID = [
    _Column("precision where it is said", "precision", percent),
    _Column("recall", "recall", percent),
]
_ERRORS = [
    _Column("MAE", "mae", number, "mae_of_median"),
    _Column("MAE / that of the median", "mae_ratio_to_median", fraction),
    _Column("RMSE", "rmse", number),
    _Column("Pearson r", "pearson_r", fraction),
    _Column("ICC(2,1)", "icc", fraction),
]
_AGREEMENT = [
    _Column("bias", "bias", number),
    _Column("lower limit of agreement", "limit_low", number),
    _Column("upper limit of agreement", "limit_high", number),
    _Column("prediction interval, ±", "interval_half_width", number),
    _Column("rows inside", "interval_coverage", percent),
    _Column("patients inside", "interval_coverage_of_patients", percent),
]
_BESIDE = {
    "brier_of_prevalence": "prevalence alone",
    "multiclass_brier_of_prevalence": "prevalence alone",
    "mae_of_median": "median alone",
}


def _of_specificity(key: str) -> _Column:
    return _Column(f"sensitivity at specificity {key.rsplit('_', 1)[-1]}", key, percent)


def _survival_columns(results: Results) -> list[_Column]:
    keys = [
        key for key in results if key.startswith("survival/") and "_ci_" not in key and base_of(key) == key
    ]
    horizons = dict.fromkeys(key.rsplit("/auc_at_", 1)[-1] for key in keys if "/auc_at_" in key)
    return [
        _Column("events", "num_events", number),
        _Column("C-index", "c_index", fraction),
        *(_Column(f"AUC at {horizon}", f"auc_at_{horizon}", fraction) for horizon in horizons),
    ]


def _heads(results: Results, kind: str) -> list[str]:
    keys = [key.removesuffix(kind) for key in results if key.endswith(kind)]
    own = [key for key in keys if not key.startswith("by/") and key.count("/") == 1]
    return [key for key in own if not _is_mean(key)]


def _classes(results: Results) -> list[str]:
    keys = [key.removesuffix(_BINARY) for key in results if key.endswith(_BINARY) and _OF_CLASS in key]
    return [key for key in keys if not key.startswith("by/")]


def _means(results: Results) -> list[str]:
    keys = [key.rpartition("/")[0] for key in results if key.endswith("/auroc")]
    return [key for key in keys if not key.startswith("by/") and _is_mean(key)]


def _means_of_numbers(results: Results) -> list[str]:
    """Of all heads those without a unit; of a family, whose heads have one unit, all."""
    count = f"/num{_OF_NUMBERS}"
    return [key.removesuffix(count) for key in results if key.endswith(count) and not key.startswith("by/")]


def _is_mean(head: str) -> bool:
    return head.partition("=")[0].endswith(_MEANS)


def _outcomes(results: Results) -> list[str]:
    keys = [key.removesuffix("/num_events") for key in results if key.endswith("/num_events")]
    return [key for key in keys if key.startswith("survival/")]


def _table(
    results: Results, heading: str, columns: Sequence[_Column], heads: Sequence[str], of_means: str = ""
) -> HeadTable:
    """`of_means`: ending of the counts of means over heads."""
    used = [column for column in columns if any(f"{head}/{column.key}" in results for head in heads)]
    rows = [
        CellRow(
            _label(head),
            [
                *_counts(results, head, of_means if _is_mean(head) else ""),
                *(_cell(results, head, column) for column in used),
            ],
        )
        for head in heads
    ]
    titles = [*(title for title, _ in _COUNTS), *(column.title for column in used)]
    return HeadTable(heading, "95 % intervals below, patients resampled", titles, rows if used else [])


def _label(head: str) -> str:
    name, _, of_class = head.partition("/")[2].partition(_OF_CLASS)
    if of_class:
        return f"{name}: {of_class}".replace("_", " ")
    kind, _, family = name.partition("=")
    words = {"macro": "mean of heads", "micro": "all heads in one heap"}
    if kind in words:
        return f"{words[kind]}{f': {family}' if family else ''}"
    return name.replace("_", " ")


def _counts(results: Results, head: str, ending: str) -> list[Cell]:
    """Of a class those of its head."""
    whole = head.partition(_OF_CLASS)[0]
    return [Cell(number(results.get(f"{whole}/{key}{ending}")), []) for _, key in _COUNTS]


def _cell(results: Results, head: str, column: _Column) -> Cell:
    key = f"{head}/{column.key}"
    if key not in results:
        return Cell("–", [])
    bounds = interval(results, key, column.show)
    notes = [] if bounds == "–" else [bounds]
    if column.beside and f"{head}/{column.beside}" in results:
        notes.append(f"{_BESIDE[column.beside]} {column.show(results[f'{head}/{column.beside}'])}")
    notes += [f"{words.lower()} {value}" for words, value in baselines_of(results, key, column.show).items()]
    return Cell(column.show(results[key]), notes)
