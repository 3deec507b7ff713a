"""What fills and lines the arteries: lumen, stenosis, occlusion, calcium, thrombus and stents, as clouds of small balls.

A ball carries its volume of radio-opaque matter in mm^3 (times its opacity relative to full contrast), so that
projecting it conserves mass: foreshortening, crossings and overlaps come out right without meshes or ray tracing.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int

from deepcoro.angiography.findings import Lesion
from deepcoro.angiography.heart import unit
from deepcoro.angiography.tree import Branch, Tree
from deepcoro.angiography.vocabulary import CALCIFICATIONS

BLOOD, WALL, CATHETER, REFLUX, FIXED, STILL = range(6)
"""Kinds: moves with contrast and heart; opaque and moves with the heart; tube; puff in the aortic root; opaque and outside
the heart; blood that follows the heart only as far as its `rides` says."""

# Reference lumen diameters at inlet and outlet, mm, right-dominant man. Dodge et al. 1992, 10.1161/01.cir.86.1.232, gives
# left main 4.5, proximal LAD 3.7, distal LAD 1.9, proximal RCA 3.9, circumflex 3.4; the rest is interpolated.
_DIAMETERS_MM = {
    "left_main": (4.5, 4.3), "prox_lad": (3.7, 3.3), "mid_lad": (3.1, 2.4), "dist_lad": (2.3, 1.2),
    "D1": (2.2, 1.2), "D2": (1.9, 1.0), "prox_lcx": (3.4, 3.0), "mid_lcx": (2.9, 2.3), "dist_lcx": (2.2, 1.5),
    "om1": (2.4, 1.2), "om2": (2.1, 1.1), "bx": (2.2, 1.1), "lvp": (2.0, 1.1), "prox_rca": (3.9, 3.6),
    "mid_rca": (3.5, 3.1), "dist_rca": (3.1, 2.8), "pda": (2.3, 1.2), "posterolateral": (2.3, 1.1),
}  # fmt: skip
_TWIG_MM = (0.9, 0.4)
_SIDE_BRANCH_MM = (1.5, 0.6)
_STUMP_MM = 4.0


@dataclass(frozen=True)
class LesionShape:
    """Where and how a lesion of one segment sits; the finding itself is a `Lesion`."""

    place: float
    """Centre, as a fraction of the segment's length."""
    length_mm: float
    eccentricity: float
    """0 = round lumen; 0.4 = clearly slit-like, so its width depends on the view."""
    collateral_delay_s: float | None = None
    """Only for an occlusion: the bed beyond fills backwards after this time; None = never."""


@dataclass(frozen=True)
class Cloud:
    """Balls, one row each."""

    points_mm: Float[np.ndarray, "ball 3"]
    radius_mm: Float[np.ndarray, " ball"]
    mass_mm3: Float[np.ndarray, " ball"]
    path_mm: Float[np.ndarray, " ball"]
    """Length of vessel from the ostium: when contrast arrives."""
    kind: Int[np.ndarray, " ball"]
    blocked: Float[np.ndarray, " ball"]
    """1 = beyond an occlusion."""
    collateral_s: Float[np.ndarray, " ball"]
    """Delay of backward filling; inf = none."""
    normal: Float[np.ndarray, "ball 3"]
    """Short axis of an eccentric lumen; zero where it is round."""
    eccentricity: Float[np.ndarray, " ball"]
    branch: Int[np.ndarray, " ball"]
    """Row of the tree's branches; -1 = not a vessel."""
    rides: Float[np.ndarray, " ball"]
    """How far a ball of kind STILL follows the heart, 0-1; the other kinds do not ask."""


@dataclass(frozen=True)
class Scale:
    """How far small test films leave physical size, so that findings survive at 64 px."""

    vessel: float = 1.0
    """Factor on lumen diameters."""
    finding: float = 1.0
    """Factor on the mass of calcium and stents, root of it on their size and on the length of a thrombus."""
    twigs: float = 1.0
    """Fraction of the unnamed twigs that is grown."""
    step: float = 1.0
    """Factor on the distance between balls: small films need fewer."""


