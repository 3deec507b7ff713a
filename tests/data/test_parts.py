"""Many jobs, one data set: the bytes are those of one job, and what is missing is named."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.data import manifest as schema
from deepcoro.data import ray_engine
from deepcoro.data.parts import part_of, write_part
from deepcoro.data.writer import write_dataset
from tests.data.studies import SMALL, contents, forbid_opening, make_studies


@pytest.fixture
def studies(tmp_path):
    return make_studies(tmp_path / "films", 9)


def part(number: int, count: int):
    return SMALL.model_copy(update={"part": (number, count)})


CONCLUDE = SMALL.model_copy(update={"conclude_only": True})


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_any_order_and_a_conclusion_give_the_bytes_of_one_run(tmp_path, studies, monkeypatch, order):
    write_dataset(studies, tmp_path / "whole", SMALL)
    for number in order:
        assert len(write_part(studies, tmp_path / "out", part(number, 3))) in (1, 2)
        assert not (tmp_path / "out" / schema.MANIFEST).exists()
    forbid_opening(monkeypatch)
    write_dataset(studies, tmp_path / "out", CONCLUDE)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_conclusion_names_the_parts_that_are_missing_and_a_run_without_parts_makes_them(tmp_path, studies):
    write_dataset(studies, tmp_path / "whole", SMALL)
    write_part(studies, tmp_path / "out", part(2, 3))
    with pytest.raises(
        DataError, match=r"3 of 5 shards are missing .shard-000000.tar.*part 1/3, 3/3 has not ended"
    ):
        write_dataset(studies, tmp_path / "out", CONCLUDE)
    write_dataset(studies, tmp_path / "out", SMALL)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_part_touches_nothing_of_the_others_and_does_not_repeat_itself(tmp_path, studies, monkeypatch):
    out = tmp_path / "out"
    write_part(studies, out, part(1, 2))
    (out / "shard-000001.tar.tmp").write_bytes(b"another job is at work here")
    before = contents(out)
    forbid_opening(monkeypatch)
    write_part(studies, out, part(1, 2))
    assert contents(out) == before


def test_parts_append_too_and_do_not_replace(tmp_path, studies):
    for name in ("out", "whole"):
        write_dataset(studies[:4], tmp_path / name, SMALL)
    with pytest.raises(DataError, match="parts go into another folder"):
        write_part(studies[4:], tmp_path / "out", part(1, 2))
    append = {"append": True}
    for number in (1, 2):
        write_part(studies[4:], tmp_path / "out", part(number, 2).model_copy(update=append))
    write_dataset(studies[4:], tmp_path / "out", CONCLUDE.model_copy(update=append))
    write_dataset(studies[4:], tmp_path / "whole", SMALL.model_copy(update=append))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_a_part_is_k_of_n(text):
    assert part_of("2/3") == (2, 3)
    with pytest.raises(ConfigError, match="K/N"):
        part_of(text)


def test_without_ray_the_engine_says_how_to_get_it(tmp_path, studies, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'deepcoro\[ray\]'"):
        write_dataset(studies, tmp_path / "out", SMALL.model_copy(update={"engine": "ray", "workers": 2}))


def test_a_cluster_is_joined_only_when_it_is_named(monkeypatch):
    """Ray's own default joins whatever cluster somebody started on this machine, and refuses the number of workers then."""
    asked = []
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=lambda **words: asked.append(words)))
    for address, expected in ((None, ("local", 2)), ("head:6379", ("head:6379", None))):
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        if address:
            monkeypatch.setenv("RAY_ADDRESS", address)
        ray_engine._start(2)
        assert (asked[-1]["address"], asked[-1]["num_cpus"]) == expected


_ON_RAY = """
import logging, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from deepcoro.data.writer import write_dataset
from tests.data.studies import SMALL, make_studies
from tests.data.test_decode import deadly_film
from tests.data.test_parts import with_deadly_film
logging.basicConfig(level=logging.INFO)
films = Path(sys.argv[1])
studies = with_deadly_film(make_studies(films, 9), films)
deadly_film(films)
studies[3].films[0].path.unlink()
seen = []
write_dataset(studies, Path(sys.argv[2]), SMALL.model_copy(update={"engine": "ray", "workers": 2}), on_progress=seen.append)
assert seen == sorted(seen) and seen[-1] == 18, seen
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_workers_of_a_real_local_ray_write_the_same_bytes_also_when_a_film_kills_one(tmp_path):
    root = Path(__file__).resolve().parents[2]
    words = [tmp_path / "films", tmp_path / "ray", root]
    done = subprocess.run(
        [sys.executable, "-c", _ON_RAY, *map(str, words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "refused: missing_file" in done.stderr  # what a worker logs is told here
    assert "a Ray worker was lost" in done.stderr and "refused: crashed_decoder: SIGABRT" in done.stderr
    studies = with_deadly_film(make_studies(tmp_path / "again", 9), tmp_path / "films")
    on_pool = SMALL.model_copy(update={"workers": 2})
    write_dataset(lying_in(tmp_path / "films", studies), tmp_path / "local", on_pool)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def with_deadly_film(studies, folder: Path):
    """The first film of the sixth study is the one that `deadly_film` makes in that folder."""
    first, *others = studies[5].films
    films = (replace(first, path=folder / "deadly.dcm"), *others)
    return [*studies[:5], replace(studies[5], films=films), *studies[6:]]


def lying_in(folder: Path, studies):
    return [
        replace(study, films=tuple(replace(film, path=folder / film.path.name) for film in study.films))
        for study in studies
    ]
