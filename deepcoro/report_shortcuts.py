"""What a model loses when it is shown less, as a table of the report; made by tools/shortcuts.py."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepcoro.config import Block
from deepcoro.numerals import number

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
_HEADLINES = ("auroc", "macro_auroc", "auprc", "mae", "R@5", "pearson", "f1")
_BOUNDS = ("_ci_low", "_ci_high")


class Shortcuts(Block):
    """Numbers of one split."""

    split: str
    """Which one."""
    numbers: dict[str, dict[str, float]]
    """What was shown (`whole`, `first_frame`, ...) -> flat metrics."""
    metadata_of: dict[str, str] = {}
    """Metric of `whole` -> the one of `metadata` that stands beside it."""
    gaps: dict[str, tuple[float, float, float]] = {}
    """Measure -> how much worse it is without the top clip than without a random one, and the interval."""
    notes: list[str] = []
    """What could not be had."""


@dataclass(frozen=True)
class ShortcutTable:
    """Ready to print."""

    split: str
    columns: list[str]
    rows: list[list[str]]
    """Name of the measure, then a value and its interval a column."""
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
    names = [name for name in WORDS if name in found.numbers]
    keys = [key for key in found.numbers.get("whole", {}) if _is_headline(key)]
    rows = [[key, *(_cell(found.numbers[name], _key(found, name, key)) for name in names)] for key in keys]
    return ShortcutTable(found.split, [WORDS[name] for name in names], rows, _sentences(found), found.notes)


def _is_headline(key: str) -> bool:
    return key.rsplit("/", 1)[-1] in _HEADLINES and not key.startswith("by/") and "/control/" not in key


def _key(found: Shortcuts, name: str, key: str) -> str:
    return found.metadata_of.get(key, "") if name == "metadata" else key


def _cell(numbers: Mapping[str, float], key: str) -> str:
    value = numbers.get(key)
    bounds = [numbers.get(f"{key}{end}") for end in _BOUNDS]
    if value is None or None in bounds:
        return number(value)
    return f"{number(value)} ({number(bounds[0])} – {number(bounds[1])})"


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
