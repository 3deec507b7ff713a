"""The words of coronary angiography: segments, dominance, severities, projections. Everything else speaks with these."""

from dataclasses import dataclass
from typing import Literal, get_args

Side = Literal["left", "right"]
Dominance = Literal["right", "left", "co"]
Severity = Literal["none", "mild", "moderate", "severe", "critical"]
Calcification = Literal["none", "mild", "moderate", "severe"]

SIDES: tuple[Side, ...] = get_args(Side)
DOMINANCES: tuple[Dominance, ...] = get_args(Dominance)
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
CALCIFICATIONS: tuple[Calcification, ...] = get_args(Calcification)


@dataclass(frozen=True)
class Segment:
    """A named piece of the coronary tree.

    `prefix` starts its label columns, `name` is its phrase in reports, `short` an abbreviation that reports also use.
    `syntax_weights` are the SYNTAX segment weights in right- and left-dominant hearts.
    """

    prefix: str
    name: str
    short: str
    syntax_id: str
    syntax_weights: tuple[float, float]


# SYNTAX score tutorial, syntaxscore.org. It knows no co-dominance: those hearts take the right-dominant weights.
_SEGMENTS = (
    Segment("prox_rca", "proximal RCA", "pRCA", "1", (1.0, 0.0)),
    Segment("mid_rca", "mid RCA", "mRCA", "2", (1.0, 0.0)),
    Segment("dist_rca", "distal RCA", "dRCA", "3", (1.0, 0.0)),
    Segment("pda", "posterior descending artery", "PDA", "4", (1.0, 1.0)),
    Segment("posterolateral", "posterolateral branch", "PL", "16", (0.5, 0.0)),
    Segment("left_main", "left main", "LMCA", "5", (5.0, 6.0)),
    Segment("prox_lad", "proximal LAD", "pLAD", "6", (3.5, 3.5)),
    Segment("mid_lad", "mid LAD", "mLAD", "7", (2.5, 2.5)),
    Segment("dist_lad", "distal LAD", "dLAD", "8", (1.0, 1.0)),
    Segment("D1", "first diagonal", "D1", "9", (1.0, 1.0)),
    Segment("D2", "second diagonal", "D2", "10", (0.5, 0.5)),
    Segment("prox_lcx", "proximal LCx", "pLCx", "11", (1.5, 2.5)),
    Segment("mid_lcx", "mid LCx", "mLCx", "11", (1.5, 2.5)),
    Segment("dist_lcx", "distal LCx", "dLCx", "13", (0.5, 1.5)),
    Segment("om1", "first obtuse marginal", "OM1", "12a", (1.0, 1.0)),
    Segment("om2", "second obtuse marginal", "OM2", "12b", (1.0, 1.0)),
    Segment("bx", "ramus intermedius", "RI", "12", (1.0, 1.0)),
    Segment("lvp", "left posterolateral branch", "LPL", "14", (0.0, 1.0)),
)
SEGMENTS: dict[str, Segment] = {segment.prefix: segment for segment in _SEGMENTS}

_RIGHT_TREE: dict[Dominance, tuple[str, ...]] = {
    "right": ("prox_rca", "mid_rca", "dist_rca", "pda", "posterolateral"),
    "co": ("prox_rca", "mid_rca", "dist_rca", "pda"),
    "left": ("prox_rca", "mid_rca", "dist_rca"),
}
_LEFT_STEM = (
    *("left_main", "prox_lad", "mid_lad", "dist_lad", "D1", "D2"),
    *("prox_lcx", "mid_lcx", "dist_lcx", "om1", "om2", "bx"),
)
_LEFT_TREE: dict[Dominance, tuple[str, ...]] = {
    "right": _LEFT_STEM,
    "co": (*_LEFT_STEM, "lvp"),
    "left": (*_LEFT_STEM, "pda", "lvp"),
}


def segments_of(side: Side, dominance: Dominance) -> tuple[str, ...]:
    """Prefixes of the segments that one tree may have, in anatomical order (the ramus, `bx`, is a common variant)."""
    return (_LEFT_TREE if side == "left" else _RIGHT_TREE)[dominance]


