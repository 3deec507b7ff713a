"""One checkpoint on several data sets: the same thresholds everywhere, a column a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepcoro.report_groups import OF_HEADS, Cell, CellRow
from deepcoro.report_tables import fraction, interval, number, percent

_SHOWN = OF_HEADS | {"macro_auroc": ("AUROC, mean of classes", fraction), "R@5": ("R@5", percent)}


@dataclass(frozen=True)
class SiteTable:
    """Measures over data sets."""

    sites: list[str]
    """`{data}, {split}` of each column."""
    sizes: list[str]
    """Films and patients of each."""
    rows: list[CellRow]


def site_table(documents: Sequence[Mapping]) -> SiteTable | None:
    """Of the results of the checkpoint evaluated last; None where it was evaluated once."""
    if not documents:
        return None
    same = [each for each in documents if each.get("checkpoint") == documents[-1].get("checkpoint")]
    if len(same) < 2:
        return None
    keys = dict.fromkeys(key for each in same for key in each.get("metrics", {}) if _is_shown(key))
    rows = [CellRow(_words(key), [_cell(each.get("metrics", {}), key) for each in same]) for key in keys]
    return SiteTable(
        [f"{each.get('data')}, {each.get('split')}" for each in same], [_size(each) for each in same], rows
    )


def _is_shown(key: str) -> bool:
    return key.rsplit("/", 1)[-1] in _SHOWN and not key.startswith("by/") and "/control/" not in key


def _words(key: str) -> str:
    head, _, measure = key.rpartition("/")
    return f"{head.replace('_', ' ').replace('/', ': ', 1)}: {_SHOWN[measure][0]}"


def _cell(metrics: Mapping[str, float], key: str) -> Cell:
    if key not in metrics:
        return Cell("–", [])
    show = _SHOWN[key.rsplit("/", 1)[-1]][1]
    bounds = interval(metrics, key, show)
    count = metrics.get(f"{key.rpartition('/')[0]}/num")
    return Cell(
        show(metrics[key]),
        [each for each in (bounds, count and f"of {number(count)}") if each and each != "–"],
    )


def _size(document: Mapping) -> str:
    summary = document.get("data_summary") or {}
    films, patients = summary.get("films"), summary.get("patients")
    told = [f"{number(films)} films"] if isinstance(films, int | float) else []
    return ", ".join(
        [*told, *([f"{number(patients)} patients"] if isinstance(patients, int | float) else [])]
    )
