"""Labels of whole tables."""

import logging

import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.ingest.columns import find_roles
from deepcoro.ingest.identity import Identity
from deepcoro.ingest.label_reader import LabelReader
from deepcoro.ingest.labels import LabelRules, Rule
from deepcoro.ingest.studies import read_studies
from deepcoro.ingest.table import Table, read_table

KEY = b"0123456789abcdef0123456789abcdef"
ROW = {
    "FileName": "", "CathReport_MRN": "P1", "StudyInstanceUID": "s1", "Split": "train",
    "main_structure": "Left Coronary", "status": "diagnostic", "dominance": "right",
    "leftmain_stenosis": "0", "mid_lad_stenosis": "80", "mid_rca_stenosis": "40", "mid_rca_cto": "False",
}  # fmt: skip


def read(tmp_path, *changes, rules=None, derive=(), columns=None, labels=None):
    """Studies and reader of rows that differ from ROW as given."""
    rows = tuple({**ROW, "FileName": f"{number}.npy", **change} for number, change in enumerate(changes))
    names = columns or tuple(rows[0])
    table = Table(names, tuple({name: row[name] for name in names} for row in rows))
    roles = find_roles(names, {}, labels)
    reader = LabelReader(table, roles.labels, rules or LabelRules(), derive)
    studies, _ = read_studies(table, roles, tmp_path, Identity(KEY), "clip", labels=reader)
    return studies, reader


def labels_of(studies):
    return [dict(film.labels) for study in studies for film in study.films]


def test_a_study_without_left_films_says_not_assessed_for_left_segments(tmp_path):
    studies, reader = read(tmp_path, {"main_structure": "Right Coronary"}, {"main_structure": "LV"})
    right, ventricle = labels_of(studies)
    assert right["left_main_stenosis"] is None and right["mid_lad_stenosis"] is None
    assert right["mid_rca_stenosis"] == 40.0 and right["mid_rca_cto"] == 0.0 and right["dominance"] == "right"
    assert all(ventricle[name] is None for name in reader.names if name.endswith(("stenosis", "cto")))
    assert reader.summary() == [
        "leftmain_stenosis -> left_main_stenosis",
        "values set to not assessed: 2 other tree, 4 other structure",
    ]


def test_labels_of_the_study_stand_on_the_films_of_their_own_tree(tmp_path):
    """So a head over all clips of the study still sees each of them, and agrees with itself."""
    left, right = labels_of(read(tmp_path, {}, {"main_structure": "RCA"})[0])
    assert (left["mid_lad_stenosis"], left["mid_rca_stenosis"]) == (80.0, None)
    assert (right["mid_lad_stenosis"], right["mid_rca_stenosis"]) == (None, 40.0)


def test_films_of_the_intervention_carry_no_finding_of_the_diagnosis(tmp_path):
    rows = ({}, {"status": "PCI"}, {"status": "POST_PCI"})
    values = [labels["mid_lad_stenosis"] for labels in labels_of(read(tmp_path, *rows)[0])]
    assert values == [80.0, None, 80.0]
    rules = LabelRules(not_assessed_status=("PCI", "POST_PCI"))
    values = [labels["mid_lad_stenosis"] for labels in labels_of(read(tmp_path, *rows, rules=rules)[0])]
    assert values == [80.0, None, None]


def test_a_negative_declared_for_gaps_still_needs_the_tree_to_be_filmed(tmp_path):
    rules = LabelRules(rules={"*_cto": Rule(kind="binary", absent="negative")})
    rows = ({"mid_rca_cto": None}, {"mid_rca_cto": None, "main_structure": "RCA"})
    assert [labels["mid_rca_cto"] for labels in labels_of(read(tmp_path, *rows, rules=rules)[0])] == [
        None,
        0.0,
    ]


def test_without_a_column_for_the_tree_labels_are_kept_as_given(tmp_path):
    columns = tuple(name for name in ROW if name != "main_structure")
    (labels,) = labels_of(read(tmp_path, {}, columns=columns)[0])
    assert labels["mid_lad_stenosis"] == 80.0 and labels["mid_rca_stenosis"] == 40.0


