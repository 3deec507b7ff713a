"""Who the patients of a generated data set are, what ails them, and how they are filmed.

Everything here is a pure function of (preset, seed, patient, study, film): no pixel is needed to know the whole cohort,
and any film can be made alone.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from deepcoro.angiography.carm import CArm
from deepcoro.angiography.content import DIAGNOSTIC, Content, Scene, before_injections, interventions
from deepcoro.angiography.detector import VENDORS
from deepcoro.angiography.disease import Disease, draw_disease, later, read
from deepcoro.angiography.film import Injection
from deepcoro.angiography.findings import SideFindings
from deepcoro.angiography.grammar import render
from deepcoro.angiography.lumen import Scale
from deepcoro.angiography.motion import NO_BOLUS, Bolus, Rhythm
from deepcoro.angiography.presets import FilmFormat, Preset
from deepcoro.angiography.vocabulary import (
    DOMINANCES,
    PROJECTIONS,
    SIDES,
    Dominance,
    Projection,
    Side,
    view_of,
)
from deepcoro.config import ConfigError

SPLITS = ("train", "val", "test")
_ANATOMY, _PATIENT, _STUDY, _FILM, _REPORT, _OTHER = range(6)
"""Names of independent streams of chance."""
_CONTRAST_SPEED_MM_PER_S = {"left": (105.0, 15.0), "right": (155.0, 25.0)}


@dataclass(frozen=True)
class Patient:
    """A person with one anatomy for life."""

    number: int
    patient_id: str
    sex: str
    age_years: int
    dominance: Dominance
    has_ramus: bool
    split: str
    num_studies: int


@dataclass(frozen=True)
class Study:
    """One visit to the catheter laboratory."""

    patient: Patient
    number: int
    study_uid: str
    days_since_first: int
    lvef_percent: int
    sides: tuple[Side, ...]
    """The trees that were imaged; the other is not assessed."""
    diseases: dict[Side, Disease]
    """The truth, of both trees."""
    findings: dict[Side, SideFindings]
    """What the reader said, of the imaged trees."""
    reports: dict[Side, str]


@dataclass(frozen=True)
class FilmPlan:
    """One film to be made."""

    study: Study
    number: int
    side: Side
    """The tree; of a film of another structure, one that is near."""
    view: str
    format: FilmFormat
    injection: Injection

    @property
    def content(self) -> Content:
        return self.injection.content or DIAGNOSTIC[self.side]

    @property
    def file_name(self) -> str:
        """Relative to the data set's folder."""
        extension = "avi" if self.format == "avi" else "dcm"
        return f"films/{self.study.patient.patient_id}_{self.study.number}_{self.number:02d}.{extension}"

    @property
    def uid(self) -> str:
        return f"{self.study.study_uid}.{self.number + 1}"


def patient_of(preset: Preset, seed: int, number: int) -> Patient:
    """Patient `number` of a cohort. Split, dominance and occlusions are spread evenly even over few patients."""
    rng = _stream(seed, _PATIENT, number)
    split, dominance, repeat = _even(seed, number)[:3]
    return Patient(
        number=number,
        patient_id=f"DEMO{seed}P{number:05d}",
        sex=str(rng.choice(("M", "F"), p=(0.68, 0.32))),
        age_years=int(np.clip(rng.normal(66, 11), 30, 89)),
        dominance=DOMINANCES[_bin(dominance, preset.dominance)],
        has_ramus=bool(rng.random() < 0.25),
        split=SPLITS[_bin(split, preset.splits)],
        num_studies=2 if repeat < preset.repeats else 1,
    )


def studies_of(preset: Preset, seed: int, patient: Patient) -> list[Study]:
    """The patient's studies in time; between them lesions progress or are stented."""
    rng = _stream(seed, _PATIENT, patient.number, 1)
    levels = _even(seed, patient.number)[3:]
    diseases = {
        side: draw_disease(preset, side, patient.dominance, patient.has_ramus, level, rng)
        for side, level in zip(SIDES, levels, strict=True)
    }
    lvef = int(np.clip(rng.normal(56, 11), 18, 72))
    studies, days = [], 0
    for number in range(patient.num_studies):
        if number:
            days += int(rng.integers(30, 900))
            diseases = {side: later(disease, preset, rng) for side, disease in diseases.items()}
        studies.append(_study(preset, seed, patient, (number, days, lvef), diseases))
    return studies


