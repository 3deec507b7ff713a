"""A finding that was not filmed is not assessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcoro.angiography.vocabulary import DOMINANCES, SEGMENTS, segments_of
from deepcoro.config import DataError
from deepcoro.ingest.aliases import STRUCTURES
from deepcoro.ingest.columns import find_roles
from deepcoro.ingest.filmed import Shown, ShownReader, place_of, reason_against
from deepcoro.ingest.table import Table

SHOWN = st.builds(
    Shown,
    side=st.sampled_from(("left", "right", None)),
    structure=st.sampled_from((*STRUCTURES, None)),
    has_contrast=st.sampled_from((True, False, None)),
    is_intervention=st.booleans(),
    dominance=st.sampled_from((*DOMINANCES, None)),
    both_trees=st.booleans(),
    tells_side=st.just(True),
)


@given(SHOWN, st.sampled_from(tuple(SEGMENTS)), st.sampled_from(("stenosis", "cto", "calcif", "ffr")))
def test_a_segment_is_assessed_on_diagnostic_films_of_its_own_tree_and_nowhere_else(film, segment, suffix):
    kept = reason_against(f"{segment}_{suffix}", film) is None
    if film.structure not in (None, "Left Coronary", "Right Coronary") or film.is_intervention:
        assert not kept
    if film.has_contrast is False or film.side is None:
        assert not kept
    if kept and film.dominance is not None:
        assert segment in segments_of(film.side, film.dominance)
    if kept and film.dominance is None:
        assert any(segment in segments_of(film.side, each) for each in DOMINANCES)
    if kept:  # the other tree's films of the same heart never carry it as well
        other = film._replace(side="left" if film.side == "right" else "right")
        assert reason_against(f"{segment}_{suffix}", other) is not None


@pytest.mark.parametrize(
    ("column", "film", "reason"),
    [
        ("mid_lad_stenosis", Shown("left"), None),
        ("mid_lad_stenosis", Shown("right"), "other tree"),
        ("mid_lad_stenosis", Shown(structure="LV"), "other structure"),
        ("mid_lad_stenosis", Shown("left", structure="Graft"), "other structure"),
        ("mid_lad_stenosis", Shown("left", is_intervention=True), "during intervention"),
        ("mid_lad_stenosis", Shown("left", has_contrast=False), "no contrast"),
        ("mid_lad_stenosis", Shown(), "unknown tree"),
        ("mid_lad_stenosis", Shown(tells_side=False), None),
        ("pda_cto", Shown("right", dominance="right"), None),
        ("pda_cto", Shown("right", dominance="left"), "other tree"),
        ("pda_cto", Shown("left", dominance="left"), None),
        ("lvp_cto", Shown("left", dominance="right"), "absent segment"),
        ("lvp_cto", Shown("left", dominance="co"), None),
        ("posterolateral_cto", Shown("right", dominance="left"), "absent segment"),
        ("pda_cto", Shown("right"), "unknown tree"),
        ("pda_cto", Shown("right", both_trees=True), None),
        ("pda_cto", Shown("left", both_trees=True), "other tree"),
        ("lima_or_svg_stenosis", Shown(structure="Graft"), None),
        ("lima_or_svg_stenosis", Shown("left", structure="Left Coronary"), "other structure"),
        ("D3_stenosis", Shown("right"), "other tree"),
        ("right_marginal_stenosis", Shown("right"), None),
        ("syntax_left", Shown("right"), "other tree"),
        ("syntax_right_category", Shown("right"), None),
        ("syntax", Shown("right"), None),
        ("cto", Shown("right"), None),
        ("cto", Shown(structure="Aorta"), "other structure"),
        ("lvef", Shown(structure="LV"), None),
        ("dominance", Shown("left", is_intervention=True), None),
        ("mace_1y", Shown(structure="Radial"), None),
    ],
)
def test_why_a_label_is_set_aside(column, film, reason):
    assert reason_against(column, film) == reason


def test_columns_are_placed_by_their_segment_whatever_the_suffix():
    assert place_of("mid_lad_ffr") == "mid_lad" and place_of("svg_patency") == "graft"
    assert place_of("rca_stenosis") == "right" and place_of("lad_stenosis") == "left"
    assert place_of("diabetes") is None and place_of("status") is None


def shown(*rows):
    columns = ("FileName", "StudyInstanceUID", "main_structure", "status", "contrast_agent", "dominance")
    table = Table(columns, tuple(dict(zip(columns, ("f", *row), strict=True)) for row in rows))
    reader = ShownReader(table, find_roles(columns, {}, None), ("PCI",))
    return [reader.read(number, row) for number, row in enumerate(table.rows, start=1)]


def test_rows_of_a_study_tell_together_which_trees_were_filmed_and_its_dominance():
    films = shown(
        ("s", "Left Coronary", "diagnostic", "1", "0"),
        ("s", "1", None, "1.0", None),
        ("t", "RCA", "pci", "False", "left"),
        ("t", "LV", "diagnostic", None, "right"),
    )
    assert [film.side for film in films] == ["left", "right", "right", None]
    assert [film.both_trees for film in films] == [True, True, False, False]
    assert [film.dominance for film in films] == ["right", "right", None, None]  # t contradicts itself
    assert [film.has_contrast for film in films] == [True, True, False, None]
    assert [film.is_intervention for film in films] == [False, False, True, False]
    assert films[3].structure == "LV" and all(film.tells_side for film in films)


def test_words_for_what_a_film_shows_that_nobody_knows_are_told(caplog):
    films = shown(
        ("s", "coronaire gauche", None, None, None),
        ("s", "knee", None, None, None),
        ("s", "2", None, None, None),
    )
    assert [film.side for film in films] == ["left", None, None]
    assert [film.structure for film in films] == ["Left Coronary", "Other", "Other"]
    assert "1 words for the main structure are none of" in caplog.text and "knee" not in caplog.text


def test_a_tree_seen_only_during_the_intervention_or_without_contrast_was_not_filmed():
    films = shown(
        ("s", "LCA", None, "1", None), ("s", "RCA", "PCI", "1", None), ("s", "RCA", None, "0", None)
    )
    assert not any(film.both_trees for film in films)


def test_a_film_that_is_left_and_right_is_an_error_that_names_its_row():
    columns = ("FileName", "StudyInstanceUID", "side", "main_structure")
    rows = (dict(zip(columns, ("f", "s", "left", "Right Coronary"), strict=True)),)
    with pytest.raises(DataError, match="row 1: the side says left"):
        ShownReader(Table(columns, rows), find_roles(columns, {}, None), ())
