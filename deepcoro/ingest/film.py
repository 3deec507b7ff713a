"""What every reader of films gives, and how it says no."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from deepcoro.ingest.positioner import Plane
from deepcoro.sample import Side

Modality = Literal["XA", "US"]


class Box(NamedTuple):
    """A rectangle of pixels; the ends lie outside."""

    top: int
    bottom: int
    left: int
    right: int


class RejectedFilm(Exception):
    """This film cannot be used. The reason starts with a slug and holds numbers and format names only: it is written to a table."""


@dataclass(frozen=True)
class Film:
    """One opened film. Frames are decoded while they are iterated, so memory stays flat; iterating again decodes again."""

    frames: Iterable[np.ndarray]
    """uint8 [height width] or [height width 3], 0 black, 255 white, all of one size."""
    frame_rate_fps: float | None = None
    frame_rate_source: str | None = None
    """The tag or container field that gave the frame rate."""
    primary_angle_deg: float | None = None
    """LAO positive."""
    secondary_angle_deg: float | None = None
    """Cranial positive."""
    rotation_deg: float | None = None
    """Arc that the C-arm travels during the film; None when it does not move."""
    source_to_detector_mm: float | None = None
    source_to_patient_mm: float | None = None
    """To the isocentre, where the heart lies."""
    imager_pixel_spacing_mm: float | None = None
    """Side of a pixel of these frames at the detector."""
    height: int | None = None
    """Rows of these frames, px."""
    modality: Modality | None = None
    """What made the film; None where the file does not tell."""
    grey_scale: str | None = None
    """Which display scale of the header was taken: `window`, `window 1 of 3`, `voi_table`, `stored`, `percentiles`."""
    plane: Plane | None = None
    """Of a biplane run; never stored as such."""
    regions: tuple[Box, ...] = ()
    """Where the header says that the ultrasound image lies."""
    declares_burned_in: bool = False
    """The header says that names or dates are in the pixels."""
    announced_frames: int | None = None
    """Frames that the header promises."""
    order: tuple[str, ...] | None = None
    """Sorts the films of a study by acquisition; never stored."""


@dataclass(frozen=True)
class FilmSource:
    """One row of the table: where the film lies and what the table says of it."""

    row: int
    """Number of the row, 1 for the first under the header."""
    path: Path
    clip: str
    """Keyed id."""
    text: str | None = None
    side: Side | None = None
    view: str | None = None
    primary_angle_deg: float | None = None
    secondary_angle_deg: float | None = None
    frame_rate_fps: float | None = None
    labels: tuple[tuple[str, float | str | None], ...] = ()


@dataclass(frozen=True)
class StudySource:
    """The rows of one study."""

    study: str
    """Keyed id."""
    split: str
    films: tuple[FilmSource, ...]
    patient: str | None = None
    """Keyed id; None where the table names no patient."""


class Rejection(NamedTuple):
    """A row that gives no film. Clip is None where the row names no film."""

    row: int
    clip: str | None
    reason: str


def check_complete(decoded: int, announced: int | None) -> None:
    """Raises when a film is shorter than its header says by more than one frame and more than 5 %: its tail is lost.

    A header that is off by a frame is common and harmless; half a film would be labelled with findings it does not show.
    """
    if decoded < 1:
        raise RejectedFilm("unreadable: no frame can be decoded")
    missing = (announced or 0) - decoded
    if missing > max(1, 0.05 * (announced or 0)):
        raise RejectedFilm(f"truncated: {decoded} of {announced} frames can be decoded")
    if decoded < 2:
        raise RejectedFilm("single_frame: a film has two frames or more")
