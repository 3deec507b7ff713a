"""The account of skipped steps: what is too many, what going back changes, and what a restarted run knows of it."""

import json
from pathlib import Path

import pytest
import torch

from deepcoro.config import DataError
from deepcoro.skipped import Config, Skipped


def account(folder: Path, bad: list[int] = [], last: int = 0, **limits: int) -> Skipped:  # noqa: B006
    skipped = Skipped(Config(**limits), folder)
    for step in range(1, last + 1):
        skipped.note(step, torch.tensor(step not in bad))
    skipped.read(lambda step: [f"study{step}.000", "study0.000"])
    return skipped


@pytest.mark.parametrize(
    ("bad", "too_many"),
    [
        ([], []),
        ([3, 8], []),
        ([3, 13, 23], []),  # the third is the first of a window of its own
        ([3, 5, 12], [3, 5, 12]),
        ([3, 13, 15, 17], [13, 15, 17]),
    ],
)
def test_more_than_the_allowed_steps_in_a_window_are_too_many(
    tmp_path: Path, bad: list[int], too_many: list[int]
) -> None:
    skipped = account(tmp_path, bad, 30, max_skipped=2, window_steps=10)
    assert skipped.steps == bad and skipped.too_many == too_many


def test_flags_are_not_read_before_they_are_asked_for(tmp_path: Path) -> None:
    skipped = account(tmp_path)
    skipped.note(1, torch.tensor(False))
    assert skipped.steps == [] and not (tmp_path / "non_finite.json").exists()
    skipped.read(lambda step: ["study1.000"])
    assert skipped.steps == [1]
    assert json.loads((tmp_path / "non_finite.json").read_text())["steps"] == {"1": ["study1.000"]}


def test_going_back_forgets_later_steps_and_the_file_keeps_their_samples(tmp_path: Path) -> None:
    skipped = account(tmp_path, [2, 7, 8], 8, max_skipped=1, window_steps=10)
    assert skipped.too_many == [2, 7]
    skipped.go_back(8, 4, (16, 32))
    assert skipped.steps == [2] and skipped.too_many == []
    told = json.loads((tmp_path / "non_finite.json").read_text())
    assert list(told["steps"]) == ["2"]
    [rollback] = told["rollbacks"]
    assert (rollback["from_step"], rollback["to_step"]) == (8, 4)
    assert rollback["rows_not_read_again"] == [16, 32]
    assert rollback["skipped_steps"]["7"] == ["study7.000", "study0.000"]


def test_a_run_started_again_at_the_checkpoint_it_went_back_to_still_passes_over_those_rows(
    tmp_path: Path,
) -> None:
    before = account(tmp_path, [2, 7, 8], 8, max_skipped=1, window_steps=10)
    state = {"steps": [2], "rollbacks": []}  # of the checkpoint of step 4, written before anything was wrong
    before.go_back(8, 4, (16, 32))
    again = account(tmp_path)
    assert again.restore(state, 4) == 32
    assert again.steps == [2] and len(again.rollbacks) == 1
    later = account(tmp_path)
    assert later.restore(before.state(), 6) == 0, "the loader's own state has passed over them"
    assert len(later.rollbacks) == 1
    older = account(tmp_path)
    assert older.restore({"steps": [2], "rollbacks": []}, 3) == 0, "a past that was given up"
    assert older.rollbacks == []


def test_a_run_that_begins_forgets_the_file_of_another(tmp_path: Path) -> None:
    account(tmp_path, [1], 1)
    assert account(tmp_path).restore(None, 0) == 0
    assert not (tmp_path / "non_finite.json").exists()


def test_a_run_that_went_back_often_enough_stops_and_names_the_samples(tmp_path: Path) -> None:
    skipped = account(tmp_path, [1, 2], 2, max_skipped=1, window_steps=10, max_rollbacks=1)
    skipped.stop_if_often()
    skipped.go_back(2, 0, (0, 8))
    for step in (1, 2):
        skipped.note(step, torch.tensor(False))
    skipped.read(lambda step: [f"study{step}.{clip:03d}" for clip in range(5)])
    with pytest.raises(DataError) as caught:
        skipped.stop_if_often()
    message = str(caught.value)
    assert "at steps 1, 2" in message and "going back 1 times" in message
    assert "study1.000" in message and "and 2 more (non_finite.json names all)" in message
