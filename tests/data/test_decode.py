"""A film that ends its decoder's process ends one attempt, not the data set."""

import multiprocessing
import shutil
import struct
from pathlib import Path

import pytest

from deepcoro.data import decode
from deepcoro.data.manifest import PROGRESS, read_rejected
from deepcoro.data.sharding import Settings
from deepcoro.data.shards import Shards
from deepcoro.data.spool import Outcome
from deepcoro.data.writer import write_dataset
from deepcoro.ingest.film import FilmSource, StudySource
from tests.data.studies import SMALL, contents, make_studies
from tests.ingest import films

ROWS = struct.pack("<HH", 0x0028, 0x0010) + b"US" + struct.pack("<H", 2)


def deadly_film(folder: Path) -> Path:
    """A JPEG-LS film whose header announces 65,535 rows: GDCM 3.2.6 aborts over it, and the process with it."""
    path = films.write_dicom(folder / "whole.dcm", films.moving_bar())
    path = films.transcode(path, "JPEGLSLossless")
    data = path.read_bytes()
    assert data.count(ROWS) == 1
    place = data.index(ROWS) + len(ROWS)
    target = folder / "deadly.dcm"
    target.write_bytes(data[:place] + b"\xff\xff" + data[place + 2 :])
    return target


@pytest.fixture
def studies(tmp_path: Path) -> list[StudySource]:
    """Five studies of two films; the first film of the third is deadly."""
    made = make_studies(tmp_path / "films")
    deadly = deadly_film(tmp_path)
    shutil.copy(deadly, made[2].films[0].path.with_suffix(".dcm"))
    first, second = made[2].films
    changed = FilmSource(**{**vars(first), "path": first.path.with_suffix(".dcm")})
    made[2] = StudySource(made[2].study, made[2].split, (changed, second), made[2].patient)
    return made


def attempt(studies: list[StudySource], output: Path, settings: Settings) -> int | None:
    process = multiprocessing.get_context("spawn").Process(
        target=write_dataset, args=(studies, output, settings)
    )
    process.start()
    process.join(600)
    return process.exitcode


def test_the_next_attempt_refuses_the_deadly_film_and_keeps_the_others(studies, tmp_path):
    output = tmp_path / "out"
    assert attempt(studies, output, SMALL) == -6, "the deadly film no longer aborts: find another"
    assert not (output / "manifest.json").exists() and list((output / PROGRESS).rglob("*.begun"))
    assert attempt(studies, output, SMALL) == 0
    assert Shards.open(output).manifest.counts.clips == 9
    rows = read_rejected(output)
    assert [row[-1] for row in rows] == ["crashed_decoder: SIGABRT"]
    assert not list(output.rglob("*.begun"))


def test_a_film_that_was_open_when_a_run_was_killed_gives_the_same_bytes(tmp_path):
    studies = make_studies(tmp_path / "films")
    write_dataset(studies, tmp_path / "whole", SMALL)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        # what a SIGKILL leaves: the mark, and no film
        patch.setattr("deepcoro.data.spool.Spool.end", lambda *_: None)
        patch.setattr(decode, "encode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        write_dataset(studies, tmp_path / "out", SMALL)
    assert list((tmp_path / "out" / PROGRESS).rglob("*.begun"))
    write_dataset(studies, tmp_path / "out", SMALL)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_film_made_apart_is_the_film_made_here(tmp_path):
    path = films.write_dicom(tmp_path / "film.dcm", films.moving_bar())
    source = FilmSource(row=1, path=path, clip="c")
    here, apart = (make(source, Settings()) for make in (decode.make_film, decode.make_apart))
    assert (
        apart.member.payload == here.member.payload
        and apart.member.frame_offsets == here.member.frame_offsets
    )
    assert (apart.film.order, apart.film.plane) == (here.film.order, here.film.plane)
    path.write_bytes(b"no film")
    assert decode.make_apart(source, Settings()).reason == decode.make_film(source, Settings()).reason


@pytest.mark.parametrize(
    ("exit_codes", "reason"),
    [
        ((-9, -9), "killed_decoder: each process that began it was killed, out of memory?"),
        ((-9, -6), "crashed_decoder: SIGABRT"),
        ((-14,), "timed_out: not decoded within 900 s"),
        ((-9, 0), "no film"),
    ],
)
def test_the_death_of_a_child_is_a_reason_except_for_a_first_kill(monkeypatch, exit_codes, reason):
    told = iter(exit_codes)

    def in_child(source, settings):
        code = next(told)
        return (Outcome(reason="no film") if code == 0 else None), code

    monkeypatch.setattr(decode, "_in_child", in_child)
    assert decode.make_apart(FilmSource(7, Path("x"), "c"), Settings()).reason == reason
    assert next(told, None) is None, "as many attempts as needed"


def test_an_exception_in_a_child_is_a_bug_not_a_reason(monkeypatch):
    monkeypatch.setattr(decode, "_in_child", lambda *_: (None, 1))
    with pytest.raises(AssertionError, match="row 7: decoding ended with exit code 1"):
        decode.make_apart(FilmSource(7, Path("x"), "c"), Settings())
