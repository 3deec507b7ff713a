"""What a film looks like in 256 bytes, and which films look the same: one film under two patients would leak from train to test.

The mean of the frames and the deviation over time, each reduced to 32 x 32, levelled where the picture ends, and reduced to its 128
slowest cosines (without the constant), raised with frequency as images fall with it. Compression, another size, a missing frame or another brightness leave both nearly as they
were; another injection changes the one, another patient both.
"""

import functools

import numpy as np

GRID_PX = 32
NUM_TERMS = 128
FINGERPRINT_BYTES = 2 * NUM_TERMS
ALIKE = 0.94
"""Smallest correlation, of the mean and of the deviation alike, that makes two films the same. Over 170 generated films of
`--preset tiny` (64 px) copies at JPEG q80, 75 % size, without a frame or 5 grey levels brighter reach 0.970 or more, two patients
0.864 or less. Echo-like films in one sector: copies 0.99, hearts that differ half as much as hearts do 0.90."""
_LIT = 32.0
"""Grey levels above the darkest cell at which a cell counts as picture in full. A slow rise: with a steep one a cell near its foot is in
one copy and not in the other."""
_FLAT = 0.5
"""A mean frame that varies by less (grey levels) shows nothing: any two such films are alike."""


class Moments:
    """Sums over the frames of a film while it is encoded."""

    def __init__(self) -> None:
        self._sum = np.zeros((GRID_PX, GRID_PX))
        self._square_sum = np.zeros((GRID_PX, GRID_PX))
        self._brightest = np.zeros((GRID_PX, GRID_PX))
        self._frames = 0

    def add(self, frame: np.ndarray) -> None:
        """Takes a frame, uint8 [height width] or [height width 3]."""
        small = _reduce(frame)
        self._sum += small
        self._square_sum += small**2
        self._brightest = np.maximum(self._brightest, small)
        self._frames += 1

    def fingerprint(self) -> bytes | None:
        """FINGERPRINT_BYTES signed bytes; None for a film that shows nothing."""
        mean = self._sum / self._frames
        if mean.std() < _FLAT:
            return None
        deviation = np.sqrt(np.maximum(self._square_sum / self._frames - mean**2, 0.0))
        inside = picture(self._brightest)
        return np.concatenate([_terms(_within(mean, inside)), _terms(_within(deviation, inside))]).tobytes()


def picture(brightest: np.ndarray) -> np.ndarray:
    """Share of each cell that belongs to the picture, 0..1: what lies beyond the outermost cells that are ever lit does not.

    A dark chamber inside is part of it; the black around an echo sector, or behind a shutter, is not.
    """
    lit = np.minimum((brightest - brightest.min()) / _LIT, 1.0)
    rows = np.minimum(np.maximum.accumulate(lit, 1), np.maximum.accumulate(lit[:, ::-1], 1)[:, ::-1])
    columns = np.minimum(np.maximum.accumulate(lit, 0), np.maximum.accumulate(lit[::-1], 0)[::-1])
    return np.minimum(rows, columns)


def _within(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The image about its mean inside, and nothing outside: the shape of a sector, the same on all films of a machine, is no likeness."""
    return inside * (image - np.average(image, weights=inside))


def _reduce(frame: np.ndarray) -> np.ndarray:
    from PIL import Image

    image = Image.fromarray(frame if frame.ndim == 2 else np.ascontiguousarray(frame[:, :, 1]))
    return np.asarray(image.resize((GRID_PX, GRID_PX), Image.Resampling.BILINEAR), np.float64)


def _terms(image: np.ndarray) -> np.ndarray:
    """int8 [NUM_TERMS]; the largest is 127, all are 0 for a constant."""
    from scipy.fft import dctn

    rows, columns, weights = _slowest()
    terms = dctn(image, norm="ortho")[rows, columns] * weights
    largest = np.abs(terms).max()
    # Rounding leaves 1e-13 in a still film; scaled up it would be noise.
    return np.round(terms * (127 / largest) if largest > 1e-6 else np.zeros(NUM_TERMS)).astype(np.int8)


@functools.cache
def _slowest() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of the terms by rising frequency, and their weights."""
    row, column = np.divmod(np.arange(GRID_PX**2), GRID_PX)
    frequency = np.hypot(row, column)
    order = np.lexsort((row, frequency))[1 : NUM_TERMS + 1]
    return row[order], column[order], frequency[order]


def alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The smaller of the two correlations, [pair], of fingerprints int8 [pair FINGERPRINT_BYTES]; two still films correlate fully."""
    halves = [
        _correlation(one[:, part], other[:, part])
        for part in (slice(0, NUM_TERMS), slice(NUM_TERMS, FINGERPRINT_BYTES))
    ]
    return np.minimum(*halves)


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(np.float32), other.astype(np.float32)
    dot = np.einsum("pt,pt->p", one, other)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    both_still = ~one.any(axis=1) & ~other.any(axis=1)
    return np.where(both_still, 1.0, dot / np.maximum(lengths, 1e-9))
