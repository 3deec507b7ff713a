"""What a model said of each row beside the truth, kept in the run folder: curves are drawn from it, and runs are compared by it.

`predictions/{data}_{split}_scored.npz` holds keyed ids, as the predictions table does, and numbers without rounding.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float

from deepcoro import atomic
from deepcoro.config import DataError
from deepcoro.evaluated import Evaluated, Followed, Measurement, Searched

SUFFIX = "_scored.npz"
"""How the name of such a file ends."""
_ROWS = [each.name for each in fields(Followed) if each.name not in ("head", "threshold")]


@dataclass(frozen=True)
class Answer:
    """One question put to every row."""

    task: str
    """That of the head; zero_shot for a score that is no probability."""
    said: Float[np.ndarray, "row output"]
    truth: Float[np.ndarray, "row"]
    """NaN = not assessed."""
    classes: Sequence[str] = ()
    """Name of each output, where there are several."""
    threshold: float | None = None
    """That of val, where there is one."""


@dataclass(frozen=True)
class ScoredRows:
    """The rows of a split and all answers."""

    clips: Sequence[str]
    """Keyed id of each row."""
    patients: Sequence[str | None]
    """Keyed id of its patient; None = not named."""
    answers: Mapping[str, Answer]
    """By the prefix of its metrics: `objective/head` or `zero_shot/task`."""
    followed: Mapping[str, Followed] = field(default_factory=dict)
    """Events with their times, by the prefix of their metrics."""
    searched: Mapping[str, Searched] = field(default_factory=dict)
    """Searches, by the prefix of their metrics."""


def scored_path(run_dir: Path, data: str, split: str) -> Path:
    return run_dir / "predictions" / f"{data}_{split}{SUFFIX}"


def score_rows(evaluated: Evaluated, metrics: Sequence[Measurement]) -> ScoredRows:
    """Answers of all heads, and of metrics that put questions of their own; what followed, and what searches found."""
    answers: dict[str, Answer] = {}
    followed: dict[str, Followed] = {}
    searched: dict[str, Searched] = {}
    for metric in metrics:
        followed |= metric.followed(evaluated)
        searched |= metric.searched(evaluated)
        for name, (said, truth) in metric.answers(evaluated).items():
            answers[name] = Answer("zero_shot", said[:, None], truth)
    for name, head in evaluated.heads.items():
        said = evaluated.rows.get(f"{name}/prediction")
        if said is None or head.column not in evaluated.labels:
            continue
        fixed = (evaluated.fixed or {}).get(name)
        answers[name] = Answer(
            head.task,
            said,
            head.truth(evaluated.labels[head.column]),
            head.class_names() if head.num_classes > 2 or said.shape[1] > 1 else (),
            fixed and fixed.threshold,
        )
    return ScoredRows(evaluated.clips, evaluated.patients, answers, followed, searched)


def write_scored(path: Path, rows: ScoredRows) -> None:
    """Whole or not at all."""
    facts = {
        name: {"task": each.task, "classes": list(each.classes), "threshold": each.threshold}
        for name, each in rows.answers.items()
    }
    arrays = {f"{name}:said": each.said for name, each in rows.answers.items()}
    arrays |= {f"{name}:truth": each.truth for name, each in rows.answers.items()}
    arrays |= {
        f"{name}:{part}": getattr(each, part) for name, each in rows.followed.items() for part in _ROWS
    }
    arrays |= {
        f"{name}:{part}": getattr(each, part)
        for name, each in rows.searched.items()
        for part in ("query", "got")
    }
    outcomes = {
        name: {"head": each.head, "threshold": each.threshold} for name, each in rows.followed.items()
    }
    payload = io.BytesIO()
    np.savez_compressed(
        payload,
        clip=np.array(rows.clips, np.str_),
        patient=np.array([patient or "" for patient in rows.patients], np.str_),
        facts=np.array(json.dumps(facts)),
        outcomes=np.array(json.dumps(outcomes)),
        searches=np.array(json.dumps({name: list(each.measures) for name, each in rows.searched.items()})),
        **arrays,
    )
    atomic.write_bytes(path, payload.getvalue())


def read_scored(path: Path) -> ScoredRows:
    """DataError when the file is not there or is none of `write_scored`."""
    if not path.is_file():
        raise DataError(f"{path} is not there: run_mode=val or test writes it")
    with np.load(path, allow_pickle=False) as arrays:
        if "facts" not in arrays:
            raise DataError(f"{path} is no table of scored rows; run_mode=val or test writes one")
        answers = {
            name: Answer(
                facts["task"],
                arrays[f"{name}:said"],
                arrays[f"{name}:truth"],
                facts["classes"],
                facts["threshold"],
            )
            for name, facts in json.loads(str(arrays["facts"])).items()
        }
        outcomes = json.loads(str(arrays["outcomes"])) if "outcomes" in arrays else {}
        followed = {
            name: Followed(**facts, **{part: arrays[f"{name}:{part}"] for part in _ROWS})
            for name, facts in outcomes.items()
        }
        searches = json.loads(str(arrays["searches"])) if "searches" in arrays else {}
        searched = {
            name: Searched(measures, arrays[f"{name}:query"], arrays[f"{name}:got"])
            for name, measures in searches.items()
        }
        patients = [patient or None for patient in arrays["patient"].tolist()]
        return ScoredRows(arrays["clip"].tolist(), patients, answers, followed, searched)
