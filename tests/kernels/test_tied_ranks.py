"""The arithmetic of ties against its slow oracle: every order of the candidates, one by one."""

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcoro.kernels.tied_ranks import (
    TIE,
    Places,
    chance_places,
    film_places,
    nearest,
    permuted_hits,
    similarity_blocks,
    text_places,
)


def every_order(similarity: list[float], positive: list[bool]) -> list[int]:
    """Rank of the first positive in each order of the candidates that similarity allows."""
    ranks = []
    for order in itertools.permutations(range(len(similarity))):
        values = [similarity[column] for column in order]
        if values == sorted(values, reverse=True):
            ranks.append(1 + next(place for place, column in enumerate(order) if positive[column]))
    return ranks


def places_of(similarity: list[float], positive: list[bool]) -> Places:
    row, match = np.array(similarity), np.array(positive)
    best = row[match].max()
    counts = (row > best).sum(), (row == best).sum(), ((row == best) & match).sum()
    return Places(*(np.array([count], dtype=np.int64) for count in counts))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6), st.integers(1, 8))
def test_hits_and_ranks_are_the_mean_over_every_order_of_the_ties(candidates, k):
    similarity, positive = [float(value) for value, _ in candidates], [is_one for _, is_one in candidates]
    positive[0] = True
    ranks = every_order(similarity, positive)
    places = places_of(similarity, positive)
    assert places.hit_probability(k)[0] == pytest.approx(np.mean([rank <= k for rank in ranks]))
    assert places.expected_rank()[0] == pytest.approx(np.mean(ranks))
    assert places.expected_reciprocal_rank()[0] == pytest.approx(np.mean([1 / rank for rank in ranks]))


@pytest.mark.parametrize("k", [1, 3, 9, 10, 50])
def test_chance_is_the_hypergeometric_formula_also_past_the_number_of_candidates(k):
    num_positives = np.array([1, 2, 5, 10])
    expected = [1 - comb(10 - m, k) / comb(10, k) if k <= 10 else 1.0 for m in num_positives]
    np.testing.assert_allclose(chance_places(num_positives, 10).hit_probability(k), expected, atol=1e-12)


def test_places_count_what_stands_above_and_beside_the_best_positive():
    films = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.0, 1.0]], np.float32)
    texts = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    found = text_places(films, texts, np.array([1, 0, 1, 0]))
    assert (found.above.tolist(), found.tied.tolist(), found.tied_positives.tolist()) == (
        [1, 0],
        [2, 2],
        [1, 1],
    )
    found = film_places(films, texts, np.array([1, 0, 1, 0]))
    assert (found.above.tolist(), found.tied.tolist()) == ([1, 1, 0, 1], [1, 1, 1, 1])


def test_equal_columns_are_tied_wherever_they_stand_in_a_large_product():
    generator = np.random.default_rng(0)
    film = generator.normal(size=(1, 515)).astype(np.float32)
    texts = generator.normal(size=(37, 515)).astype(np.float32) * 0.03
    for _, block in similarity_blocks(texts, np.repeat(film, 1003, axis=0)):
        assert (block == block[:, :1]).all()


def test_noise_far_below_the_tie_width_does_not_order_films():
    film = np.array([[1.0, 0.0]], np.float32)
    texts = np.array([[1.0, 0.0], [1.0 - TIE / 10, 0.0]], np.float32)
    assert film_places(film, texts, np.array([1])).tied.tolist() == [2]


def test_blocks_give_the_same_places_as_one_product(monkeypatch):
    generator = np.random.default_rng(1)
    films, texts = generator.normal(size=(40, 4)), generator.normal(size=(11, 4))
    text_of_film = np.concatenate([np.arange(11), generator.integers(0, 11, 29)])
    whole = text_places(films, texts, text_of_film), film_places(films, texts, text_of_film)
    monkeypatch.setattr("deepcoro.kernels.tied_ranks._ELEMENTS_AT_ONCE", 120)
    for once, blocked in zip(
        whole, (text_places(films, texts, text_of_film), film_places(films, texts, text_of_film)), strict=True
    ):
        np.testing.assert_array_equal(once.above, blocked.above)
        np.testing.assert_array_equal(once.tied, blocked.tied)


@pytest.mark.parametrize("block_elements", [8_000_000, 90])
def test_permuted_hits_equal_a_search_that_is_run_again_for_each_permutation(monkeypatch, block_elements):
    monkeypatch.setattr("deepcoro.kernels.tied_ranks._ELEMENTS_AT_ONCE", block_elements)
    generator = np.random.default_rng(2)
    films = np.repeat(generator.normal(size=(10, 3)), 3, axis=0)  # copies, so that there are ties
    texts = generator.normal(size=(7, 3))
    text_of_film = np.concatenate([np.arange(7), generator.integers(0, 7, 23)])
    orders = np.stack([generator.permutation(30) for _ in range(5)])
    hits = permuted_hits(films, texts, text_of_film, (1, 5, 40), orders)
    for number, order in enumerate(orders):
        dealt = np.zeros(30, np.int64)
        dealt[order] = text_of_film
        again = text_places(films, texts, dealt)
        for row, k in enumerate((1, 5, 40)):
            np.testing.assert_allclose(hits[number, row], again.hit_probability(k), atol=1e-12)


def test_nearest_is_best_first_and_no_longer_than_the_candidates():
    texts = np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]], np.float32)
    rows, values = nearest(np.array([[1.0, 0.0]], np.float32), texts, 5)
    assert rows.tolist() == [[1, 2, 0]]
    np.testing.assert_allclose(values, [[1.0, 0.6, 0.0]], atol=TIE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_diverged_is_not_measured(value):
    films, texts = np.eye(3), np.eye(3)
    films[1, 2] = value
    for search in (text_places, film_places):
        with pytest.raises(ValueError, match="1 of 3 embeddings hold NaN"):
            search(films, texts, np.arange(3))
