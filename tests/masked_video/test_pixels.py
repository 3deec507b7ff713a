"""Clips cut into units and put together again, and units without their mean and contrast."""

import pytest
import torch

from deepcoro.features import MaskUnits
from deepcoro.masked_video.pixels import FLAT, cut, inside, normalise, put_together


def film(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("frames", "size_px", "grid"), [(4, 64, (2, 4, 4)), (3, 40, (2, 3, 3)), (1, 17, (1, 2, 2))]
)
def test_a_clip_cut_and_put_together_is_the_clip_in_grey(frames, size_px, grid):
    units = MaskUnits(grid, frames=2, size_px=16)
    video = film(2, 3, frames, size_px, size_px)
    pixels = cut(video, units)
    assert pixels.shape == (2, grid[0] * grid[1] * grid[2], 2 * 16 * 16)
    torch.testing.assert_close(put_together(pixels, units, frames, size_px), video.mean(1))
    assert inside(units, frames, size_px).sum() == frames * size_px**2


def test_a_unit_holds_the_pixels_of_its_place():
    units = MaskUnits((2, 4, 4), frames=2, size_px=16)
    video = film(1, 1, 4, 64, 64)
    unit = (1 * 4 + 2) * 4 + 3
    assert torch.equal(cut(video, units)[0, unit], video[0, 0, 2:4, 32:48, 48:64].flatten())


@pytest.mark.parametrize(("frames", "size_px"), [(4, 48), (3, 40)])
def test_normalised_units_have_mean_0_and_variance_1_over_the_pixels_of_the_clip(frames, size_px):
    units = MaskUnits((2, 3, 3), frames=2, size_px=16)
    is_inside = inside(units, frames, size_px)
    found = normalise(cut(3 + 5 * film(1, 1, frames, size_px, size_px), units), is_inside.float())
    for unit in range(18):
        own = found.normalised[0, unit][is_inside[unit]]
        assert own.mean().abs() < 1e-5
        assert own.square().mean() == pytest.approx(1, rel=1e-5)
    assert not found.is_flat.any()
    assert not found.normalised[0][~is_inside].any()


def test_a_flat_unit_is_told_and_its_noise_is_not_blown_up():
    pixels = torch.full((1, 1, 512), 7.0)
    pixels[..., ::2] += FLAT / 10
    found = normalise(pixels, torch.ones(1, 512))
    assert found.is_flat.all()
    assert found.normalised.abs().max() < 0.06
