"""Contrast outside the native coronary tree: ventricle, aorta, bypass graft, arteries of access; each as a cloud of balls."""

import numpy as np
from jaxtyping import Float
from scipy.stats import qmc

from deepcoro.angiography.lumen import BLOOD, STILL, Cloud, join, loose
from deepcoro.angiography.props import arch, root_of, sheath, smooth
from deepcoro.angiography.tree import Tree

_DILUTION = 0.16
"""Contrast in a chamber relative to that in a coronary artery: 40 ml mix with the blood of several beats."""
_GRAFT_MM = 1.9
_GRAFT_TARGETS = ("dist_lad", "om1", "D1")


def ventricle(tree: Tree, rng: np.random.Generator) -> Cloud:
    """The left ventricle, filled from the middle, and the root that it ejects into; its motion is the heart's."""
    heart = tree.heart
    long_mm, short_mm = 0.80 * heart.half_length_mm, 0.62 * heart.radius_mm
    ball = _even_ball(700, rng)
    blunt = 1 - 0.25 * np.clip(-ball[:, 2], 0, 1)  # the base is cut flat by the valves
    along = 4 + long_mm * ball[:, 2] * blunt
    points = (
        along[:, None] * heart.axis
        + short_mm * ball[:, :1] * heart.anterior
        + short_mm * ball[:, 1:2] * heart.obtuse
    )
    points += rng.normal(0, 1.2, points.shape)  # trabeculae
    volume = 4 / 3 * np.pi * long_mm * short_mm**2
    spread = 30 + 1.5 * np.linalg.norm(points - 0.2 * long_mm * heart.axis, axis=1)
    chamber = loose(points, 5.0, _DILUTION * volume / len(points), BLOOD, path_mm=spread)
    return join([chamber, aorta(tree, rng, reach_mm=70, delay_mm=140)])


def aorta(
    tree: Tree, rng: np.random.Generator, reach_mm: float | int = 160, delay_mm: float | int = 0
) -> Cloud:
    """The root with its three sinuses and the vessel above it, filled from the root upwards."""
    line, along = smooth(arch(root_of(tree), rng), 1.0)
    line, along = line[along < reach_mm], along[along < reach_mm]
    radius = 13.0 + 2.5 * np.exp(-np.square((along - 6) / 9))
    count = int(7 * len(line))
    at = rng.permutation(np.linspace(0, len(line) - 1, count).astype(int))
    forward = np.gradient(line, axis=0)[at]
    first = np.cross(forward, (0.2, 1.0, 0.0))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(forward, first)
    disc = qmc.Halton(2, rng=rng).random(count)
    turn, out = 2 * np.pi * disc[:, 0], np.sqrt(disc[:, 1])
    lobes = 1 + 0.10 * np.cos(3 * turn) * np.exp(-np.square((along[at] - 6) / 9))
    reach = (out * lobes * radius[at] * 0.75)[:, None]
    points = line[at] + reach * (np.cos(turn)[:, None] * first + np.sin(turn)[:, None] * second)
    volume = float(np.sum(np.pi * radius**2))
    rides = 0.9 * np.exp(-along[at] / 25)
    path = delay_mm + 0.7 * along[at]
    return loose(points, 5.5, _DILUTION * volume / count, STILL, path_mm=path, rides=rides)


