"""A patient withdraws: first unread, then gone, whatever interrupts it."""

import contextlib
import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from deepcoro import atomic
from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.film_table import read_films
from deepcoro.data.shards import Shards
from deepcoro.data.withdrawal import purge, read_withdrawn, refuse_withdrawn, withdraw
from deepcoro.data.writer import write_dataset
from deepcoro.ingest.film import Rejection
from deepcoro.sample import patient_digest
from tests.data.studies import SMALL, contents, encoded, make_studies
from tests.tools.command import call_tool

ROOT = Path(__file__).resolve().parents[2]
GONE = f"{2:016x}"


@pytest.fixture
def studies(tmp_path):
    """Eight studies of seven patients, two a tar; patient 2 has the third and the sixth."""
    made = make_studies(tmp_path / "films", 8)
    made[5] = dataclasses.replace(made[5], patient=GONE, split="train")
    return made


@pytest.fixture
def folder(tmp_path, studies) -> Path:
    write_dataset(studies, tmp_path / "out", SMALL, [Rejection(99, "00000063deadbeef", "unreadable")])
    return tmp_path / "out"


def tars(folder: Path) -> dict[str, bytes]:
    return {name: payload for name, payload in contents(folder).items() if name.endswith(".tar")}


def in_folder(folder: Path) -> dict[str, bytes]:
    """Without what only a second run of the writer looks at."""
    return {name: payload for name, payload in contents(folder).items() if not name.startswith(".progress")}


def read_all(folder: Path) -> dict[str, list[bytes]]:
    """Every study that a reader finds, with its films, read and verified."""
    shards = Shards.open(folder)
    found = {}
    for row in range(len(shards.studies)):
        study = shards.study(row)
        found[study.study] = [shards.read_clip(row, clip) for clip in range(len(study.clips))]
    return found


def test_a_withdrawn_patient_is_read_by_nobody_at_once_and_no_tar_is_touched(folder, studies):
    before, whole = tars(folder), read_all(folder)
    lines = withdraw(folder, GONE)
    theirs = {studies[2].study, studies[5].study}
    assert {line.study for line in lines} == theirs and tars(folder) == before
    assert read_all(folder) == {study: films for study, films in whole.items() if study not in theirs}
    manifest = schema.read_manifest(folder)
    assert manifest.version == 2 and manifest.counts.studies == 6 and manifest.counts.clips == 12
    assert manifest.counts.patients == 6 and manifest.counts.splits["train"].studies == 3
    assert not theirs & {row.study for row in schema.read_splits(folder)}


def test_films_and_indexes_stay_in_step(folder):
    withdraw(folder, GONE)
    manifest, films = schema.read_manifest(folder), read_films(folder)
    keys = [
        index.studies.key[row]
        for index in schema.read_indexes(folder, manifest.shards)
        for row in index.clips.study
    ]
    assert films["study"].to_pylist() == keys
    assert manifest.films_sha256 == schema.sha256((folder / "films.parquet").read_bytes())
    assert sum(entry.clips for entry in manifest.tables) == films.num_rows


def test_after_a_purge_no_byte_of_the_patient_is_left_and_other_tars_are_the_same(tmp_path, folder, studies):
    before = tars(folder)
    withdraw(folder, GONE, refused_clips=["00000063deadbeef"])
    purge(folder)
    frames = [encoded(np.load(film.path), SMALL.encoding)[0] for study in (studies[2], studies[5]) for film in study.films]  # fmt: skip
    ids = [GONE, studies[2].study, studies[5].study, "00000063deadbeef", *(film.clip for study in (studies[2], studies[5]) for film in study.films)]  # fmt: skip
    needles = [each.encode() for each in ids] + [payload[300:600] for payload in frames] + [b"Text 2.", b"Text 5."]  # fmt: skip
    assert all(simplejpeg.is_jpeg(payload) for payload in frames)
    for needle in needles:
        holding = [name for name, payload in contents(folder).items() if needle in payload]
        assert not holding, f"{needle[:20]} in {holding}"
    after = tars(folder)
    unchanged = [name for name in before if before[name] == after.get(name)]
    assert len(before) == len(after) == 4 and len(unchanged) == 2
    # the slow oracle: the writer, without the patient, given the studies of one tar at a time
    for name in set(after) - set(unchanged):
        number = int(name.removeprefix("shard-").removesuffix(".tar"))
        kept = [each for each in sorted(studies, key=lambda each: each.study)[2 * number : 2 * number + 2] if each.patient != GONE]  # fmt: skip
        write_dataset(kept, tmp_path / name, SMALL)
        oracle = tars(tmp_path / name)["shard-000000.tar"]
        assert after[name] == oracle
    manifest = schema.read_manifest(folder)
    assert manifest.version == 3 and manifest.fingerprint == schema.fingerprint(manifest.shards)
    for shard in manifest.shards:
        assert schema.sha256(after[shard.name]) == shard.sha256 and len(after[shard.name]) == shard.bytes
    assert len(read_all(folder)) == 6


