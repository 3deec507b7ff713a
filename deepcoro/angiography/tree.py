"""A named coronary tree in three dimensions: centrelines on the surface of one patient's heart.

The course of each artery is a line in (polar, azimuth) angles with a smooth wobble; angles, lengths and split points
are ours, fitted by eye to the standard projections (LAO shows the right coronary as a "C", RAO as an "L").
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from deepcoro.angiography.heart import Heart, draw_heart
from deepcoro.angiography.vocabulary import SEGMENTS, Dominance, Side

_Number = float | int
_Pair = tuple[_Number, _Number]
_STEP_MM = 0.8
_TWIG_STEP_MM = 0.5  # thin vessels need denser samples, or they are drawn as dots


@dataclass(frozen=True)
class Branch:
    """One segment (or an unnamed twig) from its origin to its end."""

    name: str
    parent: str | None
    points_mm: Float[np.ndarray, "point 3"]
    arc_mm: Float[np.ndarray, " point"]
    """Length along this branch from its own origin."""
    start_mm: float
    """Length of vessel between the ostium and this branch's origin."""
    origin: int
    """Index of the parent's sample where this branch leaves it."""
    is_twig: bool = False

    @property
    def is_segment(self) -> bool:
        """Whether the vocabulary names it."""
        return self.name in SEGMENTS


@dataclass(frozen=True)
class Tree:
    """All branches of one injection; a parent always comes before its children."""

    side: Side
    heart: Heart
    branches: dict[str, Branch]

    @property
    def ostium_mm(self) -> Float[np.ndarray, "3"]:
        return next(iter(self.branches.values())).points_mm[0]


@dataclass(frozen=True)
class Detail:
    """How finely a tree is drawn."""

    twigs: float = 1.0
    """Fraction of the unnamed vessels to grow."""
    step: float = 1.0
    """Factor on the distance between samples."""


def build_tree(
    side: Side, dominance: Dominance, has_ramus: bool, detail: Detail, rng: np.random.Generator
) -> Tree:
    """The left or right tree of a patient; equal generators give equal trees (repeat studies share their anatomy)."""
    grower = _Grower(draw_heart(rng), rng, detail)
    if side == "left":
        _grow_left(grower, dominance, has_ramus)
    else:
        _grow_right(grower, dominance)
    return Tree(side, grower.heart, grower.branches)


def _grow_left(grower: "_Grower", dominance: Dominance, has_ramus: bool) -> None:
    jitter, rng = grower.jitter, grower.rng
    fork = grower.heart.surface(np.array([62.0 + jitter(3)]), np.array([14.0 + jitter(4)]))[0]
    ostium = fork + np.array((-9.0, 9.0, 5.0)) + rng.normal(0, 1, 3)
    t = np.linspace(0, 1, 24)[:, None]
    grower.add("left_main", None, ostium + (fork - ostium) * t + np.sin(np.pi * t) * np.array((0, -2.0, 2.0)))

    lad = grower.course((62, 176), (12, 2 + jitter(6)), 200, 6, from_point=fork, blend=6)
    first, second = 60 + int(jitter(6)), 118 + int(jitter(8))
    grower.add_chain(("prox_lad", "mid_lad", "dist_lad"), lad, (first, second), "left_main")
    grower.add("D1", "prox_lad", grower.offshoot(lad[first], (128 + jitter(5), 48 + jitter(6))))
    grower.add("D2", "mid_lad", grower.offshoot(lad[second], (148 + jitter(5), 42 + jitter(6))))

    reach = 120 + jitter(8) if dominance == "right" else 178
    lcx = grower.course((66, 82), (16, reach), 160, 4, from_point=fork, blend=8)
    first, second = 55 + int(jitter(5)), 112 + int(jitter(5))
    grower.add_chain(("prox_lcx", "mid_lcx", "dist_lcx"), lcx, (first, second), "left_main")
    grower.add("om1", "prox_lcx", grower.offshoot(lcx[first], (132 + jitter(5), 88 + jitter(6))))
    grower.add("om2", "mid_lcx", grower.offshoot(lcx[second], (128 + jitter(5), 124 + jitter(6))))
    if has_ramus:
        grower.add("bx", "left_main", grower.offshoot(fork, (130 + jitter(5), 64 + jitter(5))))
    if dominance != "right":
        grower.add("lvp", "dist_lcx", grower.offshoot(lcx[146], (125 + jitter(5), 156 + jitter(5))))
    if dominance == "left":
        grower.add("pda", "dist_lcx", grower.offshoot(lcx[-1], (160 + jitter(5), 186 + jitter(4))))
    for parent, count in (
        ("prox_lad", 2),
        ("mid_lad", 5),
        ("dist_lad", 3),
        ("prox_lcx", 2),
        ("D1", 2),
        ("om1", 3),
    ):
        grower.add_twigs(parent, count, bend_deg=(22, 26))


