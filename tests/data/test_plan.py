from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcoro.config import ConfigError
from deepcoro.data.order import Shuffled
from deepcoro.data.plan import (
    Plan,
    Row,
    chosen_clips,
    evaluation_rows,
    rows_from,
)

counts = st.integers(1, 60)
small = st.integers(1, 4)


@st.composite
def shardings(draw):
    """Shard of each unit, for some units over some shards, in stored order."""
    num_units = draw(counts)
    return np.sort(np.array(draw(st.lists(st.integers(0, 9), min_size=num_units, max_size=num_units))))


@given(
    shards=shardings(),
    seed=st.integers(0, 5),
    batch_size=small,
    accumulation=small,
    world_size=small,
    num_steps=st.integers(1, 12),
)
def test_ranks_and_micro_steps_share_out_consecutive_positions(
    shards, seed, batch_size, accumulation, world_size, num_steps
):
    plan = Plan(Shuffled(shards, seed), batch_size, accumulation, 0, world_size)
    rows = [
        row
        for step in range(num_steps)
        for micro_step in range(accumulation)
        for rank in range(world_size)
        for row in rows_from(replace(plan, rank=rank), step * plan.rows_per_step, micro_step)
    ]
    assert [row.position for row in rows] == list(range(num_steps * plan.rows_per_step))
    for epoch in range(len(rows) // len(shards)):
        whole = rows[epoch * len(shards) : (epoch + 1) * len(shards)]
        assert Counter(row.unit for row in whole) == Counter(range(len(shards)))
        assert {row.epoch for row in whole} == {epoch}


GLOBAL_BATCH = 12
LAYOUTS = [
    (b, a, w) for b in range(1, 13) for a in range(1, 13) for w in range(1, 13) if b * a * w == GLOBAL_BATCH
]


@given(
    shards=shardings(),
    before=st.sampled_from(LAYOUTS),
    after=st.sampled_from(LAYOUTS),
    stop=st.integers(0, 9),
)
def test_a_run_stopped_anywhere_goes_on_with_the_same_global_batches_in_another_layout(
    shards, before, after, stop
):
    def step_rows(layout, start_position, step):
        batch_size, accumulation, world_size = layout
        rows = []
        for rank in range(world_size):
            plan = Plan(Shuffled(shards, 3), batch_size, accumulation, rank, world_size)
            for micro_step in range(accumulation):
                rows += rows_from(plan, start_position, step * accumulation + micro_step)
        return sorted(rows, key=lambda row: row.position)

    uninterrupted = [step_rows(before, 0, step) for step in range(stop, stop + 3)]
    resumed = [step_rows(after, stop * GLOBAL_BATCH, step) for step in range(3)]
    assert resumed == uninterrupted


@given(shardings(), small, small, small, st.integers(0, 20), st.integers(0, 3))
def test_a_rank_going_on_from_a_position_takes_the_rows_of_that_step(
    shards, batch_size, accumulation, world, step, micro
):
    plan = Plan(Shuffled(shards, 1), batch_size, accumulation, world - 1, world)
    micro %= accumulation
    on = rows_from(plan, step * plan.rows_per_step, micro)
    first = ((step * accumulation + micro) * world + world - 1) * batch_size
    assert on == [plan.row(position) for position in range(first, first + batch_size)]


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 6))
def test_evaluation_takes_every_unit_once_with_equal_batches_on_all_ranks(num_units, batch_size, world_size):
    ranks = [evaluation_rows(num_units, batch_size, world_size, rank) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    assert len(ranks[0]) == -(-num_units // (batch_size * world_size))
    rows = [row for batches in ranks for batch in batches for row in batch]
    assert sorted(row.unit for row in rows if row.unit >= 0) == list(range(num_units))
    assert all(row == Row(-1, 0, -1) for row in rows if row.unit < 0)
    assert {len(batch) for batches in ranks for batch in batches} <= {batch_size}
    in_order = [
        row.unit for batch in zip(*ranks, strict=True) for part in batch for row in part if row.unit >= 0
    ]
    assert in_order == list(range(num_units))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000))
def test_clips_of_a_study_are_distinct_ascending_and_as_many_as_fit(num_clips, num_videos, seed):
    for draw in (None, np.random.default_rng(seed)):
        clips = chosen_clips(num_clips, num_videos, draw)
        assert len(clips) == min(num_clips, num_videos)
        assert list(clips) == sorted(set(clips))
        assert set(clips) <= set(range(num_clips))


def test_evaluation_spaces_the_clips_of_a_long_study_evenly():
    assert chosen_clips(9, 3, None) == (1, 4, 7)
    assert chosen_clips(10, 4, None) == (1, 3, 6, 8)


def test_training_shows_every_clip_of_a_long_study_over_many_draws():
    seen = {clip for seed in range(200) for clip in chosen_clips(12, 3, np.random.default_rng(seed))}
    assert seen == set(range(12))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"batch_size": 0}, ConfigError, "'batch_size' = 0"),
        ({"gradient_accumulation_steps": 0}, ConfigError, "'gradient_accumulation_steps' = 0"),
        ({"order": Shuffled(np.zeros(3, int), -1)}, ConfigError, "'seed' = -1"),
        ({"rank": 2, "world_size": 2}, ValueError, "rank 2 of 2"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(change, error, words):
    with pytest.raises(error, match=words):
        Plan(**{"order": Shuffled(np.zeros(3, int)), "batch_size": 2, **change})
