import sys

from deepcoro.data.arrow_memory import reader_of


def test_a_reader_has_the_bytes_and_holds_none_of_pythons_memory():
    payload = bytes(range(256)) * 100
    before = sys.getrefcount(payload)
    reader = reader_of(payload)
    assert reader.read() == payload
    assert sys.getrefcount(payload) == before


def test_no_bytes_are_read_as_none():
    assert reader_of(b"").read() == b""
