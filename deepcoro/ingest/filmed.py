"""Which findings a film can show at all. A label of what was not filmed is not assessed, whatever the table repeats on every row."""

import functools
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from deepcoro.angiography.vocabulary import DOMINANCES, SEGMENTS, Dominance, Side, segments_of
from deepcoro.config import DataError
from deepcoro.ingest import aliases
from deepcoro.ingest.columns import Roles, number_of_cell, side_of
from deepcoro.ingest.table import NONE, Cells, Table

logger = logging.getLogger(__name__)

Reason = Literal[
    "other tree", "absent segment", "unknown tree", "other structure", "no contrast", "during intervention"
]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""Why a label of the table was set to not assessed."""

_CORONARY = (
    "cto",
    "stenosis",
    "max_stenosis",
    "calcification",
    "thrombus",
    "stenosis_binary",
    "stenosis_severe",
)
"""Findings of a tree that name no segment."""


class Shown(NamedTuple):
    """What is known of a film, as far as its labels depend on it."""

    side: Side | None = None
    """Tree."""
    structure: str | None = None
    """One of aliases.STRUCTURES."""
    has_contrast: bool | None = None
    """Whether contrast agent is injected."""
    is_intervention: bool = False
    """Filmed in the middle of a PCI."""
    dominance: Dominance | None = None
    """Of the patient."""
    both_trees: bool = False
    """The study has films of the other tree too."""
    tells_side: bool = True
    """The table has a column that could tell the tree: then a film without one is of an unknown tree."""

    def is_of_tree(self, side: Side) -> bool:
        """Whether the film shows that tree as the diagnosis saw it."""
        return self.side == side and not self.is_intervention and self.has_contrast is not False


@functools.cache
def place_of(column: str) -> str | None:
    """Where the finding of a canonical column lies: a segment's prefix, `left`, `right`, `graft` or `coronary`; None: not in a vessel."""
    if column in _CORONARY:
        return "coronary"
    for side in ("left", "right"):
        if column == f"syntax_{side}" or column.startswith(f"syntax_{side}_"):
            return side
    segment = _segment_of(column)
    if segment is None or segment in SEGMENTS:
        return segment
    if segment in aliases.GRAFTS:
        return "graft"
    return "left" if segment in aliases.OTHER_LEFT else "right"


def _segment_of(column: str) -> str | None:
    """Also of columns whose suffix only the user knows, such as `mid_lad_ffr`."""
    parts = aliases.split_column(column)
    if parts is not None:
        return parts[0]
    known = (*SEGMENTS, *aliases.OTHER_LEFT, *aliases.OTHER_RIGHT, *aliases.GRAFTS)
    return next((segment for segment in known if column.startswith(f"{segment}_")), None)


def reason_against(column: str, film: Shown) -> Reason | None:
    """Why this film cannot show the finding; None when it can, or when the column is no finding of a vessel."""
    place = place_of(column)
    if place is None:
        return None
    if film.is_intervention:
        return "during intervention"
    if film.has_contrast is False:
        return "no contrast"
    if place == "graft":
        return None if film.structure in (None, "Graft") else "other structure"
    if film.structure is not None and not film.structure.endswith("Coronary"):
        return "other structure"
    return None if place == "coronary" else _reason_of_tree(place, film)


def _reason_of_tree(place: str, film: Shown) -> Reason | None:
    if film.side is None:
        return "unknown tree" if film.tells_side else None
    if place in ("left", "right"):
        return None if place == film.side else "other tree"
    trees = _trees_of(place, film)
    if not trees:
        return "unknown tree" if film.dominance is None else "absent segment"
    return None if film.side in trees else "other tree"


def _trees_of(segment: str, film: Shown) -> set[Side]:
    """The tree that feeds the segment; none when this heart has no such segment.

    Where the dominance is not known and decides (PDA, posterolateral branches), the segment was certainly filmed only if
    both trees were. It then stands on the films of its usual tree, which nine hearts in ten have; else nowhere.
    """
    if film.dominance is not None:
        return {side for side in ("left", "right") if segment in segments_of(side, film.dominance)}
    per_heart = [
        {side for side in ("left", "right") if segment in segments_of(side, dominance)}
        for dominance in DOMINANCES
    ]
    if all(trees == per_heart[0] for trees in per_heart):
        return per_heart[0]
    return {_USUAL[segment]} if film.both_trees else set()


