"""A film that the disk will not show is a row that is refused; a disk that fails is not its fault."""

import errno
from pathlib import Path

import pytest

from deepcoro.ingest.film import RejectedFilm
from deepcoro.ingest.open import open_film


def test_a_name_that_no_disk_holds_is_a_missing_file(tmp_path):
    with pytest.raises(RejectedFilm, match="^missing_file: its name is longer than a disk can hold$"):
        open_film(tmp_path / ("a" * 300))


@pytest.mark.parametrize(("number", "error"), [(errno.EACCES, RejectedFilm), (errno.EIO, OSError)])
def test_a_film_without_permission_is_refused_and_a_failing_disk_stops_the_run(
    tmp_path, monkeypatch, number, error
):
    (tmp_path / "1.2.3").write_bytes(b"x" * 200)

    def fail(*_: object) -> None:
        raise OSError(number, "told by the disk", str(tmp_path))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(error) as caught:
        open_film(tmp_path / "1.2.3")
    assert isinstance(caught.value, OSError) or str(caught.value) == "unreadable: no permission to read it"
