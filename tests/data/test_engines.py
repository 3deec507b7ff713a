"""A process that is lost while shards are written costs time, never the data set; a film that ends every process is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deepcoro.config import DataError
from deepcoro.data import engines
from deepcoro.data.manifest import PROGRESS, read_rejected
from deepcoro.data.shards import Shards
from deepcoro.data.writer import write_dataset
from deepcoro.ingest.film import StudySource
from tests.data.accidents import Dying, Hanging, Killing, KillingOnce
from tests.data.studies import SMALL, contents, make_studies
from tests.data.test_decode import deadly_film

POOL = SMALL.model_copy(update={"workers": 2})


def with_path(studies: list[StudySource], study: int, kind: Callable) -> list[StudySource]:
    """The first film of that study lies at a path of that kind."""
    first, *others = studies[study].films
    films = (replace(first, path=kind(first.path)), *others)
    return [*studies[:study], replace(studies[study], films=films), *studies[study + 1 :]]


@pytest.fixture
def studies(tmp_path: Path) -> list[StudySource]:
    """Five studies of two films, in three shards."""
    return make_studies(tmp_path / "films")


def test_a_process_that_is_killed_once_costs_no_film_and_no_byte(studies, tmp_path, caplog):
    write_dataset(studies, tmp_path / "whole", SMALL)
    seen: list[int] = []
    write_dataset(with_path(studies, 2, KillingOnce), tmp_path / "out", POOL, on_progress=seen.append)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert "a worker process died (SIGKILL); going on with 1" in caplog.text
    assert seen == sorted(seen) and seen[-1] == 10


def test_a_refused_film_is_told_in_the_same_words_by_one_process_and_by_several(studies, tmp_path, caplog):
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"no film")
    studies = with_path(studies, 1, lambda path: broken)
    caplog.set_level("INFO")
    told = []
    for name, settings in {"one": SMALL, "several": POOL}.items():
        caplog.clear()
        write_dataset(studies, tmp_path / name, settings)
        told.append([each.getMessage() for each in caplog.records if "refused" in each.getMessage()])
    assert len(told[0]) == 1
    assert told[1] == told[0]


@pytest.mark.slow
def test_films_that_no_process_survives_are_refused_by_name_in_one_run(studies, tmp_path, caplog):
    deadly = deadly_film(tmp_path)
    accidents = {0: Killing, 2: Hanging, 4: lambda path: deadly}
    for number, kind in accidents.items():
        studies = with_path(studies, number, kind)
    write_dataset(studies, tmp_path / "out", POOL.model_copy(update={"film_timeout_s": 15.0}))
    assert Shards.open(tmp_path / "out").manifest.counts.clips == 7
    rejected = {clip: reason for _, clip, reason in read_rejected(tmp_path / "out")}
    assert rejected == {
        studies[0].films[0].clip: "killed_decoder: each process that began it was killed, out of memory?",
        studies[2].films[0].clip: "timed_out: not decoded within 15 s",
        studies[4].films[0].clip: "crashed_decoder: SIGABRT",
    }
    assert not list((tmp_path / "out" / PROGRESS).rglob("*.begun"))
    assert "a worker process died (SIGKILL); going on with 1" in caplog.text


@pytest.mark.slow
def test_processes_that_die_again_and_again_between_films_end_the_run_and_what_is_there_is_kept(
    studies, tmp_path, monkeypatch
):
    monkeypatch.setattr(engines, "_MOST_FRUITLESS", 1)
    with pytest.raises(DataError, match="died [23] times in a row over the shards.*run again"):
        write_dataset(with_path(studies, 2, Dying), tmp_path / "out", POOL)
    write_dataset(studies, tmp_path / "out", SMALL)
    write_dataset(studies, tmp_path / "whole", SMALL)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_shard_that_was_finished_in_the_moment_its_pool_was_lost_is_not_made_again(
    studies, tmp_path, monkeypatch
):
    write, pools = engines._Pool.write, []

    def lost(self, plans, output, on_progress):
        pools.append(len(plans))
        first, *others = write(self, list(plans), output, on_progress)
        (output / PROGRESS / f"{Path(others[0].name).stem}.spool").mkdir()  # not removed yet
        yield first
        raise engines.BrokenProcessPool

    with monkeypatch.context() as patch:
        patch.setattr(engines._Pool, "write", lost)
        write_dataset(studies, tmp_path / "out", POOL)
    write_dataset(studies, tmp_path / "whole", SMALL)
    assert pools == [3]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list((tmp_path / "out" / PROGRESS).glob("*.spool"))


def test_losses_are_forgiven_as_long_as_films_are_settled_in_between():
    losses = engines.Losses()
    for kept in (0, 1, 1, 1, 2, 2, 2):
        losses.note("a shard", kept)
    losses.note("another", 2)
    with pytest.raises(DataError, match="over a shard"):
        losses.note("a shard", 2)
