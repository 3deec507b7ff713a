"""Files are written whole or not at all."""

import pytest

from deepcoro import atomic


def test_writing_replaces_a_file_whole_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "table"
    atomic.write_bytes(path, b"first")
    atomic.write_bytes(path, b"second")
    assert path.read_bytes() == b"second" and list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "table"
    atomic.write_bytes(path, b"first")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_bytes(path, b"second")
    assert path.read_bytes() == b"first"
