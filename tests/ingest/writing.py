"""Names drawn into films: what a machine, a workstation or a screen recorder burns into pixels."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deepcoro.angiography.cohort import films_of, patient_of, studies_of
from deepcoro.angiography.detector import VENDORS
from deepcoro.angiography.film import render_film
from deepcoro.angiography.presets import preset_named

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FONT_NAMES = ("DejaVuSans.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf", "DejaVuSans-Bold.ttf")
NAMES = ("TREMBLAY GENEVIEVE", "BOUCHARD^JOHN", "MRN-7734501", "Lavoie, Henri", "12/03/1955")


def clean_films(preset: str, count: int, seed: int, **changes: object) -> Iterator[tuple[np.ndarray, int]]:
    """Generated films, 8-bit display values [frame height width] and the bits they were made with: all vendors, depths, and leads in many."""
    chosen = preset_named(preset).model_copy(update={"clutter": 0.5, **changes})
    patients = (patient_of(chosen, seed, number) for number in itertools.count())
    studies = (study for patient in patients for study in studies_of(chosen, seed, patient))
    plans = (plan for study in studies for plan in films_of(chosen, seed, study, "dicom"))
    for made, plan in enumerate(itertools.islice(plans, count)):
        bits = (8, 10, 12)[made // 3 % 3]
        injection = replace(plan.injection, vendor=VENDORS[made % 3], bits=bits)
        yield (render_film(injection).pixels >> (bits - 8)).astype(np.uint8), bits


def letters(text: str, size_px: int, font: str = FONT_NAMES[0]) -> np.ndarray:
    """Coverage 0..1 [height width] of a line of text."""
    face = ImageFont.truetype(str(FONTS / font), size_px)
    left, top, right, bottom = face.getbbox(text)
    canvas = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), text, 255, font=face)
    return np.asarray(canvas) / 255.0


def burn(
    film: np.ndarray,
    line: np.ndarray,
    place: str,
    ink: float = 255,
    opacity: float = 1.0,
    step: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Draws the line into every frame [frame height width] at `tl`, `tr`, `bl`, `br` or `cc`; `step` rows and columns on in each frame."""
    height, width = film.shape[1:3]
    line = line[: height - 2, : width - 2]
    rows, columns = line.shape
    top = {"t": 4, "c": (height - rows) // 2, "b": height - rows - 4}[place[0]]
    left = {"l": 4, "c": (width - columns) // 2, "r": width - columns - 4}[place[1]]
    drawn = film.copy()
    for number, frame in enumerate(drawn):
        y = int(np.clip(top + step[0] * number, 0, height - rows))
        x = int(np.clip(left + step[1] * number, 0, width - columns))
        part = frame[y : y + rows, x : x + columns].astype(float)
        frame[y : y + rows, x : x + columns] = np.rint(part + opacity * line * (ink - part))
    return drawn
