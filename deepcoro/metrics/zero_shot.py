"""Findings read off a film without any training on them: is it closer to the sentences of one class or of the other?"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pydantic
from jaxtyping import Float

from deepcoro.bootstrap import HIGH, LOW, patient_rows, patients_counted
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement, class_embedding
from deepcoro.kernels.tied_ranks import TIE, require_finite
from deepcoro.statistics.ranking import auroc, auroc_interval, permuted_aurocs

_CONTROL_PERMUTATIONS = 200


class Task(Block):
    """One yes/no question that is put to every film."""

    label: str
    """Label column that holds the truth."""
    positive: str
    """Class that a high score speaks for."""
    classes: list[str] = []
    """The classes that are told apart; a film of any other is left out and counted. Empty = those of the prompts."""
    prompts: dict[str, list[str]] = {}
    """Sentences of each class, averaged; empty = those of deepcoro.angiography.prompts under the task's name."""


def _default_tasks() -> dict[str, Task]:
    return {
        "side": Task(label="side", positive="right", classes=["left", "right"]),
        "dominance": Task(label="dominance", positive="left", classes=["left", "right"]),
        "cto": Task(label="cto", positive="1", classes=["0", "1"]),
    }


class Config(Block):
    """AUROC of films against class sentences, with patient intervals and a control with shuffled labels."""

    type: Literal["zero_shot"] = "zero_shot"
    tasks: dict[str, Task] = pydantic.Field(default_factory=_default_tasks)
    """Questions by name; the name goes into the metric (`zero_shot/side/auroc`)."""
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of resamples and of the shuffled control."""

    def build(self) -> "ZeroShot":
        """Raises ValueError when a task has no sentences for its positive class, or only one class."""
        return ZeroShot(self)


def class_name(value: object) -> str | None:
    """A label as the name of its class: 1, 1.0, True and "1" are one class; None, NaN and "" are not assessed."""
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return None
    if isinstance(value, bool | np.bool_ | int | np.integer | float | np.floating):
        return f"{float(value):g}"
    text = str(value).strip().lower()
    text = {"true": "1", "false": "0", "1.0": "1", "0.0": "0", "nan": ""}.get(text, text)
    return text or None


class ZeroShot(Measurement):
    """Embed `prompts()` with the text tower, then `scores` and `compute`; nothing here runs a model."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.prompts_of_task = {name: _sentences(name, task) for name, task in config.tasks.items()}

    def columns(self) -> list[str]:
        return [task.label for task in self.config.tasks.values()]

    def prompts(self) -> list[str]:
        """The distinct sentences of all tasks, in a fixed order."""
        return list(
            dict.fromkeys(
                sentence
                for classes in self.prompts_of_task.values()
                for sentences in classes.values()
                for sentence in sentences
            )
        )

    def film_scores(self, evaluated: Evaluated) -> dict[str, np.ndarray]:
        """The score of each film for each task; none without a shared space."""
        if not evaluated.shares_space:
            return {}
        return {f"zero_shot_{name}_score": values for name, values in self._scores(evaluated).items()}

    def higher_means(self) -> dict[str, str]:
        tasks = self.config.tasks.items()
        return {f"zero_shot_{name}_score": f"{task.label} = {task.positive}" for name, task in tasks}

    def answers(self, evaluated: Evaluated) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Scores and truth of the tasks whose label the data have; none without a shared space."""
        if not evaluated.shares_space:
            return {}
        return {
            f"zero_shot/{name}": (scores, self.truth(name, evaluated.labels[self.config.tasks[name].label]))
            for name, scores in self._scores(evaluated).items()
            if self.config.tasks[name].label in evaluated.labels
        }

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """Flat metrics of an evaluated split, and a sentence for what could not be measured. Nothing without a shared space."""
        if not evaluated.shares_space:
            return {}, []
        return self.compute(self._scores(evaluated), evaluated.labels, evaluated.patients)

    def _scores(self, evaluated: Evaluated) -> dict[str, np.ndarray]:
        prompts = np.stack([evaluated.prompts[sentence] for sentence in self.prompts()])
        return self.scores(evaluated.films, prompts)

    def scores(
        self, films: Float[np.ndarray, "film dim"], prompts: Float[np.ndarray, "prompt dim"]
    ) -> dict[str, Float[np.ndarray, "film"]]:
        """For each task the cosine with the positive class less that with the nearest other class, in −2 to 2.

        In steps of 1e-6, so that films alike up to float32 noise are tied.
        `prompts` are the L2-normalised embeddings of `prompts()`, row by row. Raises ValueError on NaN.
        """
        require_finite(films)
        require_finite(prompts)
        row_of = {sentence: row for row, sentence in enumerate(self.prompts())}
        result = {}
        for name, classes in self.prompts_of_task.items():
            cosines = {
                value: films.astype(np.float64)
                @ class_embedding(prompts[[row_of[sentence] for sentence in sentences]])
                for value, sentences in classes.items()
            }
            positive = cosines.pop(self.config.tasks[name].positive)
            result[name] = np.rint((positive - np.max(list(cosines.values()), axis=0)) / TIE) * TIE
        return result

    def compute(
        self,
        scores: Mapping[str, Float[np.ndarray, "film"]],
        labels: Mapping[str, Sequence | np.ndarray],
        patients: Sequence[str | None] | np.ndarray | None = None,
    ) -> tuple[dict[str, float], list[str]]:
        """Flat metrics, and a sentence for each one that could not be had. A label not assessed is left out and counted."""
        metrics: dict[str, float] = {}
        notes: list[str] = []
        for name, task in self.config.tasks.items():
            if task.label not in labels:
                notes.append(f"zero_shot/{name}: the data have no label '{task.label}'")
                continue
            kept, positive, counts = self._truth(name, labels[task.label])
            patient_of_film = patient_rows(patients, len(kept))[kept]
            metrics |= {
                f"zero_shot/{name}/{key}": float(value)
                for key, value in (counts | patients_counted(patient_of_film, positive)).items()
            }
            if positive.all() or not positive.any():
                found = f"{counts['num_positive']} of {counts['num']}"
                notes.append(f"zero_shot/{name}: no AUROC, {found} assessed films are '{task.positive}'")
                continue
            metrics |= self._aurocs(name, scores[name][kept], positive, patient_of_film)
        return metrics, notes

    def truth(self, name: str, values: Sequence | np.ndarray) -> np.ndarray:
        """1 positive, 0 negative, NaN for a film that is not assessed or of a class outside the task."""
        allowed = [class_name(value) for value in self.prompts_of_task[name]]
        positive = class_name(self.config.tasks[name].positive)
        names = [class_name(value) for value in values]
        return np.array([float(each == positive) if each in allowed else np.nan for each in names])

    def _truth(
        self, name: str, values: Sequence | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        truth = self.truth(name, values)
        kept = ~np.isnan(truth)
        num_missing = sum(class_name(value) is None for value in values)
        positive = truth[kept] == 1
        counts = {
            "num": int(kept.sum()),
            "num_positive": int(positive.sum()),
            "num_not_assessed": num_missing,
            "num_other_class": int((~kept).sum()) - num_missing,
        }
        return kept, positive, counts

    def _aurocs(
        self, name: str, scores: np.ndarray, positive: np.ndarray, patients: np.ndarray
    ) -> dict[str, float]:
        _, patients = np.unique(patients, return_inverse=True)
        metrics = {f"zero_shot/{name}/auroc": auroc(scores, positive)}
        bounds = auroc_interval(scores, positive, patients, self.config.bootstrap_samples, self.config.seed)
        if bounds is not None:
            metrics[f"zero_shot/{name}/auroc_ci_low"], metrics[f"zero_shot/{name}/auroc_ci_high"] = bounds
        shuffled = permuted_aurocs(scores, positive, _CONTROL_PERMUTATIONS, self.config.seed + 1)
        low, high = np.percentile(shuffled, [LOW, HIGH])
        control = f"zero_shot/control/{name}/auroc"
        return metrics | {
            control: float(shuffled.mean()),
            f"{control}_ci_low": float(low),
            f"{control}_ci_high": float(high),
        }


def _sentences(name: str, task: Task) -> dict[str, list[str]]:
    classes = task.prompts or _shipped_prompts(name)
    chosen = {
        value: list(sentences) for value, sentences in classes.items() if value in (task.classes or classes)
    }
    if task.positive not in chosen or len(chosen) < 2 or not all(chosen.values()):
        raise ValueError(
            f"zero_shot task '{name}' needs sentences for '{task.positive}' and another class; got {sorted(chosen)}"
        )
    return chosen


def _shipped_prompts(name: str) -> dict[str, list[str]]:
    from deepcoro.angiography.prompts import ZERO_SHOT

    if name not in ZERO_SHOT:
        raise ValueError(f"zero_shot task '{name}' has no prompts; shipped ones: {sorted(ZERO_SHOT)}")
    return {class_name(value) or "": sentences for value, sentences in ZERO_SHOT[name].items()}


def probability(scores: Float[np.ndarray, "film"], logit_scale: float) -> Float[np.ndarray, "film"]:
    """Softmax over the two classes at the model's own scale. An ordering in the range 0 to 1, not a calibrated risk."""
    return 1.0 / (1.0 + np.exp(-np.clip(logit_scale * scores, -60, 60)))
