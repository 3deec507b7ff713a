"""The Triton maximum against torch's form; on CPU run by test_triton_max_pooling.py in a process of its own under TRITON_INTERPRET=1."""

import pytest
import torch
from torch import Tensor

from deepcoro.kernels import max_pooling, triton_max_pooling
from deepcoro.kernels.max_pooling import max_pool_tokens
from deepcoro.kernels.pool_layout import PoolLayout
from tests.kernels.pooling_cases import Case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

CASES = [
    Case((2, 5, 6), 2, dim=24),
    Case((2, 4, 3), 1, dim=5, class_token=False),
    Case((1, 7, 8), 3, dim=16),
    Case((2, 7, 6), 2, dim=24, share_visible=0.5),
    Case((2, 4, 4), 1, dim=16, class_token=False, share_visible=0.4),
]


def make_layout(case: Case) -> PoolLayout:
    """Each output's own cell is visible, as with mask units."""
    layout = case.layout()
    if not layout.is_sparse:
        return layout
    (_, height, width), (_, height_out, width_out) = layout.grid_in, layout.grid_out
    kept = layout.positions_out
    frame, row, column = kept // (height_out * width_out), kept // width_out % height_out, kept % width_out
    own = (frame * height + row * case.stride) * width + column * case.stride
    others = [[cell for cell in range(2 * height * width) if cell not in each][:9] for each in own.tolist()]
    positions = torch.cat((own, torch.tensor(others)), dim=1).sort(dim=1).values
    return PoolLayout(layout.grid_in, case.stride, case.class_token, positions, kept).to(DEVICE)


def make_tokens(layout: PoolLayout, case: Case, dtype: torch.dtype) -> Tensor:
    """Few values, so that most maxima are met twice; a strided view, as a stream may be."""
    generator = torch.Generator().manual_seed(0)
    size = (2, layout.num_class_tokens + layout.num_patches_in, case.dim + 8)
    tokens = torch.randint(-2, 2, size, generator=generator).to(DEVICE, dtype)
    return tokens[..., : case.dim].requires_grad_()


def results(
    tokens: Tensor, layout: PoolLayout, triton: bool, monkeypatch: pytest.MonkeyPatch
) -> list[Tensor]:
    monkeypatch.setattr(max_pooling, "takes_triton", lambda tensor: triton)
    pooled = max_pool_tokens(tokens, layout)
    gradient = torch.randint(-4, 4, pooled.shape, generator=torch.Generator().manual_seed(1))
    return [pooled, *torch.autograd.grad(pooled, tokens, gradient.to(DEVICE, pooled.dtype))]


@pytest.mark.parametrize(
    ("case", "dtype"), [(case, torch.float32) for case in CASES] + [(CASES[0], torch.bfloat16)], ids=str
)
def test_values_winners_and_gradients_are_those_of_torch_where_maxima_are_equal(case, dtype, monkeypatch):
    layout = make_layout(case)
    tokens = make_tokens(layout, case, dtype)
    expected = results(tokens, layout, False, monkeypatch)
    got = results(tokens, layout, True, monkeypatch)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])  # small integers: exact in any order


def test_a_nan_is_the_maximum_of_its_windows_as_in_torch(monkeypatch):
    case = CASES[0]
    layout = make_layout(case)
    tokens = make_tokens(layout, case, torch.float32).detach()
    tokens[:, 9, :7] = torch.nan
    tokens[:, 20, 3:9] = torch.inf
    tokens[:, 30:45, 10] = -torch.inf
    tokens.requires_grad_()
    expected, got = (results(tokens, layout, triton, monkeypatch) for triton in (False, True))
    assert expected[0].isnan().any()
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_programs_that_share_a_clip_write_every_row(monkeypatch):
    monkeypatch.setattr(triton_max_pooling, "TILE", 512)
    monkeypatch.setattr(triton_max_pooling, "WIDEST", 32)
    case = Case((1, 6, 6), 2, dim=64)
    layout = make_layout(case)
    tokens = make_tokens(layout, case, torch.float32)
    expected, got = (results(tokens, layout, triton, monkeypatch) for triton in (False, True))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, expected, strict=True))
