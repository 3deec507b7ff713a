"""Which column of a table means what, and how its cells are read. Only what is named here can enter a shard."""

import fnmatch
import logging
import math
import re
from collections.abc import Sequence

from deepcoro.config import Block, ConfigError
from deepcoro.ingest.aliases import canonical_column
from deepcoro.sample import Side

logger = logging.getLogger(__name__)

_SIDES: dict[str, Side] = {
    "left": "left", "l": "left", "lca": "left", "left coronary": "left", "left_coronary": "left",
    "left coronary artery": "left", "coronaire gauche": "left", "gauche": "left",
    "right": "right", "r": "right", "rca": "right", "right coronary": "right", "right_coronary": "right",
    "right coronary artery": "right", "coronaire droite": "right", "droite": "right",
}  # fmt: skip

DEFAULT_LABELS = (
    "*_stenosis", "*_calcif", "*_cto", "*_thrombus", "*_stent", "*_collateral", "*_bifurcation",
    "*_IFRHYPEREMIE", "*_pcidone", "*_timi", "*_binary", "cto", "lvef", "dominance", "calcification", "syntax*",
    "contrast_agent", "stent_presence", "status", "main_structure", "mace*", "diabetes",
)  # fmt: skip
"""Label columns taken when none are named: coded findings, never free text."""

_LONGEST_WORD = 64
_NAME, _NUMBER = re.compile(r"[A-Za-z][\w.-]{0,39}"), re.compile(r"\d{4}")
"""What an error shows of a header, which may be a row: words without spaces, no dates and no record numbers."""


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
    structure: str | None = None
    """What the film shows: left or right coronary, graft, LV, ..."""
    status: str | None = None
    """diagnostic, PCI or POST_PCI."""
    contrast: str | None = None
    """Whether contrast agent is injected."""
    dominance: str | None = None
    """right, left or co."""
    labels: tuple[str, ...] = ()
    """Label columns."""


NAMES: dict[str, tuple[str, ...]] = {
    "path": ("FileName", "DICOMPath"),
    "study": ("StudyInstanceUID", "ss_event_cath_id", "study_id"),
    "patient": ("PatientID", "CathReport_MRN", "ss_patient_id", "patient_id", "subject_id"),
    "split": ("Split",),
    "report": ("Report",),
    "side": ("side", "main_structure", "main_structure_name", "main_structure_class"),
    "view": ("view", "view_name"),
    "primary_angle": ("primary_angle", "primary_angle_deg"),
    "secondary_angle": ("secondary_angle", "secondary_angle_deg"),
    "frame_rate": ("fps", "frame_rate_fps"),
    "structure": ("main_structure", "main_structure_name", "main_structure_class"),
    "status": ("status",),
    "contrast": ("contrast_agent", "contrast_agent_class"),
    "dominance": ("dominance", "coronary_dominance", "dominance_name", "dominance_class"),
}
"""Names looked for when a column is not given, first found first taken; then the same without regard to case, spaces and `_`."""


def find_roles(columns: Sequence[str], given: dict[str, str | None], labels: Sequence[str] | None) -> Roles:
    """Columns by meaning: those given must exist, the others are looked for under their usual names.

    `labels` are names or patterns (`*_stenosis`); None takes DEFAULT_LABELS. ConfigError names what is missing.
    """
    found = {role: find_column(role, columns, given.get(role)) for role in NAMES}
    for role in ("path", "study"):
        if found[role] is None:
            raise ConfigError(
                f"no column for the {role}: none of {list(NAMES[role])} is in the table; name it with --{role}_column;"
                f" the table has {shown_names(columns)}",
                topic="columns-of-tables",
            )
    private = {found[role] for role in ("path", "study", "patient", "split", "report")}
    return Roles(**found, labels=find_labels(columns, labels, private))


def tell_unread(columns: Sequence[str], roles: Roles) -> None:
    """Says which columns of a table go nowhere: a label of another name than the usual ones would be missed much later."""
    taken = {getattr(roles, role) for role in NAMES} | set(roles.labels)
    unread = [name for name in columns if name not in taken]
    if unread:
        logger.info(
            "columns that are not read: %s; name labels with --label_columns", shown_names(unread, columns)
        )


def find_column(role: str, columns: Sequence[str], given: str | None) -> str | None:
    """The column given, else the first of the usual names of the role that is there. ConfigError when the one given is not."""
    names = NAMES[role]
    if given is not None:
        if given not in columns:
            raise ConfigError(
                f"--{role}_column '{given}' is not in the table; it has {shown_names(columns)}",
                topic="columns-of-tables",
            )
        return given
    plain = {_plain(column): column for column in reversed(columns)}
    exact = next((name for name in names if name in columns), None)
    return exact or next((plain[_plain(name)] for name in names if _plain(name) in plain), None)


def _plain(name: str) -> str:
    """`File Name`, `file_name` and `FileName` are one name."""
    return re.sub(r"[\s_-]", "", name).casefold()


def find_labels(
    columns: Sequence[str], labels: Sequence[str] | None, private: set[str | None]
) -> tuple[str, ...]:
    """The label columns by name or pattern (None: the usual ones), without the private ones. ConfigError when one is not there."""
    wanted = DEFAULT_LABELS if labels is None else labels
    for pattern in labels or ():
        if not any(_matches(name, pattern) for name in columns):
            raise ConfigError(
                f"--label_columns: '{pattern}' is not in the table; it has {shown_names(columns)}",
                topic="columns-of-tables",
            )
        if pattern in private:
            raise ConfigError(
                f"--label_columns: '{pattern}' is read as path, id, split or report; it cannot be a label too"
            )
    return tuple(
        name for name in columns if name not in private and any(_matches(name, pattern) for pattern in wanted)
    )


def _matches(column: str, pattern: str) -> bool:
    """By the name in the table or the canonical one: `*_calcif` also takes `leftmain_calcification`."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in (column, canonical_column(column)))


def shown_names(columns: Sequence[str], header: Sequence[str] | None = None, most: int = 40) -> str:
    """These names of a header (None: they are the whole of it) for an error; none where not one of the header's is usual, since
    a table without a header begins with a patient's row."""
    usual = {name for names in NAMES.values() for name in names}
    if not usual.intersection(columns if header is None else header):
        return f"{len(columns)} columns of other names (is its first line the header?)"
    named = [name for name in columns if _NAME.fullmatch(name) and not _NUMBER.search(name)]
    rest = len(columns) - len(named[:most])
    return f"{named[:most]}{f' and {rest} more' if rest else ''}"


def side_of(cell: str | None) -> Side | None:
    """Left or right tree of a cell such as `Left Coronary`, `RCA`, `left`; None for any other structure."""
    return None if cell is None else _SIDES.get(cell.lower())


def view_of_cell(cell: str | None) -> str | None:
    """A projection's name in one spelling (`RAO Caudal` -> `RAO_CAUDAL`); None for what cannot be a name."""
    if cell is None or len(cell) > _LONGEST_WORD:
        return None
    return "_".join(cell.upper().replace("_", " ").split())


def number_of_cell(cell: str | None) -> float | None:
    """A finite number, with a point or (as French tables write it) a comma; None for anything else (Python reads `70_90` as 7090)."""
    try:
        number = float(cell.replace(",", ".", 1)) if cell is not None and "_" not in cell else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
