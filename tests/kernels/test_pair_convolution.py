import torch
import torch.nn.functional as F
from einops import rearrange

from deepcoro.kernels.grid import num_cells
from deepcoro.kernels.pair_convolution import PairConvolution, tap_pairs
from deepcoro.kernels.pool_layout import PoolLayout


def make_layout(stride):
    """Two clips that show 30 of 60 cells each, and every pooled cell whose centre is shown."""
    generator = torch.Generator().manual_seed(0)
    grid = (3, 4, 5)
    shown = [torch.randperm(60, generator=generator)[:30] for _ in range(2)]
    dense = PoolLayout(grid, stride)
    _, height, width = dense.grid_out
    cells = torch.arange(num_cells(dense.grid_out))
    frame, row, column = cells // (height * width), cells // width % height, cells % width
    centres = (frame * 4 + row * stride) * 5 + column * stride
    pooled = [cells[torch.isin(centres, kept)] for kept in shown]
    count = min(map(len, pooled))
    return PoolLayout(grid, stride, True, torch.stack(shown), torch.stack([each[:count] for each in pooled]))


def test_pairs_are_the_entries_of_the_table_and_no_row_occurs_twice_under_a_tap():
    layout = make_layout(2)
    taps = tap_pairs(layout.neighbours, num_inputs=30)
    assert len(taps) == 27
    for tap, (inputs, outputs) in enumerate(taps):
        column = layout.neighbours[..., tap]
        clip, output = outputs // column.shape[1], outputs % column.shape[1]
        assert torch.equal(column[clip, output] + 30 * clip, inputs)
        assert (column >= 0).sum() == len(outputs)
        assert len(inputs.unique()) == len(inputs)


def test_values_and_gradients_are_those_of_a_convolution_with_zeros_for_hidden_cells():
    torch.manual_seed(1)
    for stride in (1, 2, 4):
        layout = make_layout(stride)
        weight = torch.randn(6, 1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
        for clip in range(2):
            pairs = layout.pairs(slice(clip, clip + 1))
            rows = torch.randn(30, 6, dtype=torch.float64, requires_grad=True)
            film = torch.zeros(60, 6, dtype=torch.float64).index_copy(0, layout.positions_in[clip], rows)
            film = rearrange(film, "(t h w) c -> 1 c t h w", t=3, h=4)
            pooled = F.conv3d(film, weight, stride=(1, stride, stride), padding=1, groups=6)
            expected = rearrange(pooled, "1 c t h w -> (t h w) c")[layout.positions_out[clip]]
            convolution = PairConvolution(weight.detach())
            got = convolution.forward(rows.detach(), pairs, layout.num_patches_out)
            torch.testing.assert_close(got, expected.detach())
            gradient = torch.randn_like(expected)
            by_rows, by_weight = torch.autograd.grad(expected, (rows, weight), gradient)
            of_pairs = convolution.backward(gradient, rows.detach(), pairs, needs_rows=True)
            torch.testing.assert_close(of_pairs, (by_rows, by_weight))
            assert convolution.backward(gradient, rows.detach(), pairs, needs_rows=False)[0] is None


def test_half_precision_is_summed_in_fp32():
    torch.manual_seed(1)
    layout = make_layout(1)
    rows, weight = torch.randn(30, 6).bfloat16(), torch.randn(6, 1, 3, 3, 3).bfloat16()
    pairs = layout.pairs(slice(0, 1))
    got = PairConvolution(weight).forward(rows, pairs, layout.num_patches_out)
    exact = PairConvolution(weight.double()).forward(rows.double(), pairs, layout.num_patches_out)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)
