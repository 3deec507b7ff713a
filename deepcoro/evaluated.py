"""What metrics, predictions and report read: one split after the model has seen it. Numbers only, on one rank, no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from deepcoro.calibrated import Fixed, FixedInterval
from deepcoro.config import DataError


@dataclass(frozen=True)
class Head:
    """What a prediction of `Evaluated.rows` says, and which label is the truth."""

    task: str
    """binary_classification, multiclass_classification, ordinal_classification or regression."""
    column: str
    """Label column that holds the truth."""
    num_classes: int
    """2 for a binary finding, 0 for a number."""
    words: Mapping[str, float | int | None] = field(default_factory=dict)
    """Word of the column -> its number; empty where the column holds numbers."""

    def truth(self, values: Sequence) -> Float[np.ndarray, "row"]:
        """Labels as numbers; NaN for what is not assessed and for a word without a number.

        A reader's doubt about a finding, a number between 0 and 1, counts as the nearer of both, and 0.5 as not assessed.
        """
        numbers = self._numbers(values)
        settled = np.where(numbers == 0.5, np.nan, np.round(numbers))
        return np.where(self._is_doubt(numbers), settled, numbers)

    def num_doubted(self, values: Sequence) -> int:
        """Labels that `truth` settles."""
        return int(self._is_doubt(self._numbers(values)).sum())

    def _numbers(self, values: Sequence) -> Float[np.ndarray, "row"]:
        return np.array([self._number(value) for value in values], np.float64)

    def _is_doubt(self, numbers: Float[np.ndarray, "row"]) -> Bool[np.ndarray, "row"]:
        return (self.task == "binary_classification") & (numbers > 0) & (numbers < 1)

    def class_names(self) -> list[str]:
        """The first word of each class, its number where it has none."""
        return class_names(self.words, self.num_classes)

    def _number(self, value: object) -> float:
        word = label_word(value)
        if word is None:
            return np.nan
        try:
            number = self.words.get(word) if self.words else float(word)
        except ValueError:
            return np.nan
        return np.nan if number is None else float(number)


@dataclass(frozen=True)
class TrainingReports:
    """Reports that the model was trained on (or a sample of them), for controls: what could be said without looking."""

    texts: Sequence[str]
    """Distinct texts."""
    embeddings: np.ndarray
    """L2-normalised embeddings [text, dim], float32; width 0 where films and texts share no space."""
    modal: Mapping[str | None, str]
    """Side -> the most common text of the training films of that side; None -> that of all."""
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Mean label [text] of the training films that carry the text, by `NAME` or `NAME=WORD` (a share); NaN = not assessed."""

    def modal_of(self, side: str | None) -> str:
        """The most common text of the side, of all films where it has none."""
        return self.modal.get(side, self.modal[None])


@dataclass(frozen=True)
class Followed:
    """Rows that are followed up to an event, or until nobody looked any more; those alone of which both are known."""

    head: str
    """`objective/head` that foretells the event."""
    score: Float[np.ndarray, "row"]
    """Higher = sooner."""
    time: Float[np.ndarray, "row"]
    """Length of the follow-up."""
    event: Bool[np.ndarray, "row"]
    """Whether it ended in the event."""
    patient: Int[np.ndarray, "row"]
    """Number of the row's patient among those of the split."""
    threshold: float | None = None
    """That of val for the head, where there is one."""


@dataclass(frozen=True)
class Searched:
    """What searches found, told by the rows that stand behind them: a film that searches, or all films of a report that does."""

    measures: Sequence[str]
    """Names of the columns of `got` (`R@5`, ...)."""
    query: Int[np.ndarray, "row"]
    """Number of the search that the row stands behind; -1 = none."""
    got: Float[np.ndarray, "row measure"]
    """What that search got; its mean over searches is the number. NaN = none."""

    def only(self, rows: Int[np.ndarray, "row"]) -> "Searched":
        """The rows chosen; their searches are numbered anew, by the first row that stands behind each: alike in any order of the split."""
        query = self.query[rows]
        asked = query >= 0
        _, first, number = np.unique(query[asked], return_index=True, return_inverse=True)
        query[asked] = np.argsort(np.argsort(first))[number]
        return Searched(self.measures, query, self.got[rows])


