"""A picture of generated films for the eye: one film a row, frames from left to right."""

import unicodedata
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from deepcoro.angiography.cohort import FilmPlan, films_of, patient_of, studies_of
from deepcoro.angiography.film import render_film
from deepcoro.angiography.presets import Preset
from deepcoro.numerals import signed

_TILE_PX = 256
_LABEL_PX = 18


def write_sheet(path: Path, preset: Preset, seed: int, num_films: int = 8, num_frames: int = 5) -> None:
    """Renders some films of different patients and saves them as one image with captions."""
    from PIL import Image

    rows = [_row(plan, num_frames) for plan in _plans(preset, seed, num_films)]
    Image.fromarray(np.concatenate(rows)).save(path)


def _plans(preset: Preset, seed: int, count: int) -> list[FilmPlan]:
    """The n-th film of the n-th patient, so that trees and views vary."""
    plans = []
    for number in range(count):
        films = films_of(preset, seed, studies_of(preset, seed, patient_of(preset, seed, number))[0])
        plans.append(films[(number * 3) % len(films)])
    return plans


def _row(plan: FilmPlan, num_frames: int) -> UInt8[np.ndarray, "height width"]:
    film = render_film(plan.injection)
    grey = (film.pixels >> (plan.injection.bits - 8)).astype(np.uint8)
    chosen = np.linspace(0.04, 0.96, num_frames) * (len(grey) - 1)
    strip = np.concatenate([_tile(grey[round(position)]) for position in chosen], axis=1)
    study = plan.study
    carm = plan.injection.carm
    angles = f"{signed(carm.primary_deg, 0)}/{signed(carm.secondary_deg, 0)}"
    content = plan.content
    shown = f"{content.main_structure}, contrast {content.contrast_agent:d}, {content.status}"
    caption = f"{plan.view} {angles}  LVEF {study.lvef_percent}  {study.reports[plan.side] if content.is_assessed else shown}"
    return np.concatenate([_caption(caption, strip.shape[1]), strip])


def _tile(frame: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "tile tile"]:
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize((_TILE_PX, _TILE_PX), Image.Resampling.LANCZOS))


def _caption(text: str, width: int) -> UInt8[np.ndarray, "height width"]:
    from PIL import Image, ImageDraw

    image = Image.new("L", (width, _LABEL_PX), 255)
    plain = (
        unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    )  # the built-in font has no accents
    ImageDraw.Draw(image).text((4, 3), plain, fill=0)
    return np.asarray(image)
