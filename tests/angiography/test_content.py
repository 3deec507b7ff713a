"""Films of other content: what they are called is what they show, and they do not disturb the others."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from deepcoro.angiography import tables
from deepcoro.angiography.cohort import FilmPlan, films_of, patient_of, studies_of
from deepcoro.angiography.content import CORONARY, MAIN_STRUCTURES
from deepcoro.angiography.film import Film, render_film
from deepcoro.angiography.presets import preset_named
from deepcoro.angiography.vocabulary import SEGMENTS


def films(name: str = "content", patients: int = 40) -> list[list[FilmPlan]]:
    """Films of each study."""
    preset = preset_named(name)
    studies = [study for n in range(patients) for study in studies_of(preset, 0, patient_of(preset, 0, n))]
    return [films_of(preset, 0, study, "avi") for study in studies]


@pytest.fixture(scope="module")
def plans() -> list[FilmPlan]:
    return [plan for study in films() for plan in study]


def rendered(plan: FilmPlan, **changes) -> Film:
    return render_film(replace(plan.injection, bits=8, **changes))


def darkening(film: Film) -> float:
    """Grey levels that the darkest frame lies below the first, averaged over the field."""
    means = film.pixels.reshape(len(film.pixels), -1).mean(axis=1)
    return float(means[0] - means.min())


def test_every_structure_and_every_state_of_a_procedure_is_filmed(plans):
    assert {plan.content.main_structure for plan in plans} == set(MAIN_STRUCTURES)
    assert {plan.content.status for plan in plans} == {"diagnostic", "PCI", "POST_PCI"}
    others = Counter(
        p.content.main_structure for p in plans if p.content.main_structure not in CORONARY.values()
    )
    assert len(others) == 10 and min(others.values()) >= 5


def test_a_procedure_runs_forward_and_its_stent_stays():
    treated = 0
    for study in films():
        assert [plan.number for plan in study] == list(range(len(study)))
        order = [("diagnostic", "PCI", "POST_PCI").index(plan.content.status) for plan in study]
        assert order == sorted(order)
        last = [plan for plan in study if plan.content.status != "diagnostic"]
        treated += bool(last)
        assert [
            tables.video_row(plan, rendered(plan, num_frames=2))["stent_presence"] for plan in last[2:]
        ] == [1] * len(last[2:])
    assert treated > 5


def test_only_diagnostic_injections_are_assessed_and_have_a_report(plans):
    for plan in plans:
        row = tables.dataset_row(plan)
        cells = {row[f"{segment}_stenosis"] for segment in SEGMENTS} | {row["cto"], row["dominance"]}
        assert (row["Report"] != "") == plan.content.is_assessed == (cells != {""})
        assert (row["side"] == "") == (row["main_structure"] not in CORONARY.values())
    assert len({tuple(tables.dataset_row(plan)) for plan in plans}) == 1


def test_a_film_without_contrast_shows_no_vessel_and_one_with_contrast_darkens(plans):
    with_contrast, without = [], []
    for plan in plans[:120]:
        still = rendered(plan, rhythm=replace(plan.injection.rhythm, breath_mm=0.0), pan_mm=(0.0, 0.0))
        (with_contrast if plan.content.contrast_agent else without).append(darkening(still))
        assert (still.first_contrast_frame is None) == (not plan.content.contrast_agent)
        if not plan.content.contrast_agent:
            assert not any(still.visible.values())
    assert np.median(with_contrast) > 4 * np.percentile(without, 90)


def test_the_ventricle_empties_as_its_ejection_fraction_says(plans):
    plan = next(plan for plan in plans if plan.content.main_structure == "LV")
    areas = []
    for lvef in (20.0, 65.0):
        rhythm = replace(
            plan.injection.rhythm, lvef_percent=lvef, heart_rate_bpm=60.0, phase=0.0, ectopic_s=None
        )
        bolus = replace(plan.injection.bolus, start_s=-5.0, duration_s=50.0)
        film = rendered(plan, rhythm=replace(rhythm, breath_mm=0.0), bolus=bolus, pan_mm=(0.0, 0.0))
        before = rendered(plan, rhythm=rhythm, bolus=replace(bolus, start_s=1e6), pan_mm=(0.0, 0.0))
        shadow = (before.pixels[0].astype(int) - film.pixels > 12).reshape(len(film.pixels), -1).sum(axis=1)
        areas.append(shadow.min() / shadow.max())
    assert areas[1] < areas[0] - 0.1


def test_a_wire_and_a_balloon_darken_the_vessel_before_any_contrast(plans):
    wired, inflated = 0, 0
    for plan in [plan for plan in plans if plan.content.balloon is not None][:8]:
        with_wire = replace(plan.content, balloon=None)
        chosen = (replace(with_wire, wire_to=None), with_wire, plan.content)
        empty, wire, balloon = (rendered(plan, content=each).pixels[0].astype(int) for each in chosen)
        wired += int((empty - wire > 15).sum())
        inflated += int((wire - balloon > 15).sum())
        assert (empty - wire).min() >= -1 and (wire - balloon).min() >= -1
    assert wired > 100 and inflated > 60


@pytest.mark.parametrize(
    ("name", "means"),
    [("tiny", [73.862, 1152.03, 1246.986, 65.563]), ("demo", [76.295, 1173.525, 1310.639, 70.909])],
)
def test_presets_without_other_content_keep_their_films(name, means):
    """A change here is a new `_GENERATION`: data sets on disk would no longer be what their recipe says."""
    preset = preset_named(name)
    study = studies_of(preset, 0, patient_of(preset, 0, 2))[0]
    found = [render_film(plan.injection).pixels.mean() for plan in films_of(preset, 0, study)]
    assert found == pytest.approx(means, rel=2e-5)


def test_the_first_films_of_a_study_are_those_of_access(plans):
    for study in films(patients=60):
        access = [plan.content.main_structure in ("Femoral", "Radial") for plan in study]
        assert access == sorted(access, reverse=True)