def test_a_tar_that_held_nobody_else_goes(tmp_path):
    studies = make_studies(tmp_path / "films", 4)
    studies[1] = dataclasses.replace(studies[1], patient=studies[0].patient, split="train")
    write_dataset(studies, tmp_path / "out", SMALL)
    patient = str(studies[0].patient)
    (tmp_path / "out" / "data_sheet.html").write_text("strips of films")
    withdraw(tmp_path / "out", patient)
    assert len(read_all(tmp_path / "out")) == 2
    purge(tmp_path / "out")
    assert not (tmp_path / "out" / "data_sheet.html").exists()
    assert sorted(path.name for path in (tmp_path / "out").glob("shard-*")) == ["shard-000001.index.json", "shard-000001.tar"]  # fmt: skip
    assert len(read_all(tmp_path / "out")) == 2
    assert not any(patient.encode() in payload for payload in contents(tmp_path / "out").values())


def test_the_list_of_withdrawn_knows_the_old_tars_and_forgets_the_ids(folder):
    old = {shard.name: shard.sha256 for shard in schema.read_manifest(folder).shards}
    withdraw(folder, GONE)
    assert all(line.patient == GONE and line.sha256 == old[line.shard] for line in read_withdrawn(folder))
    lines = purge(folder)
    assert {(line.digest, line.patient, line.study) for line in lines} == {(patient_digest(GONE), "", "")}
    assert {line.sha256 for line in lines} <= set(old.values()) and len(lines) == 2


def test_copies_are_counted_again_without_the_films_that_went(tmp_path):
    made = make_studies(tmp_path / "films", 4)
    made = [dataclasses.replace(study, split="train") for study in made]
    shutil.copyfile(made[0].films[0].path, made[1].films[0].path)
    before = write_dataset(made, tmp_path / "out", SMALL).duplicates
    withdraw(tmp_path / "out", made[1].patient)
    after = schema.read_manifest(tmp_path / "out").duplicates
    assert (before.inside_a_split, after.inside_a_split) == (1, 0)
    left = [made[0], *made[2:]]
    assert after == write_dataset(left, tmp_path / "without", SMALL).duplicates
    purge(tmp_path / "out")
    assert schema.read_manifest(tmp_path / "out").duplicates == after


def test_doing_it_again_changes_nothing(folder):
    withdraw(folder, GONE)
    once = contents(folder)
    withdraw(folder, GONE)
    assert contents(folder) == once
    purge(folder)
    once = contents(folder)
    assert withdraw(folder, GONE) == purge(folder) and contents(folder) == once
    assert withdraw(folder, "f" * 16) == [] and contents(folder) == once


class _Killed(BaseException):
    """What nothing catches."""


