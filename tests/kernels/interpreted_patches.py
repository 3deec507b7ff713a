"""The embedding by gathered rows against the convolution; on CPU run by test_patch_embedding.py in a process of its own under
TRITON_INTERPRET=1."""

import pytest
import torch
from torch import Tensor

from deepcoro.kernels import patch_embedding, triton_patches
from deepcoro.kernels.grid import Grid, strided
from deepcoro.mvit import embedding
from deepcoro.mvit.embedding import PatchEmbedding
from deepcoro.mvit.layout import VisibleUnits

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

SIZES = [(4, 32, 32), (3, 18, 21), (1, 9, 40)]
VISIBLE = torch.tensor([[0, 3], [1, 2], [2, 3]])
BOUNDS = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


def make_film(size: Grid, channels: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)


def results(film: Tensor, dtype: torch.dtype, units: VisibleUnits | None) -> list[Tensor]:
    frames, height, width = film.shape[2:]
    torch.manual_seed(1)
    module = PatchEmbedding(6, strided(((frames - 1) // 2 + 1, height, width), 4)).to(DEVICE, dtype)
    tokens = module(film.to(dtype), units)
    gradient = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    return [tokens, *torch.autograd.grad(tokens, [module.weight, module.bias], gradient.to(DEVICE, dtype))]


@pytest.fixture(autouse=True)
def all_formats_but_the_oracles_go_by_rows(monkeypatch):
    monkeypatch.setattr(embedding, "takes_triton", lambda tensor: tensor.dtype != torch.float64)
    if DEVICE == "cpu":  # few programs where each costs the interpreter a second
        monkeypatch.setattr(triton_patches, "ROWS", 128)


def assert_as_convolution(film: Tensor, units: VisibleUnits | None = None) -> None:
    expected = results(film, torch.float64, units)
    got = results(film, film.dtype, units)
    for ours, oracle in zip(got, expected, strict=True):
        assert ours.isfinite().all()
        assert (ours - oracle).norm() / oracle.norm() < BOUNDS[film.dtype]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_all_patches_are_those_of_the_convolution(size):
    assert_as_convolution(make_film(size, 3, torch.float32))


def test_in_half_precision_and_for_grey_films_and_piece_by_piece_too(monkeypatch):
    assert_as_convolution(make_film(SIZES[0], 3, torch.bfloat16))
    monkeypatch.setattr(patch_embedding, "ROWS_BYTES", 2 * 2 * 64 * 168 * 4)
    assert_as_convolution(make_film(SIZES[0], 1, torch.float32))


@pytest.mark.parametrize(("size", "channels"), [((2, 32, 32), 3), ((1, 28, 25), 1)], ids=str)
def test_the_patches_of_visible_units_are_those_of_their_windows(size, channels):
    units = VisibleUnits((1, 2, 2), side=4, visible=VISIBLE.to(DEVICE))
    assert_as_convolution(make_film(size, channels, torch.float32), units)


def test_what_stands_in_hidden_pixels_changes_no_bit():
    units = VisibleUnits((1, 2, 2), side=4, visible=VISIBLE.to(DEVICE))
    film = make_film((2, 32, 32), 3, torch.float32)
    hidden = film.clone()
    hidden[0, :, :, :16, 16:] = torch.nan  # its unit 1
    hidden[2, :, :, :16] = torch.inf  # its units 0 and 1
    for clean, other in zip(*(results(each, torch.float32, units) for each in (film, hidden)), strict=True):
        assert torch.equal(clean, other)


def test_a_pixel_beside_the_filter_may_be_infinite():
    """The eighth pixel of a line is no part of the filter."""
    film = make_film((2, 12, 12), 3, torch.float32)
    film[0, 0, 0, 0, 4] = torch.inf
    tokens = results(film, torch.float32, None)[0]
    outside = torch.ones(3, 9, dtype=torch.bool, device=DEVICE)
    outside[0, 1] = False
    assert tokens[outside].isfinite().all()
    assert not tokens[~outside].isfinite().all()


def test_films_that_need_a_gradient_go_through_the_convolution():
    film = make_film((2, 12, 12), 3, torch.float32).requires_grad_()
    module = PatchEmbedding(6, (1, 3, 3)).to(DEVICE)
    (by_film,) = torch.autograd.grad(module(film).sin().sum(), film)
    assert by_film.count_nonzero() > 0.9 * by_film.numel() / 4
