"""Instruments in the beam besides the coronary catheter: pigtail, guide wire, balloon, valve frame, echo probe, sheath."""

import numpy as np
from jaxtyping import Float
from scipy.interpolate import make_interp_spline

from deepcoro.angiography.lumen import CATHETER, FIXED, WALL, Cloud, LesionShape, Scale, join, loose
from deepcoro.angiography.tree import Tree

_CATHETER_MM = 0.95  # 6 French
_STEP_MM = 0.5
_WIRE_MM = 0.18  # 0.014 inch
_STEEL = 5.0
"""Opacity of metal relative to full contrast."""

Curve = Float[np.ndarray, "point 3"]


def smooth(corners: np.ndarray, step_mm: float) -> tuple[Curve, Float[np.ndarray, " point"]]:
    """Even samples of a smooth curve through these points, and the length along it."""
    corners = np.asarray(corners, float)
    apart = np.r_[True, np.linalg.norm(np.diff(corners, axis=0), axis=1) > 1e-6]
    corners = corners[apart]
    chord = np.r_[0, np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))]
    spline = make_interp_spline(chord, corners, k=min(3, len(corners) - 1))
    dense = spline(np.linspace(0, chord[-1], 400))
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))]
    along = np.arange(0, length[-1], step_mm)
    return np.stack([np.interp(along, length, dense[:, axis]) for axis in range(3)], axis=1), along


def root_of(tree: Tree) -> Float[np.ndarray, "3"]:
    """Middle of the aortic root, mm: behind the ostia."""
    return tree.ostium_mm + (
        np.array((-6.0, 10.0, -3.0)) if tree.side == "left" else np.array((4.0, 9.0, 8.0))
    )


def arch(root: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Corners of the aorta's middle line: up from the root, over to the left and back, down along the spine."""
    course = np.array(((0, 0, 0), (-4, -8, 32), (0, -4, 62), (16, 16, 84), (32, 46, 70), (36, 58, 10)), float)
    return root + course + np.r_[[np.zeros(3)], rng.normal(0, 2.5, (5, 3))]


def pigtail(tip: np.ndarray, tree: Tree, rng: np.random.Generator) -> Cloud:
    """A catheter from the arch that ends in a loop at `tip`."""
    turn = np.linspace(0, 1.8 * np.pi, 12)[:, None]
    across, upwards = np.array((0.9, 0.3, 0.0)), np.array((0.1, -0.2, 1.0))
    radius = 5.5 * (0.75 + 0.25 * turn / turn[-1])
    loop = tip + radius * (np.cos(turn) * across + np.sin(turn) * upwards)
    shaft = arch(root_of(tree), rng)[:4]
    inside = [] if np.linalg.norm(tip - shaft[0]) < 30 else [shaft[0]]
    points, along = smooth(np.concatenate([loop, *[[each] for each in inside], shaft[1:]]), _STEP_MM)
    mass = np.pi * _CATHETER_MM**2 * _STEP_MM
    return loose(points, _CATHETER_MM, mass, CATHETER, path_mm=along)


def guide_wire(tree: Tree, segment: str, scale: Scale) -> Cloud:
    """A wire from the ostium to the end of a segment; it rides on the heart. Its last 30 mm are the most opaque."""
    pieces, branch, last = [], tree.branches[segment], None
    while branch is not None:
        pieces.append(branch.points_mm[: None if last is None else last + 1])
        last = branch.origin
        branch = tree.branches[branch.parent] if branch.parent else None
    points, along = smooth(np.concatenate([piece[::4] for piece in reversed(pieces)]), _STEP_MM)
    mass = np.pi * _WIRE_MM**2 * _STEP_MM * _STEEL * np.sqrt(scale.finding)
    tip = along > along[-1] - 30
    radius = _WIRE_MM * np.sqrt(scale.vessel)
    return join([loose(points[~tip], radius, mass, WALL), loose(points[tip], radius, 2 * mass, WALL)])


def balloon(tree: Tree, vessels: Cloud, segment: str, shape: LesionShape) -> Cloud:
    """A sausage of diluted contrast as wide as the vessel, 18 mm and more, over the lesion of a segment."""
    branch = tree.branches[segment]
    own = vessels.branch == list(tree.branches).index(segment)
    width = float(np.median(vessels.radius_mm[own & (vessels.kind != WALL)])) * 1.1
    offset = np.abs(branch.arc_mm - shape.place * branch.arc_mm[-1]) / (max(shape.length_mm, 18.0) / 2)
    near = np.flatnonzero(offset <= 1)
    step = float(np.gradient(branch.arc_mm)[near].mean())
    return loose(branch.points_mm[near], width, 0.7 * np.pi * width**2 * step, WALL)


def valve_frame(tree: Tree, scale: Scale, rng: np.random.Generator) -> Cloud:
    """A transcatheter valve in the root: a lattice of metal on a barrel, its axis that of the outflow."""
    root = root_of(tree)
    axis = arch(root, rng)[1] - root
    axis /= np.linalg.norm(axis)
    first = np.cross(axis, (0.0, 1.0, 0.2))
    first /= np.linalg.norm(first)
    second = np.cross(axis, first)
    height = rng.uniform(18, 26)
    t = np.linspace(0, 1, 40)
    parts = []
    for strand in range(12):
        for sign in (-1, 1):
            turn = 2 * np.pi * strand / 12 + sign * 0.9 * t
            around = np.cos(turn)[:, None] * first + np.sin(turn)[:, None] * second
            waist = (11.5 + 1.5 * np.square(2 * t - 1))[:, None]
            points = root + ((t - 0.4) * height)[:, None] * axis + waist * around
            parts.append(loose(points, 0.35 * np.sqrt(scale.vessel), 0.25 * np.sqrt(scale.finding), WALL))
    return join(parts)


def echo_probe(rng: np.random.Generator) -> Cloud:
    """A transoesophageal probe behind the heart: a thick ribbed shaft with a denser tip."""
    foot = np.array((rng.normal(0, 6), 46.0, rng.uniform(-35, 0)))
    corners = foot + np.array(((rng.normal(6, 6), -6, 0), (0, 0, 22), (rng.normal(0, 4), 2, 70), (0, 4, 150)))
    points, along = smooth(corners, 1.0)
    mass = np.pi * 5.5**2 * 0.22
    ribbed = np.where(np.mod(along, 6) < 3, 1.5, 0.8)
    shaft = [loose(points[ribbed == level], 5.0, mass * level, FIXED) for level in (0.8, 1.5)]
    return join([*shaft, loose(points[along < 22], 5.8, 2.5 * mass, FIXED)])


def pacing_lead(tree: Tree, rng: np.random.Generator) -> Cloud:
    """A lead from above through the right atrium to the apex of the right ventricle."""
    heart = tree.heart
    apex = heart.surface(np.array([150.0]), np.array([-40.0]))[0] * 0.85
    corners = np.array(
        (apex, (-25, -10, -22), (-48, 12, 10), (-44, 14, 60), (-40 + rng.normal(0, 6), 6, 130))
    )
    points, along = smooth(corners, _STEP_MM)
    lead = loose(points, 0.8, 2.2 * _STEP_MM, WALL, path_mm=along)
    return join([lead, loose(points[:8], 1.2, 6.0, WALL)])


def sheath(points: Curve) -> Cloud:
    """A short wide tube in an artery of access."""
    return loose(points, 1.2, np.pi * 1.2**2 * 0.5 * 1.2, FIXED)
