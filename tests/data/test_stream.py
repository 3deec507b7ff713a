import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from deepcoro.config import DataError
from deepcoro.data import manifest as schema
from deepcoro.data.order import Shuffled
from deepcoro.data.plan import Plan
from deepcoro.data.shards import Shards
from deepcoro.data.stream import EvaluationStream, TrainingStream
from deepcoro.data.watch import Workers
from deepcoro.fields import video
from tests.data.folder import moving_film, study_with, write_folder

ENCODING = schema.Encoding()
CLIPS = [1, 3, 2, 5, 1, 2, 4]


class ReportTexts:
    """A field without a tokenizer, to see which study a row came from."""

    def decode(self, study, clip_indices, read_clip, draw):
        return (study.study, clip_indices, None if draw is None else float(draw.random()))

    def collate(self, values, num_videos):
        return {"seen": values}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    studies = [
        study_with(f"study{number}", [moving_film(7 * number + clip) for clip in range(clips)], ENCODING)
        for number, clips in enumerate(CLIPS)
    ]
    return write_folder(tmp_path_factory.mktemp("shards"), studies)


@pytest.fixture
def folder(written, tmp_path):
    """A copy that a test may damage."""
    for file in written.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def make_stream(
    folder,
    multi_video=False,
    num_videos=2,
    num_workers=0,
    start_position=0,
    seed=5,
    **layout,
):
    shards = Shards.open(folder)
    units = shards.units("train", multi_video, num_videos)
    plan = Plan(Shuffled(units.shard, seed), **{"batch_size": 4, **layout})
    fields = {"video": video.Config(frames=4, size_px=16).build(), "texts": ReportTexts()}
    return TrainingStream(shards, units, fields, plan, Workers(num_workers), None, start_position)


def take(stream, count):
    return list(islice(iter(stream), count))


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            same = (
                torch.equal(one[name], other[name])
                if torch.is_tensor(one[name])
                else one[name] == other[name]
            )
            assert same, f"{name} differs at positions {one['position'].tolist()}"


@pytest.mark.parametrize("multi_video", [False, True])
def test_any_number_of_workers_gives_the_same_batches(written, multi_video):
    expected = take(make_stream(written, multi_video), 9)
    for num_workers in (1, 3):
        assert_same(take(make_stream(written, multi_video, num_workers=num_workers), 9), expected)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_start_in_mid_epoch_gives_the_tail_of_an_uninterrupted_run(written, num_workers):
    whole = take(make_stream(written), 12)
    for stop in (1, 5, 7):
        resumed = take(make_stream(written, start_position=stop * 4, num_workers=num_workers), 12 - stop)
        assert_same(resumed, whole[stop:])


def test_two_ranks_go_on_where_one_stopped_with_the_same_global_batches(written):
    whole = take(make_stream(written, batch_size=4), 8)
    ranks = [
        take(make_stream(written, batch_size=2, rank=rank, world_size=2, start_position=12), 5)
        for rank in (0, 1)
    ]
    for step in range(5):
        for name in ("video", "unit", "position", "clip_mask", "valid"):
            joined = torch.cat([ranks[0][step][name], ranks[1][step][name]])
            assert torch.equal(joined, whole[step + 3][name])


def test_an_epoch_over_the_ranks_shows_every_unit_exactly_once(written):
    num_units = sum(CLIPS)
    ranks = [take(make_stream(written, batch_size=3, rank=rank, world_size=3), 4) for rank in range(3)]
    rows = [
        (int(position), int(unit))
        for batches in ranks
        for batch in batches
        for position, unit in zip(batch["position"], batch["unit"], strict=True)
    ]
    assert num_units == 18
    assert Counter(unit for position, unit in rows if position < num_units) == Counter(range(num_units))
    assert sorted(position for position, _ in rows) == list(range(36))


def test_a_row_holds_the_film_that_its_unit_names(written):
    stream = make_stream(written)
    units = Shards.open(written).units("train", False, 1)
    for batch in take(stream, 5):
        for row, unit in enumerate(batch["unit"].tolist()):
            study, clips, _ = batch["seen"][row]
            assert units.name(unit) == f"{study}.{clips[0]:03d}"
            first_value = 3 * (7 * int(study.removeprefix("study")) + clips[0])
            distance = (batch["video"][row].float().mean((0, 2, 3)) - first_value) % 10
            assert torch.minimum(distance, 10 - distance).max() < 1.0


