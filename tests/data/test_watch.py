"""A loader worker that dies or hangs is named with the sample it was reading, and the run ends with one line."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from deepcoro.data import manifest as schema
from deepcoro.data.order import Shuffled
from deepcoro.data.plan import Plan
from deepcoro.data.shards import Shards
from deepcoro.data.stream import EvaluationStream, TrainingStream
from deepcoro.data.watch import Watch, WorkerFault, Workers, worker_fault
from deepcoro.fields.video import VideoField
from deepcoro.tracking import Tracker
from tests.data.folder import moving_film, study_with, write_folder
from tests.launch import SILENT, exit_code, main_on_this_rank, tiny

VICTIM = "study4"

HANGS_S = 10.0
"""The loader's patience where a worker hangs: a busy machine starts one, and brings a whole batch, well within it."""

pytestmark = pytest.mark.timeout(600)


class Accident:
    """A field that meets with an accident in one study."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def decode(self, study, clip_indices, read_clip, draw):
        if study.study != VICTIM or self.kind == "none":
            return 0
        if self.kind == "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # as deep in a library
            time.sleep(1000)
        if self.kind == "segfault":
            ctypes.string_at(0)
        if self.kind == "exit":
            os._exit(3)
        if self.kind == "bug":
            raise RuntimeError("DataLoader is fine, the field is not")
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def collate(self, values, num_videos):
        return {}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    studies = [study_with(f"study{each}", [moving_film(each)], schema.Encoding()) for each in range(9)]
    return Shards.open(write_folder(tmp_path_factory.mktemp("watched"), studies))


def training(shards: Shards, kind: str, workers: Workers) -> TrainingStream:
    units = shards.units("train", False, 1)
    return TrainingStream(
        shards, units, {"field": Accident(kind)}, Plan(Shuffled(units.shard, 1), 3), workers
    )


def evaluation(shards: Shards, kind: str, workers: Workers) -> EvaluationStream:
    units = shards.units("train", False, 1)
    return EvaluationStream(shards, units, {"field": Accident(kind)}, 3, workers=workers)


SAID = {
    "kill": ["was killed by signal 'Killed'", "memory runs out", "fewer data.num_workers"],
    "segfault": ["was killed by signal 'Segmentation fault'", "leave the film out"],
    "exit": ["ended by itself", "data.num_workers=0"],
    "hang": ["no batch came for 10 s (data.worker_timeout_s)", "hangs", "a stalled disk or server"],
}


@pytest.mark.parametrize(
    ("stream", "kind"), [*((training, kind) for kind in SAID), (evaluation, "kill"), (evaluation, "exit")]
)
def test_the_accident_of_a_worker_is_told_with_what_it_was_reading(shards, stream, kind) -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(WorkerFault) as raised:
        for _ in stream(shards, kind, Workers(2, timeout_s=HANGS_S if kind == "hang" else 300.0)):
            pass
    line = str(raised.value)
    assert not set(multiprocessing.active_children()) - before, "the others are ended too"
    assert "reading sample study4.000 (the batch: " in line and "\n" not in line
    assert line.startswith(("loader worker ", "no batch came")) and all(part in line for part in SAID[kind])


@pytest.mark.parametrize("error", [ConnectionResetError, EOFError])
@pytest.mark.parametrize("torch_tells", [True, False], ids=["torch tells meanwhile", "torch is silent"])
def test_a_batch_that_breaks_off_is_told_as_the_death_of_its_worker(shards, error, torch_tells) -> None:
    """The killed worker's connection is gone a moment before the system tells of its end."""
    before = signal.getsignal(signal.SIGCHLD)

    def break_off(loader, timeout):
        signal.signal(signal.SIGCHLD, torchs if torch_tells else signal.SIG_DFL)
        loader._workers[1].kill()
        raise error

    stream = training(shards, "none", Workers(2))
    batches = iter(stream)
    next(batches)
    while not all(stream._fetch.watch._pids):  # the second may still be on its way
        time.sleep(0.01)
    torchs = signal.getsignal(signal.SIGCHLD)
    try:
        with (
            mock.patch.object(_MultiProcessingDataLoaderIter, "_try_get_data", break_off),
            pytest.raises(WorkerFault, match=r"^loader worker 1 was killed by signal 'Killed' .*"),
        ):
            list(batches)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_lost_connection_that_is_not_of_a_worker_stays_what_it_is(shards) -> None:
    """As when a server of shards closes the line."""
    watch = Watch(Workers(1), 1, str)
    with mock.patch("deepcoro.data.watch._DIES_WITHIN_S", 0.01):
        assert watch.fault(ConnectionResetError("the server")) is None


