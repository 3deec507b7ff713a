"""The Triton pooling against the oracle; on CPU run by test_triton_pooling.py in a process of its own under TRITON_INTERPRET=1."""

import pytest
import torch
from torch import Tensor

from deepcoro.kernels import triton_pooling, triton_sparse_pooling, triton_unit_tables
from deepcoro.kernels.pool_layout import PoolFilter, PoolLayout, PoolPlan
from deepcoro.kernels.token_pooling import PoolPart, pool_projection, pool_tokens
from deepcoro.mvit.layout import VisibleUnits
from tests.kernels.pooling_cases import Case, make_tokens, random_positions

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

CASES = [
    Case((1, 5, 4), 1, heads=2, dim=16),
    Case((2, 2, 3), 1, heads=1, dim=96),
    Case((1, 3, 4), 2, heads=1, dim=40, class_token=False),
    Case((1, 4, 5), 4, heads=2, dim=16),
    Case((1, 4, 7), 3, heads=1, dim=6, class_token=False),
    Case((3, 6, 6), 1, heads=2, dim=16, share_visible=0.5),
    Case((2, 8, 7), 2, heads=2, dim=20, share_visible=0.3),
    Case((2, 9, 9), 8, heads=1, dim=16, class_token=False, share_visible=0.4),
]
SMALL = Case((1, 3, 3), 1, heads=1, dim=16)
IN_HALF = [CASES[0], CASES[5]]
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def results(case: Case, backend: str, dtype: torch.dtype, width: int) -> list[Tensor]:
    layout = case.layout().to(DEVICE)
    tokens, pool_filter = make_tokens(case, layout)
    tokens = tokens.detach().to(DEVICE, dtype).requires_grad_()
    precise = torch.promote_types(dtype, torch.float32)
    pool_filter = PoolFilter(*(each.detach().to(DEVICE, precise).requires_grad_() for each in pool_filter))
    pooled = pool_tokens(tokens, pool_filter, layout, width=width, scale=0.3, eps=1e-3, backend=backend)
    gradient = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    gradient = gradient.to(DEVICE, pooled.dtype)
    return [pooled, *torch.autograd.grad(pooled, [tokens, *pool_filter], gradient)]


@pytest.fixture(autouse=True)
def few_programs_where_each_costs_the_interpreter_a_second(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setattr(triton_sparse_pooling, "ROWS", 128)
        monkeypatch.setattr(triton_sparse_pooling, "ROWS_OF_NORM", 64)
        monkeypatch.setattr(triton_sparse_pooling, "SHARES_OF_NORM", 2)
        monkeypatch.setattr(triton_sparse_pooling, "ROWS_OF_WEIGHT_GRADIENT", 32)
        monkeypatch.setattr(triton_sparse_pooling, "SHARES_OF_WEIGHT_GRADIENT", 4)
        monkeypatch.setattr(triton_pooling, "ROWS", 16)
        monkeypatch.setattr(triton_pooling, "ROWS_OF_NORM", 16)
        monkeypatch.setattr(triton_pooling, "SHARES_OF_NORM", 3)
        monkeypatch.setattr(triton_pooling, "SHARES_OF_WEIGHT_GRADIENT", 2)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, torch.float32) for case in CASES] + [(case, torch.bfloat16) for case in IN_HALF],
    ids=str,
)
def test_values_and_gradients_equal_the_oracle(case, dtype):
    width = case.dim + 24  # past the power of two that a program is wide
    expected = results(case, "conv3d", torch.float64, width)
    got = results(case, "triton", dtype, width)
    assert not got[0][..., case.dim :].any()
    for ours, oracle in zip(got, expected, strict=True):
        assert (ours - oracle).norm() / oracle.norm() < BOUNDS[dtype]


GROUPS_OF_FRAMES = {"FRAMES": 2}
TILES_THAT_DO_NOT_COME_OUT_EVEN = {
    "ROWS_OF_NORM": 4,
    "SHARES_OF_NORM": 2,
    "ROWS_OF_WEIGHT_GRADIENT": 4,
    "CELLS_OF_TOKEN_GRADIENT": 128,
}


@pytest.mark.parametrize("changes", [GROUPS_OF_FRAMES, TILES_THAT_DO_NOT_COME_OUT_EVEN], ids=str)
def test_parts_of_a_projection_that_share_a_launch_equal_the_oracle(changes, monkeypatch):
    for name, value in changes.items():
        monkeypatch.setattr(triton_pooling, name, value)
    layouts = [PoolLayout((3, 2, 5), stride, True) for stride in (1, 2, 2)]
    parts_equal_the_oracle(layouts)


