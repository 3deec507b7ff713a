"""The renderer: anatomy, lesions, motion and contrast show in the film as they should, and films repeat to the byte."""

from dataclasses import replace

import numpy as np
import pytest

from deepcoro.angiography import motion
from deepcoro.angiography.carm import CArm
from deepcoro.angiography.detector import VENDORS
from deepcoro.angiography.film import Injection, project, render_film, vessel_thickness_mm, vessels_of
from deepcoro.angiography.findings import Lesion
from deepcoro.angiography.lumen import BLOOD, WALL, LesionShape, Scale
from deepcoro.angiography.motion import Bolus, Rhythm, concentration, contraction_of, systole
from deepcoro.angiography.scene import visible_width
from deepcoro.angiography.splat import Canvas
from deepcoro.angiography.tree import Detail, build_tree
from deepcoro.angiography.vocabulary import segments_of

LAO = CArm(45.0, 0.0, 1050.0, 750.0, 165.0, 96)


def injection(**changes) -> Injection:
    plain = Injection(
        side="right",
        dominance="right",
        has_ramus=False,
        caliber=1.0,
        lesions=(),
        anatomy_seed=(1, 2),
        film_seed=(3, 4),
        carm=LAO,
        vendor=VENDORS[1],
        rhythm=Rhythm(70.0, 60.0, 0.0, None, 0.0, 0.2, 0.0),
        bolus=Bolus(0.2, 1.2, 155.0),
        num_frames=16,
        frame_rate_fps=7.5,
    )
    return replace(plain, **changes)


def lesion_at(segment: str, place: float = 0.5, **finding) -> tuple[tuple[Lesion, LesionShape], ...]:
    return ((Lesion(segment, **finding), LesionShape(place, 14.0, 0.0)),)