@pytest.mark.parametrize("count", [0, 2])
def test_a_bug_in_a_field_stays_what_it_is(shards, count) -> None:
    with pytest.raises(RuntimeError, match="the field is not") as raised:
        list(evaluation(shards, "bug", Workers(count)))
    assert not isinstance(raised.value, WorkerFault)


def test_a_long_batch_is_named_in_part() -> None:
    watch = Watch(Workers(1), 30, lambda unit: f"unit{unit}")
    watch.arrive(0)
    watch.begin(list(range(29)))
    watch.read(7)
    line = watch.death(
        RuntimeError(f"DataLoader worker (pid {os.getpid()}) is killed by signal: Bus error. It ...")
    )
    assert line is not None and "reading sample unit7 (the batch: unit0, " in line
    assert "unit7 and 21 more)" in line and "/dev/shm" in line
    watch.end()
    assert "between two batches" in (
        watch.death(RuntimeError(f"DataLoader worker (pid(s) {os.getpid()}) exited unexpectedly")) or ""
    )
    assert watch.fault(RuntimeError("CUDA error")) is None
    assert worker_fault(RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")) is None


@contextlib.contextmanager
def accidents_at_the_third_film(kind: str) -> Iterator[None]:
    decode, calls = VideoField.decode, [0]

    def decode_or_not(self, *arguments):
        calls[0] += 1
        if calls[0] == 3 and multiprocessing.parent_process() is not None:
            Accident(kind).decode(mock.Mock(study=VICTIM), (), None, None)
        return decode(self, *arguments)

    with mock.patch.object(VideoField, "decode", decode_or_not):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "hang"])
def test_a_run_ends_with_one_line_and_exit_code_2(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture, kind: str
) -> None:
    timeout_s = HANGS_S if kind == "hang" else 300
    words = tiny(tiny_shards, tmp_path, *SILENT, "data.num_workers=1", f"data.worker_timeout_s={timeout_s}")
    with accidents_at_the_third_film(kind):
        assert main_on_this_rank("ddp", *words, "max_steps=50") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WorkerFault: ")]
    assert "reading sample " in line and "loader worker 0" in line
    assert exit_code(tmp_path) == 2


@pytest.mark.slow
def test_a_worker_killed_while_the_rank_is_elsewhere_is_told_all_the_same(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    advance = Tracker.advance

    def kill_a_worker(self: Tracker, step: int) -> None:
        if step == 2:
            (victim,) = set(multiprocessing.active_children()) - others
            os.kill(victim.pid, signal.SIGKILL)
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:  # ended by what torch raises when the system tells it
                time.sleep(0.01)
        advance(self, step)

    others = set(multiprocessing.active_children())
    words = tiny(tiny_shards, tmp_path, *SILENT, "data.num_workers=1", "max_steps=50")
    with mock.patch.object(Tracker, "advance", kill_a_worker):
        assert main_on_this_rank("ddp", *words) == 2
    error = capsys.readouterr().err
    assert "WorkerFault: loader worker 0 was killed by signal 'Killed'" in error and "Traceback" not in error
    assert exit_code(tmp_path) == 2
