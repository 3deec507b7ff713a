"""Where a model looked in a few films, and whether hiding that place changes its mind: pictures and curves for the report."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from deepcoro import atomic
from deepcoro.config import Block
from deepcoro.numerals import number, signed
from deepcoro.report_examples import film_strip
from deepcoro.report_figures import Curve, curve_figure

FILE = "report_explanations.json"
"""What tools/explain.py drew; it holds films, like the report."""
CHECKS = "explain"
"""Folder of what it measured, a file a target."""
WORDS = {
    "tokens": "What speaks for the score (gradient times activation)",
    "attention": "Where the encoder's class token looks, whatever the score",
    "pixels": "Pixels that move the score (gradient)",
}


class Curves(Block):
    """Scores as more and more of a film is blurred."""

    by_map: list[float]
    """What the map names first goes first."""
    at_random: list[float]
    """In random order, mean."""


class Explanation(Block):
    """One film and one score."""

    target: str
    """What was scored."""
    title: str
    """Keyed id of the film."""
    score: float
    """Of the untouched film."""
    original: str
    """JPEG of the film's frames, base64."""
    maps: dict[str, str]
    """Kind of map -> the same frames with the map on them."""
    shares: list[float]
    """Shares of the film that were blurred."""
    curves: dict[str, Curves]
    """Kind of map -> its deletion curves."""


class Drawn(Block):
    """One explanation, ready for the page."""

    explanation: Explanation
    words: dict[str, str]
    """Kind of map -> what it shows."""
    figure: str
    """Deletion curves, SVG."""


def overlaid(
    film: UInt8[np.ndarray, "frame height width"], found: Float[np.ndarray, "frame height width"]
) -> UInt8[np.ndarray, "frame height width 3"]:
    """The film in grey with the map (0 to 1) in orange on it: the brighter, the more."""
    heat = np.clip(found, 0, 1)[..., None]
    grey = np.repeat(film[..., None], 3, axis=-1).astype(np.float64)
    colour = np.array((255.0, 120.0, 20.0))
    return (grey * (1 - 0.65 * heat) + colour * 0.65 * heat).round().astype(np.uint8)


def strip_of(film: UInt8[np.ndarray, "frame height width *channel"]) -> str:
    return base64.b64encode(film_strip(film)).decode()


def write_explanations(run_dir: Path, explanations: Sequence[Explanation]) -> None:
    """Keeps them beside the report; those of the same targets that were there before go."""
    targets = {each.target for each in explanations}
    kept = [each for each in read_explanations(run_dir) if each.target not in targets]
    text = json.dumps([each.model_dump() for each in (*kept, *explanations)])
    atomic.write_text(run_dir / FILE, text)


def read_explanations(run_dir: Path) -> list[Explanation]:
    """Those that were drawn of this run; none where nobody asked."""
    path = run_dir / FILE
    return [Explanation(**each) for each in json.loads(path.read_text())] if path.is_file() else []


def read_checks(run_dir: Path) -> list[str]:
    """A sentence a target and kind of map: how much lower scores lie where the map's cells are hidden than where as many others of the same
    film are, with the 95 % interval over patients. Files of earlier versions do not say of which checkpoint they are, and are left out.
    """
    records = [json.loads(path.read_text()) for path in sorted((run_dir / CHECKS).glob("*.json"))]
    return [sentence for each in records if "numbers" in each for sentence in _checked(each)]


def _checked(record: Mapping[str, Any]) -> Iterator[str]:
    numbers = record["numbers"]
    for key in (each for each in numbers if each.endswith("/gain")):
        gain, low, high = (numbers[f"{key}{end}"] for end in ("", "_ci_low", "_ci_high"))
        verdict = "passes" if low > 0 else "does not pass"
        name = key.removeprefix(f"{CHECKS}/").removesuffix("/gain")
        films = number(numbers[key.removesuffix("gain") + "num_films"])
        yield (
            f"{name} {verdict}: hiding what it names lowers the score by {signed(gain)} more than hiding as much at random "
            f"(95 % interval {signed(low)} to {signed(high)}; {films} rows of {record['split']}, {record['checkpoint']})."
        )


def drawn(explanations: Sequence[Explanation]) -> list[Drawn]:
    """With their curves, for the page."""
    return [Drawn(explanation=each, words=_words(each.maps), figure=_figure(each)) for each in explanations]


def _words(maps: Mapping[str, str]) -> dict[str, str]:
    return {name: WORDS.get(name, name) for name in maps}


def _figure(explanation: Explanation) -> str:
    shares = [0.0, *explanation.shares]
    curves = [
        Curve(f"{name} first", shares, [explanation.score, *each.by_map])
        for name, each in explanation.curves.items()
    ]
    random = next(iter(explanation.curves.values()), None)
    if random is not None:
        curves.append(Curve("at random", shares, [explanation.score, *random.at_random]))
    return curve_figure(
        curves, "Score as parts are blurred", smoothed=False, x_label="share of the film that is blurred"
    )
