"""Findings of a study out of what a model says of its rows: zero-shot scores, and heads with their calibration and the right to be silent."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float

from deepcoro.calibrated import Calibration, Fixed
from deepcoro.inference.left_out import LeftOut, without_one_film
from deepcoro.inference.prediction import Call, Finding, Unit
from deepcoro.inference.questions import Questions
from deepcoro.ingest.labels import is_percentage
from deepcoro.objectives import linear_probing
from deepcoro.run_config import RunConfig
from deepcoro.statistics.calibration import recalibration_of
from deepcoro.statistics.selective import ALWAYS, certainty_of


def findings_without_heads(
    scores: Mapping[str, Float[np.ndarray, "row"]],
    questions: Questions,
    num_films: int,
    left_out: LeftOut | None = None,
) -> list[Finding]:
    """Zero-shot scores and numbers read off sentences, by name, of all rows of a study."""
    higher_means, label_of_score = questions.higher_means, questions.label_of_score
    of_left_out = questions.scores(left_out.films) if left_out else {}
    without = {name: without_one_film(left_out.clips, values) for name, values in of_left_out.items()}
    return [
        _finding(name, "zero_shot" if name in higher_means else "value", values, num_films).model_copy(
            update={
                "higher_means": higher_means.get(name),
                "unit": _unit_of(label_of_score.get(name)),
                "without_one_film": without.get(name),
            }
        )
        for name, values in scores.items()
    ]


class HeadFindings:
    """The heads of a run's config, and what val fixed for them."""

    def __init__(self, config: RunConfig, calibration: Calibration | None, certainty: float | None) -> None:
        """`certainty`: least probability, after recalibration, of the finding or of its absence for which a call is made; 0.5 = always.
        None: that of val for each head, always where val chose none.
        """
        self._probes = {
            name: each for name, each in config.objectives.items() if isinstance(each, linear_probing.Config)
        }
        self._fixed = calibration.heads if calibration else {}
        self._intervals = (calibration.numbers if calibration else None) or {}
        self._fixed_on: Unit = "studies" if config.data.multi_video else "films"
        self._certainty = certainty

    @property
    def objectives(self) -> list[str]:
        """Names of the objectives that have heads."""
        return list(self._probes)

    def of(
        self, numbers: Mapping[str, np.ndarray], num_films: int, left_out: LeftOut | None = None
    ) -> list[Finding]:
        """`numbers`: what objectives say of each row of a study, by `objective/number`; `left_out`: and of the study without each film."""
        found = [
            self._of_head(probe, f"{name}/{head}", head, numbers[f"{name}/{head}/prediction"], num_films)
            for name, probe in self._probes.items()
            for head in probe.head_structure
            if len(numbers.get(f"{name}/{head}/prediction", ()))
        ]
        return found if left_out is None else [self._without(each, numbers, left_out) for each in found]

    def _without(self, finding: Finding, numbers: Mapping[str, np.ndarray], left_out: LeftOut) -> Finding:
        """The finding of a whole study, with what it hangs on."""
        said, without = (each[f"{finding.name}/prediction"] for each in (numbers, left_out.numbers))
        fixed = self._fixed.get(finding.name)
        likeliest, changed = int(said[0].argmax()), None
        if finding.kind == "class":
            changed = (without.argmax(axis=1) != likeliest).tolist()
        elif finding.call is not None and fixed is not None:
            changed = [self._call(float(score), fixed) != finding.call for score in without[:, 0]]
        hangs_on = without_one_film(left_out.clips, without[:, likeliest], changed)
        return finding.model_copy(update={"without_one_film": hangs_on})

    def _of_head(
        self, probe: linear_probing.Config, name: str, head: str, said: np.ndarray, num_films: int
    ) -> Finding:
        task = probe.task_of(head)
        if task == "regression":
            found = _finding(name, "value", said[:, 0], num_films)
            return self._with_interval(found.model_copy(update={"unit": _unit_of(probe.column_of(head))}))
        if task == "binary_classification":
            found = _finding(name, "probability", said[:, 0], num_films)
            return self._called(found, said[:, 0], self._fixed.get(name))
        mean, words = said.mean(axis=0), probe.class_words(head)
        likeliest = int(mean.argmax())
        found = _finding(name, "class", said[:, likeliest], num_films)
        probabilities = dict(zip(words, map(float, mean), strict=True))
        return found.model_copy(update={"word": words[likeliest], "class_probabilities": probabilities})

    def _with_interval(self, finding: Finding) -> Finding:
        """Also around the mean of several films: where all films of a patient lie within the half-width of their truths, so does their mean
        of the mean truth. What lies outside of 0 to 100 % is cut off: no truth lies there.
        """
        fixed = self._intervals.get(finding.name)
        if fixed is None:
            return finding
        ends = fixed.around(finding.score)
        if finding.unit == "%":
            ends = tuple(min(max(end, 0.0), 100.0) for end in ends)
        return finding.model_copy(update={"interval": ends, "interval_level": fixed.level})

    def _called(self, finding: Finding, scores: Float[np.ndarray, "row"], fixed: Fixed | None) -> Finding:
        """Calls of what val fixed the threshold on and nothing else: films where a row is one, and then none of the mean over several, of
        which no evaluation ever told how often it is right. Without a calibration of val there is no call.
        """
        if fixed is None:
            return finding
        told: dict[str, object] = {"threshold": fixed.threshold, "fixed_on": self._fixed_on}
        calls = [self._call(float(score), fixed) for score in scores]
        if self._fixed_on == "films":
            told["film_calls"] = dict(Counter(calls))
        if len(scores) == 1:
            told |= {"probability": recalibrated(finding.score, fixed), "call": calls[0]}
        return finding.model_copy(update=told)

    def _call(self, score: float, fixed: Fixed) -> Call:
        least = fixed.certainty if self._certainty is None else self._certainty
        sure = certainty_of(np.array([recalibrated(score, fixed)]))[0]
        if sure < (ALWAYS if least is None else least):
            return "abstained"
        return "positive" if score >= fixed.threshold else "negative"


def _finding(
    name: str,
    kind: Literal["zero_shot", "probability", "value", "class"],
    values: Float[np.ndarray, "row"],
    num_films: int,
) -> Finding:
    spread = {"lowest": float(values.min()), "highest": float(values.max())} if len(values) > 1 else {}
    return Finding(name=name, kind=kind, score=float(values.mean()), num_films=num_films, **spread)


def _unit_of(label: str | None) -> Literal["%"] | None:
    return "%" if label is not None and is_percentage(label) else None


def recalibrated(score: float, fixed: Fixed) -> float:
    """The probability after Platt scaling on val; as it is where that could not be fitted."""
    fit = recalibration_of(fixed)
    return score if fit is None else float(fit.apply(np.array([score]))[0])
