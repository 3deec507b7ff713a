"""How often the model takes one coronary tree for the other: an error that no reader would forgive, whatever else is right.

Of films whose tree is known. A caption is wrong when it names trees and not the film's; a zero-shot score when it is nearer to the
sentences of the other tree.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import pydantic

from deepcoro.angiography.grammar import parse_trees
from deepcoro.angiography.prompts import ZERO_SHOT
from deepcoro.angiography.vocabulary import SIDES
from deepcoro.answers import measured, share
from deepcoro.bootstrap import patient_rows, patients_counted, renumbered
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement, class_embedding, label_word


class Config(Block):
    """Wrong-side rate of captions and of zero-shot sides, with patient intervals."""

    type: Literal["wrong_side"] = "wrong_side"
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of resamples."""

    def build(self) -> "WrongSide":
        return WrongSide(self)


class WrongSide(Measurement):
    """Flat numbers under `wrong_side/`; nothing where no film's tree is known, or the model says nothing of trees."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def prompts(self) -> list[str]:
        return [sentence for side in SIDES for sentence in ZERO_SHOT["side"][side]]

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """`caption/rate`, `zero_shot/rate` with `num`, the films that it is a share of."""
        sides = [label_word(side) for side in evaluated.labels.get("side", ())]
        told = {}
        if evaluated.captions:
            told["caption"] = [sides_named(caption) for caption in evaluated.captions]
        if evaluated.shares_space:
            told["zero_shot"] = _nearer_sides(evaluated)
        numbers: dict[str, float] = {}
        for name, said in told.items() if sides else ():
            numbers |= {f"wrong_side/{name}/{key}": value for key, value in self._rate(sides, said, evaluated.patients).items()}  # fmt: skip
        return numbers, []

    def _rate(
        self, sides: Sequence[str | None], said: Sequence[frozenset[str]], patients: Sequence[str | None]
    ) -> dict[str, float]:
        known = np.array([side in SIDES and bool(each) for side, each in zip(sides, said, strict=True)])
        if not known.any():
            return {"num": 0.0}
        rows = np.flatnonzero(known)
        wrong = np.array([sides[row] not in said[row] for row in rows], float)
        counts = np.stack([wrong, np.ones(len(rows))], axis=1)
        numbers = renumbered(patient_rows(patients, len(sides))[rows])
        rates = measured(
            counts,
            {},
            lambda sums: {"rate": share(sums[:, 0], sums[:, 1])},
            numbers,
            self.config.bootstrap_samples,
            self.config.seed,
        )
        return {"num": float(len(rows)), **patients_counted(numbers)} | rates


@lru_cache(maxsize=65536)
def sides_named(text: str) -> frozenset[str]:
    """The trees that a text names, by the report grammar."""
    return frozenset(tree.side for tree in parse_trees(text) if tree.side)


def _nearer_sides(evaluated: Evaluated) -> list[frozenset[str]]:
    is_right = _nearness(evaluated, "right") > _nearness(evaluated, "left")
    return [frozenset({"right" if each else "left"}) for each in is_right]


def _nearness(evaluated: Evaluated, side: str) -> np.ndarray:
    """Cosine with the mean of the side's sentences."""
    sentences = np.stack([evaluated.prompts[sentence] for sentence in ZERO_SHOT["side"][side]])
    return evaluated.films @ class_embedding(sentences)
