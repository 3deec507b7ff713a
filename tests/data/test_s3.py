"""Shards in S3, served by moto on 127.0.0.1 and read with real s3fs. For gs:// see test_google.py."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data import remote
from deepcoro.data.cache import Cache
from deepcoro.data.film_table import read_films
from deepcoro.data.shards import Shards
from deepcoro.data.storage import Storage
from tests.data.folder import moving_film, study_with, write_folder
from tests.data.test_stream import assert_same, make_stream, take

CLIPS = [1, 3, 2, 5]
TAR = "shard-000001.tar"
URL = "s3://films/hospital/shards"

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    studies = [
        study_with(
            f"study{number}", [moving_film(5 * number + clip) for clip in range(clips)], schema.Encoding()
        )
        for number, clips in enumerate(CLIPS)
    ]
    return write_folder(tmp_path_factory.mktemp("s3") / "shards", studies)


@pytest.fixture(scope="module")
def bucket(written: Path) -> Iterator[str]:
    """The address of an S3 that holds the folder."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    client.create_bucket(Bucket="films")
    for file in written.iterdir():
        key = f"hospital/shards/{file.name}"
        client.put_object(Bucket="films", Key=key, Body=file.read_bytes(), ACL="public-read")
    yield address
    server.stop()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(remote, "_FIRST_WAIT_S", 0.02)
    return monkeypatch


@pytest.fixture
def environment(bucket: str, credentials: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """All that says where S3 is, and who asks, is in the environment."""
    credentials.setenv("AWS_ENDPOINT_URL", bucket)
    return credentials


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_in_s3_give_the_batches_of_shards_on_a_disk(written, environment, num_workers) -> None:
    expected = take(make_stream(written), 5)
    assert_same(take(make_stream(URL, num_workers=num_workers), 5), expected)


@pytest.mark.parametrize("mode", ["shard", "member"])
def test_and_so_do_cached_ones_also_when_s3_is_gone(written, environment, tmp_path, mode) -> None:
    cache = Cache(folder=tmp_path, mode=mode, max_gb=1)
    shards = Shards.open(URL, Storage(retries=0), cache)
    expected = [
        Shards.open(written).read_clip(row, clip) for row, clips in enumerate(CLIPS) for clip in range(clips)
    ]
    for attempt in range(2):
        payloads = [shards.read_clip(row, clip) for row, clips in enumerate(CLIPS) for clip in range(clips)]
        assert payloads == expected, attempt
        if mode == "shard":
            shards._tars.settle()
        environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        shards.folder._client = (0, None)


def test_a_member_of_several_requests_and_the_table_of_films(written, environment) -> None:
    environment.setattr(remote, "PIECE_BYTES", 700)
    assert Shards.open(URL).read_clip(3, 2) == Shards.open(written).read_clip(3, 2)
    assert read_films(URL).equals(read_films(written))


def test_what_is_absent_is_named_at_once(environment) -> None:
    with pytest.raises(DataError, match="s3://films/elsewhere holds no manifest.json"):
        Shards.open("s3://films/elsewhere", Storage(retries=3))
    with pytest.raises(DataError, match="holds no manifest.json"):
        Shards.open("s3://nobucket/shards", Storage(retries=3))


@contextlib.contextmanager
def answering(status: int, code: str) -> Iterator[tuple[str, list[str]]]:
    """An S3 that has one answer for everything; its address, and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked.append(self.path)
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


ANSWERS = {
    "SlowDown": (503, "the server answered 503; 3 attempts", 3),
    "InternalError": (500, "the server answered 500; 3 attempts", 3),
    "AccessDenied": (403, "the server answered 403, forbidden; check the credentials", 1),
    "ExpiredToken": (400, "the server answered 400, access refused; check the credentials", 1),
}


@pytest.mark.parametrize("code", ANSWERS)
def test_an_answer_of_s3_is_waited_for_or_final(credentials, code: str) -> None:
    status, reason, attempts = ANSWERS[code]
    with answering(status, code) as (address, asked):
        credentials.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(DataError) as raised:
            Shards.open(URL, Storage(retries=2))
    assert str(raised.value).startswith(f"manifest.json of {URL} cannot be read: ") and reason in str(
        raised.value
    )
    assert len(asked) == attempts


def test_an_s3_that_is_not_there_is_one_line(credentials) -> None:
    credentials.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"manifest.json of s3://.*; 3 attempts in \d+ s$"):
        Shards.open(URL, Storage(retries=2))


def test_missing_credentials_are_one_line_at_once(bucket, monkeypatch, tmp_path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket)
    with pytest.raises(
        DataError, match="cannot be read: NoCredentialsError; set the credentials in the environment"
    ):
        Shards.open(URL, Storage(retries=2))


def test_a_public_bucket_is_read_without_credentials(bucket, written, monkeypatch, tmp_path) -> None:
    """As `FSSPEC_S3_ANON=true` sets it, which fsspec reads when it is imported."""
    import fsspec.config

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket)
    settings: dict = {}
    fsspec.config.set_conf_env(settings, {"FSSPEC_S3_ANON": "true"})
    assert settings == {"s3": {"anon": True}}
    monkeypatch.setitem(fsspec.config.conf, "s3", settings["s3"])
    assert Shards.open(URL, Storage(retries=0)).read_clip(3, 0) == Shards.open(written).read_clip(3, 0)
