"""What stands in the beam besides the coronary tree: catheter, contrast in the aortic root, leads and wires."""

import numpy as np
from jaxtyping import Float

from deepcoro.angiography.carm import CArm
from deepcoro.angiography.lumen import CATHETER, FIXED, REFLUX, Cloud, join, loose
from deepcoro.angiography.tree import Tree

_CATHETER_RADIUS_MM = 0.95  # 6 French
_CATHETER_STEP_MM = 0.5


def furnish(tree: Tree, vessels: Cloud, clutter: float, rng: np.random.Generator) -> Cloud:
    """The vessels with all that surrounds them. `clutter` is the chance of each distractor (leads, sternal wires)."""
    return join([vessels, _catheter(tree, rng), _reflux(tree, rng), *distractors(clutter, rng)])


def distractors(clutter: float, rng: np.random.Generator) -> list[Cloud]:
    """Leads across the chest with chance `clutter`, sternal wires less often."""
    parts = []
    if rng.random() < clutter:
        parts += [_lead(rng) for _ in range(rng.integers(1, 3))]
    if rng.random() < 0.4 * clutter:
        parts += _sternal_wires(rng)
    return parts


def aim(carm: CArm, tree: Tree, rng: np.random.Generator) -> tuple[float, float]:
    """Where the operator puts the middle of the image: near the middle of the tree, not quite on it."""
    named = [branch.points_mm for branch in tree.branches.values() if branch.is_segment]
    right, up, _ = carm.across(np.concatenate(named))
    middle = np.array((right.min() + right.max(), up.min() + up.max())) / 2
    middle[1] += 4.0  # operators leave room for the catheter above
    return tuple(float(value) for value in middle + np.clip(rng.normal(0, 5, 2), -9, 9))


def _path(points_mm: np.ndarray, step_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Even samples of a polyline and the length along it."""
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points_mm, axis=0), axis=1))]
    along = np.arange(0, length[-1], step_mm)
    return np.stack([np.interp(along, length, points_mm[:, axis]) for axis in range(3)], axis=1), along


def _catheter(tree: Tree, rng: np.random.Generator) -> Cloud:
    """From the ostium, hooking into the ascending aorta and up to the arch."""
    t = np.linspace(0, 1, 80)[:, None]
    hook = np.array((-12.0, 14.0, 0.0)) if tree.side == "left" else np.array((9.0, 8.0, 0.0))
    hook = hook + rng.normal(0, 2.5, 3)
    rise = np.array((rng.normal(0, 4), rng.normal(4, 4), 120.0))
    dip = np.array((0, 0, -5.0)) * np.sin(np.pi * np.clip(5 * t, 0, 1))
    curve = tree.ostium_mm + hook * np.sin(0.5 * np.pi * np.clip(3 * t, 0, 1)) + rise * t**1.2 + dip
    points, along = _path(curve, _CATHETER_STEP_MM)
    mass = np.pi * _CATHETER_RADIUS_MM**2 * _CATHETER_STEP_MM
    return loose(points, _CATHETER_RADIUS_MM, mass, CATHETER, path_mm=along)


def free_catheter(tip_mm: np.ndarray, rng: np.random.Generator) -> Cloud:
    """A catheter that ends away from the native ostia: a short hook at its tip, then up to the arch."""
    t = np.linspace(0, 1, 80)[:, None]
    hook = rng.choice((-1.0, 1.0)) * np.array((9.0, 6.0, 0.0)) + rng.normal(0, 2.5, 3)
    rise = np.array((rng.normal(0, 4), rng.normal(6, 4), 120.0))
    curve = tip_mm + hook * np.sin(0.5 * np.pi * np.clip(3 * t, 0, 1)) + rise * t**1.2
    points, along = _path(curve, _CATHETER_STEP_MM)
    mass = np.pi * _CATHETER_RADIUS_MM**2 * _CATHETER_STEP_MM
    return loose(points, _CATHETER_RADIUS_MM, mass, CATHETER, path_mm=along)


def _reflux(tree: Tree, rng: np.random.Generator) -> Cloud:
    """Contrast that spills back into the sinus around the catheter's tip."""
    amount = rng.uniform(0.2, 1.0)
    inwards = np.array((-5.0, 5.0, 1.0)) if tree.side == "left" else np.array((5.0, 4.0, 1.0))
    points = tree.ostium_mm + inwards + rng.normal(0, 3.5, (12, 3))
    return loose(points, 4.0, amount * 12.0, REFLUX)


def _lead(rng: np.random.Generator) -> Cloud:
    """A monitoring lead across the chest wall, with its electrode."""
    t = np.linspace(0, 1, 40)
    foot = np.array((rng.uniform(-60, 60), -105.0, -90.0))
    head = np.array((rng.uniform(-70, 70), -105.0, 90.0))
    sway = rng.normal(0, 6, 3)[:, None] * np.sin(np.pi * np.arange(1, 4)[:, None] * t)
    curve = foot + (head - foot) * t[:, None] + np.stack([sway.sum(axis=0), 0 * t, 0 * t], axis=1)
    points, _ = _path(curve, 0.7)
    electrode = points[[rng.integers(len(points))]]
    return join([loose(points, 0.45, 0.35, FIXED), loose(electrode, 1.6, 25.0, FIXED)])


def _sternal_wires(rng: np.random.Generator) -> list[Cloud]:
    """Steel loops of an earlier operation."""
    turn = np.linspace(0, 2 * np.pi, 60)
    loop = np.stack([9 * np.cos(turn), 0 * turn, 4.5 * np.sin(turn)], axis=1)
    wires = []
    for height_mm in np.arange(-50, 60, 24):
        centre = np.array((rng.normal(0, 2), -85.0, height_mm + rng.normal(0, 2)))
        wires.append(loose(centre + loop * rng.uniform(0.8, 1.2), 0.4, 1.2, FIXED))
    return wires


def visible_width(cloud: Cloud, carm: CArm, along: Float[np.ndarray, "ball 3"]) -> Float[np.ndarray, " ball"]:
    """Half-width seen from this angle: an eccentric lumen of equal area is slit-like in one view and wide in another."""
    across = np.cross(along, carm.axes[2])
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
    facing = np.square(np.sum(cloud.normal * across, axis=1))
    short, long = 1 - cloud.eccentricity, 1 / (1 - cloud.eccentricity)
    return cloud.radius_mm * np.sqrt(short**2 * facing + long**2 * (1 - facing))
