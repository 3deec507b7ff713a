"""The cache gives the same bytes, keeps to its room, is shared without harm, mends itself, and is done without where the disk refuses."""

import contextlib
import errno
import hashlib
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepcoro.data import cache as cache_module
from deepcoro.data import manifest as schema
from deepcoro.data.ahead import looking_ahead
from deepcoro.data.cache import Cache, CacheFolder, _alone
from deepcoro.data.collection import Collection
from deepcoro.data.config import Data
from deepcoro.data.order import Shuffled
from deepcoro.data.plan import Plan, evaluation_rows
from deepcoro.data.shards import Shards
from deepcoro.data.storage import Storage
from deepcoro.data.stream import EvaluationStream, TrainingStream
from deepcoro.data.watch import Workers
from deepcoro.fields import video
from tests.data.folder import moving_film, study_with, write_folder
from tests.data.server import Server, serving
from tests.data.test_stream import assert_same, take

CLIPS = [1, 3, 2, 5, 1, 2, 4]
TARS = [f"shard-{number:06d}.tar" for number in range(4)]

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    studies = [
        study_with(
            f"study{number}", [moving_film(7 * number + clip) for clip in range(clips)], schema.Encoding()
        )
        for number, clips in enumerate(CLIPS)
    ]
    return write_folder(tmp_path_factory.mktemp("kept") / "shards", studies)


@pytest.fixture
def server(written: Path) -> Iterator[Server]:
    with serving(written) as running:
        yield running


@pytest.fixture(autouse=True)
def warns_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_told", multiprocessing.RawValue("b", 0))


def opened(server: Server, folder: Path, mode: str = "shard", max_gb: float = 1.0) -> Shards:
    return Shards.open(server.url, Storage(retries=0), Cache(folder=folder, mode=mode, max_gb=max_gb))


def read_all(shards: Shards) -> list[bytes]:
    return [shards.read_clip(row, clip) for row, clips in enumerate(CLIPS) for clip in range(clips)]


def stream_of(shards: Shards, num_workers: int) -> TrainingStream:
    units = shards.units("train", False, 1)
    fields = {"video": video.Config(frames=4, size_px=16).build()}
    return TrainingStream(shards, units, fields, Plan(Shuffled(units.shard, 5), 4), Workers(num_workers))


def tars_asked(server: Server) -> int:
    return sum(name in TARS for name, _ in server.asked)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("mode", ["shard", "member", "none"])
def test_batches_are_those_of_a_disk_and_what_is_kept_is_not_asked_for_again(
    written: Path, server: Server, tmp_path: Path, mode: str, num_workers: int
) -> None:
    expected = take(stream_of(Shards.open(written), 0), 14)
    assert_same(take(stream_of(opened(server, tmp_path, mode), num_workers), 14), expected)
    again = opened(server, tmp_path, mode)
    if mode == "shard":  # a worker that has ended may have left a download half done
        again._tars.fetch_ahead(TARS)
        settle(again)
    server.asked.clear()
    assert_same(take(stream_of(again, num_workers), 14), expected)
    assert (tars_asked(server) == 0) == (mode != "none")


def wait_for(condition, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)


def test_evaluation_over_a_cache_is_that_of_a_disk(written: Path, server: Server, tmp_path: Path) -> None:
    fields = {"video": video.Config(frames=4, size_px=16).build()}
    batches = [
        list(EvaluationStream(shards, shards.units("train", True, 2), fields, 3, 0, 1, Workers(1)))
        for shards in (Shards.open(written), opened(server, tmp_path))
    ]
    assert_same(*batches)


@pytest.mark.parametrize(
    ("shards_ahead", "batch_of_shard"), [(1, [0, 1, 7, 10]), (2, [0, 1, 2, 5]), (4, [0, 1, 2, 3])]
)
def test_each_shard_is_announced_so_many_shards_ahead_one_a_batch(
    written: Path, shards_ahead: int, batch_of_shard: list[int]
) -> None:
    """Eighteen films in stored order; the shards begin with films 0, 4, 11 and 14."""
    units = Shards.open(written).units("train", False, 1)
    rows = evaluation_rows(len(units), 1, 1, 0)
    asked = list(looking_ahead(rows, units, 1, shards_ahead))
    assert [each.rows for each in asked] == rows
    shard = {number: units.studies.shard[list(each.announced)].tolist() for number, each in enumerate(asked)}
    assert [number for number, shards in shard.items() if shards] == batch_of_shard
    assert [each for shards in shard.values() for each in shards] == [0, 1, 2, 3]


