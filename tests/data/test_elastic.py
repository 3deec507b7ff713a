"""A run may stop anywhere and go on with other ranks, workers and accumulation: every sample still comes once an epoch.

First the plan by itself, for anything hypothesis thinks of; then real tars, loader workers and two processes that talk to each other.
"""

import contextlib
import json
import multiprocessing
import zlib
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcoro.data.balance import Rule, Samples, mixed, order_of
from deepcoro.data.collection import Collection
from deepcoro.data.config import Data
from deepcoro.data.manifest import Encoding
from deepcoro.data.plan import Plan, rows_from
from deepcoro.data.stream import EvaluationStream, TrainingStream
from deepcoro.data.training_order import training_order
from deepcoro.data.watch import Workers
from tests.data.folder import moving_film, study_with, write_folder
from tests.data.test_collection import make_site


def layouts(global_batch):
    """Rows a rank and micro-step, accumulation, ranks."""
    counts = range(1, global_batch + 1)
    return [(b, a, w) for b in counts for a in counts for w in counts if b * a * w == global_batch]


@st.composite
def runs(draw):
    """Films of some studies, over shards and sources, and a run that stops up to twice and goes on in another layout."""
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=14))
    study = np.repeat(np.arange(len(counts)), counts)
    source = np.sort(np.array(draw(st.lists(st.integers(0, 2), min_size=len(counts), max_size=len(counts)))))
    films_per_shard = draw(st.integers(1, 5))
    global_batch = draw(st.sampled_from([1, 2, 6, 12]))
    part = st.tuples(st.integers(0, 7), st.sampled_from(layouts(global_batch)))
    parts = draw(st.lists(part, min_size=1, max_size=3))
    rule = {"seed": draw(st.integers(0, 3)), "balance": draw(st.sampled_from(["none", "study"]))}
    return study, source[study], films_per_shard, draw(st.booleans()), rule | {"apart": global_batch}, parts


def make_order(samples, source, is_mixed, rule):
    if not is_mixed:
        return order_of(samples, rule)
    there, source = np.unique(source, return_inverse=True)
    return mixed(samples, source, {f"s{number}": 1.0 + number for number in there}, rule)


@settings(max_examples=120, deadline=None)
@given(runs())
def test_every_sample_comes_once_in_each_epoch_of_its_source_however_a_run_is_cut(run):
    study, source, films_per_shard, is_mixed, rule, parts = run
    samples = Samples(shard=np.arange(len(study)) // films_per_shard, study=study)
    rule = Rule(shards_per_window=2, **rule)
    rows, position = [], 0
    for steps, (batch_size, accumulation, world_size) in parts:
        # Each part makes its orders anew, as a new process does.
        for rank in range(world_size):
            plan = Plan(
                make_order(samples, source, is_mixed, rule), batch_size, accumulation, rank, world_size
            )
            for micro_step in range(steps * accumulation):
                rows += rows_from(plan, position, micro_step)
        position += steps * plan.rows_per_step
    rows.sort(key=lambda row: row.position)
    assert [row.position for row in rows] == list(range(position)), "no position twice, none left out"
    unit_of = samples.study if rule.balance == "study" else np.arange(len(samples.shard))
    seen = Counter()
    for row in rows:
        group = int(source[row.unit]) if is_mixed else 0
        seen[group, row.epoch, int(unit_of[row.unit])] += 1
    assert not seen or max(seen.values()) == 1
    for group in {group for group, _, _ in seen}:
        mine = unit_of[source == group] if is_mixed else unit_of
        per_epoch = Counter(epoch for of, epoch, _ in seen if of == group)
        *whole, _ = [per_epoch[epoch] for epoch in range(max(per_epoch) + 1)]
        assert all(count == len(np.unique(mine)) for count in whole), "an epoch ended before all had come"


class FilmChecksum:
    """A field that reads the whole film and keeps its checksum: tells one film from another."""

    def decode(self, study, clip_indices, read_clip, draw):
        return study.clips[clip_indices[0]].clip, zlib.crc32(read_clip(clip_indices[0])), float(draw.random())

    def collate(self, values, num_videos):
        return {"film": values}


class FilmName:
    """For evaluation, where nothing is drawn."""

    def decode(self, study, clip_indices, read_clip, draw):
        return study.clips[clip_indices[0]].clip

    def collate(self, values, num_videos):
        return {"film": values}


GLOBAL_BATCH = 4


def fork_workers():
    """As a launched rank does; these ranks are spawned and would spawn their workers, each of which imports torch anew."""
    multiprocessing.set_start_method("fork", force=True)


def part_of_run(rank, keys, state, steps, batch_size, num_workers):
    """One rank's films of some steps from a state on, and the state then; ranks meet after every step."""
    fork_workers()
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    data = Data(**keys)
    shards = Collection.open(data)
    units = shards.units("train", False, 1)
    accumulation = GLOBAL_BATCH // (batch_size * world_size)
    order = training_order(shards, units, data, 5, GLOBAL_BATCH)
    plan = Plan(order, batch_size, accumulation, rank, world_size)
    stream = TrainingStream(shards, units, {"film": FilmChecksum()}, plan, Workers(num_workers))
    if state is not None:
        stream.restore(json.loads(state))
    start, films = stream.start_position, []
    with contextlib.closing(iter(stream)) as batches:
        for batch in islice(batches, steps * accumulation):
            films += zip(batch["position"].tolist(), batch["film"], strict=True)
            if dist.is_initialized():
                dist.all_reduce(torch.ones(1))
    return films, json.dumps(stream.state(start + steps * GLOBAL_BATCH))


def cut_run(two_ranks, keys, parts):
    """Films by position of a run over (ranks, rows a rank, workers, steps), each part a fresh start from the state of the last."""
    films, state = [], None
    for ranks, batch_size, num_workers, steps in parts:
        arguments = (keys, state, steps, batch_size, num_workers)
        done = two_ranks.run(part_of_run, *arguments) if ranks == 2 else [part_of_run(0, *arguments)]
        assert len({each_state for _, each_state in done}) == 1, "ranks agree on the position"
        state = done[0][1]
        films += [film for own, _ in done for film in own]
    assert len(state) < 500, "the state does not grow with data or steps"
    return dict(films)


PARTS = [(2, 1, 3, 3), (1, 2, 0, 2), (2, 2, 1, 4), (1, 4, 0, 3)]
FOLDERS = {"one shard": 99, "two shards": 3, "a shard a study": 1}


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request, tmp_path_factory):
    """17 films of 6 studies."""
    counts = [1, 3, 2, 5, 2, 4]
    studies = [
        study_with(
            f"study{number}",
            [moving_film(number * 7 + clip) for clip in range(count)],
            Encoding(),
            f"p{number}",
        )
        for number, count in enumerate(counts)
    ]
    return write_folder(tmp_path_factory.mktemp("elastic"), studies, FOLDERS[request.param])


