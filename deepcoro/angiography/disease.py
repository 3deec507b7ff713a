"""The disease of one coronary tree: drawn, worsened between studies, and read by a fallible reader."""

from dataclasses import dataclass, replace

import numpy as np

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.lumen import LesionShape
from deepcoro.angiography.presets import Preset
from deepcoro.angiography.vocabulary import (
    SEGMENTS,
    Dominance,
    Side,
    segments_of,
    severity_floor,
)


@dataclass(frozen=True)
class Disease:
    """The truth about one tree."""

    side: Side
    dominance: Dominance
    segments: tuple[str, ...]
    """Segments this patient has."""
    lesions: tuple[tuple[Lesion, LesionShape], ...]


def draw_disease(
    preset: Preset, side: Side, dominance: Dominance, has_ramus: bool, level: float, rng: np.random.Generator
) -> Disease:
    """A tree's disease. `level` in 0-1 decides between occlusion, stenosis and health, so that it can be spread evenly."""
    segments = tuple(each for each in segments_of(side, dominance) if each != "bx" or has_ramus)
    places = [each for each in segments if each in preset.lesion_segments]
    order = rng.permutation(len(places))
    count = int(rng.integers(1, preset.max_lesions + 1))
    is_occluded = level < preset.cto_prevalence
    threshold = preset.cto_prevalence + (1 - preset.cto_prevalence) * preset.lesion_prevalence
    chosen = [places[index] for index in order[:count]] if level < threshold else []
    # the left main is not occluded: nobody comes to the laboratory with that
    can_occlude = [index for index, segment in enumerate(chosen) if segment != "left_main"]
    occluded = can_occlude[0] if is_occluded and can_occlude else None
    lesions = tuple(
        _draw_lesion(preset, segment, index == occluded, rng) for index, segment in enumerate(chosen)
    )
    return Disease(side, dominance, segments, lesions)


def _draw_lesion(
    preset: Preset, segment: str, is_occluded: bool, rng: np.random.Generator
) -> tuple[Lesion, LesionShape]:
    percent = 100 if is_occluded else int(rng.choice(preset.stenosis_percent))
    chances = (preset.calcification, 0.4 * preset.extras, 0.3 * preset.extras, preset.extras)
    calcium, stent, thrombus, collateral = rng.random(4) < chances
    grade = preset.calcification_grades[int(rng.integers(len(preset.calcification_grades)))]
    lesion = Lesion(
        segment=segment,
        stenosis_percent=percent,
        cto=is_occluded,
        calcification=grade if calcium else "none",
        thrombus=bool(thrombus) and not is_occluded,
        stent=bool(stent) and not is_occluded,
    )
    shape = LesionShape(
        place=float(rng.uniform(0.2, 0.8)),
        length_mm=float(rng.uniform(*preset.lesion_length_mm)),
        eccentricity=float(rng.uniform(0, 0.4)) if preset.extras else 0.0,
        collateral_delay_s=float(rng.uniform(1.5, 2.5)) if collateral and is_occluded else None,
    )
    return lesion, shape


def later(disease: Disease, preset: Preset, rng: np.random.Generator) -> Disease:
    """The tree at the next study: lesions worsen, severe ones may have been stented. Plain presets stay as they were."""
    if not preset.extras:
        return disease
    return replace(
        disease, lesions=tuple((_progress(lesion, rng), shape) for lesion, shape in disease.lesions)
    )


def _progress(lesion: Lesion, rng: np.random.Generator) -> Lesion:
    if lesion.cto:
        return lesion
    if lesion.stenosis_percent >= severity_floor("severe") and rng.random() < 0.5:
        return replace(lesion, stenosis_percent=0, stent=True, thrombus=False)
    return replace(lesion, stenosis_percent=min(lesion.stenosis_percent + int(rng.integers(0, 3)) * 10, 99))


def read(disease: Disease, preset: Preset, rng: np.random.Generator) -> SideFindings:
    """What a reader says: stenoses by eye in steps of ten, and in some reports the healthy segments too."""
    lesions = tuple(_read_lesion(lesion, preset, rng) for lesion, _ in disease.lesions)
    diseased = {lesion.segment for lesion in lesions}
    lists_normal = rng.random() < preset.explicit_negatives
    healthy = tuple(segment for segment in disease.segments if segment not in diseased)
    return SideFindings(
        side=disease.side,
        dominance=disease.dominance,
        lesions=lesions,
        normal=healthy if lists_normal else (),
        no_significant_stenosis=all(lesion.stenosis_percent < 50 for lesion in lesions),
    )


def _read_lesion(lesion: Lesion, preset: Preset, rng: np.random.Generator) -> Lesion:
    if lesion.cto or not lesion.stenosis_percent or not preset.reader_noise_percent:
        return lesion
    seen = 10 * round((lesion.stenosis_percent + rng.normal(0, preset.reader_noise_percent)) / 10)
    return replace(lesion, stenosis_percent=int(np.clip(seen, 10, 99)))


def syntax_score(diseases: tuple[Disease, ...]) -> float:
    """Weights of the segments narrowed by half or more, doubled; five-fold when occluded (no adverse-feature points)."""
    score = 0.0
    for disease in diseases:
        column = 1 if disease.dominance == "left" else 0
        for lesion, _ in disease.lesions:
            if lesion.stenosis_percent >= 50:
                score += SEGMENTS[lesion.segment].syntax_weights[column] * (5 if lesion.cto else 2)
    return score


def event_risk(diseases: tuple[Disease, ...], lvef_percent: int, age_years: int) -> float:
    """Probability of a major cardiac event, a made-up logistic law: known, so that the best possible AUROC is known."""
    lesions = [lesion for disease in diseases for lesion, _ in disease.lesions]
    left_main = any(
        lesion.segment == "left_main" and lesion.stenosis_percent >= severity_floor("moderate")
        for lesion in lesions
    )
    severe = sum(lesion.stenosis_percent >= severity_floor("severe") for lesion in lesions)
    occluded = any(lesion.cto for lesion in lesions)
    weak = max(50 - lvef_percent, 0)
    logit = -3.2 + 1.1 * left_main + 0.5 * severe + 0.9 * occluded + 0.05 * weak + 0.03 * (age_years - 65)
    return float(1 / (1 + np.exp(-logit)))