def test_derived_columns_follow_the_threshold_and_the_gaps(tmp_path):
    rows = [{"mid_lad_stenosis": cell} for cell in ("70", "69", None, "-1")] + [{"main_structure": "RCA"}]
    studies, reader = read(tmp_path, *rows, derive=["severe"])
    assert [labels["mid_lad_severe"] for labels in labels_of(studies)] == [1.0, 0.0, None, None, None]
    assert reader.names[-3:] == ["left_main_severe", "mid_lad_severe", "mid_rca_severe"]
    with pytest.raises(ConfigError, match="no threshold"):
        read(tmp_path, {}, derive=["sever"])


def test_all_columns_that_do_not_fit_are_told_at_once_with_a_row_and_no_value(tmp_path):
    with pytest.raises(DataError) as caught:
        read(
            tmp_path,
            {},
            {"mid_lad_stenosis": "Tremblay"},
            {"mid_rca_cto": "peut-être", "mid_lad_stenosis": "x"},
        )
    assert "mid_lad_stenosis (row 2: no percentage from 0 to 100)" in str(caught.value)
    assert "mid_rca_cto (row 3: neither yes nor no)" in str(caught.value)
    assert "Tremblay" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("cells", [("0.7", "0"), ("1", "0"), ("0,4", None)])
def test_fractions_are_not_read_as_percentages(tmp_path, cells):
    rows = [{"mid_lad_stenosis": cell} for cell in cells]
    with pytest.raises(
        DataError, match="mid_lad_stenosis .no value above 1: fractions, or yes and no. Write perc"
    ):
        read(tmp_path, *rows)
    read(tmp_path, *rows, rules=LabelRules(rules={"mid_lad_stenosis": Rule(kind="number")}))
    read(tmp_path, *rows, {"mid_lad_stenosis": "1.5"})
    read(tmp_path, {"mid_lad_stenosis": "0"}, {"mid_lad_stenosis": None})


def test_one_class_in_training_is_an_error_with_the_remedy(tmp_path, caplog):
    other = {"StudyInstanceUID": "s2", "Split": "test", "main_structure": "RCA", "mid_rca_cto": "1"}
    labels = ["mid_rca_cto", "status"]
    studies, reader = read(tmp_path, {}, {"main_structure": "RCA"}, other, labels=labels)
    message = r"mid_rca_cto = 0 \(1 films\); a head learns nothing.*--label_columns.*--allow_constant_labels"
    with pytest.raises(DataError, match=message) as caught:
        reader.check_classes(studies, allow_constant=False, asked_for=True)
    assert "status" not in str(caught.value), "what a film is may be the same for all"
    with caplog.at_level(logging.WARNING):
        reader.check_classes(studies, allow_constant=True, asked_for=True)
    assert "one class only" in caplog.text
    studies, reader = read(
        tmp_path, {}, {"main_structure": "RCA"}, {**other, "Split": "train"}, labels=labels
    )
    reader.check_classes(studies, allow_constant=False, asked_for=True)


@pytest.mark.parametrize(("films", "is_error"), [(99, False), (100, True)])
def test_a_column_that_was_only_found_may_be_constant_in_a_small_trial(tmp_path, caplog, films, is_error):
    studies, reader = read(tmp_path, *[{"main_structure": "RCA"}] * films, labels=["mid_rca_cto"])
    with caplog.at_level(logging.WARNING):
        if is_error:
            with pytest.raises(DataError, match="mid_rca_cto = 0"):
                reader.check_classes(studies, allow_constant=False)
        else:
            reader.check_classes(studies, allow_constant=False)
            assert "mid_rca_cto = 0 (99 films)" in caplog.text


