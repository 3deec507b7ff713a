"""What the cells of a table mean."""

import pytest

from deepcoro.config import ConfigError
from deepcoro.ingest.columns import find_roles, number_of_cell, side_of, tell_unread, view_of_cell

GENERATED = ("FileName", "PatientID", "StudyInstanceUID", "Split", "Report", "side", "view", "cto", "mid_lad_stenosis", "birth_date")  # fmt: skip


def test_usual_names_are_found_and_labels_are_an_allow_list():
    roles = find_roles(GENERATED, {}, None)
    assert (roles.path, roles.study, roles.patient) == ("FileName", "StudyInstanceUID", "PatientID")
    assert (roles.split, roles.report, roles.side, roles.view) == ("Split", "Report", "side", "view")
    assert roles.labels == ("cto", "mid_lad_stenosis")


def test_usual_names_are_known_in_any_spelling_and_the_exact_one_wins():
    roles = find_roles(["File Name", "studyinstanceuid", "patient-id", "SPLIT", "report"], {}, None)
    assert (roles.path, roles.study, roles.patient) == ("File Name", "studyinstanceuid", "patient-id")
    assert (roles.split, roles.report) == ("SPLIT", "report")
    both = find_roles(["file_name", "FileName", "study id", "study_id"], {}, None)
    assert (both.path, both.study) == ("FileName", "study_id")


def test_the_predecessors_names_are_found():
    roles = find_roles(("DICOMPath", "ss_patient_id", "ss_event_cath_id", "main_structure"), {}, None)
    assert (roles.path, roles.patient, roles.study, roles.side) == (
        "DICOMPath", "ss_patient_id", "ss_event_cath_id", "main_structure",
    )  # fmt: skip
    assert roles.split is None and roles.report is None


def test_labels_may_be_named_by_pattern():
    assert find_roles(GENERATED, {}, ["*_stenosis", "birth_date"]).labels == (
        "mid_lad_stenosis",
        "birth_date",
    )
    assert find_roles(GENERATED, {}, []).labels == ()


@pytest.mark.parametrize(
    ("columns", "given", "labels", "message"),
    [
        (("Report", "StudyInstanceUID"), {}, None, "--path_column"),
        (("FileName", "Report"), {}, None, "--study_column"),
        (GENERATED, {"report": "Text"}, None, "--report_column 'Text' is not in the table"),
        (GENERATED, {}, ["lvef"], "'lvef' is not in the table"),
        (GENERATED, {}, ["PatientID"], "cannot be a label"),
    ],
)
def test_a_missing_column_is_an_error_that_names_the_flag(columns, given, labels, message):
    with pytest.raises(ConfigError, match=message):
        find_roles(columns, given, labels)


@pytest.mark.parametrize(
    ("cell", "side"),
    [("Left Coronary", "left"), ("right", "right"), ("RCA", "right"), ("Graft", None), (None, None)],
)
def test_the_side_may_come_from_the_main_structure(cell, side):
    assert side_of(cell) == side


def test_views_have_one_spelling_and_sentences_are_no_views():
    assert view_of_cell("RAO Caudal") == "RAO_CAUDAL" and view_of_cell("RAO_CAU") == "RAO_CAU"
    assert view_of_cell("the patient was in pain " * 5) is None and view_of_cell(None) is None


def test_an_error_about_columns_never_shows_the_row_of_a_table_without_a_header():
    row = ["films/a.dcm", "MRN-7734501", "TREMBLAY GENEVIEVE", "1955-03-12", "severe"]
    for header in (row, ["Report", *row]):
        with pytest.raises(ConfigError) as caught:
            find_roles(header, {}, None)
        assert not [cell for cell in row[:4] if cell in str(caught.value)]
    for columns, given in ((row, {"study": "cath"}), ([*row, "x"], {"path": "file"})):
        with pytest.raises(ConfigError, match="is its first line the header") as caught:
            find_roles(columns, given, None)
        assert "TREMBLAY" not in str(caught.value)
    with pytest.raises(ConfigError, match="site_name"):
        find_roles(["Report", "site_name"], {}, None)


@pytest.mark.parametrize(("cell", "number"), [("70", 70.0), ("12,5", 12.5), ("70_90", None), ("1_0", None), ("inf", None), ("", None), (None, None)])  # fmt: skip
def test_a_number_is_what_a_person_would_call_one(cell, number):
    assert number_of_cell(cell) == number


def test_columns_that_go_nowhere_are_named_and_a_table_without_any_is_left_in_peace(caplog) -> None:
    caplog.set_level("INFO")
    usual = ["FileName", "StudyInstanceUID", "Split", "Report", "cto"]
    tell_unread(usual, find_roles(usual, {}, None))
    assert not caplog.text
    names = [*usual, "culprit", "operator"]
    tell_unread(names, find_roles(names, {}, None))
    assert "not read: ['culprit', 'operator']; name labels with --label_columns" in caplog.text
    caplog.clear()
    tell_unread(names, find_roles(names, {}, ["culprit"]))
    assert "not read: ['cto', 'operator']" in caplog.text
