"""A run that ends at any moment is gone on with: the same bytes, and no finished film decoded twice."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from deepcoro import atomic
from deepcoro.config import DataError
from deepcoro.data import decode
from deepcoro.data import manifest as schema
from deepcoro.data.member import encode
from deepcoro.data.sharding import Settings
from deepcoro.data.spool import Outcome, Spool
from deepcoro.data.writer import write_dataset
from deepcoro.ingest.film import Film, FilmSource, StudySource
from tests.data.studies import SMALL, contents, forbid_opening, make_studies, records_of
from tests.ingest.films import moving_bar, write_dicom


@pytest.fixture
def studies(tmp_path) -> list[StudySource]:
    return make_studies(tmp_path / "films")


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6, 9])
def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(tmp_path, studies, monkeypatch, stop_at):
    write_dataset(studies, tmp_path / "whole", SMALL)
    calls = []

    def interrupted(frames, encoding):
        calls.append(1)
        if len(calls) > stop_at:
            raise KeyboardInterrupt
        return original(frames, encoding)

    original = decode.encode
    with monkeypatch.context() as patch:
        patch.setattr("deepcoro.data.decode.encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(studies, tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / schema.MANIFEST).exists()
    redone = []
    monkeypatch.setattr("deepcoro.data.decode.encode", lambda *film: redone.append(1) or original(*film))
    write_dataset(studies, tmp_path / "out", SMALL)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(redone) == 10 - stop_at


@pytest.mark.parametrize("named", range(4))
def test_killed_while_tables_take_their_names_the_next_run_finishes_them(
    tmp_path, studies, monkeypatch, named
):
    for name in ("out", "whole"):
        write_dataset(studies[:3], tmp_path / name, SMALL)
    append = SMALL.model_copy(update={"append": True})
    write_dataset(studies[3:], tmp_path / "whole", append)
    calls = []

    def killed(temporary, path):
        if path.parent == tmp_path / "out" and temporary.parent.name == "next":
            calls.append(path.name)
            if len(calls) > named:
                raise KeyboardInterrupt
        original(temporary, path)

    original = atomic.publish
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(studies[3:], tmp_path / "out", append)
    with pytest.raises(DataError, match="was interrupted; run it again"):
        schema.read_manifest(tmp_path / "out")
    forbid_opening(monkeypatch)
    write_dataset(studies[3:], tmp_path / "out", append)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_restored_films_keep_the_order_of_acquisition_and_the_spool_holds_no_date(tmp_path, monkeypatch):
    late = write_dicom(tmp_path / "late", moving_bar(), AcquisitionDate="20210917", AcquisitionTime="101112")
    early = write_dicom(
        tmp_path / "early", 255 - moving_bar(), AcquisitionDate="20210917", AcquisitionTime="081314"
    )
    films = (FilmSource(1, late, "1" * 16), FilmSource(2, early, "2" * 16))
    study = StudySource("a" * 16, "train", films)
    with monkeypatch.context() as patch:
        patch.setattr("deepcoro.data.tar.study_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_dataset([study], tmp_path / "out", Settings())
    spooled = list((tmp_path / "out" / ".progress" / "shard-000000.spool").glob("*.film"))
    assert len(spooled) == 2
    for path in spooled:
        assert not [date for date in (b"20210917", b"101112", b"081314") if date in path.read_bytes()]
    monkeypatch.setattr("deepcoro.data.decode.encode", lambda *_: pytest.fail("a film was decoded again"))
    write_dataset([study], tmp_path / "out", Settings())
    (record,) = records_of(tmp_path / "out" / "shard-000000.tar")
    assert [clip.clip for clip in record.clips] == ["2" * 16, "1" * 16]
    assert record.clips[0].frame_rate_source == "FrameTime"


def test_a_spooled_film_that_is_damaged_or_changed_is_made_again(tmp_path, studies):
    settings = SMALL.model_copy(update={"clips_per_shard": 100})
    write_dataset(studies, tmp_path / "whole", settings)
    spool = Spool(tmp_path / "out" / ".progress" / "shard-000000.spool", settings)
    first, second, third = (study.films[0] for study in studies[:3])
    spool.put(first, Outcome(reason="unreadable"))
    assert spool.get(first).reason == "unreadable"
    film = Film(frames=())
    spool.put(second, Outcome(film, encode(np.load(second.path), settings.encoding)))
    path = spool._path(second)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    np.save(first.path, np.load(first.path)[::-1].copy())  # what was refused is another file now
    os.utime(first.path, ns=(1, 1))
    assert spool.get(first) is None and spool.get(second) is None and spool.get(third) is None


_KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from deepcoro.data.writer import write_dataset
from tests.data.studies import SMALL, make_studies
from tests.data.test_resume import sources_in
write_dataset(sources_in(Path(sys.argv[1])), Path(sys.argv[2]), SMALL.model_copy(update={"clips_per_shard": 60, "workers": 2}))
"""


def sources_in(folder: Path) -> list[StudySource]:
    """Sixty studies of three films in three large shards; the files are made once."""
    if not folder.exists():
        make_studies(folder / "made", 60, 3)
    names = folder / "made"
    return [
        StudySource(
            f"{study * 7919:016x}",
            "train" if study % 2 else "val",
            tuple(FilmSource(3 * study + n + 1, names / f"{study}_{n}.npy", f"{study:08x}{n:08x}", labels=(("cto", None),)) for n in range(3)),
            f"{study:016x}",
        )
        for study in range(60)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_random_moments_until_it_ends_the_bytes_are_those_of_an_uninterrupted_run(tmp_path):
    settings = SMALL.model_copy(update={"clips_per_shard": 60})
    write_dataset(sources_in(tmp_path / "films"), tmp_path / "whole", settings)
    root = str(Path(__file__).resolve().parents[2])
    words = [sys.executable, "-c", _KILLED, str(tmp_path / "films"), str(tmp_path / "out"), root]
    random, kills, seen = np.random.default_rng(0), 0, [0]
    while True:
        with subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True) as process:
            progress = tmp_path / "out" / ".progress"
            # Some films after the last kill: start-up alone takes seconds, and killing only that would test little.
            wanted = seen[-1] + random.integers(1, 12)
            if kills < 8:
                kill_once_kept(process, progress, wanted, random)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
        seen.append(films_kept(progress))
    assert kills >= 3 and seen == sorted(seen)  # what was finished stays finished
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def kill_once_kept(
    process: subprocess.Popen, progress: Path, wanted: int, random: np.random.Generator
) -> None:
    """SIGKILL to the process and its workers once so many films are kept, unless it ends before."""
    while process.poll() is None:
        if films_kept(progress) >= wanted:
            with contextlib.suppress(ProcessLookupError):  # it may have ended in that moment
                os.killpg(process.pid, signal.SIGKILL)
            return
        time.sleep(random.uniform(0, 0.002))


def films_kept(progress: Path) -> int:
    """Films of finished shards, and in the spools of the others (a finished one's is removed a moment later)."""
    spooled = 0
    for number in range(3):
        shard = schema.shard_name(number)
        if (progress / schema.record_name(shard)).exists():
            spooled += 60
            continue
        with contextlib.suppress(FileNotFoundError):  # not begun, or finished this moment
            spooled += sum(path.suffix == ".film" for path in (progress / schema.spool_name(shard)).iterdir())
    return spooled
