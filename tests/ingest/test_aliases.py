"""One name for what tables call differently."""

import pytest

from deepcoro.angiography.vocabulary import SEGMENTS
from deepcoro.config import ConfigError
from deepcoro.ingest.aliases import SUFFIXES, canonical_column, canonical_columns, known_words, structure_of


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("lcx_stenosis", "prox_lcx_stenosis"),
        ("leftmain_calcification", "left_main_calcif"),
        ("OM1_cto", "om1_cto"),
        ("d1_thrombus", "D1_thrombus"),
        ("iva_prox_sténose", "prox_lad_stenosis"),
        ("Mid LCX_stenosis", "mid_lcx_stenosis"),
        ("pda_ifr", "pda_IFRHYPEREMIE"),
        ("D2_calcif_binary", "D2_calcif_binary"),
        ("dominance_class", "dominance"),
        ("EF", "lvef"),
        ("lad_stenosis", "lad_stenosis"),
        ("mace_1y", "mace_1y"),
        ("Report", "Report"),
    ],
)
def test_a_column_has_one_canonical_name(column, name):
    assert canonical_column(column) == name
    assert canonical_column(name) == name, "canonical names are fixed points"


def test_every_canonical_column_of_the_vocabulary_is_its_own_name_in_any_case_of_letters():
    for segment in SEGMENTS:
        for suffix in SUFFIXES:
            name = f"{segment}_{suffix}"
            assert {canonical_column(each) for each in (name, name.upper(), name.lower())} == {name}


def test_two_columns_that_mean_the_same_are_an_error_that_names_both():
    with pytest.raises(ConfigError, match="'leftmain_cto' and 'left_main_cto' both mean 'left_main_cto'"):
        canonical_columns(["FileName", "leftmain_cto", "left_main_cto"])


def test_words_of_columns():
    assert known_words("dominance")["gauche"] == "left" and known_words("dominance")["1"] == "left"
    assert known_words("mid_lad_bifurcation")["pas de lésion de bifurcation"] == "none"
    assert [structure_of(cell) for cell in ("left_coronary", "3", "3.0", "TEE probe", "knee", None)] == [
        "Left Coronary", "Graft", "Graft", "TEE probe", "Other", None,
    ]  # fmt: skip
