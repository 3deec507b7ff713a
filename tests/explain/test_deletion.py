"""Hiding what a model looks at lowers its score faster than hiding anything; a wrong map is found out."""

import numpy as np
import pytest
import torch

from deepcoro.explain.deletion import SHARES, Deletion, blurred, deletion, hide, summary
from tests.explain.planted import TARGET, Planted, batch_of


def film_with_spot() -> torch.Tensor:
    """Dark, with a small bright spot in two of four frames."""
    video = torch.full((1, 1, 4, 32, 32), 40, dtype=torch.uint8)
    video[:, :, 1:3, 8:12, 8:12] = 240
    return video


def weights_on_spot() -> torch.Tensor:
    weight = torch.zeros(4, 32, 32)
    weight[1:3, 8:12, 8:12] = 1.0
    return weight


def map_of_cells(weight: torch.Tensor) -> torch.Tensor:
    """Cells of 1 frame and 8 x 8 px."""
    return torch.nn.functional.avg_pool2d(weight, 8)[None]


def test_a_true_map_passes_and_its_opposite_fails():
    model, batch = Planted(weights_on_spot()).eval(), batch_of(film_with_spot())
    true = map_of_cells(weights_on_spot())
    right = deletion(model, batch, TARGET, true)
    wrong = deletion(model, batch, TARGET, -true)
    assert right.gain > 0 > wrong.gain
    assert right.by_map[0] < right.whole, "5 % of the cells are all of the spot"
    assert wrong.by_map[0] == pytest.approx(wrong.whole)
    assert right.whole == pytest.approx(TARGET.score(model, batch).item())


def test_scores_are_those_of_films_hidden_by_hand():
    model, video = Planted(weights_on_spot()).eval(), film_with_spot()
    found = map_of_cells(weights_on_spot())
    check = deletion(model, batch_of(video), TARGET, found)
    for share, score in zip(SHARES, check.by_map, strict=True):
        cells = torch.zeros(found.numel(), dtype=torch.bool)
        cells[found.flatten().argsort(descending=True, stable=True)[: round(share * 64)]] = True
        shown = video.clone()
        for cell in cells.nonzero().flatten().tolist():
            frame, row, column = np.unravel_index(cell, (4, 4, 4))
            part = (0, 0, frame, slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            shown[part] = blurred(video)[part]
        assert score == pytest.approx(TARGET.score(model, batch_of(shown)).item())


def test_hiding_everything_is_the_blurred_film_and_hiding_nothing_the_film():
    video = film_with_spot()
    for value in (True, False):
        cells = torch.full((1, 2, 4, 4), value)
        assert torch.equal(hide(video, blurred(video), cells), blurred(video) if value else video)


def test_blurring_keeps_the_mean_of_a_frame_and_takes_its_detail():
    video = torch.randint(0, 256, (1, 1, 3, 64, 64), dtype=torch.uint8)
    smooth = blurred(video).float()
    assert (smooth.mean(dim=(3, 4)) - video.float().mean(dim=(3, 4))).abs().max() < 3
    assert smooth.std() < 0.3 * video.float().std()


def test_films_of_a_study_are_hidden_together():
    model = Planted(weights_on_spot()).eval()
    batch = batch_of(torch.cat([film_with_spot(), film_with_spot()]))
    found = map_of_cells(weights_on_spot()).repeat(2, 1, 1, 1)
    assert deletion(model, batch, TARGET, found).gain > 0


def test_two_rows_at_once_are_refused():
    video = film_with_spot().repeat(2, 1, 1, 1, 1)
    batch = {"video": video, "clip_mask": torch.ones(2, 1, dtype=torch.bool)}
    with pytest.raises(ValueError, match="one row"):
        deletion(Planted(weights_on_spot()), batch, TARGET, torch.zeros(2, 1, 4, 4))


def test_the_summary_resamples_patients():
    checks = [Deletion(1.0, [0.2] * 5, [0.5 + 0.1 * (film % 2)] * 5) for film in range(12)]
    numbers = summary(checks, [f"p{film // 2}" for film in range(12)], num_samples=50)
    assert numbers["num_films"] == 12
    assert numbers["gain"] == pytest.approx(0.35)
    assert numbers["gain_ci_low"] == pytest.approx(0.35), "each patient has one film of either kind"
    assert numbers["share_above_random"] == 1.0