def test_parts_of_visible_tokens_share_a_launch_and_equal_the_oracle():
    units = VisibleUnits((3, 1, 3), 2, torch.tensor([[1, 2, 4, 8]], device=DEVICE))
    positions = {side: units.positions(side) for side in (1, 2)}
    layouts = [
        PoolLayout((3, 2, 6), stride, True, positions[2], positions[2 // stride]) for stride in (1, 2, 2)
    ]
    plans = [PoolPlan(layout, 8, 1.0, 1e-6) for layout in layouts]
    assert triton_pooling._launches(plans) == [slice(0, 3)]
    parts_equal_the_oracle(layouts)


def parts_equal_the_oracle(layouts: list[PoolLayout]) -> None:
    num_tokens = layouts[0].num_class_tokens + layouts[0].num_patches_in
    generator = torch.Generator().manual_seed(0)
    sizes = ((8, 1, 3, 3, 3), (8,), (8,))
    drawn = [torch.randn(size, generator=generator) for size in sizes * 3]
    projected = torch.randn(1, num_tokens, 3, 1, 8, generator=generator)
    gradients = [torch.randn(1, each.num_tokens_out, 1, 24, generator=generator) for each in layouts]
    results = []
    for backend, dtype in (("conv3d", torch.float64), ("triton", torch.float32)):
        inputs = [each.to(DEVICE, dtype).requires_grad_() for each in (projected, *drawn)]
        filters = [PoolFilter(*inputs[1 + 3 * part : 4 + 3 * part]) for part in range(3)]
        ways = zip(filters, layouts, (24, 20, 8), (1.0, 0.3, 1.0), strict=True)
        pooled = pool_projection(inputs[0], [PoolPart(*way) for way in ways], backend=backend)
        given = [each[..., : out.shape[-1]].to(out) for each, out in zip(gradients, pooled, strict=True)]
        results.append([*pooled, *torch.autograd.grad(pooled, inputs, given)])
    for oracle, ours in zip(*results, strict=True):
        assert (ours - oracle).norm() / oracle.norm() < BOUNDS[torch.float32]


def test_no_clip_is_pooled_to_nothing():
    layout = SMALL.layout()
    tokens, pool_filter = make_tokens(SMALL, layout)
    tokens = tokens[:0].detach().float().to(DEVICE).requires_grad_()
    moved = PoolFilter(*(each.detach().float().to(DEVICE).requires_grad_() for each in pool_filter))
    pooled = pool_tokens(tokens, moved, layout, backend="triton")
    gradients = torch.autograd.grad(pooled.sum(), [tokens, *moved])
    assert pooled.shape == (0, 10, 1, 16)
    assert not any(each.any() for each in gradients)


def test_frozen_tokens_get_no_gradient_and_filters_the_same_to_the_last_bit():
    layout = SMALL.layout()
    tokens, pool_filter = make_tokens(SMALL, layout)
    tokens = tokens.detach().float().to(DEVICE)
    moved = PoolFilter(*(each.detach().float().to(DEVICE).requires_grad_() for each in pool_filter))
    pooled = pool_tokens(tokens, moved, layout, backend="triton")
    alone = torch.autograd.grad(pooled.sin().sum(), list(moved))
    tokens.requires_grad_()
    pooled = pool_tokens(tokens, moved, layout, backend="triton")
    _, *together = torch.autograd.grad(pooled.sin().sum(), [tokens, *moved])
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_positions_and_tables_of_visible_units_are_those_of_torch(stride):
    grid, side = (3, 2, 5), 4
    visible = random_positions(3, grid, 0.4).to(DEVICE)
    units = VisibleUnits(grid, side, visible)
    before, after = (triton_unit_tables.positions(units.rows, each).cpu() for each in (side, side // stride))
    on_host = VisibleUnits(grid, side, visible.cpu())
    assert torch.equal(before, on_host.positions(side))
    assert torch.equal(after, on_host.positions(side // stride))
    layout = PoolLayout(units.whole_grid(side), stride, True, before, after)
    sides = (side // stride, side)
    read = triton_unit_tables.table(units.rows, *sides, turned=False)
    assert torch.equal(read.cpu(), layout.neighbours)
    reading = triton_unit_tables.table(units.rows, *reversed(sides), turned=True)
    assert torch.equal(reading.cpu(), layout.readers)
