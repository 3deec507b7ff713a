"""A model measured at another hospital: films and their table in, aggregates out. No row, no id and no small count leaves.

The numbers are those of an evaluation (`evaluate.metrics` of the run), computed by the same code.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepcoro import atomic
from deepcoro.aggregates import FEWEST, told_and_withheld
from deepcoro.config import DataError
from deepcoro.embed import told_heads
from deepcoro.evaluated import Evaluated
from deepcoro.facts import facts_of, labels_of_row
from deepcoro.groups import measure_groups
from deepcoro.inference.model import Answerer, Said
from deepcoro.inference.opened import OpenedStudy
from deepcoro.inference.prediction import NOTICE
from deepcoro.inference.site_labels import Row, conflicts
from deepcoro.inference.suppression import OfEnough, heads_of_few
from deepcoro.ingest.film import Rejection
from deepcoro.metrics.calibration import Calibration
from deepcoro.metrics.classification import Classification
from deepcoro.metrics.regression import Regression
from deepcoro.sample import patient_digest
from deepcoro.seen import Seen, overlap

logger = logging.getLogger(__name__)

OF_HEADS = (Classification, Regression, Calibration)
LEAST = FEWEST
"""A count below it, and every number that rests on one, is not told."""


@dataclass
class Gathered:
    """All rows of a site, in memory; never written."""

    answerer: Answerer
    said: list[Said] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def refuse(self, rows: Sequence[Rejection]) -> None:
        self.skipped.update(each.reason.split(":")[0] for each in rows)

    def add(self, study: OpenedStudy) -> None:
        said = self.answerer.ask(study)
        self.refuse(said.study.skipped)
        if said.rows:
            self.said.append(said)

    @property
    def patients(self) -> set[str]:
        return {said.study.record.patient for said in self.said} - {None}

    @property
    def rows(self) -> list[Row]:
        """What the model was shown, row by row."""
        return [(said.study.record, row) for said in self.said for row in said.rows]

    def evaluated(self) -> Evaluated:
        """What metrics read, as an evaluation has it. DataError when no film could be used."""
        if not self.said:
            raise DataError(
                f"no film could be used ({dict(self.skipped)}); nothing is measured", topic="no-usable-film"
            )
        rows, answerer = self.rows, self.answerer
        agreed = answerer.labels and answerer.labels.agreed
        known = [labels_of_row(record, row, answerer.answers_for_studies, agreed) for record, row in rows]
        facts = facts_of([record.report_of(row) for record, row in rows], known)
        embedded = np.zeros((len(facts.texts), 0), np.float32)
        if answerer.shares_space:
            embedded = answerer.embed_texts(facts.texts or [""])[: len(facts.texts)]
        # tokens of captions are of no common length
        numbers = {name for said in self.said for name in said.numbers if not name.endswith("/tokens")}
        return Evaluated(
            split="site",
            units=np.arange(len(rows)),
            clips=[f"{record.study}.{row[0]:03d}" for record, row in rows],
            studies=[record.study for record, _ in rows],
            # films of a study are of one patient also where nobody says of whom
            patients=[record.patient or record.study for record, _ in rows],
            films=np.concatenate([said.films for said in self.said]),
            texts=facts.texts,
            text_embeddings=embedded,
            text_of_film=facts.text_of_row,
            labels=facts.labels,
            prompts=answerer.questions.prompts,
            rows={name: np.concatenate([said.numbers[name] for said in self.said]) for name in numbers},
            heads=told_heads(answerer.config),
            fixed=answerer.calibration and answerer.calibration.heads,
            intervals=answerer.calibration and answerer.calibration.numbers,
            captions=[caption for said in self.said for caption in said.captions],
        )


def measure_site(gathered: Gathered, key_check: str | None) -> dict[str, Any]:
    """The record of a site. DataError for fewer than `LEAST` patients, or for one that the model was trained on."""
    evaluated, answerer = gathered.evaluated(), gathered.answerer
    patients = gathered.patients or set(evaluated.studies)
    if len(patients) < LEAST:
        raise DataError(f"fewer than {LEAST} patients could be used: no number may leave; add studies")
    digests = frozenset(map(patient_digest, gathered.patients))
    whole = all(said.study.record.patient for said in gathered.said)
    met = Seen(digests, frozenset({key_check} - {None}), whole)
    patient_overlap = overlap(answerer.trained_on, met, "of this site")
    disagreeing = conflicts(answerer.labels, gathered.rows, logger.warning)
    kept, suppressed, unmeasured = _measured(answerer, evaluated)
    return {
        "notice": NOTICE,
        "model": answerer.who.model_dump(),
        "thresholds": _thresholds(answerer),
        "patients": len(patients),
        "studies": len(set(evaluated.studies)),
        "films": sum(len(row) for _, row in gathered.rows),
        "skipped": {reason: _told(count) for reason, count in sorted(gathered.skipped.items())},
        "conflicting_labels": {column: _told(count) for column, count in disagreeing.items()},
        "patient_overlap": patient_overlap,
        "metrics": kept,
        "suppressed": suppressed,
        "not_measured": unmeasured,
        "least_count": LEAST,
    }


def _measured(answerer: Answerer, evaluated: Evaluated) -> tuple[dict[str, float], list[str], list[str]]:
    """Numbers that may leave, families that may not, and sentences for what could not be measured."""
    numbers: dict[str, float] = {}
    asked = {head.column for head in evaluated.heads.values()}
    unmeasured = [f"no film has the label '{column}'" for column in asked if _is_absent(evaluated, column)]
    metrics = [OfEnough(each, LEAST) if isinstance(each, OF_HEADS) else each for each in answerer.metrics]
    for metric in metrics:
        found, notes = metric.measure(evaluated)
        numbers |= found
        unmeasured += [note.split(":")[0] for note in notes]  # what follows may count
    wanted = answerer.config.evaluate
    groups, _ = measure_groups(metrics, evaluated, wanted.by, LEAST, wanted.by_bins)
    finite = {key: value for key, value in (numbers | groups).items() if math.isfinite(value)}
    kept, suppressed = told_and_withheld(finite, LEAST)
    return kept, sorted({*suppressed, *heads_of_few(evaluated, LEAST)}), sorted(set(unmeasured))


def _is_absent(evaluated: Evaluated, column: str) -> bool:
    return all(value is None for value in evaluated.labels.get(column, ()))


def _thresholds(answerer: Answerer) -> dict[str, str] | None:
    """Where decisions come from: never from the site's own films. None where val has not been run with this checkpoint."""
    if answerer.calibration is None:
        return None
    facts = answerer.calibration.model_dump(include={"split", "data_fingerprint", "created"})
    return {key: str(value) for key, value in facts.items()}


def _told(count: int) -> int | str:
    return count if count >= LEAST else f"<{LEAST}"


def write_site(path: Path, record: dict[str, Any]) -> None:
    atomic.write_text(path, json.dumps(record, indent=2) + "\n")
