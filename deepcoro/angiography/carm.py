"""The C-arm: from the patient's frame to pixels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class CArm:
    """Position and geometry of source and detector for one film."""

    primary_deg: float
    """LAO positive, RAO negative."""
    secondary_deg: float
    """Cranial positive, caudal negative."""
    source_detector_mm: float
    source_isocentre_mm: float
    field_mm: float
    """Side of the square field at the detector."""
    size_px: int
    centre_mm: tuple[float, float] = (0.0, 0.0)
    """What the table brings to the middle of the image, in detector axes at the isocentre."""

    @property
    def pitch_mm(self) -> float:
        """Pixel pitch at the detector."""
        return self.field_mm / self.size_px

    @property
    def axes(self) -> Float[np.ndarray, "3 3"]:
        """Image right, image up, and towards the detector, in the patient's frame (+X left, +Y posterior, +Z head)."""
        a, b = np.deg2rad(self.primary_deg), np.deg2rad(self.secondary_deg)
        right = (np.cos(a), np.sin(a), 0.0)
        up = (-np.sin(a) * np.sin(b), np.cos(a) * np.sin(b), np.cos(b))
        towards = (np.sin(a) * np.cos(b), -np.cos(a) * np.cos(b), np.sin(b))
        return np.array((right, up, towards))

    def across(self, vectors: Float[np.ndarray, "ball 3"]) -> Float[np.ndarray, "3 ball"]:
        """Components along image right, image up and depth."""
        return self.axes @ vectors.T

    def pixels(
        self, right_mm: np.ndarray, up_mm: np.ndarray, depth_mm: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Column, row and scale (px per mm) of points given in the detector's axes."""
        scale = self.source_detector_mm / (self.source_isocentre_mm + depth_mm) / self.pitch_mm
        half = self.size_px / 2
        return (
            half + scale * (right_mm - self.centre_mm[0]),
            half - scale * (up_mm - self.centre_mm[1]),
            scale,
        )
