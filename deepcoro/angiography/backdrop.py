"""What lies behind the arteries: lungs, ribs, heart shadow, spine, diaphragm - as attenuation seen from one C-arm angle."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from deepcoro.angiography.carm import CArm
from deepcoro.angiography.splat import Canvas

_COARSE = 4
"""The background is smooth: it is computed at a quarter of the size."""
_LUNG_VESSELS = 16


Painter = Callable[[np.ndarray, np.ndarray, CArm, np.random.Generator], np.ndarray]
"""Attenuation at places (down, across), fractions of the frame from its middle."""


def draw_backdrop(
    carm: CArm, pad_px: int, rng: np.random.Generator, region: Painter | None = None
) -> Float[np.ndarray, "height width"]:
    """Attenuation (negative log intensity, 0 = open lung) on size + 2 pad pixels a side; the pad allows shifting.

    `region` paints another part of the body than the chest.
    """
    size = -(-(carm.size_px + 2 * pad_px) // _COARSE) + 1
    place = (np.arange(size, dtype=np.float32) * _COARSE - pad_px) / carm.size_px - 0.5
    down, across = np.meshgrid(place, place, indexing="ij")
    # moved by the table like the heart is; 1.4 is the usual magnification
    across = across + carm.centre_mm[0] * 1.4 / carm.field_mm
    down = down - carm.centre_mm[1] * 1.4 / carm.field_mm
    field = (region or chest)(down, across, carm, rng)
    side = carm.size_px + 2 * pad_px
    return _enlarge(field, _COARSE)[:side, :side] + _lung_vessels(side, rng)


def chest(down: np.ndarray, across: np.ndarray, carm: CArm, rng: np.random.Generator) -> np.ndarray:
    # the spine lies behind: it moves right in LAO, left in RAO
    spine = float(np.clip(0.33 * np.sin(np.deg2rad(carm.primary_deg)) / 0.55, -0.62, 0.62)) + rng.normal(
        0, 0.03
    )
    bent = across - spine - 0.03 * np.sin(3 * down + rng.uniform(0, 6))
    vertebrae = 1 + 0.10 * np.sin(2 * np.pi * down * rng.uniform(4.5, 6) + rng.uniform(0, 6))
    column = 1.1 * rng.uniform(0.8, 1.2) * plateau(bent, rng.uniform(0.13, 0.18), 0.03) * vertebrae
    mediastinum = 0.45 * plateau(bent * 0.8, 0.26, 0.08)
    heart_centre = 0.10 * np.sign(-spine) * abs(spine) + rng.normal(0, 0.03)
    heart = np.hypot((across - heart_centre) / 0.40, (down - 0.08) / 0.42)
    shadow = 0.55 * rng.uniform(0.8, 1.2) * step_at((1 - heart) / 0.07)
    lung = 1 - np.clip(column + mediastinum, 0, 1)
    field = column + mediastinum + shadow + _diaphragm(down, across, carm, rng)
    field += lung * _ribs(down, across, carm, rng)
    field += mottle(down.shape[0], rng) * (0.012 + 0.035 * lung)
    tilt = rng.normal(0, 0.15, 2)
    return field + tilt[0] * across + tilt[1] * down + 0.12


def plateau(distance: np.ndarray, half_width: float, softness: float) -> np.ndarray:
    """1 inside, 0 outside, with soft edges."""
    return step_at((half_width - np.abs(distance)) / softness)


def step_at(value: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * value))


def _diaphragm(down: np.ndarray, across: np.ndarray, carm: CArm, rng: np.random.Generator) -> np.ndarray:
    """A dome at the bottom; cranial views bring it up into the field."""
    dome = 0.43 + rng.normal(0, 0.03) - carm.secondary_deg / 260 + 0.35 * (across - rng.normal(0, 0.15)) ** 2
    return 0.65 * rng.uniform(0.7, 1.2) * step_at((down - dome) / 0.012)


def _ribs(down: np.ndarray, across: np.ndarray, carm: CArm, rng: np.random.Generator) -> np.ndarray:
    """Posterior ribs slope one way, anterior ones the other."""
    ribs = np.zeros_like(down)
    for slope, strength in ((0.5, 0.12), (-0.8, 0.08)):
        slope *= 1.0 if carm.primary_deg >= 0 else -1.0
        wave = down * rng.uniform(3.5, 5) + slope * across + 0.9 * np.abs(across) * across
        ribs += strength * np.maximum(0, np.sin(2 * np.pi * wave + rng.uniform(0, 6.28))) ** 3
    return ribs


def mottle(size: int, rng: np.random.Generator) -> np.ndarray:
    """Lung markings: noise with a falling spectrum, unit variance."""
    total = np.zeros((size, size), np.float32)
    cells = 8
    while cells <= size:
        grid = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
        factor = -(-size // cells) + 1
        total += _enlarge(grid, factor)[:size, :size] * np.float32(cells**0.1)
        cells *= 2
    return total / total.std()


def _lung_vessels(size: int, rng: np.random.Generator) -> np.ndarray:
    """Faint curved strokes, from thick to thin: the vessels of the lungs, out of focus of the question but always there."""
    t = np.linspace(0, 1, size // 5, dtype=np.float32)
    parts = []
    for _ in range(_LUNG_VESSELS):
        start, angle, bend = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi), rng.normal(0, 1.0)
        heading = angle + bend * t
        step = 1.5 * rng.uniform(0.4, 1)
        column, row = start[0] + step * np.cumsum(np.cos(heading)), start[1] + step * np.cumsum(
            np.sin(heading)
        )
        radius = np.maximum(size * rng.uniform(0.006, 0.014) * (1 - 0.6 * t), 0.75)
        mass = rng.uniform(0.015, 0.05) * 2 * radius * step
        parts.append((column, row, radius, mass))
    column, row, radius, mass = (np.concatenate(values) for values in zip(*parts, strict=True))
    canvas = Canvas(size, 1, float(radius.max()))
    rows, columns, drawn = canvas.draw(np.zeros(len(row), int), column, row, radius, mass)
    field = np.zeros((size, size), np.float32)
    field[rows, columns] = drawn[0]
    return field


def _enlarge(field: np.ndarray, factor: int) -> Float[np.ndarray, "height width"]:
    """Bilinear enlargement by a whole factor; sample k of the input sits at k * factor."""
    for axis in (0, 1):
        rows = np.moveaxis(field, axis, 0).astype(np.float32)
        following = np.concatenate([rows[1:], rows[-1:]])
        larger = np.empty((len(rows) * factor, *rows.shape[1:]), np.float32)
        for step in range(factor):
            weight = np.float32(step / factor)
            larger[step::factor] = rows * (1 - weight) + following * weight
        field = np.moveaxis(larger, 0, axis)
    return field
