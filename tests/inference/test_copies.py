"""A film that lies in a folder twice is one film: twice it would weigh twice."""

from pathlib import Path

import numpy as np

from deepcoro.inference.found import FoundStudy, studies_of_folder
from deepcoro.ingest.identity import Identity
from tests.ingest.films import moving_bar, of_film, write_dicom


def found_in(folder: Path) -> FoundStudy:
    (found,) = studies_of_folder(folder, Identity(b"0123456789abcdef0123456789abcdef"))
    return found


def taken(found: FoundStudy) -> list[int]:
    return [film.row for film in found.source.films]


def test_of_files_with_one_instance_uid_the_largest_is_taken_and_the_others_are_told(tmp_path: Path) -> None:
    """One may be cut short, and lies before the whole one."""
    whole = write_dicom(tmp_path / "b.dcm", moving_bar(), **of_film(1)).read_bytes()
    (tmp_path / "a.dcm").write_bytes(whole[:-900])
    (tmp_path / "c.dcm").write_bytes(whole)
    write_dicom(tmp_path / "d.dcm", moving_bar(), **of_film(2))
    found = found_in(tmp_path)
    assert taken(found) == [2, 4]
    assert [(each.row, each.reason) for each in found.refused] == [
        (1, "duplicate_film: the same film as file 2"),
        (3, "duplicate_film: the same film as file 2"),
    ]
    assert [entry.original_clip for entry in found.crosswalk(tmp_path)] == ["b.dcm", "d.dcm", "a.dcm", "c.dcm"]  # fmt: skip
    assert {each.clip for each in found.refused} <= {entry.clip for entry in found.crosswalk(tmp_path)}


def test_files_without_a_header_are_one_film_where_their_bytes_are_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", moving_bar())
    np.save(tmp_path / "b.npy", 255 - moving_bar())  # as long, and another film
    np.save(tmp_path / "c.npy", moving_bar())
    found = found_in(tmp_path)
    assert taken(found) == [1, 2]
    assert [each.reason for each in found.refused] == ["duplicate_film: the same film as file 1"]


def test_films_without_an_instance_uid_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    for name, frames in {"a": moving_bar(), "b": 255 - moving_bar()}.items():
        write_dicom(tmp_path / f"{name}.dcm", frames, SOPInstanceUID="")
    assert taken(found_in(tmp_path)) == [1, 2]
