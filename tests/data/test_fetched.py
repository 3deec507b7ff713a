"""films.parquet of a folder that lies elsewhere: one download a process, one a node where there is a cache, verified either way."""

import logging
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.cache import Cache
from deepcoro.data.film_table import FILMS, read_films
from deepcoro.data.shards import Shards
from deepcoro.data.storage import Storage
from tests.data.folder import moving_film, study_with, write_folder
from tests.data.server import Server, serving

pytestmark = pytest.mark.timeout(400)

COLUMNS = ["clip", "num_frames"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    studies = [study_with(f"study{each}", [moving_film(each)], schema.Encoding()) for each in range(5)]
    return write_folder(tmp_path_factory.mktemp("tables") / "shards", studies)


@pytest.fixture
def server(written: Path) -> Iterator[Server]:
    with serving(written) as running:
        yield running


def opened(server: Server, cache: Cache | None = None) -> Shards:
    return Shards.open(server.url, Storage(retries=0), cache)


def test_a_process_asks_for_it_once_whatever_it_reads_of_it(written: Path, server: Server) -> None:
    shards = opened(server)
    assert shards.film_schema.names == read_films(written).column_names
    for columns in (COLUMNS, ["study"], COLUMNS):
        assert shards.films(columns).equals(read_films(written, columns))
    assert server.times_asked(FILMS) == 1


@pytest.mark.parametrize("mode", ["shard", "member"])
def test_a_node_asks_for_it_once(written: Path, server: Server, tmp_path: Path, mode: str) -> None:
    cache = Cache(folder=tmp_path, mode=mode)
    for _ in range(3):
        assert opened(server, cache).films(COLUMNS).equals(read_films(written, COLUMNS))
    assert server.times_asked(FILMS) == 1
    kept = tmp_path / f"{schema.read_manifest(written).films_sha256}.tar"
    assert kept.read_bytes() == (written / FILMS).read_bytes()


def _read_at_once(url: str, folder: str, start: object, rows: object) -> None:
    shards = Shards.open(url, Storage(retries=0), Cache(folder=Path(folder)))
    start.wait(120)
    rows.put(len(shards.films(COLUMNS)))


def test_ranks_that_ask_at_once_wait_for_the_first(server: Server, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, rows = context.Barrier(3), context.Queue()
    arguments = (server.url, str(tmp_path), start, rows)
    ranks = [context.Process(target=_read_at_once, args=arguments) for _ in range(3)]
    for rank in ranks:
        rank.start()
    assert [rows.get(timeout=300) for _ in ranks] == [5, 5, 5]
    for rank in ranks:
        rank.join()
    assert server.times_asked(FILMS) == 1


def test_a_damaged_copy_in_the_cache_is_fetched_again(written: Path, server: Server, tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path)
    opened(server, cache).films(COLUMNS)
    [kept] = tmp_path.glob("*.tar")
    kept.write_bytes(b"?" + kept.read_bytes()[1:])
    assert opened(server, cache).films(COLUMNS).equals(read_films(written, COLUMNS))
    assert server.times_asked(FILMS) == 2
    assert kept.read_bytes() == (written / FILMS).read_bytes()


def test_a_cache_that_cannot_be_made_is_done_without(
    written: Path, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch
) -> None:
    monkeypatch.setattr("deepcoro.data.cache._told", multiprocessing.RawValue("b", 0))
    (tmp_path / "file").touch()
    shards = opened(server, Cache(folder=tmp_path / "file" / "cache"))
    assert shards.films(COLUMNS).equals(read_films(written, COLUMNS))
    assert caplog.text.count("data.cache.folder takes nothing more") == 1


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("faults", [["wrong"], ["short"]])
def test_damage_on_the_way_is_asked_for_once_more_and_then_named(
    written: Path, server: Server, tmp_path: Path, is_cached: bool, faults: list[str]
) -> None:
    cache = Cache(folder=tmp_path) if is_cached else None
    server.faults[FILMS] = faults * 2
    with pytest.raises(DataError, match="films.parquet differs from the manifest's digest"):
        opened(server, cache).films(COLUMNS)
    server.faults[FILMS] = list(faults)
    assert opened(server, cache).films(COLUMNS).equals(read_films(written, COLUMNS))


def test_what_cannot_be_had_is_named(server: Server) -> None:
    for status, reason in (("404", "films.parquet is missing"), ("403", "films.parquet of http.*forbidden")):
        server.faults[FILMS] = [status]
        with pytest.raises(DataError, match=reason):
            opened(server).films(COLUMNS)


def test_a_reader_with_an_open_table_travels_without_it(
    written: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    shards = opened(server)
    shards.films(COLUMNS)
    again = pickle.loads(pickle.dumps(shards))
    assert again.films(COLUMNS).equals(read_films(written, COLUMNS)) and not caplog.messages
