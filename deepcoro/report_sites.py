"""One checkpoint on several data sets: the same thresholds everywhere, a column a data set."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepcoro.config import DataError
from deepcoro.numerals import number, percent
from deepcoro.report_groups import OF_HEADS, Cell, CellRow
from deepcoro.report_tables import interval

SITES = "sites"
"""Folder of a run for what other sites measured."""
_COUNTED = ("films", "studies", "patients")
_SHOWN = OF_HEADS | {"R@5": ("R@5", percent)}


@dataclass(frozen=True)
class SiteTable:
    """Measures over data sets."""

    sites: list[str]
    """`{data}, {split}` of each column."""
    sizes: list[str]
    """Films, studies and patients of each."""
    rows: list[CellRow]


def site_table(documents: Sequence[Mapping], sites: Sequence[Mapping] = ()) -> SiteTable | None:
    """Of the results of the checkpoint evaluated last, here and at `sites` (of `read_sites`); None where it was evaluated once."""
    if not documents:
        return None
    last = documents[-1].get("checkpoint")
    same = [each for each in (*documents, *sites) if each.get("checkpoint") == last]
    if len(same) < 2:
        return None
    keys = dict.fromkeys(key for each in same for key in each.get("metrics", {}) if _is_shown(key))
    rows = [CellRow(_words(key), [_cell(each.get("metrics", {}), key) for each in same]) for key in keys]
    return SiteTable(
        [f"{each.get('data')}, {each.get('split')}" for each in same], [_size(each) for each in same], rows
    )


def read_sites(run_dir: Path) -> list[dict]:
    """What other sites measured (`tools/validate_site.py`) and `RUN/sites/NAME.json` holds, as results by the name of the file. DataError
    for a file that is none of these."""
    return [_document(path) for path in sorted((run_dir / SITES).glob("*.json"))]


def _document(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        model, sizes = record["model"], {name: record[name] for name in _COUNTED}
        checkpoint = f"step {model['step']} ({model['digest']})"
        return {
            "data": path.stem,
            "split": "site",
            "checkpoint": checkpoint,
            "metrics": record["metrics"],
            "data_summary": sizes,
        }
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no file of tools/validate_site.py; take it out of the folder") from error


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
    counts = {name: summary.get(name) for name in _COUNTED}
    return ", ".join(
        f"{number(count)} {name}" for name, count in counts.items() if isinstance(count, int | float)
    )
