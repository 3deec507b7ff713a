"""Shards behind a URL give the batches of shards on a disk, and a server that misbehaves is waited for, named, or given up."""

import multiprocessing
import pickle
import socket
from pathlib import Path

import pytest

from deepcoro.config import ConfigError, DataError
from deepcoro.data import manifest as schema
from deepcoro.data import remote
from deepcoro.data.config import Data
from deepcoro.data.film_table import read_films
from deepcoro.data.remote import RemoteFolder, StorageError
from deepcoro.data.shards import Shards
from deepcoro.data.storage import LocalFolder, Storage, open_folder
from tests.data.folder import moving_film, study_with, write_folder
from tests.data.server import serving
from tests.data.test_stream import assert_same, make_stream, take

CLIPS = [1, 3, 2, 5, 1, 2, 4]
TAR = "shard-000001.tar"
PATIENT = Storage(retries=3)
IMPATIENT = Storage(retries=1, timeout_s=2.0)
"""For servers that never finish; a busy machine still answers within it."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    studies = [
        study_with(
            f"study{number}", [moving_film(7 * number + clip) for clip in range(clips)], schema.Encoding()
        )
        for number, clips in enumerate(CLIPS)
    ]
    return write_folder(tmp_path_factory.mktemp("elsewhere") / "shards", studies)


@pytest.fixture
def server(written):
    with serving(written) as running:
        yield running


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(remote, "_LONGEST_WAIT_S", 0.05)


def read_all(shards):
    return [
        [shards.study(row), *(shards.read_clip(row, clip) for clip in range(clips))]
        for row, clips in enumerate(CLIPS)
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_behind_http_give_the_batches_of_shards_on_a_disk(written, server, num_workers):
    local, far = Shards.open(written), Shards.open(server.url)
    assert far.fingerprint == local.fingerprint and far.folder.name == "shards"
    far_batches = take(make_stream(server.url, num_workers=num_workers), 7)
    assert_same(far_batches, take(make_stream(written), 7))


def test_a_reader_of_a_url_travels_to_a_spawned_process(written, server):
    shards = Shards.open(server.url)
    shards.read_clip(3, 0)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(shards.read_clip, (3, 2)) == Shards.open(written).read_clip(3, 2)
    assert pickle.loads(pickle.dumps(shards)).read_clip(3, 2) == Shards.open(written).read_clip(3, 2)


def test_only_the_bytes_of_a_member_are_asked_for(written, server):
    shards = Shards.open(server.url)
    server.asked.clear()
    place = shards._clips.place(4)
    shards.read_clip(2, 0)
    assert server.asked == [(TAR, place.offset)]


def test_a_member_larger_than_one_request_is_put_together(written, server, monkeypatch):
    monkeypatch.setattr(remote, "PIECE_BYTES", 700)
    assert read_all(Shards.open(server.url)) == read_all(Shards.open(written))


def test_a_server_without_ranges_is_told_of_and_gives_the_same(written, server, monkeypatch, caplog):
    monkeypatch.setattr(remote, "PIECE_BYTES", 700)
    server.ignores_ranges = True
    assert read_all(Shards.open(server.url)) == read_all(Shards.open(written))
    assert caplog.text.count("ignores ranges") == 1


def test_a_folder_in_memory_is_read_like_any(written):
    import fsspec

    memory = fsspec.filesystem("memory")
    for file in written.iterdir():
        memory.pipe_file(f"/bucket/shards/{file.name}", file.read_bytes())
    assert read_all(Shards.open("memory://bucket/shards/")) == read_all(Shards.open(written))


PASSING = {
    "503 bursts": ["503", "503", "503"],
    "too many requests": ["429"],
    "a broken gateway": ["502", "504"],
    "cut bodies": ["cut", "cut"],
    "a stall": ["stall"],
    "a slow drip": ["drip"],
    "a short answer": ["short"],
    "wrong bytes once": ["wrong"],
    "one of each": ["500", "cut"],
}


def opened_for(server, faults):
    """With a short time-out only where the server never finishes."""
    shards = Shards.open(server.url, PATIENT)
    if {"stall", "drip"} & set(faults):
        shards.folder.settings = IMPATIENT
    server.faults[TAR] = list(faults)
    return shards


@pytest.mark.parametrize("case", PASSING)
def test_what_passes_is_waited_for(written, server, case):
    shards = opened_for(server, PASSING[case])
    assert shards.read_clip(3, 2) == Shards.open(written).read_clip(3, 2)
    assert server.faults[TAR] == []


LASTING = {
    "503": (["503"] * 9, "the server answered 503; 4 attempts", 4),
    "a stall": (["stall"] * 9, "stalled: no whole answer within 2 s; 2 attempts", 2),
    "a drip": (["drip"] * 9, "stalled: no whole answer within 2 s; 2 attempts", 2),
    "cut bodies": (["cut"] * 9, "ClientPayloadError; 4 attempts", 4),
    "forbidden": (["403"], "403, forbidden; check the credentials", 1),
    "not authorised": (["401"], "401, not authorised", 1),
    "absent": (["404"], "it is not there (404)", 1),
    "wrong bytes twice": (["wrong"] * 2, "fails its checksum", 2),
    "short twice": (["short"] * 4, "the shard is truncated", 4),
}


@pytest.mark.parametrize("case", LASTING)
def test_what_does_not_pass_is_named_by_shard_and_key_after_as_many_attempts(server, case):
    faults, reason, attempts = LASTING[case]
    shards = opened_for(server, faults)
    with pytest.raises(DataError) as raised:
        shards.read_clip(3, 2)
    assert str(raised.value).startswith(f"{TAR}: clip 2 of study study3 ") and reason in str(raised.value)
    assert server.times_asked(TAR) == attempts and server.url not in str(raised.value)


def test_after_a_read_was_given_up_the_next_have_one_attempt_until_one_succeeds(server):
    folder = RemoteFolder(server.url, PATIENT)
    server.faults[TAR] = ["503"] * 5
    for _ in range(2):
        with pytest.raises(StorageError):
            folder.read_range(TAR, 0, 100)
    assert server.times_asked(TAR) == 4 + 1
    assert len(folder.read_range(TAR, 0, 100)) == 100
    server.faults[TAR] = ["503"] * 3
    assert len(folder.read_range(TAR, 0, 100)) == 100


def test_a_server_that_is_not_there_is_one_clear_line():
    with socket.socket() as taken:  # and not listened at, so nobody else can
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(DataError) as raised:
            Shards.open(f"http://127.0.0.1:{port}/shards", PATIENT)
    line = str(raised.value)
    assert line.startswith("manifest.json of http://127.0.0.1") and "4 attempts" in line and "\n" not in line


@pytest.mark.parametrize("victim", ["manifest.json", "splits.csv", "shard-000001.index.json"])
@pytest.mark.parametrize("status", ["404", "403"])
def test_a_table_that_cannot_be_had_is_named(server, victim, status):
    server.faults[victim] = [status]
    with pytest.raises(DataError, match=victim):
        Shards.open(server.url)
    assert server.times_asked(victim) == 1


def test_the_table_of_films_is_read_from_a_url_and_missed_by_name(written, server, tmp_path):
    with pytest.raises(DataError, match="films.parquet is missing"):
        read_films("memory://nowhere")
    with pytest.raises(DataError, match="films.parquet is missing"):
        read_films(tmp_path)
    assert read_films(server.url).equals(read_films(written))
    assert read_films(server.url, ["clip"]).column_names == ["clip"]


def test_a_url_survives_the_config_and_a_path_is_a_path():
    assert Data(shards="http://host/a").shards == "http://host/a"
    assert Data(shards=Path("a/b")).shards == "a/b"
    assert isinstance(open_folder("a/b"), LocalFolder) and open_folder("file:///a/b").path == Path("/a/b")


@pytest.mark.parametrize(
    "url", ["https://me:secret@host/a", "https://host/a?X-Amz-Signature=secret", "s3://secret@bucket/a"]
)
def test_a_location_that_holds_a_secret_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigError, match="credentials in the environment") as raised:
        open_folder(url)
    assert "secret" not in str(raised.value)


def test_an_unknown_protocol_and_a_missing_package_say_what_to_do(monkeypatch):
    with pytest.raises(ConfigError, match=r"'ftp://' is not read; .*\['file', 'gs', 'http', 'https', 's3'\]"):
        open_folder("ftp://host/a")

    def missing(protocol):
        raise ImportError

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    with pytest.raises(ConfigError, match=r"gs:// needs .*pip install 'deepcoro\[gcs\]'"):
        open_folder("gs://bucket/a")


def test_retries_are_logged_by_name_and_not_for_ever(server, caplog):
    folder = RemoteFolder(server.url, Storage(retries=40))
    server.faults[TAR] = ["503"] * 30
    folder.read_range(TAR, 0, 10)
    lines = [line for line in caplog.messages if line.startswith(f"{TAR}: the server answered 503; attempt ")]
    assert len(lines) == 20 and lines[-1].endswith("further ones are not logged")
