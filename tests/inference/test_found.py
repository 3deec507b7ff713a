"""How long it takes to find the studies of a folder is part of how long each of them takes."""

import time

import pytest

from deepcoro.inference import found, opened
from deepcoro.inference.found import studies_of_folder
from deepcoro.inference.opened import FilmOpener
from deepcoro.ingest.identity import Identity
from tests.ingest.films import PLANTED, moving_bar, of_film, write_dicom


def test_a_study_is_charged_its_share_of_reading_the_headers(tmp_path, monkeypatch):
    for number in range(3):
        write_dicom(tmp_path / f"{number}.dcm", moving_bar(), InstanceNumber=number, **of_film(number))
    write_dicom(tmp_path / "other.dcm", moving_bar(), StudyInstanceUID=PLANTED["StudyInstanceUID"] + ".1")
    read, slow_s = found._owner, 0.05

    def slowly(path):
        time.sleep(slow_s)
        return read(path)

    monkeypatch.setattr(found, "_owner", slowly)
    began = time.perf_counter()
    three, one = studies_of_folder(tmp_path, Identity(b"0123456789abcdef0123456789abcdef"))
    assert 4 * slow_s <= three.scan_s + one.scan_s <= time.perf_counter() - began
    assert three.scan_s == pytest.approx(3 * one.scan_s)
    with FilmOpener(opened.settings_of(1, "XA", False, "sector")) as opener:
        before = time.perf_counter()
        study = opener.open(three)
        assert three.scan_s < study.decode_s <= three.scan_s + time.perf_counter() - before
    assert len(study.payloads) == 3
