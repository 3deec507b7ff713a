"""From rows to studies."""

import logging

import pytest

from deepcoro.config import DataError
from deepcoro.ingest.columns import find_roles
from deepcoro.ingest.identity import Identity
from deepcoro.ingest.studies import read_studies
from deepcoro.ingest.table import Table

KEY = b"0123456789abcdef0123456789abcdef"
ROW = {
    "FileName": "a.npy", "PatientID": "P1", "StudyInstanceUID": "1.2.3", "Split": "train",
    "Report": "Normal.", "side": "left", "cto": "0",
}  # fmt: skip


def read(tmp_path, *changes, drop=(), scope="clip"):
    """One row a dictionary of changes to ROW (None: a malformed row), files named by row unless given."""
    rows = [
        change if change is None else {**ROW, "FileName": f"{number}.npy", **change}
        for number, change in enumerate(changes)
    ]
    columns = tuple(name for name in ROW if name not in drop)
    rows = [row if row is None else {name: row[name] for name in columns} for row in rows]
    roles = find_roles(columns, {}, None)
    return read_studies(Table(columns, tuple(rows)), roles, tmp_path, Identity(KEY), scope)


def test_rows_of_a_study_become_one_study_with_all_its_films(tmp_path):
    studies, rejections = read(tmp_path, {}, {"StudyInstanceUID": "1.2.4"}, {"side": "right", "cto": None})
    assert [len(study.films) for study in studies] == [2, 1] and not rejections
    assert [(film.row, film.side, dict(film.labels)) for film in studies[0].films] == [
        (1, "left", {"cto": 0.0}),
        (3, "right", {"cto": None}),
    ]
    assert studies[0].patient == studies[1].patient == Identity(KEY).keyed("patient", "P1")


def test_every_row_is_a_film_or_a_rejection(tmp_path):
    studies, rejections = read(
        tmp_path, {}, None, {"FileName": None}, {"StudyInstanceUID": None}, {"Split": None}, {"FileName": "0.npy"}
    )  # fmt: skip
    assert [film.row for study in studies for film in study.films] == [1]
    assert [(each.row, each.reason.split(":")[0]) for each in rejections] == [
        (2, "malformed_row"), (3, "path_missing"), (4, "study_missing"), (5, "split_missing"), (6, "duplicate_film"),
    ]  # fmt: skip


def test_the_id_of_a_film_does_not_move_with_its_folder(tmp_path):
    (relative, absolute), _ = read(
        tmp_path, {"FileName": "x/0.npy"}, {"StudyInstanceUID": "2", "FileName": str(tmp_path / "x/1.npy")}
    )
    elsewhere, _ = read(tmp_path / "moved", {"FileName": "x/1.npy"})
    assert elsewhere[0].films[0].clip == absolute.films[0].clip != relative.films[0].clip
    assert absolute.films[0].path == tmp_path / "x/1.npy"


def test_a_film_that_is_named_by_two_ways_is_one_film(tmp_path):
    studies, rejections = read(
        tmp_path, {"FileName": "day/../x/1.npy"}, {"FileName": "x/1.npy"}, {"FileName": "../x/1.npy"}
    )
    assert [film.row for film in studies[0].films] == [1, 3]
    assert [(each.row, each.reason) for each in rejections] == [
        (2, "duplicate_film: row 1 names the same file")
    ]
    assert studies[0].films[0].path == tmp_path / "day" / ".." / "x" / "1.npy", "opened as the table says"


def test_backslashes_of_a_table_from_windows_lead_to_the_same_film(tmp_path):
    windows, _ = read(tmp_path, {"FileName": "x\\1.npy"})
    usual, _ = read(tmp_path, {"FileName": "x/1.npy"})
    assert windows == usual and windows[0].films[0].path == tmp_path / "x" / "1.npy"


def test_a_given_split_wins_unchanged_in_any_case_of_letters(tmp_path):
    studies, _ = read(
        tmp_path, {"Split": "Inference"}, {"Split": "TEST", "StudyInstanceUID": "2", "PatientID": "P2"}
    )
    assert [study.split for study in studies] == ["inference", "test"]


def test_without_a_split_column_patients_are_drawn_together_and_evenly(tmp_path):
    changes = [{"PatientID": f"P{number // 2}", "StudyInstanceUID": f"{number}"} for number in range(600)]
    studies, _ = read(tmp_path, *changes, drop=("Split",))
    splits = {}
    for study in studies:
        splits.setdefault(study.patient, set()).add(study.split)
    drawn = [next(iter(each)) for each in splits.values()]
    assert len(drawn) == 300 and all(len(each) == 1 for each in splits.values())
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        assert drawn.count(split) / 300 == pytest.approx(share, abs=0.06)
    assert [study.split for study in read(tmp_path, *changes, drop=("Split",))[0]] == [
        s.split for s in studies
    ]


def test_a_blank_patient_in_one_row_of_a_study_takes_that_of_the_others(tmp_path):
    studies, _ = read(tmp_path, {"PatientID": None}, {}, drop=("Split",))
    assert studies[0].patient == Identity(KEY).keyed("patient", "P1")


def test_without_patients_a_loud_warning_says_what_cannot_be_verified(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        studies, _ = read(tmp_path, {}, drop=("PatientID",))
    assert studies[0].patient is None and "UNVERIFIABLE" in caplog.text


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"PatientID": "P2"}, "names 2 patients"),
        ({"Split": "val"}, "two splits .train/val."),
        ({"Split": "Mme Tremblay"}, "row 2: the split is none of"),
        (
            {"Split": "Validation"},
            r"row 2: the split is none of .* \(write 'val' for 'validation'\); correct it",
        ),
    ],
)
def test_contradictions_are_errors_that_name_rows_and_no_patient(tmp_path, second, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, {}, second)
    assert not any(secret in str(caught.value) for secret in ("P1", "P2", "1.2.3", "Tremblay", ".npy"))


def test_texts_of_a_side_must_agree_but_for_case_and_white_space(tmp_path):
    rows = (
        {},
        {"Report": "normal. "},
        {"side": "right", "Report": "Other."},
        {"side": None, "Report": "Graft."},
    )
    assert len(read(tmp_path, *rows, scope="side")[0][0].films) == 4
    with pytest.raises(DataError, match="rows 1 and 2: two texts for the left side of study") as caught:
        read(tmp_path, {}, {"Report": "Severe."}, scope="side")
    assert "Severe" not in str(caught.value) and Identity(KEY).keyed("study", "1.2.3") in str(caught.value)
    with pytest.raises(DataError, match="rows 1 and 3"):
        read(tmp_path, *rows, scope="study")


def test_no_usable_row_is_an_error_that_counts_the_reasons(tmp_path):
    with pytest.raises(
        DataError, match="none of the 2 rows can be used; 1 x malformed_row.*1 x path_missing"
    ):
        read(tmp_path, None, {"FileName": None})