def syntax_id(prefix: str, dominance: Dominance) -> str:
    """SYNTAX number of a segment; the posterior descending artery is 4 in a right-, 15 in a left-dominant heart."""
    return "15" if prefix == "pda" and dominance == "left" else SEGMENTS[prefix].syntax_id


_SEVERITY_FLOORS: tuple[tuple[float, Severity], ...] = (
    (90.0, "critical"),
    (70.0, "severe"),
    (50.0, "moderate"),
)


def severity_floor(severity: Literal["moderate", "severe", "critical"]) -> float:
    """Smallest diameter stenosis of a bin, percent: the one place where 50, 70 and 90 are written down."""
    return next(floor for floor, name in _SEVERITY_FLOORS if name == severity)


def severity_of(stenosis_percent: float | int) -> Severity:
    """Bin of a diameter stenosis in percent (0-100): a bin begins at its floor, so 70 is severe and 69.9 moderate."""
    if not 0 <= stenosis_percent <= 100:
        raise ValueError(
            f"stenosis_percent is {stenosis_percent}; allowed: 0 to 100 (missing is None, never -1)"
        )
    for floor, severity in _SEVERITY_FLOORS:
        if stenosis_percent >= floor:
            return severity
    return "mild" if stenosis_percent > 0 else "none"


@dataclass(frozen=True)
class Projection:
    """A standard C-arm position. Primary angle: LAO positive, RAO negative; secondary: cranial positive, caudal negative."""

    primary_deg: float
    secondary_deg: float


PROJECTIONS: dict[Side, tuple[Projection, ...]] = {
    "left": (
        Projection(-30.0, -25.0),  # RAO caudal: left main bifurcation, circumflex, marginals
        Projection(-5.0, 38.0),  # AP cranial: mid and distal LAD, diagonals
        Projection(45.0, -30.0),  # LAO caudal, the "spider": left main, proximal LAD and LCx
        Projection(40.0, 28.0),  # LAO cranial: LAD and diagonal bifurcations
        Projection(0.0, -30.0),  # AP caudal: left main, proximal LCx
        Projection(-30.0, 0.0),  # RAO
        Projection(90.0, 0.0),  # left lateral: mid LAD
    ),
    "right": (
        Projection(45.0, 0.0),  # LAO: proximal and mid RCA, a "C"
        Projection(-30.0, 0.0),  # RAO: mid RCA, an "L"
        Projection(5.0, 25.0),  # AP cranial: crux, PDA, posterolateral
        Projection(45.0, 25.0),  # LAO cranial
    ),
}

_STRAIGHT_DEG = 10.0
_LATERAL_DEG = 75.0


def view_of(primary_deg: float | int, secondary_deg: float | int) -> str:
    """Name of a projection from its angles: `RAO_CAU`, `AP_CRA`, `LAO`, `LAT` ... (below 10 degrees counts as straight)."""
    if abs(primary_deg) < _STRAIGHT_DEG:
        first = "AP"
    elif abs(primary_deg) >= _LATERAL_DEG:
        first = "LAT"
    else:
        first = "LAO" if primary_deg > 0 else "RAO"
    if abs(secondary_deg) < _STRAIGHT_DEG:
        return first
    return f"{first}_{'CRA' if secondary_deg > 0 else 'CAU'}"


_PRIMARY_DEG = {
    "AP": 0.0,
    "PA": 0.0,
    "LAO": 45.0,
    "RAO": -30.0,
    "LAT": 90.0,
    "LAO_LAT": 90.0,
    "RAO_LAT": -90.0,
}
_SECONDARY_DEG = {"STRAIGHT": 0.0, "CRA": 30.0, "CAU": -30.0}
_SPELLINGS = {"CRANIAL": "CRA", "CAUDAL": "CAU", "LATERAL": "LAT"}


def projection_of(view: str) -> Projection | None:
    """The usual angles of a named projection (`RAO_CAU`, `LAO Cranial`, `RAO Straight`, `LAO_LATERAL` ...); None for another word."""
    words = [_SPELLINGS.get(word, word) for word in view.upper().replace("_", " ").split()]
    secondary_deg = _SECONDARY_DEG[words.pop()] if words and words[-1] in _SECONDARY_DEG else 0.0
    primary_deg = _PRIMARY_DEG.get("_".join(words))
    return None if primary_deg is None else Projection(primary_deg, secondary_deg)
