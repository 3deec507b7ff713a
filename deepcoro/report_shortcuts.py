"""What a model loses when it is shown less, as a table of the report; made by tools/shortcuts.py."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deepcoro.config import Block
from deepcoro.judged import listed
from deepcoro.numerals import decimals, is_missing, number, signed
from deepcoro.report_groups import Cell, CellRow
from deepcoro.report_tables import BASELINES, base_of
from deepcoro.statistics.directions import direction

FILE = "shortcuts.json"
WORDS = {
    "whole": "as it is",
    "first_frame": "first frame only",
    "middle_frame": "middle frame only",
    "shuffled_frames": "frames shuffled",
    "without_top_clip": "without the clip attended to most",
    "without_random_clip": "without a random clip",
    "metadata": "no film: metadata",
}
_HEADLINES = ("auroc", "macro_auroc", "auprc", "mae", "R@5", "pearson", "pearson_r", "f1")
_OF_NO_MODEL = re.compile(
    r"n|num.*|prevalence|threshold|certainty|mae_of_median|brier_of_prevalence|interval_half_width|interval_level"
    r"|.*_(ci_low|ci_high|chance|shuffled|control|n)|.*(?<!_above)_(modal|nearest)"
)
"""Last part of the names of counts, bounds, controls and of what val chose: with less to see there is nothing to hold beside them."""
_ON_ROWS_OF_ITS_OWN = re.compile(r"(captioning|clinical_findings)/.+|.+/selective/.+")
"""What rests on the rows that the model itself chose to speak of: the counts of the evaluation say nothing of how many these are here."""

Bounded = tuple[float, float, float]
"""A value and its 95 % interval."""


class Shortcuts(Block):
    """Numbers of one split."""

    split: str
    """Which one."""
    data_fingerprint: str = ""
    """Of the data that were shown; empty in files of earlier versions, as `checkpoint`."""
    checkpoint: str = ""
    """Step and digest of the weights."""
    numbers: dict[str, dict[str, float]]
    """What was shown (`whole`, `first_frame`, ...) -> flat metrics."""
    metadata_of: dict[str, str] = {}
    """Metric of `whole` -> the one of `metadata` that stands beside it."""
    paired: dict[str, dict[str, Bounded]] = {}
    """What was shown -> measure -> as it is, less that, over the same resampled patients; where both have the same rows."""
    gaps: dict[str, Bounded] = {}
    """Measure -> how much worse it is without the top clip than without a random one, and the interval."""
    notes: list[str] = []
    """What could not be had."""


@dataclass(frozen=True)
class ShortcutTable:
    """Ready to print."""

    split: str
    columns: list[str]
    rows: list[CellRow]
    """A measure each."""
    gaps: list[str]
    """A sentence a task."""
    notes: list[str]


def read_shortcuts(run_dir: Path) -> Shortcuts | None:
    path = run_dir / FILE
    return Shortcuts.model_validate(json.loads(path.read_text())) if path.is_file() else None


def shortcut_table(found: Shortcuts | None) -> ShortcutTable | None:
    """One row a headline metric; None where nothing was asked."""
    if found is None:
        return None
    names = shown_of(found)
    rows = [CellRow(key, [_cell(found, name, key) for name in names]) for key in headlines(found)]
    return ShortcutTable(found.split, [WORDS[name] for name in names], rows, _sentences(found), found.notes)


def shown_of(found: Shortcuts) -> list[str]:
    """What was shown, in the order of the columns."""
    return [name for name in WORDS if name in found.numbers]


def headlines(found: Shortcuts) -> list[str]:
    """Measures of the table."""
    return [key for key in found.numbers.get("whole", {}) if is_headline(key)]


def is_headline(key: str) -> bool:
    """Whether a number is one of those that are told with less to see."""
    return (
        key.rsplit("/", 1)[-1] in _HEADLINES
        and not key.startswith("by/")
        and not any(part in key for part in ("/control/", "/segment/"))
    )


def has_baseline(key: str) -> bool:
    """Whether a number is a measure of the model, which something can stand beside."""
    is_whole = not key.startswith(("by/", "speed/", "memory/")) and "/control/" not in key
    return is_whole and not _OF_NO_MODEL.fullmatch(key.rpartition("/")[2])


def value_of(found: Shortcuts, name: str, key: str) -> tuple[float | None, float | None, float | None]:
    """The measure and its interval when that was shown; of means over heads, which metadata have none of, what the difference says."""
    own = found.metadata_of.get(key, "") if name == "metadata" else key
    value, low, high = (found.numbers[name].get(f"{own}{end}") for end in ("", "_ci_low", "_ci_high"))
    if value is None and key in found.paired.get(name, {}):
        value = found.numbers["whole"][key] - found.paired[name][key][0]
    return value, low, high


def _cell(found: Shortcuts, name: str, key: str) -> Cell:
    value, low, high = value_of(found, name, key)
    notes = [] if None in (low, high) else [f"{decimals(low)} – {decimals(high)}"]
    if key in found.paired.get(name, {}):
        apart, low, high = found.paired[name][key]
        notes += [f"difference {signed(apart)}", f"{signed(low)} – {signed(high)}"]
    return Cell(decimals(value), notes)


def baselines(found: Shortcuts | None, document: Mapping[str, object]) -> dict[str, float]:
    """What stands beside the numbers of an evaluation (`document` of results/), under their names with a suffix; {} unless it was of the
    same checkpoint and films.
    """
    if found is None or not is_of(found, document):
        return {}
    beside = {}
    for suffix in BASELINES:
        name = suffix.removeprefix("_")
        for key in found.numbers["whole"] if name in found.numbers else ():
            value, _, _ = value_of(found, name, key)
            if has_baseline(key) and not is_missing(value):
                beside[f"{key}{suffix}"] = value
    return beside


def baselines_beside(found: Mapping[str, float], results: Mapping[str, float]) -> dict[str, float]:
    """Those of `baselines` whose number is among the results, and rests on the same rows as it."""
    return {
        key: value
        for key, value in found.items()
        if base_of(key) in results and not _ON_ROWS_OF_ITS_OWN.fullmatch(key)
    }


def is_of(found: Shortcuts, document: Mapping[str, object]) -> bool:
    """Whether an evaluation was of the same checkpoint and films."""
    return all(
        getattr(found, key) == document.get(key) for key in ("split", "data_fingerprint", "checkpoint")
    )


def how_to_measure(found: Shortcuts | None, document: Mapping[str, object]) -> str | None:
    """The command that brings the baselines, where an evaluation has none and could have."""
    metrics = document.get("metrics") or {}
    if not any(map(is_headline, metrics)) or found is not None and is_of(found, document):
        return None
    why = (
        "Not measured: what is left of these numbers on a still frame, and without any film."
        if found is None
        else "What was measured with less to see is of another checkpoint, split or data than the results of this page."
    )
    return f"{why} To measure it: python tools/shortcuts.py RUN --split {document.get('split')}"


def not_above_baselines(found: Shortcuts, results: Mapping[str, float]) -> Iterator[str]:
    """A sentence a baseline that measures among the results are not shown to be better than."""
    for suffix, words in BASELINES.items():
        paired = found.paired.get(suffix.removeprefix("_"), {})
        same = [key for key, apart in paired.items() if key in results and not _is_better(key, apart)]
        if same:
            yield f"Not shown to be better than {words.lower()}: {listed(same)}."


def _is_better(key: str, apart: Bounded) -> bool:
    """Of an error less is better."""
    _, low, high = apart
    return high < 0 if direction(key) == "min" else low > 0


def clips_taken(found: Shortcuts | None, document: Mapping[str, object]) -> list[str]:
    """What the clip attended to most is worth beside a random one, a sentence a measure; the command where this has not been measured."""
    if found is not None and is_of(found, document) and found.gaps:
        return _sentences(found)
    return [
        "Not measured of this checkpoint and split: whether the clip attended to most counts for more than a random one. To measure it: "
        f"python tools/shortcuts.py RUN --split {document.get('split')}"
    ]


def _sentences(found: Shortcuts) -> list[str]:
    said = []
    for measure, (gap, low, high) in found.gaps.items():
        verdict = (
            "hurts more than" if low > 0 else "hurts less than" if high < 0 else "is not told apart from"
        )
        said.append(
            f"{measure}: taking away the clip attended to most {verdict} taking away a random one "
            f"(worse by {number(gap)}, 95 % interval {number(low)} to {number(high)})."
        )
    return said
