"""Damaged inputs of every kind that is read: each gives its data or a named reason; none a crash, a hang, a leak or half a file.

The damage is drawn by seed, so a fault is found again: the assertion names the seed of each input.
"""

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepcoro.data.decode import make_apart
from deepcoro.data.manifest import PROGRESS, Encoding, read_rejected
from deepcoro.data.sharding import Settings
from deepcoro.data.shards import Shards
from deepcoro.data.writer import write_dataset
from deepcoro.ingest.film import FilmSource, StudySource
from tests.data.folder import moving_film, study_with, write_folder
from tests.fuzz import jobs, mutations
from tests.fuzz.inputs import PEOPLE, RULES_TEXT, film_files, table_text
from tests.fuzz.worker import LIMIT_S, Outcome, Worker
from tests.ingest.films import PLANTED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

FILMS, FOLDERS, TABLES, RULES = 1500, 160, 240, 100
KNOWING = {".dcm": mutations.DICOM, ".avi": mutations.VIDEO, ".mp4": mutations.VIDEO, ".mkv": mutations.VIDEO, ".npy": mutations.ARRAY,
           ".npz": mutations.ARRAY}  # fmt: skip
KNOWING |= {
    ".nii": (mutations.number,),
    ".gz": (mutations.splice,),
    ".png": mutations.PICTURE,
    ".jpg": mutations.PICTURE,
}
KNOWING |= {".bmp": (mutations.number,)}
SECRETS = (
    *PLANTED.values(),
    *PEOPLE,
    *(part for name in PLANTED.values() if "^" in name for part in name.split("^")),
)


def complaints(outcome: Outcome, name: str) -> list[str]:
    """What is wrong with an outcome, in words that say how to make it again."""
    found = []
    if outcome.kind not in ("ok", "refused"):
        found.append(f"{name}: {outcome.kind}: {outcome.text[-1500:]}")
    if outcome.seconds > LIMIT_S:
        found.append(f"{name}: took {outcome.seconds:.0f} s")
    heard = outcome.said if outcome.kind == "fault" else outcome.said + outcome.text
    found += [f"{name}: '{secret}' is said: {heard[:600]}" for secret in SECRETS if secret in heard]
    return found


def damaged_copy(source: Path, target: Path, draw: random.Random) -> Path:
    """A damaged copy of a film beside `target`, with the suffixes of its kind; of a folder one or two pictures are damaged."""
    if source.is_dir():
        path = target.with_name(f"{target.name}_{source.name}")
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(source, path)
        for frame in draw.sample(sorted(path.iterdir()), draw.choice((1, 1, 2))):
            frame.write_bytes(mutations.damaged(frame.read_bytes(), KNOWING[frame.suffix], draw))
        return path
    path = target.with_name(target.name + "".join(source.suffixes))
    path.write_bytes(mutations.damaged(source.read_bytes(), KNOWING[source.suffix], draw))
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path


def running(job: object, scratch: Path, *preload: str) -> Iterator[Worker]:
    worker = Worker(job, scratch, preload)
    yield worker
    worker.close()


def test_damaged_films_are_read_or_refused_with_a_named_reason(scratch: Path) -> None:
    good = scratch / "good"
    good.mkdir()
    files = film_files(good)
    listed = reasons_of_the_format()
    kinds, found = Counter(), []
    for worker in running(jobs.film, scratch):
        for path in files:
            assert worker.run(path).kind == "ok", path.name
        for number in range(FILMS):
            source = files[number % len(files)]
            path = damaged_copy(source, scratch / "film", random.Random(number))
            outcome = worker.run(path)
            kinds[outcome.kind] += 1
            name = f"{source.name}, seed {number}"
            if outcome.kind == "died":
                again = make_apart(FilmSource(row=1, path=path, clip="c"), Settings())
                outcome = replace(
                    outcome, kind="refused", text=again.reason or "the second attempt gave a film"
                )
            found += complaints(outcome, name)
            if outcome.kind == "refused" and outcome.text.split(":")[0] not in listed:
                found.append(f"{name}: no listed reason: {outcome.text}")
    assert not found, f"{len(found)} of {FILMS}: " + "\n".join(found[:12])
    assert kinds["ok"] > 100 and kinds["refused"] > 200, kinds


