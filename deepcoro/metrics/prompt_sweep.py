"""A number read off a film without any training on it: which of many sentences, each with another number, is it closest to?"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pydantic
from jaxtyping import Float

from deepcoro.angiography.prompts import SWEEPS, sweep_sentences
from deepcoro.answers import absolute_error
from deepcoro.bootstrap import patient_rows, patients_counted, renumbered
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement, class_embedding, numbers_of
from deepcoro.kernels.tied_ranks import nearest

_SLOT = "{value}"


class Task(Block):
    """One number that is asked of every film."""

    label: str
    """Label column that holds the truth, a number."""
    low: float
    """First number of the sweep, in the label's unit."""
    high: float
    """Last number of the sweep."""
    step: float = pydantic.Field(gt=0)
    """Distance between numbers."""
    prompts: list[str] = []
    """Sentences with `{value}` where the number stands; those of one number are averaged. Empty = those of
    deepcoro.angiography.prompts for the label."""

    @property
    def values(self) -> list[float]:
        """The numbers of the sweep."""
        count = int(np.floor((self.high - self.low) / self.step + 1e-9)) + 1
        return [round(self.low + place * self.step, 9) for place in range(count)]

    def sentences(self, value: float) -> list[str]:
        """What is said of one number."""
        if not self.prompts:
            return sweep_sentences(self.label, round(value))
        return [sentence.replace(_SLOT, f"{value:g}") for sentence in self.prompts]


def _default_tasks() -> dict[str, Task]:
    return {"max_stenosis": Task(label="max_stenosis", low=0, high=100, step=5)}


class Config(Block):
    """Mean absolute error of numbers read off by sentences, with patient intervals, beside guessing the split's median."""

    type: Literal["prompt_sweep"] = "prompt_sweep"
    tasks: dict[str, Task] = pydantic.Field(default_factory=_default_tasks)
    """Questions by name; the name goes into the metric (`prompt_sweep/max_stenosis/mae`)."""
    top_fraction: float = pydantic.Field(default=0.2, gt=0, le=1)
    """Share of the numbers, nearest sentences first, whose median is the answer."""
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of the resamples."""

    @pydantic.model_validator(mode="after")
    def _every_number_has_a_sentence(self) -> "Config":
        for name, task in self.tasks.items():
            if task.high <= task.low:
                raise ValueError(
                    f"task '{name}' sweeps from {task.low:g} to {task.high:g}: high must be above low"
                )
            if any(_SLOT not in sentence for sentence in task.prompts):
                raise ValueError(
                    f"task '{name}' has a prompt without {_SLOT}: every number would say the same"
                )
            if not task.prompts and task.label not in SWEEPS:
                raise ValueError(
                    f"task '{name}' needs prompts with {_SLOT}; shipped ones are for the labels {sorted(SWEEPS)}"
                )
        return self

    def build(self) -> "PromptSweep":
        return PromptSweep(self)


class PromptSweep(Measurement):
    """Zero-shot regression as EchoCLIP does it (Christensen et al. 2024, 10.1038/s41591-024-02959-y): the median of the numbers whose
    sentences are nearest. There each frame ranks the numbers and ranks are averaged; here the film's one embedding does.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def columns(self) -> list[str]:
        return [task.label for task in self.config.tasks.values()]

    def least_numbers(self) -> dict[str, float]:
        return dict.fromkeys(self.columns(), -np.inf)

    def prompts(self) -> list[str]:
        return list(
            dict.fromkeys(
                sentence
                for task in self.config.tasks.values()
                for value in task.values
                for sentence in task.sentences(value)
            )
        )

    def film_scores(self, evaluated: Evaluated) -> dict[str, np.ndarray]:
        """The answer for each film; none without a shared space."""
        if not evaluated.shares_space:
            return {}
        return {
            f"prompt_sweep_{name}": self.read_off(task, evaluated.films, evaluated.prompts)
            for name, task in self.config.tasks.items()
        }

    def label_of_score(self) -> dict[str, str]:
        return {f"prompt_sweep_{name}": task.label for name, task in self.config.tasks.items()}

    def read_off(
        self,
        task: Task,
        films: Float[np.ndarray, "film dim"],
        prompts: Mapping[str, Float[np.ndarray, " dim"]],
    ) -> Float[np.ndarray, " film"]:
        """The number of each film. `prompts`: L2-normalised embedding of each sentence."""
        values = np.array(task.values)
        of_value = [np.stack([prompts[each] for each in task.sentences(value)]) for value in values]
        directions = np.stack([class_embedding(each) for each in of_value])
        count = max(1, round(len(values) * self.config.top_fraction))
        places, _ = nearest(films, directions, count)
        return np.median(values[places], axis=1)

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """Nothing without a shared space."""
        if not evaluated.shares_space:
            return {}, []
        numbers: dict[str, float] = {}
        notes: list[str] = []
        answers = self.film_scores(evaluated)
        for name, task in self.config.tasks.items():
            if task.label not in evaluated.labels:
                notes.append(f"prompt_sweep/{name}: the data have no label '{task.label}'")
                continue
            truth = numbers_of(task.label, evaluated.labels[task.label])
            found = self.errors(answers[f"prompt_sweep_{name}"], truth, evaluated.patients)
            numbers |= {f"prompt_sweep/{name}/{key}": value for key, value in found.items()}
        return numbers, notes

    def errors(
        self,
        answers: Float[np.ndarray, " film"],
        truth: Float[np.ndarray, " film"],
        patients: Sequence[str | None],
    ) -> dict[str, float]:
        """`mae` with its interval and `mae_chance`, what the median of the same films would have; `pearson`; counts."""
        known = ~np.isnan(truth)
        counts = {"num": float(known.sum()), "num_not_assessed": float((~known).sum())}
        if not known.any():
            return counts
        answers, truth = answers[known], truth[known]
        patient = renumbered(patient_rows(patients, len(known))[known])
        counts |= patients_counted(patient)
        found = absolute_error(answers, truth, patient, self.config.bootstrap_samples, self.config.seed)
        if np.ptp(answers) > 0 and np.ptp(truth) > 0:
            found["pearson"] = float(np.corrcoef(answers, truth)[0, 1])
        return counts | found
