"""Findings of captions, judged by hand: what is said right, left out, made up, and what the report leaves open."""

import numpy as np
import pytest

from deepcoro.angiography.cohort import patient_of, studies_of
from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import render
from deepcoro.angiography.presets import PRESETS
from deepcoro.metrics import clinical_findings
from deepcoro.metrics.clinical_findings import commonest_segments, in_common_places, judge, stated
from tests.metrics.captions import captioned, trained_on

LEFT = "Left coronary artery. Right-dominant circulation. "
RIGHT = "Right coronary artery. Right-dominant circulation. "
METRIC = clinical_findings.Config(bootstrap_samples=50).build()


def found(*arguments, **more) -> dict[str, float]:
    numbers, _ = METRIC.measure(captioned(*arguments, **more))
    return {key.removeprefix("clinical_findings/"): value for key, value in numbers.items()}


def verdict(reference: str, caption: str) -> tuple[set, set, set, set]:
    judgement = judge(stated(reference), stated(caption))
    return tuple(map(set, vars(judgement).values()))


def generated(preset: str, patients: int) -> list[tuple[str, str, str]]:
    """(patient, side, report) of a cohort."""
    people = [patient_of(PRESETS[preset], 0, number) for number in range(patients)]
    return [
        (person.patient_id, side, study.reports[side])
        for person in people
        for study in studies_of(PRESETS[preset], 0, person)
        for side in study.sides
    ]


@pytest.mark.parametrize("preset", ["demo", "full"])
def test_the_report_itself_is_a_perfect_caption(preset):
    texts = [text for _, _, text in generated(preset, 30)]
    numbers = found(texts, [text.lower().replace("(", "( ").replace("-", " - ") for text in texts])
    assert numbers["num_captions_not_understood"] == 0 and numbers["report_sentences_understood"] == 1
    for key in (
        "side/balanced_accuracy",
        "dominance/balanced_accuracy",
        "lesion/f1",
        "lesion/f1_if_complete",
    ):
        assert numbers[key] == 1, key
    assert numbers["cto/f1"] == numbers["severity/accuracy"] == 1
    assert numbers["lesion/omission_rate"] == numbers["lesion/hallucination_rate"] == 0
    assert numbers["lesion/num"] == numbers["lesion/num_said"] > 10
    assert numbers["lesion/f1_ci_low"] == numbers["lesion/f1_ci_high"] == 1


def test_segments_are_right_left_out_made_up_or_left_open():
    reference = (
        LEFT
        + "Severe stenosis (80 %) of the mid LAD. No disease of the left main. D1: 30 %. Stent in the distal LAD with 60 % in-stent restenosis."
    )
    caption = LEFT + "Critical stenosis (90 %) of the mid LAD. LMCA: 70 %. D1: 60 %. pLCx: 80 %. mRCA: 80 %."
    right, omitted, made_up, left_open = verdict(reference, caption)
    assert right == {"mid_lad"} and omitted == {"dist_lad"}
    assert made_up == {"left_main", "D1", "mid_rca"}, "said healthy, said mild, another side's"
    assert left_open == {"prox_lcx"}, "the report does not speak of it"
    numbers = found([reference], [caption])
    assert numbers["lesion/precision"] == pytest.approx(1 / 4)
    assert numbers["lesion/recall"] == numbers["lesion/omission_rate"] == pytest.approx(1 / 2)
    assert numbers["lesion/hallucination_rate"] == pytest.approx(3 / 4)
    assert numbers["lesion/hallucination_rate_if_complete"] == pytest.approx(4 / 5)
    assert numbers["lesion/f1"] == pytest.approx(2 / 6)
    assert numbers["lesion/f1_if_complete"] == pytest.approx(2 / 7)
    assert numbers["severity/accuracy"] == 0 and numbers["severity/num"] == 1
    assert (numbers["lesion/num"], numbers["lesion/num_said"], numbers["lesion/num_said_not_assessed"]) == (
        2,
        5,
        1,
    )
    assert numbers["segment/mid_lad/f1"] == 1 and numbers["segment/left_main/precision"] == 0
    assert numbers["segment/dist_lad/recall"] == 0 and "segment/prox_lcx/f1" not in numbers


def test_a_tree_called_free_of_significant_stenosis_is_so_in_all_its_segments():
    reference = LEFT + "No significant stenosis."
    assert verdict(reference, LEFT + "D2: 60 %. OM1: 40 %. PDA: 80 %.")[2] == {"D2", "pda"}
    assert verdict(LEFT.replace("Right-", "Left-") + "D1: 90 %.", "PDA: 80 %.")[3] == {"pda"}


def test_calcium_alone_leaves_the_width_open_and_a_patent_stent_does_not():
    reference = LEFT + "Heavy calcification of the mid LAD. Patent stent in the left main."
    assert verdict(reference, "mLAD: 80 %. LMCA: 80 %.") == (set(), set(), {"left_main"}, {"mid_lad"})


