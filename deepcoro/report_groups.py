"""Metrics by group (`by/status=PCI/...`) as tables: one column a group, beside the overall number."""

from collections.abc import Sequence
from dataclasses import dataclass

from deepcoro.numerals import Show, fraction, number, percent
from deepcoro.report_tables import TASK_WORDS, Results, recalls, tasks

_WORDS = {
    "text_to_video": "report → film",
    "text_to_video/within_stratum": "report → film, like with like",
    "video_to_text": "film → report",
    "video_to_text/within_stratum": "film → report, like with like",
}

OF_HEADS = {
    "auroc": ("AUROC", fraction),
    "macro_auroc": ("AUROC, mean of classes", fraction),
    "sensitivity": ("sensitivity", percent),
    "specificity": ("specificity", percent),
    "mae": ("MAE", number),
    "c_index": ("C-index", fraction),
}
"""Measures of a head that are shown in every group."""


@dataclass(frozen=True)
class Cell:
    """One number and what it rests on."""

    value: str
    notes: list[str]
    """Interval, chance and count, a line each."""


@dataclass(frozen=True)
class CellRow:
    """A label and its cells, one a column of its table."""

    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class GroupTable:
    """The groups of one label column."""

    column: str
    caption: str
    groups: list[str]
    """Names of the columns, that of all rows first."""
    sizes: list[str]
    """Rows and patients of each."""
    rows: list[CellRow]


def group_tables(results: Results, unit: str = "films") -> list[GroupTable]:
    """One table a label column, in alphabetical order; `unit` is what rows are."""
    columns = sorted(
        {key.split("/")[1] for key in results if key.startswith("by/") and "=" not in key.split("/")[1]}
    )
    return [_table(results, column, unit) for column in columns]


def _table(results: Results, column: str, unit: str) -> GroupTable:
    start = f"by/{column}="
    names = list(
        dict.fromkeys(key.removeprefix(start).split("/")[0] for key in results if key.startswith(start))
    )
    missing = results.get(f"by/{column}/num_not_assessed", 0.0)
    prefixes = ["", *(f"{start}{name}/" for name in names)]
    rows = [
        CellRow(label, [_cell(results, prefix, key, show) for prefix in prefixes])
        for label, key, show in _measures(results)
    ]
    sizes = [
        f"{number(results.get(f'{prefix}num_films'))} {unit}, {number(results.get(f'{prefix}num_patients'))} patients"
        for prefix in prefixes[1:]
    ]
    return GroupTable(
        column=column,
        caption=f"{number(missing)} {unit} not assessed, in no group" if missing else "",
        groups=[f"all {unit}", *names],
        sizes=["", *sizes],
        rows=[row for row in rows if any(cell.value != "–" for cell in row.cells[1:])],
    )


def _measures(results: Results) -> Sequence[tuple[str, str, Show]]:
    """The headline numbers: R@5 (else the first k) of every search, and every AUROC."""
    found: list[tuple[str, str, Show]] = []
    for name, words in _WORDS.items():
        known = recalls(results, name)
        if known:
            k = 5 if 5 in known else known[0]
            found.append((f"{words}: R@{k}", f"retrieval/{name}/R@{k}", percent))
    found += [
        (f"{TASK_WORDS.get(task, task)}: AUROC", f"zero_shot/{task}/auroc", fraction)
        for task in tasks(results)
    ]
    found += [
        (
            f"{_head_words(key)}: {OF_HEADS[key.rsplit('/', 1)[-1]][0]}",
            key,
            OF_HEADS[key.rsplit("/", 1)[-1]][1],
        )
        for key in results
        if _is_of_head(key)
    ]
    lesions = "clinical_findings/lesion/f1"
    return [*found, ("generated reports: lesions, F1", lesions, fraction)] if lesions in results else found


def _is_of_head(key: str) -> bool:
    own = not key.startswith(("by/", "zero_shot/", "retrieval/"))
    return own and key.rsplit("/", 1)[-1] in OF_HEADS and key.count("/") == 2


def _head_words(key: str) -> str:
    return key.split("/")[1].replace("_", " ")


def _cell(results: Results, prefix: str, key: str, show: Show) -> Cell:
    value = results.get(f"{prefix}{key}")
    if value is None:
        return Cell("–", [])
    low, high = results.get(f"{prefix}{key}_ci_low"), results.get(f"{prefix}{key}_ci_high")
    chance = results.get(f"{prefix}{key}_chance")
    parts = [] if low is None or high is None else [f"{show(low).removesuffix(' %')} – {show(high)}"]
    parts += [] if chance is None else [f"guessing {show(chance)}"]
    count = results.get(f"{prefix}{key}_n")
    parts += [] if count is None else [f"of {number(count)}"]
    return Cell(show(value), parts)
