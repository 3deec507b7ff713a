"""What lies behind the arteries of access: the hip behind the femoral artery, the forearm behind the radial one."""

import numpy as np

from deepcoro.angiography.backdrop import mottle, plateau, step_at
from deepcoro.angiography.carm import CArm


def hip(down: np.ndarray, across: np.ndarray, carm: CArm, rng: np.random.Generator) -> np.ndarray:
    """Soft tissue, the femoral head in its socket, the neck and shaft to the outside, the pubic branch to the middle."""
    jitter = rng.normal(0, 0.03, 6)
    centre_across, centre_down = -0.20 + jitter[0], -0.10 + jitter[1]
    from_head = np.hypot(across - centre_across, down - centre_down)
    radius = 0.17 * rng.uniform(0.9, 1.1)
    head = 0.55 * step_at((radius - from_head) / 0.010)
    socket = (
        0.30 * plateau(from_head - 1.25 * radius, 0.03, 0.012) * step_at((centre_down + 0.05 - down) / 0.05)
    )
    ilium = 0.45 * step_at((centre_down - 0.12 - down + 0.4 * (across + 0.25)) / 0.04)
    along, off = _rotated(across - centre_across, down - centre_down, np.deg2rad(130 + 60 * jitter[2]))
    neck = 0.45 * plateau(off, 0.085, 0.012) * step_at(along / 0.02) * step_at((0.34 - along) / 0.02)
    shaft = (
        0.65 * plateau(across + 0.43 + jitter[3] + 0.1 * down, 0.085, 0.012) * step_at((down - 0.12) / 0.03)
    )
    along, off = _rotated(across - 0.12, down - 0.06 - jitter[4], np.deg2rad(25 + 80 * jitter[5]))
    pubis = 0.40 * plateau(off, 0.05, 0.012) * step_at((along + 0.10) / 0.02)
    bone = np.maximum.reduce([head + socket, ilium, neck, shaft, pubis])
    tissue = 0.75 + 0.15 * step_at((0.1 - across) / 0.2)
    return tissue + bone + 0.02 * mottle(down.shape[0], rng) + rng.normal(0, 0.15) * across


def forearm(down: np.ndarray, across: np.ndarray, carm: CArm, rng: np.random.Generator) -> np.ndarray:
    """Two long bones in an arm that leaves air at both sides."""
    tilt, centre = rng.normal(0, 0.10), rng.normal(0, 0.04)
    place = across - centre - tilt * down
    half = 0.36 + rng.normal(0, 0.03) - 0.06 * down
    arm = 0.45 * np.sqrt(np.clip(1 - np.square(place / half), 0, 1))
    bow = 0.04 * np.cos(2.5 * down)
    bones = np.zeros_like(down)
    for middle, width in ((-0.13 - bow, 0.062), (0.12 + 0.5 * bow, 0.055)):
        off = np.abs(place - middle)
        shell = plateau(off - width, 0.016, 0.006) + 0.55 * plateau(off, width, 0.006)
        bones += 0.55 * shell
    inside = step_at((half - np.abs(place)) / 0.01)
    return 0.05 + arm + inside * (bones + 0.015 * mottle(down.shape[0], rng))


def _rotated(across: np.ndarray, down: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Distance along and off an axis at this angle (from image right, clockwise)."""
    return np.cos(angle) * across + np.sin(angle) * down, -np.sin(angle) * across + np.cos(angle) * down