def test_the_look_ahead_is_the_window_of_the_config(server: Server, tmp_path: Path) -> None:
    keys = {"shards": server.url, "cache": {"folder": tmp_path}}
    for window in (3, 40):
        assert Collection.open(Data(**keys, shards_per_window=window)).looks_ahead == window


def test_what_is_announced_is_there_before_it_is_read(server: Server, tmp_path: Path, written: Path) -> None:
    shards = opened(server, tmp_path)
    assert shards.looks_ahead and not Shards.open(written).looks_ahead
    shards.announce([0, 1, 2])
    shards._tars.settle()
    server.asked.clear()
    for row in range(4):
        shards.read_clip(row, 0)
    assert tars_asked(server) == 0
    assert sorted(path.stat().st_size for path in tmp_path.glob("*.tar")) == sorted(
        (written / tar).stat().st_size for tar in TARS[:2]
    )


@pytest.mark.parametrize("mode", ["shard", "member"])
def test_a_damaged_entry_is_found_out_and_fetched_again(
    written: Path, server: Server, tmp_path: Path, mode: str
) -> None:
    expected = read_all(Shards.open(written))
    shards = opened(server, tmp_path, mode)
    read_all(shards)
    settle(shards)
    entries = list(tmp_path.glob("*.tar")) + list(tmp_path.glob("*.part"))
    assert len(entries) == 4
    for entry in entries:
        content = bytearray(entry.read_bytes())
        content[1000:] = bytes(byte ^ 0x55 for byte in content[1000:])
        entry.write_bytes(content)
    entries[0].write_bytes(b"")
    assert read_all(shards) == expected
    settle(shards)
    server.asked.clear()
    assert read_all(shards) == expected and tars_asked(server) == 0


def settle(shards: Shards) -> None:
    if shards.looks_ahead:
        shards._tars.settle()


@pytest.mark.parametrize("faults", [["cut"] * 9, ["wrong", "wrong"], ["short"] * 2, ["503"] * 9])
def test_a_download_that_goes_wrong_leaves_nothing_behind(
    written: Path, server: Server, tmp_path: Path, faults: list[str]
) -> None:
    shards = opened(server, tmp_path)
    server.faults[TARS[1]] = list(faults)
    shards._tars.fetch_ahead([TARS[1]])
    settle(shards)
    assert {path.name for path in tmp_path.iterdir()} <= {"room.lock"}
    server.faults.clear()
    assert shards.read_clip(3, 1) == Shards.open(written).read_clip(3, 1)


def fill(folder: CacheFolder, number: int, size: int = 1000) -> bool:
    payload = bytes([number]) * size
    return folder.add_whole(hashlib.sha256(payload).hexdigest(), size, lambda: iter([payload]))


def name_of(number: int, size: int = 1000) -> str:
    return hashlib.sha256(bytes([number]) * size).hexdigest()


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.tar"))


def test_room_is_made_by_what_was_used_longest_ago_and_never_overdrawn(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, 4000)
    for number in range(4):
        assert fill(folder, number)
        os.utime(tmp_path / f"{name_of(number)}.tar", (number, number))
    assert folder.read_whole(name_of(0), 5, 10) == b"\0" * 10, "used now, so it is the newest"
    assert fill(folder, 9)
    assert used(tmp_path) <= 4000
    kept = [number for number in (0, 1, 2, 3, 9) if folder.holds(name_of(number))]
    assert kept == [0, 3, 9]
    assert not fill(folder, 5, size=4001)
    assert folder.holds(name_of(9))


def test_a_reader_of_an_entry_that_is_removed_meanwhile_reads_on(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, 2000)
    fill(folder, 1)
    with (tmp_path / f"{name_of(1)}.tar").open("rb") as reading:
        fill(folder, 2)
        fill(folder, 3)
        assert not folder.holds(name_of(1))
        assert reading.read() == b"\1" * 1000


def test_members_take_the_room_they_really_take(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, 400_000)
    for shard in range(12):
        for member in range(6):
            folder.add_member(f"{shard:064d}", member * 10_000_000, bytes([member]) * 8192)
            os.utime(tmp_path / f"{shard:064d}.part", (shard, shard))
    taken = sum(path.stat().st_blocks * 512 for path in tmp_path.glob("*.part"))
    assert 100_000 < taken <= 400_000
    assert (tmp_path / f"{11:064d}.part").exists() and not (tmp_path / f"{0:064d}.part").exists()
    assert folder.read_member(f"{11:064d}", 10_000_000, 8192) == b"\1" * 8192


def _sizes(folder: Path) -> Iterator[int]:
    """Downloads last: one that takes its name meanwhile may be missed, none is counted twice."""
    for path in [*folder.glob("*.tar"), *folder.glob("*.new")]:
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            yield path.stat().st_size


