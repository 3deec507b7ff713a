"""What generated reports get right of the findings: side, dominance, lesions by segment; what they omit and what they make up.

Report and caption are read by the project's grammar (deepcoro.angiography.grammar). A lesion is a stenosis of 50 % or more. Of a
segment the report says that it has one, that it has none (called healthy, narrowed by less, or its tree called free of significant
stenosis), or nothing: then it is not assessed, and a caption's lesion there is neither right nor wrong. A lesion of a segment that the
report's tree does not have (the wrong side) is made up.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import pydantic
from jaxtyping import Float

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import parse_trees, sentences
from deepcoro.angiography.vocabulary import DOMINANCES, SEGMENTS, SIDES, segments_of, severity_floor
from deepcoro.answers import Answers, advantages, answers_of, control_captions, measured, share
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated, Measurement

_NUM_SHUFFLES = 20
_SIGNIFICANT = severity_floor("moderate")

_FINDINGS: dict[str, Callable[[Lesion], bool]] = {
    "lesion": lambda lesion: lesion.stenosis_percent >= _SIGNIFICANT,
    "cto": lambda lesion: lesion.cto,
}
_OUTCOMES = ("found", "omitted", "made_up", "not_assessed")
_TOLD_APART = {"side": SIDES, "dominance": ("right", "left")}

_COLUMNS = [
    *(f"{finding}/{outcome}" for finding in _FINDINGS for outcome in _OUTCOMES),
    *(f"{segment}/{outcome}" for segment in SEGMENTS for outcome in _OUTCOMES),
    *(f"{name}/{value}{end}" for name, values in _TOLD_APART.items() for value in values for end in ("", "/right")),
    *("severity/matched", "severity/same", "reports", "reports/made_up", "reports/with_lesion", "reports/omitted"),
]  # fmt: skip
_COLUMN = {name: place for place, name in enumerate(_COLUMNS)}


class Config(Block):
    """Findings of generated reports against the reports: nothing without a captioning objective."""

    type: Literal["clinical_findings"] = "clinical_findings"
    bootstrap_samples: pydantic.NonNegativeInt = 1000
    """Resamples of patients behind each 95 % interval; 0 = no intervals."""
    seed: int = 0
    """Seed of resamples and of the shuffled control."""

    def build(self) -> "ClinicalFindings":
        return ClinicalFindings(self)


@dataclass(frozen=True)
class Stated:
    """What one text says, both trees taken together."""

    sides: frozenset[str]
    """Trees that it names."""
    dominance: str | None
    lesions: dict[str, Lesion]
    """Segment -> the worst that is said of it."""
    healthy: frozenset[str]
    """Segments said to be without lesion of 50 % or more, alone or with their tree."""
    possible: frozenset[str]
    """Segments that the trees it names have; all where it names none."""
    is_understood: bool
    """Whether any sentence is in the grammar."""

    def with_finding(self, finding: str) -> set[str]:
        return {segment for segment, lesion in self.lesions.items() if _FINDINGS[finding](lesion)}


@dataclass(frozen=True)
class Judgement:
    """The segments that report or caption give a lesion."""

    found: frozenset[str]
    omitted: frozenset[str]
    made_up: frozenset[str]
    not_assessed: frozenset[str]
    """Said by the caption; the report does not speak of the segment."""


@lru_cache(maxsize=65536)
def stated(text: str) -> Stated:
    """The findings of a report or caption."""
    trees = parse_trees(text)
    lesions: dict[str, Lesion] = {}
    for lesion in (lesion for tree in trees for lesion in tree.lesions):
        other = lesions.get(lesion.segment)
        if other is None or (lesion.cto, lesion.stenosis_percent) > (other.cto, other.stenosis_percent):
            lesions[lesion.segment] = lesion
    significant = {segment for segment, lesion in lesions.items() if _FINDINGS["lesion"](lesion)}
    healthy = {segment for tree in trees for segment in (*tree.normal, *_called_free(tree))}
    healthy |= {segment for segment, lesion in lesions.items() if _tells_width(lesion)}
    named = [tree for tree in trees if tree.side]
    possible = [_segments(tree) for tree in named] or [set(SEGMENTS)]
    dominances = [tree.dominance for tree in trees if tree.dominance]
    return Stated(
        sides=frozenset(tree.side for tree in named),
        dominance=dominances[-1] if dominances else None,
        lesions=lesions,
        healthy=frozenset(healthy - significant),
        possible=frozenset(set().union(*possible)),
        is_understood=bool(trees),
    )


def _tells_width(lesion: Lesion) -> bool:
    """Calcification or thrombus alone does not say how narrow the segment is."""
    return lesion.stenosis_percent > 0 or lesion.stent


def _segments(tree: SideFindings) -> set[str]:
    """Segments that the tree may have; of every dominance where none is said."""
    known = [tree.dominance] if tree.dominance else DOMINANCES
    return {segment for dominance in known for segment in segments_of(tree.side, dominance)}


def _called_free(tree: SideFindings) -> set[str]:
    return _segments(tree) if tree.no_significant_stenosis and tree.side else set()


def judge(reference: Stated, caption: Stated, finding: str = "lesion") -> Judgement:
    """Sorts the segments that either text gives the finding."""
    there, said = reference.with_finding(finding), caption.with_finding(finding)
    extra = said - there
    denied = {
        segment for segment in extra if segment in reference.healthy or segment not in reference.possible
    }
    if finding != "lesion":  # a stenosis said without the finding denies it
        denied |= {
            segment for segment in extra & set(reference.lesions) if _tells_width(reference.lesions[segment])
        }
    return Judgement(
        frozenset(there & said), frozenset(there - said), frozenset(denied), frozenset(extra - denied)
    )


def commonest_segments(texts: Sequence[str]) -> list[str]:
    """Segments by how many of the texts give them a lesion of 50 % or more, the commonest first; only those that some text does."""
    times = Counter(segment for text in texts for segment in sorted(stated(text).with_finding("lesion")))
    return [segment for segment, _ in times.most_common()]


def in_common_places(said: Stated, commonest: Sequence[str]) -> Stated:
    """As many lesions of 50 % or more as a text names, the worst first, in the commonest segments of its trees instead of where it says."""
    own = said.with_finding("lesion")
    worst_first = sorted(
        (said.lesions[segment] for segment in own),
        key=lambda each: (-each.cto, -each.stenosis_percent, each.segment),
    )
    places = [segment for segment in commonest if segment in said.possible]
    moved = {
        segment: replace(lesion, segment=segment)
        for segment, lesion in zip(places, worst_first, strict=False)
    }
    kept = {segment: lesion for segment, lesion in said.lesions.items() if segment not in own}
    return replace(said, lesions=kept | moved, healthy=said.healthy - frozenset(moved))


@lru_cache(maxsize=65536)
def _counts(reference: str, caption: str) -> np.ndarray:
    """The columns of one film."""
    return _counts_of(stated(reference), stated(caption))


def _counts_of(report: Stated, said: Stated) -> np.ndarray:
    """The same of texts that have been read."""
    counts = np.zeros(len(_COLUMNS))
    for finding in _FINDINGS:
        judgement = judge(report, said, finding)
        for outcome in _OUTCOMES:
            segments = getattr(judgement, outcome)
            counts[_COLUMN[f"{finding}/{outcome}"]] = len(segments)
            for segment in segments if finding == "lesion" else ():
                counts[_COLUMN[f"{segment}/{outcome}"]] = 1
    lesions = judge(report, said)
    same = [report.lesions[each].severity == said.lesions[each].severity for each in lesions.found]
    counts[_COLUMN["severity/matched"]], counts[_COLUMN["severity/same"]] = len(same), sum(same)
    counts[_COLUMN["reports"]] = 1
    counts[_COLUMN["reports/made_up"]] = bool(lesions.made_up)
    counts[_COLUMN["reports/with_lesion"]] = bool(report.with_finding("lesion"))
    counts[_COLUMN["reports/omitted"]] = bool(lesions.omitted)
    answers = {
        "side": (_only(report.sides), _only(said.sides)),
        "dominance": (report.dominance, said.dominance),
    }
    for name, (truth, answer) in answers.items():
        if truth in _TOLD_APART[name]:
            counts[_COLUMN[f"{name}/{truth}"]] = 1
            counts[_COLUMN[f"{name}/{truth}/right"]] = truth == answer
    return counts


def _only(sides: frozenset[str]) -> str | None:
    return next(iter(sides)) if len(sides) == 1 else None


def _measures(sums: Float[np.ndarray, "sample count"]) -> dict[str, Float[np.ndarray, "sample"]]:
    """The named values of summed columns."""

    def column(name: str) -> np.ndarray:
        return sums[:, _COLUMN[name]]

    values = {}
    for name, classes in _TOLD_APART.items():
        recalls = [share(column(f"{name}/{each}/right"), column(f"{name}/{each}")) for each in classes]
        values[f"{name}/balanced_accuracy"] = np.mean(recalls, axis=0)  # NaN without one of the classes
    for finding in _FINDINGS:
        found, omitted, made_up, unknown = (column(f"{finding}/{outcome}") for outcome in _OUTCOMES)
        values[f"{finding}/recall"] = share(found, found + omitted)
        values[f"{finding}/precision"] = share(found, found + made_up)
        values[f"{finding}/f1"] = share(2 * found, 2 * found + omitted + made_up)
        values[f"{finding}/f1_if_complete"] = share(2 * found, 2 * found + omitted + made_up + unknown)
        values[f"{finding}/omission_rate"] = share(omitted, found + omitted)
        values[f"{finding}/hallucination_rate"] = share(made_up, found + made_up)
        values[f"{finding}/hallucination_rate_if_complete"] = share(
            made_up + unknown, found + made_up + unknown
        )
    values["severity/accuracy"] = share(column("severity/same"), column("severity/matched"))
    values["report/with_hallucination"] = share(column("reports/made_up"), column("reports"))
    values["report/with_omission"] = share(column("reports/omitted"), column("reports/with_lesion"))
    return values


class ClinicalFindings(Measurement):
    """Reports and captions in, flat metrics under `clinical_findings/` out."""

    reads_training_reports = "beside_captions"

    def __init__(self, config: Config) -> None:
        self.config = config

    def measure(self, evaluated: Evaluated) -> tuple[dict[str, float], list[str]]:
        """Flat metrics with intervals and controls. Nothing, and no note, where the run writes no captions."""
        if not evaluated.captions:
            return {}, []
        answers = answers_of(evaluated)
        understood = np.array([stated(text).is_understood for text in answers.references], dtype=bool)
        numbers = {
            "num_without_report": float(len(evaluated.clips) - len(answers.films)),
            "num_reports_not_understood": float((~understood).sum()),
        }
        answers = answers.only(np.flatnonzero(understood))
        if not len(answers.films):
            return _named(numbers), ["clinical_findings: no film has a report that the grammar reads"]
        controls = control_captions(evaluated, answers, _NUM_SHUFFLES, self.config.seed)
        own = _rows(answers.references, answers.captions)
        numbers |= _sizes(own, answers.references, answers.captions)
        numbers |= _patients(own, answers.patients)
        numbers |= _segment_values(own)
        blind = {
            name: [_rows(answers.references, texts) for texts in each] for name, each in controls.items()
        }
        if evaluated.training is not None:
            blind["placed"] = [_placed_rows(answers, commonest_segments(evaluated.training.texts))]
        drawn = answers.patients, self.config.bootstrap_samples, self.config.seed
        numbers |= measured(own, blind, _measures, *drawn)
        for name in ("lesion/f1", "lesion/f1_if_complete"):
            above = advantages(own, blind, lambda sums, name=name: _measures(sums)[name], *drawn)
            numbers |= {f"{name}_{key}": value for key, value in above.items()}
        alone = [name for name in _TOLD_APART if f"{name}/balanced_accuracy" not in numbers]
        notes = [
            f"clinical_findings/{name}: the reports are not of both classes, no accuracy" for name in alone
        ]
        return _named(numbers), notes


def _named(numbers: dict[str, float]) -> dict[str, float]:
    return {f"clinical_findings/{key}": value for key, value in numbers.items()}


def _rows(references: Sequence[str], captions: Sequence[str]) -> Float[np.ndarray, "film count"]:
    return np.stack([_counts(*pair) for pair in zip(references, captions, strict=True)])


def _placed_rows(answers: Answers, commonest: Sequence[str]) -> Float[np.ndarray, "film count"]:
    pairs = zip(answers.references, answers.captions, strict=True)
    return np.stack(
        [_counts_of(stated(one), in_common_places(stated(other), commonest)) for one, other in pairs]
    )


def _sizes(own: np.ndarray, references: Sequence[str], captions: Sequence[str]) -> dict[str, float]:
    """What each value rests on, and how much of the texts the grammar read."""
    total = dict(zip(_COLUMNS, own.sum(axis=0).tolist(), strict=True))
    numbers = {
        "num_films": float(len(own)),
        "num_captions_not_understood": float(sum(not stated(text).is_understood for text in captions)),
        "report_sentences_understood": _understood(references),
        "severity/num": total["severity/matched"],
    }
    for name, classes in _TOLD_APART.items():
        numbers |= {f"{name}/num_{each}": total[f"{name}/{each}"] for each in classes}
        numbers[f"{name}/num"] = sum(total[f"{name}/{each}"] for each in classes)
    for finding in _FINDINGS:
        found, omitted, made_up, unknown = (total[f"{finding}/{outcome}"] for outcome in _OUTCOMES)
        numbers[f"{finding}/num"] = found + omitted
        numbers[f"{finding}/num_said"] = found + made_up + unknown
        numbers[f"{finding}/num_said_not_assessed"] = unknown
    return numbers


def _patients(own: np.ndarray, patients: np.ndarray) -> dict[str, float]:
    """Patients behind the counts of each value; films of a patient count once."""

    def with_any(*columns: str) -> float:
        return float(len(np.unique(patients[own[:, [_COLUMN[name] for name in columns]].any(axis=1)])))

    numbers = {
        "num_patients": float(len(np.unique(patients))),
        "severity/num_patients": with_any("severity/matched"),
    }
    for name, classes in _TOLD_APART.items():
        numbers |= {f"{name}/num_patients_{each}": with_any(f"{name}/{each}") for each in classes}
    for finding in _FINDINGS:
        numbers[f"{finding}/num_patients"] = with_any(f"{finding}/found", f"{finding}/omitted")
    return numbers | {
        f"segment/{segment}/num_patients": count
        for segment in SEGMENTS
        if (count := with_any(f"{segment}/found", f"{segment}/omitted"))
    }


def _understood(texts: Sequence[str]) -> float:
    """Share of the distinct texts' sentences that are in the grammar."""
    kinds = [kind for text in dict.fromkeys(texts) for _, kind, _ in sentences(text)]
    return sum(kind is not None for kind in kinds) / max(len(kinds), 1)


def _segment_values(own: np.ndarray) -> dict[str, float]:
    """F1 of each segment that a report or a caption gives a lesion; `num` counts the reports."""
    total = dict(zip(_COLUMNS, own.sum(axis=0).tolist(), strict=True))
    numbers = {}
    for segment in SEGMENTS:
        found, omitted, made_up = (total[f"{segment}/{outcome}"] for outcome in _OUTCOMES[:3])
        if not found + omitted + made_up:
            continue
        key = f"segment/{segment}"
        numbers |= {f"{key}/num": found + omitted, f"{key}/num_said": found + made_up}
        numbers[f"{key}/f1"] = 2 * found / (2 * found + omitted + made_up)
        if found + omitted:
            numbers[f"{key}/recall"] = found / (found + omitted)
        if found + made_up:
            numbers[f"{key}/precision"] = found / (found + made_up)
    return numbers
