"""Hidden parts of held-out films, guessed: pictures and numbers for the report."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from deepcoro import atomic
from deepcoro.config import Block
from deepcoro.report_examples import film_strip

FILE = "report_reconstructions.json"
"""Pictures of the last evaluation; they hold films, like the report."""

_ROWS = {
    "error": "This model",
    "error_of_nearest_visible": "A copy of what is seen nearest in time at the same place",
    "error_of_unit_mean": "The hidden part's mean grey level",
}


class Picture(Block):
    """One film: as it is, as the encoder saw it, as the decoder completed it."""

    title: str
    """Keyed id of the film."""
    error: float
    """Mean squared error of its hidden parts, each in units of its own variance."""
    original: str
    """JPEG of the film's frames, base64."""
    masked: str
    """The same with hidden parts at the mean grey level."""
    reconstruction: str
    """The same with hidden parts as guessed, at their own mean and contrast."""


def choose_films(error: Float[np.ndarray, "film"], num_films: int) -> list[int]:
    """Films evenly spread from the smallest error to the largest; those without one are left out."""
    order = np.argsort(error, kind="stable")[: int(np.isfinite(error).sum())]
    places = np.linspace(0, len(order) - 1, min(num_films, len(order))).round().astype(int)
    return [int(order[place]) for place in places]


def draw_picture(
    title: str, error: float, films: Mapping[str, UInt8[np.ndarray, "frame height width"]]
) -> Picture:
    """From the films `original`, `masked` and `reconstruction`."""
    strips = {name: base64.b64encode(film_strip(film)).decode() for name, film in films.items()}
    return Picture(title=title, error=error, **strips)


def write_pictures(run_dir: Path, pictures: Sequence[Picture]) -> None:
    """Keeps them beside the report, so that it can be made again."""
    text = json.dumps([picture.model_dump() for picture in pictures])
    atomic.write_text(run_dir / FILE, text)


def read_pictures(run_dir: Path) -> list[Picture]:
    """Those of the last evaluation; none where it drew none."""
    path = run_dir / FILE
    return [Picture(**each) for each in json.loads(path.read_text())] if path.is_file() else []


class Row(Block):
    """One line of the table."""

    label: str
    value: float
    interval: tuple[float, float] | None
    on_vessels: float | None


def reconstruction_rows(results: Mapping[str, float], objective: str = "masked_modeling") -> list[Row]:
    """Errors of the model and of the guesses without one; empty where none was measured."""
    rows = []
    for name, label in _ROWS.items():
        key = f"{objective}/{name}"
        if key in results:
            ends = [results.get(f"{key}_ci_{end}") for end in ("low", "high")]
            interval = None if None in ends else tuple(ends)
            vessels = results.get(f"{key}_on_vessels")
            rows.append(Row(label=label, value=results[key], interval=interval, on_vessels=vessels))
    return rows