@dataclass(frozen=True)
class Evaluated:
    """Films (or studies, where a sample is a study) of a split and the distinct texts they were compared with."""

    split: str
    units: np.ndarray
    """Index of each film among the split's units; unreadable ones are left out."""
    clips: Sequence[str]
    """Keyed name of each film."""
    studies: Sequence[str]
    """Keyed id of each film's study."""
    patients: Sequence[str | None]
    """Keyed id of each film's patient; None = not named by the source."""
    films: np.ndarray
    """L2-normalised embeddings [film, dim], float32."""
    texts: Sequence[str]
    """Distinct texts."""
    text_embeddings: np.ndarray
    """L2-normalised embeddings [text, dim], float32; width 0 where no objective puts films and texts into one space."""
    text_of_film: np.ndarray
    """Row of each film's own text; -1 = none."""
    labels: Mapping[str, Sequence]
    """Label column -> value of each film; None = not assessed."""
    prompts: Mapping[str, np.ndarray]
    """L2-normalised embedding [dim] of every sentence that a metric asked for."""
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What objectives say of each film, by `objective/number`: [film, ...]."""
    heads: Mapping[str, Head] = field(default_factory=dict)
    """What `rows["{objective}/{head}/prediction"]` [film, output] say, by `objective/head`."""
    fixed: Mapping[str, Fixed] | None = None
    """Threshold of each head, chosen on val; None = val has not been run with this checkpoint."""
    intervals: Mapping[str, FixedInterval] | None = None
    """Prediction interval of each head of numbers, chosen on val; None as above."""
    fixed_elsewhere: bool = False
    """Whether both were chosen on other films, though this is a val split: that of another site than the training's."""
    captions: Sequence[str] = ()
    """The report that the model wrote of each film; empty where no objective writes any."""
    training: TrainingReports | None = None
    """Only where a metric of captions asks for it."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Key of each sample of the split that could not be read -> shard and reason."""

    @property
    def shares_space(self) -> bool:
        """Whether films and texts can be compared."""
        return self.text_embeddings.shape[1] == self.films.shape[1]

    @property
    def chose_fixed(self) -> bool:
        """Whether `fixed` and `intervals` were chosen on these films, so that what rests on them is too good here."""
        return self.split == "val" and not self.fixed_elsewhere

    def only(self, chosen: np.ndarray) -> "Evaluated":
        """The chosen films (a mask), with the texts that are theirs."""
        rows = np.flatnonzero(chosen)
        own = self.text_of_film[rows]
        kept, renumbered = np.unique(own[own >= 0], return_inverse=True)
        text_of_film = np.full(len(rows), -1, np.int64)
        text_of_film[own >= 0] = renumbered.reshape(-1)
        return replace(
            self,
            units=self.units[rows],
            clips=[self.clips[row] for row in rows],
            studies=[self.studies[row] for row in rows],
            patients=[self.patients[row] for row in rows],
            films=self.films[rows],
            texts=[self.texts[row] for row in kept],
            text_embeddings=self.text_embeddings[kept],
            text_of_film=text_of_film,
            rows={name: values[rows] for name, values in self.rows.items()},
            captions=[self.captions[row] for row in rows] if self.captions else (),
            labels={name: [values[row] for row in rows] for name, values in self.labels.items()},
        )


class Measurement:
    """What every metric of an evaluation has; it overrides `measure`, and the others where it has something to ask or to tell."""

    reads_training_reports: Literal["none", "beside_captions", "always"] = "none"
    """When `evaluated.training` is wanted."""

    def prompts(self) -> list[str]:
        """Sentences that are embedded before `measure`."""
        return []

    def columns(self) -> list[str]:
        """Label columns that it reads, those of heads aside."""
        return []

    def least_numbers(self) -> dict[str, float]:
        """Those of its columns that must hold numbers -> the smallest that each may hold; -inf = any."""
        return {}

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """Flat numbers, and a sentence for what could not be measured."""
        raise NotImplementedError

    def film_scores(self, evaluated: Evaluated) -> dict[str, np.ndarray]:
        """Columns of the predictions table by their names: a number a film, NaN = none."""
        return {}

    def tables(self, evaluated: Evaluated) -> dict[str, list[dict[str, object]]]:
        """Tables of its own beside the predictions, by what their file's name ends in: rows with the same keys, None = an empty cell."""
        return {}

    def higher_means(self) -> dict[str, str]:
        """By column of `film_scores`, the class that a higher score speaks for, as `LABEL = CLASS`. A column without one is a number in the
        unit of its label.
        """
        return {}

    def label_of_score(self) -> dict[str, str]:
        """By column of `film_scores`, the label whose number it is; only of numbers in the unit of a label."""
        return {}

    def answers(self, evaluated: Evaluated) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Questions of its own that it puts to every film: prefix of the numbers -> scores and truth (NaN = not assessed)."""
        return {}

    def searched(self, evaluated: Evaluated) -> dict[str, Searched]:
        """Searches that it makes, by the prefix of their numbers."""
        return {}

    def followed(self, evaluated: Evaluated) -> dict[str, Followed]:
        """Events with their times that it measures, by the prefix of their numbers."""
        return {}

    def fix(self, evaluated: Evaluated) -> dict[str, Fixed]:
        """Thresholds that this split chooses for all others; asked on val alone."""
        return {}

    def fix_intervals(self, evaluated: Evaluated) -> dict[str, FixedInterval]:
        """Prediction intervals of numbers that this split chooses for all others; asked on val alone."""
        return {}


def class_embedding(prompts: Float[np.ndarray, "prompt dim"]) -> Float[np.ndarray, "dim"]:
    """Mean of the L2-normalised sentences of a class, L2-normalised again (Radford et al. 2021, arXiv:2103.00020)."""
    mean = prompts.mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


def numbers_of(column: str, values: Sequence) -> Float[np.ndarray, "row"]:
    """A label column as numbers; NaN = not assessed. DataError for a word."""
    return np.array([np.nan if label_word(value) is None else _number_of(column, value) for value in values])


def _number_of(column: str, value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        told = f"label '{column}' is read as a number and holds '{value}'; correct it, an empty cell is not assessed"
        raise DataError(told, topic="labels") from None


def class_names(words: Mapping[str, int | float | None], num_classes: int) -> list[str]:
    """Of each class the first of the `words` that mean it; its number where there is none."""
    names = {number: word for word, number in reversed(words.items()) if number is not None}
    return [names.get(number, str(number)) for number in range(num_classes)]


def label_word(value: object) -> str | None:
    """A label as a word: 1, 1.0 and True are "1"; None, NaN and the empty cell are not assessed."""
    if value is None or value != value or value == "":
        return None
    return f"{value:g}" if isinstance(value, bool | int | float | np.number) else str(value)
