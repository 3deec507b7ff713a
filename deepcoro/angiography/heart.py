"""The heart as a shape: its axes in the patient, and its epicardial surface on which the arteries run."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


# Patient frame, mm: +X left, +Y posterior, +Z head; the origin is the heart's centre.
_LONG_AXIS = unit(np.array((0.60, -0.55, -0.58)))  # base to apex
_ANTERIOR_GROOVE = np.array((-0.05, -1.0, 0.35))


@dataclass(frozen=True)
class Heart:
    """An ellipsoid around the long axis. Azimuth 0 deg is the anterior groove, +90 the obtuse margin, +-180 the posterior one."""

    axis: Float[np.ndarray, "3"]
    anterior: Float[np.ndarray, "3"]
    obtuse: Float[np.ndarray, "3"]
    half_length_mm: float
    radius_mm: float

    def surface(
        self, polar_deg: Float[np.ndarray, " point"], azimuth_deg: Float[np.ndarray, " point"]
    ) -> Float[np.ndarray, "point 3"]:
        """Points on the surface, mm; polar angle 0 is the base, 180 the apex."""
        polar, azimuth = np.deg2rad(polar_deg)[:, None], np.deg2rad(azimuth_deg)[:, None]
        around = np.cos(azimuth) * self.anterior + np.sin(azimuth) * self.obtuse
        return -self.half_length_mm * np.cos(polar) * self.axis + self.radius_mm * np.sin(polar) * around

    def angles_of(self, point: Float[np.ndarray, "3"]) -> tuple[float, float]:
        """Polar and azimuth angle (deg) of a point near the surface."""
        along = float(point @ self.axis)
        across = point - along * self.axis
        polar = np.rad2deg(np.arccos(np.clip(-along / self.half_length_mm, -1, 1)))
        return float(polar), float(np.rad2deg(np.arctan2(across @ self.obtuse, across @ self.anterior)))


def draw_heart(rng: np.random.Generator) -> Heart:
    """A heart of ordinary size; its axis varies by some degrees between patients."""
    axis = unit(_LONG_AXIS + rng.normal(0, 0.06, 3))
    anterior = unit(_ANTERIOR_GROOVE - axis * (_ANTERIOR_GROOVE @ axis))
    half_length_mm = 52 + float(np.clip(rng.normal(0, 3), -6, 6))
    radius_mm = 40 + float(np.clip(rng.normal(0, 2.5), -5, 5))
    # cross product of axis and anterior points to the patient's left and back: the obtuse margin
    obtuse = np.cross(axis, anterior)
    return Heart(axis, anterior, obtuse * np.sign(obtuse @ (1.0, 0.7, 0.0)), half_length_mm, radius_mm)
