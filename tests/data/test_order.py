"""Orders are checked against what they promise, and mixtures against the slow way: counting from the first position on."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcoro.config import ConfigError, DataError
from deepcoro.data.balance import Rule, Samples, mixed, order_of
from deepcoro.data.order import BLOCK, Mixture, Shuffled, epoch_permutation, schedule, shares


@st.composite
def shardings(draw, most=60):
    """Shard of each unit, for some units over some shards, in stored order."""
    return np.sort(np.array(draw(st.lists(st.integers(0, 9), min_size=1, max_size=most))))


@given(shardings(), st.integers(0, 2**40), st.integers(0, 1000))
def test_an_epoch_holds_every_unit_exactly_once_for_any_sharding_and_seed(shards, seed, epoch):
    order = epoch_permutation(shards, seed, epoch, shards_per_window=2)
    assert sorted(order) == list(range(len(shards)))
    assert np.array_equal(order, epoch_permutation(shards, seed, epoch, shards_per_window=2))


@given(shardings(), st.integers(0, 50))
def test_an_epoch_reads_one_window_of_shards_after_another(shards, seed):
    visited = shards[epoch_permutation(shards, seed, 0, shards_per_window=2)]
    first_and_last = [np.flatnonzero(visited == shard)[[0, -1]] for shard in np.unique(visited)]
    open_shards = [
        sum(first <= place <= last for first, last in first_and_last) for place in range(len(visited))
    ]
    assert max(open_shards) <= 2


@given(shardings(), st.integers(0, 50), st.randoms())
def test_the_names_of_shards_and_gaps_between_them_do_not_matter(shards, seed, random):
    gaps = 3 * shards + 7
    assert np.array_equal(epoch_permutation(shards, seed, 1), epoch_permutation(gaps, seed, 1))
    places = list(range(len(shards)))
    random.shuffle(places)
    assert sorted(epoch_permutation(shards[places], seed, 1, 2)) == list(range(len(shards)))


def test_the_order_differs_between_epochs_seeds_and_streams_and_mixes_the_units_of_shards():
    shards = np.repeat(np.arange(4), 50)
    orders = [epoch_permutation(shards, seed, epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    orders.append(epoch_permutation(shards, 0, 0, stream=(0,)))
    assert len({tuple(order) for order in orders}) == 4
    assert len(set(shards[orders[0][:50]])) == 4


def test_an_order_keeps_two_epochs_only():
    order = Shuffled(np.zeros(2, int))
    for position in range(100):
        order.at(position)
    assert order.epoch_order.cache_info().currsize == 2


def test_an_order_of_nothing_is_refused():
    with pytest.raises(DataError, match="no sample"):
        Shuffled(np.zeros(0, int))


weights = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6)


@given(weights)
def test_a_block_holds_every_source_by_its_weight_to_one_draw(given_weights):
    counts = shares(given_weights)
    assert counts.sum() == BLOCK and counts.min() >= 1
    exact = BLOCK * np.array(given_weights) / sum(given_weights)
    assert (np.abs(counts - exact)[exact >= 1] <= len(given_weights)).all()


def test_weights_of_four_decimals_are_met_exactly():
    assert shares([0.7, 0.2999, 0.0001]).tolist() == [7000, 2999, 1]
    assert shares([7.0, 3.0]).tolist() == [7000, 3000]


@settings(max_examples=30)
@given(weights)
def test_at_no_place_is_a_source_far_from_its_share(given_weights):
    counts = shares(given_weights)
    turn, turns_before = schedule(counts)
    for part, count in enumerate(counts):
        own = turn == part
        drawn = np.cumsum(own)
        assert own.sum() == count
        assert np.array_equal(turns_before[own], np.arange(count))
        share = count / BLOCK
        ahead = np.abs(drawn - share * np.arange(1, BLOCK + 1))
        assert ahead.max() <= 0.5 + share * len(counts) / 2 + 1e-9


def make_mixture(sizes, given_weights, seed=3):
    """Sources with `sizes` units each, numbered one after another."""
    source = np.repeat(np.arange(len(sizes)), sizes)
    samples = Samples(shard=np.arange(len(source)) // 3)
    names = [f"source{number}" for number in range(len(sizes))]
    return mixed(samples, source, dict(zip(names, given_weights, strict=True)), Rule(seed=seed)), source


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 10)), min_size=1, max_size=4),
    st.integers(0, 3 * BLOCK),
)
def test_a_source_goes_through_whole_epochs_of_its_own_wherever_one_looks(sources, start):
    sizes, given_weights = zip(*sources, strict=True)
    mixture, source = make_mixture(sizes, given_weights)
    before = mixture.counters(start)
    drawn = [int(before[f"source{number}/drawn"]) for number in range(len(sizes))]
    for position in range(start, start + 60):
        epoch, unit = mixture.at(position)
        own = source[unit]
        assert epoch == drawn[own] // sizes[own]
        drawn[own] += 1
    after = mixture.counters(start + 60)
    assert [after[f"source{number}/drawn"] for number in range(len(sizes))] == drawn
    assert all(after[f"source{n}/epoch"] == pytest.approx(drawn[n] / sizes[n]) for n in range(len(sizes)))


def test_every_unit_of_a_source_comes_once_in_each_of_its_epochs():
    mixture, source = make_mixture([7, 20], [0.8, 0.2])
    seen = [[], []]
    for position in range(200):
        _, unit = mixture.at(position)
        seen[source[unit]].append(unit)
    assert (len(seen[0]), len(seen[1])) == (160, 40)
    for units, size in zip(seen, (7, 20), strict=True):
        passes = [units[start : start + size] for start in range(0, len(units) - size + 1, size)]
        assert all(len(set(each)) == size for each in passes)
        assert len({tuple(each) for each in passes}) == len(passes), "every pass has its own order"


@st.composite
def studies_of_clips(draw, least=1):
    counts = draw(st.lists(st.integers(1, 5), min_size=least, max_size=40))
    study = np.repeat(np.arange(len(counts)), counts)
    return Samples(shard=study // 4, study=study), np.array(counts)


def rounds(samples, apart=1, seed=0):
    return order_of(samples, Rule(seed=seed, balance="study", apart=apart, shards_per_window=2))


@settings(deadline=None)
@given(studies_of_clips(), st.integers(1, 20), st.integers(0, 3))
def test_balanced_studies_come_once_an_epoch_and_their_clips_in_turn(data, apart, seed):
    samples, counts = data
    order = rounds(samples, apart, seed)
    num_epochs = 2 * int(counts.max())
    shown = [order.at(position) for position in range(num_epochs * len(counts))]
    for epoch in range(num_epochs):
        units = [unit for number, unit in shown if number == epoch]
        assert sorted(samples.study[units]) == list(range(len(counts)))
    for study, count in enumerate(counts):
        own = [unit for _, unit in shown if samples.study[unit] == study]
        for start in range(0, len(own) - count + 1, count):
            assert len(set(own[start : start + count])) == count


@settings(deadline=None)
@given(studies_of_clips(least=6), st.integers(1, 14), st.integers(0, 3))
def test_no_study_comes_twice_within_a_global_batch_wherever_it_starts(data, apart, seed):
    samples, counts = data
    apart = min(apart, len(counts) // 3 + 1)
    order = rounds(samples, apart, seed)
    studies = [int(samples.study[order.at(position)[1]]) for position in range(6 * len(counts))]
    last: dict[int, int] = {}
    for position, study in enumerate(studies):
        assert position - last.get(study, -apart) >= apart
        last[study] = position


def test_without_balance_a_batch_holds_studies_twice_and_with_it_none():
    study = np.repeat(np.arange(60), 8)
    samples = Samples(shard=study // 10, study=study)
    plain = order_of(samples, Rule())
    for order, least, most in ((plain, 50, 480), (rounds(samples, apart=16), 0, 0)):
        batches = [[study[order.at(start + row)[1]] for row in range(16)] for start in range(0, 480, 16)]
        repeats = sum(len(batch) - len(set(batch)) for batch in batches)
        assert least <= repeats <= most


def labelled(counts):
    label = np.concatenate([np.full(count, number) for number, count in enumerate(counts)])
    return Samples(shard=np.arange(len(label)) // 5, label=np.random.default_rng(0).permutation(label))


@pytest.mark.parametrize(
    ("power", "expected"), [(0.0, [0.8, 0.15, 0.05]), (1.0, [1 / 3] * 3), (0.5, [0.5942, 0.2573, 0.1485])]
)
def test_classes_are_drawn_by_inverse_frequency_to_the_power(power, expected):
    samples = labelled([160, 30, 10])
    names = ("cto/0", "cto/1", "cto/not_assessed")
    order = order_of(samples, Rule(balance="label", power=power, classes=names))
    classes = Counter(int(samples.label[order.at(position)[1]]) for position in range(3000))
    assert [classes[number] / 3000 for number in range(3)] == pytest.approx(expected, abs=1e-3)
    counters = order.counters(3000)
    assert [counters[f"{name}/drawn"] for name in names] == [classes[number] for number in range(3)]
    assert counters["cto/1/epoch"] == pytest.approx(classes[1] / 30)
    assert order.num_units == 200


def test_the_units_of_a_class_come_equally_often_and_those_left_out_never():
    samples = labelled([40, 8])
    hidden = Samples(samples.shard, label=np.where(np.arange(48) % 6 == 0, -1, samples.label))
    order = order_of(hidden, Rule(balance="label", classes=("0", "1")))
    seen = Counter(order.at(position)[1] for position in range(1000))
    assert set(seen) == set(np.flatnonzero(hidden.label >= 0))
    for number in (0, 1):
        times = [seen[unit] for unit in np.flatnonzero(hidden.label == number)]
        assert max(times) - min(times) <= 1


@pytest.mark.parametrize("counts", [[5], [1] * 101])
def test_a_column_of_one_class_or_of_too_many_cannot_be_balanced(counts):
    with pytest.raises(ConfigError, match=f"{len(counts)} classes"):
        order_of(labelled(counts), Rule(balance="label", classes=[str(n) for n in range(len(counts))]))


def test_sources_are_balanced_each_by_itself():
    study = np.repeat(np.arange(30), 3)
    samples = Samples(shard=study // 5, study=study)
    order = mixed(samples, (study >= 20).astype(int), {"a": 1.0, "b": 3.0}, Rule(balance="study", apart=4))
    units = [order.at(position)[1] for position in range(80)]
    assert Counter(study[unit] >= 20 for unit in units) == {True: 60, False: 20}
    assert sorted(study[unit] for unit in units if study[unit] < 20) == list(range(20))


def test_two_mixtures_of_one_seed_differ_in_no_place_and_those_of_two_do():
    first, again, other = (make_mixture([9, 9], [1.0, 2.0], seed)[0] for seed in (1, 1, 2))
    drawn = [[order.at(position) for position in range(50)] for order in (first, again, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert isinstance(first, Mixture)


def test_consecutive_epochs_of_rounds_have_their_own_orders():
    samples = Samples(shard=np.arange(30) // 5, study=np.arange(30))
    order = rounds(samples, apart=4)
    epochs = [[order.at(30 * epoch + place)[1] for place in range(30)] for epoch in range(4)]
    assert all(one != other for one, other in pairwise(epochs))