def test_a_study_with_more_clips_than_room_shows_other_clips_each_epoch_and_the_middle_ones_in_evaluation(
    written,
):
    batches = take(make_stream(written, multi_video=True), 40)
    shown = {seen[1] for batch in batches for seen in batch["seen"] if seen[0] == "study3"}
    assert len(shown) > 5
    assert all(len(clips) == 2 and clips[0] < clips[1] for clips in shown)
    shards = Shards.open(written)
    units = shards.units("train", True, 2)
    [batch] = EvaluationStream(shards, units, {"texts": ReportTexts()}, 7)
    assert {seen[0]: seen[1] for seen in batch["seen"]}["study3"] == (1, 3)


def test_clip_mask_says_which_cells_of_the_rows_hold_the_flat_clips(written):
    [batch] = take(make_stream(written, multi_video=True, num_videos=3, batch_size=7), 1)
    counts = [min(CLIPS[unit], 3) for unit in batch["unit"]]
    assert batch["clip_mask"].tolist() == [[place < count for place in range(3)] for count in counts]
    assert batch["video"].shape == (sum(counts), 1, 4, 16, 16)
    assert batch["video"].dtype == torch.uint8


def test_a_further_field_does_not_change_what_the_others_draw(written):
    shards = Shards.open(written)
    units = shards.units("train", False, 1)
    alone = {"video": video.Config(frames=3, size_px=16).build()}
    beside = {"texts": ReportTexts(), **alone}
    plan = Plan(Shuffled(units.shard), 4)
    one, other = (take(TrainingStream(shards, units, fields, plan), 3) for fields in (alone, beside))
    assert all(torch.equal(left["video"], right["video"]) for left, right in zip(one, other, strict=True))


def test_the_draws_of_a_row_change_with_epoch_and_seed(written):
    draws = [seen[2] for batch in take(make_stream(written), 18) for seen in batch["seen"]]
    assert len(set(draws)) == 72
    others = [seen[2] for batch in take(make_stream(written, seed=6), 18) for seen in batch["seen"]]
    assert not set(draws) & set(others)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_shows_every_unit_once_with_equal_batches_on_all_ranks(written, num_workers, world_size):
    shards = Shards.open(written)
    units = shards.units("train", False, 1)
    fields = {"video": video.Config(frames=4, size_px=16).build()}
    ranks = [
        list(EvaluationStream(shards, units, fields, 4, rank, world_size, Workers(num_workers)))
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    rows = [batch for batches in ranks for batch in batches]
    assert all(len(batch["unit"]) == 4 and batch["clip_mask"].shape == (4, 1) for batch in rows)
    shown = torch.cat([batch["unit"][batch["valid"]] for batch in rows])
    assert sorted(shown.tolist()) == list(range(18))
    assert all((batch["unit"][~batch["valid"]] == -1).all() for batch in rows)
    assert all((batch["position"][~batch["valid"]] == -1).all() for batch in rows)


def test_evaluation_is_the_same_every_time(written):
    shards = Shards.open(written)
    units = shards.units("train", True, 2)
    fields = {"video": video.Config(frames=4, size_px=16).build(), "texts": ReportTexts()}
    first, second = (list(EvaluationStream(shards, units, fields, 3)) for _ in range(2))
    assert_same(first, second)


def test_a_rank_with_nothing_but_padding_still_gets_a_film_to_run_on(written):
    shards = Shards.open(written)
    units = shards.units("train", True, 2)
    fields = {"video": video.Config(frames=4, size_px=16).build()}
    [batch] = EvaluationStream(shards, units, fields, 7, rank=1, world_size=2)
    assert batch["video"].shape == (1, 1, 4, 16, 16)
    assert not batch["clip_mask"].any() and not batch["valid"].any()


def truncate(folder):
    tar = folder / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[:6000])


def flip_a_bit(folder):
    shards = Shards.open(folder)
    place = shards._clips.place(4)
    tar = folder / "shard-000001.tar"
    damaged = bytearray(tar.read_bytes())
    damaged[place.offset + 40] ^= 1
    tar.write_bytes(damaged)


