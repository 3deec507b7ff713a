"""From the rows of the source tables to the films evaluated: every exclusion with its count, as a table and as a drawing."""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcoro.aggregates import is_small
from deepcoro.config import DataError
from deepcoro.data.collection import Collection
from deepcoro.data.damage import TABLE
from deepcoro.data.manifest import read_refused
from deepcoro.data.summary import outcome, reason_word
from deepcoro.page import render_page
from deepcoro.paper.sheets import Sheet

_LINE_PX, _BOX_PX, _GAP_PX, _PAD_PX = 18, 370, 26, 10
_LETTERS = 52
"""Of a line that fits into a box."""


@dataclass(frozen=True)
class Step:
    """A number of films, and what was taken away to reach the next one."""

    name: str
    count: int
    excluded: Mapping[str, int]
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
    reasons = Counter(f"{reason_word(reason)} ({outcome(reason)})" for reason in refused)
    record = shards.record()["splits"]
    kept, dropped = (sum(counts[name] for counts in record.values()) for name in ("films", "dropped"))
    steps = [
        Step("rows of the source tables", sharded + len(refused), dict(reasons.most_common())),
        Step("films in shards", sharded, {f"data.where: not {shards.where}": dropped} if dropped else {}),
        Step("films of this run", kept, {}),
    ]
    counted = sum(manifest.counts.rejected_clips for manifest in manifests)
    if counted != len(refused) or kept + dropped != sharded:
        raise DataError(
            f"the flow does not add up: {counted} rows refused by the manifest, {len(refused)} in rejected.csv; {sharded} films "
            f"in the manifest, {kept + dropped} in splits.csv; copy the shard folder again",
            topic="shards-changed",
        )
    branches = [
        Branch(split, list(_branch(shards, split, run_dir, documents, fewest))) for split in shards.splits
    ]
    return Flow(steps, branches)


def _branch(
    shards: Collection, split: str, run_dir: Path, documents: Sequence[Mapping[str, Any]], fewest: int
) -> Iterator[str]:
    units = shards.units(split, True, 1)
    if shards.patient_split == "verified":
        yield f"{told(len(units.patients), fewest)} patients"
    yield f"{told(len(units), fewest)} studies"
    yield f"{told(int(units.num_clips.sum()), fewest)} films"
    if split == "train" and (run_dir / TABLE).is_file():
        with (run_dir / TABLE).open(newline="") as file:
            damaged = sum(1 for _ in csv.DictReader(file))
        yield f"{told(damaged, fewest)} not readable, masked"
    for document in documents:
        if document.get("split") == split:
            unreadable = len(document.get("unreadable") or {})
            yield f"evaluated ({document.get('data')}): {_told_of(document, fewest)}"
            if unreadable:
                yield f"{told(unreadable, fewest)} not readable, left out"


def _told_of(document: Mapping[str, Any], fewest: int) -> str:
    summary = document.get("data_summary") or {}
    counts = [
        f"{told(count, fewest)} {name}"
        for name in ("patients", "studies", "films")
        if isinstance(count := summary.get(name), int)
    ]
    return ", ".join(counts) or "counts not recorded"


def told(count: int, fewest: int) -> str:
    return f"fewer than {fewest}" if is_small(count, fewest) else f"{count:,}"


def flow_sheet(flow: Flow, fewest: int) -> Sheet:
    """The flow as rows: a step, then what was excluded from it."""
    rows: list[tuple[str, str]] = []
    for step in flow.steps:
        rows.append((step.name, told(step.count, fewest)))
        rows += [(f"  excluded: {reason}", told(count, fewest)) for reason, count in step.excluded.items()]
    for branch in flow.branches:
        rows += [(f"{branch.name} split", line) for line in branch.lines]
    return Sheet("exclusion_flow", "From the source tables to the films evaluated", ("step", "films"), rows)


def flow_drawing(flow: Flow, fewest: int) -> str:
    """The same as an SVG picture: steps down the left, what was taken away to the right, splits side by side below."""
    steps, asides, arrows, top = [], [], [], _PAD_PX
    for step in flow.steps:
        box = _box(0, top, [f"{step.name}: {told(step.count, fewest)}"])
        arrows += [_down(steps[-1], box)] if steps else []
        steps.append(box)
        reasons = [f"{told(count, fewest)} × {reason}" for reason, count in step.excluded.items()]
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