def graft(tree: Tree, vessels: Cloud, scale: float, rng: np.random.Generator) -> tuple[Cloud, np.ndarray]:
    """A vein (from the aorta) or an internal mammary artery (from above) with the bed behind its end; and where it begins."""
    name = _GRAFT_TARGETS[int(rng.integers(len(_GRAFT_TARGETS)))]
    branch = tree.branches[name]
    landing = branch.points_mm[len(branch.points_mm) // 3]
    is_vein = rng.random() < 0.6
    if is_vein:
        start = root_of(tree) + np.array((2.0, -16.0, 34.0))
        middle = np.array(start + landing) / 2 + np.array((10.0, -20.0, 16.0))
        corners = (start, start + np.array((14.0, -12.0, 10.0)), middle, landing)
    else:
        start = np.array((8.0, -42.0, 95.0)) + rng.normal(0, 3, 3)
        corners = (
            start,
            start + np.array((2.0, -18.0, -40.0)),
            landing + np.array((2.0, -8.0, 26.0)),
            landing,
        )
    points, along = smooth(np.array(corners), 0.8)
    radius = _GRAFT_MM * (1.15 if is_vein else 0.75) * scale
    tube = loose(
        points, radius, np.pi * radius**2 * 0.8, STILL, path_mm=0.6 * along, rides=(along / along[-1]) ** 1.5
    )
    return join([tube, _bed(tree, vessels, name, 0.6 * along[-1])]), start


def _bed(tree: Tree, vessels: Cloud, name: str, graft_mm: float) -> Cloud:
    """The balls of a segment and of its twigs, filled through a graft."""
    branch = tree.branches[name]
    rows = [
        row for row, each in enumerate(tree.branches.values()) if each.name == name or each.parent == name
    ]
    chosen = np.isin(vessels.branch, rows)
    landing = branch.start_mm + branch.arc_mm[-1] / 3
    parts = {field: getattr(vessels, field)[chosen] for field in vessels.__dataclass_fields__}
    path = graft_mm + np.abs(parts.pop("path_mm") - landing)
    open_again = {"blocked": np.zeros(len(path)), "branch": np.full(len(path), -1)}
    return Cloud(**(parts | open_again | {"path_mm": path}))


def femoral(scale: float, rng: np.random.Generator) -> Cloud:
    """The common femoral artery with its two branches, filled through the sheath from below."""
    sway = rng.normal(0, 3, (4, 3))
    fork = np.array((2.0, -6.0, -22.0)) + sway[0]
    top = np.array((14.0, 6.0, 110.0)) + sway[1]
    main = np.array((top, (2, 0, 50), (-3, -6, 10), fork))
    superficial = np.array((fork, (8, -4, -60), np.array((12, -2, -120)) + sway[2]))
    deep = np.array((fork, (-14, 6, -45), np.array((-24, 14, -110)) + sway[3]))
    entry = np.array((-1.0, -6.0, 8.0))
    parts = [
        _tube(corners, radius * scale, entry)
        for corners, radius in ((main, 3.6), (superficial, 2.8), (deep, 2.2))
    ]
    shaft, _ = smooth(np.array(((2.0, 0.0, 45.0), entry, (-10.0, -30.0, -50.0), (-14.0, -45.0, -120.0))), 0.5)
    return join([*parts, sheath(shaft)])


def radial(scale: float, rng: np.random.Generator) -> Cloud:
    """The radial artery along its bone, the ulnar one opposite, filled through a sheath at the wrist (below)."""
    sway = rng.normal(0, 3, (4, 3))
    entry = np.array((-30.0, 0.0, -60.0)) + sway[0]
    course = np.array((entry, (-34, 0, -20), (-22, 0, 30), (-8, 0, 70), (0, 0, 120))) + np.r_[[sway[1]] * 5]
    ulnar = np.array((course[3], (12, 0, 30), (26, 0, -20), np.array((30, 0, -110)) + sway[2]))
    parts = [_tube(course, 1.5 * scale, entry), _tube(ulnar, 1.1 * scale, entry)]
    shaft, _ = smooth(np.array((course[1], entry, entry + (-2.0, 0.0, -60.0))), 0.5)
    return join([*parts, sheath(shaft)])


def _tube(corners: np.ndarray, radius_mm: float, entry: np.ndarray) -> Cloud:
    points, _ = smooth(corners, 0.8)
    path = np.linalg.norm(points - entry, axis=1)
    return loose(points, radius_mm, 0.8 * np.pi * radius_mm**2, STILL, path_mm=path)


def _even_ball(count: int, rng: np.random.Generator) -> Float[np.ndarray, "ball 3"]:
    """Points spread evenly through the unit ball."""
    cube = 2 * qmc.Halton(3, rng=rng).random(3 * count) - 1
    return cube[np.linalg.norm(cube, axis=1) <= 1][:count]