def test_a_crash_before_any_of_its_steps_is_made_good_by_the_same_command(tmp_path, folder, monkeypatch):
    shutil.copytree(folder, tmp_path / "whole")
    withdraw(tmp_path / "whole", GONE)
    purge(tmp_path / "whole")
    expected, steps = in_folder(tmp_path / "whole"), 0
    real = atomic.publish
    for crash_at in range(1, 100):
        target, calls = tmp_path / f"crash{crash_at}", [0]
        shutil.copytree(folder, target)

        def publish(temporary, path, calls=calls, crash_at=crash_at):
            calls[0] += 1
            if calls[0] == crash_at:
                raise _Killed
            real(temporary, path)

        monkeypatch.setattr(atomic, "publish", publish)
        try:
            withdraw(target, GONE)
            purge(target)
        except _Killed:
            steps += 1
        monkeypatch.setattr(atomic, "publish", real)
        withdraw(target, GONE)
        purge(target)
        assert in_folder(target) == expected, f"differs after a crash at step {crash_at}"
        shutil.rmtree(target)
        if calls[0] < crash_at:
            break
    assert steps > 15


def test_a_reader_in_the_middle_of_it_is_told_and_never_misled(folder, monkeypatch):
    real, seen = atomic.publish, []

    def publish(temporary, path):
        real(temporary, path)
        if path.parent == folder:
            try:
                seen.append(len(read_all(folder)))
            except DataError as error:
                seen.append(str(error))

    monkeypatch.setattr(atomic, "publish", publish)
    withdraw(folder, GONE)
    assert seen[-1] == 6 and all("interrupted" in each for each in seen[:-1])


def names_and_sizes(folder: Path) -> dict[str, int]:
    """Of all that lies there but its lock, also while somebody works in it."""
    found = {}
    for path in (path for path in folder.rglob("*") if path.name != "lock"):
        with contextlib.suppress(FileNotFoundError):  # gone in the meantime
            found[str(path.relative_to(folder))] = path.stat().st_size if path.is_file() else 0
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sigkill_at_any_moment_and_the_same_command_again(tmp_path, folder, monkeypatch, capsys):
    words = ("--keyed", GONE, "--purge")
    killable = [sys.executable, ROOT / "tools" / "remove_patient.py", *words]
    shutil.copytree(folder, tmp_path / "whole")
    subprocess.run([*killable, tmp_path / "whole"], check=True, capture_output=True)
    expected = in_folder(tmp_path / "whole")
    killed = 0
    for attempt in range(12):
        target = tmp_path / f"killed{attempt}"
        shutil.copytree(folder, target)
        with subprocess.Popen([*killable, target], stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 300
            while names_and_sizes(target) == names_and_sizes(folder):
                assert time.monotonic() < deadline
            time.sleep(0.004 * attempt)
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
        code, _, told = call_tool("remove_patient", (*words, target), monkeypatch, capsys)
        assert code == 0, told
        assert in_folder(target) == expected
    assert killed


def test_a_damaged_film_that_stays_is_not_made_to_look_whole(folder):
    withdraw(folder, GONE)
    shard = read_withdrawn(folder)[0].shard
    entry = next(each for each in schema.read_manifest(folder).shards if each.name == shard)
    index = schema.read_index(folder, entry)
    with (folder / shard).open("r+b") as tar:
        tar.seek(index.clips.offset[0] + 40)
        tar.write(b"damage")
    with pytest.raises(DataError, match=f"{shard}: a member fails its checksum; restore"):
        purge(folder)
    assert not read_withdrawn(folder)[0].is_purged


def test_who_withdrew_does_not_come_back_with_the_next_table(tmp_path, folder, studies):
    withdraw(folder, GONE)
    purge(folder)
    kept, refused = refuse_withdrawn(folder, [*studies, *make_studies(tmp_path / "more", 1, first=8)])
    assert {study.patient for study in kept} & {GONE} == set() and len(kept) == 7
    assert [(each.row, each.clip, each.reason) for each in refused] == [(row, None, "withdrawn") for row in (5, 6, 11, 12)]  # fmt: skip
    appended = write_dataset(kept, folder, SMALL.model_copy(update={"append": True}), refused)
    assert appended.version == 3 and appended.counts.studies == 7
    assert GONE not in read_films(folder)["patient"].to_pylist()


def test_a_run_that_would_go_on_with_the_changed_shards_is_refused(folder):
    before = Shards.open(folder).fingerprint
    withdraw(folder, GONE)
    tombstoned = Shards.open(folder).fingerprint
    purge(folder)
    assert len({before, tombstoned, Shards.open(folder).fingerprint}) == 3
