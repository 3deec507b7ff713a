"""One name for each label column and one word for each finding, whatever the table calls them. There is no other such list."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

from deepcoro.angiography.vocabulary import SEGMENTS
from deepcoro.config import ConfigError

_POSITIONS = {
    "prox": ("prox", "proximal", "proximale", "p"),
    "mid": ("mid", "middle", "moyenne", "m"),
    "dist": ("dist", "distal", "distale", "d"),
}
_VESSELS = {
    "rca": ("rca", "cd", "coronaire_droite"),
    "lad": ("lad", "iva", "left_anterior_descending"),
    "lcx": ("lcx", "cx", "circ", "circumflex", "circonflexe"),
}
_SEGMENT_ALIASES: dict[str, tuple[str, ...]] = {
    # A whole circumflex is its proximal segment in the tables that came before; other whole vessels have no such history.
    "prox_lcx": ("lcx", "cx"),
    "left_main": ("leftmain", "lm", "lmca", "left_main_coronary", "tronc_commun"),
    "D1": ("diagonal_1", "diag1", "first_diagonal", "diagonale_1"),
    "D2": ("diagonal_2", "diag2", "second_diagonal", "diagonale_2"),
    "om1": ("obtuse_marginal_1", "marginal_1", "marginale_1"),
    "om2": ("obtuse_marginal_2", "marginal_2", "marginale_2"),
    "bx": ("ramus", "ramus_intermedius", "intermediate", "ri", "bissectrice"),
    "pda": ("posterior_descending", "ivp"),
    "posterolateral": ("pl", "plv", "rpl", "posterolaterale"),
    "lvp": ("lpl", "left_posterolateral"),
}

OTHER_LEFT = ("lad", "D3", "om3", "septal")
OTHER_RIGHT = ("rca", "RVG1", "RVG2", "right_marginal")
GRAFTS = ("lima_or_svg", "lima", "rima", "svg", "graft")
"""Vessels beyond the eighteen segments that tables have columns for."""

SUFFIXES: dict[str, tuple[str, ...]] = {
    "stenosis": ("stenosis", "stenose", "sténose", "stenosis_percent", "percent_stenosis"),
    "stenosis_binary": ("stenosis_binary",),
    "qca": ("qca",),
    "calcif": ("calcif", "calcification", "calcifications"),
    "calcif_binary": ("calcif_binary", "calcification_binary"),
    "cto": ("cto",),
    "thrombus": ("thrombus",),
    "stent": ("stent",),
    "bifurcation": ("bifurcation",),
    "collateral": ("collateral", "collaterals"),
    "IFRHYPEREMIE": ("ifrhyperemie", "ifr_hyperemie", "ifr"),
    "pcidone": ("pcidone", "pci_done"),
    "timi": ("timi",),
}
"""What is said of a segment: column suffix and the ways to write it."""

_WHOLE_NAMES: dict[str, tuple[str, ...]] = {
    "cto": (),
    "dominance": ("coronary_dominance", "dominance_class"),
    "contrast_agent": ("contrast_agent_class",),
    "stent_presence": ("stent_presence_class",),
    "main_structure": ("main_structure_class",),
    "lvef": ("ef", "ejection_fraction"),
}

TRUE = ("1", "true", "yes", "oui", "vrai", "present", "présent", "présente")
FALSE = ("0", "false", "no", "non", "faux", "absent", "absente")
"""Words of a yes-or-no column, besides 1.0 and 0.0."""

GRADES: dict[str, tuple[str, ...]] = {
    "none": ("0", "none", "no", "aucune", "absente", "absentes", "pas de calcification", "pas de calcifications"),
    "mild": ("1", "mild", "minime", "minimes", "légère", "légères", "legere", "legeres"),
    "moderate": ("2", "moderate", "modérée", "modérées", "moderee", "moderees"),
    "severe": ("3", "severe", "heavy", "importante", "importantes", "sévère", "sévères"),
}  # fmt: skip
"""Grades of calcification; the numbers are those of the predecessor's tables."""

STRUCTURES = (
    *("Left Coronary", "Right Coronary", "Other", "Graft", "Catheter", "Femoral"),
    *("LV", "TAVR", "Aorta", "Radial", "TEE probe", "Pigtail"),
)
"""What a film shows, by the class numbers 0 to 11 of the predecessor's tables."""

WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "dominance": {
        "right": ("right", "0", "right dominant", "right-dominant", "droite", "r"),
        "left": ("left", "1", "left dominant", "left-dominant", "gauche", "l"),
        "co": ("co", "codominant", "co-dominant", "balanced", "codominance", "équilibrée"),
    },
    "status": {
        "diagnostic": ("diagnostic",),
        "PCI": ("pci",),
        "POST_PCI": ("post_pci", "post-pci", "post pci"),
    },
    "main_structure": {name: (str(number), name.replace(" ", "_")) for number, name in enumerate(STRUCTURES)}
    | {
        "Left Coronary": ("0", "left_coronary", "left", "lca", "left coronary artery", "coronaire gauche"),
        "Right Coronary": (
            "1",
            "right_coronary",
            "right",
            "rca",
            "right coronary artery",
            "coronaire droite",
        ),
        "Graft": ("3", "bypass", "bypass graft", "bypass_graft", "pontage", "lima", "svg"),
        "LV": ("6", "left ventricle", "left_ventricle", "ventriculography", "ventriculographie"),
    },
    "bifurcation": {"none": ("none", "pas de lésion de bifurcation", "pas de lesion de bifurcation")},
}
"""The words that columns of this name (or suffix) know; others stay as they are."""


def _lookup(table: Mapping[str, Iterable[str]]) -> dict[str, str]:
    return {alias.lower(): name for name, aliases in table.items() for alias in (name, *aliases)}


def _segments() -> dict[str, str]:
    names = {prefix.lower(): prefix for prefix in (*SEGMENTS, *OTHER_LEFT, *OTHER_RIGHT, *GRAFTS)}
    for position, vessel in itertools.product(_POSITIONS, _VESSELS):
        for one, other in itertools.product(_POSITIONS[position], _VESSELS[vessel]):
            joined = (f"{one}_{other}", f"{other}_{one}", f"{one}{other}")
            names |= dict.fromkeys(joined, f"{position}_{vessel}")
    return names | _lookup(_SEGMENT_ALIASES)


_SEGMENT_OF = _segments()
_SUFFIX_OF = _lookup(SUFFIXES)
_WHOLE_OF = _lookup(_WHOLE_NAMES)
_BY_LENGTH = sorted(_SUFFIX_OF, key=len, reverse=True)


def split_column(column: str) -> tuple[str, str] | None:
    """(segment, suffix) of a canonical or aliased column such as `leftmain_calcification`; None for any other."""
    plain = re.sub(r"[\s\-.]+", "_", column.strip()).lower()
    for suffix in _BY_LENGTH:
        segment = _SEGMENT_OF.get(plain.removesuffix(f"_{suffix}"))
        if plain.endswith(f"_{suffix}") and segment is not None:
            return segment, _SUFFIX_OF[suffix]
    return None


def canonical_column(column: str) -> str:
    """`lcx_stenosis` -> `prox_lcx_stenosis`, `OM1_cto` -> `om1_cto`; a name without an alias is its own."""
    parts = split_column(column)
    if parts is not None:
        return "_".join(parts)
    return _WHOLE_OF.get(column.strip().lower(), column)


def canonical_columns(columns: Sequence[str]) -> dict[str, str]:
    """Canonical name of each column. ConfigError when two columns of the table mean the same, naming both."""
    first: dict[str, str] = {}
    for column in columns:
        name = canonical_column(column)
        earlier = first.setdefault(name, column)
        if earlier != column:
            raise ConfigError(
                f"columns '{earlier}' and '{column}' both mean '{name}'; keep one of them, or rename the other",
                topic="columns-of-tables",
            )
    return {column: name for name, column in first.items()}


def known_words(column: str) -> dict[str, str]:
    """Word as written (lower case) -> canonical word, for a canonical column; empty where any word may stand."""
    parts = split_column(column)
    return _lookup(WORDS.get(parts[1] if parts else column, {}))


def grade_words() -> dict[str, str]:
    return _lookup(GRADES)


def structure_of(cell: str | None) -> str | None:
    """One of STRUCTURES for a word or class number; `Other` for a word that is none of them; None when not known."""
    return None if cell is None else known_words("main_structure").get(_plain(cell), "Other")


def is_structure(cell: str) -> bool:
    """Whether the word or class number is one of those known."""
    return _plain(cell) in known_words("main_structure")


def _plain(cell: str) -> str:
    return cell.lower().removesuffix(".0")