_USUAL: dict[str, Side] = {"pda": "right", "posterolateral": "right", "lvp": "left"}


_ROLES = ("side", "structure", "status", "contrast", "dominance")


class ShownReader:
    """Reads what each film shows; knows of the whole study which trees were filmed and which dominance its rows agree on."""

    def __init__(self, table: Table, roles: Roles, not_assessed_status: Sequence[str]) -> None:
        columns = {role: getattr(roles, role) for role in _ROLES}
        self._given = [role for role in _ROLES if columns[role] is not None]
        self._pick = table.picker([columns[role] for role in self._given])
        self._study = roles.study
        self._tells_side = roles.side is not None or roles.structure is not None
        self._interventions = {status.lower() for status in not_assessed_status}
        self._unknown: set[str] = set()
        self._known: dict[tuple[str | None, ...], Shown] = {}
        self._trees: dict[str, set[Side]] = {}
        self._dominances: dict[str, set[Dominance]] = {}
        for number, row in enumerate(table.rows, start=1):
            if row is not None and (study := row[roles.study]) is not None:
                self._note(study, self._film(number, row))
        if self._unknown:
            logger.warning(
                "%d words for the main structure are none of %s: such films are taken as Other, which shows no coronary finding",
                len(self._unknown),
                list(aliases.STRUCTURES),
            )

    def _note(self, study: str, film: Shown) -> None:
        if film.side is not None and film.is_of_tree(film.side):
            self._trees.setdefault(study, set()).add(film.side)
        if film.dominance is not None:
            self._dominances.setdefault(study, set()).add(film.dominance)

    def read(self, number: int, row: Cells) -> Shown:
        """DataError when row `number` calls one film left and right."""
        film = self._film(number, row)
        study = str(row[self._study])
        dominances = self._dominances.get(study, set())
        return film._replace(
            dominance=next(iter(dominances)) if len(dominances) == 1 else None,
            both_trees=len(self._trees.get(study, ())) == 2,
        )

    def _film(self, number: int, row: Cells) -> Shown:
        """What the row alone tells; equal cells are read once."""
        cells = self._pick(row)
        film = self._known.get(cells)
        if film is None:
            told = {role: cell for role, cell in zip(self._given, cells, strict=True) if cell != NONE}
            film = self._known[cells] = self._understand(number, told)
        return film

    def _understand(self, number: int, cells: Mapping[str, str | None]) -> Shown:
        told = {_FACTS[role]: cell for role, cell in cells.items()}
        film = shown_by(told, self._tells_side, self._interventions)
        word = cells.get("structure")
        if film.structure == "Other" and word is not None and not aliases.is_structure(word):
            self._unknown.add(word)
        of_structure = side_of(film.structure)
        if of_structure is not None and film.side != of_structure:
            raise DataError(
                f"row {number}: the side says {film.side}, the main structure {film.structure}; correct one, or name"
                " another --side_column"
            )
        return film


_FACTS = {
    "side": "side", "structure": "main_structure", "status": "status", "contrast": "contrast_agent",
    "dominance": "dominance",
}  # fmt: skip
"""Role -> canonical column."""


def shown_by(
    facts: Mapping[str, str | None], tells_side: bool, interventions: Collection[str] = ("pci",)
) -> Shown:
    """What these cells (canonical column -> cell; absent is not known) tell of a film. `interventions` in small letters."""
    structure = aliases.structure_of(facts.get("main_structure"))
    return Shown(
        side=side_of(facts.get("side")) or side_of(structure),
        structure=structure,
        has_contrast=_is_true(facts.get("contrast_agent")),
        is_intervention=_status(facts.get("status")).lower() in interventions,
        dominance=aliases.known_words("dominance").get(_code(facts.get("dominance"))),
        tells_side=tells_side,
    )


def _is_true(cell: str | None) -> bool | None:
    code = _code(cell)
    return True if code in aliases.TRUE else False if code in aliases.FALSE else None


def _status(cell: str | None) -> str:
    return aliases.known_words("status").get(_code(cell), _code(cell))


def _code(cell: str | None) -> str:
    """1, 1.0 and "1" are one code; words in small letters."""
    number = number_of_cell(cell)
    return (cell or "").lower() if number is None else f"{number:g}"