def _grow_right(grower: "_Grower", dominance: Dominance) -> None:
    jitter = grower.jitter
    # a right coronary that does not reach the crux makes the circulation left-dominant
    end_deg = -95 + jitter(6) if dominance == "left" else -178
    start = grower.heart.surface(np.array([60.0]), np.array([-28.0]))[0]
    ostium = start + np.array((4.0, 10.0, 2.0))
    rca = grower.course((60, 84), (-28, end_deg), 240, 3, from_point=ostium, blend=12)
    first, second = 80 + int(jitter(6)), 165 + int(jitter(8))
    grower.add_chain(("prox_rca", "mid_rca", "dist_rca"), rca, (first, second), None)
    if dominance != "left":
        grower.add("pda", "dist_rca", grower.offshoot(rca[-1], (158 + jitter(5), -186 + jitter(4)), 80))
    if dominance == "right":
        grower.add(
            "posterolateral", "dist_rca", grower.offshoot(rca[-1], (122 + jitter(5), -225 + jitter(6)), 80)
        )
    for parent, count in (
        ("prox_rca", 3),
        ("mid_rca", 4),
        ("dist_rca", 2),
        ("pda", 4),
        ("posterolateral", 4),
    ):
        if parent in grower.branches:
            grower.add_twigs(parent, count, bend_deg=(24, 20))


class _Grower:
    """Adds branches to a growing tree on one heart."""

    def __init__(self, heart: Heart, rng: np.random.Generator, detail: Detail) -> None:
        self.heart = heart
        self.detail = detail
        self.rng = rng
        self.branches: dict[str, Branch] = {}

    def jitter(self, scale: _Number) -> float:
        return float(np.clip(self.rng.normal(0, scale), -2 * scale, 2 * scale))

    def wobble(self, num_points: int, amplitude_deg: _Number) -> Float[np.ndarray, " point"]:
        """Tortuosity: low sine harmonics that vanish at both ends."""
        harmonic = np.arange(1, 9)
        weights = self.rng.normal(size=8) / harmonic**1.1
        return amplitude_deg * weights @ np.sin(np.pi * harmonic[:, None] * np.linspace(0, 1, num_points))

    def course(
        self,
        polar_deg: _Pair,
        azimuth_deg: _Pair,
        num_points: int,
        wobble_deg: _Number,
        from_point: np.ndarray,
        blend: _Number,
    ) -> Float[np.ndarray, "point 3"]:
        """A wobbling line between two places of the surface that leaves `from_point` smoothly (faster with a larger `blend`)."""
        t = np.linspace(0, 1, num_points)
        polar = polar_deg[0] + (polar_deg[1] - polar_deg[0]) * t + self.wobble(num_points, wobble_deg)
        azimuth = azimuth_deg[0] + (azimuth_deg[1] - azimuth_deg[0]) * t + self.wobble(num_points, wobble_deg)
        points = self.heart.surface(polar, azimuth)
        return points + (from_point - points[0]) * np.exp(-blend * t)[:, None]

    def offshoot(
        self,
        origin: np.ndarray,
        target_deg: _Pair,
        num_points: int = 70,
        wobble_deg: _Number = 4,
    ) -> Float[np.ndarray, "point 3"]:
        """A branch from a point of its parent to a place of the surface (polar, azimuth)."""
        polar, azimuth = self.heart.angles_of(origin)
        azimuth += 360 * round((target_deg[1] - azimuth) / 360)
        course = ((polar, target_deg[0]), (azimuth, target_deg[1]))
        return self.course(*course, num_points, wobble_deg, from_point=origin, blend=6)

    def add_chain(
        self, names: tuple[str, str, str], points: np.ndarray, splits: tuple[int, int], parent: str | None
    ) -> None:
        """One artery cut into its proximal, mid and distal segment."""
        first, second = splits
        pieces = (points[: first + 1], points[first : second + 1], points[second:])
        for name, piece in zip(names, pieces, strict=True):
            self.add(name, parent, piece)
            parent = name

    def add(self, name: str, parent: str | None, points: np.ndarray, is_twig: bool = False) -> None:
        """Resamples a course evenly and hangs it on its parent."""
        step_mm = self.detail.step * (_TWIG_STEP_MM if is_twig else _STEP_MM)
        length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
        arc = np.linspace(0, length[-1], max(int(length[-1] / step_mm), 8))
        even = np.stack([np.interp(arc, length, points[:, axis]) for axis in range(3)], axis=1)
        origin, start_mm = 0, 0.0
        if parent is not None:
            stem = self.branches[parent]
            origin = int(np.argmin(np.sum((stem.points_mm - even[0]) ** 2, axis=1)))
            start_mm = stem.start_mm + float(stem.arc_mm[origin])
        self.branches[name] = Branch(name, parent, even, arc, start_mm, origin, is_twig)

    def add_twigs(self, parent: str, count: int, bend_deg: _Pair) -> None:
        """Septal, conus, marginal and terminal vessels without a name: the first is a side branch, the rest thin twigs."""
        stem = self.branches[parent]
        for index in range(round(count * self.detail.twigs)):
            place = int(self.rng.uniform(0.15, 0.95) * len(stem.points_mm))
            origin = stem.points_mm[place]
            polar, azimuth = self.heart.angles_of(origin)
            sign = self.rng.choice((-1.0, 1.0))
            length = 1.6 if index == 0 else 1.0
            polar += length * self.rng.uniform(0.3, 1) * bend_deg[0]
            azimuth += length * sign * self.rng.uniform(0.4, 1) * bend_deg[1]
            points = self.offshoot(origin, (polar, azimuth), 40, wobble_deg=3)
            self.add(f"{parent}/twig{index}", parent, points, is_twig=index > 0)
