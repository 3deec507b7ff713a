"""Answers on disk: one JSON a study, and tables of studies, films and skipped files that a spreadsheet opens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from deepcoro import atomic
from deepcoro.inference.prediction import Finding, Skipped, StudyAnswer, WithoutOneFilm
from deepcoro.predictions import table

STUDIES, FILMS, SKIPPED = "studies.csv", "films.csv", "skipped.csv"


def write_answer(folder: Path, answer: StudyAnswer) -> bytes:
    """Writes `{study}.json` and returns what is in it."""
    payload = (answer.model_dump_json(indent=2) + "\n").encode()
    atomic.write_bytes(folder / f"{answer.study}.json", payload)
    return payload


def write_tables(
    folder: Path,
    answers: Sequence[StudyAnswer],
    unread: Sequence[Skipped] = (),
    without_report: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """The tables of all answers; `unread` rows of a table belong to no study, `without_report` (study -> why) to no file. A table without
    a row is a header.
    """
    atomic.write_text(folder / STUDIES, table(_filled([_study_row(each) for each in answers])))
    films = [_film_row(answer, number) for answer in answers for number in range(len(answer.films))]
    atomic.write_text(folder / FILMS, table(_filled(films)) or "study,clip\n")
    skipped = [_skipped_row(answer.study, each) for answer in answers for each in answer.skipped]
    skipped += [_skipped_row(None, each) for each in unread]
    skipped += [
        {"study": study, "number": None, "clip": None, "reason": f"no_structured_report: {reason}"}
        for study, reason in without_report.items()
    ]
    atomic.write_text(folder / SKIPPED, table(skipped) or "study,number,clip,reason\n")


def _study_row(answer: StudyAnswer) -> dict[str, object]:
    return (
        {
            "study": answer.study,
            "patient": answer.patient,
            "patient_in_training": answer.patient_in_training,
            "films": len(answer.films),
            "films_shown": sum(film.shown for film in answer.films),
            "skipped": len(answer.skipped),
        }
        | {name: cell for each in answer.findings for name, cell in _cells(each).items()}
        | {f"nearest_reports_{each.label}": f"{each.value:.6f}" for each in answer.readings}
        | {
            "caption": answer.caption,
            "decode_s": f"{answer.seconds.decode:.3f}",
            "model_s": f"{answer.seconds.model:.3f}",
        }
    )


def _cells(finding: Finding) -> dict[str, object]:
    """The score, and what there is besides it."""
    name = finding.name.replace("/", "_")
    besides = {"word": finding.word, "probability": finding.probability, "call": finding.call}
    besides |= {f"prob_{word}": f"{each:.6f}" for word, each in finding.class_probabilities.items()}
    besides |= {f"films_{call}": number for call, number in finding.film_calls.items()}
    if finding.interval is not None:
        low, high = (f"{end:.6f}" for end in finding.interval)
        besides |= {"interval_low": low, "interval_high": high, "interval_level": finding.interval_level}
    if finding.without_one_film is not None:
        besides |= _range(finding.without_one_film)
    told = {f"{name}_{key}": value for key, value in besides.items() if value is not None}
    return {_column(finding.name): f"{finding.score:.6f}"} | told


def _range(without: WithoutOneFilm) -> dict[str, object]:
    return {
        "without_one_film_lowest": f"{without.lowest:.6f}",
        "without_one_film_highest": f"{without.highest:.6f}",
        "without_one_film_changing": without.num_changing,
    }


def _film_row(answer: StudyAnswer, number: int) -> dict[str, object]:
    film = answer.films[number]
    facts = film.model_dump(exclude={"scores", "caption", "nearest_reports"})
    scores = {_column(name): f"{score:.6f}" for name, score in film.scores.items()}
    without = {
        f"{each.name.replace('/', '_')}_score_without": f"{each.without_one_film.scores[film.clip]:.6f}"
        for each in answer.findings
        if each.without_one_film is not None and film.clip in each.without_one_film.scores
    }
    return {"study": answer.study} | facts | scores | without | {"caption": film.caption}


def _column(name: str) -> str:
    """`zero_shot/cto` is `zero_shot_cto_score`, as in the predictions of an evaluation."""
    return f"{name.replace('/', '_')}_score"


def _skipped_row(study: str | None, skipped: Skipped) -> dict[str, object]:
    return {"study": study} | skipped.model_dump()


def _filled(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Every row with the columns of all: a study without a usable film has no findings."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def latency(answers: Sequence[StudyAnswer]) -> dict[str, float]:
    """Seconds of a study from files to answer, before it is written (median and 95th percentile), and the share of all time that decoding took."""
    totals = np.array([answer.seconds.total for answer in answers])
    return {
        "studies": float(len(answers)),
        "p50_s": float(np.percentile(totals, 50)),
        "p95_s": float(np.percentile(totals, 95)),
        "decode_share": sum(answer.seconds.decode for answer in answers) / max(float(totals.sum()), 1e-9),
    }