def fill_tree(
    tree: Tree,
    lesions: dict[str, tuple[Lesion, LesionShape]],
    scale: Scale,
    caliber: float,
    rng: np.random.Generator,
) -> Cloud:
    """All balls of a tree with its lesions. `caliber` scales the diameters of one patient (women about 0.91)."""
    parts: list[Cloud] = []
    beyond: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for row, branch in enumerate(tree.branches.values()):
        lesion, shape = lesions.get(branch.name, (None, None))
        radius, blocked, collateral = _healthy(branch, beyond, scale.vessel * caliber, rng)
        healthy_radius = radius.copy()
        eccentricity = np.zeros_like(radius)
        if lesion is not None and shape is not None:
            radius, eccentricity = _narrow(branch, radius, lesion, shape)
        if lesion is not None and shape is not None and lesion.cto:
            after = branch.arc_mm > shape.place * branch.arc_mm[-1]
            delay = np.inf if shape.collateral_delay_s is None else shape.collateral_delay_s
            blocked, collateral = np.where(after, 1.0, blocked), np.where(after, delay, collateral)
        beyond[branch.name] = (blocked, collateral)
        wall = _Wall(branch, row, tree, healthy_radius, blocked, collateral)
        parts.append(
            wall.balls(branch.points_mm, radius, np.pi * radius**2, BLOOD, eccentricity=eccentricity)
        )
        if lesion is not None and shape is not None:
            parts += wall.deposits(lesion, shape, scale.finding, rng)
    return join(parts)


def join(parts: list[Cloud]) -> Cloud:
    return Cloud(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(Cloud)))


def loose(
    points_mm: np.ndarray,
    radius_mm: float,
    mass_mm3: float,
    kind: int,
    path_mm: np.ndarray | None = None,
    rides: np.ndarray | float = 0.0,
) -> Cloud:
    """Equal balls that belong to no vessel."""
    count = len(points_mm)
    return Cloud(
        points_mm=points_mm,
        radius_mm=np.full(count, radius_mm),
        mass_mm3=np.full(count, mass_mm3),
        path_mm=np.zeros(count) if path_mm is None else path_mm,
        kind=np.full(count, kind),
        blocked=np.zeros(count),
        collateral_s=np.full(count, np.inf),
        normal=np.zeros((count, 3)),
        eccentricity=np.zeros(count),
        branch=np.full(count, -1),
        rides=np.broadcast_to(np.asarray(rides, float), count).copy(),
    )


