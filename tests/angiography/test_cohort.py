"""The cohort: pure in its numbers, patients whole, labels and reports of one mind."""

from collections import Counter

import numpy as np
import pytest

from deepcoro.angiography import tables
from deepcoro.angiography.cohort import films_of, patient_of, studies_of
from deepcoro.angiography.disease import Disease, event_risk, read, syntax_score
from deepcoro.angiography.findings import Lesion
from deepcoro.angiography.grammar import parse
from deepcoro.angiography.lumen import LesionShape
from deepcoro.angiography.presets import PRESETS, preset_named
from deepcoro.angiography.vocabulary import segments_of, view_of
from deepcoro.config import ConfigError


def studies(name: str, seed: int = 0, patients: int | None = None):
    preset = preset_named(name)
    for number in range(patients or preset.patients):
        yield from studies_of(preset, seed, patient_of(preset, seed, number))


def test_a_patient_does_not_depend_on_the_others():
    preset = preset_named("small")
    alone = studies_of(preset, 3, patient_of(preset, 3, 17))
    among = [study for study in studies("small", seed=3, patients=20) if study.patient.number == 17]
    assert alone == among
    assert films_of(preset, 3, alone[0]) == films_of(preset, 3, among[0])


def test_the_life_size_preset_is_small_with_vessels_as_wide_as_they_are_and_the_pixels_that_they_want():
    small, life_size = (
        preset_named(name).model_dump(exclude={"name"}) for name in ("small", "small_life_size")
    )
    assert {name for name in small if small[name] != life_size[name]} == {"vessel_scale", "size_px"}
    assert life_size["vessel_scale"] == 1.0 and life_size["size_px"] == 224


def test_another_seed_is_another_cohort():
    one, other = ([study.reports for study in studies("tiny", seed)] for seed in (0, 1))
    assert one != other


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_reports_state_exactly_the_findings_of_the_imaged_trees(name):
    for study in studies(name, patients=15):
        assert set(study.reports) == set(study.sides)
        for side in study.sides:
            assert parse(study.reports[side], strict=True) == study.findings[side]
            named = {lesion.segment for lesion in study.findings[side].lesions} | set(
                study.findings[side].normal
            )
            assert named <= set(segments_of(side, study.patient.dominance))


@pytest.mark.parametrize("name", ["tiny", "demo"])
def test_learnable_presets_have_what_the_demo_is_to_learn(name):
    assert preset_named(name).films_per_side[0] >= 2
    held_out = Counter()
    cto, left_dominant, trees = 0, 0, 0
    for study in studies(name, patients=24 if name == "tiny" else 100):
        for side in study.sides:
            trees += 1
            cto += study.findings[side].cto
            left_dominant += study.patient.dominance == "left"
            held_out[study.patient.split, side, study.findings[side].cto] += 1
    assert 0.2 < cto / trees < 0.4 and 0.2 < left_dominant / trees < 0.4
    for split in ("train", "val", "test"):
        assert all(held_out[split, side, True] + held_out[split, side, False] for side in ("left", "right"))
        assert held_out[split, "left", True] + held_out[split, "right", True]


def test_the_demo_has_its_size_and_reports_that_are_now_and_then_equal():
    assert preset_named("demo").films_per_side == (2, 2)
    films, texts = Counter(), set()
    for study in studies("demo"):
        films[study.patient.split] += 2 * len(study.sides)
        texts |= set(study.reports.values())
    assert 2500 < films["train"] < 2750 and 350 < films["val"] + films["test"] < 700
    assert 350 <= len(texts) <= 450


def test_splits_are_spread_evenly_even_over_few_patients():
    preset = preset_named("tiny")
    for seed in range(5):
        splits = Counter(patient_of(preset, seed, number).split for number in range(24))
        assert 12 <= splits["train"] <= 17 and splits["val"] >= 3 and splits["test"] >= 3


