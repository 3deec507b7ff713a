"""Vocabulary: who belongs to which tree, where a severity begins, what a projection is called."""

import pytest

from deepcoro.angiography.vocabulary import (
    PROJECTIONS,
    SEGMENTS,
    SIDES,
    projection_of,
    segments_of,
    severity_of,
    syntax_id,
    view_of,
)


def test_there_are_eighteen_segments_and_each_can_be_imaged():
    assert len(SEGMENTS) == 18
    imaged = {
        prefix
        for side in SIDES
        for dominance in ("right", "left", "co")
        for prefix in segments_of(side, dominance)
    }
    assert imaged == set(SEGMENTS)


def test_the_posterior_descending_artery_belongs_to_the_dominant_tree():
    assert "pda" in segments_of("right", "right") and "pda" not in segments_of("left", "right")
    assert "pda" in segments_of("left", "left") and "pda" not in segments_of("right", "left")
    assert "pda" in segments_of("right", "co") and "lvp" in segments_of("left", "co")
    assert "lvp" not in segments_of("left", "right")
    assert (syntax_id("pda", "right"), syntax_id("pda", "left")) == ("4", "15")


@pytest.mark.parametrize("dominance", ["right", "left", "co"])
def test_no_segment_belongs_to_both_trees(dominance):
    assert not set(segments_of("left", dominance)) & set(segments_of("right", dominance))


def test_a_severity_begins_at_its_floor():
    assert [severity_of(percent) for percent in (0, 1, 49.9, 50, 69.9, 70, 89.9, 90, 100)] == [
        "none", "mild", "mild", "moderate", "moderate", "severe", "severe", "critical", "critical",
    ]  # fmt: skip


def test_a_missing_stenosis_is_never_a_number():
    with pytest.raises(ValueError, match="missing is None"):
        severity_of(-1)


def test_projections_have_their_clinical_names():
    names = {side: [view_of(p.primary_deg, p.secondary_deg) for p in PROJECTIONS[side]] for side in SIDES}
    assert names["left"] == ["RAO_CAU", "AP_CRA", "LAO_CAU", "LAO_CRA", "AP_CAU", "RAO", "LAT"]
    assert names["right"] == ["LAO", "RAO", "AP_CRA", "LAO_CRA"]


def test_a_named_projection_has_the_usual_angles_that_are_named_so() -> None:
    names = [f"{first}{tilt}" for first in ("AP", "LAO", "RAO", "LAT") for tilt in ("", "_CRA", "_CAU")]
    centres = [projection_of(name) for name in names]
    assert [view_of(each.primary_deg, each.secondary_deg) for each in centres] == names
    spelled = {"RAO_CAUDAL": "RAO_CAU", "LAO Cranial": "LAO_CRA", "RAO_STRAIGHT": "RAO", "LAO_LATERAL": "LAT"}
    assert all(projection_of(word) == projection_of(name) for word, name in spelled.items())
    assert [projection_of(word) for word in ("OTHER", "A4C", "", "CRA", "RAO_CAU_CAU")] == [None] * 5
