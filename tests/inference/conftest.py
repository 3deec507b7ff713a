"""One tiny trained run, and one folder as a cath lab may export it, for all tests of this room."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deepcoro.inference.sources import is_shard_folder
from tests.data.test_decode import deadly_film
from tests.ingest import films
from tests.ingest.identities import write_full_dicom
from tests.launch import SILENT, STEADY, main_on_this_rank
from tests.tools.command import call_tool

CLASSES = "1.2.840.10008.5.1.4.1.1."
Predict = Callable[..., tuple[int, str, str]]


def trained(shards: Path, run_dir: Path, *words: str) -> Path:
    """A run of demo/tiny_multitask, two steps long."""
    steady = [
        *STEADY,
        SILENT[0].replace("zero_shot: false", "zero_shot: {bootstrap_samples: 0}"),
        "max_steps=2",
        "schedules={}",
        "freeze=[]",
        "evaluate.best_metric=zero_shot/side/auroc",
        *words,
    ]
    assert main_on_this_rank("ddp", "demo/tiny_multitask", f"data.shards={shards}", f"run_dir={run_dir}", *steady) == 0  # fmt: skip
    return run_dir


@pytest.fixture(scope="session")
def run_dir(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # its checkpoint holds every metric, which a site measures
    return trained(tiny_shards, tmp_path_factory.mktemp("runs") / "tiny", "evaluate.metrics={}")


@pytest.fixture
def predict(run_dir: Path, tmp_path: Path, monkeypatch, capfd, caplog) -> Predict:
    """`tools/predict.py SOURCE ...` into tmp_path / "answers", under a key of the test's own.

    Gives exit code, standard output, and standard error with what was logged.
    """
    caplog.set_level("INFO", "deepcoro")
    key = tmp_path / "id.key"
    key.write_text("0123456789abcdef0123456789abcdef\n")
    key.chmod(0o600)

    def call(source: Path, *words: object, checkpoint: Path = run_dir) -> tuple[int, str, str]:
        fixed = ("--checkpoint", checkpoint, "--output", tmp_path / "answers", "--device", "cpu")
        more: tuple[object, ...] = ()
        if not is_shard_folder(source):
            more = () if "--key_file" in words else ("--key_file", key)
            more += () if "--workers" in words else ("--workers", 1)  # processes cost seconds to start
        code, said, complained = call_tool("predict", (source, *fixed, *more, *words), monkeypatch, capfd)
        return code, said, complained + caplog.text

    return call


@pytest.fixture(scope="session")
def hard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films among what a study folder holds besides; every name and header names the patient. Files count in order of name."""
    folder = tmp_path_factory.mktemp("hard") / "TREMBLAY" / "MRN-7734501"
    folder.mkdir(parents=True)
    write_full_dicom(folder / "TREMBLAY-01.dcm", 1, **films.of_film(1), InstanceNumber=2)
    write_full_dicom(folder / "TREMBLAY-02", 2, films.RLE, **films.of_film(2), InstanceNumber=1)
    write_full_dicom(
        folder / "TREMBLAY-03-capture.dcm", 3, **films.of_film(3), SOPClassUID=f"{CLASSES}7.2", Modality="OT"
    )
    write_full_dicom(
        folder / "TREMBLAY-04-dose.dcm", 4, **films.of_film(4), SOPClassUID=f"{CLASSES}88.67", Modality="SR"
    )
    write_full_dicom(folder / "TREMBLAY-05-single.dcm", 5, **films.of_film(5), NumberOfFrames=1)
    cut = write_full_dicom(folder / "TREMBLAY-06-cut.dcm", 6, **films.of_film(6))
    whole = cut.read_bytes()
    place = whole.rindex(b"\xe0\x7f\x10\x00")  # of the pixels
    cut.write_bytes(whole[: place + (len(whole) - place) // 2])
    write_full_dicom(
        folder / "TREMBLAY-07-echo.dcm", 7, **films.of_film(7), SOPClassUID=films.US, Modality="US"
    )
    write_full_dicom(
        folder / "TREMBLAY-08-ct.dcm", 8, **films.of_film(8), SOPClassUID=f"{CLASSES}2.1", Modality="CT"
    )
    (folder / "TREMBLAY-09.txt").write_text("Mme TREMBLAY")
    (folder / "TREMBLAY-10.dcm").write_bytes(b"")
    write_full_dicom(folder / "TREMBLAY-11-burnt.dcm", 11, **films.of_film(11), BurnedInAnnotation="YES")
    (folder / "TREMBLAY-12-header.dcm").write_bytes(whole[:300])
    shutil.copy(deadly_film(tmp_path_factory.mktemp("deadly")), folder / "TREMBLAY-13.dcm")
    return folder
