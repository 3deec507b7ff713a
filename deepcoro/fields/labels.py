"""Labels of a row as numbers, one a column; what nobody assessed is NaN and is masked in loss and metric, never a 0."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from jaxtyping import Float
from torch import Tensor

from deepcoro.config import Block
from deepcoro.evaluated import label_word
from deepcoro.sample import ClipRecord, StudyRecord

Value = float | str | None


class Config(Block):
    """Label columns of the films. A head names its column itself; further ones can be given here."""

    type: Literal["labels"] = "labels"
    """Which field this is."""
    columns: list[str] = []
    """Label columns of films.parquet or of data.tables, or `side` and `view`. Those that heads read need not be named."""
    values: dict[str, dict[str, float | None]] = {}
    """Column -> word -> its number; null = as if not assessed. A column of words needs it, and then every value must be in it; it
    is filled from the labels_map of the heads."""
    conflict: Literal["error", "max", "drop"] = "error"
    """Where films of one study disagree, shown or not, and a row is a study: stop before the first step and name them, take the highest number, or
    take the label as not assessed. How many disagree is logged."""

    @pydantic.field_validator("values", mode="before")
    @classmethod
    def _words_of_yaml(cls, value: Any) -> Any:
        """YAML reads `no: 0` as false and `2: 1` as a number; both are words here."""
        return with_words(value)

    @pydantic.field_validator("columns")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        return list(dict.fromkeys(value))

    def number(self, column: str, value: Value) -> float | None:
        """None where it is not assessed. ValueError for a value that the column's map does not know, or a word without a map."""
        word = label_word(value)
        if word is None:
            return None
        if column in self.values:
            if word not in self.values[column]:
                raise ValueError(f"'{word}' is not among {sorted(self.values[column])}")
            return self.values[column][word]
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"'{word}' is a word, and no map says which number it is") from None
        return number if math.isfinite(number) else None

    def build(self, tokenizer: Any = None) -> "LabelsField":
        return LabelsField(self)


def word_of(key: Any) -> Any:
    """A key of a map of words as YAML gave it, as the word that a label is compared with."""
    return key if isinstance(key, str) else label_word(key)


def with_words(maps: Any) -> Any:
    """Maps `name -> word -> number` as YAML gave them, with words as keys: it reads `no: 0` as false and `2: 1` as a number."""
    if not isinstance(maps, dict):
        return maps
    return {
        name: {word_of(word): number for word, number in words.items()} if isinstance(words, dict) else words
        for name, words in maps.items()
    }


class LabelsField:
    """Batch entry `labels` {column: float32 [row]}; NaN = not assessed, and all of a row that is padding or could not be read.

    A row that is a film has that film's labels; one that is a study those that all films of the study agree on, shown or not, so that
    every epoch has the same; films without the label aside. Where they do not agree, `conflict` decides.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.rows_are_studies = False
        """Set where they are (`data.multi_video`); else each is a film."""
        self._counts: Mapping[str, Mapping[float, int]] = MappingProxyType({})
        self.conflicts: Mapping[str, Mapping[str, int]] = MappingProxyType({})
        """Split -> column -> studies whose films disagree."""
        self._numbers: dict[tuple[str, Value], float | None] = {}

    def counts(self, column: str) -> Mapping[float, int]:
        """Value -> rows of the training split that have it, not assessed ones aside, for class weights; empty outside of training."""
        return self._counts.get(column, {})

    def set_found(
        self, counts: Mapping[str, Mapping[float, int]], conflicts: Mapping[str, Mapping[str, int]]
    ) -> None:
        """What `counts` and `conflicts` say from now on."""
        self._counts, self.conflicts = counts, conflicts

    def decode(
        self,
        study: StudyRecord,
        clip_indices: tuple[int, ...],
        read_clip: Callable[[int], bytes],
        draw: np.random.Generator | None,
    ) -> list[float]:
        films = [film.known for film in self.films_of(study, clip_indices)]
        settled = (self._settled(column, films)[0] for column in self.config.columns)
        return [math.nan if number is None else number for number in settled]

    def films_of(self, study: StudyRecord, clip_indices: Sequence[int]) -> list[ClipRecord]:
        """The films that have a say in the labels of a row that shows `clip_indices`."""
        return study.films if self.rows_are_studies else [study.clips[index] for index in clip_indices]

    def agreed(self, study: StudyRecord, clip_indices: Sequence[int]) -> dict[str, Value]:
        """The labels of a row as its films have them, by the same rule: what an evaluation compares predictions with."""
        films = [film.known for film in self.films_of(study, clip_indices)]
        return {column: self._settled(column, films)[1] for column in self.config.columns}

    def collate(
        self, values: list[list[float] | None], num_videos: int
    ) -> dict[str, dict[str, Float[Tensor, " row"]]]:
        missing = [math.nan] * len(self.config.columns)
        table = torch.tensor([value or missing for value in values], dtype=torch.float32)
        return {
            "labels": {
                column: table[:, place].contiguous() for place, column in enumerate(self.config.columns)
            }
        }

    def _settled(self, column: str, films: Sequence[Mapping[str, Value]]) -> tuple[float | None, Value]:
        """The number of a row, and a value that stands for it."""
        values: dict[float, Value] = {}
        for film in films:
            number = self._number(column, film.get(column))
            if number is not None:
                values.setdefault(number, film[column])
        if not values or (len(values) > 1 and self.config.conflict != "max"):
            return None, None
        return max(values), values[max(values)]

    def _number(self, column: str, value: Value) -> float | None:
        """A value that is not known has been told of when the run started (inference has no labels to tell of): not assessed."""
        key = (column, value)
        if key not in self._numbers:
            try:
                self._numbers[key] = self.config.number(column, value)
            except ValueError:
                self._numbers[key] = None
        return self._numbers[key]