def test_an_occlusion_is_denied_by_a_stenosis_and_found_as_such():
    reference = LEFT + "CTO of the mid LAD. pLAD: 80 %."
    numbers = found([reference], [LEFT + "CTO of the proximal LAD. mLAD: 90 %. CTO of the mid LCx."])
    assert (numbers["cto/num"], numbers["cto/num_said"], numbers["cto/num_said_not_assessed"]) == (1, 2, 1)
    assert numbers["cto/recall"] == numbers["cto/precision"] == 0
    assert numbers["lesion/recall"] == 1
    assert found([reference], [reference])["cto/f1"] == 1


def test_sides_and_dominance_count_each_class_alike_and_silence_is_wrong():
    references = [LEFT + "pLAD: 80 %."] * 3 + [
        RIGHT + "mRCA: 80 %.",
        "Right coronary artery. Left-dominant circulation.",
    ]
    captions = [LEFT, LEFT, "mumble", RIGHT, LEFT + RIGHT]
    numbers = found(references, captions)
    assert numbers["side/balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert numbers["dominance/balanced_accuracy"] == pytest.approx((3 / 4 + 0) / 2)
    assert (numbers["side/num_left"], numbers["side/num_right"], numbers["dominance/num_left"]) == (3, 2, 1)
    assert numbers["num_captions_not_understood"] == 1
    assert numbers["lesion/omission_rate"] == 1


def test_patients_are_counted_beside_the_films_and_segments_of_each_value():
    """Two films of one patient with two lesions each, and a patient of the other tree without any."""
    lesions = LEFT + "CTO of the proximal LAD. mLAD: 90 %."
    free = RIGHT + "No significant stenosis."
    numbers = found([lesions, lesions, free], [lesions] * 3, patients=["a", "a", "b"])
    assert (numbers["num_films"], numbers["num_patients"]) == (3, 2)
    assert (numbers["lesion/num"], numbers["lesion/num_patients"], numbers["cto/num_patients"]) == (4, 1, 1)
    assert (numbers["side/num_patients_left"], numbers["side/num_patients_right"]) == (1, 1)
    assert (numbers["segment/mid_lad/num"], numbers["segment/mid_lad/num_patients"]) == (2, 1)


def test_one_class_alone_has_no_accuracy_and_that_is_said():
    numbers, notes = METRIC.measure(captioned([LEFT], [LEFT]))
    assert "clinical_findings/side/balanced_accuracy" not in numbers
    assert any("clinical_findings/side" in note for note in notes)


def test_a_study_report_of_both_trees_has_the_segments_of_both():
    both = LEFT + "pLAD: 80 %.\n" + RIGHT + "mRCA: 60 %. pRCA: OK."
    assert verdict(both, both)[0] == {"prox_lad", "mid_rca"}
    assert verdict(both, LEFT + "pRCA: 80 %. mLAD: 80 %.")[2:] == ({"prox_rca"}, {"mid_lad"})
    assert found([both], [both])["side/num"] == 0


def test_reports_outside_the_grammar_and_missing_ones_are_left_out_and_counted():
    references = [LEFT + "pLAD: 80 %. It rained.", "Bonjour.", None]
    numbers = found(references, [LEFT + "pLAD: 80 %."] * 3)
    assert numbers["num_films"] == numbers["num_reports_not_understood"] == numbers["num_without_report"] == 1
    assert numbers["report_sentences_understood"] == pytest.approx(3 / 4)
    numbers, notes = METRIC.measure(captioned(["Bonjour.", None], ["", ""]))
    assert "no film has a report that the grammar reads" in notes[0] and len(numbers) == 2


def test_without_captions_there_is_neither_number_nor_note():
    assert METRIC.measure(captioned([LEFT], [])) == ({}, [])


def test_controls_are_what_could_be_said_without_looking():
    references = [LEFT + "pLAD: 80 %.", RIGHT + "mRCA: 80 %.", RIGHT + "dRCA: 80 %."]
    bank = trained_on(
        [RIGHT + "mRCA: 80 %.", LEFT + "mLAD: 80 %.", LEFT + "pLAD: 80 %."],
        np.array([[0.1, 0.9, 0.8], [0.2, 0.1, 0.1], [0.9, 0.1, 0.1]], np.float32),
        left=LEFT + "mLAD: 80 %.",
    )
    sides = ["left", "right", None]
    numbers = found(references, references, training=bank, sides=sides)
    assert numbers["lesion/f1"] == 1
    assert numbers["lesion/recall_modal"] == pytest.approx(1 / 3), "mid RCA of one right film"
    assert numbers["lesion/recall_nearest"] == pytest.approx(2 / 3), "the films lie at pLAD, mRCA, mRCA"
    assert numbers["side/balanced_accuracy_modal"] == 1
    assert 0 < numbers["lesion/recall_shuffled"] < 0.7


def test_the_placed_control_keeps_how_many_lesions_there_are_and_moves_them_to_the_commonest_segments():
    commonest = commonest_segments(
        [LEFT + "mLAD: 80 %. pLCX: 90 %.", LEFT + "mLAD: 70 %.", RIGHT + "mRCA: 80 %.", LEFT]
    )
    assert commonest[0] == "mid_lad" and set(commonest) == {"mid_lad", "prox_lcx", "mid_rca"}
    moved = in_common_places(stated(LEFT + "dLAD: 100 %. pLAD: 60 %. D1: 30 %."), commonest)
    assert {segment: lesion.stenosis_percent for segment, lesion in moved.lesions.items()} == {
        "mid_lad": 100,
        "prox_lcx": 60,
        "D1": 30,
    }
    assert in_common_places(stated(LEFT + "pLAD: OK."), commonest) == stated(LEFT + "pLAD: OK.")


def test_naming_every_segment_of_a_sick_tree_is_no_better_than_the_placed_control():
    """The lenient F1 takes it for perfect where reports are silent about healthy segments."""
    segments = ["pRCA", "mRCA", "dRCA"]
    references = [RIGHT + f"{segment}: 90 %." for segment in segments] * 4
    bank = trained_on([RIGHT + f"{segment}: 90 %." for segment in segments], np.eye(3, dtype=np.float32))
    all_named = [RIGHT + " ".join(f"{segment}: 90 %." for segment in segments)] * 12
    numbers = found(references, all_named, training=bank)
    assert numbers["lesion/f1"] == 1 and numbers["lesion/f1_if_complete"] == pytest.approx(0.5)
    assert numbers["lesion/f1_if_complete_above_placed"] == 0
    assert found(references, references, training=bank)["lesion/f1_if_complete_above_placed"] > 0.5


def test_intervals_resample_patients_not_films():
    """Ten films of one patient are no more than one film of another."""
    texts = [LEFT + "pLAD: 80 %."] * 20
    captions = texts[:10] + [LEFT] * 10
    numbers = found(texts, captions, patients=["a"] * 10 + ["b"] * 10)
    assert (numbers["lesion/recall_ci_low"], numbers["lesion/recall_ci_high"]) == (0, 1)
    alone = found(texts, captions)
    assert 0.2 < alone["lesion/recall_ci_low"] < 0.5 < alone["lesion/recall_ci_high"] < 0.8


def test_an_advantage_is_that_of_the_same_patients_in_each_resample():
    """Right wherever the control is, and on one lesion more of each patient: above it in every resample."""
    references = [LEFT + "pLAD: 80 %.", LEFT + "mLAD: 80 %."] * 8
    captions = [references[0], references[1]] * 4 + [LEFT, references[1]] * 4
    bank = trained_on([references[1]], np.eye(2, dtype=np.float32)[:1])
    numbers = found(references, captions, training=bank, patients=[f"p{film // 2}" for film in range(16)])
    assert numbers["lesion/f1_above_modal"] == pytest.approx(
        numbers["lesion/f1"] - numbers["lesion/f1_modal"]
    )
    assert numbers["lesion/f1_ci_low"] < numbers["lesion/f1"] < numbers["lesion/f1_ci_high"]
    assert numbers["lesion/f1_above_nearest_ci_low"] > 0
    assert not any("above" in key for key in found(references, captions))


def test_f1_is_that_of_a_count_by_hand_over_a_cohort():
    """Another way: a set of (film, segment) pairs, where every report of the generator lists all its lesions."""
    rows = generated("small", 25)
    texts = [text for _, _, text in rows]
    said = [texts[(place * 7 + 3) % len(texts)] for place in range(len(texts))]
    pairs = [
        {(film, lesion.segment) for film, text in enumerate(each) for lesion in _lesions(text)}
        for each in (texts, said)
    ]
    both = len(pairs[0] & pairs[1])
    numbers = found(texts, said)
    assert numbers["lesion/f1_if_complete"] == pytest.approx(2 * both / (len(pairs[0]) + len(pairs[1])))
    assert numbers["lesion/recall"] == pytest.approx(both / len(pairs[0]))


def _lesions(text: str) -> list[Lesion]:
    from deepcoro.angiography.grammar import parse

    return [lesion for lesion in parse(text).lesions if lesion.stenosis_percent >= 50]


def test_what_a_text_states_takes_the_worse_of_two_trees():
    text = render(SideFindings("left", None, (Lesion("pda", 30),))) + " " + render(SideFindings("right", None, (Lesion("pda", 80),)))  # fmt: skip
    assert stated(text).lesions["pda"].stenosis_percent == 80 and stated(text).sides == {"left", "right"}
