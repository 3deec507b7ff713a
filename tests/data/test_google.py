"""gs:// through our own code, with a stand-in for gcsfs that answers as it does; gcsfs itself and Google's servers are not reached here."""

import sys
import types
from pathlib import Path

import pytest
from fsspec.asyn import AsyncFileSystem

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data import remote
from deepcoro.data.cache import Cache
from deepcoro.data.film_table import read_films
from deepcoro.data.shards import Shards
from deepcoro.data.storage import Storage
from tests.data.folder import moving_film, study_with, write_folder
from tests.data.test_stream import assert_same, make_stream, take

URL = "gs://films/hospital/shards"
TAR = "shard-000001.tar"


class HttpError(Exception):
    """As `gcsfs.retry.HttpError`, which is no OSError and keeps the status in `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"status {code}")
        self.code = code


class GoogleAuthError(Exception):
    """As `google.auth.exceptions.GoogleAuthError`."""


class Bucket(AsyncFileSystem):
    """As `gcsfs.GCSFileSystem`: asynchronous, paths without the protocol, ends of ranges outside."""

    protocol = "gs"
    folder: Path
    faults: dict[str, list[Exception]]

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object):
        name = path.removeprefix("films/hospital/shards/")
        if self.faults.get(name):
            raise self.faults[name].pop(0)
        if not (self.folder / name).is_file():
            raise FileNotFoundError(path)
        return (self.folder / name).read_bytes()[start:end]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    studies = [
        study_with(f"study{each}", [moving_film(5 * each + clip) for clip in range(2)], schema.Encoding())
        for each in range(4)
    ]
    return write_folder(tmp_path_factory.mktemp("gs") / "shards", studies)


@pytest.fixture
def faults(written: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Exception]]:
    """What the next requests for a file raise."""
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gs", Bucket)
    monkeypatch.setattr(remote, "_FIRST_WAIT_S", 0.02)
    names = ("gcsfs", "gcsfs.retry", "google", "google.auth", "google.auth.exceptions")
    modules = {name: types.ModuleType(name) for name in names}
    modules["gcsfs"].retry = modules["gcsfs.retry"]
    modules["gcsfs.retry"].HttpError = HttpError
    modules["google"].auth = modules["google.auth"]
    modules["google.auth"].exceptions = modules["google.auth.exceptions"]
    modules["google.auth.exceptions"].GoogleAuthError = GoogleAuthError
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    Bucket.folder, Bucket.faults = written, {}
    return Bucket.faults


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_at_google_give_the_batches_of_shards_on_a_disk(written, faults, num_workers) -> None:
    expected = take(make_stream(written), 5)
    assert_same(take(make_stream(URL, num_workers=num_workers), 5), expected)


@pytest.mark.parametrize("mode", ["shard", "member"])
def test_and_so_do_cached_ones(written, faults, tmp_path, mode) -> None:
    shards = Shards.open(URL, Storage(retries=0), Cache(folder=tmp_path, mode=mode, max_gb=1))
    expected = [Shards.open(written).read_clip(row, clip) for row in range(4) for clip in range(2)]
    for _ in range(2):
        assert [shards.read_clip(row, clip) for row in range(4) for clip in range(2)] == expected
        if mode == "shard":
            shards._tars.settle()
        faults |= {f"shard-{number:06d}.tar": [HttpError(404)] for number in range(2)}  # asked for no more


def test_the_table_of_films_and_a_member_of_several_requests(written, faults, monkeypatch) -> None:
    monkeypatch.setattr(remote, "PIECE_BYTES", 700)
    assert Shards.open(URL).read_clip(3, 1) == Shards.open(written).read_clip(3, 1)
    assert read_films(URL).equals(read_films(written))


@pytest.mark.parametrize("passing", [[HttpError(503), HttpError(429)], [ConnectionResetError()], [OSError()]])
def test_what_passes_is_waited_for(written, faults, passing) -> None:
    shards = Shards.open(URL, Storage(retries=2))
    faults[TAR] = list(passing)
    assert shards.read_clip(3, 1) == Shards.open(written).read_clip(3, 1) and not faults[TAR]


LASTING = {
    "forbidden": (HttpError(403), "403, forbidden; check the credentials"),
    "not authorised": (HttpError(401), "401, not authorised"),
    "absent": (FileNotFoundError(), "it is not there"),
    "down": (HttpError(503), "the server answered 503; 1 attempts"),
}


@pytest.mark.parametrize("case", LASTING)
def test_what_does_not_pass_is_named(faults, case) -> None:
    error, reason = LASTING[case]
    shards = Shards.open(URL, Storage(retries=0))
    faults[TAR] = [error]
    with pytest.raises(DataError) as raised:
        shards.read_clip(3, 1)
    assert str(raised.value).startswith(f"{TAR}: clip 1 of study study3 ") and reason in str(raised.value)


def test_missing_credentials_are_one_line(faults) -> None:
    class DefaultCredentialsError(GoogleAuthError):
        pass

    faults["manifest.json"] = [DefaultCredentialsError()]
    with pytest.raises(DataError, match="DefaultCredentialsError; set the credentials in the environment"):
        Shards.open(URL, Storage(retries=2))
