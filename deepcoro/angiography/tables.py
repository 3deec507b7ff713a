"""Ground truth as tables: one row a film for training, and the truth behind it. An empty cell is not assessed, never 0."""

import csv
import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path

from deepcoro.angiography.cohort import FilmPlan, Patient, Study
from deepcoro.angiography.content import CORONARY
from deepcoro.angiography.disease import event_risk, syntax_score
from deepcoro.angiography.film import Film
from deepcoro.angiography.findings import SideFindings
from deepcoro.angiography.vocabulary import SEGMENTS, SIDES, Side

Row = dict[str, object]


def patient_row(patient: Patient) -> Row:
    return {
        "patient_id": patient.patient_id,
        "sex": patient.sex,
        "age": patient.age_years,
        "dominance": patient.dominance,
        "split": patient.split,
    }


def study_row(study: Study) -> Row:
    diseases = tuple(study.diseases.values())
    return {
        "study_id": study.study_uid,
        "patient_id": study.patient.patient_id,
        "days_since_first": study.days_since_first,
        "dominance": study.patient.dominance,
        "imaged": "+".join(study.sides),
        "lvef": study.lvef_percent,
        "syntax": syntax_score(diseases),
        "event_risk": round(event_risk(diseases, study.lvef_percent, study.patient.age_years), 4),
    }


def dataset_row(plan: FilmPlan) -> Row:
    """What a trainer reads: this film's file, its report, and the labels of the tree that it shows.

    A film of anything but a diagnostic injection has no report and is not assessed for findings.
    """
    study, carm, content = plan.study, plan.injection.carm, plan.content
    row: Row = {
        "FileName": plan.file_name,
        "PatientID": study.patient.patient_id,
        "StudyInstanceUID": study.study_uid,
        "Split": study.patient.split,
        "Report": study.reports[plan.side] if content.is_assessed else "",
        "main_structure": content.main_structure,
        "side": _side(plan),
        "view": plan.view,
        "primary_angle": carm.primary_deg,
        "secondary_angle": carm.secondary_deg,
    }
    if plan.injection.content is not None:
        row |= _content(plan)
    found = _findings(study, plan.side)
    if content.is_assessed:
        return row | found
    shown = {"lvef"} if content.main_structure == "LV" else set()
    return row | {name: value if name in shown else "" for name, value in found.items()}


def _side(plan: FilmPlan) -> str:
    return plan.side if plan.content.main_structure in CORONARY.values() else ""


def _content(plan: FilmPlan) -> Row:
    """What the film shows. Stents count where they are drawn: in the coronary tree."""
    stented = _side(plan) and any(lesion.stent for lesion, _ in plan.injection.lesions)
    return {
        "contrast_agent": int(plan.content.contrast_agent),
        "stent_presence": int(bool(stented)),
        "status": plan.content.status,
    }


def _findings(study: Study, side: Side) -> Row:
    findings = study.findings.get(side, SideFindings())
    lesions = findings.lesions
    return {
        "dominance": study.patient.dominance,
        "cto": int(findings.cto),
        "max_stenosis": max((lesion.stenosis_percent for lesion in lesions), default=0),
        "calcification": int(any(lesion.calcification != "none" for lesion in lesions)),
        "lvef": study.lvef_percent,
        **{f"{name}_stenosis": value for name, value in _stenoses(study, findings).items()},
    }


def _stenoses(study: Study, findings: SideFindings | None) -> dict[str, object]:
    """Percent read in each of the 18 segments; empty where the tree was not filmed or the patient lacks the segment."""
    present = study.diseases[findings.side].segments if findings and findings.side else ()
    values: dict[str, object] = dict.fromkeys(SEGMENTS, "")
    for segment in present:
        lesion = findings.lesion_of(segment) if findings else None
        values[segment] = lesion.stenosis_percent if lesion else 0
    return values


def label_row(study: Study) -> Row:
    """The study's labels of every segment: as read, and the truth of the lumen (`qca`)."""
    row: Row = {"study_id": study.study_uid}
    for segment in SEGMENTS:
        side = next((each for each in study.sides if segment in study.diseases[each].segments), None)
        row |= {f"{segment}_{label}": value for label, value in _labels(study, side, segment).items()}
    return row


def _labels(study: Study, side: str | None, segment: str) -> Row:
    if side is None:
        return dict.fromkeys(("stenosis", "qca", "calcif", "cto", "thrombus", "stent"), "")
    lesion = study.findings[side].lesion_of(segment)
    truth = {each.segment: each.stenosis_percent for each, _ in study.diseases[side].lesions}
    return {
        "stenosis": lesion.stenosis_percent if lesion else 0,
        "qca": truth.get(segment, 0),
        "calcif": lesion.calcification if lesion else "none",
        "cto": int(lesion.cto) if lesion else 0,
        "thrombus": int(lesion.thrombus) if lesion else 0,
        "stent": int(lesion.stent) if lesion else 0,
    }


def report_rows(study: Study) -> list[Row]:
    return [
        {
            "study_id": study.study_uid,
            "side": side,
            "text": study.reports[side],
            "text_hash": hashlib.sha256(study.reports[side].encode()).hexdigest()[:16],
        }
        for side in SIDES
        if side in study.reports
    ]


def video_row(plan: FilmPlan, film: Film) -> Row:
    study, injection = plan.study, plan.injection
    return {
        "video_id": plan.uid,
        "study_id": study.study_uid,
        "FileName": plan.file_name,
        "Split": study.patient.split,
        "side": _side(plan),
        "main_structure": plan.content.main_structure,
        **_content(plan),
        "view": plan.view,
        "primary_angle": film.carm.primary_deg,
        "secondary_angle": film.carm.secondary_deg,
        "fps": injection.frame_rate_fps,
        "n_frames": injection.num_frames,
        "bits": 8 if plan.format == "avi" else injection.bits,
        "format": plan.format,
        "first_contrast_frame": "" if film.first_contrast_frame is None else film.first_contrast_frame,
        "ed_frames": "|".join(map(str, film.diastole_frames)),
        "es_frames": "|".join(map(str, film.systole_frames)),
        **{f"vis_{segment}": film.visible.get(segment, "") for segment in SEGMENTS},
    }


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Writes a CSV all at once: a reader sees the whole table or none."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