def _healthy(
    branch: Branch, beyond: dict[str, tuple[np.ndarray, np.ndarray]], caliber: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Radius with linear taper and 3 % smooth irregularity; blockage and backward filling inherited at the origin."""
    unnamed = _TWIG_MM if branch.is_twig else _SIDE_BRANCH_MM
    inlet, outlet = _DIAMETERS_MM.get(branch.name, unnamed)
    fraction = branch.arc_mm / branch.arc_mm[-1]
    harmonic = np.arange(1, 8)
    irregular = (rng.normal(0, 0.03, 7) / np.sqrt(harmonic)) @ np.sin(np.pi * harmonic[:, None] * fraction)
    # unnamed branches are widened less: they are clutter, not findings
    caliber = caliber if branch.name in _DIAMETERS_MM else np.sqrt(caliber)
    radius = 0.5 * caliber * (inlet + (outlet - inlet) * fraction) * (1 + irregular)
    blocked, collateral = np.zeros_like(radius), np.full_like(radius, np.inf)
    if branch.parent is not None:
        parent_blocked, parent_collateral = beyond[branch.parent]
        blocked += parent_blocked[branch.origin]
        collateral = np.minimum(collateral, parent_collateral[branch.origin])
    return radius, blocked, collateral


def _narrow(
    branch: Branch, radius: np.ndarray, lesion: Lesion, shape: LesionShape
) -> tuple[np.ndarray, np.ndarray]:
    """Lumen radius and eccentricity with the lesion: a cosine waist, or the tapered stump of an occlusion."""
    centre = shape.place * branch.arc_mm[-1]
    if lesion.cto:
        distance = np.clip((centre - branch.arc_mm) / _STUMP_MM, 0, 1)
        return np.where(branch.arc_mm <= centre, radius * (0.35 + 0.65 * distance), radius), np.zeros_like(
            radius
        )
    offset = np.minimum(np.abs(branch.arc_mm - centre) / (shape.length_mm / 2), 1)
    depth = 0.5 * (1 + np.cos(np.pi * offset))
    return radius * (1 - lesion.stenosis_percent / 100 * depth), shape.eccentricity * depth


@dataclass(frozen=True)
class _Wall:
    """One branch with its frame: places balls inside it and along its wall."""

    branch: Branch
    row: int
    tree: Tree
    radius_mm: np.ndarray
    blocked: np.ndarray
    collateral: np.ndarray

    def sideways(self) -> np.ndarray:
        """A unit vector across the vessel at each sample."""
        tangent = np.gradient(self.branch.points_mm, axis=0)
        return unit(np.cross(tangent, self.tree.heart.axis) + 1e-9)

    def balls(
        self,
        points_mm: np.ndarray,
        radius_mm: np.ndarray,
        area_mm2: np.ndarray,
        kind: int,
        where: np.ndarray | slice = slice(None),
        eccentricity: np.ndarray | None = None,
    ) -> Cloud:
        """Balls at these samples; mass is area times the step along the vessel."""
        step_mm = np.gradient(self.branch.arc_mm)[where]
        is_blood = kind == BLOOD
        count = len(radius_mm)
        return Cloud(
            points_mm=points_mm,
            radius_mm=radius_mm,
            mass_mm3=area_mm2 * step_mm,
            path_mm=self.branch.start_mm + self.branch.arc_mm[where],
            kind=np.full(count, kind),
            blocked=self.blocked[where] if is_blood else np.zeros(count),
            collateral_s=self.collateral[where] if is_blood else np.full(count, np.inf),
            normal=self.sideways()[where],
            eccentricity=np.zeros(count) if eccentricity is None else eccentricity,
            branch=np.full(count, self.row),
            rides=np.ones(count),
        )

    def deposits(
        self, lesion: Lesion, shape: LesionShape, boost: float, rng: np.random.Generator
    ) -> list[Cloud]:
        """Thrombus, calcium and stent of a lesion."""
        parts = []
        if lesion.thrombus:
            parts.append(self.thrombus(shape, boost))
        if lesion.calcification != "none":
            parts.append(self.calcium(CALCIFICATIONS.index(lesion.calcification), shape, boost, rng))
        if lesion.stent:
            parts += [self.strut(sign, shape, boost) for sign in (-1.0, 1.0)]
        return [part for part in parts if len(part.radius_mm)]

    def near(self, shape: LesionShape, length_mm: float) -> np.ndarray:
        centre = shape.place * self.branch.arc_mm[-1]
        return np.flatnonzero(np.abs(self.branch.arc_mm - centre) <= length_mm / 2)

    def thrombus(self, shape: LesionShape, boost: float) -> Cloud:
        """A filling defect is missing contrast: negative mass that arrives and leaves with the blood around it."""
        where = self.near(shape, 6.0 * np.sqrt(boost))
        radius = self.radius_mm[where]
        points = self.branch.points_mm[where] + self.sideways()[where] * (0.25 * radius)[:, None]
        return self.balls(points, 0.7 * radius, -0.85 * np.pi * (0.7 * radius) ** 2, BLOOD, where)

    def calcium(self, grade: int, shape: LesionShape, boost: float, rng: np.random.Generator) -> Cloud:
        """Grains along the wall within 12 mm: 4 per squared grade, opaque before contrast comes."""
        near = self.near(shape, 24.0)
        where = near[rng.integers(0, len(near), 4 * grade**2)]
        side = rng.choice((-1.0, 1.0), len(where))[:, None]
        points = (
            self.branch.points_mm[where]
            + self.sideways()[where] * side * (self.radius_mm[where] + 0.2)[:, None]
        )
        grain_radius = np.full(len(where), 0.6 * np.sqrt(boost))
        area = np.full(len(where), 0.4 * grade * boost) / np.gradient(self.branch.arc_mm)[where]
        return self.balls(points, grain_radius, area, WALL, where)

    def strut(self, sign: float, shape: LesionShape, boost: float) -> Cloud:
        """One edge of a stent: 0.1 mm^3 of metal (as contrast) a millimetre."""
        where = self.near(shape, max(shape.length_mm, 18.0))
        points = (
            self.branch.points_mm[where] + self.sideways()[where] * (sign * self.radius_mm[where])[:, None]
        )
        size = np.full(len(where), 0.15 * np.sqrt(boost))
        return self.balls(points, size, np.full(len(where), 0.10 * boost), WALL, where)
