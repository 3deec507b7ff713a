"""One row a film, readable by column, with missing labels kept missing."""

import pyarrow
import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.data.film_table import FILMS, SCHEMA, film_table, joined, read_films, write_films
from deepcoro.sample import ClipRecord, Report, StudyRecord, text_id


def study(number: int, **labels: float | str | None) -> StudyRecord:
    clips = [
        ClipRecord(
            clip=f"film{number}{clip}",
            member=f"{clip:03d}.mjpg",
            frame_offsets=[0, 10, 20],
            height=8,
            width=6,
            labels=labels,
        )
        for clip in range(2)
    ]
    return StudyRecord(
        study=f"study{number}", clips=clips, reports=[Report(scope="clip", text="Calm.", clip=1)]
    )


def test_rows_are_films_in_order_and_read_back_by_column(tmp_path):
    write_films(tmp_path, film_table([study(0, cto=1.0), study(1, cto=None)], ["cto"]))
    table = read_films(tmp_path)
    assert table.column_names == [*SCHEMA.names, "cto"]
    assert table["clip"].to_pylist() == ["film00", "film01", "film10", "film11"]
    assert table["num_frames"].to_pylist() == [2] * 4
    assert table["text_id"].to_pylist() == [-1, text_id("Calm."), -1, text_id("Calm.")]
    assert read_films(tmp_path, ["cto"]).to_pydict() == {"cto": [1.0, 1.0, None, None]}


def test_a_label_with_a_word_anywhere_is_words_everywhere():
    numbers, words = film_table([study(0, grade=2.0)], ["grade"]), film_table(
        [study(1, grade="mild")], ["grade"]
    )
    both = joined([numbers, words])
    assert both["grade"].to_pylist() == ["2", "2", "mild", "mild"]
    assert pyarrow.types.is_float64(joined([numbers, numbers])["grade"].type)


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_films(tmp_path / name, film_table([study(0)], []))
    assert (tmp_path / "one" / FILMS).read_bytes() == (tmp_path / "two" / FILMS).read_bytes()


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(DataError, match="missing"):
        read_films(tmp_path)
    write_films(tmp_path, film_table([study(0)], []))
    with pytest.raises(DataError, match="no column"):
        read_films(tmp_path, ["lvef"])
    (tmp_path / FILMS).write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="damaged"):
        read_films(tmp_path)
    with pytest.raises(ConfigError, match="rename"):
        film_table([study(0, side="left")], ["side"])