@pytest.mark.parametrize("dominance", ["right", "left", "co"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_tree_has_exactly_the_segments_of_its_dominance(side, dominance):
    tree = build_tree(side, dominance, True, Detail(), np.random.default_rng(0))
    named = [branch.name for branch in tree.branches.values() if branch.is_segment]
    assert sorted(named) == sorted(segments_of(side, dominance))


def test_a_left_dominant_posterior_descending_artery_hangs_on_the_circumflex():
    tree = build_tree("left", "left", False, Detail(), np.random.default_rng(0))
    assert tree.branches["pda"].parent == "dist_lcx"
    assert (
        build_tree("right", "right", False, Detail(), np.random.default_rng(0)).branches["pda"].parent
        == "dist_rca"
    )


def test_every_branch_begins_on_its_parent_and_later_along_the_flow():
    tree = build_tree("left", "co", True, Detail(), np.random.default_rng(5))
    for branch in tree.branches.values():
        if branch.parent:
            parent = tree.branches[branch.parent]
            assert np.linalg.norm(parent.points_mm - branch.points_mm[0], axis=1).min() < 1.0
            assert branch.start_mm >= parent.start_mm


def test_the_left_anterior_descending_runs_to_the_apex_and_left_of_the_right_coronary():
    left = build_tree("left", "right", False, Detail(), np.random.default_rng(0))
    right = build_tree("right", "right", False, Detail(), np.random.default_rng(0))
    apex = left.heart.half_length_mm * left.heart.axis
    assert np.linalg.norm(left.branches["dist_lad"].points_mm[-1] - apex) < 15
    assert (
        left.branches["prox_lcx"].points_mm[:, 0].mean()
        > right.branches["mid_rca"].points_mm[:, 0].mean() + 20
    )


def test_a_drawn_map_holds_the_mass_of_its_balls():
    rng = np.random.default_rng(0)
    radius, mass = rng.uniform(0.75, 7, 60), rng.uniform(0.5, 3, 60)
    canvas = Canvas(64, 2, 7.0)
    for _ in range(2):  # the second call must not see the first
        drawn = canvas.draw(
            rng.integers(0, 2, 60), rng.uniform(12, 50, 60), rng.uniform(12, 50, 60), radius, mass
        )
        assert drawn[2].sum() == pytest.approx(mass.sum(), rel=1e-4)


def test_a_ball_over_the_border_keeps_only_its_inner_half():
    drawn = Canvas(32, 1, 5.0).draw(
        np.array([0]), np.array([-0.5]), np.array([16.0]), np.array([5.0]), np.array([10.0])
    )
    assert drawn[2].sum() == pytest.approx(5.0, rel=0.05)
    outside = np.array([-40.0])
    assert Canvas(32, 1, 5.0).draw(np.array([0]), outside, outside, np.array([5.0]), np.array([1.0])) is None


def test_a_ball_is_drawn_like_its_formula():
    canvas = Canvas(33, 1, 6.0)
    rows, columns, drawn = canvas.draw(
        np.array([0]), np.array([16.0]), np.array([16.0]), np.array([5.875]), np.array([1.0])
    )
    down, across = np.mgrid[rows, columns] - 16.0
    oracle = np.sqrt(np.maximum(5.875**2 - down**2 - across**2, 0))
    np.testing.assert_allclose(drawn[0], oracle / oracle.sum(), atol=1e-6)


def test_the_same_description_gives_the_same_bytes():
    first, second = render_film(injection()), render_film(injection())
    assert first.pixels.tobytes() == second.pixels.tobytes()
    assert first.visible == second.visible


def test_another_view_or_another_seed_gives_another_film():
    film = render_film(injection()).pixels
    other_view = render_film(injection(carm=replace(LAO, primary_deg=-30.0))).pixels
    other_seed = render_film(injection(film_seed=(3, 5))).pixels
    assert (film != other_view).mean() > 0.5 and (film != other_seed).mean() > 0.5


def test_all_bit_depths_show_the_same_film():
    films = {bits: render_film(injection(bits=bits)).pixels for bits in (8, 10, 12)}
    assert films[8].dtype == np.uint8 and films[12].dtype == np.uint16
    assert 1023 < films[12].max() <= 4095 and 255 < films[10].max() <= 1023
    np.testing.assert_array_equal(films[8], films[12] >> 4)
    np.testing.assert_array_equal(films[8], films[10] >> 2)


def test_contrast_arrives_darkens_the_vessels_and_washes_out():
    described = injection(num_frames=30)
    darkness = -render_film(described).pixels.astype(float).mean(axis=(1, 2))
    peak = int(darkness.argmax())
    assert 3 < peak < 25
    assert darkness[peak] > darkness[0] + 1 and darkness[peak] > darkness[-1] + 1


def test_an_occlusion_keeps_contrast_from_everything_beyond_it():
    described = injection(lesions=lesion_at("mid_rca", stenosis_percent=100, cto=True), num_frames=24)
    visible, healthy = render_film(described).visible, render_film(injection(num_frames=24)).visible
    assert visible["prox_rca"] > 0.9 and 0.2 < visible["mid_rca"] < 0.8
    assert visible["dist_rca"] == visible["pda"] == visible["posterolateral"] == 0
    assert min(healthy.values()) > 0.9


def test_collaterals_fill_the_bed_beyond_an_occlusion_late():
    lesion = Lesion("mid_rca", 100, cto=True)
    shape = LesionShape(0.5, 14.0, 0.0, collateral_delay_s=1.5)
    tree, cloud = vessels_of(injection(lesions=((lesion, shape),)))
    time_s = np.arange(40) / 7.5
    filled = concentration(cloud, Bolus(0.2, 1.2, 155.0), time_s, np.zeros(40))
    beyond = filled[:, cloud.blocked > 0].mean(axis=1)
    assert beyond[time_s < 1.5].max() < 0.05 < 0.2 < beyond[-1] < 0.5


def test_a_stenosis_narrows_the_lumen_by_its_percentage():
    sick = vessels_of(injection(lesions=lesion_at("mid_rca", stenosis_percent=80)))
    well = vessels_of(injection())
    row = list(sick[0].branches).index("mid_rca")
    ratio = (sick[1].radius_mm / well[1].radius_mm)[sick[1].branch == row]
    assert ratio.min() == pytest.approx(0.2, abs=0.02)
    assert ratio[0] == ratio[-1] == 1


def test_an_eccentric_stenosis_looks_different_from_two_sides():
    shape = LesionShape(0.5, 14.0, 0.4)
    tree, cloud = vessels_of(injection(lesions=((Lesion("mid_rca", 70), shape),)))
    own = cloud.branch == list(tree.branches).index("mid_rca")
    along = np.gradient(cloud.points_mm, axis=0)
    widths = [
        visible_width(cloud, replace(LAO, primary_deg=float(angle)), along)[own].min()
        for angle in range(-90, 90, 15)
    ]
    assert max(widths) > 1.3 * min(widths)


def test_calcium_and_stents_are_there_before_contrast_and_move_with_the_heart():
    finding = {"stenosis_percent": 50, "calcification": "severe", "stent": True}
    described = injection(lesions=lesion_at("mid_rca", **finding))
    tree, cloud = vessels_of(described)
    balls = project(described, tree, cloud, np.arange(16) / 7.5)
    wall = cloud.kind == WALL
    assert wall.sum() > 36 and (balls.mass[0, wall] > 0).all()
    assert np.abs(balls.mass[0, cloud.kind == BLOOD]).max() < 1
    assert np.ptp(balls.column_px[:, wall], axis=0).min() > 0.5


def test_a_thrombus_is_missing_contrast():
    tree, cloud = vessels_of(injection(lesions=lesion_at("mid_rca", stenosis_percent=40, thrombus=True)))
    defect = cloud.mass_mm3 < 0
    assert defect.any() and (cloud.kind[defect] == BLOOD).all()


def test_a_strong_heart_moves_its_vessels_more_than_a_weak_one():
    excursions = {}
    for lvef in (20.0, 40.0, 65.0):
        described = injection(rhythm=replace(injection().rhythm, lvef_percent=lvef))
        tree, cloud = vessels_of(described)
        balls = project(described, tree, cloud, np.arange(24) / 15)
        excursions[lvef] = np.ptp(balls.row_px, axis=0).mean() + np.ptp(balls.column_px, axis=0).mean()
    assert excursions[20.0] < 0.6 * excursions[40.0] < 0.6 * excursions[65.0]
    assert contraction_of(15) == pytest.approx(0.04) and contraction_of(70) == pytest.approx(0.26)


def test_systole_rises_and_falls_once_a_beat():
    phase = np.linspace(0, 1, 101)
    curve = systole(phase)
    assert curve[0] == 0 and curve.max() == pytest.approx(1) and curve[60:].max() < 1e-9
    assert 0.28 < phase[curve.argmax()] < 0.37


def test_breathing_moves_the_heart_down_and_a_held_breath_does_not():
    moving = replace(injection().rhythm, breath_mm=6.0)
    time_s = np.arange(40) / 7.5
    assert motion.breath(injection().rhythm, time_s).max() == 0
    assert np.ptp(motion.breath(moving, time_s)) == pytest.approx(6.0, abs=0.1)


def test_an_early_beat_shortens_one_interval_only():
    rhythm = replace(injection().rhythm, heart_rate_bpm=60.0, ectopic_s=2.2)
    phase = motion.cardiac_phase(rhythm, np.arange(0, 6, 0.01))
    starts = np.flatnonzero(np.diff(phase) < -0.3) * 0.01
    np.testing.assert_allclose(np.diff(starts), [1.0, 0.6, 1.0, 1.0, 1.0], atol=0.02)


def test_lao_shows_posterior_points_on_the_right_and_ap_shows_the_patients_left_on_the_right():
    left_point, back_point = np.array([[10.0, 0.0, 0.0]]), np.array([[0.0, 10.0, 0.0]])
    frontal = replace(LAO, primary_deg=0.0)
    assert frontal.across(left_point)[0, 0] == pytest.approx(10)
    assert LAO.across(back_point)[0, 0] > 5 > -5 > replace(LAO, primary_deg=-45.0).across(back_point)[0, 0]


def test_fewer_twigs_and_larger_steps_leave_the_named_tree():
    scale = Scale(vessel=1.8, twigs=0.0, step=2.0)
    tree, cloud = vessels_of(injection(scale=scale))
    assert all(branch.is_segment for branch in tree.branches.values())
    coarse, fine = (
        cloud.mass_mm3.sum(),
        vessels_of(injection(scale=replace(scale, step=1.0)))[1].mass_mm3.sum(),
    )
    assert coarse == pytest.approx(fine, rel=0.05)


def test_thickness_of_arteries_is_where_contrast_darkens_the_film():
    """Against the same film without an injection, which differs in arteries and in the puff at the root alone."""
    filled = injection(carm=replace(LAO, size_px=128))
    thickness = vessel_thickness_mm(filled)
    pixels = [
        render_film(each).pixels.astype(int) for each in (filled, replace(filled, bolus=motion.NO_BOLUS))
    ]
    darker = pixels[1] - pixels[0]
    assert thickness.shape == darker.shape
    assert (darker[thickness > 1.0] > 0).mean() > 0.98
    assert (darker[thickness == 0] == 0).mean() > 0.95
    assert 0.005 < (thickness > 0.5).mean() < 0.2
    assert not vessel_thickness_mm(replace(filled, bolus=motion.NO_BOLUS)).any()