def _fill_many(folder: str, url_folder: str, done: object) -> None:
    cache = CacheFolder(Path(folder), 6_000)
    for number in [*range(12), *range(12)]:

        def pieces(number: int = number) -> Iterator[bytes]:
            (Path(url_folder) / f"{number}-{os.getpid()}-{time.monotonic_ns()}").touch()
            for _ in range(4):
                time.sleep(0.002)
                yield bytes([number]) * 250

        cache.add_whole(name_of(number), 1000, pieces)
        payload = cache.read_whole(name_of(number), 0, 1000)
        assert payload is None or payload == bytes([number]) * 1000
        with _alone(Path(folder) / "room.lock"):  # nothing is reserved or removed while it is counted
            assert sum(_sizes(Path(folder))) <= 6_000
    done.put(True)


def test_many_processes_share_it_without_two_downloads_of_one_shard_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    done = context.Queue()
    (tmp_path / "downloads").mkdir()
    arguments = (str(tmp_path / "kept"), str(tmp_path / "downloads"), done)
    processes = [context.Process(target=_fill_many, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert used(tmp_path / "kept") <= 6_000
    assert not list((tmp_path / "kept").glob("*.new"))
    downloads = sorted(
        (int(path.name.split("-")[0]), int(path.name.split("-")[2]))
        for path in (tmp_path / "downloads").iterdir()
    )
    gaps = [
        later - earlier
        for (one, earlier), (other, later) in zip(downloads, downloads[1:], strict=False)
        if one == other
    ]
    assert all(gap > 6_000_000 for gap in gaps), "a download takes 8 ms; the next of the same begins after it"


def _begin_and_wait(folder: str, begun: object) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"\7" * 500
        begun.set()
        time.sleep(100)

    CacheFolder(Path(folder), 10_000).add_whole(name_of(7), 1000, pieces)


def test_what_a_killed_process_left_is_taken_over_and_what_a_living_one_does_is_left_alone(
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=_begin_and_wait, args=(str(tmp_path), begun))
    process.start()
    assert begun.wait(120)
    small = CacheFolder(tmp_path, 1500)
    assert not fill(small, 7) and not fill(small, 8), "its room is reserved"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert fill(small, 8), "an abandoned download makes room"
    assert not list(tmp_path.glob("*.new"))
    assert fill(CacheFolder(tmp_path, 5000), 7)


@pytest.mark.parametrize("mode", ["shard", "member"])
def test_a_full_disk_means_reading_without_it_and_one_warning(
    written: Path,
    server: Server,
    tmp_path: Path,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shards = opened(server, tmp_path, mode)
    monkeypatch.setattr(os, "pwrite", full)
    assert read_all(shards) == read_all(Shards.open(written))
    settle(shards)
    assert read_all(shards) == read_all(Shards.open(written))
    settle(shards)  # what the second reading has begun is given up too
    assert caplog.text.count("takes nothing more (No space left on device)") == 1
    assert not list(tmp_path.glob("*.tar")) and not list(tmp_path.glob("*.new"))


def test_a_folder_that_cannot_be_made_is_told_and_done_without(
    written: Path, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    for mode in ("shard", "member"):
        shards = opened(server, tmp_path / "file" / "cache", mode)
        assert read_all(shards) == read_all(Shards.open(written))
        settle(shards)
    assert caplog.text.count("data.cache.folder takes nothing more") == 1


def test_a_cache_smaller_than_a_window_keeps_single_films(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards = opened(server, tmp_path, max_gb=1e-5)
    assert "is less than the 4 shards that training reads from at a time" in caplog.text
    assert not shards.looks_ahead
    read_all(shards)
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.glob("*.part")) <= 10_000 + 4096 * 4


def test_a_folder_on_a_disk_is_not_copied_into_a_cache(written: Path, tmp_path: Path) -> None:
    shards = Shards.open(written, None, Cache(folder=tmp_path))
    read_all(shards)
    assert not list(tmp_path.iterdir())


def test_a_forked_reader_starts_a_thread_of_its_own(server: Server, tmp_path: Path, written: Path) -> None:
    shards = opened(server, tmp_path)
    shards.announce([0])
    settle(shards)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(shards.read_clip, (3, 0)) == Shards.open(written).read_clip(3, 0)
        wait_for(lambda: len(list(tmp_path.glob("*.tar"))) == 2)


def test_what_did_not_come_is_said_where_it_is_looked_for(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shards = opened(server, tmp_path)
    server.faults[TARS[0]] = ["403"]
    shards._tars.fetch_ahead([TARS[0]])
    settle(shards)
    assert f"{TARS[0]} could not be fetched ahead (the server answered 403" in caplog.text
