"""Tables as they are written: by pandas, by Excel, by the predecessor."""

import csv
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcoro.config import ConfigError, DataError
from deepcoro.ingest.table import Table, read_table


@pytest.mark.parametrize("delimiter", [",", "α", "\t", ";"])
def test_the_delimiter_is_found_and_quoted_cells_may_hold_it(tmp_path, delimiter):
    path = tmp_path / "films.csv"
    lines = [
        ["FileName", "Report"],
        ["a.npy", f'"two{delimiter} parts\nand a line, with a comma"'],
        ["b.npy", "nan"],
    ]
    path.write_text("\n".join(delimiter.join(line) for line in lines) + "\n", encoding="utf-8")
    table = read_table(path)
    assert table.columns == ("FileName", "Report")
    assert table.rows == (
        {"FileName": "a.npy", "Report": f"two{delimiter} parts\nand a line, with a comma"},
        {"FileName": "b.npy", "Report": None},
    )


def test_a_byte_order_mark_blank_lines_and_accents_do_no_harm(tmp_path):
    path = tmp_path / "films.csv"
    path.write_bytes("FileName,Report\r\n\r\na.npy,Sténose modérée\u2028fin\r\n".encode("utf-8-sig"))
    assert read_table(path).rows == ({"FileName": "a.npy", "Report": "Sténose modérée\u2028fin"},)


def test_a_table_in_the_unicode_of_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "films.csv"
    for encoding in ("utf-16", "utf-8-sig", "utf-8"):
        path.write_bytes("FileName\tReport\r\na.npy\tSténose\r\n".encode(encoding))
        assert read_table(path).rows == ({"FileName": "a.npy", "Report": "Sténose"},)


def test_a_row_of_the_wrong_length_is_kept_as_malformed(tmp_path):
    """An unquoted comma in a report shifts every label behind it: such a row may not be read."""
    path = tmp_path / "films.csv"
    path.write_text("FileName,Report,cto\na.npy,normal, no lesion,0\nb.npy,normal,1\nc.npy\n")
    assert [row is None for row in read_table(path).rows] == [True, False, True]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", DataError, "is empty"),
        (b"FileName,Report\n", DataError, "no row"),
        (b"FileName,Report,Report\na,b,c\n", ConfigError, "twice"),
        ("FileName,Report\na.npy,modérée\n".encode("latin-1"), DataError, "UTF-8"),
        ("FileName,Report\na.npy,b\n".encode("utf-16")[:-1], DataError, "UTF-8"),
        (b"PK\x03\x04 and so on", DataError, "is a workbook; save its sheet"),
        (
            b'FileName,Report\na.npy,b\nb.npy,"c\nc.npy,d\n',
            DataError,
            "quote is opened in row 2 and never closed",
        ),
    ],
)
def test_what_cannot_be_read_says_why_in_one_line(tmp_path, content, error, message):
    path = tmp_path / "films.csv"
    path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_columns_named_twice_are_told_but_not_the_row_of_a_table_without_a_header(tmp_path):
    path = tmp_path / "films.csv"
    path.write_text("FileName,Report,Report\na,b,c\n")
    with pytest.raises(ConfigError, match="names columns twice: ..Report.."):
        read_table(path)
    path.write_text("a.dcm,TREMBLAY,TREMBLAY\nb.dcm,ROY,ROY\n")
    with pytest.raises(
        ConfigError, match="twice: 1 columns of other names .is its first line the header"
    ) as caught:
        read_table(path)
    assert "TREMBLAY" not in str(caught.value)


def test_a_missing_table_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.csv does not exist; give the file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="is a folder; give the file"):
        read_table(tmp_path)


def test_none_is_an_empty_field_to_all_but_label_columns(tmp_path):
    path = tmp_path / "films.csv"
    path.write_text("FileName,PatientID,calcification\na.npy,None,none\nb.npy,,NONE\n")
    table = read_table(path)
    assert [row["PatientID"] for row in table.rows] == [None, None]
    pick = table.picker(["calcification", "PatientID"])
    assert [pick(row) for row in table.rows] == [("none", "none"), ("none", None)]


def test_rows_give_the_same_cells_by_name_and_by_picker(tmp_path):
    path = tmp_path / "films.csv"
    path.write_text("a,b,c\n1,2,3\n4,,6\n")
    table = read_table(path)
    slow = Table(table.columns, tuple(dict(row) for row in table.rows))
    for columns in (["c", "a"], ["b"], []):
        fast = [table.picker(columns)(row) for row in table.rows]
        assert fast == [slow.picker(columns)(row) for row in slow.rows]
        assert fast == [tuple(row[name] for name in columns) for row in table.rows]


def test_a_row_shows_no_cell_in_a_traceback(tmp_path):
    path = tmp_path / "films.csv"
    path.write_text("FileName,PatientID\na.npy,TREMBLAY\n")
    assert "TREMBLAY" not in repr(read_table(path))


@pytest.mark.slow
def test_two_hundred_thousand_rows_of_a_hundred_columns_are_read_in_seconds(tmp_path):
    path = tmp_path / "films.csv"
    cells = [str(number % 7) for number in range(97)]
    with path.open("w") as file:
        file.write(",".join(["FileName", "StudyInstanceUID", "Report", *(f"x{n}" for n in range(97))]) + "\n")
        for row in range(200_000):
            file.write(
                ",".join([f"{row}.avi", f"1.2.{row // 6}", f"mild stenosis {row % 100} %", *cells]) + "\n"
            )
    started = time.process_time()
    assert len(read_table(path).rows) == 200_000
    assert time.process_time() - started < 30, "3 s on an idle core, 9 s with a dictionary a row"


CELL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00\r"), max_size=12)


@given(
    st.sampled_from([",", ";", "\t", "α"]),
    st.integers(1, 5).flatmap(
        lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), min_size=1, max_size=6)
    ),
)
def test_what_a_program_writes_is_read_back(tmp_path_factory, delimiter, rows):
    """Against the plainest reading: the cell without the white space at its ends, or nothing."""
    path = tmp_path_factory.mktemp("tables") / "films.csv"
    header = [f"x{number}" for number in range(len(rows[0]))]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([header, *rows])
    name = {",": "comma", ";": "semicolon", "\t": "tab", "α": "alpha"}[delimiter]
    table = read_table(path, name)
    missing = {"", "nan", "none", "null", "na", "n/a", "<na>", "nat"}
    expected = [[None if cell.strip().lower() in missing else cell.strip() for cell in row] for row in rows]
    assert [list(row.values()) for row in table.rows] == expected
