"""Files are written whole or not at all."""

import pytest

from deepcoro import atomic


def test_writing_replaces_a_file_whole_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "table"
    atomic.write_bytes(path, b"first")
    atomic.write_bytes(path, b"second")
    assert path.read_bytes() == b"second" and list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_known_before_the_work(tmp_path):
    atomic.check_writable(tmp_path / "new" / "site.json")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(IsADirectoryError):
        atomic.check_writable(tmp_path / "new")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        atomic.check_writable(tmp_path / "file" / "site.json")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "table"
    atomic.write_bytes(path, b"first")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_bytes(path, b"second")
    assert path.read_bytes() == b"first"


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "above" / "model"
    with atomic.whole_folder(folder) as unfinished:
        (unfinished / "weights").write_bytes(b"all of them")
        assert not folder.exists()
    assert (folder / "weights").read_bytes() == b"all of them"
    with pytest.raises(ValueError, match="half"), atomic.whole_folder(tmp_path / "other") as unfinished:
        (unfinished / "weights").write_bytes(b"half")
        raise ValueError("half")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["above"]
    assert list(folder.parent.iterdir()) == [folder]