def films_of(
    preset: Preset, seed: int, study: Study, film_format: str = "mixed", vendors: tuple[str, ...] = ()
) -> list[FilmPlan]:
    """The study's films in the order of acquisition: left tree, then right; other structures before, interventions after.

    `film_format`: mixed, avi or dicom. `vendors`: makes of machine that are used, () = all; the rest of the scene does not
    depend on them. ConfigError on one that is not known.
    """
    rng = _stream(seed, _STUDY, study.patient.number, study.number, 1)
    allowed = vendor_numbers(vendors)
    vendor_index = allowed[int(rng.integers(len(VENDORS))) % len(allowed)]
    plans: list[FilmPlan] = []
    for side in study.sides:
        fewest, most = preset.films_per_side
        order = _view_order(side, int(rng.integers(fewest, most + 1)), rng)
        for projection_index in order:
            number = len(plans)
            film_rng = _stream(seed, _FILM, study.patient.number, study.number, number)
            injection = _injection(preset, seed, study, (side, projection_index, vendor_index), film_rng)
            view = view_of(injection.carm.primary_deg, injection.carm.secondary_deg)
            chosen = _format(preset, film_format, film_rng)
            plans.append(FilmPlan(study, number, side, view, chosen, injection))
    return _with_others(preset, seed, plans, vendor_index, film_format) if preset.other_films[1] else plans


def vendor_numbers(names: tuple[str, ...]) -> list[int]:
    """Places in VENDORS, of all for ()."""
    known = [vendor.name for vendor in VENDORS]
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ConfigError(f"vendors {wrong} are not known; allowed: {known}")
    return [known.index(name) for name in names] or list(range(len(known)))


def _with_others(
    preset: Preset, seed: int, plans: list[FilmPlan], vendor_index: int, film_format: str
) -> list[FilmPlan]:
    """The study's diagnostic films among those of other structures and of an intervention, numbered in order of time."""
    study = plans[0].study
    rng = _stream(seed, _OTHER, study.patient.number, study.number)
    before = before_injections(preset, study.diseases, rng)
    after = interventions(preset, study.diseases, study.sides, rng)
    views = {plan.side: plan.injection.carm for plan in plans}

    def made(number: int, scene: Scene) -> FilmPlan:
        film_rng = _stream(seed, _OTHER, study.patient.number, study.number, number)
        injection = _injection(preset, seed, study, (scene.side, 0, vendor_index), film_rng)
        carm = views[scene.side] if scene.projection is None else _towards(injection.carm, scene.projection)
        injection = replace(injection, content=scene.content, lesions=scene.lesions, carm=carm)
        if not scene.content.contrast_agent:
            injection = replace(injection, bolus=NO_BOLUS)
        view = view_of(carm.primary_deg, carm.secondary_deg)
        return FilmPlan(study, number, scene.side, view, _format(preset, film_format, film_rng), injection)

    ordered = [made(number, scene) for number, scene in enumerate(before)]
    ordered += [_told(plan, len(before) + plan.number) for plan in plans]
    return ordered + [made(len(ordered) + number, scene) for number, scene in enumerate(after)]


def _told(plan: FilmPlan, number: int) -> FilmPlan:
    """A diagnostic film that says so: where there are others, its table has columns for it."""
    return replace(plan, number=number, injection=replace(plan.injection, content=plan.content))


def _towards(carm: CArm, projection: Projection) -> CArm:
    return replace(carm, primary_deg=projection.primary_deg, secondary_deg=projection.secondary_deg)


def _study(
    preset: Preset,
    seed: int,
    patient: Patient,
    visit: tuple[int, int, int],
    diseases: dict[Side, Disease],
) -> Study:
    number, days, lvef = visit
    rng = _stream(seed, _REPORT, patient.number, number)
    sides = SIDES if rng.random() >= preset.one_sided else (SIDES[int(rng.integers(2))],)
    findings = {side: read(diseases[side], preset, rng) for side in sides}
    styles = {side: preset.report_styles[int(rng.integers(len(preset.report_styles)))] for side in sides}
    return Study(
        patient=patient,
        number=number,
        study_uid=_uid(seed, patient.number, number),
        days_since_first=days,
        lvef_percent=int(np.clip(lvef + rng.integers(-3, 4), 15, 75)),
        sides=sides,
        diseases=diseases,
        findings=findings,
        reports={side: render(findings[side], styles[side], rng) for side in sides},
    )


def _injection(
    preset: Preset,
    seed: int,
    study: Study,
    setup: tuple[Side, int, int],
    rng: np.random.Generator,
) -> Injection:
    side, projection_index, vendor_index = setup
    patient = study.patient
    num_frames = int(rng.integers(preset.frames[0], preset.frames[1] + 1))
    vendor = VENDORS[vendor_index]
    return Injection(
        side=side,
        dominance=patient.dominance,
        has_ramus=patient.has_ramus,
        caliber=(0.91 if patient.sex == "F" else 1.0),  # Dodge et al. 1992: women's are 9 % smaller
        lesions=study.diseases[side].lesions,
        anatomy_seed=(seed, _ANATOMY, patient.number, SIDES.index(side)),
        film_seed=tuple(int(word) for word in rng.integers(0, 2**31, 4)),
        carm=_carm(preset, side, projection_index, rng),
        vendor=vendor,
        rhythm=_rhythm(preset, study.lvef_percent, num_frames / preset.frame_rate_fps, rng),
        bolus=_bolus(side, num_frames / preset.frame_rate_fps, rng),
        num_frames=num_frames,
        frame_rate_fps=preset.frame_rate_fps,
        bits=int(rng.choice((8, 10, 12), p=(0.6, 0.15, 0.25))),
        scale=Scale(preset.vessel_scale, preset.finding_boost, preset.twigs, preset.ball_step),
        clutter=preset.clutter,
        pan_mm=_pan(preset, rng),
    )


