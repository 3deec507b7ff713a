"""From the rows of the source tables to the films evaluated: every exclusion with its count, as a table and as a drawing."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepcoro.config import DataError
from deepcoro.data.collection import Collection
from deepcoro.data.damage import TABLE
from deepcoro.data.manifest import read_refused
from deepcoro.data.summary import outcome, reason_word
from deepcoro.page import render_page
from deepcoro.paper.sheets import Sheet
from deepcoro.run_record import counts_of_split
from deepcoro.small_cells import Told, told, told_summary, told_units, total

_LINE_PX, _BOX_PX, _GAP_PX, _PAD_PX = 18, 370, 26, 10
_LETTERS = 52
"""Of a line that fits into a box."""


@dataclass(frozen=True)
class Step:
    """A number of films, and what was taken away to reach the next one."""

    name: str
    count: Told
    excluded: Mapping[str, Told]
    """Reason -> films; most first."""


@dataclass(frozen=True)
class Branch:
    """What one split is in the end."""

    name: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Flow:
    """The steps in order, then the splits side by side."""

    steps: Sequence[Step]
    branches: Sequence[Branch]


def exclusion_flow(
    shards: Collection, run_dir: Path, documents: Sequence[Mapping[str, Any]], fewest: int
) -> Flow:
    """DataError when the counts do not add up: a table that somebody changed by hand tells a wrong story."""
    manifests = [source.manifest for source in shards.sources.values()]
    sharded = sum(manifest.counts.clips for manifest in manifests)
    refused = [row.reason for source in shards.sources.values() for row in read_refused(source.folder)]
    record = shards.record()["splits"]
    kept, dropped = (sum(counts[name] for counts in record.values()) for name in ("films", "dropped"))
    counted = sum(manifest.counts.rejected_clips for manifest in manifests)
    if counted != len(refused) or kept + dropped != sharded:
        raise DataError(
            f"the flow does not add up: {counted} rows refused by the manifest, {len(refused)} in rejected.csv; {sharded} films "
            f"in the manifest, {kept + dropped} in splits.csv; copy the shard folder again",
            topic="shards-changed",
        )
    films = [told_units(counts_of_split(shards, split), fewest)["films"] for split in shards.splits]
    without = {f"data.where: not {shards.where}": _dropped(shards, fewest)} if dropped else {}
    branches = [
        Branch(split, list(_branch(shards, split, run_dir, documents, fewest))) for split in shards.splits
    ]
    return Flow(steps_to(films, without, refused, fewest), branches)


def steps_to(
    films: Iterable[Told], dropped: Mapping[str, Told], refused: Iterable[str], fewest: int
) -> list[Step]:
    """From `films` of the splits upwards, each step by what is told of the next one and of what was taken away. `refused`: reasons."""
    reasons = Counter(f"{reason_word(reason)} ({outcome(reason)})" for reason in refused)
    excluded = {reason: told(count, fewest) for reason, count in reasons.most_common()}
    # the order of small ones would tell of them
    few = sorted(reason for reason, count in excluded.items() if not count.is_exact)
    excluded = {name: each for name, each in excluded.items() if each.is_exact} | {name: excluded[name] for name in few}  # fmt: skip
    used = total(films)
    sharded = total([used, *dropped.values()])
    return [
        Step("rows of the source tables", total([sharded, *excluded.values()]), excluded),
        Step("films in shards", sharded, dropped),
        Step("films of this run", used, {}),
    ]


def _dropped(shards: Collection, fewest: int) -> Told:
    """Films that `data.where` took away."""
    study = shards.studies.study_of_film()
    is_dropped = np.ones(len(study), bool)
    for split in shards.splits:
        is_dropped[shards.units(split, False, 1).film] = False
    return told(int(is_dropped.sum()), fewest, _persons(shards, study[is_dropped]))


def _persons(shards: Collection, studies: np.ndarray) -> int:
    """Patients of rows of the study table; studies where the data name no patients."""
    named = shards.patient_split == "verified"
    return len(np.unique(shards.studies.patient[studies] if named else studies))


def _unreadable(shards: Collection, names: Iterable[str], fewest: int) -> Told:
    """`names`: of films (`study.000`) or studies; those of other data count one by one."""
    names = list(names)
    studies = np.array([name.partition(".")[0].encode() for name in names], shards.studies.key.dtype)
    rows = np.flatnonzero(np.isin(shards.studies.key, studies))
    return told(len(names), fewest, _persons(shards, rows) or None)


def _branch(
    shards: Collection, split: str, run_dir: Path, documents: Sequence[Mapping[str, Any]], fewest: int
) -> Iterator[str]:
    counts = counts_of_split(shards, split)
    yield from (f"{count} {name}" for name, count in told_units(counts, fewest).items() if count is not None)
    if split == "train" and (run_dir / TABLE).is_file():
        with (run_dir / TABLE).open(newline="") as file:
            names = [row["sample"] for row in csv.DictReader(file)]
        yield f"{_unreadable(shards, names, fewest)} not readable, masked"
    for document in documents:
        if document.get("split") == split:
            unreadable = document.get("unreadable") or {}
            of_split = counts if document.get("data_fingerprint") == shards.fingerprint else {}
            yield f"evaluated ({document.get('data')}): {_told_of(document, of_split, fewest)}"
            if unreadable:
                yield f"{_unreadable(shards, unreadable, fewest)} not readable, left out"


def _told_of(document: Mapping[str, Any], of_split: Mapping[str, int | None], fewest: int) -> str:
    summary = told_summary(document.get("data_summary") or {}, of_split, fewest)
    counts = [f"{count} {name}" for name in ("patients", "studies", "films") if isinstance(count := summary.get(name), Told)]  # fmt: skip
    return ", ".join(counts) or "counts not recorded"


def flow_sheet(flow: Flow) -> Sheet:
    """The flow as rows: a step, then what was excluded from it."""
    rows: list[tuple[str, str]] = []
    for step in flow.steps:
        rows.append((step.name, str(step.count)))
        rows += [(f"  excluded: {reason}", str(count)) for reason, count in step.excluded.items()]
    for branch in flow.branches:
        rows += [(f"{branch.name} split", line) for line in branch.lines]
    return Sheet("exclusion_flow", "From the source tables to the films evaluated", ("step", "films"), rows)


def flow_drawing(flow: Flow) -> str:
    """The same as an SVG picture: steps down the left, what was taken away to the right, splits side by side below."""
    steps, asides, arrows, top = [], [], [], _PAD_PX
    for step in flow.steps:
        box = _box(0, top, [f"{step.name}: {step.count}"])
        arrows += [_down(steps[-1], box)] if steps else []
        steps.append(box)
        reasons = [f"{count} × {reason}" for reason, count in step.excluded.items()]
        if reasons:
            asides.append(_box(_BOX_PX + 2 * _GAP_PX, top, ["excluded", *reasons]))
            middle = box["y"] + box["height"] / 2
            arrows.append({"x1": _BOX_PX, "y1": middle, "x2": asides[-1]["x"], "y2": middle})
        top = max(each["y"] + each["height"] for each in (box, *asides)) + _GAP_PX
    splits = [
        _box(number * (_BOX_PX + _GAP_PX), top + _GAP_PX, [branch.name, *branch.lines])
        for number, branch in enumerate(flow.branches)
    ]
    boxes = [*steps, *asides, *splits]
    return render_page(
        "exclusion_flow.svg",
        boxes=boxes,
        arrows=[*arrows, *(_down(steps[-1], box) for box in splits)],
        width=max(box["x"] + box["width"] for box in boxes) + _PAD_PX,
        height=max(box["y"] + box["height"] for box in boxes) + _PAD_PX,
        line_px=_LINE_PX,
    )


def _down(above: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    """An arrow from the lower edge of one box to the upper edge of another."""
    half = _BOX_PX / 2
    return {
        "x1": above["x"] + half,
        "y1": above["y"] + above["height"],
        "x2": below["x"] + half,
        "y2": below["y"],
    }


def _box(x: int | float, y: int | float, lines: Sequence[str]) -> dict[str, Any]:
    shown = [line if len(line) <= _LETTERS else f"{line[: _LETTERS - 1]}…" for line in lines]
    return {"x": x, "y": y, "width": _BOX_PX, "height": _LINE_PX * len(lines) + 2 * _PAD_PX, "lines": shown}
