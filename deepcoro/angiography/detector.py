"""From attenuation to grey levels: vendors' exposure curves, noise, collimator."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Int16, UInt16

COUNTS_PER_GREY = 16
"""Films are computed in 12-bit counts; 8-bit grey is count / 16."""
_SQRT_STEPS = 64


@dataclass(frozen=True)
class Vendor:
    """How one make of machine turns intensity into grey. The three also serve as each other's external site."""

    name: str
    compression: float
    """Exponent on the background's intensity: 1 = as physics gives it, less = flattened by the machine."""
    brightest_grey: float
    """Grey where nothing attenuates."""
    noise_grey: float
    """Standard deviation at grey 128 and 512 px; it grows with the root of the grey level."""
    field: Literal["intensifier", "octagon", "square"]
    intensity: Literal["LIN", "DISP"]
    """Pixel intensity relationship, as DICOM names it."""


VENDORS = (
    Vendor(
        "Aster", compression=1.0, brightest_grey=262.0, noise_grey=2.0, field="intensifier", intensity="LIN"
    ),
    Vendor(
        "Borealis", compression=0.62, brightest_grey=235.0, noise_grey=3.2, field="square", intensity="DISP"
    ),
    Vendor(
        "Cormorant", compression=0.8, brightest_grey=240.0, noise_grey=2.6, field="octagon", intensity="DISP"
    ),
)


def noise_sigma(vendor: Vendor, size_px: int) -> float:
    """Noise in grey levels: binning to fewer pixels averages it (correlated noise, so slower than the pixel count)."""
    return vendor.noise_grey * (size_px / 512) ** 0.65


@lru_cache(maxsize=8)
def noise_bank(size_px: int, sigma_grey: float) -> Int16[np.ndarray, "height width"]:
    """Spatially correlated noise of twice the film's size, in counts: drawing each frame anew would cost 14 ms a frame."""
    rng = np.random.default_rng(99)
    side = max(2 * size_px, 256)
    noise = rng.standard_normal((side, side), dtype=np.float32)
    for axis in (0, 1):
        noise = 0.6 * noise + 0.2 * (np.roll(noise, 1, axis) + np.roll(noise, -1, axis))
    noise *= sigma_grey * COUNTS_PER_GREY / noise.std()
    return np.clip(noise, -300, 300).astype(np.int16)


def noise_weight(counts: Int16[np.ndarray, "height width"]) -> Int16[np.ndarray, "height width"]:
    """Root of the grey level over grey 128, in 1/64: quantum noise follows the intensity."""
    weight = np.sqrt(np.maximum(counts, 0).astype(np.float32) / (128 * COUNTS_PER_GREY))
    return (weight * _SQRT_STEPS).astype(np.int16)


class Noise:
    """Noise of one film, frame by frame: random windows of the bank, mirrored top to bottom or not."""

    def __init__(self, size_px: int, sigma_grey: float, rng: np.random.Generator) -> None:
        self._bank = noise_bank(size_px, round(sigma_grey, 3))
        self._size_px = size_px
        self._rng = rng
        self._product = np.empty((size_px, size_px), np.int16)

    def add_to(self, frame: np.ndarray, weight: np.ndarray) -> None:
        """Adds noise to a frame of counts in place."""
        top, left = self._rng.integers(0, self._bank.shape[0] - self._size_px, 2)
        window = self._bank[top : top + self._size_px, left : left + self._size_px]
        # mirroring left to right as well would make every row a backward read, five times slower
        np.multiply(window[:: int(self._rng.choice((-1, 1)))], weight, out=self._product)
        np.right_shift(self._product, 6, out=self._product)
        frame += self._product


def collimator(
    vendor: Vendor, size_px: int, rng: np.random.Generator
) -> UInt16[np.ndarray, "height width"] | None:
    """Transparency of the field's border, 0-16; None where the whole detector is open.

    An image intensifier sees a circle, cut by shutters whose edges are soft; flat panels see a square.
    """
    down, across = np.mgrid[0:size_px, 0:size_px].astype(np.float32) / size_px - 0.5
    edge = 0.006
    shutters = 0.5 - rng.uniform(0.0, 0.07, 4)
    if vendor.field == "square" and rng.random() < 0.5:
        return None
    inside = np.minimum.reduce(
        [shutters[0] - across, shutters[1] + across, shutters[2] - down, shutters[3] + down]
    )
    if vendor.field == "intensifier":
        inside = np.minimum(inside, rng.uniform(0.52, 0.57) - np.hypot(across, down))
    elif vendor.field == "octagon":
        inside = np.minimum(inside, rng.uniform(0.76, 0.82) - np.abs(across) - np.abs(down))
    return (16 * np.clip(inside / edge + 0.5, 0, 1)).astype(np.uint16)


def to_bits(frames: np.ndarray, bits: int, out: np.ndarray) -> None:
    """12-bit counts (0-4095) to 8, 10 or 12 bits, into `out`. `frames` is used up."""
    if bits < 12:
        np.right_shift(frames, 12 - bits, out=frames)
    np.copyto(out, frames, casting="unsafe")
