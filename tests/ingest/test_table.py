"""Tables as they are written: by pandas, by Excel, by the predecessor."""

import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.ingest.table import read_table


@pytest.mark.parametrize("delimiter", [",", "α", "\t"])
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
    ],
)
def test_what_cannot_be_read_says_why_in_one_line(tmp_path, content, error, message):
    path = tmp_path / "films.csv"
    path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_table(tmp_path / "none.csv")
