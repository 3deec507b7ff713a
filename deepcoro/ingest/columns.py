"""Which column of a table means what, and how its cells are read. Only what is named here can enter a shard."""

import fnmatch
import math
from collections.abc import Sequence

from deepcoro.config import Block, ConfigError
from deepcoro.sample import Side

_SIDES: dict[str, Side] = {
    "left": "left", "l": "left", "lca": "left", "left coronary": "left", "left_coronary": "left",
    "right": "right", "r": "right", "rca": "right", "right coronary": "right", "right_coronary": "right",
}  # fmt: skip

_FINDINGS = (
    "*_stenosis", "*_calcif", "*_cto", "*_thrombus", "*_stent", "*_collateral", "*_bifurcation",
    "*_IFRHYPEREMIE", "*_pcidone", "*_binary", "cto", "lvef", "dominance", "calcification", "syntax*",
)  # fmt: skip
DEFAULT_LABELS = (
    *_FINDINGS,
    "contrast_agent",
    "stent_presence",
    "status",
    "main_structure",
    "mace*",
    "diabetes",
)
"""Label columns taken when none are named: coded findings, never free text."""

_TRUTH = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}
_LONGEST_WORD = 64


class Roles(Block):
    """The column for each meaning; None where the table has none."""

    path: str
    """Film file, absolute or relative to the table's folder."""
    study: str
    """Study: its rows become one sample."""
    patient: str | None = None
    """Patient: never split."""
    split: str | None = None
    """train, val, test or inference."""
    report: str | None = None
    """The text."""
    side: str | None = None
    """Coronary tree."""
    view: str | None = None
    """Projection name."""
    primary_angle: str | None = None
    """LAO positive, degrees."""
    secondary_angle: str | None = None
    """Cranial positive, degrees."""
    frame_rate: str | None = None
    """Frames per second, for files that do not tell it."""
    labels: tuple[str, ...] = ()
    """Label columns."""


NAMES: dict[str, tuple[str, ...]] = {
    "path": ("FileName", "DICOMPath"),
    "study": ("StudyInstanceUID", "ss_event_cath_id"),
    "patient": ("PatientID", "CathReport_MRN", "ss_patient_id"),
    "split": ("Split",),
    "report": ("Report",),
    "side": ("side", "main_structure"),
    "view": ("view", "view_name"),
    "primary_angle": ("primary_angle", "primary_angle_deg"),
    "secondary_angle": ("secondary_angle", "secondary_angle_deg"),
    "frame_rate": ("fps", "frame_rate_fps"),
}
"""Names looked for when a column is not given, first found first taken."""


def find_roles(columns: Sequence[str], given: dict[str, str | None], labels: Sequence[str] | None) -> Roles:
    """Columns by meaning: those given must exist, the others are looked for under their usual names.

    `labels` are names or patterns (`*_stenosis`); None takes DEFAULT_LABELS. ConfigError names what is missing.
    """
    found = {role: _find(role, names, columns, given.get(role)) for role, names in NAMES.items()}
    for role in ("path", "study"):
        if found[role] is None:
            raise ConfigError(
                f"no column for the {role}: none of {list(NAMES[role])} is in the table; name it with --{role}_column;"
                f" the table has {_shown(columns)}"
            )
    private = {found["path"], found["study"], found["patient"], found["split"], found["report"]}
    return Roles(**found, labels=_find_labels(columns, labels, private))


def _find(role: str, names: Sequence[str], columns: Sequence[str], given: str | None) -> str | None:
    if given is not None:
        if given not in columns:
            raise ConfigError(f"--{role}_column '{given}' is not in the table; it has {_shown(columns)}")
        return given
    return next((name for name in names if name in columns), None)


def _find_labels(
    columns: Sequence[str], labels: Sequence[str] | None, private: set[str | None]
) -> tuple[str, ...]:
    wanted = DEFAULT_LABELS if labels is None else labels
    for pattern in labels or ():
        if not fnmatch.filter(columns, pattern):
            raise ConfigError(f"--label_columns: '{pattern}' is not in the table; it has {_shown(columns)}")
        if pattern in private:
            raise ConfigError(
                f"--label_columns: '{pattern}' is read as path, id, split or report; it cannot be a label too"
            )
    return tuple(
        name
        for name in columns
        if name not in private and any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
    )


def _shown(columns: Sequence[str], most: int = 40) -> str:
    rest = f" and {len(columns) - most} more" if len(columns) > most else ""
    return f"{list(columns[:most])}{rest}"


def side_of(cell: str | None) -> Side | None:
    """Left or right tree of a cell such as `Left Coronary`, `RCA`, `left`; None for any other structure."""
    return None if cell is None else _SIDES.get(cell.lower())


def view_of_cell(cell: str | None) -> str | None:
    """A projection's name in one spelling (`RAO Caudal` -> `RAO_CAUDAL`); None for what cannot be a name."""
    if cell is None or len(cell) > _LONGEST_WORD:
        return None
    return "_".join(cell.upper().replace("_", " ").split())


def number_of_cell(cell: str | None) -> float | None:
    try:
        number = float(cell) if cell is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def label_of(column: str, cell: str | None) -> float | str | None:
    """A number where the cell is one (true and false are 1 and 0), else the word; None = not assessed.

    The findings' sentinel -1 (any negative) is not assessed: read as a number it would train as a healthy vessel.
    """
    if cell is None:
        return None
    number = _TRUTH.get(cell.lower(), number_of_cell(cell))
    if number is None:
        return None if cell.lower() in ("inf", "-inf", "infinity") else cell
    negative_is_missing = any(fnmatch.fnmatchcase(column, pattern) for pattern in _FINDINGS)
    return None if negative_is_missing and number < 0 else number
