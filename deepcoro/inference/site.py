"""A model measured at another hospital: films and their table in, aggregates out. No row, no id and no small count leaves.

The numbers are those of an evaluation (`evaluate.metrics` of the run), computed by the same code.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from deepcoro import atomic
from deepcoro.config import DataError
from deepcoro.embed import merged_labels
from deepcoro.evaluated import Evaluated
from deepcoro.groups import measure_groups
from deepcoro.inference.model import Answerer, Said
from deepcoro.inference.opened import OpenedStudy
from deepcoro.inference.prediction import NOTICE
from deepcoro.ingest.film import Rejection
from deepcoro.sample import patient_digest, text_id
from deepcoro.seen import Seen, overlap

LEAST = 10
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

    def evaluated(self) -> Evaluated:
        """What metrics read. DataError when no film could be used."""
        if not self.said:
            raise DataError(f"no film could be used ({dict(self.skipped)}); nothing is measured")
        rows = [(said.study.record, row) for said in self.said for row in said.rows]
        texts, own = _distinct([record.report_of(row) for record, row in rows])
        labels = [merged_labels([record.clips[clip] for clip in row]) for record, row in rows]
        names = sorted({name for each in labels for name in each})
        embedded = np.zeros((len(texts), 0), np.float32)
        if self.answerer.shares_space:
            embedded = self.answerer.embed_texts(texts or [""])[: len(texts)]
        numbers = {name for said in self.said for name in said.numbers}
        return Evaluated(
            split="site",
            units=np.arange(len(rows)),
            clips=[f"{record.study}.{row[0]:03d}" for record, row in rows],
            studies=[record.study for record, _ in rows],
            patients=[record.patient for record, _ in rows],
            films=np.concatenate([said.films for said in self.said]),
            texts=texts,
            text_embeddings=embedded,
            text_of_film=own,
            labels={name: [each.get(name) for each in labels] for name in names},
            prompts=self.answerer.questions.prompts,
            rows={name: np.concatenate([said.numbers[name] for said in self.said]) for name in numbers},
            captions=[caption for said in self.said for caption in said.captions],
        )


def _distinct(said: Sequence[str | None]) -> tuple[list[str], Int[np.ndarray, "row"]]:
    """The texts, each once, and whose text each row has; -1 = none."""
    places: dict[int, int] = {}
    texts: list[str] = []
    own = np.full(len(said), -1, np.int64)
    for row, text in enumerate(said):
        if text is None:
            continue
        own[row] = places.setdefault(text_id(text), len(texts))
        if own[row] == len(texts):
            texts.append(text)
    return texts, own


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
    numbers: dict[str, float] = {}
    unmeasured: list[str] = []
    for metric in answerer.metrics:
        found, notes = metric.measure(evaluated)
        numbers |= found
        unmeasured += [note.split(":")[0] for note in notes]  # what follows may count
    wanted = answerer.config.evaluate
    groups, _ = measure_groups(answerer.metrics, evaluated, wanted.by, LEAST, wanted.by_bins)
    numbers |= groups
    kept, suppressed = without_small(numbers, LEAST)
    return {
        "notice": NOTICE,
        "model": answerer.who.model_dump(),
        "patients": len(patients),
        "studies": len(set(evaluated.studies)),
        "films": sum(len(row) for said in gathered.said for row in said.rows),
        "skipped": {reason: _told(count) for reason, count in sorted(gathered.skipped.items())},
        "patient_overlap": patient_overlap,
        "metrics": kept,
        "suppressed": suppressed,
        "not_measured": sorted(set(unmeasured)),
        "least_count": LEAST,
    }


def _told(count: int) -> int | str:
    return count if count >= LEAST else f"<{LEAST}"


def without_small(numbers: dict[str, float], least: int) -> tuple[dict[str, float], list[str]]:
    """Without the numbers that rest on fewer than `least`: cases, positives, negatives; and the names of what was left out.

    A family is what shares a prefix. Its counts are the names that begin with `num`; a class of the family that is small takes all of
    it away, since the rest would tell it. Counts that are small by themselves (not assessed, say) are left out alone.
    """
    families = sorted({key.rpartition("/")[0] for key in numbers})
    small = [family for family in families if _is_small(family, numbers, least)]
    kept = {
        key: value
        for key, value in numbers.items()
        if math.isfinite(value) and not _below(key, small) and not (_is_count(key) and 0 < value < least)
    }
    return kept, small


def _is_small(family: str, numbers: dict[str, float], least: int) -> bool:
    total = numbers.get(f"{family}/num")
    if total == 0:  # there is nobody to tell of
        return False
    counts = [
        numbers[name] for name in (f"{family}/num_patients", f"{family}/num_queries") if name in numbers
    ]
    if total is not None:
        counts.append(total)
        if (positive := numbers.get(f"{family}/num_positive")) is not None:
            counts += [positive, total - positive]
    return any(count < least for count in counts)


def _below(key: str, families: Sequence[str]) -> bool:
    """Whether it is of one of them, or the shuffled control of one (`zero_shot/control/cto/...`)."""
    plain = key.replace("/control/", "/")
    return any(plain.startswith(f"{family}/") for family in families)


def _is_count(key: str) -> bool:
    return key.rpartition("/")[2].startswith("num")


def write_site(path: Path, record: dict[str, Any]) -> None:
    atomic.write_text(path, json.dumps(record, indent=2) + "\n")
