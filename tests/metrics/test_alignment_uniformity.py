"""Alignment and uniformity against the paper's PyTorch lines, and on spaces whose values are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deepcoro.metrics import alignment_uniformity
from tests.metrics.captions import captioned, unit_rows


def evaluated(seed: int = 0, num_films: int = 40, num_texts: int = 9):
    generator = np.random.default_rng(seed)
    data = captioned([f"report {film % num_texts}" for film in range(num_films)], [])
    own = np.where(np.arange(num_films) % 5 == 4, -1, data.text_of_film)
    return replace(
        data,
        films=unit_rows(generator.normal(size=(num_films, 6))),
        text_embeddings=unit_rows(generator.normal(size=(num_texts, 6))),
        text_of_film=own,
    )


def measured(data, **settings) -> dict[str, float]:
    numbers, notes = alignment_uniformity.Config(bootstrap_samples=50, **settings).build().measure(data)
    assert not notes
    return {key.removeprefix("alignment_uniformity/"): value for key, value in numbers.items()}


@pytest.mark.parametrize(("alpha", "t"), [(2.0, 2.0), (1.0, 3.0)])
def test_both_are_the_losses_of_the_paper(alpha, t, monkeypatch):
    monkeypatch.setattr(alignment_uniformity, "_ROWS_AT_ONCE", 7)
    data = evaluated()
    numbers = measured(data, alpha=alpha, t=t)
    films, texts = torch.tensor(data.films).double(), torch.tensor(data.text_embeddings).double()
    known = data.text_of_film >= 0
    pairs = films[known] - texts[data.text_of_film[known]]
    assert numbers["num_pairs"] == known.sum()
    assert numbers["alignment"] == pytest.approx(pairs.norm(dim=1).pow(alpha).mean().item(), rel=1e-9)
    for name, rows in (("films", films), ("texts", texts)):
        expected = torch.pdist(rows).pow(2).mul(-t).exp().mean().log().item()
        assert numbers[f"uniformity_{name}"] == pytest.approx(expected, rel=1e-5)
    assert numbers["alignment_ci_low"] < numbers["alignment"] < numbers["alignment_ci_high"]


def test_one_point_for_all_aligns_and_is_not_uniform():
    data = evaluated()
    one = replace(data, films=np.ones_like(data.films) / 6**0.5, text_embeddings=np.ones_like(data.text_embeddings) / 6**0.5)  # fmt: skip
    numbers = measured(one)
    assert numbers["alignment"] == pytest.approx(0, abs=1e-6) == numbers["alignment_shuffled"]
    assert numbers["uniformity_films"] == pytest.approx(0, abs=1e-6)


def test_opposite_points_are_two_apart():
    data = evaluated(num_films=2, num_texts=2)
    axis = np.array([[1.0, 0, 0, 0, 0, 0]], np.float32)
    numbers = measured(replace(data, films=np.concatenate([axis, -axis]), text_embeddings=np.concatenate([-axis, axis])))  # fmt: skip
    assert numbers["alignment"] == pytest.approx(4)
    assert numbers["uniformity_films"] == pytest.approx(-2 * 4)


def test_of_many_rows_a_part_is_drawn_and_a_lone_row_has_no_pair():
    assert measured(evaluated(), max_rows=10)["uniformity_films"] != measured(evaluated())["uniformity_films"]
    alone = measured(evaluated(num_films=1, num_texts=1))
    assert "uniformity_films" not in alone and alone["num_pairs"] == 1


def test_without_a_shared_space_there_is_nothing_to_measure():
    data = evaluated()
    assert measured(replace(data, text_embeddings=np.zeros((9, 0), np.float32))) == {}