def remove(folder):
    (folder / "shard-000001.tar").unlink()


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_damage_masks_the_rows_it_touches_names_them_and_changes_no_other(
    written, folder, damage, num_workers, caplog
):
    intact = take(make_stream(written), 5)
    damage(folder)
    stream = make_stream(folder, num_workers=num_workers)
    hurt = take(stream, 5)
    units = Shards.open(written).units("train", False, 1)
    masked = set()
    for before, after in zip(intact, hurt, strict=True):
        assert torch.equal(before["unit"], after["unit"]) and torch.equal(
            before["position"], after["position"]
        )
        assert torch.equal(after["clip_mask"][:, 0], after["valid"])
        if after["valid"].any():
            assert torch.equal(after["video"], before["video"][after["valid"]])
        masked |= {units.name(unit) for unit in after["unit"][~after["valid"]].tolist()}
    assert masked and all(name.startswith(("study2", "study3")) for name in masked)
    assert set(stream.damage.quarantine) == masked
    assert all("shard-000001.tar" in reason for reason in stream.damage.quarantine.values())
    assert all(name in caplog.text for name in masked)


def test_a_film_whose_checksum_is_right_but_whose_frames_are_broken_is_masked(tmp_path):
    record, [payload] = study_with("broken", [moving_film(1)], ENCODING)
    good = study_with("good", [moving_film(2)], ENCODING)
    folder = write_folder(tmp_path, [(record, [b"\0" * len(payload)]), good])
    stream = make_stream(folder, batch_size=2)
    [batch] = take(stream, 1)
    assert batch["valid"].sum() == 1
    assert list(stream.damage.quarantine) == ["broken.000"]
    assert "film broken-film0 of study broken" in stream.damage.quarantine["broken.000"]


def test_only_batches_that_were_handed_out_fill_the_quarantine(folder):
    remove(folder)
    stream = make_stream(folder, num_workers=2, batch_size=1)
    batches = iter(stream)
    next(batches)
    time.sleep(0.3)
    assert len(stream.damage.quarantine) <= 1


def test_a_state_is_plain_json_and_restores_position_and_quarantine(written, folder):
    remove(folder)
    stream = make_stream(folder)
    whole = take(stream, 9)
    again = make_stream(folder)
    take(again, 6)
    state = json.loads(json.dumps(again.state(24)))
    assert state["epoch"] == 1 and state["position"] == 24 and state["seed"] == 5
    assert state["fingerprint"] == Shards.open(folder).fingerprint
    resumed = make_stream(folder)
    resumed.restore(state)
    assert resumed.damage.quarantine == again.damage.quarantine and resumed.damage.quarantine
    assert_same(take(resumed, 3), whole[6:])


def test_a_state_of_other_data_or_another_seed_is_refused(folder):
    state = make_stream(folder).state(8)
    with pytest.raises(DataError, match="seed 5, this run has 6"):
        make_stream(folder, seed=6).restore(state)
    schema.write_splits(folder, [schema.SplitRow(f"study{number}", None, "train") for number in range(6)])
    with pytest.raises(DataError, match="fingerprint"):
        make_stream(folder).restore(state)


SIGNALLED = """
    import os, sys, time, signal
    from pathlib import Path
    import multiprocessing
    from tests.data.test_stream import make_stream

    batches = iter(make_stream(Path(sys.argv[1]), num_workers=2))
    next(batches), next(batches)  # one of each worker: both have begun
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    time.sleep(0.5)  # a worker that cannot bear them may die at leisure
    for _ in range(10):
        next(batches)
    assert all(worker.is_alive() for worker in workers)
    print(*(worker.pid for worker in workers))
"""


def test_workers_outlive_the_signals_of_a_preemption_and_end_with_their_parent(written):
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SIGNALLED), str(written)],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert result.returncode == 0, result.stderr
    for worker in result.stdout.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(worker), signal.SIG_DFL)


def test_leaving_a_stream_ends_its_workers(written):
    before = set(multiprocessing.active_children())
    batches = iter(make_stream(written, num_workers=2))
    next(batches)
    assert len(set(multiprocessing.active_children()) - before) == 2
    batches.close()
    deadline = time.monotonic() + 120  # torch waits 5 s for each; one may take longer on a busy machine
    while set(multiprocessing.active_children()) - before:
        assert time.monotonic() < deadline, "the workers outlive their stream"
        time.sleep(0.02)
