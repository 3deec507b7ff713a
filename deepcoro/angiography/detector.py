"""From attenuation to grey levels: vendors' exposure curves, noise, collimator."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float, Int16, UInt16

COUNTS_PER_GREY = 16
"""Films are computed in 12-bit counts; 8-bit grey is count / 16."""
# 370 mg iodine/ml times 7.6 cm^2/g at 60 keV is 0.28 per mm; scatter halves the contrast that reaches the detector.
_CONTRAST_PER_MM = 0.16
_MIN_THICKNESS_MM = 0.01  # darkens by less than half a grey level
_WEIGHT_BITS = 6
_BAND_ROWS = 64
_EDGE = 0.006
"""Softness of the collimator's edge, as a fraction of the frame."""


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
        "Aster", compression=1.0, brightest_grey=250.0, noise_grey=2.0, field="intensifier", intensity="LIN"
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


class Exposure:
    """Turns thickness of contrast into the grey frames of one film: Beer-Lambert over the backdrop, noise, collimator.

    Works through bands of rows that fit the processor's cache: on a busy machine whole frames took three times longer.
    """

    def __init__(
        self,
        vendor: Vendor,
        backdrop: Float[np.ndarray, "height width"],
        size_px: int,
        rng: np.random.Generator,
    ) -> None:
        """`backdrop` is attenuation on a square that exceeds the frame by an equal margin on all sides."""
        self._size_px = size_px
        self._pad = (backdrop.shape[0] - size_px) // 2
        counts = vendor.brightest_grey * COUNTS_PER_GREY * np.exp(-vendor.compression * backdrop)
        self._backdrop = np.minimum(counts, 4095).astype(np.int16)
        middle = slice(self._pad, self._pad + size_px)
        self._weight = _noise_weight(self._backdrop[middle, middle])
        self._mask = collimator(vendor, size_px, rng)
        self._bank = noise_bank(size_px, round(noise_sigma(vendor, size_px), 3))
        self._rng = rng
        self._scratch = np.empty((2, _BAND_ROWS, size_px), np.int16)

    def develop(
        self,
        out: np.ndarray,
        shift: tuple[int, int],
        drawn: tuple[slice, slice, Float[np.ndarray, "height width"]] | None,
        bits: int,
    ) -> None:
        """One frame into `out`. `shift` moves the backdrop down and right, px; `drawn` is a rectangle and its thickness, mm."""
        top, left = self._rng.integers(0, self._bank.shape[0] - self._size_px, 2)
        # mirroring left to right as well would make every row a backward read, five times slower
        noise = self._bank[top : top + self._size_px, left : left + self._size_px]
        noise = noise[:: int(self._rng.choice((-1, 1)))]
        for start in range(0, self._size_px, _BAND_ROWS):
            rows = slice(start, min(start + _BAND_ROWS, self._size_px))
            counts, grain = self._scratch[:, : rows.stop - rows.start]
            self._shift(rows, shift, counts)
            if drawn is not None:
                _absorb(counts, start, drawn)
            np.multiply(noise[rows], self._weight[rows], out=grain)
            np.right_shift(grain, _WEIGHT_BITS, out=grain)
            counts += grain
            np.clip(counts, 0, 4095, out=counts)
            counts = counts.view(np.uint16)
            if self._mask is not None:
                counts *= self._mask[rows]  # 4095 x 16 just fits 16 bits
            np.right_shift(counts, 12 - bits + (0 if self._mask is None else 4), out=counts)
            np.copyto(out[rows], counts, casting="unsafe")

    def _shift(self, rows: slice, shift: tuple[int, int], out: np.ndarray) -> None:
        top, left = self._pad - shift[0] + rows.start, self._pad - shift[1]
        np.copyto(out, self._backdrop[top : top + len(out), left : left + self._size_px])


def _absorb(
    counts: np.ndarray, start: int, drawn: tuple[slice, slice, Float[np.ndarray, "height width"]]
) -> None:
    """Darkens a band of rows, which begins at row `start` of the frame, by the contrast in the beam."""
    rows, columns, thickness = drawn
    top, bottom = max(rows.start, start), min(rows.stop, start + len(counts))
    if top >= bottom:
        return
    part = thickness[top - rows.start : bottom - rows.start]
    # most of the rectangle is empty; a filling defect drawn wider than its vessel goes below zero
    where = np.nonzero(part > _MIN_THICKNESS_MM)
    shaded = counts[top - start : bottom - start, columns]
    shaded[where] = shaded[where] * np.exp(part[where] * np.float32(-_CONTRAST_PER_MM))


def _noise_weight(counts: Int16[np.ndarray, "height width"]) -> Int16[np.ndarray, "height width"]:
    """Root of the grey level over grey 128, in 1/64: quantum noise follows the intensity."""
    weight = np.sqrt(np.maximum(counts, 0).astype(np.float32) / (128 * COUNTS_PER_GREY))
    return (weight * 2**_WEIGHT_BITS).astype(np.int16)


def collimator(
    vendor: Vendor, size_px: int, rng: np.random.Generator
) -> UInt16[np.ndarray, "height width"] | None:
    """Transparency of the field's border, 0-16; None where the whole detector is open.

    An image intensifier sees a circle, cut by shutters whose edges are soft; flat panels see a square.
    """
    across = np.arange(size_px, dtype=np.float32) / size_px - 0.5
    down = across[:, None]
    shutters = [float(edge) for edge in 0.5 - rng.uniform(0.0, 0.07, 4)]
    if vendor.field == "square" and rng.random() < 0.5:
        return None
    inside = np.minimum(
        np.minimum(shutters[0] - across, shutters[1] + across),
        np.minimum(shutters[2] - down, shutters[3] + down),
    )
    if vendor.field == "intensifier":
        inside = np.minimum(inside, float(rng.uniform(0.52, 0.57)) - np.sqrt(across**2 + down**2))
    elif vendor.field == "octagon":
        inside = np.minimum(inside, float(rng.uniform(0.76, 0.82)) - np.abs(across) - np.abs(down))
    return (16 * np.clip(inside / _EDGE + 0.5, 0, 1)).astype(np.uint16)