def test_derived_columns_and_declared_ones_are_asked_for_and_empty_ones_are_only_told(tmp_path, caplog):
    rows = ({"mid_lad_stenosis": "80"}, {"mid_lad_stenosis": "90", "mid_rca_cto": None})
    studies, reader = read(tmp_path, *rows, derive=["severe"], labels=["mid_lad_stenosis", "mid_rca_cto"])
    with pytest.raises(DataError, match=r"mid_lad_severe = 1 \(2 films\)"), caplog.at_level(logging.WARNING):
        reader.check_classes(studies, allow_constant=False)
    assert "without a value in any training film: mid_rca_cto" in caplog.text
    rules = LabelRules(rules={"mid_rca_cto": Rule(kind="binary")})
    studies, reader = read(tmp_path, {"main_structure": "RCA"}, rules=rules, labels=["mid_rca_cto"])
    with pytest.raises(DataError, match="mid_rca_cto = 0"):
        reader.check_classes(studies, allow_constant=False)


def test_rules_that_no_column_follows_are_told(tmp_path, caplog):
    read(tmp_path, {}, rules=LabelRules(rules={"*_ctoo": Rule(kind="binary")}))
    assert "no label column follows: *_ctoo" in caplog.text


EXTERNAL = """DICOMPath,ss_patient_id,ss_event_cath_id,main_structure,mid_lad_stenosis,lcx_stenosis,leftmain_calcif_binary,mid_lad_cto,D1_thrombus
a.dcm,17,e1,Left Coronary,75,,moderate,True,False
b.dcm,17,e1,Right Coronary,75,,moderate,True,False
c.dcm,18,e2,Left Coronary,,30,none,False,True
"""
VIDEOS = """video_id,study_id,FileName,Split,main_structure,view_name,status,positive_text_ids
v1,s1,a.avi,train,Left Coronary,RAO Caudal,diagnostic,T1|T2
v2,s1,b.avi,train,Right Coronary,LAO Straight,PCI,T3
"""
ALPHA = (
    "FileNameαSplitαReportαStudyInstanceUIDαCathReport_MRNαmain_structure_classαmid_rca_stenosisαmid_rca_calcif\r\n"
    'a.aviαTrainα"the mid RCA, ~70 %"αs1αP1α1α70.0α2\r\n'
    "b.aviαValαnormalαs2αP2α0α70.0α2\r\n"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_tables_of_the_predecessor_are_read_as_they_are(tmp_path, encoding):
    found = {}
    for name, text in (("external", EXTERNAL), ("videos", VIDEOS), ("alpha", ALPHA)):
        (tmp_path / f"{name}.csv").write_text(text, encoding=encoding, newline="")
        table = read_table(tmp_path / f"{name}.csv")
        roles = find_roles(table.columns, {}, None)
        found[name] = read_studies(table, roles, tmp_path, Identity(KEY), "clip")[0]
    left, right, other = labels_of(found["external"])
    assert left == {
        "main_structure": "Left Coronary", "mid_lad_stenosis": 75.0, "prox_lcx_stenosis": None,
        "left_main_calcif_binary": "moderate", "mid_lad_cto": 1.0, "D1_thrombus": 0.0,
    }  # fmt: skip
    assert set(right.values()) == {None, "Right Coronary"}
    assert (other["prox_lcx_stenosis"], other["left_main_calcif_binary"], other["mid_lad_cto"]) == (
        30.0,
        "none",
        0.0,
    )
    assert [study.patient for study in found["external"]] == [
        Identity(KEY).keyed("patient", each) for each in ("17", "18")
    ]
    films = found["videos"][0].films
    assert [(film.side, film.view, dict(film.labels)["status"]) for film in films] == [
        ("left", "RAO_CAUDAL", "diagnostic"), ("right", "LAO_STRAIGHT", "PCI"),
    ]  # fmt: skip
    right, left = found["alpha"]
    assert (right.split, left.split) == ("train", "val") and right.films[0].text == "the mid RCA, ~70 %"
    assert dict(right.films[0].labels) == {
        "main_structure": "Right Coronary",
        "mid_rca_stenosis": 70.0,
        "mid_rca_calcif": "moderate",
    }
    assert dict(left.films[0].labels) == {
        "main_structure": "Left Coronary",
        "mid_rca_stenosis": None,
        "mid_rca_calcif": None,
    }