def test_repeat_studies_share_the_anatomy_and_the_split_but_not_the_films():
    preset = preset_named("full")
    repeated = [study for study in studies("full", patients=60) if study.patient.num_studies == 2]
    assert len(repeated) >= 8
    first, second = repeated[:2]
    films = [films_of(preset, 0, study)[0].injection for study in (first, second)]
    assert first.patient == second.patient and second.days_since_first >= 30
    assert films[0].film_seed != films[1].film_seed and first.study_uid != second.study_uid
    same_side = {film.side: film.injection.anatomy_seed for film in films_of(preset, 0, first)}
    for film in films_of(preset, 0, second):
        assert same_side.get(film.side, film.injection.anatomy_seed) == film.injection.anatomy_seed


def test_films_of_a_tree_differ_in_view_and_bear_its_name():
    for study in studies("full", patients=10):
        plans = films_of(preset_named("full"), 0, study)
        for side in study.sides:
            views = [plan.injection.carm.primary_deg for plan in plans if plan.side == side]
            assert len(set(views)) == len(views) >= 3
        for plan in plans:
            assert plan.view == view_of(plan.injection.carm.primary_deg, plan.injection.carm.secondary_deg)
    assert len({plan.file_name for plan in plans}) == len(plans)


def test_the_format_is_mixed_or_as_asked():
    preset = preset_named("demo")
    for wanted, expected in (("avi", {"avi"}), ("dicom", {"dicom_explicit", "dicom_rle", "dicom_j2k"})):
        made = {
            film.format
            for study in studies("demo", patients=30)
            for film in films_of(preset, 0, study, wanted)
        }
        assert made == expected
    mixed = Counter(
        film.format for study in studies("demo", patients=30) for film in films_of(preset, 0, study)
    )
    assert len(mixed) == 4 and mixed["avi"] > mixed["dicom_explicit"] > mixed["dicom_j2k"]


def test_what_was_not_filmed_has_no_label_and_never_a_zero():
    one_sided = next(study for study in studies("demo") if study.sides == ("right",))
    row = tables.label_row(one_sided)
    assert row["prox_lad_stenosis"] == row["left_main_cto"] == "" and row["prox_rca_stenosis"] != ""
    film = tables.dataset_row(films_of(preset_named("demo"), 0, one_sided)[0])
    assert film["prox_lad_stenosis"] == "" and film["side"] == "right"


def test_a_segment_that_the_patient_lacks_has_no_label():
    left_dominant = next(s for s in studies("demo") if s.patient.dominance == "left" and len(s.sides) == 2)
    row = tables.label_row(left_dominant)
    assert row["posterolateral_stenosis"] == "" and row["pda_stenosis"] != ""
    films = films_of(preset_named("demo"), 0, left_dominant)
    cells = {film.side: tables.dataset_row(film)["pda_stenosis"] for film in films}
    assert cells["left"] != "" and cells["right"] == ""


def test_a_reader_is_near_the_truth_and_never_changes_an_occlusion():
    preset = preset_named("full")
    shape = LesionShape(0.5, 10.0, 0.0)
    lesions = ((Lesion("prox_lad", 60), shape), (Lesion("mid_lad", 100, cto=True), shape))
    disease = Disease("left", "right", segments_of("left", "right"), lesions)
    findings = [read(disease, preset, np.random.default_rng(seed)) for seed in range(300)]
    seen = np.array([each.lesion_of("prox_lad").stenosis_percent for each in findings])
    assert 5 < seen.std() < 12 and abs(seen.mean() - 60) < 2 and (seen % 10 == 0).all()
    assert all(each.lesion_of("mid_lad").stenosis_percent == 100 for each in findings)


def test_scores_of_the_whole_tree_add_their_segments():
    shape = LesionShape(0.5, 10.0, 0.0)
    sick = Disease(
        "left", "right", (), ((Lesion("prox_lad", 100, cto=True), shape), (Lesion("om1", 50), shape))
    )
    well = Disease("right", "right", (), ((Lesion("mid_rca", 49), shape),))
    assert syntax_score((sick, well)) == 3.5 * 5 + 1 * 2
    assert event_risk((sick,), 30, 75) > event_risk((sick,), 60, 75) > event_risk((well,), 60, 75)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="tiny"):
        preset_named("huge")