def test_a_run_over_damaged_films_counts_each_of_them_once(scratch: Path) -> None:
    """Through the writer, in one go: what can be read is in the shards, what cannot is in rejected.csv, nothing lies half-written."""
    (scratch / "good").mkdir()
    files = film_files(scratch / "good")
    studies = []
    for number in range(150):
        source = files[number % len(files)]
        path = damaged_copy(source, scratch / f"{number:04d}", random.Random(10_000 + number))
        film = FilmSource(row=number + 1, path=path, clip=f"{number:016x}")
        studies.append(StudySource(f"{number:016x}", "train", (film,), f"{number:016x}"))
    settings = Settings(encoding=Encoding(short_side_px=32), accept_duplicates=True, workers=2)
    write_dataset(studies, scratch / "out", settings)
    shards, rejected = Shards.open(scratch / "out"), read_rejected(scratch / "out")
    assert shards.manifest.counts.clips + len(rejected) == 150 and shards.manifest.counts.clips > 30
    written = {clip.clip for row in range(len(shards.studies)) for clip in shards.study(row).clips}
    assert len(written | {row[-2] for row in rejected}) == 150
    left = [path.name for path in (scratch / "out").rglob("*") if path.suffix in (".tmp", ".begun", ".film")]
    assert not left and (scratch / "out" / PROGRESS).is_dir()
    everything = b"".join(path.read_bytes() for path in (scratch / "out").rglob("*") if path.is_file())
    assert not [secret for secret in PLANTED.values() if secret.encode() in everything]


def reasons_of_the_format() -> str:
    return (Path(__file__).parents[2] / "shards" / "README.md").read_text()


def test_damaged_shard_folders_are_read_or_refused(scratch: Path) -> None:
    good = write_folder(
        scratch / "good",
        [study_with(f"s{n}", [moving_film(n), moving_film(n + 3)], Encoding(), f"p{n}") for n in range(4)],
    )
    names = sorted(path.name for path in good.iterdir() if path.is_file())
    kinds, found = Counter(), []
    for worker in running(jobs.shards, scratch, "torch", "deepcoro.fields.video", "deepcoro.data.shards"):
        assert worker.run(good).text == "8 read; "
        for number in range(FOLDERS):
            draw = random.Random(number)
            folder = scratch / "damaged"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(good, folder)
            path = folder / names[number % len(names)]
            kind = mutations.TEXT if path.suffix in (".csv", ".json") else (mutations.flip, mutations.number)
            if number % 29 == 28:
                path.unlink()
            else:
                path.write_bytes(mutations.damaged(path.read_bytes(), kind, draw))
            outcome = worker.run(folder)
            kinds[outcome.kind] += 1
            found += complaints(outcome, f"{path.name}, seed {number}")
    assert not found, f"{len(found)} of {FOLDERS}: " + "\n".join(found[:12])
    assert kinds["ok"] > 10 and kinds["refused"] > 30, kinds


def films_for_tables(scratch: Path) -> None:
    for row in range(6):
        np.save(
            scratch / f"film{row}.npy",
            np.random.default_rng(row).integers(0, 255, (4, 16, 16), dtype=np.uint8),
        )


def half_written(folder: Path) -> list[str]:
    """Files that a run which ended by itself must not leave: a folder with a manifest holds nothing temporary."""
    if not folder.exists():
        return []
    return [path.name for path in folder.rglob("*.tmp")]


@pytest.mark.parametrize(("kind", "count"), [("table", TABLES), ("rules", RULES)])
def test_damaged_tables_and_rules_are_taken_or_refused_whole(scratch: Path, kind: str, count: int) -> None:
    films_for_tables(scratch)
    good = table_text("film").encode() if kind == "table" else RULES_TEXT.encode()
    (scratch / "good.csv").write_text(table_text("film").replace("../", ""))
    kinds, found = Counter(), []
    for worker in running(getattr(jobs, kind), scratch, "deepcoro.data.writer", "rich.progress"):
        for number in range(-1, count):
            folder = scratch / "run"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            path = folder / ("table.csv" if kind == "table" else "rules.yaml")
            damage = good if number < 0 else mutations.damaged(good, mutations.TEXT, random.Random(number))
            path.write_bytes(damage)
            outcome = worker.run(path)
            if number < 0:
                assert outcome.kind == "ok", outcome
                continue
            kinds[outcome.kind] += 1
            name = f"{kind}, seed {number}"
            found += complaints(outcome, name)
            found += [f"{name}: left {left}" for left in half_written(folder / "out")]
            found += [
                f"{name}: the record number is in {written.name}"
                for written in (folder / "out").rglob("*")
                if written.is_file()
                if PEOPLE[1].encode() in written.read_bytes()
            ]
    assert not found, f"{len(found)} of {count}: " + "\n".join(found[:12])
    assert kinds["ok"] > count / 20 and kinds["refused"] > count / 10, kinds


def test_the_whole_is_a_thousand_inputs() -> None:
    assert FILMS + FOLDERS + TABLES + RULES >= 1000
