"""Pairs differ by the lesion and by nothing else."""

import pytest
import torch

from deepcoro.angiography.film import render_film, vessel_thickness_mm
from deepcoro.angiography.folder import Recipe
from deepcoro.config import ConfigError
from deepcoro.explain.counterfactuals import Scored, is_visible, measure, pairs_of
from deepcoro.vessel_error import batch_of

RECIPE = Recipe("tiny", 0, 12, "avi")


@pytest.fixture(scope="module")
def pairs():
    return [pair for split in ("train", "val", "test") for pair in pairs_of(RECIPE, split, None, 70)]


def test_the_films_of_a_pair_differ_where_arteries_are_and_nowhere_else(pairs):
    for pair in pairs[:6]:
        one, other = render_film(pair.with_lesion), render_film(pair.without)
        changed = one.pixels != other.pixels
        arteries = (vessel_thickness_mm(pair.with_lesion) > 0) | (vessel_thickness_mm(pair.without) > 0)
        assert changed.any()
        assert not (changed & ~arteries).any()
        assert pair.lesion in [lesion for lesion, _ in pair.with_lesion.lesions]
        assert pair.lesion.segment not in [lesion.segment for lesion, _ in pair.without.lesions]


def test_most_lesions_of_plain_films_are_visible(pairs):
    seen = [
        is_visible(render_film(pair.with_lesion), render_film(pair.without), pair.lesion.segment)
        for pair in pairs[:8]
    ]
    assert sum(seen) >= 5


def test_a_film_without_a_change_shows_no_lesion(pairs):
    film = render_film(pairs[0].without)
    assert not is_visible(film, film, pairs[0].lesion.segment)


def test_a_vendor_films_the_same_scene(pairs):
    other, *_ = pairs_of(RECIPE, "train", "Borealis", 70)
    own, *_ = pairs_of(RECIPE, "train", None, 70)
    assert other.without.vendor.name == "Borealis"
    assert other.without.anatomy_seed == own.without.anatomy_seed
    with pytest.raises(ConfigError, match="Aster"):
        next(pairs_of(RECIPE, "train", "Nobody", 70))


def test_lesions_below_the_threshold_are_no_pairs():
    assert not list(pairs_of(RECIPE, "train", None, 101))


def test_a_pair_is_decisive_where_no_other_such_lesion_stays():
    pairs = list(pairs_of(Recipe("demo", 0, 12, "avi"), "train", None, 70))
    alone = [len(pair.with_lesion.lesions) == 1 for pair in pairs]
    assert [pair.is_decisive for pair in pairs] == alone  # every lesion of this preset is of 90 % or more
    assert any(alone)
    assert not all(alone)


def scored(
    number: int, rise: float, noise: float = 0.0, visible: bool = True, decisive: bool = False
) -> Scored:
    return Scored(f"p{number}", visible, decisive, 0.5 + rise, 0.5, 0.5 + noise)


def test_shares_count_rises_and_half_of_ties():
    numbers = measure([scored(0, 0.2), scored(1, 0.1), scored(2, -0.1), scored(3, 0.0)], num_samples=20)
    assert numbers["visible/share_raised"] == pytest.approx(2.5 / 4)
    assert numbers["visible/mean_rise"] == pytest.approx(0.05)
    assert numbers["visible/share_raised_by_noise"] == pytest.approx(0.5)
    assert numbers["visible/share_raised_ci_low"] <= 2.5 / 4 <= numbers["visible/share_raised_ci_high"]


def test_hidden_lesions_are_counted_apart():
    numbers = measure([scored(0, 0.2), scored(1, -0.3, visible=False)], num_samples=20)
    assert numbers["visible/share_raised"] == 1.0
    assert numbers["not_visible/share_raised"] == 0.0
    assert numbers["num_pairs"] == 2


def test_decisive_pairs_are_those_of_the_visible_ones_that_change_the_answer():
    rows = [
        scored(0, 0.2, decisive=True),
        scored(1, -0.1),
        scored(2, -0.3, visible=False, decisive=True),
    ]
    numbers = measure(rows, num_samples=20)
    assert numbers["decisive/num_pairs"] == 1
    assert numbers["decisive/share_raised"] == 1.0
    assert numbers["visible/share_raised"] == 0.5


def test_a_model_is_told_the_angles_from_which_each_scene_is_filmed(pairs):
    injections = [pair.without for pair in pairs[:3]]
    films = [torch.zeros(2, 8, 8, dtype=torch.uint8)] * 3
    views = batch_of(films, injections)["views"]
    assert views.shape == (3, 1, 2)
    expected = [[each.carm.primary_deg, each.carm.secondary_deg] for each in injections]
    assert views[:, 0].tolist() == [pytest.approx(each) for each in expected]
