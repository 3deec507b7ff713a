"""A run that ends at any moment is gone on with: the same bytes, and no finished film decoded twice."""

import multiprocessing

import pytest

from deepcoro.config import DataError
from deepcoro.data import decode
from deepcoro.data import manifest as schema
from deepcoro.data.writer import write_dataset
from deepcoro.ingest.film import StudySource
from tests.data.studies import SMALL, contents, make_studies


@pytest.fixture
def studies(tmp_path) -> list[StudySource]:
    return make_studies(tmp_path / "films")


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6, 9])
def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(tmp_path, studies, monkeypatch, stop_at):
    write_dataset(studies, tmp_path / "whole", SMALL)
    calls = []

    def interrupted(frames, encoding):
        calls.append(1)
        if len(calls) > stop_at:
            raise KeyboardInterrupt
        return original(frames, encoding)

    original = decode.encode
    with monkeypatch.context() as patch:
        patch.setattr("deepcoro.data.decode.encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(studies, tmp_path / "out", SMALL)
    assert not (tmp_path / "out" / schema.MANIFEST).exists()
    redone = []
    monkeypatch.setattr("deepcoro.data.decode.encode", lambda *film: redone.append(1) or original(*film))
    write_dataset(studies, tmp_path / "out", SMALL)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(redone) == 10 - stop_at


def test_a_worker_that_dies_is_an_error_and_the_next_run_goes_on(tmp_path, studies):
    others = set(multiprocessing.active_children())  # ranks that other tests share

    def kill_a_worker(films: int) -> None:
        for child in sorted(set(multiprocessing.active_children()) - others, key=lambda each: each.pid)[:1]:
            child.kill()

    settings = SMALL.model_copy(update={"workers": 2})
    with pytest.raises(DataError, match="worker process died"):
        write_dataset(studies, tmp_path / "out", settings, on_progress=kill_a_worker)
    write_dataset(studies, tmp_path / "out", SMALL)
    write_dataset(studies, tmp_path / "whole", SMALL)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