def test_two_processes_and_any_workers_read_each_film_once_an_epoch_over_three_stops(folder, two_ranks):
    keys = {"shards": folder}
    films = cut_run(two_ranks, keys, PARTS)
    uninterrupted = dict(part_of_run(0, keys, None, 12, 4, 0)[0])
    assert films == uninterrupted and sorted(films) == list(range(48))
    for epoch in range(2):
        names = [films[position][0] for position in range(17 * epoch, 17 * epoch + 17)]
        assert len(set(names)) == 17
        assert len({films[position][1] for position in range(17 * epoch, 17 * epoch + 17)}) == 17


@pytest.mark.parametrize("balance", [{}, {"balance": "study"}, {"balance": "label", "balance_by": "cto"}])
def test_a_cut_run_over_weighted_sources_is_the_uninterrupted_one(two_ranks, tmp_path, balance):
    north = make_site(tmp_path / "north", "n", ["a", "b", "c", "d"], ["train"] * 4)
    south = make_site(tmp_path / "south", "s", ["e", "f", "g"], ["train"] * 3)
    sources = {"north": {"shards": north, "weight": 2}, "south": {"shards": south, "weight": 1}}
    keys = {"sources": sources, "where": "num_frames < 7", **balance}
    if balance.get("balance_by"):
        keys["sources"] = {name: {"shards": each["shards"]} for name, each in sources.items()}
    films = cut_run(two_ranks, keys, PARTS)
    assert films == dict(part_of_run(0, keys, None, 12, 4, 0)[0]) and len(films) == 48
    if not balance.get("balance_by"):
        assert sum(name.startswith("n") for name, _, _ in films.values()) == 32


def evaluated_on_rank(rank, folder, batch_size, num_workers):
    fork_workers()
    shards = Collection.open(Data(shards=folder))
    units = shards.units("train", False, 1)
    stream = EvaluationStream(shards, units, {"film": FilmName()}, batch_size, rank, 2, Workers(num_workers))
    names, total = [], torch.zeros(1)
    for batch in stream:
        names += [film for film in batch["film"] if film is not None]
        total += 1
        dist.all_reduce(torch.ones(1))  # hangs unless every rank has as many batches
    dist.all_reduce(total)
    return names, float(total)


def test_evaluation_ends_on_both_ranks_at_once_with_each_film_once(folder, two_ranks):
    for batch_size, num_workers in ((1, 0), (4, 3), (16, 0)):
        (one, total), (other, same) = two_ranks.run(evaluated_on_rank, folder, batch_size, num_workers)
        assert len(one + other) == len(set(one + other)) == 17
        assert total == same == 2 * -(-17 // (2 * batch_size))