def _carm(preset: Preset, side: Side, projection_index: int, rng: np.random.Generator) -> CArm:
    projection = PROJECTIONS[side][projection_index]
    jitter = rng.uniform(-4, 4, 2).round(1)
    return CArm(
        primary_deg=projection.primary_deg + float(jitter[0]),
        secondary_deg=projection.secondary_deg + float(jitter[1]),
        source_detector_mm=float(rng.integers(980, 1150)),
        source_isocentre_mm=float(rng.integers(720, 780)),
        field_mm=float(rng.choice((160.0, 170.0, 200.0), p=(0.4, 0.4, 0.2))),
        size_px=preset.size_px,
    )


def _rhythm(preset: Preset, lvef_percent: int, duration_s: float, rng: np.random.Generator) -> Rhythm:
    has_ectopic, holds_breath = rng.random(2) < (0.1, 0.5)
    ectopic_s, excursion_mm = float(rng.uniform(0.2, 0.8) * duration_s), float(
        np.clip(rng.normal(4.9, 1.9), 2.4, 8)
    )
    return Rhythm(
        heart_rate_bpm=float(rng.uniform(*preset.heart_rate_bpm)),
        lvef_percent=float(lvef_percent),
        phase=float(rng.random()),
        ectopic_s=ectopic_s if has_ectopic and not preset.is_steady else None,
        breath_mm=0.0 if holds_breath or preset.is_steady else excursion_mm,
        breath_hz=float(rng.uniform(0.18, 0.30)),
        breath_phase=float(rng.uniform(0, 6.28)),
    )


def _bolus(side: Side, duration_s: float, rng: np.random.Generator) -> Bolus:
    """Contrast arrives early and washes out before a short film ends; long films show a usual injection."""
    mean, spread = _CONTRAST_SPEED_MM_PER_S[side]
    start_s = float(rng.uniform(0.06, 0.14) * min(duration_s, 5.0))
    injected_s = min(float(rng.uniform(1.8, 3.0)), float(rng.uniform(0.55, 0.68)) * duration_s)
    return Bolus(start_s, injected_s, float(np.clip(rng.normal(mean, spread), 0.6 * mean, 1.5 * mean)))


def _pan(preset: Preset, rng: np.random.Generator) -> tuple[float, float]:
    moves, right, up = rng.random() < 0.2, rng.uniform(-18, 18), rng.uniform(-18, 18)
    return (float(right), float(up)) if moves and not preset.is_steady else (0.0, 0.0)


def _view_order(side: Side, count: int, rng: np.random.Generator) -> list[int]:
    """Views of one tree without repetition, the first-listed standard ones more often."""
    weight = 0.8 ** np.arange(len(PROJECTIONS[side]))
    count = min(count, len(weight))
    return sorted(rng.choice(len(weight), count, replace=False, p=weight / weight.sum()).tolist())


def _format(preset: Preset, film_format: str, rng: np.random.Generator) -> FilmFormat:
    level = rng.random()
    if film_format == "avi":
        return "avi"
    shares = {
        name: share for name, share in preset.formats.items() if film_format == "mixed" or name != "avi"
    }
    total = sum(shares.values())
    return list(shares)[_bin(level, tuple(share / total for share in shares.values()))]


def _bin(level: float, shares: tuple[float, ...]) -> int:
    return int(min(np.searchsorted(np.cumsum(shares), level, side="right"), len(shares) - 1))


def _stream(seed: int, *names: int) -> np.random.Generator:
    return np.random.default_rng([seed, *names])


def _even(seed: int, number: int) -> np.ndarray:
    """Five numbers in 0-1 that fill the unit cube evenly over consecutive patients (additive recurrence, Roberts 2018)."""
    root = 1.1347241384015194  # of x^6 = x + 1
    start = np.random.default_rng([seed, 977]).random(5)
    return (start + (number + 1) * root ** -np.arange(1.0, 6.0)) % 1


def _uid(seed: int, *numbers: int) -> str:
    """A valid unique identifier (ISO/IEC 9834-8: 2.25. and a 128-bit number)."""
    digest = hashlib.sha256(repr((seed, *numbers)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:12], 'big')}"
