"""From a source to answers on disk, study by study, and how long it took."""

import datetime
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from deepcoro.config import DataError
from deepcoro.inference.audit import AUDIT, AuditLog
from deepcoro.inference.model import Answerer
from deepcoro.inference.neighbours import Neighbours
from deepcoro.inference.prediction import Finding, Skipped, StudyAnswer
from deepcoro.inference.sources import Source
from deepcoro.inference.study_page import write_page
from deepcoro.inference.written import SKIPPED, latency, write_answer, write_tables
from deepcoro.ingest.crosswalk import Entry, prepare_folder
from deepcoro.ingest.structured_report import Measurement, write_report

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """What is written of each study besides its JSON and its lines in the tables."""

    folder: Path
    html: bool = False
    """A page with its films."""
    reports: Path | None = None
    """Private folder for a DICOM Structured Report with the true ids."""


class Predicted(NamedTuple):
    """What was written."""

    answers: list[StudyAnswer]
    without_report: dict[str, str]
    """Keyed study -> why its structured report could not be written; its answer is there."""

    def check_reports(self) -> None:
        """DataError where a report is missing that was asked for: whoever feeds an archive has to know."""
        if self.without_report:
            raise DataError(
                f"{len(self.without_report)} of {len(self.answers)} studies have no structured report ({SKIPPED} says why); all were "
                "answered, and all else is written"
            )


def predict(
    source: Source, answerer: Answerer, outputs: Outputs, neighbours: Neighbours | None = None
) -> Predicted:
    """Writes an answer a study as it comes and notes it in the audit log; the tables at the end. `neighbours`: reports to be shown."""
    answers: list[StudyAnswer] = []
    without_report: dict[str, str] = {}
    log = AuditLog(outputs.folder / AUDIT)
    if outputs.reports is not None:
        prepare_folder(outputs.reports, outputs.folder)
    for study in source.studies:
        answer = answerer.answer(study, source.key_check, neighbours)
        log.note(answer, study, write_answer(outputs.folder, answer))
        if outputs.html:
            write_page(outputs.folder, answer, study)
        if outputs.reports is not None:
            try:
                _write_report(outputs.reports, answer, source.originals.get(answer.study, ()))
            except DataError as error:
                without_report[answer.study] = str(error)
                logger.warning("study %s: no structured report: %s", answer.study, error)
        answers.append(answer)
        logger.info("%d of %d: %s", len(answers), source.count, line_of(answer))
    unread = [Skipped(number=each.row, clip=each.clip, reason=each.reason) for each in source.unread]
    write_tables(outputs.folder, answers, unread, without_report)
    return Predicted(answers, without_report)


def _write_report(folder: Path, answer: StudyAnswer, originals: Sequence[Entry]) -> None:
    """Of the films that were used; none for a study without one. DataError when it cannot be written."""
    used = {film.clip for film in answer.films}
    entries = [entry for entry in originals if entry.clip in used]
    if not entries or not answer.findings:
        logger.info("study %s: no structured report, since no film was answered for", answer.study)
        return
    model = f"{answer.model.name}, step {answer.model.step}, weights {answer.model.digest}"
    said = [_measurement(each) for each in answer.findings]
    write_report(folder / f"{answer.study}.dcm", entries, said, model, datetime.datetime.now())


def _measurement(finding: Finding) -> Measurement:
    return Measurement(
        name=finding.name,
        value=finding.score,
        unit=finding.unit,
        word=finding.word,
        call=finding.call,
        probability=finding.probability,
        threshold=finding.threshold,
        fixed_on=finding.fixed_on,
        film_calls=finding.film_calls,
        higher_means=finding.higher_means,
    )


def line_of(answer: StudyAnswer) -> str:
    """One line about a study; names nobody."""
    reasons = Counter(each.reason.split(":")[0] for each in answer.skipped)
    skipped = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    seconds = answer.seconds
    return (
        f"study {answer.study}: {len(answer.films)} films, {len(answer.skipped)} skipped{f' ({skipped})' if skipped else ''}; "
        f"{seconds.total:.2f} s, {100 * seconds.decode_share:.0f} % of it decoding"
        + ("; THE MODEL WAS TRAINED ON THIS PATIENT" if answer.patient_in_training == "yes" else "")
    )


def summary_of(answers: Sequence[StudyAnswer]) -> str:
    """What a command says at its end."""
    numbers = latency(answers)
    skipped = sum(len(answer.skipped) for answer in answers)
    films = sum(len(answer.films) for answer in answers)
    return (
        f"{numbers['studies']:.0f} studies, {films} films, {skipped} files skipped; seconds a study: "
        f"p50 {numbers['p50_s']:.2f}, p95 {numbers['p95_s']:.2f}; {100 * numbers['decode_share']:.0f} % spent decoding"
    )
